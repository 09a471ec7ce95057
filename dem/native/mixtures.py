"""One call per chunk for mixtures of Gaussians: log-densities, responsibilities and statistics, block by block.

The arithmetic is that of `dem.families.gaussian.kernel`: components in the wide product share W z, where z are products
of two features (one of which may be 1), the others go through their own frames. z is never stored whole: a strip of its
terms is made in the innermost cache, used for all components, and made again for the statistics, which costs less than
to fetch it. numba's cache looks at this file alone: touch it after an edit of `tiles` or `elementary`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from dem.native import compiled, inlined
from dem.native.elementary import exponential, logarithm
from dem.native.tiles import TILE, add_product, add_sums

#: what `by_row` returns of each row
DENSITY, POSTERIOR, LABEL = 0, 1, 2
# Responsibilities of less count for nothing: as `dem.families.base.NEGLIGIBLE`.
_NEGLIGIBLE = 1e-36
# From as many features on statistics leave out the rows that are not a component's, where these are most.
_MANY_FEATURES = 16
# How much less likely than its best component, e^−40, a component must be for its density not to count.
_ENOUGH_NATS = 40.0
# Rows that tell whether few components count for each row of a chunk, and the share of densities that are few.
_TRIAL, _FEW = 256, 0.4


@inlined()
def _load(rows: Any, start: int, n: int, origin: Any, inverse: Any, x: Any) -> None:
    """Set x[:d, :n] to rows in the frame, the row behind to 1."""
    d = rows.shape[1]
    for i in range(n):
        for j in range(d):
            x[j, i] = (rows[start + i, j] - origin[j]) * inverse[j]
    one = x.dtype.type(1)
    last = x[d]
    for i in range(n):
        last[i] = one


@inlined()
def _strip(x: Any, left: Any, right: Any, t0: int, t1: int, z: Any, n: int) -> None:
    """Set z[t − t0] to the products t of features."""
    for t in range(t0, t1):
        a, b, out = x[left[t]], x[right[t]], z[t - t0]
        for i in range(n):
            out[i] = a[i] * b[i]


@inlined()
def _wide_densities(w: Any, x: Any, left: Any, right: Any, z: Any, joint: Any, n: int) -> None:
    """Set the first rows of `joint` to W z."""
    m, p = w.shape
    zero = x.dtype.type(0)
    for k in range(m):
        row = joint[k]
        for i in range(n):
            row[i] = zero
    for t0 in range(0, p, len(z)):
        t1 = min(t0 + len(z), p)
        _strip(x, left, right, t0, t1, z, n)
        for k in range(0, m, TILE):
            for t in range(t0, t1, TILE):
                add_product(w, k, t, z, t - t0, joint, k, n)


@inlined()
def _wide_sums(joint: Any, x: Any, left: Any, right: Any, z: Any, sums: Any, n: int) -> None:
    """Add γ zᵀ to `sums` (n_wide, n_terms)."""
    m, p = sums.shape
    for t0 in range(0, p, len(z)):
        t1 = min(t0 + len(z), p)
        if p > len(z):  # else it is still there
            _strip(x, left, right, t0, t1, z, n)
        for k in range(0, m, TILE):
            for t in range(t0, t1, TILE):
                add_sums(joint, k, z, t - t0, sums, k, t, n)


@inlined()
def _own_densities(
    x: Any, mean: Any, factor: Any, constants: Any, d: int, centred: Any, y: Any, density: Any, n: int
) -> None:
    """Set y to Uᵀ(x − μ) (`factor` is Uᵀ, completed by zeros) and `density` to constant + factor · y².

    With fewer features d than there are, y is that of the first d, and the density an upper bound.
    """
    constant, of_squares = constants[0], constants[1]
    whole = (d + TILE - 1) // TILE * TILE
    zero = x.dtype.type(0)
    for j in range(whole):
        out, into = centred[j], y[j]
        for i in range(n):
            into[i] = zero
        if j < d:
            row, m = x[j], mean[j]
            for i in range(n):
                out[i] = row[i] - m
        else:
            for i in range(n):
                out[i] = zero
    step = 4 * TILE
    for q0 in range(0, whole, step):
        for j in range(q0, whole, TILE):
            for q in range(q0, min(q0 + step, j + TILE), TILE):
                add_product(factor, j, q, centred, q, y, j, n)
    for i in range(n):
        density[i] = zero
    for j in range(d):
        row = y[j]
        for i in range(n):
            density[i] += row[i] * row[i]
    for i in range(n):
        density[i] = constant + of_squares * density[i]


@inlined()
def _members(share: Any, index: Any, n: int) -> int:
    """Set `index` to the places of rows that have a share, and return their number; without a branch by row."""
    m = 0
    for i in range(n):
        index[m] = i
        m += share[i] > _NEGLIGIBLE
    return m


@inlined(reassociates=True)
def _own_sums(y: Any, share: Any, weighted: Any, index: Any, first: Any, second: Any, n: int) -> float:
    """Add Σγy to `first` and Σγyyᵀ to the upper triangle of `second`; return Σγ. y may be overwritten."""
    d, whole, count = len(first), len(y), 0.0
    for i in range(n):
        count += share[i]
    if d >= _MANY_FEATURES:
        # With many features most rows have one component, and its statistics need no other's rows.
        members = _members(share, index, n)
        if 2 * members <= n:
            n = members
            for j in range(d):
                row = y[j]
                for i in range(n):
                    row[i] = row[index[i]]
            for i in range(n):
                share[i] = share[index[i]]
    for j in range(whole):
        row, out = y[j], weighted[j]
        total = share.dtype.type(0)
        for i in range(n):
            out[i] = row[i] * share[i]
            total += out[i]
        if j < d:
            first[j] += total
    step = 4 * TILE
    for b0 in range(0, whole, step):
        for a in range(0, min(b0 + step, whole), TILE):
            for b in range(max(a, b0), min(b0 + step, whole), TILE):
                add_sums(weighted, a, y, b, second, a, b, n)
    return count


@inlined()
def _gathered_densities(
    x: Any, mean: Any, factor: Any, constants: Any, index: Any, gathered: Any, centred: Any, y: Any, density: Any
) -> int:
    """Set y and `density`, as `_own_densities`, of the columns `index` of x; return their number."""
    d, m = len(mean), len(index)
    for j in range(d):
        row, into = x[j], gathered[j]
        for i in range(m):
            into[i] = row[index[i]]
    _own_densities(gathered, mean, factor, constants, d, centred, y, density, m)
    return m


@inlined()
def _likely_densities(
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
    bound, found = passing[0], passing[1]
    for s in range(0, n, size):
        e = min(s + size, n)
        for o in range(n_own):
            _own_densities(x[:, s:e], means[o], factors[o], constants[o], part, centred, y, joint[o, s:e], e - s)
    row = joint[0]
    for i in range(n):
        bound[i] = row[i]
        leader[i] = 0
    for o in range(1, n_own):
        row = joint[o]
        for i in range(n):
            better = row[i] > bound[i]
            leader[i] = o if better else leader[i]
            bound[i] = row[i] if better else bound[i]
    for o in range(n_own):
        m = 0
        for i in range(n):
            if leader[i] == o:
                index[m] = i
                m += 1
        for s in range(0, m, size):
            some = index[s : min(s + size, m)]
            for i in range(
                _gathered_densities(x, means[o], factors[o], constants[o], some, gathered, centred, y, found)
            ):
                bound[some[i]] = found[i]
    nats = x.dtype.type(_ENOUGH_NATS + np.log(n_own))
    nothing = x.dtype.type(-np.inf)
    computed = n
    for o in range(n_own):
        row, m = joint[o], 0
        for i in range(n):
            if leader[i] == o:
                row[i] = bound[i]
            elif row[i] < bound[i] - nats:
                row[i] = nothing
            else:  # also NaN
                index[m] = i
                m += 1
        for s in range(0, m, size):
            some = index[s : min(s + size, m)]
            for i in range(
                _gathered_densities(x, means[o], factors[o], constants[o], some, gathered, centred, y, found)
            ):
                row[some[i]] = found[i]
        computed += m
    return computed


@inlined()
def _members_sums(
    x: Any,
    mean: Any,
    factor: Any,
    constants: Any,
    share: Any,
    gathered: Any,
    centred: Any,
    y: Any,
    passing: Any,
    index: Any,
    lone: Any,
    first: Any,
    second: Any,
    size: int,
    n: int,
) -> float:
    """Add Σγy and Σγyyᵀ of the rows that have a share; return Σγ."""
    m, own, count = _members(share, index, n), passing[1], 0.0
    for s in range(0, m, size):
        some = index[s : min(s + size, m)]
        _gathered_densities(x, mean, factor, constants, some, gathered, centred, y, own)
        for i in range(len(some)):
            own[i] = share[some[i]]
        count += _own_sums(y, own, centred, lone, first, second, len(some))
    return count


@inlined()
def _normalise(
    joint: Any, order: Any, largest: Any, total: Any, weights: Any, least: Any, lowest: Any, density: Any, n: int
) -> None:
    """Turn rows `order` of log-joint densities into responsibilities and set `density` to log Σ exp, as NumPy's path.

    A row whose densities are all 0 has density −∞, a row with NaN has NaN.
    """
    head = joint[order[0]]
    for i in range(n):
        largest[i] = head[i]
    for k in order[1:]:
        row = joint[k]
        for i in range(n):
            largest[i] = row[i] if row[i] > largest[i] else largest[i]
    zero = joint.dtype.type(0)
    for i in range(n):
        total[i] = zero
        largest[i] = lowest if largest[i] < lowest else largest[i]
    for k in order:
        row = joint[k]
        for i in range(n):
            below = row[i] - largest[i]
            value = exponential(least if below < least else below)
            row[i] = value
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
        row = joint[k]
        for i in range(n):
            row[i] *= total[i]


def _e_step(
    rows: Any,
    weights: Any,
    origin: Any,
    inverse: Any,
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
    counts: Any,
    log_likelihoods: Any,
    far: Any,
) -> None:
    (m, n_own), size, part = (len(wide), len(means)), sizes[0], sizes[2]
    leader, index = np.empty(sizes[1], np.intp), np.empty(sizes[1], np.intp)
    largest, total = passing[0], passing[1]
    least, lowest, trusted = limits[0], limits[1], limits[2]
    checks, d = trusted > lowest, rows.shape[1]
    zero = joint.dtype.type(0)
    start, n, few = 0, 0, part > 0
    while start + n < len(rows):
        start += n
        n = min((sizes[1] if start else _TRIAL) if few else size, len(rows) - start)
        by_leader = few
        x = table if by_leader else block
        _load(rows, start, n, origin, inverse, x)
        if by_leader:
            computed = _likely_densities(
                x, means, factors, constants, part, joint, gathered, centred, lone, passing, leader, index, size, n
            )
            few = computed <= _FEW * n * n_own
        else:
            _wide_densities(wide, x, left, right, z, joint, n)
            for o in range(n_own):
                _own_densities(x, means[o], factors[o], constants[o], d, centred, y[o], joint[m + o], n)
        n_far, begin = 0, 0
        own_weights = weights[start : start + n] if len(weights) else weights
        for segment in range(len(ends)):
            end = ends[segment]
            density = densities[segment]
            _normalise(joint, order[begin:end], largest, total, own_weights, least, lowest, density, n)
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
                    x[:-1, i] = zero
                    if not by_leader:
                        y[:, :, i] = zero
            if len(wide) and wide.shape[1] <= len(z):
                _strip(x, left, right, 0, wide.shape[1], z, n)
        for segment in range(len(ends)):
            density, found = densities[segment], 0.0
            if len(weights):
                for i in range(n):
                    found += own_weights[i] * density[i]
            else:
                for i in range(n):
                    found += density[i]
            log_likelihoods[segment] += found
        _wide_sums(joint, x, left, right, z, sums, n)
        for o in range(n_own):
            if by_leader:
                counts[o] += _members_sums(
                    x, means[o], factors[o], constants[o], joint[o], gathered, centred, lone, passing, index, leader,
                    first[o], second[o], size, n,
                )  # fmt: skip
            else:
                counts[o] += _own_sums(y[o], joint[m + o], centred, index, first[o], second[o], n)


def _by_row(
    rows: Any,
    what: int,
    origin: Any,
    inverse: Any,
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
    (m, n_own), size, part = (len(wide), len(means)), sizes[0], sizes[2]
    leader, index = np.empty(sizes[1], np.intp), np.empty(sizes[1], np.intp)
    largest, total, density = passing[0], passing[1], densities[0]
    least, lowest, trusted = limits[0], limits[1], limits[2]
    checks, d = trusted > lowest, rows.shape[1]
    nothing = origin[:0]
    start, n, few = 0, 0, part > 0
    while start + n < len(rows):
        start += n
        n = min((sizes[1] if start else _TRIAL) if few else size, len(rows) - start)
        by_leader = few
        x = table if by_leader else block
        _load(rows, start, n, origin, inverse, x)
        if by_leader:
            computed = _likely_densities(
                x, means, factors, constants, part, joint, gathered, centred, lone, passing, leader, index, size, n
            )
            few = computed <= _FEW * n * n_own
        else:
            _wide_densities(wide, x, left, right, z, joint, n)
            for o in range(n_own):
                _own_densities(x, means[o], factors[o], constants[o], d, centred, y[0], joint[m + o], n)
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


def compile_loop(name: str, rows: str, number: str) -> Callable[..., None]:
    """Return a loop for rows and arithmetic of these types, compiled.

    Rows of workspaces hold a number for each row of a block and 64 bytes more. `sizes` are the rows of a block, of one
    where few components count for each row, and the features that tell which ones, 0 where all are computed. `limits`
    are the least logarithm of a responsibility, the least number of the type, and the log-density from which on rows
    are trusted: the others are marked in `far` and left out.

    Parameters
    ----------
    name : {'e_step', 'by_row'}
    rows, number : {'float32', 'float64'}
    """

    def array(kind: types.Type, n: int) -> types.Array:
        return types.Array(kind, n, "C")

    kind, double, integer = getattr(types, number), types.float64, types.intp
    given = types.Array(getattr(types, rows), 2, "A", readonly=True)
    vector, whole = types.Array(double, 1, "C", readonly=True), array(integer, 1)
    one, two, three = array(kind, 1), array(kind, 2), array(kind, 3)
    model = (vector, vector, two, whole, whole, two, three, two, whole)
    space = (whole, two, two, two, two, three, two, two, two, two, array(double, 2))
    sums, first, second = array(double, 1), array(double, 2), array(double, 3)
    flags = array(types.boolean, 1)
    if name == "by_row":
        by_row = types.void(given, integer, *model, one, *space, first, array(types.int64, 1), flags)
        return compiled(by_row)(_by_row)
    e_step = types.void(given, vector, *model, whole, one, *space, first, first, second, sums, sums, flags)
    return compiled(e_step)(_e_step)
