"""Diagonal covariances where values are known to lie in intervals: what censoring leaves of a normal number.

Features are independent within a component, so that each such value has the probability of its interval as its density,
and the mean and variance within it as its moments; y = (x − μ)/σ. A NaN lies in (−∞, ∞).
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from dem.families.base import Array, RowBlock
from dem.families.gaussian.covariance import LOG_2PI, GaussianStatistics, block_rows
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.interval import drawn, truncated
from dem.families.workspace import fresh
from dem.row_draws import RowDraws


class CensoredKernel:
    """The E-step of diagonal covariances over rows with limits, in double precision.

    `factors` are 1/σ, shape (n_components, n_features) as the means, `own` as in `arithmetic.Plan`. With `rng` draws
    take the place of means of what is not known, for `CensoredBlock.means` alone.
    """

    trusted_above = -math.inf
    rng: RowDraws | None = None

    def __init__(self, means: Array, factors: Array, frame: Frame, own: NDArray[np.intp]) -> None:
        self.means, self.factors, self.frame = means, factors, frame
        self.is_own = np.isin(np.arange(len(means)), own)[:, np.newaxis]
        self.clear()

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        n_components, d = self.means.shape
        return block_rows(8 * n_components * (2 * d + 3))

    def clear(self) -> None:
        """Start the sums anew."""
        self.counts = np.zeros((len(self.means), 1))
        self.first, self.second = np.zeros_like(self.means), np.zeros_like(self.means)

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        return fresh(self, means=self.means[which], factors=self.factors[which], is_own=self.is_own[which])

    def block(self, chunk: RowBlock) -> CensoredBlock:
        """Return mean and variance of all y."""
        return CensoredBlock(self, chunk)

    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated, in the frames of the ordinary kernel: those of `own` are the components'."""
        moved, squares = self.first / self.factors, self.second / self.factors**2
        first = self.counts * self.means + moved
        second = squares + self.means * (first + moved)
        return GaussianStatistics(np.where(self.is_own, self.first, first), np.where(self.is_own, self.second, second))


class CensoredBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: CensoredKernel, chunk: RowBlock) -> None:
        self._kernel, frame = kernel, kernel.frame
        means, factors = kernel.means[:, :, np.newaxis], kernel.factors[:, :, np.newaxis]
        x = frame.apply(np.asarray(chunk.rows))
        missing = np.isnan(x)
        ends = np.full((*chunk.rows.shape, 2), np.nan) if chunk.limits is None else chunk.limits
        limited = ~np.isnan(ends[..., 0]).T
        known = ~(missing | limited)
        self._mean = np.where(known, (x - means) * factors, 0.0)
        self._variance = np.repeat(missing[np.newaxis].astype(np.float64), len(means), axis=0)
        self._density = -0.5 * np.einsum("kjn,kjn->kn", self._mean, self._mean)
        self._density += (np.log(kernel.factors) - 0.5 * LOG_2PI - np.log(frame.scale)) @ known
        share = None if kernel.rng is None else kernel.rng.random(chunk.rows.shape)
        for j in np.flatnonzero(limited.any(axis=1)):
            (which,) = np.nonzero(limited[j])
            lower, upper = (((ends[which, j].T - frame.origin[j]) / frame.scale[j])[:, np.newaxis] - means[:, j]) * (
                factors[:, j]
            )
            log_mass, self._mean[:, j, which], self._variance[:, j, which] = truncated(lower, upper)
            self._density[:, which] += log_mass
            if share is not None:
                self._mean[:, j, which] = drawn(lower, upper, share[which, j])
        if share is not None:
            self._mean += missing * ndtri(share).T

    def means(self) -> Array:
        """Return what is expected of the rows, in the user's units, (n_components, n, d)."""
        kernel, frame = self._kernel, self._kernel.frame
        means, factors = kernel.means[:, :, np.newaxis], kernel.factors[:, :, np.newaxis]
        return np.asarray((self._mean / factors + means).swapaxes(1, 2) * frame.scale + frame.origin)

    def log_density(self) -> Array:
        """Return the log-density of what is known and the log-probability of the limits, shape (n_components, n)."""
        density: Array = self._density
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows: nothing is to do, for their responsibilities are 0."""

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add Σγ, ΣγE[y] and ΣγE[y²]."""
        kernel = self._kernel
        kernel.counts += responsibilities.sum(axis=1, keepdims=True)
        kernel.first += np.einsum("kjn,kn->kj", self._mean, responsibilities)
        self._mean *= self._mean
        self._mean += self._variance
        kernel.second += np.einsum("kjn,kn->kj", self._mean, responsibilities)
