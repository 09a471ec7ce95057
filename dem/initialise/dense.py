"""The rows of a sample that lie where rows are dense: where a start is sought when some rows are background."""

from __future__ import annotations

import numpy as np
import scipy.spatial
from numpy.typing import NDArray

from dem.families.base import Array

# Rows that are looked at, the neighbour whose distance tells how dense they lie, and the share that is kept.
MOST_ROWS, NEIGHBOUR, KEPT = 5000, 10, 0.85


def dense_rows(sample: Array, at_least: int) -> NDArray[np.intp]:
    """Return the numbers of rows of a sample (n, n_features) whose neighbours are near, `at_least` some, in order.

    As in the cleaning of Byers and Raftery (1998), by the distance to the tenth neighbour, with features in units of
    their standard deviations. A background that is dropped here comes back with EM, and so do the rims of clusters.
    """
    step = -(-len(sample) // max(MOST_ROWS, at_least))
    numbers = np.arange(0, len(sample), step)
    if len(numbers) <= at_least + NEIGHBOUR:
        return np.arange(len(sample))
    rows = sample[numbers]
    deviations = rows.std(axis=0)
    rows = rows / np.where(deviations > 0.0, deviations, 1.0)
    distances = scipy.spatial.cKDTree(rows).query(rows, k=[NEIGHBOUR + 1])[0][:, 0]
    n_kept = max(int(np.ceil(KEPT * len(rows))), at_least)
    return np.sort(numbers[np.argsort(distances, kind="stable")[:n_kept]])
