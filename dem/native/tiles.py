"""Products of small matrices in tiles of 4 × 4 that stay in registers, with rows of data as the vector's direction.

Every element is computed in the same way wherever it stands in a matrix: sizes are multiples of 4, completed by zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dem.native import inlined

#: rows and columns of a tile
TILE = 4


@inlined()
def add_product(w: Any, k: int, q: int, z: Any, s: int, out: Any, j: int, n: int) -> None:
    """Add w[k:k+4, q:q+4] z[s:s+4, :n] to out[j:j+4, :n]."""
    a0, a1, a2, a3 = w[k, q], w[k, q + 1], w[k, q + 2], w[k, q + 3]
    b0, b1, b2, b3 = w[k + 1, q], w[k + 1, q + 1], w[k + 1, q + 2], w[k + 1, q + 3]
    c0, c1, c2, c3 = w[k + 2, q], w[k + 2, q + 1], w[k + 2, q + 2], w[k + 2, q + 3]
    e0, e1, e2, e3 = w[k + 3, q], w[k + 3, q + 1], w[k + 3, q + 2], w[k + 3, q + 3]
    for i in range(n):
        t0, t1, t2, t3 = z[s, i], z[s + 1, i], z[s + 2, i], z[s + 3, i]
        out[j, i] = out[j, i] + a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3
        out[j + 1, i] = out[j + 1, i] + b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3
        out[j + 2, i] = out[j + 2, i] + c0 * t0 + c1 * t1 + c2 * t2 + c3 * t3
        out[j + 3, i] = out[j + 3, i] + e0 * t0 + e1 * t1 + e2 * t2 + e3 * t3


@inlined()
def set_product(w: Any, k: int, x: Any, mean: Any, o: int, out: Any, j: int, n: int) -> None:
    """Set out[j:j+4, :n] to w[k:k+4, :4] (x − mean[o])[:4, :n]."""
    m0, m1, m2, m3 = mean[o, 0], mean[o, 1], mean[o, 2], mean[o, 3]
    a0, a1, a2, a3 = w[k, 0], w[k, 1], w[k, 2], w[k, 3]
    b0, b1, b2, b3 = w[k + 1, 0], w[k + 1, 1], w[k + 1, 2], w[k + 1, 3]
    c0, c1, c2, c3 = w[k + 2, 0], w[k + 2, 1], w[k + 2, 2], w[k + 2, 3]
    e0, e1, e2, e3 = w[k + 3, 0], w[k + 3, 1], w[k + 3, 2], w[k + 3, 3]
    for i in range(n):
        t0, t1, t2, t3 = x[0, i] - m0, x[1, i] - m1, x[2, i] - m2, x[3, i] - m3
        out[j, i] = a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3
        out[j + 1, i] = b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3
        out[j + 2, i] = c0 * t0 + c1 * t1 + c2 * t2 + c3 * t3
        out[j + 3, i] = e0 * t0 + e1 * t1 + e2 * t2 + e3 * t3


@inlined()
def set_triangle(
    w: Any, k: int, x: Any, mean: Any, o: int, out: Any, j: int, constant: Any, slope: Any, joint: Any, r: int, n: int
) -> None:
    """Set y = out[j:j+4, :n] to w[k:k+4, :4] (x − mean[o])[:4], and joint[r] to constant + slope · Σy².

    w is lower triangular.
    """
    m0, m1, m2, m3 = mean[o, 0], mean[o, 1], mean[o, 2], mean[o, 3]
    a0, b0, b1, c0, c1, c2 = w[k, 0], w[k + 1, 0], w[k + 1, 1], w[k + 2, 0], w[k + 2, 1], w[k + 2, 2]
    e0, e1, e2, e3 = w[k + 3, 0], w[k + 3, 1], w[k + 3, 2], w[k + 3, 3]
    for i in range(n):
        t0, t1, t2, t3 = x[0, i] - m0, x[1, i] - m1, x[2, i] - m2, x[3, i] - m3
        y0 = a0 * t0
        y1 = b0 * t0 + b1 * t1
        y2 = c0 * t0 + c1 * t1 + c2 * t2
        y3 = e0 * t0 + e1 * t1 + e2 * t2 + e3 * t3
        out[j, i] = y0
        out[j + 1, i] = y1
        out[j + 2, i] = y2
        out[j + 3, i] = y3
        joint[r, i] = constant + slope * (y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3)


@inlined()
def add_triangle(
    w: Any, k: int, q: int, x: Any, mean: Any, o: int, out: Any, j: int, slope: Any, joint: Any, r: int, n: int
) -> None:
    """Add w[k:k+4, q:q+4] (x − mean[o])[q:q+4] to y = out[j:j+4, :n], and slope times the squares of these to joint[r].

    w[k:k+4, q:q+4] is lower triangular.
    """
    m0, m1, m2, m3 = mean[o, q], mean[o, q + 1], mean[o, q + 2], mean[o, q + 3]
    a0, b0, b1, c0, c1, c2 = w[k, q], w[k + 1, q], w[k + 1, q + 1], w[k + 2, q], w[k + 2, q + 1], w[k + 2, q + 2]
    e0, e1, e2, e3 = w[k + 3, q], w[k + 3, q + 1], w[k + 3, q + 2], w[k + 3, q + 3]
    for i in range(n):
        t0, t1, t2, t3 = x[q, i] - m0, x[q + 1, i] - m1, x[q + 2, i] - m2, x[q + 3, i] - m3
        y0 = out[j, i] + a0 * t0
        y1 = out[j + 1, i] + b0 * t0 + b1 * t1
        y2 = out[j + 2, i] + c0 * t0 + c1 * t1 + c2 * t2
        y3 = out[j + 3, i] + e0 * t0 + e1 * t1 + e2 * t2 + e3 * t3
        out[j, i] = y0
        out[j + 1, i] = y1
        out[j + 2, i] = y2
        out[j + 3, i] = y3
        joint[r, i] += slope * (y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3)


@inlined(reassociates=True)
def add_sums(y: Any, j: int, z: Any, s: int, sums: Any, k: int, q: int, n: int) -> None:
    """Add y[j:j+4, :n] z[s:s+4, :n]ᵀ to sums[k:k+4, q:q+4], which are double."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = e0 = e1 = e2 = e3 = y.dtype.type(0)
    for i in range(n):
        t0, t1, t2, t3 = z[s, i], z[s + 1, i], z[s + 2, i], z[s + 3, i]
        t, u, v, w = y[j, i], y[j + 1, i], y[j + 2, i], y[j + 3, i]
        a0 += t * t0
        a1 += t * t1
        a2 += t * t2
        a3 += t * t3
        b0 += u * t0
        b1 += u * t1
        b2 += u * t2
        b3 += u * t3
        c0 += v * t0
        c1 += v * t1
        c2 += v * t2
        c3 += v * t3
        e0 += w * t0
        e1 += w * t1
        e2 += w * t2
        e3 += w * t3
    sums[k, q] += a0
    sums[k, q + 1] += a1
    sums[k, q + 2] += a2
    sums[k, q + 3] += a3
    sums[k + 1, q] += b0
    sums[k + 1, q + 1] += b1
    sums[k + 1, q + 2] += b2
    sums[k + 1, q + 3] += b3
    sums[k + 2, q] += c0
    sums[k + 2, q + 1] += c1
    sums[k + 2, q + 2] += c2
    sums[k + 2, q + 3] += c3
    sums[k + 3, q] += e0
    sums[k + 3, q + 1] += e1
    sums[k + 3, q + 2] += e2
    sums[k + 3, q + 3] += e3


