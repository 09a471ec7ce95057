"""Gaussian components, by their type of covariance: those of scikit-learn, and mclust's names for all fourteen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from dem.families.gaussian.component import GaussianComponent
from dem.families.gaussian.covariance import GaussianParameters, GaussianStatistics
from dem.families.gaussian.diagonal import Diagonal, Spherical
from dem.families.gaussian.eigen import STRUCTURES, Aligned, Oriented
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.full import Full
from dem.families.gaussian.kernel import GaussianKernel
from dem.families.gaussian.tied import Tied

__all__ = [
    "COVARIANCE_TYPES",
    "Frame",
    "GaussianComponent",
    "GaussianKernel",
    "GaussianParameters",
    "GaussianStatistics",
    "Tied",
]

#: by scikit-learn's names and mclust's, of which E and V are for one feature
COVARIANCE_TYPES: Mapping[str, Callable[..., GaussianComponent]] = {
    "full": Full,
    "tied": Tied,
    "diag": Diagonal,
    "spherical": Spherical,
    "VVV": Full,
    "EEE": Tied,
    "VVI": Diagonal,
    "VII": Spherical,
    **{name: partial(Aligned if name.endswith("I") else Oriented, structure=name) for name in STRUCTURES},
    "E": partial(Aligned, structure="EII"),
    "V": Diagonal,
}
