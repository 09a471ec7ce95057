"""Mixtures of Gaussians with independent features where each row has a list of components: one call per chunk.

numba's cache looks at this file alone: touch it after an edit of `elementary`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from dem.native import compiled, inlined
from dem.native.elementary import exponential, logarithm

# Responsibilities of less count for nothing: as `dem.families.base.NEGLIGIBLE`.
_NEGLIGIBLE = 1e-36
_LEAST = -600.0
_LOWEST = -1.7976931348623157e308
_ODD = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0x3C6EF372FE94F82A)
_SHIFT = np.uint64(29)


def _e_step(
    rows: Any, weights: Any, order: Any, lists: Any, origin: Any, inverse: Any,
    table: Any, constants: Any, own: Any, densities: Any, counts: Any, sums: Any,
) -> None:  # fmt: skip
    """Set the log-density of each row, and add responsibilities and moments, row by row in `order`.

    No array is cut to pieces in the loops over candidates, which would cost ten times as much as the arithmetic.
    """
    d, m = rows.shape[1], lists.shape[1]
    x, joint = np.empty(d), np.empty(m)
    for i in order:
        for j in range(d):
            x[j] = (rows[i, j] - origin[j]) * inverse[j]
        largest = -np.inf
        for c in range(m):
            k = np.intp(lists[i, c])
            square = 0.0
            for j in range(d):
                y = (x[j] - table[k, 0, j]) * table[k, 1, j]
                square += y * y
            value = constants[k] - 0.5 * square
            joint[c] = value
            largest = value if value > largest else largest
        total = _responsibilities(joint, largest)
        densities[i] = logarithm(total) + largest
        weight = (weights[i] if len(weights) else 1.0) / total
        for c in range(m):
            share = joint[c] * weight
            if share <= _NEGLIGIBLE:
                continue
            k = np.intp(lists[i, c])
            counts[k] += share
            if own[k]:
                for j in range(d):
                    y = (x[j] - table[k, 0, j]) * table[k, 1, j]
                    sums[k, 0, j] += share * y
                    sums[k, 1, j] += share * (y * y)
            else:
                for j in range(d):
                    sums[k, 0, j] += share * x[j]
                    sums[k, 1, j] += share * (x[j] * x[j])


@inlined(reassociates=True)
def _responsibilities(joint: Any, largest: float) -> float:
    """Turn log-joint densities into numbers that add up to what is returned."""
    shift = largest if largest > _LOWEST else _LOWEST
    for c in range(len(joint)):
        t = joint[c] - shift
        joint[c] = exponential(_LEAST if t < _LEAST else t)
    total = 0.0
    for c in range(len(joint)):
        total += joint[c]
    return total


def _keep_largest(joint: Any, maxima: Any, lists: Any) -> None:
    """Set the list of each column of `joint` to the rows of its largest numbers, the largest first.

    Of equals the first rows count. `maxima` is a workspace for the largest of groups of rows, at least as many groups
    as a list is long: as many numbers as that are not smaller than the m-th of them, and hardly more.
    """
    n_all, n = joint.shape
    n_groups, m = len(maxima), lists.shape[1]
    maxima[:] = -np.inf
    for k in range(n_all):
        row, most = joint[k], maxima[k % n_groups]
        for i in range(n):
            most[i] = row[i] if row[i] > most[i] else most[i]
    least, column = np.empty(n, joint.dtype), np.empty(n_groups, joint.dtype)
    for i in range(n):
        for g in range(n_groups):
            column[g] = maxima[g, i]
        least[i] = _nth_largest(column, m)
        for c in range(m):
            lists[i, c] = c  # of what is no number
    values, known = np.empty((n, m), joint.dtype), np.zeros(n, np.intp)
    for k in range(n_all):
        row = joint[k]
        for i in range(n):
            if row[i] >= least[i]:
                value, q = row[i], known[i]
                if q == m:
                    if not value > values[i, m - 1]:
                        continue
                    q -= 1
                else:
                    known[i] = q + 1
                while q > 0 and values[i, q - 1] < value:
                    values[i, q], lists[i, q] = values[i, q - 1], lists[i, q - 1]
                    q -= 1
                values[i, q], lists[i, q] = value, k


@inlined()
def _nth_largest(numbers: Any, n: int) -> Any:
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


def _fingerprint(words: Any) -> Any:
    """Return a number that is another one as good as always where any word is, or their order."""
    total, odd = np.uint64(len(words)), _ODD
    for i in range(len(words)):
        word = np.uint64(words[i])
        total += (word ^ (word >> _SHIFT)) * odd
        odd += _STEP
    return total


def e_step(rows: str, number: str) -> Callable[..., None]:
    """Return the E-step for rows and lists of these types, compiled."""
    given = types.Array(getattr(types, rows), 2, "A", readonly=True)
    lists = types.Array(getattr(types, number), 2, "C", readonly=True)
    vector, order = types.Array(types.float64, 1, "C", readonly=True), types.Array(types.intp, 1, "C", readonly=True)
    table = types.Array(types.float64, 3, "C", readonly=True)
    one, three = types.Array(types.float64, 1, "C"), types.Array(types.float64, 3, "C")
    own = types.Array(types.boolean, 1, "C", readonly=True)
    signature = types.void(
        given, vector, order, lists, vector, vector, table, vector, own, one, one, three
    )  # fmt: skip
    return compiled(signature, reassociates=True)(_e_step)


def keep_largest(number: str, lists: str) -> Callable[..., None]:
    """Return the choice of the largest for densities and lists of these types, compiled."""
    joint = types.Array(getattr(types, number), 2, "A", readonly=True)
    maxima, found = types.Array(getattr(types, number), 2, "C"), types.Array(getattr(types, lists), 2, "C")
    return compiled(types.void(joint, maxima, found))(_keep_largest)


def fingerprint(word: str) -> Callable[..., int]:
    """Return the fingerprint of arrays of this type, compiled."""
    words = types.Array(getattr(types, word), 1, "C", readonly=True)
    return compiled(types.uint64(words), reassociates=True)(_fingerprint)
