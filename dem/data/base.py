"""Rows: a table of numbers that is read chunk by chunk; the contract every data source fulfils.

Where a store may lack chunks, what a read finds missing comes with the rows and is added up over all the data. What
lies on a grid is stacked to rows in C order: `Region` and the functions below it know how.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.cf import encoded
from dem.data.checks import rows_text
from dem.data.found import Found, LeftOut, Unreadable
from dem.namespaces import here, is_on_device

# Decoded bytes that one read should bring: small chunks are read together up to this size.
READ_BYTES = 8 * 2**20
# Rows that one read should bring at most: a narrow table of small numbers becomes much larger when computed with.
READ_ROWS = 2**18
# Rows per chunk of results where the chunks of the source are irregular.
RESULT_CHUNK_ROWS = 65_536
Corner = tuple[int, ...]
#: the fields of a `Chunk` that hold something of each row besides its numbers
COLUMNS = ("weights", "labels", "starts", "noise", "limits", "unread", "groups")


@dataclass(frozen=True, eq=False)
class Chunk:
    """A few rows in memory, where they stand in the whole, and what is known of each; `take` makes every part of it.

    Attributes
    ----------
    rows : ndarray or SparseRows, of shape (n, n_features)
        The numbers, in the dtype of the source (bool, integer, float16, float32 or float64, native byte order
        or not). They may lie on a device (`dem.namespaces`); all else is NumPy's.
    index : range or ndarray of int64, shape (n,)
        The position of each row in the whole table, `range(start, stop)` where they are consecutive. It is in
        increasing order within the chunk only for consecutive rows.
    weights : ndarray of shape (n,), optional
        How much each row counts, ≥ 0; 1 where left out.
    labels : ndarray of int, shape (n,), or of bool, shape (n, n_components), optional
        The component of each row, −1 where it is not known; or which components may have made it.
    starts : ndarray of bool, shape (n,), optional
        Whether a sequence begins with the row.
    noise : ndarray of shape (n, n_features) or (n, n_features, n_features), optional
        The variances of the errors of each row, or their covariance.
    limits : ndarray of shape (n, n_features, 2), optional
        The interval in which a value lies that is not known otherwise; NaN where it is, or nothing is known.
    unread : ndarray of bool, shape (n,), optional
        Which rows could not be read, where results are to lie on a grid; else such rows are left out.
    groups : ndarray of int64, shape (n,), optional
        The group that each row is of, where a model is adapted to several.
    found : Found, optional
        What of the rows was missing in the store, where the source can tell. It stays with the chunk as it was read.
    """

    rows: NDArray[Any]
    index: range | NDArray[np.int64]
    weights: NDArray[np.float64] | None = None
    labels: NDArray[Any] | None = None
    starts: NDArray[np.bool_] | None = None
    noise: NDArray[np.float64] | None = None
    limits: NDArray[np.float64] | None = None
    unread: NDArray[np.bool_] | None = None
    groups: NDArray[np.int64] | None = None
    found: Found | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_bytes(self) -> int:
        """Size of the rows and of all that is known of them."""
        return sum(column.nbytes for column in (self.rows, *self.columns.values()))

    @property
    def columns(self) -> dict[str, Any]:
        """What is known of each row besides its numbers, by field."""
        known = ((field, getattr(self, field)) for field in COLUMNS)
        return {field: column for field, column in known if column is not None}

    def take(self, which: slice | NDArray[np.bool_] | NDArray[np.integer]) -> Chunk:
        """Return some of the rows, with all that is known of them; of a slice the rows are views."""
        if isinstance(which, slice):
            columns = {field: column[which] for field, column in self.columns.items()}
            return Chunk(self.rows[which], self.index[which], **columns)
        places = np.flatnonzero(which) if which.dtype == bool else which
        if isinstance(self.index, range):  # it may be longer than memory
            index = self.index.start + self.index.step * places.astype(np.int64)
        else:
            index = self.index[places]
        columns = {field: _taken(column, places) for field, column in self.columns.items()}
        return Chunk(_taken(self.rows, places), index, **columns)


def _taken(array: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    """Return entries along the first axis.

    Of rows of a few numbers `take` copies ten times as many in the same time as brackets; but of what is not contiguous
    it copies all before, be it a virtual array that is larger than memory.
    """
    if is_on_device(array):
        found: NDArray[Any] = array.take(here(array).asarray(places), axis=0)
        return found
    return array.take(places, axis=0) if array.flags.c_contiguous else np.asarray(array[places])


#: maps a chunk of n rows to results (n,) or (n, columns)
RowMap = Callable[[Chunk], NDArray[Any]]


class Batch(ABC):
    """Whole chunks that are read one after another inside one task. Must be picklable and cheap to send."""

    @abstractmethod
    def __iter__(self) -> Iterator[Chunk]:
        """Read the chunks in order, each only when it is asked for."""

    @property
    @abstractmethod
    def span(self) -> range | None:
        """Which rows of the table these are; None where they are not consecutive. Another array can be cut to it."""

    @property
    def index(self) -> range | NDArray[np.int64]:
        """The positions of its rows; what has no span tells them otherwise."""
        if self.span is None:
            raise NotImplementedError
        return self.span

    @property
    def n_rows(self) -> int:
        """Number of rows; what has no span tells it otherwise."""
        return len(self.span or ())

    #: whether reading costs time, so that reading one chunk ahead in a thread is worth it
    reads_ahead: bool = True

    def independent_reads(self) -> Sequence[Callable[[], Chunk]] | None:
        """Return its reads in order, which may be made at once and on any thread; None where there are no such."""
        return None

    def made_of(self, chunks: Iterable[Chunk]) -> Iterable[Chunk]:
        """Return the chunks of the batch, given in order what its `independent_reads` bring."""
        return chunks

    @property
    def pending(self) -> Mapping[Hashable, Any]:
        """Values that lie on the cluster (as futures) and that this batch is made of."""
        return {}

    def with_values(self, values: Mapping[Hashable, Any]) -> Self:
        """Return the batch with its pending values put in."""
        if values:
            message = f"{type(self).__name__} has nothing pending"
            raise TypeError(message)
        return self


class Rows(ABC):
    """A table of `n_rows` × `n_features` numbers in chunks.

    Nothing here is read before it is needed; the driver holds descriptions of the batches, never their rows.
    """

    #: what messages call the data, for instance ``'ocean.zarr'`` or ``'NumPy array'``
    name: str
    n_rows: int
    n_features: int
    dtype: np.dtype[Any]
    #: names of the columns where the source has them, all strings; else None
    feature_names: tuple[str, ...] | None
    #: names of the dimensions of `grid`, where the source has them
    grid_names: tuple[str, ...] | None = None
    #: the dimension that holds the features, where the source names it
    feature_dim: str | None = None
    #: its coordinate values, where it has others than names, shape (n_features,)
    feature_coordinates: NDArray[Any] | None = None
    #: the variables whose entries along a dimension are the features, where the user has named these
    features: Mapping[str, str | None] | None = None
    #: the values that stand behind the numbers in columns of categories, by name; see `dem.data.categories`
    categories: Mapping[str, list[Any]] | None = None
    #: the coordinate values of dimensions of `grid`, as far as they are at hand; see `coordinates`
    known_coordinates: Mapping[str, NDArray[Any]] = MappingProxyType({})

    #: whether chunks are sparse rows
    is_sparse: bool = False
    #: whether what cannot be read is left out
    skips_bad: bool = False
    #: whether chunks that are not in the store count as their fill value
    allows_missing: bool = False
    #: whether a read waits for another machine, so that several at once take no longer than one; None where the batches
    #: have no reads that can be made at once
    waits: bool | None = None
    #: bytes that the packages take which only this source needs
    package_bytes: int = 0

    @abstractmethod
    def batches(self) -> Sequence[Batch]:
        """Return the batches; their boundaries depend on the data alone, never on the workers."""

    def divided(self, n_batches: int) -> Rows:  # noqa: ARG002
        """Return the same rows in at least `n_batches` batches, as far as there are chunks; else as many as these.

        Batches are otherwise as few as reading is quickest with; incremental EM moves on after each of them.
        """
        return self

    @property
    def n_bytes(self) -> int:
        """Decoded size of the table in bytes."""
        return self.n_rows * self.n_features * self.dtype.itemsize

    @property
    def n_columns(self) -> int:
        """Numbers of each row of a chunk: its features, and what goes with them."""
        return self.n_features

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the rows before they were stacked (in C order); ``(n_rows,)`` for a table."""
        return (self.n_rows,)

    def coordinates(self, dim: str) -> NDArray[Any] | None:
        """Return the coordinate values of a dimension of `grid`: numbers, times, or text; None if there are none."""
        return self.known_coordinates.get(dim)

    def stored_coordinates(self) -> dict[str, tuple[NDArray[Any], Mapping[str, Any]]]:
        """Return coordinate values of dimensions of `grid` as zarr stores them, each with its attributes."""
        known = {dim: self.coordinates(dim) for dim in self.grid_names or ()}
        return {dim: encoded(values) for dim, values in known.items() if values is not None}

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """Chunk shape along `grid` for results: where the source allows it, reads cover whole chunks of them."""
        return (min(self.n_rows, RESULT_CHUNK_ROWS),)

    @property
    def read_rows(self) -> int:
        """Rows that one read brings, as far as that is known before."""
        return math.prod(self.grid_chunks)

    @property
    def n_batches(self) -> int:
        """How many batches there are, without making them: about, of a source that does not say."""
        n_reads = -(-self.n_rows // max(self.read_rows, 1))
        return min(n_reads, max(16, 4 * math.isqrt(n_reads)))

    @property
    def read_bytes(self) -> int:
        """Bytes that a read brings, with what is known of its rows, as far as that is known before."""
        return min(self.read_rows, self.n_rows) * self.n_features * self.dtype.itemsize

    @property
    def decoding_bytes(self) -> int:
        """Bytes that a read takes at most beside what it brings: what that is decoded from, and through."""
        return 2 * self.read_bytes

    @property
    def carried_bytes(self) -> int:
        """Bytes of rows, and of what is known of them, that are in memory here and travel with the batches."""
        return 0

    @property
    def kept_bytes(self) -> int:
        """Bytes at most that a process keeps of what it has read, beside the rows in work."""
        return 0

    def sliced(self, n_bytes: int) -> Rows:  # noqa: ARG002 - most sources have nothing smaller than a read
        """Return the same rows in the same batches, read in slices of at most `n_bytes`, as far as the store has such.

        What the store decodes as one piece stays one. Nothing is decoded twice for it.
        """
        return self

    @property
    def stored_chunks(self) -> tuple[int, int] | None:
        """Number of chunks (or shards) in the store and decoded bytes of the largest; None where there is no store."""
        return None

    @property
    def unreadable(self) -> Unreadable | None:
        """What is known of parts that cannot be read, where they are left out."""
        return None

    @property
    def n_left_out(self) -> int:
        """How many parts of the data were found that cannot be read; batches made before do not know all of them."""
        return 0

    def on_grid(self) -> Rows:
        """Return the same rows, with those that cannot be read (`Chunk.unread`), which are left out otherwise."""
        return self

    def check_found(self, found: Found) -> Sequence[LeftOut]:  # noqa: ARG002 - most sources have nothing to judge
        """Judge what a read of some batches, or all, has found; called by the engine with every read.

        Returns
        -------
        sequence of LeftOut
            What cannot be read and is left out from now on.

        Raises
        ------
        MissingDataError
            If something is missing that may not be, or can no longer be read.
        """
        return ()


def batch_bounds(n_reads: int, at_least: int = 16) -> list[tuple[int, int]]:
    """Divide `n_reads` consecutive reads into batches of almost equal length.

    The number of batches grows with the square root of the reads: a few dozen keep a laptop's cores evenly
    busy, a few thousand keep a thousand workers busy, and a million chunks never mean a million tasks.

    Parameters
    ----------
    n_reads : int
        Number of reads (chunks, or groups of small chunks).
    at_least : int
        Number of batches wanted, if there are as many reads.

    Returns
    -------
    list of (int, int)
        Half-open ranges of reads, in order, none empty.

    Examples
    --------
    >>> batch_bounds(3)
    [(0, 1), (1, 2), (2, 3)]
    >>> len(batch_bounds(1_000_000))
    4000
    """
    n_batches = min(n_reads, max(at_least, 4 * math.isqrt(n_reads)))
    edges = [n_reads * i // n_batches for i in range(n_batches + 1)]
    return list(itertools.pairwise(edges))


def chunk_counts(extents: Sequence[int], sizes: Sequence[int]) -> Corner:
    """Return the number of chunks along each dimension."""
    return tuple(-(-extent // size) for extent, size in zip(extents, sizes, strict=True))


def chunks_in(region: Sequence[slice], sizes: Sequence[int]) -> list[range]:
    """Return along each dimension the numbers of the chunks that a region touches."""
    return [range(part.start // size, -(-part.stop // size)) for part, size in zip(region, sizes, strict=True)]


def chunk_region(number: Iterable[int], sizes: Sequence[int], extents: Sequence[int]) -> tuple[slice, ...]:
    """Return where the chunk of a number is."""
    dimensions = zip(number, sizes, extents, strict=True)
    return tuple(slice(i * size, min((i + 1) * size, extent)) for i, size, extent in dimensions)


def joined_chunks(extents: Corner, sizes: Corner, most: int) -> Corner:
    """Return the block that one read brings: several chunks, up to `most` points, those along the last axes first."""
    block = list(sizes)
    for axis, n_chunks in reversed(list(enumerate(chunk_counts(extents, sizes)))):
        block[axis] *= max(min(most // math.prod(block), n_chunks), 1)
    return tuple(block)


@dataclass(eq=False)
class Region:
    """A block of a grid: its first position and extents, and those of the whole grid, which is stacked to rows."""

    offset: Corner
    shape: Corner
    whole: Corner

    @property
    def n_rows(self) -> int:
        """Number of points."""
        return math.prod(self.shape)

    def place(self) -> str:
        """Word where the block is."""
        if len(self.shape) == 1:
            return rows_text(self.offset[0], self.offset[0] + self.shape[0])
        return f"shape {self.shape}"

    def index(self) -> range | NDArray[np.int64]:
        """Return the positions of the block's rows in C order."""
        # Rows are consecutive if all dimensions behind the first that is longer than 1 are whole.
        leading = next((i for i, extent in enumerate(self.shape) if extent > 1), len(self.shape))
        start = int(np.ravel_multi_index(self.offset, self.whole))
        if self.shape[leading + 1 :] == self.whole[leading + 1 :]:
            return range(start, start + self.n_rows)
        axes = [np.arange(first, first + extent) for first, extent in zip(self.offset, self.shape, strict=True)]
        return np.ravel_multi_index(np.ix_(*axes), self.whole).ravel()


def span_of(first: Region, last: Region, n_rows: int) -> range | None:
    """Return which rows are in blocks that follow one another in C order, `n_rows` in all; None where not all between.

    Examples
    --------
    >>> span_of(Region((0, 0), (1, 3), (2, 6)), Region((0, 3), (1, 3), (2, 6)), 6)
    range(0, 6)
    """
    start = int(np.ravel_multi_index(first.offset, first.whole))
    end = tuple(a + n - 1 for a, n in zip(last.offset, last.shape, strict=True))
    span = range(start, int(np.ravel_multi_index(end, last.whole)) + 1)
    return span if len(span) == n_rows else None
