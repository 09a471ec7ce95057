"""What incremental EM remembers: the statistics of every block, and their sum, always in the same order."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dem.statistics import TREE_ARITY, Statistics, tree_sum

S = TypeVar("S", bound=Statistics)

#: bytes up to which the memo is in memory; a larger one is a file in the temporary folder
MEMORY_BYTES = 2**30


class Memo(Generic[S]):
    """The statistics of all blocks, and their sum over the same tree as a sweep.

    Replacing a block adds anew along its way to the root. Nothing is ever subtracted, so that no rounding gathers: the
    sum depends on what is remembered, not on how it came to be.

    Parameters
    ----------
    blank : Statistics
        Any statistics of the right shapes.
    n_blocks : int
        Number of blocks; each must be set before `total` is asked for.
    """

    def __init__(self, blank: S, n_blocks: int) -> None:
        self._blank = blank
        shape = (n_blocks, blank.numbers().size)
        self.n_bytes = 8 * shape[0] * shape[1]
        self.on_disk = self.n_bytes > MEMORY_BYTES
        self._folder = tempfile.TemporaryDirectory(prefix="dem-memo-") if self.on_disk else None
        self._numbers: NDArray[np.float64] = (
            np.memmap(Path(self._folder.name) / "statistics", np.float64, "w+", shape=shape)
            if self._folder is not None
            else np.empty(shape)
        )
        # The sums of each level above the blocks; None where a block below has changed.
        self._levels: list[list[S | None]] = []
        while n_blocks > 1:
            n_blocks = -(-n_blocks // TREE_ARITY)
            self._levels.append([None] * n_blocks)

    def __getitem__(self, block: int) -> S:
        return self._blank.with_numbers(self._numbers[block])

    def __setitem__(self, block: int, statistics: S) -> None:
        self._numbers[block] = statistics.numbers()
        for level in self._levels:
            block //= TREE_ARITY
            level[block] = None

    def total(self) -> S:
        """Return the sum of all blocks."""
        return self._sum(len(self._levels), 0)

    def _sum(self, height: int, place: int) -> S:
        """Return the sum of one node of the tree; the blocks have height 0."""
        if height == 0:
            return self[place]
        level = self._levels[height - 1]
        known = level[place]
        if known is None:
            below = len(self._numbers) if height == 1 else len(self._levels[height - 2])
            children = range(place * TREE_ARITY, min((place + 1) * TREE_ARITY, below))
            known = level[place] = tree_sum([[self._sum(height - 1, child)] for child in children])[0]
        return known

    def close(self) -> None:
        """Give back memory and file."""
        self._numbers = np.empty((0, 0))
        if self._folder is not None:
            self._folder.cleanup()
