"""The E-step of Gaussian components with independent features where each row has a list of components."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem import native
from dem.families.base import Array, RowBlock
from dem.families.expectation import normalise
from dem.families.gaussian.covariance import GaussianStatistics
from dem.families.gaussian.frame import Frame

# Rows at a time where there are no compiled loops.
_BLOCK_ROWS = 64


def sums_of(
    chunk: RowBlock,
    lists: NDArray[np.unsignedinteger],
    order: NDArray[np.intp],
    frame: Frame,
    table: Array,
    constants: Array,
    own: NDArray[np.bool_],
) -> tuple[Array, Array, GaussianStatistics]:
    """Return Σγ, the log-density of each row, and the moments, all in double precision.

    Parameters
    ----------
    chunk : RowBlock
    lists : ndarray of int, shape (n, n_candidates)
    order : ndarray of int, shape (n,)
        In which rows are added.
    frame : Frame
    table : ndarray of shape (n_components, 2, n_features)
        Means and 1/σ, in the frame.
    constants : ndarray of shape (n_components,)
        log(weight · density at the mean).
    own : ndarray of bool, shape (n_components,)
        Whose moments are those of the row in the component's own frame.
    """
    n, rows = len(lists), chunk.rows
    densities, counts, sums = np.empty(n), np.zeros(len(table)), np.zeros(table.shape)
    loop = None
    if native.pays(math.inf) and rows.dtype.name in {"float32", "float64"} and rows.dtype.isnative:
        loop = native.loaded(_compiled, rows.dtype.name, lists.dtype.name)
    if loop is not None:
        weights = np.empty(0) if chunk.weights is None else np.ascontiguousarray(chunk.weights, dtype=np.float64)
        inverse = 1.0 / frame.scale
        loop(rows, weights, order, lists, frame.origin, inverse, table, constants, own, densities, counts, sums)
    else:
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            for start in range(0, n, _BLOCK_ROWS):
                which = order[start : start + _BLOCK_ROWS]
                _add(chunk, which, lists, frame, table, constants, own, densities, counts, sums)
    return counts, densities, GaussianStatistics(sums[:, 0], sums[:, 1])


def _add(
    chunk: RowBlock,
    which: NDArray[np.intp],
    lists: NDArray[np.unsignedinteger],
    frame: Frame,
    table: Array,
    constants: Array,
    own: NDArray[np.bool_],
    densities: Array,
    counts: Array,
    sums: Array,
) -> None:
    """Add some rows, with NumPy alone."""
    x = ((chunk.rows[which] - frame.origin) / frame.scale)[:, np.newaxis]
    candidates = lists[which].astype(np.intp)
    y = (x - table[candidates, 0]) * table[candidates, 1]
    joint = (constants[candidates] - 0.5 * np.sum(y**2, axis=2)).T
    densities[which] = normalise(joint, joint.max(axis=0), None if chunk.weights is None else chunk.weights[which])
    y = np.where(own[candidates][:, :, np.newaxis], y, x)
    share = joint.T
    np.add.at(counts, candidates, share)
    np.add.at(sums, candidates, np.stack([y, y**2], axis=2) * share[:, :, np.newaxis, np.newaxis])


def _compiled(rows: str, lists: str) -> Any:
    from dem.native import listed  # noqa: PLC0415 - imports numba

    return listed.e_step(rows, lists)
