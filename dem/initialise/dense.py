"""The rows of a sample that lie where rows are dense: where a start is sought when some rows are background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array

# Rows that are looked at; the weight that the neighbourhood of a row holds, of that of a component, which tells how
# dense rows lie there, and how many times as many rows that may take if they have weights; the share of all to keep.
MOST_ROWS, NEIGHBOURHOOD, MOST_NEIGHBOURS, KEPT = 5000, 0.05, 3, 0.85


def dense_rows(sample: Array, weights: Array | None, n_components: int) -> NDArray[np.intp]:
    """Return the numbers, in order, of rows of a sample whose neighbours are near: `n_components` at least.

    As in the cleaning of Byers and Raftery (1998), by the distance to a neighbour, with features in units of their
    standard deviations. A background that is dropped here comes back with EM, and so do the rims of clusters. A row of
    weight 2 is two rows.
    """
    from scipy.spatial import cKDTree  # noqa: PLC0415 - workers do without

    step = -(-len(sample) // max(MOST_ROWS, n_components))
    numbers = np.arange(0, len(sample), step)
    rows = sample[numbers]
    shares = np.ones(len(rows)) if weights is None else weights[numbers]
    shares = shares / shares.sum()
    deviations = np.sqrt(shares @ (rows - shares @ rows) ** 2)
    rows = rows / np.where(deviations > 0.0, deviations, 1.0)
    enough = NEIGHBOURHOOD / n_components
    times = 1 if weights is None else MOST_NEIGHBOURS
    n_neighbours = min(times * int(np.ceil(enough * len(rows))), len(rows))
    distances, near = cKDTree(rows).query(rows, k=range(1, n_neighbours + 1))
    reached = np.cumsum(shares[near], axis=1) >= enough * (1.0 - 1e-9)
    which = np.where(reached.any(axis=1), reached.argmax(axis=1), n_neighbours - 1)
    distances = distances[np.arange(len(rows)), which]
    order = np.argsort(distances, kind="stable")
    n_kept = int(np.searchsorted(np.cumsum(shares[order]), KEPT * (1.0 - 1e-9))) + 1
    farthest = distances[order[min(max(n_kept, n_components), len(rows)) - 1]]
    return np.asarray(numbers[distances <= farthest])  # of rows that are as far, all
