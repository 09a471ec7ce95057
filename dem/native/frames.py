"""Components in their own frames, where the covariance is the identity: log-densities and sums of a block of rows.

x and y have features first, completed to whole tiles, the places behind by what adds nothing: zeros in means and
factors. Loops over components are inside: to enter a function costs as much as some hundred numbers. `mixtures` inlines
these: see there.
"""

from __future__ import annotations

from typing import Any

from dem.native import inlined
from dem.native.tiles import (
    TILE,
    add_product,
    add_sums,
    add_triangle,
    add_triangle_sums,
    set_product,
    set_triangle,
)

#: up to as many features y is made twice, which costs less than to keep it for the sums
FEW_FEATURES = 3
# Responsibilities of less count for nothing: as `dem.families.base.NEGLIGIBLE`.
NEGLIGIBLE = 1e-36
# From as many features on statistics leave out the rows that are not a component's, where these are most.
_MANY_FEATURES = 16
# Columns of factors that are multiplied before the next: some that stay in the innermost cache.
_COLUMNS = 4 * TILE


@inlined()
def own_densities(
    x: Any,
    means: Any,
    factors: Any,
    constants: Any,
    o: int,
    d: int,
    centred: Any,
    y: Any,
    start: int,
    joint: Any,
    k: int,
    n: int,
) -> None:
    """Set y to Uᵀ(x − μ), d rows from `start` on, and joint[k] to constant + slope · y², of component o.

    Uᵀ are the rows of component o of `factors`. With fewer features d than there are, whole tiles of them, y is that of
    the first d, and the density an upper bound.
    """
    constant, slope, w = constants[o, 0], constants[o, 1], o * means.shape[1]
    set_triangle(factors, w, x, means, o, y, start, constant, slope, joint, k, n)
    for j in range(TILE, d - TILE):
        m = means[o, j]
        for i in range(n):
            centred[j, i] = x[j, i] - m
    for q0 in range(0, d, _COLUMNS):
        end = q0 + _COLUMNS
        for j in range(max(q0, TILE), d, TILE):
            if q0 == 0:
                set_product(factors, w + j, x, means, o, y, start + j, n)
            for q in range(max(q0, TILE), min(end, j), TILE):
                add_product(factors, w + j, q, centred, q, y, start + j, n)
            if j < end:
                add_triangle(factors, w + j, j, x, means, o, y, start + j, slope, joint, k, n)


@inlined()
def few_densities(x: Any, means: Any, factors: Any, constants: Any, d: int, joint: Any, m: int, n: int) -> None:
    """Set rows of `joint` from m on to the log-densities of all components, in one to three features."""
    for o in range(len(means)):
        k, w, constant, slope = m + o, TILE * o, constants[o, 0], constants[o, 1]
        m0, a = means[o, 0], factors[w, 0]
        if d == 1:
            for i in range(n):
                y0 = a * (x[0, i] - m0)
                joint[k, i] = constant + slope * (y0 * y0)
            continue
        m1, b, c = means[o, 1], factors[w + 1, 0], factors[w + 1, 1]
        if d < FEW_FEATURES:
            for i in range(n):
                t0, t1 = x[0, i] - m0, x[1, i] - m1
                y0, y1 = a * t0, b * t0 + c * t1
                joint[k, i] = constant + slope * (y0 * y0 + y1 * y1)
            continue
        m2, e, f, g = means[o, 2], factors[w + 2, 0], factors[w + 2, 1], factors[w + 2, 2]
        for i in range(n):
            t0, t1, t2 = x[0, i] - m0, x[1, i] - m1, x[2, i] - m2
            y0, y1, y2 = a * t0, b * t0 + c * t1, e * t0 + f * t1 + g * t2
            joint[k, i] = constant + slope * (y0 * y0 + y1 * y1 + y2 * y2)


@inlined()
def members(joint: Any, k: int, index: Any, n: int) -> int:
    """Set `index` to the places of rows that have a share in k, and return their number; without a branch by row."""
    m = 0
    for i in range(n):
        index[m] = i
        m += joint[k, i] > NEGLIGIBLE
    return m


@inlined(reassociates=True)
def own_sums(
    y: Any, start: int, joint: Any, k: int, weighted: Any, index: Any, first: Any, second: Any, o: int, n: int
) -> float:
    """Add Σγy to first[o] and Σγyyᵀ to the upper triangle of component o in `second`; return Σγ.

    y has its rows from `start` on, γ is joint[k]; both may be overwritten.
    """
    d = first.shape[1]
    if d >= _MANY_FEATURES:
        # With many features most rows have one component, and its statistics need no other's rows.
        m = members(joint, k, index, n)
        if 2 * m <= n:
            n = m
            for j in range(start, start + d):
                for i in range(n):
                    y[j, i] = y[j, index[i]]
            for i in range(n):
                joint[k, i] = joint[k, index[i]]
    count, w = 0.0, o * d
    for a in range(0, d, TILE):
        count = add_triangle_sums(y, start + a, joint, k, first, o, second, w + a, a, n)
    for j in range(d - TILE):
        for i in range(n):
            weighted[j, i] = y[start + j, i] * joint[k, i]
    for b0 in range(0, d, _COLUMNS):
        for a in range(0, min(b0 + _COLUMNS, d), TILE):
            for b in range(max(a + TILE, b0), min(b0 + _COLUMNS, d), TILE):
                add_sums(weighted, a, y, start + b, second, w + a, b, n)
    return count


@inlined()
def _minus(value: Any, mean: Any) -> Any:
    """Return value − mean, in this order also where sums may be taken in any: products with means would cancel."""
    return value - mean


