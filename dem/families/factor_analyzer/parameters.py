"""Parameters of factor analysers, what their whitened rows look like, and covariances that are never formed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array


@dataclass(frozen=True, eq=False)
class FactorParameters:
    """Parameters in the frame of the fit: x = μ + Λ(z − ν) + e with z ~ N(ν, RRᵀ) and e ~ N(0, Ψ).

    The density depends on ΛR alone; ν and R are there for the sake of EM, see `FactorAnalyzerComponent`.

    Attributes
    ----------
    means : ndarray of shape (n_components, n_features)
        μ.
    loadings : ndarray of shape (n_components, n_features, n_factors)
        Λ.
    noise : ndarray of shape (n_components, n_features)
        The diagonal of Ψ; all the same where there is but one variance, or one for all components.
    factor_means : ndarray of shape (n_components, n_factors)
        ν.
    factor_roots : ndarray of shape (n_components, n_factors, n_factors)
        R, lower-triangular.
    """

    means: Array
    loadings: Array
    noise: Array
    factor_means: Array
    factor_roots: Array

    @classmethod
    def plain(cls, means: Array, loadings: Array, noise: Array) -> FactorParameters:
        """Return parameters with factors z ~ N(0, I)."""
        n_components, _, n_factors = loadings.shape
        roots = np.broadcast_to(np.eye(n_factors), (n_components, n_factors, n_factors)).copy()
        return cls(means, loadings, noise, np.zeros((n_components, n_factors)), roots)

    @property
    def unit_loadings(self) -> Array:
        """ΛR: the loadings of factors u ~ N(0, I), z = ν + Ru."""
        return np.asarray(self.loadings @ self.factor_roots)

    @property
    def variances(self) -> Array:
        """The diagonals of the covariances, shape (n_components, n_features)."""
        return np.asarray(np.sum(self.unit_loadings**2, axis=2) + self.noise)

    def take(self, which: NDArray[np.intp]) -> FactorParameters:
        """Return those of some of the components."""
        arrays = (self.means, self.loadings, self.noise, self.factor_means, self.factor_roots)
        return FactorParameters(*(array[which] for array in arrays))


@dataclass(frozen=True, eq=False)
class Whitened:
    """The loadings in units of the noise, Ψ^−½ ΛR = B diag(s) Vᵀ, by their singular value decomposition.

    Given a row, w = Ψ^−½ (x − μ), the factors f = Vᵀu are independent: f ~ N(s / (1 + s²) Bᵀw, 1 / (1 + s²)).

    Attributes
    ----------
    basis : ndarray of shape (n_components, n_features, n_factors)
        B, with orthonormal columns.
    strengths : ndarray of shape (n_components, n_factors)
        s, decreasing.
    rotation : ndarray of shape (n_components, n_factors, n_factors)
        V.
    """

    basis: Array
    strengths: Array
    rotation: Array

    @classmethod
    def of(cls, parameters: FactorParameters) -> Whitened:
        """Return the decomposition at certain parameters."""
        scaled = parameters.unit_loadings / np.sqrt(parameters.noise)[:, :, np.newaxis]
        basis, strengths, rotation = np.linalg.svd(scaled, full_matrices=False)
        return cls(basis, strengths, rotation.swapaxes(1, 2))

    @property
    def log_determinants(self) -> Array:
        """Log|Σ| − log|Ψ|, shape (n_components,)."""
        return np.asarray(np.log1p(self.strengths**2).sum(axis=1))


def times(matrices: Array, vectors: Array) -> Array:
    """Return matrix · vector of each pair, (n_components, …)."""
    return np.asarray(np.matmul(matrices, vectors[:, :, np.newaxis])[:, :, 0])


def canonical(parameters: FactorParameters, scale: Array) -> Array:
    """Return loadings of independent unit factors, times a scale, turned so that ΛᵀΨ⁻¹Λ is diagonal and decreases.

    Then the factors are independent given a row too (Lawley and Maxwell 1971). Where the noise has one variance the
    loadings are the principal axes. Signs as `sklearn.decomposition` has them: the largest of each column is positive.
    """
    loadings = np.asarray(parameters.unit_loadings @ Whitened.of(parameters).rotation) * scale[:, np.newaxis]
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, np.newaxis], axis=1)
    return np.asarray(loadings * np.where(largest < 0.0, -1.0, 1.0))


def smooth(parameters: FactorParameters) -> Array:
    """Return loadings of independent unit factors in a rotation that is smooth in the parameters, and the same for all.

    The canonical one jumps where two factors are equally strong. This one makes as many fixed random projections of the
    features as there are factors lower-triangular, with a positive diagonal.
    """
    loadings = parameters.unit_loadings
    projections = np.random.default_rng(0).standard_normal((loadings.shape[2], loadings.shape[1]))
    turn, upper = np.linalg.qr((projections @ loadings).swapaxes(1, 2))
    signs = np.where(np.diagonal(upper, axis1=1, axis2=2) < 0.0, -1.0, 1.0)
    return np.asarray(loadings @ turn * signs[:, np.newaxis])


def divergence(parameters: FactorParameters, pairs: NDArray[np.intp]) -> Array:
    """Return ½ tr(ΣP′ + Σ′P) − d + ½ (μ − μ′)ᵀ(P + P′)(μ − μ′) of pairs, (n, 2), at a cost of d q² each."""
    white, loadings = Whitened.of(parameters), parameters.unit_loadings

    def one_way(a: int, b: int) -> float:
        """Return tr(Σ_a P_b) − d + (μ_a − μ_b)ᵀ P_b (μ_a − μ_b)."""
        scale = np.sqrt(parameters.noise[b])
        apart = np.column_stack([loadings[a], parameters.means[a] - parameters.means[b]]) / scale[:, np.newaxis]
        explained = white.strengths[b] ** 2 / (1.0 + white.strengths[b] ** 2)
        ratio = parameters.noise[a] / parameters.noise[b]
        found = np.sum(ratio - 1.0) - np.sum(explained * (ratio @ white.basis[b] ** 2))
        return float(found + np.sum(apart**2) - np.sum(explained[:, np.newaxis] * (white.basis[b].T @ apart) ** 2))

    return np.array([0.5 * (one_way(a, b) + one_way(b, a)) for a, b in pairs.tolist()])


def pooled(parameters: FactorParameters, weights: Array) -> tuple[Array, Array]:
    """Return loadings (d, q) and noise (d,) near the mean covariance by `weights`, whose diagonal they keep."""
    loadings = parameters.unit_loadings
    scale = np.sqrt(weights @ parameters.noise)[:, np.newaxis]
    sum_ = np.zeros_like(loadings[0])
    for weight, own in zip(weights, loadings, strict=True):
        if weight > 0.0:
            basis, strengths, _ = np.linalg.svd(np.hstack([sum_, np.sqrt(weight) * own / scale]), full_matrices=False)
            sum_ = basis[:, : sum_.shape[1]] * strengths[: sum_.shape[1]]
    sum_ = sum_ * scale
    return sum_, weights @ parameters.variances - np.sum(sum_**2, axis=1)
