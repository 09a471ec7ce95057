"""Sparse rows (CSR): of SciPy, in memory, and of zarr as AnnData keeps them, read block by block."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, READ_ROWS, Batch, Chunk, Rows, batch_bounds
from dem.data.checks import check_table, reason
from dem.data.found import Found, LeftOut, Missing
from dem.data.joined import Beside, ChangedBatch, JoinedRows
from dem.data.numpy import MIN_CHUNK_ROWS, MIN_CHUNKS, HeldBatch
from dem.data.zarr_part import ZarrPart
from dem.data.zarr_watch import is_remote
from dem.errors import DataError, MissingDataError
from dem.sparse import SparseRows

# What AnnData writes into the attributes of the group of a sparse matrix, and those of them that are read.
ENCODING, ANNDATA, CSR, CSC = "encoding-type", "anndata", "csr_matrix", "csc_matrix"
# Bytes of dense rows that are made at once, for families that take no others.
DENSE_BYTES = READ_BYTES


class CsrSource(Protocol):
    """Where sparse rows come from; picklable."""

    def read(self, first: int, stop: int, *, check: bool) -> tuple[SparseRows, Missing]:
        """Return rows, and what of them is missing; `check` whether to see if the store is still the same."""


@dataclass(frozen=True, eq=False)
class HeldCsr:
    """A sparse matrix of SciPy."""

    matrix: Any

    def read(self, first: int, stop: int, *, check: bool) -> tuple[SparseRows, Missing]:  # noqa: ARG002
        """Return rows; see `CsrSource`."""
        part = self.matrix[first:stop]
        return SparseRows(part.data, part.indices, part.indptr, part.shape[1]), Missing()


@dataclass(frozen=True, eq=False)
class StoredCsr:
    """The arrays of a sparse matrix in zarr: numbers, their columns, and where each row begins."""

    data: ZarrPart
    indices: ZarrPart
    indptr: ZarrPart
    n_features: int
    name: str

    def read(self, first: int, stop: int, *, check: bool) -> tuple[SparseRows, Missing]:
        """Read rows; see `CsrSource`. Raises `DataError` if the arrays contradict one another."""
        edges, missing, _ = self.indptr.read([slice(first, stop + 1)], check=check)
        begin, end = int(edges[0]), int(edges[-1])
        data, of_data, _ = self.data.read([slice(begin, end)], check=check)
        indices, of_indices, _ = self.indices.read([slice(begin, end)], check=check)
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.n_features:
            message = f"{self.name}/indices names columns beyond the {self.n_features} there are; the store is damaged"
            raise DataError(message)
        rows = SparseRows(data, indices, edges.astype(np.int64) - begin, self.n_features)
        if not rows.matrix.has_canonical_format:
            rows.matrix.sum_duplicates()
        return rows, missing + of_data + of_indices


@dataclass(frozen=True, eq=False)
class SparseBatch(Batch):
    """Blocks of sparse rows between `edges`, which are numbers of rows."""

    source: CsrSource
    edges: Sequence[int]
    reads_ahead: bool = True

    @property
    def span(self) -> range:
        """Its rows."""
        return range(self.edges[0], self.edges[-1])

    def __iter__(self) -> Iterator[Chunk]:
        """Read block by block."""
        for read in self.independent_reads():
            yield read()

    def independent_reads(self) -> Sequence[Callable[[], Chunk]]:
        """Return a read of each block."""
        return [partial(self._read, *ends) for ends in itertools.pairwise(self.edges)]

    def _read(self, first: int, stop: int) -> Chunk:
        rows: Any
        rows, missing = self.source.read(first, stop, check=stop == self.edges[-1])
        return Chunk(rows, range(first, stop), found=Found({(first, stop): missing}) if self.reads_ahead else None)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without the rest of a matrix in memory."""
        if isinstance(self.source, HeldCsr):
            return HeldBatch, (list(self),)
        return type(self), (self.source, self.edges, self.reads_ahead)


