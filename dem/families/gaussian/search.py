"""The likeliest components of each row, among the members of the cells that are the nearest to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem import native
from dem.families.base import Array, RowBlock
from dem.families.cells import MEMBERS, Cells
from dem.families.gaussian.frame import Frame

# Rows at a time, whose products with the members of a cell are made together, and their scores of all cells.
BLOCK_ROWS, BLOCK_SCORES = 4096, 2**21
# Components at a time where all are looked at.
TOGETHER = 64


def block_bytes(n_rows: int, n_features: int, n_components: int, n_candidates: int) -> int:
    """Return what `find` takes beside the lists: rows as it computes with them, scores, products, constants."""
    n_cells = -(-2 * n_components // MEMBERS)
    n = min(n_rows, BLOCK_ROWS, max(BLOCK_SCORES // n_cells, 1))
    # Rows and their squares in both precisions; scores and cells chosen of them; largest numbers; products.
    of_row = 8 * 6 * n_features + 2 * 8 * n_cells + 10 * n_candidates + 4 * TOGETHER
    return n * of_row + 12 * n_components * (2 * n_features + 4)


def find(
    chunk: RowBlock,
    found: NDArray[np.unsignedinteger],
    cells: Cells,
    n_nearest: int,
    frame: Frame,
    table: Array,
    constants: Array,
) -> None:
    """Fill `found` (n, n_candidates) with the components of largest log-joint density, the largest first.

    Parameters
    ----------
    chunk : RowBlock
    found : ndarray of int, shape (n, n_candidates)
    cells : Cells
    n_nearest : int
        How many cells of each row are looked at.
    frame, table, constants
        As `dem.families.gaussian.listed.sums_of` takes them.
    """
    looks_at_all = n_nearest >= len(cells.centres)
    members = cells.members(len(table))
    step = min(BLOCK_ROWS, max(BLOCK_SCORES // len(members), 1))
    slopes, levels = cells.discriminants
    loops = native.loaded(_compiled, found.dtype.name) if native.pays(math.inf) else None
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        weights, offsets, errors = _products(table, constants)
        for start in range(0, len(found), step):
            block = slice(start, min(start + step, len(found)))
            lists = found[block]
            x = (chunk.rows[block] - frame.origin) / frame.scale
            scores = x @ slopes + levels
            # First the members of the nearest cell: they leave few others that are likelier still.
            parts = _of_cells(scores, 1, members, loops)
            if looks_at_all:
                blocks, everyone = range(0, len(table), TOGETHER), np.arange(len(x))
                parts = chain(parts, ((np.arange(k, min(k + TOGETHER, len(table))), everyone) for k in blocks))
            else:
                parts = chain(parts, _of_cells(scores, n_nearest, members, loops))
            if loops is None:
                joint = np.full((len(x), len(table)), -np.inf)
                for which, here in parts:
                    for k in which:
                        y = (x[here] - table[k, 0]) * table[k, 1]
                        joint[here, k] = constants[k] - 0.5 * np.sum(y**2, axis=1)
                lists[...] = np.argsort(-joint, axis=1, kind="stable")[:, : lists.shape[1]]
                continue
            z = np.hstack([x, x**2]).astype(np.float32)
            lengths = np.sqrt(np.sum(z.astype(np.float64) ** 2, axis=1))
            values, known = np.full(lists.shape, -np.inf), np.zeros(len(lists), dtype=np.intp)
            for which, here in parts:
                products = (z if len(here) == len(z) else z[here]) @ weights[which].T
                loops.keep(products, here, which, x, lengths, table, constants, offsets, errors, values, known, lists)
            loops.fill(known, len(table), lists)


def _products(table: Array, constants: Array) -> tuple[NDArray[np.float32], Array, Array]:
    """Return by what [x, x²] is multiplied, what is added for the log-joint density, and bounds of the error.

    The products are made in single precision, which is wrong by no more than the bound times the length of [x, x²];
    what may be among the likeliest is then computed without them.
    """
    precisions = table[:, 1] ** 2
    weights = np.hstack([table[:, 0] * precisions, -0.5 * precisions])
    offsets = constants - 0.5 * np.sum(table[:, 0] ** 2 * precisions, axis=1)
    # Each factor is rounded, x² twice, and every sum of the products.
    errors = (weights.shape[1] + 8) * 2.0**-24 * np.sqrt(np.sum(weights**2, axis=1))
    return weights.astype(np.float32), offsets, errors


def _of_cells(
    scores: Array, n_nearest: int, members: list[NDArray[np.intp]], loops: Any
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the members of each cell, and the rows that have it among their nearest, if there are any."""
    n, n_cells = scores.shape
    if loops is not None:
        starts, rows = np.empty(n_cells + 1, np.intp), np.empty(n * n_nearest, np.intp)
        loops.nearest(scores, n_nearest, starts, rows)
    else:
        least = np.partition(scores, n_cells - n_nearest, axis=1)[:, [n_cells - n_nearest]]
        cells, rows = np.nonzero((scores >= least).T)
        starts = np.searchsorted(cells, np.arange(n_cells + 1))
    for cell in np.flatnonzero(np.diff(starts)):
        yield members[cell], rows[starts[cell] : starts[cell + 1]]


def _compiled(lists: str) -> Any:
    from dem.native import search  # noqa: PLC0415 - imports numba

    return search.Loops(lists)
