"""Rows of zarr arrays of any number of dimensions, in memory never more than a few of their chunks."""

from __future__ import annotations

import copy
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import (
    READ_BYTES,
    READ_ROWS,
    Batch,
    Chunk,
    Corner,
    Region,
    Rows,
    batch_bounds,
    chunk_counts,
    chunk_region,
    joined_chunks,
    span_of,
)
from dem.data.checks import check_table
from dem.data.found import Found, LeavesOut, LeftOut, Missing, PartlyRead, Unreadable
from dem.data.zarr_part import Block, ZarrPart
from dem.data.zarr_watch import is_remote
from dem.errors import MissingDataError

if TYPE_CHECKING:
    import dask.array

# A shard that is larger decoded is read in parts.
SHARD_BYTES = 8 * READ_BYTES
# Results have a chunk for each chunk of the data, up to this number.
MAX_RESULT_CHUNKS = 10_000


@dataclass(frozen=True, eq=False)
class ZarrTable:
    """Zarr arrays on one grid and their features; picklable, and an array to Dask."""

    #: arrays with an axis of features, or for one feature each; their features stand one behind another
    parts: tuple[ZarrPart, ...]
    #: of the grid, and the number of features
    shape: Corner
    dtype: np.dtype[Any]
    #: whether missing chunks count as their fill value
    allow_missing: bool
    #: whether what cannot be read is left out; else it is an error
    skips_bad: bool = False
    #: the regions that are left out of each array, by its name
    known: Mapping[str, Sequence[tuple[tuple[int, int], ...]]] = field(default_factory=dict)

    @property
    def ndim(self) -> int:
        """Number of dimensions, with that of the features."""
        return len(self.shape)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        *region, features = (slice(*part.indices(extent)) for part, extent in zip(key, self.shape, strict=True))
        block, missing, unread = self.read(region, check=True)
        if missing.n_missing and not self.allow_missing:
            raise self.refusal(missing)
        if unread is not None and unread.any():
            block = PartlyRead(block, np.broadcast_to(unread[..., np.newaxis], block.shape))
        return block[..., features]

    def refusal(self, missing: Missing) -> MissingDataError:
        """Word that chunks are missing which may not be, and what they would count as."""
        fill_value = " or ".join(dict.fromkeys(part.fill_value for part in self.parts))
        message = (
            f"{missing}, and would count as its fill value, {fill_value}; write it again, or, if zarr left out chunks "
            "that hold nothing else (write_empty_chunks=False), pass allow_missing_chunks=True (--allow-missing-chunks)"
        )
        return MissingDataError(message)

    def read(self, region: Sequence[slice], *, check: bool) -> Block:
        """Read a block of the grid, with all features at the end, and tell what of it is missing."""
        known = [self.known.get(part.name, ()) if self.skips_bad else None for part in self.parts]
        if len(self.parts) == 1 and self.parts[0].has_features:
            return self.parts[0].read(region, check=check, known=known[0])
        block = np.empty((*(part.stop - part.start for part in region), self.shape[-1]), self.dtype)
        total, first = Missing(), 0
        unread: NDArray[np.bool_] | None = None
        for part, own in zip(self.parts, known, strict=True):
            values, missing, lacking = part.read(region, check=check, known=own)
            block[..., first : first + part.n_features] = values if part.has_features else values[..., np.newaxis]
            total, first = total + missing, first + part.n_features
            if lacking is not None:
                unread = lacking if unread is None else unread | lacking
        return Block(block, total, unread)


