"""One call per chunk for mixtures of Gaussians: log-densities, responsibilities and statistics, block by block.

The arithmetic is that of `dem.families.gaussian.kernel`: components in the wide product share W z, where z are products
of two features (one of which may be 1), the others go through their own frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from dem.native import compiled, inlined
from dem.native.elementary import exponential, logarithm
from dem.native.frames import (
    FEW_FEATURES,
    NEGLIGIBLE,
    few_densities,
    few_sums,
    independent_densities,
    independent_sums,
    own_densities,
    own_sums,
)
from dem.native.leaders import FEW, TRIAL, likely_densities, members_sums
from dem.native.wide import strip, wide_densities, wide_sums

#: what `by_row` returns of each row
DENSITY, POSTERIOR, LABEL = 0, 1, 2
# After a block some of whose rows have several components, one of so many is looked at for rows of one component.
_RETRY = 8


@inlined()
def _load(rows: Any, start: int, n: int, origin: Any, inverse: Any, x: Any) -> None:
    """Set x[:d, :n] to rows in the frame, two features at a time, and the row behind to 1."""
    d = rows.shape[1]
    for j in range(0, d, 2):
        more = min(j + 1, d - 1)
        a, b, c, e = origin[j], inverse[j], origin[more], inverse[more]
        for i in range(n):
            x[j, i] = (rows[start + i, j] - a) * b
            x[more, i] = (rows[start + i, more] - c) * e
    one = x.dtype.type(1)
    for i in range(n):
        x[d, i] = one


@inlined()
def _normalise(
    joint: Any, order: Any, largest: Any, total: Any, weights: Any, least: Any, lowest: Any, density: Any, n: int
) -> None:
    """Turn rows `order` of log-joint densities into responsibilities and set `density` to log Σ exp, as NumPy's path.

    A row whose densities are all 0 has density −∞, a row with NaN has NaN.
    """
    first = order[0]
    for i in range(n):
        largest[i] = joint[first, i]
    for k in order:
        for i in range(n):
            largest[i] = joint[k, i] if joint[k, i] > largest[i] else largest[i]
    zero = joint.dtype.type(0)
    for i in range(n):
        total[i] = zero
        largest[i] = lowest if largest[i] < lowest else largest[i]
    for k in order:
        for i in range(n):
            below = joint[k, i] - largest[i]
            value = exponential(least if below < least else below)
            joint[k, i] = value
            total[i] += value
    for i in range(n):
        density[i] = logarithm(np.float64(total[i])) + (largest[i] if largest[i] > lowest else -np.inf)
    one = joint.dtype.type(1)
    if len(weights):
        for i in range(n):
            total[i] = weights[i] / total[i]
    else:
        for i in range(n):
            total[i] = one / total[i]
    for k in order:
        for i in range(n):
            joint[k, i] *= total[i]


@inlined()
def _single_out(
    joint: Any, order: Any, largest: Any, second: Any, total: Any, weights: Any, density: Any, n: int
) -> bool:
    """Where each row has one component, and all others count for nothing, do as `_normalise`; else only say so."""
    zero, one = joint.dtype.type(0), joint.dtype.type(1)
    first = order[0]
    for i in range(n):
        largest[i] = total[i] = joint[first, i]
        second[i] = -np.inf
    for k in order[1:]:
        for i in range(n):
            value, most = joint[k, i], largest[i]
            lower = most if value > most else value
            second[i] = lower if lower > second[i] else second[i]
            largest[i] = value if value > most else most
            total[i] += value  # shows what is not a number
    nats = joint.dtype.type(np.log(NEGLIGIBLE))
    alone = 0
    for i in range(n):
        alone += (second[i] < largest[i] + nats) & (total[i] == total[i])
    if alone < n:
        return False
    for i in range(n):
        density[i] = largest[i]
        total[i] = one
    if len(weights):
        for i in range(n):
            total[i] = weights[i]
    for k in order:
        for i in range(n):
            joint[k, i] = total[i] if joint[k, i] == largest[i] else zero
    return True


@inlined()
def _load_block(
    rows: Any,
    short: Any,
    start: int,
    n: int,
    origin: Any,
    inverse: Any,
    intercepts: Any,
    wide: Any,
    left: Any,
    right: Any,
    means: Any,
    factors: Any,
    constants: Any,
    sizes: Any,
    x: Any,
    z: Any,
    joint: Any,
    y: Any,
    centred: Any,
    gathered: Any,
    lone: Any,
    passing: Any,
    leader: Any,
    index: Any,
    by_leader: bool,
) -> bool:
    """Set x, and `joint` to log-densities; return whether the next block may look for leaders."""
    (m, n_own), size, part, d = (len(wide), len(means)), sizes[0], sizes[2], len(origin)
    if len(short):
        _load(short, start, n, origin, inverse, x)
    else:
        _load(rows, start, n, origin, inverse, x)
    if by_leader:
        computed = likely_densities(
            x, means, factors, constants, part, joint, gathered, centred, lone, passing, leader, index, size, n
        )
        return computed <= FEW * n * n_own
    wide_densities(intercepts, wide, x, left, right, z, joint, n)
    if not n_own:
        return False
    if len(factors) == n_own:
        independent_densities(x, means, factors, constants, joint, m, n)
    elif d <= FEW_FEATURES:
        few_densities(x, means, factors, constants, d, joint, m, n)
    else:
        whole = means.shape[1]
        for o in range(n_own):
            start = o * whole % len(y)
            own_densities(x, means, factors, constants, o, whole, centred, y, start, joint, m + o, n)
    return False


def _e_step(
    rows: Any,
    short: Any,
    weights: Any,
    origin: Any,
    inverse: Any,
    intercepts: Any,
    wide: Any,
    left: Any,
    right: Any,
    means: Any,
    factors: Any,
    constants: Any,
    order: Any,
    ends: Any,
    limits: Any,
    sizes: Any,
    block: Any,
    table: Any,
    z: Any,
    joint: Any,
    y: Any,
    centred: Any,
    gathered: Any,
    lone: Any,
    passing: Any,
    densities: Any,
    sums: Any,
    first: Any,
    second: Any,
    wide_counts: Any,
    counts: Any,
    log_likelihoods: Any,
    far: Any,
) -> None:
    (m, n_own), size, n_rows = (len(wide), len(means)), sizes[0], max(len(rows), len(short))
    leader, index = np.empty(sizes[1], np.intp), np.empty(sizes[1], np.intp)
    largest, total, second_largest = passing[0], passing[1], passing[2]
    least, lowest, trusted = limits[0], limits[1], limits[2]
    checks, d = trusted > lowest, len(origin)
    zero = joint.dtype.type(0)
    first_term: Any = np.intp(0)
    start, n, few, alone = 0, 0, sizes[2] > 0, False
    while start + n < n_rows:
        start += n
        n = min((sizes[1] if start else TRIAL) if few else size, n_rows - start)
        by_leader = few
        x = table if by_leader else block
        few = _load_block(
            rows, short, start, n, origin, inverse, intercepts, wide, left, right, means, factors, constants, sizes, x,
            z, joint, y, centred, gathered, lone, passing, leader, index, by_leader,
        )  # fmt: skip
        n_far, begin = 0, 0
        own_weights = weights[start : start + n] if len(weights) else weights
        for segment in range(len(ends)):
            end = ends[segment]
            density = densities[segment]
            which = order[begin:end]
            tries = alone or (len(ends) == 1 and start // size % _RETRY == 0)
            alone = tries and _single_out(joint, which, largest, second_largest, total, own_weights, density, n)
            if not alone:
                _normalise(joint, which, largest, total, own_weights, least, lowest, density, n)
            begin = end
            if checks:
                for i in range(n):
                    if not (largest[i] >= trusted and np.isfinite(density[i])):
                        n_far += not far[start + i]
                        far[start + i] = True
        if n_far:
            for i in range(n):
                if far[start + i]:
                    densities[:, i] = 0.0
                    joint[:, i] = zero
                    x[:d, i] = zero
                    if not by_leader:
                        y[:, i] = zero
            if len(wide) and wide.shape[1] <= len(z):
                strip(x, left, right, first_term, wide.shape[1], z, n)
        for segment in range(len(ends)):
            density, found = densities[segment], 0.0
            if len(weights):
                for i in range(n):
                    found += own_weights[i] * density[i]
            else:
                for i in range(n):
                    found += density[i]
            log_likelihoods[segment] += found
        wide_sums(joint, x, left, right, z, sums, wide_counts, n)
        if not n_own:
            continue
        if by_leader:
            members_sums(
                x, means, factors, constants, joint, gathered, centred, lone, passing, index, leader, first, second,
                counts, size, n,
            )  # fmt: skip
        elif len(factors) == n_own:
            independent_sums(x, means, factors, joint, m, gathered, index, first, second, counts, n)
        elif d <= FEW_FEATURES:
            few_sums(x, means, factors, d, joint, m, first, second, counts, n)
        else:
            for o in range(n_own):
                counts[o] += own_sums(y, o * first.shape[1], joint, m + o, centred, index, first, second, o, n)


def _by_row(
    rows: Any,
    short: Any,
    what: int,
    origin: Any,
    inverse: Any,
    intercepts: Any,
    wide: Any,
    left: Any,
    right: Any,
    means: Any,
    factors: Any,
    constants: Any,
    order: Any,
    limits: Any,
    sizes: Any,
    block: Any,
    table: Any,
    z: Any,
    joint: Any,
    y: Any,
    centred: Any,
    gathered: Any,
    lone: Any,
    passing: Any,
    densities: Any,
    result: Any,
    labels: Any,
    far: Any,
) -> None:
    size, n_rows = sizes[0], max(len(rows), len(short))
    leader, index = np.empty(sizes[1], np.intp), np.empty(sizes[1], np.intp)
    largest, total, second_largest, density = passing[0], passing[1], passing[2], densities[0]
    least, lowest, trusted = limits[0], limits[1], limits[2]
    checks = trusted > lowest
    nothing = origin[:0]
    start, n, few, alone = 0, 0, sizes[2] > 0, False
    while start + n < n_rows:
        start += n
        n = min((sizes[1] if start else TRIAL) if few else size, n_rows - start)
        by_leader = few
        x = table if by_leader else block
        few = _load_block(
            rows, short, start, n, origin, inverse, intercepts, wide, left, right, means, factors, constants, sizes, x,
            z, joint, y, centred, gathered, lone, passing, leader, index, by_leader,
        )  # fmt: skip
        if what == LABEL:
            head = joint[order[0]]
            for i in range(n):
                largest[i] = head[i]
                labels[start + i] = 0
                density[i] = 0.0
            label = labels[start : start + n]
            for k in range(1, len(order)):
                row = joint[order[k]]
                for i in range(n):
                    better = row[i] > largest[i]
                    label[i] = k if better else label[i]
                    largest[i] = row[i] if better else largest[i]
                    density[i] = density[i] if row[i] == row[i] else np.nan
        else:
            tries = alone or start // size % _RETRY == 0
            alone = tries and _single_out(joint, order, largest, second_largest, total, nothing, density, n)
            if not alone:
                _normalise(joint, order, largest, total, nothing, least, lowest, density, n)
        if what == DENSITY:
            for i in range(n):
                result[start + i, 0] = density[i]
        elif what == POSTERIOR:
            for i in range(n):
                for k in range(len(order)):
                    result[start + i, k] = joint[order[k], i]
        if checks:
            for i in range(n):
                if not (largest[i] >= trusted and np.isfinite(density[i])):
                    far[start + i] = True


def compile_loop(name: str, number: str) -> Callable[..., None]:
    """Return a loop whose arithmetic is of this type, compiled.

    It takes rows of that type, and others in single precision: of one of the two there are none.

    Rows of workspaces hold a number for each row of a block and 64 bytes more. `sizes` are the rows of a block, of one
    where few components count for each row, and the features that tell which ones, 0 where all are computed. `limits`
    are the least logarithm of a responsibility, the least number of the type, and the log-density from which on rows
    are trusted: the others are marked in `far` and left out.

    Parameters
    ----------
    name : {'e_step', 'by_row'}
    number : {'float32', 'float64'}
    """

    def array(kind: types.Type, n: int) -> types.Array:
        return types.Array(kind, n, "C")

    kind, double, integer = getattr(types, number), types.float64, types.intp
    given = types.Array(kind, 2, "A", readonly=True), types.Array(types.float32, 2, "A", readonly=True)
    vector, whole = types.Array(double, 1, "C", readonly=True), array(integer, 1)
    one, two = array(kind, 1), array(kind, 2)
    model = (vector, vector, one, two, whole, whole, two, two, two, whole)
    space = (whole, two, two, two, two, two, two, two, two, two, array(double, 2))
    vectors, matrices, flags = array(double, 1), array(double, 2), array(types.boolean, 1)
    if name == "by_row":
        by_row = types.void(*given, integer, *model, one, *space, matrices, array(types.int64, 1), flags)
        return compiled(by_row)(_by_row)
    e_step = types.void(*given, vector, *model, whole, one, *space, *[matrices] * 3, *[vectors] * 3, flags)
    return compiled(e_step)(_e_step)