@inlined(reassociates=True)
def few_sums(
    x: Any, means: Any, factors: Any, d: int, joint: Any, m: int, first: Any, second: Any, counts: Any, n: int
) -> None:
    """Add Σγ, Σγy and Σγyyᵀ of all components to `counts`, `first` and upper triangles, in one to three features."""
    for o in range(len(means)):
        k, w, m0, a = m + o, TILE * o, means[o, 0], factors[TILE * o, 0]
        count = s0 = s00 = s01 = s02 = s1 = s11 = s12 = s2 = s22 = x.dtype.type(0)
        if d == 1:
            for i in range(n):
                y0 = a * _minus(x[0, i], m0)
                g0 = joint[k, i] * y0
                count += joint[k, i]
                s0 += g0
                s00 += g0 * y0
            counts[o] += count
            first[o, 0] += s0
            second[w, 0] += s00
            continue
        m1, b, c = means[o, 1], factors[w + 1, 0], factors[w + 1, 1]
        if d < FEW_FEATURES:
            for i in range(n):
                gamma, t0, t1 = joint[k, i], _minus(x[0, i], m0), _minus(x[1, i], m1)
                y0, y1 = a * t0, b * t0 + c * t1
                g0, g1 = gamma * y0, gamma * y1
                count += gamma
                s0 += g0
                s1 += g1
                s00 += g0 * y0
                s01 += g0 * y1
                s11 += g1 * y1
        else:
            m2, e, f, g = means[o, 2], factors[w + 2, 0], factors[w + 2, 1], factors[w + 2, 2]
            for i in range(n):
                gamma, t0, t1, t2 = joint[k, i], _minus(x[0, i], m0), _minus(x[1, i], m1), _minus(x[2, i], m2)
                y0, y1, y2 = a * t0, b * t0 + c * t1, e * t0 + f * t1 + g * t2
                g0, g1, g2 = gamma * y0, gamma * y1, gamma * y2
                count += gamma
                s0 += g0
                s1 += g1
                s2 += g2
                s00 += g0 * y0
                s01 += g0 * y1
                s02 += g0 * y2
                s11 += g1 * y1
                s12 += g1 * y2
                s22 += g2 * y2
            first[o, 2] += s2
            second[w, 2] += s02
            second[w + 1, 2] += s12
            second[w + 2, 2] += s22
        counts[o] += count
        first[o, 0] += s0
        first[o, 1] += s1
        second[w, 0] += s00
        second[w, 1] += s01
        second[w + 1, 1] += s11


@inlined()
def independent_densities(x: Any, means: Any, factors: Any, constants: Any, joint: Any, m: int, n: int) -> None:
    """Set rows of `joint` from m on to constant + slope · y² of all components, where y = (x − μ)/σ by features."""
    for o in range(len(means)):
        k, constant, slope = m + o, constants[o, 0], constants[o, 1]
        for i in range(n):
            joint[k, i] = constant
        for j in range(0, means.shape[1], TILE):
            m0, m1, m2, m3 = means[o, j], means[o, j + 1], means[o, j + 2], means[o, j + 3]
            a, b, c, e = factors[o, j], factors[o, j + 1], factors[o, j + 2], factors[o, j + 3]
            for i in range(n):
                y0, y1 = (x[j, i] - m0) * a, (x[j + 1, i] - m1) * b
                y2, y3 = (x[j + 2, i] - m2) * c, (x[j + 3, i] - m3) * e
                joint[k, i] += slope * (y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3)


@inlined(reassociates=True)
def independent_sums(
    x: Any,
    means: Any,
    factors: Any,
    joint: Any,
    m: int,
    gathered: Any,
    index: Any,
    first: Any,
    second: Any,
    counts: Any,
    n: int,
) -> None:
    """Add Σγ, Σγy and Σγy² of all components to `counts`, `first` and `second`; γ is overwritten."""
    for o in range(len(means)):
        k, width = m + o, means.shape[1]
        number = members(joint, k, index, n)
        rows, many = x, n
        if 2 * number <= n:
            rows, many = gathered, number
            for j in range(width):
                for i in range(many):
                    gathered[j, i] = x[j, index[i]]
            for i in range(many):
                joint[k, i] = joint[k, index[i]]
        for i in range(many):
            counts[o] += joint[k, i]
        for j in range(0, width, TILE):
            m0, m1, m2, m3 = means[o, j], means[o, j + 1], means[o, j + 2], means[o, j + 3]
            a, b, c, e = factors[o, j], factors[o, j + 1], factors[o, j + 2], factors[o, j + 3]
            f0 = f1 = f2 = f3 = s0 = s1 = s2 = s3 = x.dtype.type(0)
            for i in range(many):
                gamma = joint[k, i]
                y0, y1 = _minus(rows[j, i], m0) * a, _minus(rows[j + 1, i], m1) * b
                y2, y3 = _minus(rows[j + 2, i], m2) * c, _minus(rows[j + 3, i], m3) * e
                g0, g1, g2, g3 = gamma * y0, gamma * y1, gamma * y2, gamma * y3
                f0 += g0
                f1 += g1
                f2 += g2
                f3 += g3
                s0 += g0 * y0
                s1 += g1 * y1
                s2 += g2 * y2
                s3 += g3 * y3
            first[o, j] += f0
            first[o, j + 1] += f1
            first[o, j + 2] += f2
            first[o, j + 3] += f3
            second[o, j] += s0
            second[o, j + 1] += s1
            second[o, j + 2] += s2
            second[o, j + 3] += s3
