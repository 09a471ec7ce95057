"""Rows of an array in memory, or mapped into it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, Batch, Chunk, Rows, batch_bounds
from dem.data.checks import check_table, reason
from dem.errors import DataError
from dem.namespaces import is_on_device

# Enough chunks to keep many threads busy, each long enough to be worth a call.
MIN_CHUNKS = 32
MIN_CHUNK_ROWS = 4096
# Rows of a chunk where so many batches are asked for that chunks are short: fewer tell the components apart too badly.
MIN_DIVIDED_ROWS = 32
# As float64, of a chunk of rows on a device: what little a call computes costs it more than memory.
DEVICE_CHUNK_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Slabs:
    """An array (…, n_features) divided into chunks that are consecutive rows in C order.

    The dimensions before `axis` have chunks of one, `axis` has chunks of `step`, those behind it are whole.
    """

    table: NDArray[Any]
    axis: int
    step: int

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return math.prod(self._counts())

    def chunk(self, number: int) -> Chunk:
        """Return a chunk: a view, or a copy where the rows are not beside one another."""
        *before, last = (int(i) for i in np.unravel_index(number, self._counts()))
        place = slice(last * self.step, (last + 1) * self.step)
        rows = self.table[tuple(before)][place].reshape(-1, self.table.shape[-1])
        return Chunk(rows, range(self.start(number), self.start(number) + len(rows)))

    def start(self, number: int) -> int:
        """Return the first row of a chunk."""
        extent = self.table.shape[self.axis]
        before, last = divmod(number, -(-extent // self.step))
        start: int = (before * extent + last * self.step) * math.prod(self.table.shape[self.axis + 1 : -1])
        return start

    def _counts(self) -> tuple[int, ...]:
        return (*self.table.shape[: self.axis], -(-self.table.shape[self.axis] // self.step))


@dataclass(frozen=True, eq=False)
class HeldBatch(Batch):
    """Chunks in memory: what becomes of an `ArrayBatch` that travels."""

    chunks: Sequence[Chunk]
    reads_ahead: bool = False

    @property
    def span(self) -> range:
        """Its rows."""
        return range(int(self.chunks[0].index[0]), int(self.chunks[-1].index[-1]) + 1)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks."""
        return iter(self.chunks)


@dataclass(frozen=True, eq=False)
class ArrayBatch(Batch):
    """Chunks `first` to `stop` (exclusive) of an array; pickles these only."""

    slabs: Slabs
    first: int
    stop: int
    reads_ahead: bool = False

    @property
    def span(self) -> range:
        """Its rows."""
        return range(self.slabs.start(self.first), self.slabs.start(self.stop))

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks, views where possible."""
        return map(self.slabs.chunk, range(self.first, self.stop))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the rows of this batch, without the rest of the array."""
        return HeldBatch, (list(self),)


class ArrayRows(Rows):
    """An array in memory; its chunks are views where its rows lie side by side.

    Parameters
    ----------
    table : ndarray of shape (…, n_features)
        The numbers; a `numpy.memmap` is read only where it is needed. All dimensions but the last are stacked to rows.
    name, feature_names, grid_names
        As of `Rows`.

    Raises
    ------
    DataError
        If it holds no numbers, or is empty.
    """

    def __init__(
        self,
        table: NDArray[Any],
        name: str = "NumPy array",
        feature_names: tuple[str, ...] | None = None,
        grid_names: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        # A plain view of a memmap: pickle then takes the rows of a batch, not the whole file.
        self.table = table if is_on_device(table) else np.asarray(table)
        shape = (math.prod(table.shape[:-1]), table.shape[-1])
        self.n_rows, self.n_features, self.dtype = check_table(name, shape, table.dtype)
        self.feature_names = feature_names
        self.grid_names = grid_names
        self._slabs = Slabs(self.table, *_division(self.grid, self._chunk_rows))
        self._bounds = batch_bounds(self._slabs.n_chunks)

    def batches(self) -> list[Batch]:
        """Return batches of row slices."""
        return [ArrayBatch(self._slabs, first, stop) for first, stop in self._bounds]

    def divided(self, n_batches: int) -> Rows:
        """Return the same rows in at least `n_batches` batches; see `Rows.divided`."""
        if len(self._bounds) >= n_batches:
            return self
        finer = copy.copy(self)
        n_rows = min(self._chunk_rows, max(-(-self.n_rows // n_batches), MIN_DIVIDED_ROWS))
        slabs = Slabs(self.table, *_division(self.grid, n_rows))
        vars(finer).update(_slabs=slabs, _bounds=batch_bounds(slabs.n_chunks, n_batches))
        return finer

    @property
    def _chunk_rows(self) -> int:
        if is_on_device(self.table):
            return min(self.n_rows, max(DEVICE_CHUNK_BYTES // (8 * self.n_features), 1))
        return chunk_rows(self.n_rows, self.n_features)

    @property
    def n_batches(self) -> int:
        """How many batches there are."""
        return len(self._bounds)

    @property
    def decoding_bytes(self) -> int:
        """None: nothing is decoded."""
        return 0

    @property
    def carried_bytes(self) -> int:
        """Bytes of the array, of which each batch takes its part."""
        return self.n_bytes

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the array without its features."""
        return self.table.shape[:-1]

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """Shape of the chunks."""
        axis = self._slabs.axis
        return (1,) * axis + (self._slabs.step, *self.grid[axis + 1 :])


def _division(grid: tuple[int, ...], n_rows: int) -> tuple[int, int]:
    """Return axis and step of chunks of about `n_rows` rows."""
    across = 1
    for axis in range(len(grid) - 1, 0, -1):
        if across * grid[axis] > n_rows:
            return axis, max(n_rows // across, 1)
        across *= grid[axis]
    return 0, max(n_rows // across, 1)


def open_array(data: Any) -> ArrayRows:
    """Open an array in memory, or what NumPy makes one of (lists, tensors).

    Raises
    ------
    DataError
        If it is no table of numbers, or has masked values.
    """
    if is_on_device(data):
        check_table("CuPy array", data.shape, data.dtype)
        return ArrayRows(data, "CuPy array")
    name = "NumPy array" if isinstance(data, np.ndarray) else type(data).__name__
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        message = f"{name} has masked values; drop their rows or fill them first"
        raise DataError(message)
    try:
        table = np.asarray(data)
    except Exception as error:  # whatever the object raises when it is asked for an array
        message = f"{name} cannot be made an array of numbers ({reason(error)})"
        raise DataError(message) from error
    check_table(name, table.shape, table.dtype)
    return ArrayRows(table, name)


def chunk_rows(n_rows: int, n_features: int) -> int:
    """Return the rows per chunk of an array in memory, which depend on its shape alone.

    Examples
    --------
    >>> chunk_rows(1_000, 2), chunk_rows(1_000_000, 2), chunk_rows(1_000_000, 1_000)
    (1000, 31250, 1048)
    """
    wanted = max(-(-n_rows // MIN_CHUNKS), MIN_CHUNK_ROWS)
    return min(n_rows, wanted, max(READ_BYTES // (8 * n_features), 1))
