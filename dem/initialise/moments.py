"""Mean and spread of each feature over all rows, in one read."""

from __future__ import annotations

import numpy as np

from dem.data.base import Chunk
from dem.statistics import CentralMoments


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
