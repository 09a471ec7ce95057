"""Mean and spread of each feature over all rows, in one read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from dem.data.base import Chunk
from dem.families.base import Array
from dem.statistics import Additive


@dataclass(frozen=True, eq=False)
class FeatureMoments(Additive):
    """Weight, mean and weighted sum of squares about it of the observed values of each feature, shape (n_features,).

    They add as those of Chan, Golub and LeVeque (1979), so that no origin is too far.
    """

    weights: Array
    means: Array
    squares: Array

    @classmethod
    def of(cls, chunk: Chunk) -> Self:
        """Return those of a chunk; what is not finite is left out."""
        rows = np.asarray(chunk.rows, dtype=np.float64)
        observed = np.isfinite(rows)
        weights = observed * (1.0 if chunk.weights is None else chunk.weights[:, np.newaxis])
        totals = weights.sum(axis=0)
        divisor = np.where(totals > 0.0, totals, 1.0)
        rows = np.where(observed, rows, 0.0)
        origin = np.sum(weights * rows, axis=0) / divisor
        centred = np.where(observed, rows - origin, 0.0)
        shift = np.sum(weights * centred, axis=0) / divisor  # removes the rounding of the first
        return cls(totals, origin + shift, np.sum(weights * (centred - shift) ** 2, axis=0))

    def __add__(self, other: Self) -> Self:
        weights = self.weights + other.weights
        share = other.weights / np.where(weights > 0.0, weights, 1.0)
        away = other.means - self.means
        squares = self.squares + other.squares + away**2 * self.weights * share
        return type(self)(weights, self.means + away * share, squares)
