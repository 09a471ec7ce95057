"""The rows of a sample that lie where rows are dense: where a start is sought when some rows are background."""

from __future__ import annotations

import numpy as np
import scipy.spatial
from numpy.typing import NDArray

from dem.families.base import Array

# Rows that are looked at, the neighbour whose distance tells how dense they lie, and the share that is kept.
MOST_ROWS, NEIGHBOUR, KEPT = 5000, 10, 0.85


def dense_rows(sample: Array, weights: Array | None, at_least: int) -> NDArray[np.intp]:
    """Return the numbers of rows of a sample (n, n_features) whose neighbours are near, `at_least` some, in order.

    As in the cleaning of Byers and Raftery (1998), by the distance to the tenth neighbour, with features in units of
    their standard deviations. A background that is dropped here comes back with EM, and so do the rims of clusters.
    A row of weight 2 is two rows; those of less than 1 are neighbours like others.
    """
    step = -(-len(sample) // max(MOST_ROWS, at_least))
    numbers = np.arange(0, len(sample), step)
    if len(numbers) <= at_least + NEIGHBOUR:
        return np.arange(len(sample))
    rows, counts = sample[numbers], np.ones(len(numbers)) if weights is None else weights[numbers]
    deviations = np.sqrt(np.average((rows - np.average(rows, axis=0, weights=counts)) ** 2, axis=0, weights=counts))
    rows = rows / np.where(deviations > 0.0, deviations, 1.0)
    distances, near = scipy.spatial.cKDTree(rows).query(rows, k=NEIGHBOUR + 1)
    reached = np.cumsum(counts[near], axis=1) >= NEIGHBOUR + 1
    distances = distances[np.arange(len(rows)), np.where(reached.any(axis=1), reached.argmax(axis=1), NEIGHBOUR)]
    order = np.argsort(distances, kind="stable")
    n_kept = int(np.searchsorted(np.cumsum(counts[order]), KEPT * counts.sum())) + 1
    farthest = distances[order[min(max(n_kept, at_least), len(rows)) - 1]]
    return np.asarray(numbers[distances <= farthest])  # of rows that are as far, all
