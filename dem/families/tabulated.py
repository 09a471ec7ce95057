"""Features that are whole numbers: densities come from tables, so that special functions are taken of distinct values.

A block of rows is a matrix of zeros and ones, (n, n_pairs), whose columns are the pairs of a feature and one of its
values: its product with the table gives the log-densities, and that of the responsibilities with it says how often
each pair has come, from which all statistics follow. Both cost n · n_features · n_components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock, Support
from dem.families.exponential_kernel import Totals
from dem.families.workspace import fresh
from dem.sparse import SparseRows, is_sparse

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Values from here on have no place in the tables, which would be large: each block has its own of them.
LARGE = 4096
# Numbers of a block, which stay in the cache with their places.
_BLOCK_NUMBERS = 2**17


class TabulatedFamily(Protocol):
    """What a family says of pairs: features, (n_pairs,) numbers of columns, and values in them, (n_pairs,)."""

    @property
    def support(self) -> Support:
        """Whole numbers, not negative."""

    def log_densities(self, parameters: Array, columns: NDArray[np.intp], values: Array) -> Array:
        """Return the log-densities, shape (n_components, n_pairs)."""

    def add_pairs(self, sums: Array, parameters: Array, columns: NDArray[np.intp], values: Array, often: Array) -> None:
        """Add the T of pairs to sums (n_components, n_statistics), each so often: (n_components, n_pairs).

        The pairs are ordered by their columns.
        """

    def owners(self, n_features: int) -> NDArray[np.intp]:
        """Return the feature that each statistic is of."""

    def mean_parameters(self, parameters: Array) -> Array:
        """Return the expectation of T(x), shape (n_components, n_statistics)."""


@dataclass(frozen=True, eq=False)
class Table:
    """The pairs of values below `heights`, (n_features,), in the order of the features; place 0 is a value that lacks.

    Attributes
    ----------
    starts, heights : ndarray of int, shape (n_features,)
    columns : ndarray of int, shape (n_pairs,)
    values : ndarray of shape (n_pairs,)
    densities : ndarray of shape (1 + n_pairs, n_components)
    """

    starts: NDArray[np.intp]
    heights: NDArray[np.intp]
    columns: NDArray[np.intp]
    values: Array
    densities: Array

    @classmethod
    def of(cls, family: TabulatedFamily, parameters: Array, heights: NDArray[np.intp]) -> Self:
        """Return the table with room for all values below some heights."""
        ends = np.cumsum(heights)
        columns = np.arange(len(heights)).repeat(heights)
        values = np.arange(len(columns), dtype=np.float64) - (ends - heights)[columns]
        own = family.log_densities(parameters, columns, values)
        return cls(1 + ends - heights, heights, columns, values, np.vstack([np.zeros(len(parameters)), own.T]))


class TableKernel:
    """The E-step of components whose features are whole numbers, with `gaps` or without.

    A missing value counts as the expectation of its statistics, as in `exponential_kernel.MaskedKernel`.
    """

    trusted_above = -np.inf

    def __init__(self, family: TabulatedFamily, parameters: Array, n_features: int, *, gaps: bool = False) -> None:
        self.family, self.parameters, self.n_features, self.gaps = family, parameters, n_features, gaps
        self.block_rows = max(64, min(8192, _BLOCK_NUMBERS // n_features))
        self.clear()

    def clear(self) -> None:
        """Start the sums anew, and the table, which is as high as the rows of one chunk ask for."""
        self.table = Table.of(self.family, self.parameters, np.zeros(self.n_features, dtype=np.intp))
        self.often = np.zeros_like(self.table.densities)
        self.sums = np.zeros((len(self.parameters), self.family.mean_parameters(self.parameters).shape[1]))
        self.lacking = np.zeros((len(self.parameters), self.n_features))

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        return fresh(self, parameters=self.parameters[which])

    def block(self, chunk: RowBlock) -> TableBlock | SparseTableBlock:
        """Return the places of the values in the table, which grows if they need it."""
        if is_sparse(chunk.rows):
            return SparseTableBlock(self, chunk.rows.astype(np.float64, copy=False))
        return TableBlock(self, np.asarray(chunk.rows, dtype=np.float64))

    def grow(self, heights: NDArray[np.intp]) -> None:
        """See to it that the table has room for values below some heights."""
        if (heights > self.table.heights).any():
            self._add_up()
            doubled = 2 ** np.ceil(np.log2(np.maximum(heights, 1))).astype(np.intp)
            self.table = Table.of(self.family, self.parameters, np.maximum(self.table.heights, doubled))
            self.often = np.zeros_like(self.table.densities)

    def _add_up(self) -> None:
        if len(self.table.columns):
            table, often = self.table, self.often[1:].T
            self.family.add_pairs(self.sums, self.parameters, table.columns, table.values, often)

    def statistics(self) -> Totals:
        """Return ΣγT(x) of completed rows."""
        self._add_up()
        self.often[1:] = 0.0
        missing = self.lacking[:, self.family.owners(self.n_features)]
        return Totals(self.sums + missing * self.family.mean_parameters(self.parameters))


class TableBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: TableKernel, rows: Array) -> None:
        from scipy.sparse import csr_array  # noqa: PLC0415 - other families do without

        self._kernel = kernel
        self._missing = np.isnan(rows) & kernel.gaps
        self._invalid = kernel.family.support.outside(rows) & ~self._missing
        absent = self._missing | self._invalid
        values = np.where(absent, 0.0, rows)
        large = values >= LARGE
        kernel.grow(np.where(large, 0.0, values + 1.0).max(axis=0, initial=0.0).astype(np.intp))
        table = kernel.table
        places = table.starts + np.where(large, 0.0, values).astype(np.intp)
        places[absent] = 0
        densities, self._large = table.densities, large_pairs(np.nonzero(large)[1], rows[large])
        if self._large is not None:
            columns, distinct, which = self._large
            places[large] = len(densities) + which
            own = kernel.family.log_densities(kernel.parameters, columns, distinct)
            densities = np.vstack([densities, own.T])
        n, d = rows.shape
        shape = (n, len(densities))
        self._onehot: csr_array = csr_array((np.ones(n * d), places.ravel(), np.arange(0, n * d + 1, d)), shape=shape)
        self._densities = densities

    def log_density(self) -> Array:
        """Return the log-density of what is observed, shape (n_components, n); NaN for rows outside the support."""
        density = np.ascontiguousarray((self._onehot @ self._densities).T)
        # NaN makes the loop look for the rows and name them.
        density[:, self._invalid.any(axis=1)] = np.nan
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._onehot.data.reshape(self._missing.shape)[which] = 0.0
        self._missing[which] = False

    def accumulate(self, responsibilities: Array) -> None:
        """Add how often each pair has come, and how often a value lacked."""
        kernel, often = self._kernel, self._onehot.T @ responsibilities.T
        n_known = len(kernel.often)
        kernel.often += often[:n_known]
        if self._large is not None:
            columns, values, _ = self._large
            kernel.family.add_pairs(kernel.sums, kernel.parameters, columns, values, often[n_known:].T)
        if self._missing.any():
            kernel.lacking += np.dot(responsibilities, self._missing)


class SparseTableBlock:
    """Sparse rows of a chunk: those of zeros alone, and what the values that are stored change of them."""

    def __init__(self, kernel: TableKernel, rows: SparseRows) -> None:
        from scipy.sparse import csr_array  # noqa: PLC0415 - as in `TableBlock`

        values, columns, indptr, (n, d) = rows.data, rows.columns, rows.matrix.indptr, rows.shape
        self._kernel, self._outside = kernel, kernel.family.support.places_outside(rows)[0]
        invalid = kernel.family.support.outside(values)
        large = ~invalid & (values >= LARGE)
        known = np.where(invalid | large, 0.0, values).astype(np.intp)
        heights = np.ones(d, dtype=np.intp)
        np.maximum.at(heights, columns, known + 1)
        kernel.grow(heights)
        table = kernel.table
        zeros = table.densities[table.starts]
        changes = table.densities.copy()
        changes[1:] -= zeros[table.columns]
        places = table.starts[columns] + known
        places[invalid] = 0
        self._large = large_pairs(columns[large], values[large])
        if self._large is not None:
            pairs, distinct, which = self._large
            places[large] = len(changes) + which
            own = kernel.family.log_densities(kernel.parameters, pairs, distinct)
            changes = np.vstack([changes, own.T - zeros[pairs]])
        ones = np.ones(len(values))
        self._onehot: csr_array = csr_array((ones, places, indptr), shape=(n, len(changes)))
        self._stored: csr_array = csr_array((ones, columns, indptr), shape=(n, d))
        self._changes, self._of_zeros = changes, zeros.sum(axis=0)

    def log_density(self) -> Array:
        """Return the log-density, shape (n_components, n); NaN for rows outside the support."""
        density = np.ascontiguousarray((self._onehot @ self._changes).T)
        density += self._of_zeros[:, np.newaxis]
        density[:, self._outside] = np.nan
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows, whose responsibilities are 0."""

    def accumulate(self, responsibilities: Array) -> None:
        """Add how often each pair has come: zeros as often as nothing is stored."""
        kernel, often = self._kernel, self._onehot.T @ responsibilities.T
        n_known = len(kernel.often)
        kernel.often += often[:n_known]
        kernel.often[kernel.table.starts] += responsibilities.sum(axis=1) - self._stored.T @ responsibilities.T
        if self._large is not None:
            columns, values, _ = self._large
            kernel.family.add_pairs(kernel.sums, kernel.parameters, columns, values, often[n_known:].T)


def large_pairs(columns: NDArray[Any], values: Array) -> tuple[NDArray[np.intp], Array, NDArray[np.intp]] | None:
    """Return the distinct pairs among large values, columns and values, and which of them each is."""
    if not len(values):
        return None
    pairs, which = np.unique(np.stack([columns, values]), axis=1, return_inverse=True)
    return pairs[0].astype(np.intp), pairs[1], which.ravel()
