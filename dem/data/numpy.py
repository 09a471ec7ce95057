"""Rows of an array in memory (or mapped to it), cut into slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from dem.data.base import READ_BYTES, Batch, Chunk, Rows, batch_bounds

# Enough chunks to keep the cores evenly busy, none so small that its overhead shows.
CHUNKS = 64
SMALLEST_CHUNK = 4096


class ArrayBatch(Batch):
    """A slice of an array; pickles only that slice."""

    reads_ahead = False

    def __init__(self, table: NDArray[Any], start: int, chunk_rows: int) -> None:
        self._table = table
        self._start = start
        self._chunk_rows = chunk_rows

    def __iter__(self) -> Iterator[Chunk]:
        for first in range(0, len(self._table), self._chunk_rows):
            rows = self._table[first : first + self._chunk_rows]
            start = self._start + first
            yield Chunk(rows, range(start, start + len(rows)))


class ArrayRows(Rows):
    """Rows of a 2-D array; slices of it are the chunks, without copies.

    Parameters
    ----------
    table : ndarray of shape (n_rows, n_features)
    name : str
        What messages call it.
    feature_names : tuple of str, optional
    """

    def __init__(
        self, table: NDArray[Any], name: str = "NumPy array", feature_names: tuple[str, ...] | None = None
    ) -> None:
        self.name = name
        self.n_rows, self.n_features = table.shape
        self.dtype = table.dtype
        self.feature_names = feature_names
        self._table = table
        row_bytes = max(self.n_features * self.dtype.itemsize, 1)
        even = max(SMALLEST_CHUNK, -(-self.n_rows // CHUNKS))
        self.chunk_rows = max(1, min(even, READ_BYTES // row_bytes))

    def batches(self) -> Sequence[Batch]:
        """Return batches of whole chunks."""
        n_chunks = -(-self.n_rows // self.chunk_rows)
        edges = [(first * self.chunk_rows, stop * self.chunk_rows) for first, stop in batch_bounds(n_chunks)]
        return [ArrayBatch(self._table[start:stop], start, self.chunk_rows) for start, stop in edges]
