"""Blocks of rows for which few components in own frames count, and those alone are computed.

The first features bound a density from above. What is left out is less than the rounding of the sum. `mixtures` inlines
these: see there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dem.native import inlined
from dem.native.frames import members, own_densities, own_sums

#: rows that tell whether few components count for each row of a chunk, and the share of densities that are few
TRIAL, FEW = 256, 0.4
# How much less likely than its best component, e^−40, a component must be for its density not to count.
_ENOUGH_NATS = 40.0


@inlined()
def _gathered_densities(
    x: Any,
    means: Any,
    factors: Any,
    constants: Any,
    o: int,
    index: Any,
    start: int,
    n: int,
    gathered: Any,
    centred: Any,
    y: Any,
    passing: Any,
) -> None:
    """Set y and passing[1] to y and densities, in o, of the columns of x that stand in `index` from `start` on."""
    zero: Any = np.intp(0)  # not literal numbers, for each of which functions would be compiled
    one: Any = np.intp(1)
    for j in range(means.shape[1]):
        for i in range(n):
            gathered[j, i] = x[j, index[start + i]]
    own_densities(gathered, means, factors, constants, o, means.shape[1], centred, y, zero, passing, one, n)


@inlined()
def likely_densities(
    x: Any,
    means: Any,
    factors: Any,
    constants: Any,
    part: int,
    joint: Any,
    gathered: Any,
    centred: Any,
    y: Any,
    passing: Any,
    leader: Any,
    index: Any,
    size: int,
    n: int,
) -> int:
    """Set `joint` to log-densities in own frames, but to −∞ where they do not count; return how many it computed.

    The first `part` features bound a density from above. Each row's density in the component with the largest bound is
    computed, and then those whose bounds come near it: what is left out is less than the rounding of the sum.
    """
    n_own = len(means)
    zero: Any = np.intp(0)
    one: Any = np.intp(1)
    for s in range(0, n, size):
        m = min(size, n - s)
        for j in range(part):
            for i in range(m):
                gathered[j, i] = x[j, s + i]
        for o in range(n_own):
            own_densities(gathered, means, factors, constants, o, part, centred, y, zero, passing, one, m)
            for i in range(m):
                joint[o, s + i] = passing[1, i]
    for i in range(n):
        passing[0, i] = joint[0, i]
        leader[i] = 0
    for o in range(1, n_own):
        for i in range(n):
            better = joint[o, i] > passing[0, i]
            leader[i] = o if better else leader[i]
            passing[0, i] = joint[o, i] if better else passing[0, i]
    nats = x.dtype.type(_ENOUGH_NATS + np.log(n_own))
    nothing = x.dtype.type(-np.inf)
    computed = 0
    for others in (False, True):  # the leaders' own densities, then of those whose bounds come near them
        for o in range(n_own):
            m = 0
            for i in range(n):
                is_own = leader[i] == o
                if others and is_own:
                    joint[o, i] = passing[0, i]
                elif others and joint[o, i] < passing[0, i] - nats:
                    joint[o, i] = nothing
                elif others or is_own:  # also NaN
                    index[m] = i
                    m += 1
            for s in range(0, m, size):
                some = min(size, m - s)
                _gathered_densities(x, means, factors, constants, o, index, s, some, gathered, centred, y, passing)
                target, row = (joint, o) if others else (passing, 0)
                for i in range(some):
                    target[row, index[s + i]] = passing[1, i]
            computed += m
    return computed


@inlined()
def members_sums(
    x: Any,
    means: Any,
    factors: Any,
    constants: Any,
    joint: Any,
    gathered: Any,
    centred: Any,
    y: Any,
    passing: Any,
    index: Any,
    lone: Any,
    first: Any,
    second: Any,
    counts: Any,
    size: int,
    n: int,
) -> None:
    """Add Σγ, Σγy and Σγyyᵀ of the rows that have a share in a component, for all."""
    zero: Any = np.intp(0)
    one: Any = np.intp(1)
    for o in range(len(means)):
        m = members(joint, o, index, n)
        for s in range(0, m, size):
            some = min(size, m - s)
            _gathered_densities(x, means, factors, constants, o, index, s, some, gathered, centred, y, passing)
            for i in range(some):
                passing[1, i] = joint[o, index[s + i]]
            counts[o] += own_sums(y, zero, passing, one, centred, lone, first, second, o, some)
