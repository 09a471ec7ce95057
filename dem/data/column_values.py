"""The values of a column, one or more for each row: held in memory, or read from a zarr array where they are needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.zarr_part import ZarrPart
from dem.errors import MissingDataError

# Decoded chunks of columns that a process keeps: one may hold the column of many batches.
KEPT_CHUNKS = 4


@dataclass(frozen=True, eq=False)
class HeldValues:
    """Values in memory, shape (n, …), of the rows at increasing positions `index`."""

    values: NDArray[Any]
    index: range | NDArray[np.int64]

    def at(self, index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Return the values of rows."""
        if not isinstance(self.index, range):
            return self.values[np.searchsorted(self.index, np.asarray(index))]
        if isinstance(index, range):
            return self.values[index.start - self.index.start : index.stop - self.index.start]
        return self.values[index - self.index.start]

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
        values, missing = self.part.read((*region, *tail), check=False)
        if missing.n_missing:
            message = f"{self.part.name} lacks {missing.n_missing} chunks; write them first"
            raise MissingDataError(message)
        return values


_chunks: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
_chunks_lock = threading.Lock()


def _kept(key: Hashable, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Return a chunk that this process has decoded before, or decode it: one at a time, as threads ask for the same."""
    with _chunks_lock:
        if key not in _chunks:
            _chunks[key] = read()
            while len(_chunks) > KEPT_CHUNKS:
                _chunks.popitem(last=False)
        _chunks.move_to_end(key)
        return _chunks[key]
