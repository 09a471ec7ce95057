"""Rows of which most numbers are 0, and what is asked of rows whether they are such or dense."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Self, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from dem.namespaces import here, to_host

# Numbers of rows that are made dense at once.
DENSE_NUMBERS = 2**20


class SparseRows:
    """A table of numbers of which those that are not 0 are stored, row after row (CSR).

    NumPy takes it for a dense array wherever it is given one: what does not know it should be given few rows.

    Parameters
    ----------
    data : ndarray of shape (n_stored,)
        The numbers that are stored.
    indices : ndarray of int, shape (n_stored,)
        Their columns: within a row each at most once.
    indptr : ndarray of int, shape (n_rows + 1,)
        Where each row begins, and the last ends.
    n_features : int
    """

    ndim = 2
    #: rows lie beside one another, so that `take` copies no others
    flags = SimpleNamespace(c_contiguous=True)

    def __init__(self, data: ArrayLike, indices: ArrayLike, indptr: ArrayLike, n_features: int) -> None:
        from scipy.sparse import csr_array  # noqa: PLC0415 - dense rows do without

        parts: Any = (np.asarray(data), np.asarray(indices), np.asarray(indptr))
        self.matrix: Any = csr_array(parts, shape=(len(parts[2]) - 1, n_features))

    @property
    def data(self) -> NDArray[Any]:
        """The numbers that are stored."""
        found: NDArray[Any] = self.matrix.data
        return found

    @property
    def columns(self) -> NDArray[Any]:
        """Their columns."""
        found: NDArray[Any] = self.matrix.indices
        return found

    @property
    def places(self) -> NDArray[np.intp]:
        """Their rows."""
        return np.arange(len(self)).repeat(np.diff(self.matrix.indptr))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        n_rows, n_features = self.matrix.shape
        return n_rows, n_features

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.data.dtype

    @property
    def size(self) -> int:
        """How many are stored."""
        return self.data.size

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return int(self.data.nbytes + self.columns.nbytes + self.matrix.indptr.nbytes)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | NDArray[Any]) -> Self:
        taken = object.__new__(type(self))
        taken.matrix = self.matrix[which]
        return taken

    def take(self, places: NDArray[Any], axis: int = 0) -> Self:  # noqa: ARG002 - NumPy's face
        """Return some of the rows."""
        return self[places]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            message = "sparse rows are made dense by a copy"
            raise ValueError(message)
        dense: NDArray[Any] = self.matrix.astype(self.dtype if dtype is None else dtype).toarray()
        return dense

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data, self.columns, self.matrix.indptr, self.shape[1])

    def astype(self, dtype: DTypeLike, *, copy: bool = True) -> Self:
        """Return the same in another type of numbers."""
        changed = object.__new__(type(self))
        changed.matrix = self.matrix.astype(dtype, copy=copy)
        return changed

    def min(self) -> Any:
        """Return the least of what is stored; NaN if there is any."""
        return self.data.min()

    def sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sum over each row of something of what is stored, (n_stored,), shape (n_rows,)."""
        return np.bincount(self.places, np.asarray(values, dtype=np.float64), minlength=len(self)).astype(np.float64)


def is_sparse(rows: Any) -> TypeGuard[SparseRows]:
    """Tell whether rows are sparse."""
    return isinstance(rows, SparseRows)


def rows_with_gaps(rows: NDArray[Any] | SparseRows) -> NDArray[np.bool_]:
    """Return which rows have missing values, shape (n,)."""
    if isinstance(rows, SparseRows):
        return rows.sums(np.isnan(rows.data)) > 0.0
    return np.asarray(to_host(here(rows).isnan(rows).any(axis=1)))


def dense_rows(rows: NDArray[Any] | SparseRows, most: int) -> int:
    """Return how many rows may be made dense at once: `most`, of sparse rows as few as take little memory."""
    return min(most, max(DENSE_NUMBERS // rows.shape[1], 1)) if is_sparse(rows) else most


def values_at(
    rows: NDArray[Any] | SparseRows, places: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the values of rows in columns, shape (n,)."""
    found = rows.matrix[places, columns] if isinstance(rows, SparseRows) else rows[places, columns]
    return np.asarray(found, dtype=np.float64)
