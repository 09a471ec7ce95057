"""The values of a column, one or more for each row: held in memory, or read or computed where they are needed."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Batch, Corner
from dem.data.zarr_part import ZarrPart
from dem.errors import MissingDataError

# Decoded chunks of columns that a process keeps: one may hold the column of many batches.
KEPT_CHUNKS = 4


@dataclass(frozen=True, eq=False)
class HeldValues:
    """Values in memory, shape (n, …), of the rows at increasing positions `index`."""

    values: NDArray[Any]
    index: range | NDArray[np.int64]
    chunk_bytes = 0

    @property
    def width(self) -> int:
        """Numbers of each row."""
        return math.prod(self.values.shape[1:])

    @property
    def carried_bytes(self) -> int:
        """Bytes that travel with batches."""
        return self.values.nbytes

    def at(self, index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Return the values of rows."""
        if not isinstance(self.index, range):
            return self.values[np.searchsorted(self.index, np.asarray(index))]
        if isinstance(index, range):
            return self.values[index.start - self.index.start : index.stop - self.index.start]
        return self.values[index - self.index.start]

    def opened(self) -> Self:
        """Return itself."""
        return self

    def cut(self, index: range | NDArray[np.int64]) -> Self:
        """Return those of a batch, which travel with it."""
        index = index if isinstance(index, range) else np.sort(index)
        return type(self)(np.ascontiguousarray(self.at(index)), index)


