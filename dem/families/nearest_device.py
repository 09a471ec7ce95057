"""The nearest centre of each row where the rows lie on a device, and the sums of k-means there.

Sums are products with a matrix of zeros and ones, in double precision: atomic additions would bring other bits every
time. Single precision searches for centres where rows are short, and leaves rows that it cannot tell to double.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.nearest import Assignment
from dem.namespaces import here, to_host

# Bytes of the device's memory that a block may take.
BLOCK_BYTES = 2**28


def assigned(rows: Any, weights: Array | None, centres: Array, origin: Array, inverse: Array | float) -> Assignment:
    """Give each row to its nearest centre; see `dem.families.nearest.assigned`.

    Labels and distances stay on the device.
    """
    xp, (n_centres, d) = here(rows), centres.shape
    on_device, numbers = xp.asarray(centres), xp.arange(n_centres)
    sums = xp.zeros((n_centres, d + 2))
    labels, distances = [xp.empty(0, np.int64)], [xp.empty(0)]
    for where, part in _blocks(xp, rows, centres, origin, inverse):
        found = _nearest(xp, part, on_device, rows.dtype)
        z = xp.empty((len(part), d + 2))
        z[:, :d] = part - on_device.take(found, axis=0)
        z[:, d] = (z[:, :d] * z[:, :d]).sum(axis=1)
        z[:, d + 1] = 1.0
        labels.append(found)
        distances.append(z[:, d] + 0.0)  # not a view, which would hold all of z
        belongs = (found[:, np.newaxis] == numbers).astype(np.float64)
        if weights is not None:
            belongs *= xp.asarray(weights[where])[:, np.newaxis]
        sums += xp.matmul(belongs.T, z)
    offsets, of_distances, counts = np.split(to_host(sums), [d, d + 1], axis=1)
    return Assignment(
        xp.concatenate(labels), xp.concatenate(distances), float(of_distances.sum()), counts[:, 0], offsets
    )


def nearest(rows: Any, centres: Array, origin: Array, inverse: Array | float) -> NDArray[np.int64]:
    """Return the nearest centre of each row, shape (n,), NumPy's."""
    xp, labels = here(rows), np.empty(len(rows), np.int64)
    on_device = xp.asarray(centres)
    for where, part in _blocks(xp, rows, centres, origin, inverse):
        labels[where] = to_host(_nearest(xp, part, on_device, rows.dtype))
    return labels


def farthest(found: Assignment, most: int) -> NDArray[np.intp]:
    """Return the numbers of the rows that are farthest from their centres, at most so many, of equals the first."""
    xp: Any = here(found.distances)
    chosen: NDArray[np.intp] = to_host(xp.argsort(-found.distances)[:most])  # CuPy sorts stably
    return chosen


def _blocks(xp: Any, rows: Any, centres: Array, origin: Array, inverse: Array | float) -> Iterator[tuple[slice, Any]]:
    """Yield rows in the frame, float64, and their places."""
    n_centres, d = centres.shape
    origin, inverse = xp.asarray(origin), xp.asarray(inverse)
    step = max(BLOCK_BYTES // (8 * (3 * n_centres + 5 * d)), 1)
    for start in range(0, len(rows), step):
        where = slice(start, min(start + step, len(rows)))
        yield where, (rows[where].astype(np.float64) - origin) * inverse


def _nearest(xp: Any, rows: Any, centres: Any, dtype: np.dtype[Any]) -> Any:
    """Return the nearest centre of rows in the frame: that of the largest c·x − ½‖c‖²."""
    squares = (centres * centres).sum(axis=1)
    if dtype.kind != "f" or dtype.itemsize > 4:
        return (xp.matmul(rows, centres.T) - 0.5 * squares).argmax(axis=1)
    short = np.float32
    closeness = xp.matmul(rows.astype(short), centres.astype(short).T) - (0.5 * squares).astype(short)
    labels = closeness.argmax(axis=1)
    # A sum of d products is off by d roundings, of half an ε each, of its terms; and so are both sides of a comparison.
    room = (centres.shape[1] + 4) * float(np.finfo(short).eps)
    reach = xp.sqrt(squares.max())
    bound = room * (xp.sqrt((rows * rows).sum(axis=1)) * reach + reach * reach)
    near = closeness.astype(np.float64) >= (closeness.max(axis=1).astype(np.float64) - bound)[:, np.newaxis]
    unsure = xp.flatnonzero(near.sum(axis=1) != 1)  # 0 where numbers overflow
    if len(unsure):
        labels[unsure] = (xp.matmul(rows.take(unsure, axis=0), centres.T) - 0.5 * squares).argmax(axis=1)
    return labels
