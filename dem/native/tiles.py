"""Products of small matrices in tiles of 4 × 4 that stay in registers, with rows of data as the vector's direction.

Every element is computed in the same way wherever it stands in a matrix: sizes are multiples of 4, completed by zeros.
Functions of `mixtures` inline these: numba's cache does not see a change here, so touch that file too.
"""

from __future__ import annotations

from typing import Any

from dem.native import inlined

#: rows and columns of a tile
TILE = 4


@inlined()
def add_product(w: Any, k: int, q: int, z: Any, s: int, out: Any, j: int, n: int) -> None:
    """Add w[k:k+4, q:q+4] z[s:s+4, :n] to out[j:j+4, :n]."""
    z0, z1, z2, z3 = z[s], z[s + 1], z[s + 2], z[s + 3]
    a, b, c, e = out[j], out[j + 1], out[j + 2], out[j + 3]
    a0, a1, a2, a3 = w[k, q], w[k, q + 1], w[k, q + 2], w[k, q + 3]
    b0, b1, b2, b3 = w[k + 1, q], w[k + 1, q + 1], w[k + 1, q + 2], w[k + 1, q + 3]
    c0, c1, c2, c3 = w[k + 2, q], w[k + 2, q + 1], w[k + 2, q + 2], w[k + 2, q + 3]
    e0, e1, e2, e3 = w[k + 3, q], w[k + 3, q + 1], w[k + 3, q + 2], w[k + 3, q + 3]
    for i in range(n):
        t0, t1, t2, t3 = z0[i], z1[i], z2[i], z3[i]
        a[i] = a[i] + a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3
        b[i] = b[i] + b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3
        c[i] = c[i] + c0 * t0 + c1 * t1 + c2 * t2 + c3 * t3
        e[i] = e[i] + e0 * t0 + e1 * t1 + e2 * t2 + e3 * t3


@inlined(reassociates=True)
def add_sums(y: Any, j: int, z: Any, s: int, sums: Any, k: int, q: int, n: int) -> None:
    """Add y[j:j+4, :n] z[s:s+4, :n]ᵀ to sums[k:k+4, q:q+4], which are double."""
    z0, z1, z2, z3 = z[s], z[s + 1], z[s + 2], z[s + 3]
    a, b, c, e = y[j], y[j + 1], y[j + 2], y[j + 3]
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = e0 = e1 = e2 = e3 = y.dtype.type(0)
    for i in range(n):
        t0, t1, t2, t3 = z0[i], z1[i], z2[i], z3[i]
        t, u, v, w = a[i], b[i], c[i], e[i]
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
