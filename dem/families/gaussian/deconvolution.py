"""Full and tied covariances where rows have errors: extreme deconvolution (Bovy, Hogg and Roweis 2011).

A row w = x + e has an error e ~ N(0, S) that is known. For component k let T = Σ + S. Then w ~ N(μ, T), and x given w
has the mean b = μ + ΣT⁻¹(w − μ) and the covariance B = Σ − ΣT⁻¹Σ. The M-step is that of rows without errors, with
Σγb in the place of Σγx and Σγ(bbᵀ + B) in that of Σγxxᵀ. With v = T⁻¹(w − μ) these are sums of v and of vvᵀ − T⁻¹
between two products with Σ, which do not depend on the row:

    Σγ(b − μ) = Σ Σγv        Σγ((b − μ)(b − μ)ᵀ + B) = (Σγ)Σ + Σ (Σγ(vvᵀ − T⁻¹)) Σ

A NaN is an entry that was not observed: T has no row and no column there, and v is 0.

Where only an interval is known in which one value of a row lies, w_c − μ_c given the others is normal with the variance
s² = 1/(T⁻¹)_cc and the mean m = −s² v_c, if v is computed with 0 in its place. Its mean within the interval takes that
place, and the variance there, V, adds V qqᵀ to vvᵀ − T⁻¹, where q is the column c of T⁻¹.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock
from dem.families.gaussian.covariance import LOG_2PI, GaussianParameters, GaussianStatistics
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.interval import drawn, truncated
from dem.families.workspace import Workspace, fresh
from dem.row_draws import RowDraws

# Bytes of the matrices T of a block: what a sweep goes through again and again should stay in the cache.
BLOCK_BYTES = 2**21
DOUBLE = np.dtype(np.float64)


class DeconvolutionKernel:
    """The E-step of covariances that are matrices over rows with errors or limits, in double precision.

    `finish` makes the statistics of an E-step of Σγy, Σγyyᵀ and Σγ of all components, where y = Uᵀ(x − μ). With `rng`
    draws take the place of means within intervals, for `DeconvolutionBlock.means` alone.
    """

    trusted_above = -math.inf
    rng: RowDraws | None = None

    def __init__(
        self, parameters: GaussianParameters, frame: Frame, finish: Callable[[Array, Array, Array], GaussianStatistics]
    ) -> None:
        n_components, d = parameters.means.shape
        self.frame, self.finish, self.which = frame, finish, np.arange(n_components)
        self.all_factors = np.broadcast_to(parameters.precisions_cholesky, (n_components, d, d))
        self.means = parameters.means
        self.covariances = np.broadcast_to(parameters.covariances, (n_components, d, d))
        self.clear()

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the matrices in the cache."""
        n_components, d = self.means.shape
        return int(max(BLOCK_BYTES // (4 * d * (d + 3) * n_components), 16))

    def clear(self) -> None:
        """Start the sums anew, in a workspace of its own."""
        self.workspace = Workspace()
        n_components, d = self.means.shape
        self.counts = np.zeros(n_components)
        self.first, self.second = np.zeros((n_components, d)), np.zeros((n_components, d, d))

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        return fresh(self, which=self.which[which], means=self.means[which], covariances=self.covariances[which])

    def block(self, chunk: RowBlock) -> DeconvolutionBlock:
        """Return v and T⁻¹ of all rows and components."""
        return DeconvolutionBlock(self, chunk)

    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated, as the ordinary kernel does. In own frames Σ is the identity, and UᵀΣ = U⁻¹."""
        n, which = len(self.all_factors), self.which
        inverse = np.linalg.inv(self.all_factors[which])
        counts, first, second = np.zeros(n), np.zeros((n, *self.first.shape[1:])), np.zeros_like(self.all_factors)
        counts[which], first[which] = self.counts, np.einsum("kij,kj->ki", inverse, self.first)
        within = inverse @ self.second @ inverse.swapaxes(1, 2)
        second[which] = self.counts[:, np.newaxis, np.newaxis] * np.eye(first.shape[1]) + within
        found = self.finish(first, second, counts)
        return GaussianStatistics(found.first[which], found.second[which] if found.second.ndim == 3 else found.second)


class DeconvolutionBlock:
    """Rows of a chunk; see `dem.families.base.Block`.

    The upper triangles of all T are swept in place, entry by entry for all rows and components at once; row i of a
    triangle is `self._t[i]`, shape (d − i, n_components, n).
    """

    def __init__(self, kernel: DeconvolutionKernel, chunk: RowBlock) -> None:
        self._kernel = kernel
        self._share = None if kernel.rng is None else kernel.rng.random(chunk.rows.shape)
        rows, means, covariances = chunk.rows, kernel.means, kernel.covariances
        (n, d), n_components, array = rows.shape, len(means), kernel.workspace.array
        x = kernel.frame.apply(rows, array("x", (d, n), DOUBLE))
        gone = np.isnan(x)
        limits = np.full((n, d, 2), np.nan) if chunk.limits is None else chunk.limits
        limited = [np.flatnonzero(~np.isnan(limits[:, k, 0])) for k in range(d)]
        for k, which in enumerate(limited):
            gone[k, which] = False
        has_gaps = bool(gone.any())
        self._v = array("v", (d, n_components, n), DOUBLE)
        np.subtract(x[:, np.newaxis], means.T[:, :, np.newaxis], out=self._v)
        noise = _in_frame(chunk.noise, kernel.frame.scale, n)
        packed = array("t", (d * (d + 1) // 2, n_components, n), DOUBLE)
        starts = np.cumsum([0, *range(d, 0, -1)])
        self._t = [packed[start:end] for start, end in pairwise(starts)]
        for i, row in enumerate(self._t):
            own = covariances[:, i, i:].T[:, :, np.newaxis]
            if noise.ndim == 3:
                np.add(own, noise[i, i:, np.newaxis], out=row)
            else:
                row[...] = own
                row[0] += noise[i]
            if has_gaps:
                row[:, :, gone[i]] = 0.0
                for j in range(i, d):
                    row[j - i, :, gone[j]] = 0.0
                row[0, :, gone[i]] = 1.0
        for k, which in enumerate(limited):
            self._v[k][:, which] = 0.0
        if has_gaps:
            self._v[np.broadcast_to(gone[:, np.newaxis], self._v.shape)] = 0.0
        log_scale = np.log(kernel.frame.scale)
        self._constant = -0.5 * LOG_2PI * (d - gone.sum(axis=0)) - log_scale @ ~gone
        self._squares = array("squares", (n_components, n), DOUBLE)
        self._logs = array("logs", (n_components, n), DOUBLE)
        self._squares[...] = self._logs[...] = 0.0
        for k in range(d):
            self._sweep(k)
        if has_gaps:
            for i, row in enumerate(self._t):
                row[0, :, gone[i]] = 0.0
        for k, which in enumerate(limited):
            if len(which):
                self._censor(k, which, (limits[which, k].T - kernel.frame.origin[k]) / kernel.frame.scale[k])
                self._constant[which] += log_scale[k] + 0.5 * LOG_2PI

    def _sweep(self, k: int) -> None:
        """Sweep T on its k-th diagonal entry: after all of them T holds −T⁻¹, and v, the row less μ before, T⁻¹v."""
        t, v, d, array = self._t, self._v, len(self._t), self._kernel.workspace.array
        column, scaled, product = (array(name, v.shape, DOUBLE) for name in ("column", "scaled", "product"))
        for j in range(k):
            column[j] = t[j][k - j]
        column[k:] = t[k]
        inverse = array("inverse", v.shape[1:], DOUBLE)
        np.divide(1.0, column[k], out=inverse)
        self._logs -= np.log(column[k], out=product[0])
        np.multiply(column, inverse, out=scaled)
        for i in range(d):
            if i != k:
                np.multiply(scaled[i:], column[i], out=product[i:])
                t[i] -= product[i:]
        for j in range(k):
            t[j][k - j] = scaled[j]
        t[k][...] = scaled[k:]
        np.negative(inverse, out=t[k][0])
        last = v[k].copy()
        np.multiply(scaled, last, out=product)
        v -= product
        np.multiply(last, inverse, out=v[k])
        last *= v[k]
        self._squares += last

    def _censor(self, k: int, which: NDArray[np.intp], ends: Array) -> None:
        """Put what is known of a value that lies between `ends`, shape (2, n), in the place of 0; of some rows."""
        t, mean = self._t, self._kernel.means[:, k, np.newaxis]
        q = -np.array([t[min(i, k)][abs(i - k)][:, which] for i in range(len(t))])
        variance = 1.0 / q[k]
        deviation, expected = np.sqrt(variance), -variance * self._v[k][:, which]
        lower, upper = (ends[:, np.newaxis] - mean - expected) / deviation
        log_mass, within, share = truncated(lower, upper)
        if self._share is not None:
            within = drawn(lower, upper, self._share[which, k])
        self._squares[:, which] -= expected**2 / variance
        self._logs[:, which] += np.log(variance) + 2.0 * log_mass
        self._v[:, :, which] += q * (expected + deviation * within)
        share *= variance
        for i, row in enumerate(t):
            row[:, :, which] += q[i:] * (q[i] * share)

    def log_density(self) -> NDArray[Any]:
        """Return log N(w; μ, T), with the probability of an interval for the density in it; (n_components, n)."""
        density = self._kernel.workspace.array("density", self._squares.shape, DOUBLE)
        np.subtract(self._logs, self._squares, out=density)
        density *= 0.5
        density += self._constant
        return density

    def means(self) -> Array:
        """Return b = μ + Σv, what is expected of x without errors, in the user's units, (n_components, n, d)."""
        kernel, frame = self._kernel, self._kernel.frame
        away = np.einsum("kij,jkn->kni", kernel.covariances, self._v)
        return np.asarray((kernel.means[:, np.newaxis] + away) * frame.scale + frame.origin)

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows: nothing is to do, for their responsibilities are 0."""

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add Σγ, Σγv and Σγ(vvᵀ − T⁻¹)."""
        kernel, v = self._kernel, self._v
        kernel.counts += responsibilities.sum(axis=1)
        weighted = kernel.workspace.array("product", v.shape, DOUBLE)
        np.multiply(v, responsibilities, out=weighted)
        kernel.first += weighted.sum(axis=2).T
        kernel.second += np.matmul(weighted.swapaxes(0, 1), v.transpose(1, 2, 0))
        for i, row in enumerate(self._t):
            sums = np.einsum("jkn,kn->kj", row, responsibilities)
            kernel.second[:, i, i:] += sums
            kernel.second[:, i + 1 :, i] += sums[:, 1:]


def _in_frame(noise: NDArray[Any] | None, scale: Array, n: int) -> Array:
    """Return errors in the frame with the features first, (d, n) or (d, d, n)."""
    if noise is None:
        return np.zeros((len(scale), n))
    scaled = noise / (scale**2 if noise.ndim == 2 else np.outer(scale, scale))
    return np.ascontiguousarray(np.moveaxis(scaled, 0, -1))
