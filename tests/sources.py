"""Rows for tests: cut anywhere, and counting how often they are read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from dem.data.base import Batch, Chunk, Rows


class CutBatch(Batch):
    """Some consecutive chunks of an array in memory."""

    reads_ahead = False

    def __init__(self, table: np.ndarray, first: int, edges: list[int]) -> None:
        self.table = table
        self.first = first
        self.edges = edges

    @property
    def span(self) -> range:
        return range(self.edges[0], self.edges[-1])

    def __iter__(self) -> Iterator[Chunk]:
        for start, stop in itertools.pairwise(self.edges):
            yield Chunk(self.table[start - self.first : stop - self.first], range(start, stop))


class CutRows(Rows):
    """An array whose chunks end wherever a test wants them to, and which counts its reads (sweeps)."""

    def __init__(self, table: np.ndarray, edges: Sequence[int], chunks_per_batch: int = 1) -> None:
        self.name = "test rows"
        self.table = table
        self.n_rows, self.n_features = table.shape
        self.dtype = table.dtype
        self.feature_names = None
        self.edges = [0, *edges, self.n_rows]
        self.chunks_per_batch = chunks_per_batch
        self.reads = 0

    def batches(self) -> list[CutBatch]:
        self.reads += 1
        step = self.chunks_per_batch
        groups = [self.edges[i : i + step + 1] for i in range(0, len(self.edges) - 1, step)]
        return [CutBatch(self.table[group[0] : group[-1]], group[0], group) for group in groups]


class CountingBatch(CutBatch):
    """Counts the rows that are read."""

    read = 0

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in super().__iter__():
            CountingBatch.read += len(chunk)
            yield chunk


class CountingRows(CutRows):
    """Rows whose batches count, also where an algorithm asks for some of them only."""

    def batches(self) -> list[CutBatch]:
        batches = super().batches()
        for batch in batches:
            batch.__class__ = CountingBatch
        return batches
