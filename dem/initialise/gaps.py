"""Rows without missing values to start from: what starts compute with knows none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dem.families.base import Array, has_gaps
from dem.initialise.sample import RowSample


def complete_rows(sample: RowSample, n_enough: int) -> RowSample | None:
    """Return the rows of a sample that are complete; None if these are not `n_enough`, though there are others."""
    if not has_gaps(sample.rows):
        return sample
    (complete,) = np.nonzero(~np.isnan(sample.rows).any(axis=1))
    return replace(sample, chunk=sample.chunk.take(complete)) if len(complete) >= n_enough else None


def filled(sample: RowSample) -> RowSample:
    """Return a sample with the mean of its column in the place of each missing value."""
    rows = np.where(np.isnan(sample.rows), observed_means(sample.rows), sample.rows)
    return replace(sample, chunk=replace(sample.chunk, rows=rows), filled=True)


def observed_means(rows: Array) -> Array:
    """Return the mean of what is observed in each column, shape (n_features,)."""
    first = np.fmin.reduce(rows, axis=0)  # so that nothing of a column far from 0 is lost
    return np.asarray(first + np.nanmean(rows - first, axis=0))
