"""Rows of a chunk by a key of each: missing values, cells of truncation, groups that are adapted to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rows_of_keys(keys: NDArray[Any]) -> Iterator[NDArray[np.intp]]:
    """Yield the numbers of the rows of each key, (n,), in order of the keys; the numbers increase."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for which in np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1):
        if len(which):
            yield which