@inlined(reassociates=True)
def add_triangle_sums(
    y: Any, j: int, joint: Any, r: int, first: Any, o: int, second: Any, k: int, q: int, n: int
) -> float:
    """Add Σγy to first[o, q:q+4] and Σγyyᵀ to the upper triangle of second[k:k+4, q:q+4]; return Σγ.

    y are y[j:j+4, :n] and γ is joint[r].
    """
    count = f0 = f1 = f2 = f3 = a0 = a1 = a2 = a3 = b1 = b2 = b3 = c2 = c3 = e3 = y.dtype.type(0)
    for i in range(n):
        gamma = joint[r, i]
        t0, t1, t2, t3 = y[j, i], y[j + 1, i], y[j + 2, i], y[j + 3, i]
        g0, g1, g2, g3 = gamma * t0, gamma * t1, gamma * t2, gamma * t3
        count += gamma
        f0 += g0
        f1 += g1
        f2 += g2
        f3 += g3
        a0 += g0 * t0
        a1 += g0 * t1
        a2 += g0 * t2
        a3 += g0 * t3
        b1 += g1 * t1
        b2 += g1 * t2
        b3 += g1 * t3
        c2 += g2 * t2
        c3 += g2 * t3
        e3 += g3 * t3
    first[o, q] += f0
    first[o, q + 1] += f1
    first[o, q + 2] += f2
    first[o, q + 3] += f3
    second[k, q] += a0
    second[k, q + 1] += a1
    second[k, q + 2] += a2
    second[k, q + 3] += a3
    second[k + 1, q + 1] += b1
    second[k + 1, q + 2] += b2
    second[k + 1, q + 3] += b3
    second[k + 2, q + 2] += c2
    second[k + 2, q + 3] += c3
    second[k + 3, q + 3] += e3
    return np.float64(count)
