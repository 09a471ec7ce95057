"""The arithmetic of an E-step for components of an exponential family: products with T(x), with gaps and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock
from dem.families.workspace import fresh
from dem.sparse import DENSE_NUMBERS, SparseRows, is_sparse
from dem.statistics import Statistics

if TYPE_CHECKING:
    from dem.families.exponential_family import ExponentialFamily


@dataclass(frozen=True, eq=False)
class Totals(Statistics):
    """ΣγT(x), shape (n_components, n_statistics)."""

    totals: Array


class ExponentialKernel:
    """One product gives the log-densities, W·T(x), and one the statistics, ΣγT(x)."""

    block_rows = 8192
    trusted_above = -np.inf

    def __init__(self, family: ExponentialFamily, parameters: Array) -> None:
        self.family, self.parameters = family, parameters
        self.slopes, offsets = family.natural_parameters(parameters)
        self.offsets = offsets.sum(axis=1, keepdims=True)
        self.clear()

    def clear(self) -> None:
        """Start the sums anew."""
        self.totals = np.zeros_like(self.slopes)

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        return fresh(self, parameters=self.parameters[which], slopes=self.slopes[which], offsets=self.offsets[which])

    def block(self, chunk: RowBlock) -> ExponentialBlock | SparseBlock:
        """Return rows in double precision."""
        if is_sparse(chunk.rows):
            return SparseBlock(self, chunk.rows)
        return ExponentialBlock(self, np.asarray(chunk.rows, dtype=np.float64))

    def statistics(self) -> Totals:
        """Return what was accumulated."""
        return Totals(self.totals)


class ExponentialBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: ExponentialKernel, rows: Array) -> None:
        self._kernel, self._rows = kernel, rows
        self._statistics = kernel.family.sufficient_statistics(rows)

    def log_density(self) -> Array:
        """Return log p(row | component), shape (n_components, n); NaN for rows outside the support."""
        kernel, family = self._kernel, self._kernel.family
        with np.errstate(invalid="ignore", over="ignore"):
            density: Array = np.dot(kernel.slopes, self._statistics.T)
            density -= kernel.offsets
            density += family.log_base_measure(self._rows).sum(axis=1)
        _set_far(density, kernel, self._rows)
        outside = family.support.outside(self._rows)
        if outside.any():  # to look row by row takes as long as all of the rest
            density[:, outside.any(axis=1)] = np.nan  # makes the loop look for the rows and name them
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._statistics = np.where(which[:, np.newaxis], 0.0, self._statistics)

    def accumulate(self, responsibilities: Array) -> None:
        """Add ΣγT(x) of the rows."""
        self._kernel.totals += np.dot(responsibilities, self._statistics)


class SparseBlock:
    """Sparse rows of a chunk, of a family with T(x) = x that takes them; see `dem.families.base.Block`."""

    def __init__(self, kernel: ExponentialKernel, rows: SparseRows) -> None:
        self._kernel, self._rows = kernel, rows.astype(np.float64, copy=False)

    def log_density(self) -> Array:
        """Return log p(row | component), shape (n_components, n); NaN for rows outside the support."""
        kernel, family, rows = self._kernel, self._kernel.family, self._rows
        with np.errstate(invalid="ignore", over="ignore"):
            density = np.ascontiguousarray((rows.matrix @ kernel.slopes.T).T)
            density -= kernel.offsets
            density += family.log_base_measure_of_sparse(rows)
        _set_far(density, kernel, rows)
        density[:, family.support.places_outside(rows)[0]] = np.nan
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        changed = self._rows.astype(np.float64)
        changed.data[which[changed.places]] = 0.0
        self._rows = changed

    def accumulate(self, responsibilities: Array) -> None:
        """Add Σγx of the rows."""
        self._kernel.totals += (self._rows.matrix.T @ responsibilities.T).T


class MaskedKernel:
    """Rows with missing values: log-densities are Σ m(η·T − A + log h), where m says what is observed.

    With T' = m T that is a product over z = [T', m], whose sums ΣγT' and Σγm give the statistics: a missing T counts
    as its mean.
    """

    block_rows = 8192
    trusted_above = -np.inf

    def __init__(self, family: ExponentialFamily, parameters: Array) -> None:
        slopes, offsets = family.natural_parameters(parameters)
        self.family, self.parameters, self.owners = family, parameters, family.owners(offsets.shape[1])
        self.means = family.mean_parameters(parameters)
        self.weights = np.hstack([slopes, -offsets])
        self.counts = np.zeros((len(self.weights), 1))
        self.sums = np.zeros_like(self.weights)

    def block(self, chunk: RowBlock) -> MaskedBlock:
        """Return rows in double precision."""
        return MaskedBlock(self, np.asarray(chunk.rows, dtype=np.float64))

    def statistics(self) -> Totals:
        """Return ΣγT(x) of completed rows."""
        n_statistics = self.means.shape[1]
        lacking = self.counts - self.sums[:, n_statistics:]
        return Totals(self.sums[:, :n_statistics] + lacking[:, self.owners] * self.means)


class MaskedBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: MaskedKernel, rows: Array) -> None:
        self._kernel, self._rows, family = kernel, rows, kernel.family
        observed = ~np.isnan(rows)
        invalid = family.support.outside(rows) & observed
        # Of what is missing all terms are NaN before they are left out.
        with np.errstate(invalid="ignore", over="ignore"):
            base, statistics = family.log_base_measure(rows), family.sufficient_statistics(rows)
        self._base = np.where(observed, base, 0.0).sum(axis=1)
        self._invalid = invalid.any(axis=1)
        self._z = np.hstack([np.where(observed[:, kernel.owners], statistics, 0.0), observed])

    def log_density(self) -> Array:
        """Return the log-density of what is observed, shape (n_components, n)."""
        with np.errstate(invalid="ignore", over="ignore"):
            density: Array = np.dot(self._kernel.weights, self._z.T)
            density += self._base
        _set_far(density, self._kernel, self._rows)
        density[:, self._invalid] = np.nan  # makes the loop look for the rows and name them
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._z[which] = 0.0

    def accumulate(self, responsibilities: Array) -> None:
        """Add Σγ and Σγ[T', m] of the rows."""
        self._kernel.counts += responsibilities.sum(axis=1, keepdims=True)
        self._kernel.sums += np.dot(responsibilities, self._z)


def _set_far(density: Array, kernel: ExponentialKernel | MaskedKernel, rows: Array | SparseRows) -> None:
    """Compute densities anew, (n_components, n), of rows whose terms are too large to be added; a gap adds nothing."""
    far = kernel.family.far_rows(rows)
    step = max(1, DENSE_NUMBERS // rows.shape[1])
    for which in (far[first : first + step] for first in range(0, len(far), step)):
        own = np.asarray(rows[which], dtype=np.float64)
        for k, parameters in enumerate(kernel.parameters):
            density[k, which] = np.nansum(kernel.family.far_log_density(parameters, own), axis=1)
