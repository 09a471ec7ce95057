"""Rows with gaps, for the tests of missing values."""

from __future__ import annotations

import numpy as np


def with_gaps(rows, share=0.2, seed=3):
    """Return rows with a share of the values missing, and one row without any."""
    gaps = np.random.default_rng(seed).random(rows.shape) < share
    gaps[7] = True
    return np.where(gaps, np.nan, rows)
