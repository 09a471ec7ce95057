"""Where EM of factor analysers begins: principal axes of the rows of each component, without a matrix of features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dem.families.base import NEGLIGIBLE, Array
from dem.families.factor_analyzer.parameters import FactorParameters
from dem.families.gaussian.covariance import slices, weighted_means

# Subspace iterations, and axes beside those that are wanted (Halko, Martinsson and Tropp 2011).
ITERATIONS, MORE_AXES = 5, 8
# A component counts so many rows of the covariance of all beside its own, which may be but one.
ROWS_OF_ALL = 1.0
# The least share of a variance that is left to the noise, and of the noise that an axis is longer than it.
LEAST_NOISE, LEAST_AXIS = 0.01, 0.05


def start(rows: Array, responsibilities: Array, n_factors: int, *, spherical: bool) -> FactorParameters:
    """Return parameters from rows (n, n_features) in the frame and their responsibilities (n, n_components)."""
    counts, means = weighted_means(rows, responsibilities)
    (everything,) = _analysed(_Scatter(rows, responsibilities.sum(axis=1)), n_factors, spherical=spherical)
    own = [everything]
    if len(counts) > 1:
        own = []
        for shares in responsibilities.T:
            (which,) = np.nonzero(shares > NEGLIGIBLE)
            scatter = _Scatter(rows, shares, which, beside=everything)
            own += _analysed(scatter, n_factors, spherical=spherical)
    loadings, noise = (np.array(parts) for parts in zip(*own, strict=True))
    return FactorParameters.plain(means, loadings, noise)


class _Scatter:
    """The covariance of weighted rows, by its diagonal and its products with a few vectors.

    It counts `ROWS_OF_ALL` of another covariance `beside`, ΛΛᵀ + Ψ, if that is given.
    """

    def __init__(
        self,
        rows: Array,
        weights: Array,
        which: NDArray[np.intp] | None = None,
        beside: tuple[Array, Array] | None = None,
    ) -> None:
        everything = which is None or 2 * len(which) > len(rows)
        self.rows, self.weights = (rows, weights) if everything else (rows[which], weights[which])
        total = self.weights.sum()
        self.mean = self.weights @ self.rows / max(total, NEGLIGIBLE)
        self.divisor = total if beside is None else total + ROWS_OF_ALL
        self.beside = beside
        squares = self._sum(lambda centred, own: own @ centred**2)
        self.variances = squares / self.divisor
        if beside is not None:
            loadings, noise = beside
            self.variances = self.variances + ROWS_OF_ALL / self.divisor * (np.sum(loadings**2, axis=1) + noise)

    def _sum(self, of: Callable[[Array, Array], Array]) -> Array:
        found: Array = np.zeros(())
        for where in slices(len(self.rows)):
            found = found + of(self.rows[where] - self.mean, self.weights[where])
        return found

    def times(self, vectors: Array) -> Array:
        """Return the product with vectors (n_features, m)."""
        product = self._sum(lambda centred, own: centred.T @ (own[:, np.newaxis] * (centred @ vectors)))
        if self.beside is not None:
            loadings, noise = self.beside
            product = product + ROWS_OF_ALL * (loadings @ (loadings.T @ vectors) + noise[:, np.newaxis] * vectors)
        return np.asarray(product / self.divisor)


def _analysed(scatter: _Scatter, n_factors: int, *, spherical: bool) -> list[tuple[Array, Array]]:
    """Return loadings (d, q) and noise (d,): probabilistic PCA, of the correlations unless `spherical`."""
    variances = scatter.variances
    d = len(variances)
    scale = np.ones(d) if spherical else np.sqrt(np.where(variances > 0.0, variances, 1.0))
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((d, min(n_factors + MORE_AXES, d)))
    for _ in range(ITERATIONS):
        basis, _ = np.linalg.qr(vectors)
        vectors = scatter.times(basis / scale[:, np.newaxis]) / scale[:, np.newaxis]
    inner = basis.T @ vectors
    values, turned = np.linalg.eigh(0.5 * (inner + inner.T))
    values, axes = values[: -n_factors - 1 : -1], basis @ turned[:, : -n_factors - 1 : -1]
    total = float(np.sum(variances / scale**2))
    noise = max(total - float(values.sum()), LEAST_NOISE * total) / max(d - n_factors, 1)
    loadings = scale[:, np.newaxis] * axes * np.sqrt(np.maximum(values - noise, LEAST_AXIS * noise))
    if spherical:
        return [(loadings, np.full(d, noise))]
    explained = np.sum(loadings**2, axis=1)
    loadings *= np.sqrt(np.minimum(1.0, (1.0 - LEAST_NOISE) * variances / np.where(explained > 0.0, explained, 1.0)))[
        :, np.newaxis
    ]
    return [(loadings, variances - np.sum(loadings**2, axis=1))]
