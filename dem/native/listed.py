"""Mixtures of Gaussians with independent features where each row has a list of components: one call per chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from dem.native import compiled, inlined
from dem.native.centre_tiles import intrinsic
from dem.native.elementary import exponential, logarithm

# Responsibilities of less count for nothing: as `dem.families.base.NEGLIGIBLE`.
_NEGLIGIBLE = 1e-36
_LEAST = -600.0
# So many candidates before its turn the parameters of one are fetched; a cache line has so many numbers of them.
_AHEAD, _LINE = 4, 8
_LOWEST = -1.7976931348623157e308
# Of xxHash64 (Collet): odd numbers that words are multiplied by, and by how many bits they are rotated.
_FIRST, _SECOND = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F)
_THIRD, _FOURTH = np.uint64(0x165667B19E3779F9), np.uint64(0x85EBCA77C2B2AE63)
_LEFT, _RIGHT, _HALF = np.uint64(31), np.uint64(33), np.uint64(32)


@intrinsic
def _prefetch(_typing: Any, array: Any, place: Any) -> Any:
    """Bid the processor fetch the cache line of a number of an array, by its place in memory order."""

    def write(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[0]).data
        bytes_there = ir.IntType(8).as_pointer()
        address = builder.bitcast(builder.gep(data, [arguments[1]]), bytes_there)
        kinds = [bytes_there, ir.IntType(32), ir.IntType(32), ir.IntType(32)]
        name = "llvm.prefetch.p0i8"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
        builder.call(function, [address, *(ir.Constant(ir.IntType(32), one) for one in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, place), write


def _e_step(
    rows: Any, weights: Any, order: Any, lists: Any, origin: Any, inverse: Any,
    table: Any, constants: Any, own: Any, densities: Any, counts: Any, sums: Any,
) -> None:  # fmt: skip
    """Set the log-density of each row, and add responsibilities and moments, row by row in `order`.

    No array is cut to pieces in the loops over candidates, which would cost ten times as much as the arithmetic. What
    comes next is fetched meanwhile: rows lie anywhere, and the parameters of thousands of components beyond the caches
    of a core.
    """
    d, m = rows.shape[1], lists.shape[1]
    x, joint = np.empty(d), np.empty(m)
    n = len(order)
    for p in range(n):
        i = order[p]
        if p + 1 < n:
            later = order[min(p + 2, n - 1)]
            _prefetch(lists, later * m)
            for line in range(0, d, _LINE):
                _prefetch(rows, later * d + line)
            for c in range(min(_AHEAD, m)):
                start = np.intp(lists[order[p + 1], c]) * 2 * d
                for line in range(0, 2 * d, _LINE):
                    _prefetch(table, start + line)
        for j in range(d):
            x[j] = (rows[i, j] - origin[j]) * inverse[j]
        largest = -np.inf
        for c in range(m):
            k = np.intp(lists[i, c])
            if c + _AHEAD < m:
                start = np.intp(lists[i, c + _AHEAD]) * 2 * d
                for line in range(0, 2 * d, _LINE):
                    _prefetch(table, start + line)
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


@inlined()
def _mixed(total: Any, word: Any) -> Any:
    """Return a state of the hash after one more word: a round of xxHash64."""
    total += word * _SECOND
    return ((total << _LEFT) | (total >> _RIGHT)) * _FIRST


def _fingerprint(words: Any) -> Any:
    """Return a hash of words: four of them are mixed into states of their own, in the manner of xxHash64."""
    a, b, c, d = _FIRST, _SECOND, _THIRD, _FOURTH
    n = len(words) // 4 * 4
    for i in range(0, n, 4):
        a = _mixed(a, np.uint64(words[i]))
        b = _mixed(b, np.uint64(words[i + 1]))
        c = _mixed(c, np.uint64(words[i + 2]))
        d = _mixed(d, np.uint64(words[i + 3]))
    total = np.uint64(len(words))
    for state in (a, b, c, d):
        total = _mixed(total ^ state, total)
    for i in range(n, len(words)):
        total = _mixed(total, np.uint64(words[i]))
    total = (total ^ (total >> _HALF)) * _SECOND
    total = (total ^ (total >> _HALF)) * _THIRD
    return total ^ (total >> _HALF)


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


def fingerprint(word: str) -> Callable[..., int]:
    """Return the fingerprint of arrays of this type, compiled."""
    words = types.Array(getattr(types, word), 1, "C", readonly=True)
    return compiled(types.uint64(words))(_fingerprint)
