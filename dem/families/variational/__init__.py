"""Variational Bayes of Gaussian mixtures: a posterior of the parameters in the place of a point."""

from __future__ import annotations

from dem.families.variational.mixture import VariationalMixture
from dem.families.variational.normal_wishart import NormalWishart
from dem.families.variational.weights import WEIGHT_PRIORS, Dirichlet, StickBreaking, WeightPrior

__all__ = [
    "WEIGHT_PRIORS",
    "Dirichlet",
    "NormalWishart",
    "StickBreaking",
    "VariationalMixture",
    "WeightPrior",
]
