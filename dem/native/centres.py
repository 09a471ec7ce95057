"""The nearest centre of each row, and what k-means adds up: one call for a chunk, without the interpreter's lock."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dem.native import compiled, inlined
from dem.native.centre_tiles import CENTRES, LANES, VECTORS, WIDTH, add_row, lead, search, turn

# Bytes of centres, and of rows, that are gone through together: what the caches of a core hold beside one another.
CENTRE_BYTES, ROW_BYTES = 2**18, 2**17
SINGLE, DOUBLE = LANES["float32"], LANES["float64"]

_ROWS = {kind: f"Array({kind}, 2, 'C', readonly=True)" for kind in LANES}
_GIVEN = "Array(float64, 1, 'C', readonly=True)"
_CENTRES, _SUMS = _ROWS["float64"], "float64[::1]"
_FRAME = f"{_GIVEN}, {_GIVEN}, {_CENTRES}"
_RESULTS = f"int64[::1], {_GIVEN}, {_SUMS}, {_SUMS}, float64[:, ::1]"
_SIGNATURES = [
    f"Tuple((int64[::1], float64))({_ROWS[kind]}, {_FRAME}, {kind}[::1], {places}[::1], {_RESULTS})"
    for kind, places in (("float64", "int64"), ("float32", "int32"))
]


@inlined()
def _panels(centres: Any, shift: Any, like: Any) -> Any:
    """Return the centres, shifted, as `search` takes them in the precision of `like`, and the largest of their norms.

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
            coordinate = centres[k, j] + shift[j]
            norm += coordinate * coordinate
            panels[panel, 1 + j, place] = -coordinate
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


@compiled(_SIGNATURES)
def nearest(
    rows: Any,
    origin: Any,
    inverse: Any,
    centres: Any,
    like: Any,
    places: Any,
    labels: Any,
    weights: Any,
    distances: Any,
    counts: Any,
    offsets: Any,
) -> Any:
    """Find the nearest centre of each row, the first of equals, and add up what k-means needs of the rows.

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
        Receives the numbers of the centres.
    weights : ndarray of shape (n,)
        How much each row counts; empty where that is 1.
    distances : ndarray of shape (n,)
        Receives the squared distances; with this empty, only labels are found.
    counts, offsets : ndarray of shape (n_centres,) and (n_centres, n_features)
        To which Σ weight and Σ weight · (row − centre) are added.

    Returns
    -------
    ndarray of int64
        The rows whose two nearest centres differ by no more than what single precision may have changed: sums of
        d + 1 products of numbers that are each rounded to 2⁻²⁴. Their labels are to be found otherwise, and nothing of
        them was added.
    float
        Σ weight · distance.
    """
    n, d = rows.shape
    is_single = like.itemsize == 4
    lanes = SINGLE if is_single else DOUBLE
    whole = d - d % WIDTH
    tile = VECTORS * lanes
    # The search has an origin of its own, which is exact in its precision: so what is taken from rows is exact, too.
    own_origin, own_inverse = origin.astype(like.dtype), inverse.astype(like.dtype)
    panels, largest = _panels(centres, (origin - own_origin) * inverse, like)
    together = max(CENTRE_BYTES // ((d + 1) * CENTRES * like.itemsize), 1)
    n_tiles = max(ROW_BYTES // (tile * d * like.itemsize), 1)
    turned = np.empty(n_tiles * tile * d, like.dtype)
    best = np.empty(n_tiles * tile, like.dtype)
    second = np.empty_like(best)
    found = np.empty(n_tiles * tile, places.dtype)
    epsilons = (d + 8) * 2.0**-24
    error = 2.04 * epsilons / (1.0 - epsilons) if epsilons < 0.5 else math.inf
    for j in range(d):
        if not 1e-30 < inverse[j] < 1e30:  # it may have underflowed
            error = math.inf
    # The last term is more than what underflows.
    bounds = np.array([error * largest, 0.5 * error * largest**2 + 1e-36]).astype(like.dtype)
    unsure = np.empty(n if is_single else 0, np.int64)
    n_unsure, total = 0, 0.0
    for start in range(0, n, n_tiles * tile):
        used = min(n_tiles, -(-(n - start) // tile))
        for t in range(used):
            _turn_tile(rows, start + t * tile, own_origin, own_inverse, turned, t * tile * d, lanes)
        best[:] = np.inf
        second[:] = np.inf
        found[:] = 0
        for panel in range(0, len(panels), together):
            for t in range(used):
                stop = min(panel + together, len(panels))
                search(turned, t * tile * d, d, panels, panel, stop, best, second, found, t * tile)
        n_rows = min(used * tile, n - start)
        if is_single:
            for t in range(used):
                lead(turned, t * tile * d, d, best, second, t * tile, bounds[0], bounds[1])
        part = 0.0
        for i in range(n_rows):
            row, k = start + i, np.int64(found[i])
            if is_single and not second[i] > 0.0:  # NaN among them
                unsure[n_unsure] = row
                n_unsure += 1
                continue
            labels[row] = k
            if len(distances) > 0:
                weight = weights[row] if len(weights) > 0 else 1.0
                distance = add_row(rows, row * d, origin, inverse, centres, offsets, k * d, weight, whole)
                for j in range(whole, d):
                    offset = (rows[row, j] - origin[j]) * inverse[j] - centres[k, j]
                    offsets[k, j] += weight * offset
                    distance += offset * offset
                counts[k] += weight
                distances[row] = distance
                part += weight * distance
        total += part
    return unsure[:n_unsure], total