class CsrRows(Rows):
    """Rows of a sparse matrix.

    Parameters
    ----------
    source : CsrSource
    name : str
    indptr : ndarray of int, shape (n_rows + 1,)
        Where each row begins among what is stored: it decides which rows are read together, and is not kept.
    n_features : int
    dtype : numpy.dtype
        Of the numbers.
    feature_names : tuple of str, optional
    """

    is_sparse = True

    def __init__(
        self,
        source: CsrSource,
        name: str,
        indptr: NDArray[Any],
        n_features: int,
        dtype: np.dtype[Any],
        feature_names: tuple[str, ...] | None = None,
    ) -> None:
        self.name, self.feature_names, self._source = name, feature_names, source
        self.n_rows, self.n_features, self.dtype = check_table(name, (len(indptr) - 1, n_features), dtype)
        self._held = isinstance(source, HeldCsr)
        self.waits = is_remote(source.data.array.store_path.store) if isinstance(source, StoredCsr) else None
        self._n_stored = int(indptr[-1])
        value_bytes = 8 + self.dtype.itemsize
        n_parts = max(-(-self._n_stored * value_bytes // READ_BYTES), -(-self.n_rows // READ_ROWS))
        if self._held:
            n_parts = max(n_parts, min(MIN_CHUNKS, -(-self.n_rows // MIN_CHUNK_ROWS)))
        # A row counts as one number more, so that empty rows do not all come together.
        self._weights = np.asarray(indptr, dtype=np.int64) + np.arange(self.n_rows + 1)
        self._edges = self._cut(n_parts)
        self._bounds = batch_bounds(len(self._edges) - 1)
        self._first: dict[tuple[int, ...], Missing] = {}

    def _cut(self, n_parts: int) -> list[int]:
        """Return the first rows of parts that hold about equally many numbers, and the end."""
        ends = np.linspace(0, self._weights[-1], min(n_parts, self.n_rows) + 1)
        inner = np.searchsorted(self._weights, ends[1:-1])
        return [int(edge) for edge in np.unique(np.concatenate([[0], inner, [self.n_rows]]))]

    def batches(self) -> list[Batch]:
        """Return ranges of reads."""
        return [
            SparseBatch(self._source, self._edges[first : stop + 1], reads_ahead=not self._held)
            for first, stop in self._bounds
        ]

    def divided(self, n_batches: int) -> Rows:
        """Return the same rows in at least `n_batches` batches; see `Rows.divided`."""
        if len(self._bounds) >= n_batches:
            return self
        finer = copy.copy(self)
        edges = self._cut(max(n_batches, len(self._edges) - 1))
        vars(finer).update(_edges=edges, _bounds=batch_bounds(len(edges) - 1, n_batches))
        return finer

    @property
    def n_bytes(self) -> int:
        """Size of what is stored, with its places."""
        return self._n_stored * (8 + self.dtype.itemsize) + 8 * self.n_rows

    @property
    def read_rows(self) -> int:
        """Rows of the largest read."""
        return int(np.diff(self._edges).max())

    @property
    def read_bytes(self) -> int:
        """Bytes of the largest read."""
        return int(np.diff(self._weights[self._edges]).max()) * (8 + self.dtype.itemsize)

    @property
    def n_batches(self) -> int:
        """How many batches there are."""
        return len(self._bounds)

    @property
    def decoding_bytes(self) -> int:
        """Of zarr, the chunks that hold what is read."""
        if not isinstance(self._source, StoredCsr):
            return 0
        n = self.read_bytes // (8 + self.dtype.itemsize)
        return sum(part.decoding_bytes((n,)) for part in (self._source.data, self._source.indices))

    @property
    def carried_bytes(self) -> int:
        """Of a matrix in memory, of which each batch takes its part."""
        return self.n_bytes if self._held else 0

    def check_found(self, found: Found) -> Sequence[LeftOut]:
        """Raise `MissingDataError` if chunks are missing."""
        missing = sum(found.batches.values(), start=Missing())
        if missing.n_missing and not self.allows_missing:
            message = (
                f"{missing}, and would count as its fill value; write it again, or pass allow_missing_chunks=True "
                "(--allow-missing-chunks)"
            )
            raise MissingDataError(message)
        return ()


class DenseBatch(ChangedBatch):
    """The rows of a sparse batch, made dense a few at a time."""

    def changed(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Make them dense."""
        for chunk in chunks:
            step = max(DENSE_BYTES // (chunk.rows.shape[1] * chunk.rows.dtype.itemsize), 1)
            for start in range(0, max(len(chunk), 1), step):
                part = chunk.take(slice(start, start + step))
                yield replace(part, rows=np.asarray(part.rows), found=None if start else chunk.found)


class DenseRows(JoinedRows):
    """Sparse rows for what computes with dense ones: never more than a few are dense at once."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows, Beside([]))
        self.is_sparse = False

    def batches(self) -> list[Batch]:
        """Return the batches of the rows, which make them dense."""
        return [DenseBatch(batch) for batch in self.rows.batches()]

    @property
    def read_rows(self) -> int:
        """Rows that are dense at once."""
        return min(self.rows.read_rows, max(DENSE_BYTES // (self.n_features * self.dtype.itemsize), 1))

    @property
    def read_bytes(self) -> int:
        """Of sparse rows, and of those that are dense."""
        return self.rows.read_bytes + max(DENSE_BYTES, self.n_features * self.dtype.itemsize)


def open_csr(data: Any, name: str = "sparse matrix", names: tuple[str, ...] | None = None) -> CsrRows:
    """Open a sparse matrix of SciPy of any format: others than CSR, and repeated places, are made CSR by a copy."""
    matrix = data.tocsr()
    if matrix.ndim != 2:
        message = f"sparse data must have 2 dimensions, not {matrix.ndim}"
        raise DataError(message)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return CsrRows(HeldCsr(matrix), name, matrix.indptr, matrix.shape[1], matrix.dtype, names)


def is_csr(group: Any, name: str) -> bool:
    """Tell whether a zarr group is a sparse matrix by rows.

    Raises
    ------
    DataError
        If it is one by columns, whose rows cannot be read one after another.
    """
    kind = group.attrs.get(ENCODING) if isinstance(group, zarr.Group) else None
    if kind == CSC:
        message = (
            f"{name} holds a sparse matrix by columns (csc_matrix), which cannot be read row by row; write it as "
            "csr_matrix (adata.X = adata.X.tocsr())"
        )
        raise DataError(message)
    return bool(kind == CSR)


def names_of_columns(root: Any, n_features: int) -> tuple[str, ...] | None:
    """Return the names of the columns of the X of an AnnData, such as genes: the index of `var`; None if it has none.

    Names that are not unique tell no columns apart, and are left out.
    """
    var = root.get("var") if isinstance(root, zarr.Group) and root.attrs.get(ENCODING) == ANNDATA else None
    index = var.get(str(var.attrs.get("_index", "_index"))) if isinstance(var, zarr.Group) else None
    if not isinstance(index, zarr.Array) or index.shape != (n_features,):
        return None
    try:
        names = tuple(map(str, np.asarray(index[...]).tolist()))
    except Exception as error:  # whatever zarr and its codecs make of a damaged file
        message = f"the names of the columns, {index.path}, cannot be read ({reason(error)})"
        raise DataError(message) from error
    return names if len(set(names)) == n_features else None


def stored_shape(group: zarr.Group, name: str, members: Container[str]) -> tuple[int, int]:
    """Return the shape of a sparse matrix as AnnData writes it.

    Raises
    ------
    DataError
        If it has none, or lacks an array.
    """
    if missing := [key for key in ("data", "indices", "indptr") if key not in members]:
        kind = group.attrs[ENCODING]
        message = f"{name} says that it is a {kind}, but has no array {missing[0]!r}; the store is damaged"
        raise DataError(message)
    shape: Any = group.attrs.get("shape")
    if not isinstance(shape, list | tuple) or len(shape) != 2 or not all(isinstance(n, int) for n in shape):
        message = f"{name} has no shape of rows and columns, but {shape!r}; the store is damaged"
        raise DataError(message)
    return shape[0], shape[1]


def open_stored_csr(group: zarr.Group, name: str, members: Mapping[str, zarr.Array[Any]]) -> CsrRows:
    """Open the group of a sparse matrix as AnnData writes it: `data`, `indices`, `indptr`, and a shape.

    Raises
    ------
    DataError
        If these do not belong together.
    """
    shape = stored_shape(group, name, members)
    parts = {
        key: ZarrPart.of(members[key], f"{name}/{key}", (0,), has_features=False)
        for key in ("data", "indices", "indptr")
    }
    indptr, lacking, _ = parts["indptr"].read([slice(0, members["indptr"].shape[0])], check=False)
    n_stored = members["data"].shape[0]
    if lacking.n_missing:
        message = (
            f"{lacking}; where rows begin is not known without it: write it again, with "
            "write_empty_chunks=True if zarr left it out because it holds zeros alone"
        )
        raise MissingDataError(message)
    if (
        len(indptr) != shape[0] + 1
        or int(indptr[0]) != 0
        or int(indptr[-1]) != n_stored
        or members["indices"].shape[0] != n_stored
        or np.any(np.diff(indptr) < 0)
    ):
        message = (
            f"{name} is no whole csr_matrix: its shape {shape!r}, {len(indptr)} places in indptr, {n_stored} numbers "
            f"and {members['indices'].shape[0]} indices do not belong together"
        )
        raise DataError(message)
    source = StoredCsr(parts["data"], parts["indices"], parts["indptr"], int(shape[1]), name)
    return CsrRows(source, name, indptr, int(shape[1]), members["data"].dtype)
