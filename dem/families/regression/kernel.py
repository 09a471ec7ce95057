"""The E-step of regressions: residuals and their sums, block by block."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock
from dem.families.gaussian.frame import Frame
from dem.families.regression.least_squares import ResidualSums
from dem.families.workspace import fresh

# Numbers of a block: those of z, of its products and of responsibilities and residuals stay in the cache.
_BLOCK_NUMBERS, _FEWEST_ROWS, _MOST_ROWS = 2**17, 64, 8192


def numbers_of(n_components: int, q: int) -> int:
    """Return how many numbers a row takes: z, its products, residuals, densities and what is made of them."""
    return q * (q + 3) // 2 + 3 * n_components


def block_rows(n_components: int, q: int) -> int:
    """Return how many rows are taken together."""
    return min(max(_BLOCK_NUMBERS // numbers_of(n_components, q), _FEWEST_ROWS), _MOST_ROWS)


def design_of(rows: NDArray[np.float64], frame: Frame) -> tuple[Array, Array]:
    """Return z = [1, x], shape (q, n), and the response, (n,), of rows with the response last, in a frame."""
    z = np.ones((rows.shape[1] + 1, len(rows)))
    frame.apply(rows, out=z[1:])
    return z[:-1], z[-1]


def products_of(z: Array) -> Array:
    """Return z_i z_j of each row for i ≤ j, shape (q (q + 1) / 2, n), row by row of that triangle."""
    q = len(z)
    found, first = np.empty((q * (q + 1) // 2, z.shape[1])), 0
    for i in range(q):
        np.multiply(z[i:], z[i], out=found[first : first + q - i])
        first += q - i
    return found


def matrices(triangles: Array) -> Array:
    """Return symmetric matrices, (n_components, q, q), from sums of `products_of`, (n_components, q (q + 1) / 2)."""
    q = math.isqrt(2 * triangles.shape[1])
    i, j = np.triu_indices(q)
    found = np.empty((len(triangles), q, q))
    found[:, i, j] = found[:, j, i] = triangles
    return found


class RegressionKernel:
    """Residuals about the coefficients of all components in one product, and their sums in two.

    Parameters
    ----------
    frame : Frame
        Of the columns of the design and the response, which is the last.
    columns : ndarray of int, optional
        Where these stand in a row; as they come when left out.
    coefficients : ndarray of shape (n_components, q)
    variances : ndarray of shape (n_components,)
    """

    trusted_above = -math.inf

    def __init__(self, frame: Frame, columns: NDArray[np.intp] | None, coefficients: Array, variances: Array) -> None:
        self.frame, self.columns, self.coefficients = frame, columns, coefficients
        self.slopes = -0.5 / variances[:, np.newaxis]
        log_scale = math.log(frame.scale[-1])
        self.offsets = -0.5 * np.log(2.0 * math.pi * variances)[:, np.newaxis] - log_scale
        self.clear()

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        return block_rows(*self.coefficients.shape)

    def clear(self) -> None:
        """Start the sums anew."""
        n_components, q = self.coefficients.shape
        self.triangles = np.zeros((n_components, q * (q + 1) // 2))
        self.moments, self.squares = np.zeros((n_components, q)), np.zeros(n_components)

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        names = ("coefficients", "slopes", "offsets")
        return fresh(self, **{name: getattr(self, name)[which] for name in names})

    def block(self, chunk: RowBlock) -> RegressionBlock:
        """Return rows in the frame."""
        rows = chunk.rows if self.columns is None else chunk.rows[:, self.columns]
        return RegressionBlock(self, *design_of(rows, self.frame))

    def statistics(self) -> ResidualSums:
        """Return what was accumulated."""
        return ResidualSums(matrices(self.triangles), self.moments, self.squares)


class RegressionBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    _residuals: Array | None = None

    def __init__(self, kernel: RegressionKernel, z: Array, response: Array) -> None:
        self._kernel, self._z, self._response = kernel, z, response

    def log_density(self) -> Array:
        """Return log p(response | design, component), shape (n_components, n)."""
        with np.errstate(invalid="ignore", over="ignore"):
            density = np.square(self._about_lines())
            density *= self._kernel.slopes
            density += self._kernel.offsets
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._about_lines()[:, which] = 0.0
        self._z[:, which] = 0.0

    def accumulate(self, responsibilities: Array) -> None:
        """Add Σγ z zᵀ, Σγ z r and Σγ r² of the rows."""
        kernel, residuals = self._kernel, self._about_lines()
        kernel.triangles += np.dot(responsibilities, products_of(self._z).T)
        weighted = responsibilities * residuals
        kernel.moments += np.dot(weighted, self._z.T)
        kernel.squares += np.vecdot(weighted, residuals)

    def _about_lines(self) -> Array:
        """Return the residuals, shape (n_components, n)."""
        if self._residuals is None:
            residuals = np.dot(self._kernel.coefficients, self._z)
            self._residuals = np.subtract(self._response, residuals, out=residuals)
        return self._residuals
