"""Rows of zarr arrays of any number of dimensions, in memory never more than a few of their chunks."""

from __future__ import annotations

import copy
import itertools
import math
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask.array
import numpy as np
import zarr
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, READ_ROWS, Batch, Chunk, Rows, batch_bounds
from dem.data.cf import Packing
from dem.data.checks import check_dtype, check_table, reason, rows_text
from dem.data.grid import Region, feature_axis
from dem.data.zarr_store import coordinates_of, dimension_names, open_arrays, packing_of
from dem.errors import DataError

# Simultaneous requests of one read; every thread has its own read at the same time.
CONCURRENCY = 4
# A shard that is larger decoded is read in parts.
SHARD_BYTES = 8 * READ_BYTES
# Results have a chunk for each chunk of the data, up to this number.
MAX_RESULT_CHUNKS = 10_000

Corner = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ZarrPart:
    """A zarr array that holds all the features, or one of them; picklable.

    Attributes
    ----------
    array : zarr.Array
        The array; it pickles as a description of its store.
    name : str
        What messages call it.
    axes : tuple of int
        Its axes in the order of the grid, behind them that of the features if it has one.
    packing : Packing or None
        How its numbers are decoded.
    """

    array: zarr.Array[Any]
    name: str
    axes: Corner
    packing: Packing | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the decoded numbers."""
        return self.array.dtype if self.packing is None else self.packing.dtype

    def along(self, extents: Sequence[int]) -> Corner:
        """Return the extents of its axes in the order of the grid."""
        return tuple(extents[axis] for axis in self.axes)

    def read(self, lower: Corner, upper: Corner) -> NDArray[Any]:
        """Read a block of the grid, with all features at the end.

        Raises
        ------
        DataError
            If a chunk cannot be read or decoded; the message names it.
        """
        place = [slice(0, extent) for extent in self.array.shape]
        for axis, start, stop in zip(self.axes, lower, upper, strict=False):  # but for the axis of the features
            place[axis] = slice(start, stop)
        try:
            with _few_requests():
                stored = np.asarray(self.array[tuple(place)])
        except Exception as error:
            self._find_bad_chunk(place)
            message = f"{self._word(place)} of {self.name} cannot be read ({reason(error)})"
            raise DataError(message) from error
        return (stored if self.packing is None else self.packing.decode(stored)).transpose(self.axes)

    def _find_bad_chunk(self, place: Sequence[slice]) -> None:
        """Read the chunks one by one and raise at the first that fails."""
        sizes = self.array.shards or self.array.chunks
        numbers = (range(part.start // size, -(-part.stop // size)) for part, size in zip(place, sizes, strict=True))
        for number in itertools.product(*numbers):
            chunk = [
                slice(i * size, min((i + 1) * size, extent))
                for i, size, extent in zip(number, sizes, self.array.shape, strict=True)
            ]
            try:
                self.array[tuple(chunk)]
            except Exception as error:
                key = self.array.metadata.encode_chunk_key(number)
                message = (
                    f"chunk {key} of {self.name} ({self._word(chunk)}) cannot be read ({reason(error)}); "
                    "write it again or take its rows out"
                )
                raise DataError(message) from error

    def _word(self, place: Sequence[slice]) -> str:
        if self.axes == (0, 1):
            return rows_text(place[0].start, place[0].stop)
        return f"[{', '.join(f'{part.start}:{part.stop}' for part in place)}]"


@dataclass(frozen=True, eq=False)
class ZarrTable:
    """Zarr arrays on one grid and their features; picklable, and an array to Dask.

    Attributes
    ----------
    parts : tuple of ZarrPart
        One array with an axis of features, or an array for each feature.
    shape : tuple of int
        Of the grid, and the number of features.
    dtype : dtype
        Of the numbers.
    """

    parts: tuple[ZarrPart, ...]
    shape: Corner
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of dimensions, with that of the features."""
        return len(self.shape)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        places = [part.indices(extent) for part, extent in zip(key, self.shape, strict=True)]
        *lower, first = (start for start, _, _ in places)
        *upper, last = (stop for _, stop, _ in places)
        return self.read(tuple(lower), tuple(upper))[..., first:last]

    def read(self, lower: Corner, upper: Corner) -> NDArray[Any]:
        """Read a block of the grid, with all features at the end."""
        if len(self.parts[0].axes) == len(self.shape):
            return self.parts[0].read(lower, upper)
        shape = tuple(stop - start for start, stop in zip(lower, upper, strict=True))
        block = np.empty((*shape, len(self.parts)), self.dtype)
        for feature, part in enumerate(self.parts):
            block[..., feature] = part.read(lower, upper)
        return block


