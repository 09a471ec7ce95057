"""The rows of lowest density, found in one read: a work whose results keep no more than these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk
from dem.statistics import Additive

# Densities closer than this, relative to their size, are equal: rounding depends on what else is in a block.
RESOLUTION = 2.0**-30


@dataclass(frozen=True, eq=False)
class Lowest(Additive):
    """Up to `n_wanted` rows of lowest density, lowest first, among equals the first; ``+`` joins two groups of rows.

    Attributes
    ----------
    n_wanted : int
    rank : ndarray of shape (n,)
        By what the rows are ordered: their log-density, or that of the components without a background. NaN counts as
        the lowest.
    log_density : ndarray of shape (n,)
    index : ndarray of int64, shape (n,)
        Where the rows stand in the whole table.
    rows : ndarray of shape (n, n_features)
    distinct : bool
        Whether of equal rows the first alone is kept.
    """

    n_wanted: int
    rank: NDArray[np.float64]
    log_density: NDArray[np.float64]
    index: NDArray[np.int64]
    rows: NDArray[Any]
    distinct: bool = False

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.n_wanted,
            np.concatenate([self.rank, other.rank]),
            np.concatenate([self.log_density, other.log_density]),
            np.concatenate([self.index, other.index]),
            np.concatenate([self.rows, other.rows]),
            self.distinct,
        ).kept()

    def kept(self) -> Self:
        """Return these without what is more than wanted."""
        keys = _rounded(self.rank)
        if len(keys) > self.n_wanted:  # sort no more than what may be among the lowest
            (near,) = np.nonzero(keys <= np.partition(keys, self.n_wanted - 1)[self.n_wanted - 1])
        else:
            near = np.arange(len(keys))
        if self.distinct:
            order = self._of_distinct(keys)
        else:
            order = near[np.lexsort((self.index[near], keys[near]))[: self.n_wanted]]
        kept = {name: getattr(self, name)[order] for name in ("rank", "log_density", "index", "rows")}
        return replace(self, **kept)

    def _of_distinct(self, keys: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the places of the lowest rows, of which no two are equal."""
        order = np.lexsort((self.index, keys))
        size = self.n_wanted
        while True:
            found = order[:size]
            _, first = np.unique(np.asarray(self.rows[found]), axis=0, return_index=True)
            if len(first) >= self.n_wanted or size >= len(order):
                return found[np.sort(first)[: self.n_wanted]]
            size *= 4


def _rounded(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log-densities to a resolution that is a power of two, so that rounding keeps their order."""
    finite = np.isfinite(density)
    size = np.where(finite, np.maximum(np.abs(density), 1.0), 1.0)
    step = np.exp2(np.floor(np.log2(size))) * RESOLUTION
    return np.where(finite, np.rint(density / step) * step, np.where(density > 0.0, np.inf, -np.inf))


@dataclass(frozen=True, eq=False)
class LowestDensities:
    """Work: the `n_wanted` rows of a chunk that are least likely under a mixture, by double precision."""

    family: Any
    parameters: Any
    n_wanted: int
    distinct: bool = False

    def __call__(self, chunk: Chunk) -> Lowest:
        """Return those of a chunk."""
        exact = replace(chunk, rows=chunk.rows.astype(np.float64, copy=False))
        rank, density = self.family.ranked(self.parameters, exact)
        index = np.asarray(chunk.index, dtype=np.int64)
        found = Lowest(self.n_wanted, rank, density, index, chunk.rows, self.distinct).kept()
        return replace(found, rows=np.asarray(found.rows))
