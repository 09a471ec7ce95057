"""Covariances λ D A Dᵀ of equal or varying volume λ, shape A and orientation D: mclust's fourteen models."""

from dem.families.gaussian.eigen.component import Aligned, Oriented, Structured
from dem.families.gaussian.eigen.structures import STRUCTURES, n_numbers, principal_axes

__all__ = ["STRUCTURES", "Aligned", "Oriented", "Structured", "n_numbers", "principal_axes"]
