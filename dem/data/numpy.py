"""Rows of an array in memory, or mapped into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, Batch, Chunk, Rows, batch_bounds
from dem.data.checks import check_table, reason
from dem.errors import DataError

# Enough chunks to keep many threads busy, each long enough to be worth a call.
MIN_CHUNKS = 32
MIN_CHUNK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class ArrayBatch(Batch):
    """Consecutive chunks of an array; pickles the rows of this batch only."""

    table: NDArray[Any]
    start: int
    chunk_rows: int
    reads_ahead: bool = False

    def __iter__(self) -> Iterator[Chunk]:
        """Yield views of the array."""
        for first in range(0, len(self.table), self.chunk_rows):
            rows = self.table[first : first + self.chunk_rows]
            yield Chunk(rows, range(self.start + first, self.start + first + len(rows)))


class ArrayRows(Rows):
    """A 2-D array in memory; its chunks are views.

    Parameters
    ----------
    table : ndarray of shape (n_rows, n_features)
        The numbers; a `numpy.memmap` is read only where it is needed.
    name : str, optional
        What messages call the data.
    feature_names : tuple of str, optional
        Names of the columns.

    Raises
    ------
    DataError
        If it is no table of numbers, or empty.
    """

    def __init__(
        self, table: NDArray[Any], name: str = "NumPy array", feature_names: tuple[str, ...] | None = None
    ) -> None:
        self.name = name
        # A plain view of a memmap: pickle then takes the rows of a batch, not the whole file.
        self.table = np.asarray(table)
        self.n_rows, self.n_features, self.dtype = check_table(name, self.table.shape, self.table.dtype)
        self.feature_names = feature_names
        self.chunk_rows = chunk_rows(self.n_rows, self.n_features)

    def batches(self) -> list[Batch]:
        """Return batches of row slices."""
        step = self.chunk_rows
        return [
            ArrayBatch(self.table[first * step : stop * step], first * step, step)
            for first, stop in batch_bounds(-(-self.n_rows // step))
        ]

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """Rows per chunk."""
        return (self.chunk_rows,)


def open_array(data: Any) -> ArrayRows:
    """Open an array in memory, or what NumPy makes one of (lists, tensors).

    Raises
    ------
    DataError
        If it is no table of numbers, or has masked values.
    """
    name = "NumPy array" if isinstance(data, np.ndarray) else type(data).__name__
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        message = f"{name} has masked values; drop their rows or fill them first"
        raise DataError(message)
    try:
        table = np.asarray(data)
    except Exception as error:  # whatever the object raises when it is asked for an array
        message = f"{name} cannot be made an array of numbers ({reason(error)})"
        raise DataError(message) from error
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
