"""The E-step where each component has a covariance of its own, full or diagonal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, ChunkKernel, Kernel, RowBlock
from dem.families.gaussian import device, fused
from dem.families.gaussian.arithmetic import Plan
from dem.families.gaussian.covariance import GaussianParameters, GaussianStatistics, block_rows
from dem.families.gaussian.frame import Frame
from dem.families.workspace import Workspace, add_weighted, fresh
from dem.namespaces import is_on_device


class GaussianKernel(Kernel[GaussianStatistics], Protocol):
    """The arithmetic of an E-step of Gaussian components that knows all values of its rows."""

    def linear(self, slopes: Array, intercepts: Array) -> Self:
        """Return the same with slope · log-density + intercept, (n_components,) each, in place of log-densities."""

    def block_rows_with(self, numbers: int) -> int:
        """Rows per block that keep the workspace in the cache, and so many numbers more for each row."""


class OwnCovarianceKernel(ChunkKernel, ABC):
    """Most components share one wide product over z = [1, x, products of x]: log-densities are W z, statistics γ zᵀ.

    Those that it would cost accuracy go one by one through their own frames y, where the covariance is the identity.
    `plan` says which way a component goes, `constant` are the log-densities at the means, `weights` is W, shape
    (n_wide_components, n_terms), and `factors` take x − μ to y.
    """

    #: dimensions of a component's second moment
    _second_axes: int
    #: whether all features of a component have one variance, so that only the sum of their squares counts
    is_isotropic: bool = False

    def __init__(
        self, parameters: GaussianParameters, frame: Frame, plan: Plan, constant: Array, weights: Array, factors: Array
    ) -> None:
        self.frame, self.plan = frame, plan
        self.trusted_above = plan.trusted_above(constant)
        self.constant = constant.astype(plan.dtype)
        self.of_squares = np.full_like(self.constant, -0.5)
        self.weights = weights.astype(plan.dtype)
        self.means = parameters.means.astype(plan.dtype)[:, :, np.newaxis]
        self.factors = factors.astype(plan.dtype)
        self.for_loops: dict[bytes, Any] = {}
        self.clear()

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        return self.block_rows_with(0)

    def block_rows_with(self, numbers: int) -> int:
        """Rows per block that keep the workspace in the cache, and so many numbers more for each row."""
        n_components, d = self.means.shape[:2]
        numbers += self._shared_numbers(d) + d * len(self.plan.own) + 2 * n_components
        return block_rows(self.plan.dtype.itemsize * numbers)

    def clear(self) -> None:
        """Start the sums anew, in a workspace of its own."""
        self.workspace = Workspace()
        n_components, d = self.means.shape[:2]
        self.wide_sums = np.zeros((self.weights.shape[1], len(self.plan.wide)))
        self.first = np.zeros((n_components, d))
        self.second = np.zeros((n_components, *(self._second_axes * (d,))))

    def linear(self, slopes: Array, intercepts: Array) -> Self:
        """Return the same arithmetic with slope · log-density + intercept in the place of each log-density."""
        wide, dtype = self.plan.wide, self.plan.dtype
        weights = self.weights * slopes[wide, np.newaxis]
        weights[:, :1] += intercepts[wide, np.newaxis]
        return fresh(
            self,
            for_loops={},
            constant=(self.constant * slopes + intercepts).astype(dtype),
            of_squares=(-0.5 * slopes).astype(dtype),
            weights=weights.astype(dtype),
        )

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        plan, places = self.plan.take(which)
        return fresh(
            self,
            for_loops={},
            plan=plan,
            weights=self.weights[places],
            constant=self.constant[which],
            of_squares=self.of_squares[which],
            means=self.means[which],
            factors=self.factors[which] if len(plan.own) else self.factors[:0],
        )

    def block(self, chunk: RowBlock) -> OwnCovarianceBlock:
        """Return rows in the forms that the components need."""
        return OwnCovarianceBlock(self, chunk.rows)

    def sums_of(
        self, log_weights: Array, segments: Sequence[slice], chunk: RowBlock
    ) -> tuple[Array, Array, NDArray[np.intp]] | None:
        """Put a chunk through the E-step of a device, where its rows lie there, or the compiled one."""
        if is_on_device(chunk.rows):
            return device.sums_of(self, log_weights, segments, chunk)
        return fused.sums_of(self, log_weights, segments, chunk)

    def fill(self, name: str, log_weights: Array, chunk: RowBlock, result: NDArray[Any]) -> NDArray[np.intp] | None:
        """Put a chunk through the loop over rows, on its device or the compiled one."""
        if is_on_device(chunk.rows):
            return device.fill(self, name, log_weights, chunk, result)
        return fused.fill(self, name, log_weights, chunk, result)

    @property
    @abstractmethod
    def factors_of_terms(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The two features whose product each term of z is, shape (n_terms,); number d stands for 1."""

    @abstractmethod
    def _shared_numbers(self, d: int) -> int:
        """Return how many numbers per row no component has for itself."""

    @abstractmethod
    def append_products(self, z: NDArray[Any], d: int) -> None:
        """Complete z of a block, shape (n_terms, n), whose rows 1 to d are x: set what is behind them."""

    @abstractmethod
    def to_own_frame(self, k: int, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Set `out` to rows x (d, n) in the own frame of component k."""

    @abstractmethod
    def add_own(self, k: int, y: NDArray[Any], responsibility: NDArray[Any]) -> None:
        """Add Σγy and Σγyyᵀ of rows y (d, n) in the own frame of component k; y may be overwritten."""

    @abstractmethod
    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated."""


class OwnCovarianceBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: OwnCovarianceKernel, rows: NDArray[Any]) -> None:
        self._kernel = kernel
        (n, d), dtype, workspace = rows.shape, kernel.plan.dtype, kernel.workspace
        wide, own = kernel.plan.wide, kernel.plan.own
        self._z = z = workspace.array("z", (kernel.weights.shape[1] if len(wide) else 1 + d, n), dtype)
        x = kernel.frame.apply(rows, z[1 : 1 + d])
        if len(wide):
            z[0] = 1.0
            kernel.append_products(z, d)
        self._y = workspace.array("y", (len(own), d, n), dtype)
        self._squares = workspace.array("squares", (len(own), n), dtype)
        for k, y, squares in zip(own, self._y, self._squares, strict=True):
            kernel.to_own_frame(k, x, y)
            np.einsum("ij,ij->j", y, y, out=squares)

    def log_density(self) -> NDArray[Any]:
        """Return log p(row | component), shape (n_components, n)."""
        kernel, wide, own = self._kernel, self._kernel.plan.wide, self._kernel.plan.own
        density = kernel.workspace.array("density", (len(kernel.constant), self._z.shape[1]), kernel.plan.dtype)
        if not len(own):
            return np.matmul(kernel.weights, self._z, out=density)
        if len(wide):
            density[wide] = kernel.weights @ self._z
        for k, squares in zip(own, self._squares, strict=True):
            np.multiply(squares, kernel.of_squares[k], out=density[k])
            density[k] += kernel.constant[k]
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._z[:, which] = 0.0
        self._y[..., which] = 0.0

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add the statistics of the rows, weighted, to those of the kernel."""
        kernel, wide, own = self._kernel, self._kernel.plan.wide, self._kernel.plan.own
        if len(wide):
            add_weighted(kernel.wide_sums, self._z, responsibilities[wide] if len(own) else responsibilities)
        for k, y in zip(own, self._y, strict=True):
            kernel.add_own(k, y, responsibilities[k])