@dataclass(frozen=True, eq=False)
class ZarrBatch(Batch):
    """Reads blocks `first` to `stop` (exclusive) of a grid, numbered in C order, each of the shape `block`."""

    table: ZarrTable
    block: Corner
    first: int
    stop: int
    #: whether rows that cannot be read come with the others, which `Chunk.unread` tells; else they are left out
    on_grid: bool = False
    #: the shape of the slices in which a block is read; of the whole block when left out
    slices: Corner | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Read block by block."""
        for read in self.independent_reads():
            yield read()

    def independent_reads(self) -> Sequence[Callable[[], Chunk]]:
        """Return a read of each block, or slice; the last sees whether the store is still the one that was opened."""
        regions = [region for number in range(self.first, self.stop) for region in self._slices(number)]
        return [partial(self._read, region, check=region is regions[-1]) for region in regions]

    def _read(self, region: Region, *, check: bool) -> Chunk:
        place = [slice(first, first + n) for first, n in zip(region.offset, region.shape, strict=True)]
        rows, missing, unread = self.table.read(place, check=check)
        found = Found({(self.first, self.stop, *self.block): missing})
        chunk = Chunk(rows.reshape(-1, self.table.shape[-1]), region.index(), found=found)
        if unread is not None and unread.any():
            lacking = unread.ravel()
            chunk = replace(chunk, unread=lacking) if self.on_grid else replace(chunk.take(~lacking), found=found)
        return chunk

    @property
    def span(self) -> range | None:
        """Its rows, where blocks of the grid are consecutive ones."""
        return span_of(self._region(self.first), self._region(self.stop - 1), self.n_rows)

    @property
    def index(self) -> range | NDArray[np.int64]:
        """The positions of its rows."""
        return self.span or np.concatenate([self._region(n).index() for n in range(self.first, self.stop)])

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        grid = self.table.shape[:-1]
        places = np.unravel_index(np.arange(self.first, self.stop), chunk_counts(grid, self.block))
        extents = [np.minimum(n, end - i * n) for i, n, end in zip(places, self.block, grid, strict=True)]
        return int(np.prod(extents, axis=0).sum())

    def _slices(self, number: int) -> list[Region]:
        """Return what is read of a block one after another, in C order."""
        block = self._region(number)
        if self.slices is None:
            return [block]
        parts = [chunk_region(n, self.slices, block.shape) for n in np.ndindex(chunk_counts(block.shape, self.slices))]
        return [
            Region(
                tuple(a + one.start for a, one in zip(block.offset, part, strict=True)),
                tuple(one.stop - one.start for one in part),
                block.whole,
            )
            for part in parts
        ]

    def _region(self, number: int) -> Region:
        grid = self.table.shape[:-1]
        places = np.unravel_index(number, chunk_counts(grid, self.block))
        lower = tuple(int(i) * n for i, n in zip(places, self.block, strict=True))
        return Region(lower, tuple(min(n, end - a) for a, n, end in zip(lower, self.block, grid, strict=True)), grid)


class ZarrRows(LeavesOut, Rows):
    """Zarr arrays of either format, sharded or not: all dimensions but that of the features are stacked in C order.

    Parameters as in `ZarrTable` and `Rows`. Raises `DataError` if they hold no numbers, or are empty.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[ZarrPart],
        grid_names: tuple[str, ...] | None = None,
        *,
        allow_missing: bool = False,
        skips_bad: bool = False,
    ) -> None:
        self.name = name
        whole = parts[0].along(parts[0].array.shape)
        grid = whole[:-1] if parts[0].has_features else whole
        shape = (*grid, sum(part.n_features for part in parts))
        dtype = np.result_type(*(part.dtype for part in parts)) if len(parts) > 1 else parts[0].dtype
        self.n_rows, self.n_features, self.dtype = check_table(name, (math.prod(shape[:-1]), shape[-1]), dtype)
        self.feature_names = None
        self.skips_bad, self.allows_missing = skips_bad, allow_missing
        self.table = ZarrTable(tuple(parts), shape, self.dtype, allow_missing, skips_bad)
        self.waits = any(is_remote(part.array.store_path.store) for part in parts)
        # What the first read of each batch has found, by which every read is judged.
        self._first: dict[tuple[int, ...], Missing] = {}
        self._unreadable = Unreadable()
        self._on_grid = False
        self.grid_names = grid_names
        row_bytes = self.n_features * self.dtype.itemsize
        self._unit = _unit(self.table, SHARD_BYTES // row_bytes, READ_BYTES // row_bytes)
        self._most = max(min(READ_BYTES // row_bytes, READ_ROWS), 1)
        self._block = joined_chunks(self.grid, self._unit, self._most)
        self._bounds = batch_bounds(math.prod(chunk_counts(self.grid, self._block)))
        self._slices: Corner | None = None

    def batches(self) -> list[Batch]:
        """Return ranges of reads: as many as the square root of the chunks asks for."""
        table = self.table
        if self._unreadable.parts:
            table = replace(table, known=self._unreadable.by_array())
        return [ZarrBatch(table, self._block, first, stop, self._on_grid, self._slices) for first, stop in self._bounds]

    def divided(self, n_batches: int) -> Rows:
        """Return the same rows in at least `n_batches` batches; see `Rows.divided`. Shards are divided where few."""
        if len(self._bounds) >= n_batches:
            return self
        finer, enough, unit = copy.copy(self), max(self.n_rows // n_batches, 1), self._unit
        if self.table.parts[0].array.shards is not None:
            unit = _unit(self.table, enough, enough)
        block = joined_chunks(self.grid, unit, min(enough, self._most))
        bounds = batch_bounds(math.prod(chunk_counts(self.grid, block)), n_batches)
        vars(finer).update(_unit=unit, _block=block, _bounds=bounds, _slices=None)
        return finer

    def sliced(self, n_bytes: int) -> Rows:
        """Return the same rows, of whose shards fewer chunks are read at once; see `Rows.sliced`."""
        parts = self.table.parts
        inner = [part.along(part.array.chunks)[: len(self.grid)] for part in parts]
        whole = tuple(min(n, extent) for n, extent in zip(self._block, self.grid, strict=True))
        unit = tuple(math.lcm(*sizes) for sizes in zip(*inner, strict=True))
        slices = joined_chunks(whole, unit, n_bytes // (self.n_features * self.dtype.itemsize))
        aligned = all(n % size == 0 for n, size in zip(self._block, unit, strict=True))
        if not aligned or math.prod(slices) >= math.prod(whole):
            return self
        finer = copy.copy(self)
        vars(finer).update(_slices=slices)
        return finer

    def check_found(self, found: Found) -> Sequence[LeftOut]:
        """Judge what a read has found missing; raises `MissingDataError` if it is something that may not be.

        Where chunks may be missing at all, those that were there once may not, nor may others come. What the first read
        of all the data cannot read stays left out, and nothing else may follow.
        """
        n_blocks, n_read = math.prod(chunk_counts(self.grid, self._block)), 0
        for first, stop, *_ in found.batches:
            n_read += stop - first
        new = self._unreadable.judge(found, all_read=n_read >= n_blocks)
        both = [(self._first.setdefault(batch, missing), missing) for batch, missing in found.batches.items()]
        if changes := [(known, missing) for known, missing in both if known != missing]:
            message = (
                f"{_change(changes)}; the store of {self.name} changes while it is read: wait until nothing writes to "
                "it or removes from it, and start again"
            )
            raise MissingDataError(message)
        now = sum(found.batches.values(), start=Missing())
        if now.n_missing and not self.table.allow_missing:
            raise self.table.refusal(now)
        return new

    @property
    def array(self) -> dask.array.Array:
        """The same rows on their grid as a lazy Dask array, a block for each read."""
        import dask.array  # noqa: PLC0415 - with xarray and pandas, 100 MB that workers do without

        name, meta = f"dem-zarr-{uuid.uuid4().hex}", np.empty((0,) * self.table.ndim, self.dtype)
        chunks = (*self._block, self.n_features)
        lazy: dask.array.Array = dask.array.from_array(self.table, chunks, name=name, asarray=False, meta=meta)
        return lazy

    @property
    def grid(self) -> Corner:
        """Shape of the arrays without the features."""
        return self.table.shape[:-1]

    def coordinates(self, dim: str) -> NDArray[Any] | None:
        """Read the coordinate values of a dimension from the array of its name."""
        from dem.data.zarr_open import coordinates_of  # noqa: PLC0415 - it imports this file

        part = self.table.parts[0]
        if self.grid_names is None or dim not in self.grid_names:
            return None
        return coordinates_of(part.array, part.axes[self.grid_names.index(dim)])

    def stored_coordinates(self) -> dict[str, tuple[NDArray[Any], Mapping[str, Any]]]:
        """Return the coordinates as they are stored, times too."""
        from dem.data.zarr_open import coordinate_array  # noqa: PLC0415 - it imports this file

        part = self.table.parts[0]
        found: dict[str, tuple[NDArray[Any], Mapping[str, Any]]] = {}
        for dim, axis in zip(self.grid_names or (), part.axes, strict=False):
            if (array := coordinate_array(part.array, axis)) is not None:
                attributes = {key: value for key, value in array.attrs.items() if key != "_ARRAY_DIMENSIONS"}
                found[dim] = np.asarray(array[...]), attributes
        return found

    @property
    def read_rows(self) -> int:
        """Rows of a read."""
        return math.prod(self._slices or self._block)

    @property
    def n_batches(self) -> int:
        """How many batches there are."""
        return len(self._bounds)

    @property
    def decoding_bytes(self) -> int:
        """What zarr holds of a read: chunks as they are stored and decoded, of shards both as a whole; and copies."""
        read = self._slices or self._block
        block = tuple(min(n, extent) for n, extent in zip(read, self.grid, strict=True))
        return sum(part.decoding_bytes(block) for part in self.table.parts) + self._copied_bytes(math.prod(block))

    def _copied_bytes(self, n_rows: int) -> int:
        """Return the bytes of the copies by which blocks of the arrays become rows."""
        parts = self.table.parts
        several = len(parts) > 1 or not parts[0].has_features
        in_order = all(part.axes == tuple(sorted(part.axes)) and part.packing is None for part in parts)
        return (several + (not in_order)) * n_rows * self.n_features * self.dtype.itemsize

    @property
    def stored_chunks(self) -> tuple[int, int]:
        """Chunks or shards of all variables, and the largest of them."""
        arrays = [part.array for part in self.table.parts]
        chunks = [array.shards or array.chunks for array in arrays]
        n_chunks = sum(math.prod(chunk_counts(array.shape, own)) for array, own in zip(arrays, chunks, strict=True))
        return n_chunks, max(math.prod(own) * array.dtype.itemsize for array, own in zip(arrays, chunks, strict=True))

    @property
    def grid_chunks(self) -> Corner:
        """The chunks or shards; several together where there are very many."""
        chunks = list(self._slices or self._unit)
        for axis in reversed(range(len(chunks))):
            wanted = -(-math.prod(chunk_counts(self.grid, chunks)) // MAX_RESULT_CHUNKS)
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


def _change(changes: Sequence[tuple[Missing, Missing]]) -> str:
    """Word what is missing now, of batches of which it was something else before."""
    before = sum((known for known, _ in changes), start=Missing())
    now = sum((missing for _, missing in changes), start=Missing())
    counts = f"{now.n_missing} of {now.n_chunks} chunks read there are missing, {before.n_missing} were before"
    for known, missing in changes:
        if missing.first is not None and (known.first is None or missing.first < known.first):
            return f"{missing.first[1]} was there before and is gone ({counts})"
    for known, missing in changes:
        if known.first is not None and (missing.first is None or known.first < missing.first):
            return f"{known.first[1]} was missing before and is there now ({counts})"
    return f"other chunks are missing than before ({counts})"
