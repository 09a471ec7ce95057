"""Gaussian components whose covariances are matrices: rows with errors, limits and gaps, and what has collapsed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, EStepKernel, Kernel, RowBlock
from dem.families.gaps import rows_of_patterns
from dem.families.gaussian.component import FLOOR, GaussianComponent, knows_more
from dem.families.gaussian.covariance import GaussianParameters, GaussianStatistics
from dem.families.gaussian.deconvolution import DeconvolutionKernel
from dem.families.gaussian.marginal import MarginalKernel, Marginals, most_kept
from dem.families.workspace import kept_with
from dem.row_draws import RowDraws


def _errors(noise: NDArray[Any] | None, shape: tuple[int, ...], rng: RowDraws) -> Array:
    """Draw errors of rows, by their variances or covariances."""
    if noise is None:
        return np.zeros(shape)
    if noise.ndim == 2:
        return np.asarray(np.sqrt(noise) * rng.normal(size=shape))
    values, vectors = np.linalg.eigh(noise)
    return np.asarray(np.einsum("nij,nj->ni", vectors, np.sqrt(np.maximum(values, 0.0)) * rng.normal(size=shape)))


class MatrixCovariance(GaussianComponent):
    """What covariances that are matrices, (n_components, d, d) or (d, d), have in common."""

    knows = frozenset({"noise", "limits"})
    most_limits = 1.0

    def kernel_for(
        self, parameters: GaussianParameters, chunk: RowBlock, *, exact: bool = False
    ) -> Kernel[GaussianStatistics]:
        """Return the arithmetic for a chunk: that of extreme deconvolution where rows have errors or limits."""
        if not knows_more(chunk):
            return super().kernel_for(parameters, chunk, exact=exact)
        frame = self._frame(parameters.means.shape[1])
        return DeconvolutionKernel(parameters, frame, partial(self.from_own_frames, parameters))

    @abstractmethod
    def from_own_frames(
        self, parameters: GaussianParameters, first: Array, second: Array, counts: Array
    ) -> GaussianStatistics:
        """Return the statistics of an E-step from Σγy, Σγyyᵀ of each component in its own frame, and Σγ."""

    def marginals(
        self, parameters: GaussianParameters, rows: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.intp], EStepKernel[GaussianStatistics]]]:
        """Yield the rows of each pattern of missing values."""
        marginals = self._marginals(parameters)
        for missing, which in rows_of_patterns(np.isnan(rows)):
            yield which, MarginalKernel(marginals.of(missing), partial(self.from_own_frames, parameters))

    def most_patterns(self, parameters: GaussianParameters) -> float:
        """Return for how many patterns an E-step keeps the marginal distributions."""
        return most_kept(*parameters.means.shape)

    def conditional_means(self, parameters: GaussianParameters, rows: Array, k: int) -> Array:
        """Return rows with what is missing replaced by its regression on what is observed."""
        marginals, filled = self._marginals(parameters), np.array(rows, dtype=np.float64)
        for missing, which in rows_of_patterns(np.isnan(rows)):
            filled[which] = marginals.conditional_means(marginals.of(missing), filled[which], k)
        return filled

    def conditional_draws(
        self, parameters: GaussianParameters, rows: Array, labels: NDArray[np.int64], rng: RowDraws
    ) -> Array:
        """Return rows with what is missing drawn: a draw of the whole row, less what its own observed part predicts."""
        drawn: Array = self.sample(parameters, labels, rng.generator)
        known = np.where(np.isnan(rows), np.nan, drawn)
        for k in np.unique(labels):
            own = np.flatnonzero(labels == k)
            drawn[own] += self.conditional_means(parameters, rows[own], k) - self.conditional_means(
                parameters, known[own], k
            )
        return np.where(np.isnan(rows), drawn, rows)

    def _drawn_of(self, parameters: GaussianParameters, chunk: Any, k: int, rng: RowDraws) -> Array:
        """Return draws in one component: of whole rows with errors, less what their own observed part predicts."""
        drawn: Array = self.sample(parameters, np.full(len(chunk.rows), k), rng.generator)
        seen = np.where(np.isnan(chunk.rows), np.nan, drawn + _errors(chunk.noise, drawn.shape, rng))
        theirs = self.expected(parameters, replace(chunk, rows=seen, limits=None), k)
        return drawn + self.expected(parameters, chunk, k, rng) - theirs

    def spreads(self, parameters: GaussianParameters) -> Array:
        """Return the diagonals, of one matrix those of all."""
        return np.broadcast_to(
            self.variances(parameters.covariances, parameters.means.shape[1]), parameters.means.shape
        )

    def joint_divergence(
        self, of_features: Array, parameters: GaussianParameters, pairs: NDArray[np.intp], enough: float
    ) -> Array:
        """Return the divergence, which is at least that of each feature, where that is not enough."""
        found: Array = of_features.max(axis=1)
        (n, d), means = parameters.means.shape, parameters.means
        covariances = np.broadcast_to(parameters.covariances, (n, d, d))
        factors = np.broadcast_to(parameters.precisions_cholesky, (n, d, d))
        for place in np.flatnonzero(found <= enough):
            total = 0.0
            for k, other in (pairs[place], pairs[place][::-1]):
                away = (means[other] - means[k]) @ factors[k]
                total += np.sum(factors[k] * (covariances[other] @ factors[k])) + away @ away
            found[place] = 0.5 * total - d
        return found

    def rows_of_prior(self, dof: float, n_components: int, n_features: int) -> float:  # noqa: ARG002
        """Return ν + d + 1."""
        return dof + n_features + 1.0

    def possible(self, scatter: Array) -> Array:
        """Return the same without negative eigenvalues."""
        values, vectors = np.linalg.eigh(scatter)
        if not (values < 0.0).any():
            return scatter
        return np.asarray((vectors * np.maximum(values, 0.0)[..., np.newaxis, :]) @ vectors.swapaxes(-1, -2))

    def _marginals(self, parameters: GaussianParameters) -> Marginals:
        means = parameters.means
        shape = (len(means), means.shape[1], means.shape[1])
        return kept_with(
            parameters,
            (self, "marginals"),
            lambda: Marginals(
                means, np.broadcast_to(parameters.precisions_cholesky, shape), self._frame(means.shape[1])
            ),
        )

    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return U Uᵀ."""
        return np.asarray(precisions_cholesky @ precisions_cholesky.swapaxes(-1, -2))

    def variances(self, covariances: Array, n_features: int) -> Array:
        """Return the diagonals."""
        return np.diagonal(covariances, axis1=-2, axis2=-1).reshape(-1, n_features)

    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Rescale covariances (rows and columns) or precision factors (rows only)."""
        if power == 2:
            return array * scale[:, np.newaxis] * scale
        return np.asarray(array * scale[:, np.newaxis] ** float(power))

    def relative_ridge(self, parameters: GaussianParameters) -> Array:
        """Return the squared singular values of √ridge U."""
        return np.asarray(np.linalg.svd(self._scaled(parameters), compute_uv=False) ** 2)

    def collapsed(self, parameters: GaussianParameters) -> NDArray[np.bool_]:
        """Tell which have collapsed; most have not, by the sum of what would be the largest of d numbers."""
        if not np.any(np.sum(self._scaled(parameters) ** 2, axis=(-2, -1)) >= FLOOR):
            return np.zeros(len(parameters.means), dtype=bool)
        return super().collapsed(parameters)

    def _scaled(self, parameters: GaussianParameters) -> Array:
        return np.sqrt(self._ridge(parameters.means.shape[1]))[:, np.newaxis] * parameters.precisions_cholesky
