"""Gaussian components with full, tied, diagonal or spherical covariance."""

from __future__ import annotations

from collections.abc import Mapping

from dem.families.gaussian.component import GaussianComponent
from dem.families.gaussian.covariance import GaussianParameters, GaussianStatistics
from dem.families.gaussian.diagonal import Diagonal, Spherical
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
]

COVARIANCE_TYPES: Mapping[str, type[GaussianComponent]] = {
    "full": Full,
    "tied": Tied,
    "diag": Diagonal,
    "spherical": Spherical,
}
