"""Means, spreads and covariances of the features over all rows, in one read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from dem.data.base import Chunk
from dem.families.base import Array
from dem.statistics import Additive, CentralMoments


def feature_moments(chunk: Chunk) -> CentralMoments:
    """Work: weight, mean and weighted sum of squares of the finite values of each feature, a group of its own."""
    rows = np.asarray(chunk.rows, dtype=np.float64)
    observed = np.isfinite(rows)
    weights = observed * (1.0 if chunk.weights is None else chunk.weights[:, np.newaxis])
    totals = weights.sum(axis=0)
    divisor = np.where(totals > 0.0, totals, 1.0)
    rows = np.where(observed, rows, 0.0)
    origin = np.sum(weights * rows, axis=0) / divisor
    centred = np.where(observed, rows - origin, 0.0)
    shift = np.sum(weights * centred, axis=0) / divisor  # removes the rounding of the first
    with np.errstate(over="ignore"):  # `dem.validation.check_spread` says so of the sample
        scatter = np.sum(weights * (centred - shift) ** 2, axis=0)
    return CentralMoments(totals, (origin + shift)[:, np.newaxis], scatter[:, np.newaxis])


@dataclass(frozen=True, eq=False)
class PairMoments(Additive):
    """Moments of each pair of features over the rows that have both: counts, means of the first, centred products.

    ``a + b`` joins two groups of rows, as `CentralMoments` do; nothing cancels, wherever the origin is.

    Attributes
    ----------
    counts, means, products : ndarray of shape (n_features, n_features)
        At i, j: Σ weight, the mean of feature i, and Σ weight · (x_i − its mean)(x_j − its mean).
    """

    counts: Array
    means: Array
    products: Array

    def __add__(self, other: Self) -> Self:
        counts = self.counts + other.counts
        share = other.counts / np.where(counts > 0.0, counts, 1.0)
        step = other.means - self.means
        products = self.products + other.products + self.counts * share * step * step.T
        return type(self)(counts, self.means + share * step, products)

    @classmethod
    def of(cls, chunk: Chunk) -> Self:
        """Work: the moments of the finite values of a chunk."""
        rows = np.asarray(chunk.rows, dtype=np.float64)
        observed = np.isfinite(rows)
        known = observed.astype(np.float64)
        weighted = known if chunk.weights is None else known * chunk.weights[:, np.newaxis]
        counts = weighted.T @ known
        divisor = np.where(counts > 0.0, counts, 1.0)
        rows = np.where(observed, rows, 0.0)
        origin = np.sum(weighted * rows, axis=0) / np.diagonal(divisor)
        rows = np.where(observed, rows - origin, 0.0)
        weighted = weighted * rows
        sums = weighted.T @ known
        products = weighted.T @ rows - sums * sums.T / divisor
        return cls(counts, np.where(counts > 0.0, origin[:, np.newaxis], 0.0) + sums / divisor, products)

    @property
    def features(self) -> CentralMoments:
        """Those of each feature by itself, as `feature_moments` has them."""
        own = (np.diagonal(one) for one in (self.counts, self.means, self.products))
        counts, means, scatter = own
        return CentralMoments(counts, means[:, np.newaxis], scatter[:, np.newaxis])

    @property
    def covariance(self) -> Array:
        """The covariance (with one row less, as of a sample), which is positive semi-definite whatever is missing.

        A row that lacks one of two features counts in their covariance as if it were at its mean.
        """
        counts, means = np.diagonal(self.counts), np.diagonal(self.means)
        away = self.means - means[:, np.newaxis]
        # Of weights that add up to next to nothing there is no row to be one less.
        root = np.sqrt(np.maximum(np.maximum(counts - 1.0, 0.5 * counts), np.finfo(np.float64).tiny))
        return np.asarray((self.products + self.counts * away * away.T) / np.outer(root, root))
