"""What incremental EM remembers: the statistics of every block, and their sum, always in the same order."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dem import tree
from dem.statistics import TREE_ARITY, Additive, tree_sum

S = TypeVar("S", bound=Additive)

#: bytes up to which the tables of a fit are in memory; larger ones are files in the temporary folder
MEMORY_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class BlockTable(Generic[S]):
    """The statistics of all blocks, and their sum over the same tree as a sweep.

    Replacing a block adds anew along its way to the root. Nothing is ever subtracted, so that no rounding gathers: the
    sum depends on what is remembered, not on how it came to be.

    Attributes
    ----------
    blocks : Statistics
        Those of all blocks: each array has one axis more, the first, along which the blocks are.
    """

    blocks: S

    def __post_init__(self) -> None:
        # The sums of each level above the blocks; None where a block below has changed.
        levels: list[list[S | None]] = []
        width = len(self)
        while width > 1:
            width = -(-width // TREE_ARITY)
            levels.append([None] * width)
        vars(self).update(_levels=levels, _taken=[None] * len(self))

    @classmethod
    def room_for(cls, blank: S, n_blocks: int, n_tables: int = 1) -> Self:
        """Return a table, one of several, to be filled with statistics of the shapes of `blank`; undefined before."""
        folder = None
        if n_tables * n_blocks * tree.n_bytes(blank) > MEMORY_BYTES:
            folder = tempfile.mkdtemp(prefix="dem-blocks-")
        names = iter(name for name, _ in tree.leaves(blank))

        def room(leaf: Any) -> NDArray[np.float64]:
            name, shape = next(names), (n_blocks, *np.shape(leaf))
            if folder is None or math.prod(shape) == 0:
                return np.empty(shape)
            return np.memmap(Path(folder) / name, np.float64, "w+", shape=shape)

        table = cls(tree.tree_map(room, blank))
        if folder is not None:
            weakref.finalize(table, shutil.rmtree, folder)
        return table

    def __len__(self) -> int:
        return len(next(array for _, array in tree.leaves(self.blocks)))

    def __getitem__(self, block: int) -> S:
        taken: list[S | None] = vars(self)["_taken"]  # to take a block costs more than to add it
        found = taken[block] = taken[block] or tree.take(self.blocks, block)
        return found

    def __setitem__(self, block: int, statistics: S) -> None:
        for (_, room), (_, leaf) in zip(tree.leaves(self.blocks), tree.leaves(statistics), strict=True):
            room[block] = leaf
        vars(self)["_taken"][block] = None
        for level in vars(self)["_levels"]:
            block //= TREE_ARITY
            level[block] = None

    def total(self) -> S:
        """Return the sum of all blocks."""
        return self._sum(len(vars(self)["_levels"]), 0)

    def _sum(self, height: int, place: int) -> S:
        """Return the sum of one node of the tree; the blocks have height 0."""
        if height == 0:
            return self[place]
        levels: list[list[S | None]] = vars(self)["_levels"]
        known = levels[height - 1][place]
        if known is None:
            below = len(self) if height == 1 else len(levels[height - 2])
            children = range(place * TREE_ARITY, min((place + 1) * TREE_ARITY, below))
            known = levels[height - 1][place] = tree_sum([[self._sum(height - 1, child)] for child in children])[0]
        return known