@dataclass(frozen=True, eq=False)
class StoredValues:
    """Values in a zarr array whose first dimensions are those of the rows, or the rows stacked; read where needed."""

    part: ZarrPart
    #: number of dimensions that are rows
    n_grid: int
    #: tells this opening of the array from others
    opening: str
    carried_bytes = 0

    @property
    def width(self) -> int:
        """Numbers of each row."""
        return math.prod(self.part.array.shape[self.n_grid :])

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of a chunk, of which a process keeps some."""
        array = self.part.array
        return math.prod(array.shards or array.chunks) * array.dtype.itemsize

    def at(self, index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Read the values of rows: the chunks of the smallest block that has them all."""
        grid = self.part.array.shape[: self.n_grid]
        ends = np.array([index.start, index.stop - 1]) if isinstance(index, range) else np.asarray(index)
        if not len(ends) or (isinstance(index, range) and not index):
            return np.empty((0, *self.part.array.shape[self.n_grid :]), self.part.dtype)
        places = np.array(np.unravel_index(ends, grid))
        if isinstance(index, range):  # whole slabs of the dimensions behind the first that differs
            same = int(np.argmax([*(places[:, 0] != places[:, 1]), True]))
            places[same + 1 :, 0], places[same + 1 :, 1] = 0, np.array(grid)[same + 1 :] - 1
        lower, upper = places.min(axis=1), places.max(axis=1) + 1
        block = self._read(tuple(map(slice, lower.tolist(), upper.tolist())))
        shape = block.shape[: self.n_grid]
        inner = np.array(np.unravel_index(np.asarray(index), grid)) - lower[:, np.newaxis]
        flat = block.reshape(-1, *block.shape[self.n_grid :])
        return np.asarray(flat[np.ravel_multi_index(tuple(inner), shape)])

    def opened(self) -> Self:
        """Return itself."""
        return self

    def cut(self, index: range | NDArray[np.int64]) -> Self:  # noqa: ARG002
        """Return itself: it travels as a description of its store."""
        return self

    def _read(self, region: tuple[slice, ...]) -> NDArray[Any]:
        array = self.part.array
        chunk = (array.shards or array.chunks)[: self.n_grid]
        numbers = [range(one.start // size, -(-one.stop // size)) for one, size in zip(region, chunk, strict=True)]
        first = tuple(n.start * size for n, size in zip(numbers, chunk, strict=True))
        last = tuple(min(n.stop * size, end) for n, size, end in zip(numbers, chunk, array.shape, strict=False))
        is_whole = first == tuple(one.start for one in region) and last == tuple(one.stop for one in region)
        if all(len(n) == 1 for n in numbers) and not is_whole:  # one chunk for several batches
            whole = _kept((self.opening, *first), lambda: self._decoded(tuple(map(slice, first, last))))
            inner = tuple(slice(one.start - a, one.stop - a) for one, a in zip(region, first, strict=True))
            return whole[inner]
        return self._decoded(region)

    def _decoded(self, region: tuple[slice, ...]) -> NDArray[Any]:
        tail = tuple(slice(0, extent) for extent in self.part.array.shape[self.n_grid :])
        values, missing, _ = self.part.read((*region, *tail), check=False)
        if missing.n_missing:
            message = (
                f"{self.part.name} lacks {missing.n_missing} chunks; write them first, with write_empty_chunks=True if "
                "zarr left them out because they hold zeros alone, or give the array in memory (zarr.open_array(…)[:])"
            )
            raise MissingDataError(message)
        return values


@dataclass(frozen=True, eq=False)
class BlockValues:
    """Values in blocks that are computed where they are needed, such as those of a Dask array.

    Attributes
    ----------
    edges : tuple of ndarray of int64
        Where the blocks begin along each dimension of the rows, or of the rows stacked, and where the last ends.
    tail : tuple of int
        Extents of the dimensions behind these.
    dtype : dtype
    blocks : mapping of tuple of int to Batch
        By their number along each dimension what computes a block, the tail flat: those of the rows at hand.
    opening : str
        Tells this opening of the array from others.
    recent : dict, optional
        The blocks that the last rows were taken from, where rows are asked for one after another; see `opened`.
    """

    edges: tuple[NDArray[np.int64], ...]
    tail: Corner
    dtype: np.dtype[Any]
    blocks: Mapping[Corner, Batch]
    opening: str
    recent: dict[Corner, NDArray[Any]] | None = None
    carried_bytes = 0

    @property
    def width(self) -> int:
        """Numbers of each row."""
        return math.prod(self.tail)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the largest block, of which a process keeps some."""
        rows = math.prod(int(np.diff(edges).max()) for edges in self.edges)
        return rows * self.width * self.dtype.itemsize

    def at(self, index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Compute the values of rows: the blocks that have any of them."""
        values = np.empty((len(index), *self.tail), self.dtype)
        used = {}
        for number, which, inner in self._parts(index):
            used[number] = self._block(number, len(values[which]))
            values[which] = used[number][inner]
        if self.recent is not None:
            self.recent.clear()
            self.recent.update(used)
        return values

    def opened(self) -> Self:
        """Return what keeps a block while rows are taken from it one chunk after another."""
        return replace(self, recent={})

    def cut(self, index: range | NDArray[np.int64]) -> Self:
        """Return those of a batch: what computes its blocks."""
        blocks = {number: self.blocks[number] for number, _, _ in self._parts(index)}
        return replace(self, blocks=blocks, recent=None)

    def _parts(self, index: range | NDArray[np.int64]) -> Iterator[tuple[Corner, Any, Any]]:
        """Yield the blocks that have some rows, which rows these are, and where they stand in the block."""
        if isinstance(index, range) and len(self.edges) == 1:
            edges = self.edges[0]
            first_number, stop_number = np.searchsorted(edges, [index.start, index.stop - 1], "right")
            for i in range(int(first_number) - 1, int(stop_number)):
                lower, upper = int(edges[i]), int(edges[i + 1])
                start, stop = max(index.start, lower), min(index.stop, upper)
                if start < stop:
                    which, inside = slice(start - index.start, stop - index.start), slice(start - lower, stop - lower)
                    yield (i,), which, inside
            return
        places = np.unravel_index(np.asarray(index), [int(edge[-1]) for edge in self.edges])
        numbers = [np.searchsorted(edge, place, "right") - 1 for edge, place in zip(self.edges, places, strict=True)]
        flat = np.ravel_multi_index(numbers, [len(edge) - 1 for edge in self.edges])
        order = np.argsort(flat, kind="stable")
        groups: list[Any] = np.split(order, np.flatnonzero(np.diff(flat[order])) + 1) if len(order) else []
        for which in groups:
            number = tuple(int(one[which[0]]) for one in numbers)
            ends = [edge[i : i + 2] for edge, i in zip(self.edges, number, strict=True)]
            inner = tuple(place[which] - lower for place, (lower, _) in zip(places, ends, strict=True))
            yield number, which, np.ravel_multi_index(inner, [int(upper - lower) for lower, upper in ends])

    def _block(self, number: Corner, n_wanted: int) -> NDArray[Any]:
        if self.recent is not None and number in self.recent:
            return self.recent[number]
        batch = self.blocks[number]

        def computed() -> NDArray[Any]:
            (chunk,) = batch
            return chunk.rows.reshape(-1, *self.tail)

        return computed() if n_wanted == batch.n_rows else _kept((self.opening, *number), computed)


_chunks: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
_chunks_lock = threading.Lock()
_read_locks: dict[Hashable, threading.Lock] = {}


def _kept(key: Hashable, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Return a chunk that this process has decoded before, or decode it: one thread, where several ask for the same."""
    with _chunks_lock:
        own = _read_locks.setdefault(key, threading.Lock())
    try:
        with own:
            with _chunks_lock:
                if key in _chunks:
                    _chunks.move_to_end(key)
                    return _chunks[key]
            found = read()
            with _chunks_lock:
                _chunks[key] = found
                while len(_chunks) > KEPT_CHUNKS:
                    _chunks.popitem(last=False)
            return found
    finally:
        with _chunks_lock:
            _read_locks.pop(key, None)
