"""Gaussian parameters as unconstrained vectors: means, and the Cholesky factor of the precision with log diagonal."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from dem.families.base import Array
from dem.families.gaussian.covariance import GaussianParameters
from dem.families.unconstrained import Vector


def unconstrain(parameters: GaussianParameters, covariance_type: str) -> Vector:
    """Return the unconstrained form of parameters of a covariance type."""
    means, factors = parameters.means, parameters.precisions_cholesky
    if covariance_type in ("diag", "spherical"):
        return Vector(np.hstack([means, np.log(factors).reshape(len(means), -1)]), np.empty(0))
    logged = np.array(factors)
    diagonal = np.arange(factors.shape[-1])
    logged[..., diagonal, diagonal] = np.log(factors[..., diagonal, diagonal])
    flat = logged[..., *np.triu_indices(factors.shape[-1])]
    return Vector(means, flat) if covariance_type == "tied" else Vector(np.hstack([means, flat]), np.empty(0))


def constrain(vector: Vector, covariance_type: str, n_features: int) -> GaussianParameters:
    """Return the parameters of which `vector` is the unconstrained form."""
    means, flat = vector.own[:, :n_features].copy(), vector.own[:, n_features:]
    if covariance_type in ("diag", "spherical"):
        factors = np.exp(flat if covariance_type == "diag" else flat[:, 0])
        return GaussianParameters(means, 1.0 / factors**2, factors)
    flat = vector.shared if covariance_type == "tied" else flat
    factors = np.zeros((*flat.shape[:-1], n_features, n_features))
    factors[..., *np.triu_indices(n_features)] = flat
    diagonal = np.arange(n_features)
    factors[..., diagonal, diagonal] = np.exp(factors[..., diagonal, diagonal])
    if covariance_type == "tied":
        return GaussianParameters(means, _covariance(factors), factors)
    return GaussianParameters(means, np.array([_covariance(factor) for factor in factors]), factors)


def _covariance(factor: Array) -> Array:
    """Return (U Uᵀ)⁻¹."""
    inverse = scipy.linalg.solve_triangular(factor, np.eye(len(factor)))
    return np.asarray(inverse.T @ inverse)
