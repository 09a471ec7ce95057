"""Rows with missing values under diagonal covariances: whatever a row lacks, masks m say what counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock
from dem.families.gaussian.covariance import LOG_2PI, GaussianStatistics, block_rows
from dem.families.gaussian.frame import Frame
from dem.families.workspace import Workspace, add_weighted

DOUBLE = np.dtype(np.float64)


class MaskedDiagonalKernel:
    """Components share one product over z = [m x, m x², m], or go through their own frames y, as `DiagonalKernel` does.

    What is missing counts as its expectation: x as μ and x² as μ² + σ², y as 0 and y² as 1.

    Parameters
    ----------
    means, factors : ndarray of shape (n_components, n_features)
        μ and 1/σ, in the frame.
    frame : Frame
    own : ndarray of int
        Components with frames of their own.
    """

    trusted_above = -np.inf

    def __init__(self, means: Array, factors: Array, frame: Frame, own: NDArray[np.intp]) -> None:
        self.frame, self.means, self.factors, self.own = frame, means, factors, own
        self.wide = np.setdiff1d(np.arange(len(means)), own)
        self.constants = np.log(factors) - 0.5 * LOG_2PI - np.log(frame.scale)
        centres, precisions = means[self.wide], factors[self.wide] ** 2
        at_zero = self.constants[self.wide] - 0.5 * centres**2 * precisions
        self.weights = np.hstack([centres * precisions, -0.5 * precisions, at_zero])
        self.workspace = Workspace()
        self.counts = np.zeros((len(means), 1))
        self.wide_sums = np.zeros((3 * means.shape[1], len(self.wide)))
        self.own_sums = np.zeros((3, *means[own].shape))

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        n_components, d = self.means.shape
        return block_rows(8 * (d * (5 + len(self.own)) + 2 * n_components))

    def block(self, chunk: RowBlock) -> MaskedDiagonalBlock:
        """Return rows in the forms that the components need."""
        return MaskedDiagonalBlock(self, chunk.rows)

    def statistics(self) -> GaussianStatistics:
        """Return the completed statistics."""
        first, second = np.empty((2, *self.means.shape))
        wide, means = self.wide, self.means[self.wide]
        x, squares, seen = np.split(self.wide_sums.T, 3, axis=1)
        unseen = self.counts[wide] - seen
        first[wide] = x + unseen * means
        second[wide] = squares + unseen * (means**2 + 1.0 / self.factors[wide] ** 2)
        y, squares, seen = self.own_sums
        first[self.own], second[self.own] = y, squares + (self.counts[self.own] - seen)
        return GaussianStatistics(first, second)


class MaskedDiagonalBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: MaskedDiagonalKernel, rows: NDArray[Any]) -> None:
        self._kernel, workspace, own = kernel, kernel.workspace, kernel.own
        n, d = rows.shape
        self._z = z = workspace.array("z", (3 * d, n), DOUBLE)
        x, seen = kernel.frame.apply(np.asarray(rows), z[:d]), z[2 * d :]
        missing = np.isnan(x)
        np.subtract(1.0, missing, out=seen)
        np.copyto(x, 0.0, where=missing)
        np.multiply(x, x, out=z[d : 2 * d])
        self._y = workspace.array("y", (len(own), d, n), DOUBLE)
        self._squares = workspace.array("squares", (len(own), n), DOUBLE)
        for k, y, squares in zip(own, self._y, self._squares, strict=True):
            np.subtract(x, kernel.means[k][:, np.newaxis], out=y)
            y *= kernel.factors[k][:, np.newaxis]
            y *= seen
            np.einsum("ij,ij->j", y, y, out=squares)

    def log_density(self) -> Array:
        """Return the log-density of what is observed, shape (n_components, n)."""
        kernel, d = self._kernel, self._kernel.means.shape[1]
        density = kernel.workspace.array("density", (len(kernel.means), self._z.shape[1]), DOUBLE)
        if not len(kernel.own):
            return np.matmul(kernel.weights, self._z, out=density)
        density[kernel.wide] = np.dot(kernel.weights, self._z)
        density[kernel.own] = np.dot(kernel.constants[kernel.own], self._z[2 * d :]) - 0.5 * self._squares
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._z[:, which] = 0.0
        self._y[..., which] = 0.0

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add Σγ, and Σγ[m x, m x², m] or Σγ[y, y², m] of the rows."""
        kernel, d, own = self._kernel, self._kernel.means.shape[1], self._kernel.own
        kernel.counts += responsibilities.sum(axis=1, keepdims=True)
        if len(kernel.wide):
            shares = responsibilities[kernel.wide] if len(own) else responsibilities
            add_weighted(kernel.wide_sums, self._z, shares)
        if len(own):
            kernel.own_sums[2] += np.dot(responsibilities[own], self._z[2 * d :].T)
        for k, y, first, second in zip(own, self._y, *kernel.own_sums[:2], strict=True):
            first += np.dot(y, responsibilities[k])
            y *= y
            second += np.dot(y, responsibilities[k])
