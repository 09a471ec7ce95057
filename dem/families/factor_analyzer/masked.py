"""Factor analysers of rows with missing values: each row has the factors that its observed features tell.

With A = Ψ^−½ΛRV and M = I + Σ A_j A_jᵀ over the observed features j, the factors given a row are N(M⁻¹ Σ A_j w_j, M⁻¹):
no more than q × q for each row, whatever the patterns, and no matrix of features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock
from dem.families.factor_analyzer.kernel import DOUBLE, FactorBlock, FactorKernel, FactorStatistics
from dem.families.gaussian.covariance import LOG_2PI, block_rows


class MaskedFactorKernel(FactorKernel):
    """The arithmetic of an E-step for rows of any patterns of missing values.

    What is missing has the expected residual t = 0 and t² = 1.
    """

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        n_components, d, n_factors = self.loadings.shape
        return block_rows(8 * (6 * d + n_components * (n_factors**2 + n_factors + 2)))

    def block(self, chunk: RowBlock) -> MaskedFactorBlock:
        """Return rows in the forms that the components need."""
        return MaskedFactorBlock(self, chunk.rows)

    def statistics(self) -> FactorStatistics:
        """Return what was accumulated."""
        return self.turned(self.sums)


class MaskedFactorBlock(FactorBlock):
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: MaskedFactorKernel, rows: NDArray[Any]) -> None:
        self._kernel, workspace = kernel, kernel.workspace
        n_components, d, n_factors = kernel.loadings.shape
        n = len(rows)
        self._x = kernel.frame.apply(np.asarray(rows), workspace.array("x", (d, n), DOUBLE))
        missing = np.isnan(self._x)
        self._seen = np.subtract(1.0, missing, out=workspace.array("seen", (d, n), DOUBLE))
        np.copyto(self._x, 0.0, where=missing)
        self._factors = workspace.array("factors", (n_components, n_factors, n), DOUBLE)
        self._spread = workspace.array("spread", (n_components, n, n_factors, n_factors), DOUBLE)
        self._density = workspace.array("density", (n_components, n), DOUBLE)
        constants = np.log(kernel.factors) - 0.5 * LOG_2PI - np.log(kernel.frame.scale)
        np.matmul(constants, self._seen, out=self._density)
        for k, loadings in enumerate(kernel.loadings):
            products = (loadings[:, :, np.newaxis] * loadings[:, np.newaxis]).reshape(d, -1)
            precision = np.dot(self._seen.T, products).reshape(n, n_factors, n_factors) + np.eye(n_factors)
            self._spread[k] = np.linalg.inv(precision)
            away = self._whitened_seen(k)
            self._factors[k] = np.matmul(self._spread[k], np.dot(away.T, loadings)[:, :, np.newaxis])[:, :, 0].T
            residual = self._unexplained(k, away)
            self._density[k] -= 0.5 * (
                np.linalg.slogdet(precision)[1]
                + np.einsum("ij,ij->j", residual, residual)
                + np.einsum("ij,ij->j", self._factors[k], self._factors[k])
            )

    def log_density(self) -> NDArray[Any]:
        """Return the log-density of what is observed, shape (n_components, n)."""
        density = self._kernel.workspace.array("joint", self._density.shape, DOUBLE)
        density[...] = self._density
        return density

    def factors(self) -> Array:
        """Return E[u | row], (n_components, n_factors, n)."""
        return np.asarray(self._kernel.white.rotation @ self._factors)

    def factor_roots(self) -> Array:
        """Return roots of the covariances of u given the rows, (n_components, n, n_factors, n_factors)."""
        return np.asarray(self._kernel.white.rotation[:, np.newaxis] @ np.linalg.cholesky(self._spread))

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._seen[:, which] = 0.0
        self._factors[..., which] = 0.0

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add the moments of the rows, weighted, to those of the kernel."""
        kernel, sums = self._kernel, self._kernel.sums
        kernel.counts += responsibilities.sum(axis=1)
        d, n_factors = kernel.loadings.shape[1:]
        for k, (share, loadings) in enumerate(zip(responsibilities, kernel.loadings, strict=True)):
            residual, factors = self._unexplained(k, self._whitened_seen(k)), self._factors[k]
            weighted, spread = factors * share, self._spread[k].reshape(len(share), -1)
            counted = self._seen * share
            unknown = np.dot(counted, spread).reshape(d, n_factors, n_factors)
            turned = np.matmul(unknown, loadings[:, :, np.newaxis])[:, :, 0]
            sums.factors[k] += weighted.sum(axis=1)
            sums.squared_factors[k] += np.dot(weighted, factors.T) + np.dot(share, spread).reshape(n_factors, -1)
            sums.cross[k] += np.dot(residual, weighted.T) - turned
            sums.residuals[k] += np.dot(residual, share)
            residual *= residual
            unseen = share.sum() - counted.sum(axis=1)
            sums.squared_residuals[k] += np.dot(residual, share) + np.vecdot(turned, loadings) + unseen

    def _whitened_seen(self, k: int) -> NDArray[Any]:
        """Return w, 0 where it is missing, (d, n)."""
        away = self._whitened(k, self._x)
        away *= self._seen
        return away

    def _unexplained(self, k: int, away: NDArray[Any]) -> NDArray[Any]:
        """Return w − Af where it is observed, else 0, in the place of w."""
        kernel = self._kernel
        fit = kernel.workspace.array("fit", away.shape, DOUBLE)
        np.matmul(kernel.loadings[k], self._factors[k], out=fit)
        fit *= self._seen
        away -= fit
        return away
