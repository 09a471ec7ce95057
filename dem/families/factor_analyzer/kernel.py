"""The E-step of factor analysers: time and workspace linear in features times factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import NEGLIGIBLE, Array, RowBlock
from dem.families.factor_analyzer.parameters import FactorParameters, Whitened, times
from dem.families.gaussian.arithmetic import plan
from dem.families.gaussian.covariance import LOG_2PI, block_rows
from dem.families.gaussian.frame import Frame
from dem.families.workspace import Workspace, fresh
from dem.statistics import Statistics

DOUBLE = np.dtype(np.float64)


@dataclass(frozen=True, eq=False)
class FactorStatistics(Statistics):
    """Expected moments of factors and residuals, as seen from the parameters of the E-step.

    u = R⁻¹(z − ν) are the factors and t = Ψ^−½(x − μ) − Ψ^−½ΛR u what these leave of a row; E is over u given the row.
    Residuals are of the size of the noise, so that no digit of small noise is lost.

    Attributes
    ----------
    residuals, squared_residuals : ndarray of shape (n_components, n_features)
        Σγ E[t] and Σγ E[t²].
    factors : ndarray of shape (n_components, n_factors)
        Σγ E[u].
    squared_factors : ndarray of shape (n_components, n_factors, n_factors)
        Σγ E[uuᵀ].
    cross : ndarray of shape (n_components, n_features, n_factors)
        Σγ E[tuᵀ].
    """

    residuals: Array
    squared_residuals: Array
    factors: Array
    squared_factors: Array
    cross: Array


class FactorKernel:
    """Most components share two wide products, with z = [1, x, x²] and [1, x], for densities and factors.

    With w = Ψ^−½(x − μ) and g = s/√(1 + s²) Bᵀw (see `Whitened`), δ = |w|² − |g|², a difference that costs digits where
    noise is small: such components go through w of their own and δ = |w − Bsf|² + |f|², with f = g/√(1 + s²).
    """

    trusted_above = -np.inf

    def __init__(self, parameters: FactorParameters, frame: Frame) -> None:
        self.frame = frame
        self.white = white = Whitened.of(parameters)
        n_components, d, _ = white.basis.shape
        self.means, self.factors = parameters.means, 1.0 / np.sqrt(parameters.noise)
        self.shrunk = np.sqrt(1.0 + white.strengths**2)
        self.loadings = white.basis * white.strengths[:, np.newaxis]
        volume = 0.5 * d * LOG_2PI + np.log(frame.scale).sum()
        self.constants = np.log(self.factors).sum(axis=1) - 0.5 * white.log_determinants - volume
        centres = self.means * self.factors
        size = np.sqrt(np.sum(centres**2, axis=1)), np.sqrt(d + np.sum(white.strengths**2, axis=1))
        chosen = plan(*size, d, np.inf, single=False)
        self.is_own = np.isin(np.arange(n_components), chosen.own)
        # g = slopes · x + offsets
        share = (white.strengths / self.shrunk)[:, :, np.newaxis] * white.basis.swapaxes(1, 2)
        self.slopes = share * self.factors[:, np.newaxis]
        self.offsets = -times(share, centres)
        precisions = self.factors**2
        at_zero = self.constants - 0.5 * np.sum(centres**2, axis=1)
        self.weights = np.hstack([at_zero[:, np.newaxis], self.means * precisions, -0.5 * precisions])
        self.clear()

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        n_components, d, n_factors = self.loadings.shape
        return block_rows(8 * (1 + 5 * d + n_components * (n_factors + 3)))

    def clear(self) -> None:
        """Start the sums anew, in a workspace of its own."""
        self.workspace = Workspace()
        n_components, d, n_factors = self.loadings.shape
        self.counts = np.zeros(n_components)
        self.sums = FactorStatistics(
            np.zeros((n_components, d)),
            np.zeros((n_components, d)),
            np.zeros((n_components, n_factors)),
            np.zeros((n_components, n_factors, n_factors)),
            np.zeros((n_components, d, n_factors)),
        )

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        names = ("means", "factors", "shrunk", "loadings", "constants", "is_own", "slopes", "offsets", "weights")
        white = Whitened(self.white.basis[which], self.white.strengths[which], self.white.rotation[which])
        return fresh(self, white=white, **{name: getattr(self, name)[which] for name in names})

    def block(self, chunk: RowBlock) -> FactorBlock:
        """Return rows in the forms that the components need."""
        return FactorBlock(self, chunk.rows)

    def statistics(self) -> FactorStatistics:
        """Return what was accumulated, with the variances of the factors given the rows."""
        sums, variances = self.sums, self.counts[:, np.newaxis] / self.shrunk**2
        return self.turned(
            replace(
                sums,
                squared_residuals=sums.squared_residuals + times(self.loadings**2, variances),
                squared_factors=sums.squared_factors + variances[:, np.newaxis] * np.eye(variances.shape[1]),
                cross=sums.cross - self.loadings * variances[:, np.newaxis],
            )
        )

    def turned(self, sums: FactorStatistics) -> FactorStatistics:
        """Return moments of f as those of u = Vf."""
        turn = self.white.rotation
        return replace(
            sums,
            factors=times(turn, sums.factors),
            squared_factors=turn @ sums.squared_factors @ turn.swapaxes(1, 2),
            cross=sums.cross @ turn.swapaxes(1, 2),
        )


class FactorBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: FactorKernel, rows: NDArray[Any]) -> None:
        self._kernel, workspace = kernel, kernel.workspace
        n_components, d, n_factors = kernel.loadings.shape
        n = len(rows)
        self._z = z = workspace.array("z", (1 + 2 * d, n), DOUBLE)
        z[0] = 1.0
        self._x = kernel.frame.apply(rows, z[1 : 1 + d])
        np.multiply(self._x, self._x, out=z[1 + d :])
        self._g = workspace.array("g", (n_components, n_factors, n), DOUBLE)
        np.matmul(kernel.slopes.reshape(-1, d), self._x, out=self._g.reshape(-1, n))
        self._g += kernel.offsets[:, :, np.newaxis]
        self._squares = workspace.array("squares", (n_components, n), DOUBLE)
        for k in np.flatnonzero(kernel.is_own).tolist():
            away, scaled = self._whitened(k, self._x), kernel.white.strengths[k] / kernel.shrunk[k]
            np.matmul(scaled[:, np.newaxis] * kernel.white.basis[k].T, away, out=self._g[k])
            residual, factors = self._residual(k, away, self._g[k])
            np.einsum("ij,ij->j", residual, residual, out=self._squares[k])
            self._squares[k] += np.einsum("ij,ij->j", factors, factors)

    def log_density(self) -> NDArray[Any]:
        """Return log p(row | component), shape (n_components, n)."""
        kernel = self._kernel
        density = kernel.workspace.array("density", self._squares.shape, DOUBLE)
        np.matmul(kernel.weights, self._z, out=density)
        for k, (own, g, squares) in enumerate(zip(kernel.is_own, self._g, self._squares, strict=True)):
            if own:
                np.multiply(squares, -0.5, out=density[k])
                density[k] += kernel.constants[k]
            else:
                density[k] += 0.5 * np.einsum("ij,ij->j", g, g)
        return density

    def factors(self) -> NDArray[Any]:
        """Return E[u | row], shape (n_components, n_factors, n)."""
        kernel = self._kernel
        return np.asarray(kernel.white.rotation @ (self._g / kernel.shrunk[:, :, np.newaxis]))

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._z[:, which] = 0.0
        self._g[..., which] = 0.0

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add the moments of the rows, weighted, to those of the kernel."""
        kernel, sums = self._kernel, self._kernel.sums
        kernel.counts += responsibilities.sum(axis=1)
        for k, share in enumerate(responsibilities):
            (where,) = np.nonzero(share > NEGLIGIBLE)
            if not len(where):
                continue
            # With many features most rows have one component, and its moments need no other's rows.
            own: Any = where if 2 * len(where) < len(share) else slice(None)
            share = share[own]
            residual, factors = self._residual(k, self._whitened(k, self._x[:, own]), self._g[k][:, own])
            weighted = factors * share
            sums.factors[k] += weighted.sum(axis=1)
            sums.squared_factors[k] += np.dot(weighted, factors.T)
            sums.cross[k] += np.dot(residual, weighted.T)
            sums.residuals[k] += np.dot(residual, share)
            residual *= residual
            sums.squared_residuals[k] += np.dot(residual, share)

    def _whitened(self, k: int, x: NDArray[Any]) -> NDArray[Any]:
        """Return w of rows x (d, n)."""
        kernel = self._kernel
        away = np.subtract(x, kernel.means[k][:, np.newaxis], out=kernel.workspace.array("away", x.shape, DOUBLE))
        away *= kernel.factors[k][:, np.newaxis]
        return np.asarray(away)

    def _residual(self, k: int, away: NDArray[Any], g: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return w − Bsf, in the place of w, and f."""
        kernel = self._kernel
        factors = g / kernel.shrunk[k][:, np.newaxis]
        explained = np.matmul(kernel.loadings[k], factors, out=kernel.workspace.array("fit", away.shape, DOUBLE))
        away -= explained
        return away, np.asarray(factors)
