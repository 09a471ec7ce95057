"""The search for the likeliest components of each row in a few cells: what is not a product of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from dem.native import compiled, inlined

# Groups of cells for each that is wanted, whose largest tell from where on a cell may be one.
_GROUPS = 4


def _nearest(scores: Any, n_nearest: Any, starts: Any, rows: Any) -> None:
    """Set the rows of each cell, from where it starts: those of whose `scores` its own is among the largest.

    Of equals the first cells count; a row with what is no number is in none.
    """
    n, n_cells = scores.shape
    n_groups = min(_GROUPS * n_nearest, n_cells)
    maxima, near, cells = np.empty(n_groups), np.empty(n_cells), np.empty(n_cells, np.intp)
    chosen = np.empty((n, n_nearest), np.intp)
    starts[:] = 0
    for i in range(n):
        maxima[:] = -np.inf
        is_number = True
        for first in range(0, n_cells, n_groups):
            for g in range(first, min(first + n_groups, n_cells)):
                score = scores[i, g]
                is_number &= not np.isnan(score)
                maxima[g - first] = score if score > maxima[g - first] else maxima[g - first]
        if not is_number:
            chosen[i, 0] = -1
            continue
        least, known = nth_largest(maxima, n_nearest), 0
        for g in range(n_cells):
            cells[known], near[known] = g, scores[i, g]
            known += scores[i, g] >= least
        least = nth_largest(near[:known], n_nearest)
        equal = n_nearest
        for c in range(known):
            equal -= scores[i, cells[c]] > least
        q = 0
        for c in range(known):
            g = cells[c]
            is_equal = scores[i, g] == least
            if scores[i, g] > least or (is_equal and equal > 0):
                equal -= is_equal
                chosen[i, q] = g
                q += 1
                starts[g + 1] += 1
    for g in range(n_cells):
        starts[g + 1] += starts[g]
    places = starts.copy()
    for i in range(n):
        for q in range(n_nearest if chosen[i, 0] >= 0 else 0):
            g = chosen[i, q]
            rows[places[g]] = i
            places[g] += 1


def _keep(
    products: Any, rows: Any, members: Any, x: Any, lengths: Any, table: Any,
    constants: Any, offsets: Any, errors: Any, values: Any, known: Any, lists: Any,
) -> None:  # fmt: skip
    """Put the members of a cell that are likelier than what the lists of its rows have in there.

    Of equals the first count. Products and offsets tell which may be, to `errors` times the `lengths` of the rows; then
    their densities are computed in the component's own frame.
    """
    d, m = table.shape[2], lists.shape[1]
    offset, error = offsets[members], errors[members]
    for p in range(len(rows)):
        i = rows[p]
        least, length, n = values[i, m - 1], lengths[i], known[i]
        for c in range(len(members)):
            if products[p, c] + offset[c] + error[c] * length < least:  # not where this is no number
                continue
            k = members[c]
            is_there = False
            for q in range(n):
                is_there = is_there or lists[i, q] == k
            if is_there:
                continue
            square = 0.0
            for j in range(d):
                y = (x[i, j] - table[k, 0, j]) * table[k, 1, j]
                square += y * y
            value = constants[k] - 0.5 * square
            if not value >= least or value == -np.inf or (n == m and value == least and k > lists[i, m - 1]):
                continue
            q = min(n, m - 1)
            n = q + 1
            while q > 0 and (values[i, q - 1] < value or (values[i, q - 1] == value and lists[i, q - 1] > k)):
                values[i, q], lists[i, q] = values[i, q - 1], lists[i, q - 1]
                q -= 1
            values[i, q], lists[i, q] = value, k
            least = values[i, m - 1]
        known[i] = n


def _fill(known: Any, n_components: Any, lists: Any) -> None:
    """Fill lists with the first components that are not there yet."""
    for i in range(len(lists)):
        n = known[i]
        for k in range(n_components):
            if n == lists.shape[1]:
                break
            is_there = False
            for q in range(known[i]):
                is_there = is_there or lists[i, q] == k
            if not is_there:
                lists[i, n] = k
                n += 1


@inlined()
def nth_largest(numbers: Any, n: int) -> Any:
    """Return the n-th largest of some numbers, which change their order."""
    low, high = 0, len(numbers) - 1
    while low < high:
        pivot = numbers[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while numbers[i] > pivot:
                i += 1
            while numbers[j] < pivot:
                j -= 1
            if i <= j:
                numbers[i], numbers[j] = numbers[j], numbers[i]
                i += 1
                j -= 1
        if n - 1 <= j:
            high = j
        elif n - 1 >= i:
            low = i
        else:
            break
    return numbers[n - 1]


class Loops:
    """The loops for lists of a type, compiled: `nearest`, `keep` and `fill`."""

    def __init__(self, lists: str) -> None:
        def given(kind: Any, n_axes: int) -> Any:
            return types.Array(kind, n_axes, "C", readonly=True)

        number, index = types.float64, types.intp
        found, places = types.Array(getattr(types, lists), 2, "C"), types.Array(index, 1, "C")
        matrix, vector, numbers = given(number, 2), given(number, 1), given(index, 1)
        self.nearest: Callable[..., None] = compiled(types.void(matrix, index, places, places))(_nearest)
        self.keep: Callable[..., None] = compiled(
            types.void(
                given(types.float32, 2), numbers, numbers, matrix, vector, given(number, 3), vector, vector, vector,
                types.Array(number, 2, "C"), places, found,
            ),
            reassociates=True,
        )(_keep)  # fmt: skip
        self.fill: Callable[..., None] = compiled(types.void(given(index, 1), index, found))(_fill)
