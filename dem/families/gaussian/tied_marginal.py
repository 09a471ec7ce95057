"""Rows with missing values under a tied covariance: all patterns together, each with one matrix for all components.

As in `marginal`, A_oᵀ = Q R of the root of the covariance gives what a pattern needs. In the whitened frame y = Uᵀx,
with c = Uᵀμ, the completed row is G x_o + (I − QQᵀ) c, where G = Q R⁻ᵀ. So z = G x_o serves all components: the
log-densities of a pattern are W [z, 1] − ½z², and the second moments of z, whatever their patterns, are one product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock
from dem.families.gaps import keys_of
from dem.families.gaussian.covariance import LOG_2PI, GaussianStatistics, block_rows
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.marginal import KEPT_BYTES, Finish
from dem.families.workspace import Workspace

DOUBLE = np.dtype(np.float64)


@dataclass(frozen=True, eq=False)
class TiedPatterns:
    """The marginal distributions of some patterns.

    Attributes
    ----------
    maps : ndarray of shape (n_patterns, n_features, n_features)
        G, with zeros for what is missing.
    projections : ndarray of the same shape
        QQᵀ.
    weights : ndarray of shape (n_patterns, n_components, n_features + 1)
        W = [QQᵀc, log-density at z = 0].
    """

    maps: Array
    projections: Array
    weights: Array


class TiedMarginals:
    """The marginal distributions at certain parameters, each made when it is first asked for.

    Parameters
    ----------
    means : ndarray of shape (n_components, n_features)
        In the frame.
    factor : ndarray of shape (n_features, n_features)
        Upper-triangular U with U Uᵀ = precision.
    frame : Frame
    """

    def __init__(self, means: Array, factor: Array, frame: Frame) -> None:
        self.frame, self.centres = frame, means @ factor
        self._root = np.triu(np.linalg.inv(factor))  # Aᵀ
        self._kept: dict[bytes, tuple[Array, Array, Array]] = {}
        self._most = most_tied(*means.shape)

    def of(self, missing: NDArray[np.bool_]) -> TiedPatterns:
        """Return the marginal distributions of patterns, shape (n_patterns, n_features)."""
        keys = [row.tobytes() for row in missing]
        found = [self._kept.get(key) for key in keys]
        new = [number for number, one in enumerate(found) if one is None]
        if new:
            for number, one in zip(new, zip(*self._make(missing[new]), strict=True), strict=True):
                found[number] = one
                if len(self._kept) < self._most:
                    self._kept[keys[number]] = one
        return TiedPatterns(*(np.array(arrays) for arrays in zip(*(one for one in found if one), strict=True)))

    def _make(self, missing: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
        """Return maps, projections and weights; patterns that lack equally many features share the calls of LAPACK."""
        n, d = missing.shape
        maps, projections, constants = np.zeros((n, d, d)), np.zeros((n, d, d)), np.zeros(n)
        sizes = d - missing.sum(axis=1)
        for size in np.unique(sizes[sizes > 0]):
            (which,) = np.nonzero(sizes == size)
            observed = np.nonzero(~missing[which])[1].reshape(-1, size)
            basis, upper = np.linalg.qr(np.moveaxis(self._root[:, observed], 0, 1))
            # (n, size, d): where one index stands between two lists, it comes last.
            maps[which[:, np.newaxis], :, observed] = np.linalg.inv(upper) @ basis.swapaxes(1, 2)
            projections[which] = basis @ basis.swapaxes(1, 2)
            constants[which] = -np.log(np.abs(np.diagonal(upper, axis1=1, axis2=2))).sum(axis=1)
            constants[which] -= 0.5 * size * LOG_2PI + np.log(self.frame.scale[observed]).sum(axis=1)
        centres = self.centres @ projections
        at_zero = constants[:, np.newaxis] - 0.5 * np.sum(centres**2, axis=2)
        return maps, projections, np.concatenate([centres, at_zero[:, :, np.newaxis]], axis=2)


def most_tied(n_components: int, n_features: int) -> int:
    """Return for how many patterns the marginal distributions are kept during an E-step."""
    return KEPT_BYTES // (8 * (2 * n_features**2 + 2 * n_components * (n_features + 1) + 64))


class TiedMarginalKernel:
    """The arithmetic of an E-step for rows of some patterns; it is fast where those of a pattern are side by side."""

    trusted_above = -np.inf

    def __init__(self, marginals: TiedMarginals, missing: NDArray[np.bool_], finish: Finish) -> None:
        self.frame, self.finish = marginals.frame, finish
        self.keys, numbers = np.unique(keys_of(missing), return_index=True)
        self.patterns = marginals.of(missing[numbers])
        self.workspace = Workspace()
        self.sums = np.zeros_like(self.patterns.weights)
        self.second = np.zeros_like(self.patterns.maps[0])

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        _, n_components, p = self.sums.shape
        return block_rows(DOUBLE.itemsize * (3 * p + 2 * n_components))

    def block(self, chunk: RowBlock) -> TiedMarginalBlock:
        """Return what is observed of rows in the whitened frame."""
        return TiedMarginalBlock(self, chunk.rows)

    def statistics(self) -> GaussianStatistics:
        """Return the completed statistics."""
        first, sums = self.sums[..., :-1], self.sums[..., -1]
        centres, d = self.patterns.weights[..., :-1], len(self.second)
        own = first - sums[..., np.newaxis] * centres
        flat, centres = own.reshape(-1, d), centres.reshape(-1, d)
        # Σγ(z − ν)(z − ν)ᵀ with ν = QQᵀc, and Cov[y | x_o] = I − QQᵀ
        second = self.second - first.reshape(-1, d).T @ centres - centres.T @ flat
        of_patterns = sums.sum(axis=1)
        second += of_patterns.sum() * np.eye(d) - np.tensordot(of_patterns, self.patterns.projections, 1)
        second = 0.5 * (second + second.T)
        return self.finish(own.sum(axis=0), second[np.newaxis], sums.sum(axis=0))


class TiedMarginalBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: TiedMarginalKernel, rows: NDArray[np.floating]) -> None:
        self._kernel, workspace = kernel, kernel.workspace
        n, d = rows.shape
        missing = np.isnan(rows)
        x = kernel.frame.apply(rows, workspace.array("x", (d, n), DOUBLE))
        np.copyto(x, 0.0, where=missing.T)
        keys = keys_of(missing)
        starts = np.concatenate([[0], 1 + np.flatnonzero(keys[1:] != keys[:-1])])
        numbers, ends = np.searchsorted(kernel.keys, keys[starts]), np.append(starts[1:], n)
        # The number of a pattern, and where its rows are.
        places = zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True)
        self._runs = [(number, slice(start, end)) for number, start, end in places]
        self._z = z = workspace.array("z", (d + 1, n), DOUBLE)
        z[d] = 1.0
        for number, where in self._runs:
            np.matmul(kernel.patterns.maps[number], x[:, where], out=z[:d, where])

    def log_density(self) -> Array:
        """Return the log-density of what is observed, shape (n_components, n)."""
        kernel, z = self._kernel, self._z
        density = kernel.workspace.array("density", (kernel.sums.shape[1], z.shape[1]), DOUBLE)
        for number, where in self._runs:
            np.matmul(kernel.patterns.weights[number], z[:, where], out=density[:, where])
        density -= 0.5 * np.einsum("ij,ij->j", z[:-1], z[:-1])
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._z[:, which] = 0.0

    def accumulate(self, responsibilities: NDArray[np.float64]) -> None:
        """Add Σγ[z, 1] of each pattern, and Σγzzᵀ of all."""
        kernel, z = self._kernel, self._z
        for number, where in self._runs:
            kernel.sums[number] += responsibilities[:, where] @ z[:, where].T
        whitened = z[:-1]
        kernel.second += (whitened * responsibilities.sum(axis=0)) @ whitened.T