@dataclass(frozen=True, eq=False)
class ZarrBatch(Batch):
    """Reads blocks `first` to `stop` (exclusive) of a grid, numbered in C order, each of the shape `block`."""

    table: ZarrTable
    block: Corner
    first: int
    stop: int

    def __iter__(self) -> Iterator[Chunk]:
        """Read block by block."""
        *grid, n_features = self.table.shape
        counts = _counts(grid, self.block)
        for number in range(self.first, self.stop):
            lower = tuple(int(i) * n for i, n in zip(np.unravel_index(number, counts), self.block, strict=True))
            upper = tuple(min(a + n, end) for a, n, end in zip(lower, self.block, grid, strict=True))
            region = Region(lower, tuple(b - a for a, b in zip(lower, upper, strict=True)), tuple(grid))
            yield Chunk(self.table.read(lower, upper).reshape(-1, n_features), region.index())


def _counts(grid: Sequence[int], block: Sequence[int]) -> Corner:
    return tuple(-(-extent // size) for extent, size in zip(grid, block, strict=True))


class ZarrRows(Rows):
    """Zarr arrays of either format, sharded or not: all dimensions but that of the features are stacked in C order.

    Parameters
    ----------
    name : str
        What messages call them.
    parts : sequence of ZarrPart
        One array with an axis of features, or an array for each feature.
    grid_names : tuple of str, optional
        Names of the dimensions of the grid.

    Raises
    ------
    DataError
        If they hold no numbers, or are empty.
    """

    def __init__(self, name: str, parts: Sequence[ZarrPart], grid_names: tuple[str, ...] | None = None) -> None:
        self.name = name
        shape = parts[0].along(parts[0].array.shape)
        if len(shape) < parts[0].array.ndim or len(parts) > 1:
            shape = (*shape, len(parts))
        dtype = np.result_type(*(part.dtype for part in parts)) if len(parts) > 1 else parts[0].dtype
        self.n_rows, self.n_features, self.dtype = check_table(name, (math.prod(shape[:-1]), shape[-1]), dtype)
        self.feature_names = None
        self.table = ZarrTable(tuple(parts), shape, self.dtype)
        self._grid_names = grid_names
        row_bytes = self.n_features * self.dtype.itemsize
        self._unit = _unit(self.table, SHARD_BYTES // row_bytes, READ_BYTES // row_bytes)
        self._most = max(min(READ_BYTES // row_bytes, READ_ROWS), 1)
        self._block = _block(self.grid, self._unit, self._most)
        self._bounds = batch_bounds(math.prod(_counts(self.grid, self._block)))

    def batches(self) -> list[Batch]:
        """Return ranges of reads: as many as the square root of the chunks asks for."""
        return [ZarrBatch(self.table, self._block, first, stop) for first, stop in self._bounds]

    def divided(self, n_batches: int) -> Rows:
        """Return the same rows in at least `n_batches` batches; see `Rows.divided`. Shards are divided where few."""
        if len(self._bounds) >= n_batches:
            return self
        finer, enough, unit = copy.copy(self), max(self.n_rows // n_batches, 1), self._unit
        if self.table.parts[0].array.shards is not None:
            unit = _unit(self.table, enough, enough)
        block = _block(self.grid, unit, min(enough, self._most))
        bounds = batch_bounds(math.prod(_counts(self.grid, block)), n_batches)
        vars(finer).update(_unit=unit, _block=block, _bounds=bounds)
        return finer

    @property
    def array(self) -> dask.array.Array:
        """The same rows on their grid as a lazy Dask array, a block for each read."""
        name, meta = f"dem-zarr-{uuid.uuid4().hex}", np.empty((0,) * self.table.ndim, self.dtype)
        chunks = (*self._block, self.n_features)
        lazy: dask.array.Array = dask.array.from_array(self.table, chunks, name=name, asarray=False, meta=meta)
        return lazy

    @property
    def grid(self) -> Corner:
        """Shape of the arrays without the features."""
        return self.table.shape[:-1]

    @property
    def grid_names(self) -> tuple[str, ...] | None:
        """Names of the dimensions of `grid`."""
        return self._grid_names

    @property
    def read_rows(self) -> int:
        """Rows of a read."""
        return math.prod(self._block)

    @property
    def stored_chunks(self) -> tuple[int, int]:
        """Chunks or shards of all variables, and the largest of them."""
        arrays = [part.array for part in self.table.parts]
        chunks = [array.shards or array.chunks for array in arrays]
        n_chunks = sum(math.prod(_counts(array.shape, own)) for array, own in zip(arrays, chunks, strict=True))
        return n_chunks, max(math.prod(own) * array.dtype.itemsize for array, own in zip(arrays, chunks, strict=True))

    @property
    def grid_chunks(self) -> Corner:
        """The chunks or shards; several together where there are very many."""
        chunks = list(self._unit)
        for axis in reversed(range(len(chunks))):
            wanted = -(-math.prod(_counts(self.grid, chunks)) // MAX_RESULT_CHUNKS)
            per_read = self._block[axis] // chunks[axis]
            chunks[axis] *= (
                next((n for n in range(wanted, per_read) if per_read % n == 0), per_read) if wanted > 1 else 1
            )
        return tuple(min(size, extent) for size, extent in zip(chunks, self.grid, strict=True))


def _unit(table: ZarrTable, whole: int, part: int) -> Corner:
    """Return the block of the grid that is read whole: a chunk or shard of each array.

    Of a shard of more rows than `whole` it is one that divides it, of no more rows than `part`; where the chunks of
    several arrays have too large a common multiple it is the largest of them.
    """
    grid = table.shape[:-1]
    outer = [part.along(part.array.shards or part.array.chunks)[: len(grid)] for part in table.parts]
    unit = [math.lcm(*sizes) for sizes in zip(*outer, strict=True)]
    if len(set(outer)) > 1 and math.prod(unit) > whole:
        unit = [max(sizes) for sizes in zip(*outer, strict=True)]
    inner = table.parts[0].along(table.parts[0].array.chunks)[: len(grid)]
    for axis in range(len(grid)):
        if math.prod(unit) > whole and len(set(outer)) == 1:
            times, others = unit[axis] // inner[axis], math.prod(unit) // unit[axis]
            fits = [n for n in range(1, times + 1) if times % n == 0 and n * inner[axis] * others <= part]
            unit[axis] = inner[axis] * max(fits, default=1)
    return tuple(unit)


def _block(grid: Corner, unit: Corner, most: int) -> Corner:
    """Return the block that one read brings: several units, up to `most` rows, those along the last axes first."""
    block = list(unit)
    for axis in reversed(range(len(block))):
        units = -(-grid[axis] // unit[axis])
        block[axis] *= max(min(most // math.prod(block), units), 1)
    return tuple(block)


class _Requests:
    """Counts the reads in progress, which share one setting."""

    lock = threading.Lock()
    users = 0
    setting: Any = None


@contextmanager
def _few_requests() -> Iterator[None]:
    """Lower zarr's own concurrency while any thread reads."""
    with _Requests.lock:
        if _Requests.users == 0:
            _Requests.setting = zarr.config.set({"async.concurrency": CONCURRENCY})
            _Requests.setting.__enter__()
        _Requests.users += 1
    try:
        yield
    finally:
        with _Requests.lock:
            _Requests.users -= 1
            if _Requests.users == 0:
                _Requests.setting.__exit__(None, None, None)


def open_zarr(
    source: Any, variable: str | Sequence[str] | None = None, feature_dim: str | int | None = None
) -> ZarrRows:
    """Open a zarr array, or several of a group, for reading.

    Parameters
    ----------
    source : str, path-like, zarr.Array or zarr.Group
        Path or URL of an array or of a group, or one that is open.
    variable : str or sequence of str, optional
        The array's name within the group; may be left out if the group holds one array only. Several names are the
        features, which lie on one grid.
    feature_dim : str or int, optional
        Name or number of the dimension that holds the features of a single array.

    Raises
    ------
    DataError
        If there is nothing, or nothing suitable.
    """
    name, arrays = open_arrays(source, variable)
    if variable is not None and not isinstance(variable, str):
        if feature_dim is not None:
            message = (
                f"the features of {name} are its variables {', '.join(variable)}; leave feature_dim out, or name one"
            )
            raise DataError(message)
        return _stacked(name, arrays)
    array = next(iter(arrays.values()))
    check_dtype(name, array.dtype)
    if array.ndim < 2:
        check_table(name, array.shape, array.dtype, "dask.array.from_zarr(path).reshape(-1, 1)")
    names = dimension_names(array)
    feature = feature_axis(name, array.ndim, names, feature_dim)
    grid = tuple(axis for axis in range(array.ndim) if axis != feature)
    grid_names = None if names is None else tuple(names[axis] for axis in grid)
    rows = ZarrRows(name, [ZarrPart(array, name, (*grid, feature), packing_of(array))], grid_names)
    labels = coordinates_of(array, feature)
    if labels is not None and labels.dtype.kind == "U":
        rows.feature_names = tuple(labels.tolist())
    elif labels is not None:
        rows.feature_coordinates = labels
    rows.feature_dim = None if names is None else names[feature]
    return rows


def _stacked(name: str, arrays: dict[str, zarr.Array[Any]]) -> ZarrRows:
    """Return rows whose features are variables on one grid."""
    (main, first), *_ = arrays.items()
    names = dimension_names(first)
    parts = []
    for key, array in arrays.items():
        check_dtype(f"{name}/{key}", array.dtype)
        mine = dimension_names(array)
        axes = tuple(range(array.ndim))
        if names is not None and mine is not None and sorted(names) == sorted(mine):
            axes = tuple(mine.index(dim) for dim in names)
        elif mine != names and None not in (mine, names):
            axes = ()
        part = ZarrPart(array, f"{name}/{key}", axes, packing_of(array))
        if not axes or part.along(array.shape) != first.shape:
            message = (
                f"variable {key!r} of {name} has the shape {array.shape}{_dims_text(mine)}, but {main!r} has "
                f"{first.shape}{_dims_text(names)}; variables that are features lie on one grid"
            )
            raise DataError(message)
        parts.append(part)
    rows = ZarrRows(name, parts, names)
    rows.feature_names = tuple(arrays)
    return rows


def _dims_text(names: tuple[str, ...] | None) -> str:
    return "" if names is None else f" ({', '.join(names)})"
