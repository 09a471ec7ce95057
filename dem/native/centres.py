"""The nearest centre of each row, and what k-means adds up: a call each for a chunk, without the interpreter's lock."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dem.native import compiled, inlined
from dem.native.centre_tiles import CENTRES, LANES, VECTORS, WIDTH, add_row, search, turn

# Bytes of centres, and of rows, that are gone through together: what the caches of a core hold beside one another.
CENTRE_BYTES, ROW_BYTES = 2**18, 2**17
# Rows whose squared distances are added before they join the total.
SUMMED = 1024
SINGLE, DOUBLE = LANES["float32"], LANES["float64"]

_ROWS = {kind: f"Array({kind}, 2, 'C', readonly=True)" for kind in LANES}
_GIVEN = "Array(float64, 1, 'C', readonly=True)"
_CENTRES, _SUMS = _ROWS["float64"], "float64[::1]"
_SEARCH = [
    f"{_ROWS[kind]}, {_GIVEN}, {_GIVEN}, {_CENTRES}, {kind}[::1], {places}[::1], int64[::1]"
    for kind, places in (("float64", "int64"), ("float32", "int32"))
]


@inlined()
def _panels(centres: Any, like: Any) -> Any:
    """Return the centres as `search` takes them, in the precision of `like`, and the largest of their norms.

    What fills the last panel is infinitely far.
    """
    n_centres, n_features = centres.shape
    panels = np.zeros((-(-n_centres // CENTRES), n_features + 1, CENTRES), like.dtype)
    panels[:, 0, :] = np.inf
    largest = 0.0
    for k in range(n_centres):
        panel, place = k // CENTRES, k % CENTRES
        norm = 0.0
        for j in range(n_features):
            norm += centres[k, j] * centres[k, j]
            panels[panel, 1 + j, place] = -centres[k, j]
        panels[panel, 0, place] = 0.5 * norm
        largest = max(largest, norm)
    return panels, math.sqrt(largest)


@inlined()
def _turn_tile(rows: Any, first: Any, origin: Any, inverse: Any, turned: Any, at: Any, lanes: Any) -> Any:
    """Write the rows of a tile, from `first` on, in the frame and the features first; the last row repeats."""
    n, d = rows.shape
    whole = d - d % WIDTH
    tile = VECTORS * lanes
    for begin in range(0, tile, lanes):
        for j in range(0, whole, WIDTH):
            turn(rows, first + begin, n - 1, d, j, origin, inverse, turned, at + j * tile + begin, tile)
    if whole < d:
        for i in range(tile):
            row = min(first + i, n - 1)
            for j in range(whole, d):
                turned[at + j * tile + i] = (rows[row, j] - origin[j]) * inverse[j]


@compiled([f"int64[::1]({arguments})" for arguments in _SEARCH])
def nearest(rows: Any, origin: Any, inverse: Any, centres: Any, like: Any, places: Any, labels: Any) -> Any:
    """Write the number of each row's nearest centre to `labels`, the first of equals.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
    origin, inverse : ndarray of shape (n_features,)
        What is subtracted from rows, and what they are multiplied by then.
    centres : ndarray of shape (n_centres, n_features)
        In the units that this gives.
    like, places : ndarray
        Empty; their types are those of the search: the one of the rows, and integers of as many bytes.
    labels : ndarray of int64, shape (n,)

    Returns
    -------
    ndarray of int64
        The rows whose two nearest centres differ by no more than what single precision may have changed: sums of
        d + 1 products of numbers that are each rounded to 2⁻²⁴.
    """
    n, d = rows.shape
    is_single = like.itemsize == 4
    lanes = SINGLE if is_single else DOUBLE
    tile = VECTORS * lanes
    panels, largest = _panels(centres, like)
    together = max(CENTRE_BYTES // ((d + 1) * CENTRES * like.itemsize), 1)
    n_tiles = max(ROW_BYTES // (tile * d * like.itemsize), 1)
    turned = np.empty(n_tiles * tile * d, like.dtype)
    best = np.empty(n_tiles * tile, like.dtype)
    second, squares = np.empty_like(best), np.empty_like(best)
    found = np.empty(n_tiles * tile, places.dtype)
    epsilons = (d + 5) * 2.0**-24
    error = 2.04 * epsilons / (1.0 - epsilons) if epsilons < 0.5 else math.inf
    # The last term is more than what underflows.
    bounds = np.array([error * largest, 0.5 * error * largest**2 + 1e-36]).astype(like.dtype)
    unsure = np.empty(n if is_single else 0, np.int64)
    n_unsure = 0
    for start in range(0, n, n_tiles * tile):
        used = min(n_tiles, -(-(n - start) // tile))
        for t in range(used):
            _turn_tile(rows, start + t * tile, origin, inverse, turned, t * tile * d, lanes)
        best[:] = np.inf
        second[:] = np.inf
        found[:] = 0
        for panel in range(0, len(panels), together):
            for t in range(used):
                stop = min(panel + together, len(panels))
                search(turned, t * tile * d, d, panels, panel, stop, best, second, found, t * tile)
        n_rows = min(used * tile, n - start)
        for i in range(n_rows):
            labels[start + i] = found[i]
        if is_single:
            squares[:] = 0.0
            for t in range(used):
                for j in range(d):
                    for i in range(tile):
                        number = turned[(t * d + j) * tile + i]
                        squares[t * tile + i] += number * number
            for i in range(n_rows):
                if not second[i] - best[i] > bounds[0] * math.sqrt(squares[i]) + bounds[1]:  # NaN among them
                    unsure[n_unsure] = start + i
                    n_unsure += 1
    return unsure[:n_unsure]


@compiled(
    [
        f"float64({rows}, {_GIVEN}, {_GIVEN}, {_CENTRES}, int64[::1], {_GIVEN}, {_SUMS}, {_SUMS}, float64[:, ::1])"
        for rows in _ROWS.values()
    ]
)
def add(
    rows: Any,
    origin: Any,
    inverse: Any,
    centres: Any,
    labels: Any,
    weights: Any,
    distances: Any,
    counts: Any,
    offsets: Any,
) -> Any:
    """Add what k-means needs of rows, each given to the centre of its label; return Σ weight · squared distance.

    Parameters
    ----------
    rows, origin, inverse, centres, labels
        As of `nearest`.
    weights : ndarray of shape (n,)
        How much each row counts; empty where that is 1.
    distances : ndarray of shape (n,)
        Receives the squared distances.
    counts, offsets : ndarray of shape (n_centres,) and (n_centres, n_features)
        To which Σ weight and Σ weight · (row − centre) are added.
    """
    n, d = rows.shape
    whole = d - d % WIDTH
    total = 0.0
    for start in range(0, n, SUMMED):
        part = 0.0
        for i in range(start, min(start + SUMMED, n)):
            k = labels[i]
            weight = weights[i] if len(weights) > 0 else 1.0
            distance = add_row(rows, i * d, origin, inverse, centres, offsets, k * d, weight, whole)
            for j in range(whole, d):
                offset = (rows[i, j] - origin[j]) * inverse[j] - centres[k, j]
                offsets[k, j] += weight * offset
                distance += offset * offset
            counts[k] += weight
            distances[i] = distance
            part += weight * distance
        total += part
    return total
