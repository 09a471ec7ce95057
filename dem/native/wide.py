"""Components that share one product W z of a block of rows: z are features and products of two; and intercepts.

z is never stored whole: a strip of its terms is made in the innermost cache, used for all components, and made again
for the statistics, which costs less than to fetch it. `mixtures` inlines these: see there.
"""

from __future__ import annotations

from typing import Any

from dem.native import inlined
from dem.native.tiles import TILE, add_product, add_sums


@inlined()
def strip(x: Any, left: Any, right: Any, t0: int, t1: int, z: Any, n: int) -> None:
    """Set z[t − t0] to the products t of features."""
    for t in range(t0, t1):
        a, b, q = left[t], right[t], t - t0
        for i in range(n):
            z[q, i] = x[a, i] * x[b, i]


@inlined()
def wide_densities(intercepts: Any, w: Any, x: Any, left: Any, right: Any, z: Any, joint: Any, n: int) -> None:
    """Set the first rows of `joint` to W z + intercepts."""
    m, p = w.shape
    for k in range(m):
        for i in range(n):
            joint[k, i] = intercepts[k]
    for t0 in range(0, p, len(z)):
        t1 = min(t0 + len(z), p)
        strip(x, left, right, t0, t1, z, n)
        for k in range(0, m, TILE):
            for t in range(t0, t1, TILE):
                add_product(w, k, t, z, t - t0, joint, k, n)


@inlined(reassociates=True)
def _add_counts(joint: Any, counts: Any, n: int) -> None:
    for k in range(len(counts)):
        count = joint.dtype.type(0)
        for i in range(n):
            count += joint[k, i]
        counts[k] += count


@inlined()
def wide_sums(joint: Any, x: Any, left: Any, right: Any, z: Any, sums: Any, counts: Any, n: int) -> None:
    """Add γ zᵀ to `sums` (n_wide, n_terms), and Σγ to `counts`."""
    m, p = sums.shape
    _add_counts(joint, counts, n)
    for t0 in range(0, p, len(z)):
        t1 = min(t0 + len(z), p)
        if p > len(z):  # else it is still there
            strip(x, left, right, t0, t1, z, n)
        for k in range(0, m, TILE):
            for t in range(t0, t1, TILE):
                add_sums(joint, k, z, t - t0, sums, k, t, n)
