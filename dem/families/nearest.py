"""The nearest centre of each row by compiled loops, where there are any and the chunk repays them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.workspace import Workspace
from dem.native import loaded, pays
from dem.sparse import is_sparse

# Rows whose labels and distances are held at once.
PIECE_ROWS = 2**16
# Rows that are converted at once, where they are of a type that the loops do not take.
CONVERTED_ROWS = 4096
# Features from which on a tile of rows is larger than the caches.
MOST_FEATURES = 2048


@dataclass(frozen=True, eq=False)
class Assignment:
    """What k-means needs of some rows: each belongs to its nearest centre.

    Attributes
    ----------
    labels : ndarray of int64, shape (n,)
    distances : ndarray of shape (n,)
        Squared, in the frame.
    total : float
        Σ weight · distance.
    counts : ndarray of shape (n_centres,)
        Σ weight.
    offsets : ndarray of shape (n_centres, n_features)
        Σ weight · (row − centre).
    """

    labels: NDArray[np.int64]
    distances: Array
    total: float
    counts: Array
    offsets: Array


def assigned(
    rows: NDArray[Any],
    weights: Array | None,
    centres: Array,
    origin: Array,
    inverse: Array | float,
    workspace: Workspace,
) -> Assignment | None:
    """Give each row to its nearest centre; None where NumPy is to do it.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
    weights : ndarray of shape (n,), optional
        How much each row counts.
    centres : ndarray of shape (n_centres, n_features)
    origin, inverse : ndarray of shape (n_features,)
        Distances are those of ``(rows - origin) * inverse``, to centres in the same frame.
    workspace : Workspace
        Of whom labels and distances are.
    """
    loops = _loops(rows, centres)
    if loops is None:
        return None
    n, total = len(rows), 0.0
    labels = workspace.array("labels", (n,), np.dtype(np.int64))
    distances = workspace.array("distances", (n,), np.dtype(np.float64))
    counts, offsets = np.zeros(len(centres)), np.zeros(centres.shape)
    weights = np.empty(0) if weights is None else _given(weights)
    frame = _frame(origin, inverse, centres)
    for where, part in _converted(rows):
        total += _search(loops, part, frame, labels[where], weights[where], distances[where], counts, offsets)
    return Assignment(labels, distances, total, counts, offsets)


def nearest(rows: NDArray[Any], centres: Array, origin: Array, inverse: Array | float) -> NDArray[np.int64] | None:
    """Return the nearest centre of each row, shape (n,); see `assigned`."""
    loops = _loops(rows, centres)
    if loops is None:
        return None
    labels, none = np.empty(len(rows), np.int64), np.empty(0)
    frame = _frame(origin, inverse, centres)
    for where, part in _converted(rows):
        _search(loops, part, frame, labels[where], none, none, none, np.empty((0, 0)))
    return labels


def _search(
    loops: Any,
    rows: NDArray[Any],
    frame: Sequence[Array],
    labels: NDArray[np.int64],
    weights: Array,
    distances: Array,
    counts: Array,
    offsets: Array,
) -> float:
    """Write labels and distances, add to counts and offsets, and return what is to be added to the total.

    Rows whose label single precision cannot tell are searched in double precision, so that all are what that says.
    """
    types = np.empty(0, rows.dtype), np.empty(0, f"i{rows.itemsize}")
    unsure, total = loops.nearest(rows, *frame, *types, labels, weights, distances, counts, offsets)
    if len(unsure):
        own, theirs = np.empty(len(unsure), np.int64), np.empty(min(len(distances), len(unsure)))
        again, counted = rows[unsure].astype(np.float64), weights[unsure] if len(weights) else weights
        total += _search(loops, again, frame, own, counted, theirs, counts, offsets)
        labels[unsure] = own
        if len(distances):
            distances[unsure] = theirs
    return float(total)


def _converted(rows: NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield pieces of rows in a type that the loops take, single precision where that is exact, and their places."""
    kind = np.float32 if np.can_cast(rows.dtype, np.float32) else np.float64
    step = len(rows) if rows.dtype == kind and rows.flags.c_contiguous else CONVERTED_ROWS
    for start in range(0, len(rows), step):
        where = slice(start, min(start + step, len(rows)))
        yield where, _given(rows[where], kind)


def _given(array: NDArray[Any], kind: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
    return np.require(array, kind, ["C_CONTIGUOUS", "ALIGNED"])


def _frame(origin: Array, inverse: Array | float, centres: Array) -> tuple[Array, Array, Array]:
    return _given(origin), _given(np.broadcast_to(inverse, origin.shape)), _given(centres)


def _loops(rows: NDArray[Any], centres: Array) -> Any:
    """Return the module of compiled loops if rows are to go through it, else None."""
    work = len(rows) * centres.size
    if work == 0 or is_sparse(rows) or centres.shape[1] > MOST_FEATURES or not pays(work):
        return None
    return loaded(_compiled)


def _compiled() -> Any:
    from dem.native import centres  # noqa: PLC0415 - compiles

    return centres
