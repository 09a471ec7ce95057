"""Cells of the feature space that tell which components a row may have to do with, without a look at all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.truncation import cells_of_neighbours
from dem.families.workspace import kept_with

# Components that make a cell.
MEMBERS = 32
# A component is a member of so many cells whose centres are the nearest to its mean.
NEAREST = 2
# To look at a member of a cell takes some times as long as to look at one of all components in turn: rows have
# to be gathered, and members of several cells come again.
COST_OF_MEMBER = 2.5
# Cells, or components, that are compared with all components, or cells, at once.
BLOCK = 256


@dataclass(frozen=True, eq=False)
class Moments:
    """What cells ask of the components at some parameters.

    Attributes
    ----------
    means, variances : ndarray of shape (n_components, n_features)
    precisions : ndarray of shape (n_components, n_features)
    constants : ndarray of shape (n_components,)
        log(weight · density at the mean).
    """

    means: Array
    variances: Array
    precisions: Array
    constants: Array


@dataclass(frozen=True, eq=False)
class Cells:
    """A partition of the feature space, and the components that have been seen in each cell.

    The partition stays as it is for a whole fit, and no component leaves a cell again, so that the members of the cells
    that are the nearest to a row only become more.

    Attributes
    ----------
    centres : ndarray of shape (n_cells, n_features)
    spreads : ndarray of shape (n_cells, n_features)
        Variances within each cell.
    packed : ndarray of uint8, shape (n_cells, ceil(n_components / 8))
        Which components are members of each cell, a bit for each.
    """

    centres: Array
    spreads: Array
    packed: NDArray[np.uint8]

    @classmethod
    def learnt(cls, moments: Moments, n_candidates: int) -> Self:
        """Return the cells of the components of a start: each of some that are neighbours."""
        cell_of = cells_of_neighbours(moments.means, MEMBERS)
        n_cells, n_components = int(cell_of.max()) + 1, len(cell_of)
        order, sizes = np.argsort(cell_of, kind="stable"), np.bincount(cell_of)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        centres = np.add.reduceat(moments.means[order], starts) / sizes[:, np.newaxis]
        squares = (moments.means - centres[cell_of]) ** 2 + moments.variances
        spreads = np.add.reduceat(squares[order], starts) / sizes[:, np.newaxis]
        packed = np.zeros((n_cells, -(-n_components // 8)), dtype=np.uint8)
        _set(packed, cell_of, np.arange(n_components))
        return cls(centres, spreads, packed).joined(moments, n_candidates)

    def joined(self, moments: Moments, n_candidates: int) -> Self:
        """Return the cells with the members that they have besides at other parameters.

        These are the components whose means are near, and those with the largest expected log-joint density for the
        rows of a cell, so that a broad component is a member wherever it counts.
        """
        packed, n_components = self.packed.copy(), len(moments.means)
        slopes, offsets = self.discriminants
        nearest = min(NEAREST, len(packed))
        for start in range(0, n_components, BLOCK):
            scores = moments.means[start : start + BLOCK] @ slopes + offsets
            for cell in np.argpartition(-scores, nearest - 1, axis=1)[:, :nearest].T:
                _set(packed, cell, np.arange(start, start + len(cell)))
        precisions, many = moments.precisions, min(n_candidates, n_components)
        weights = np.vstack([(moments.means * precisions).T, -0.5 * precisions.T])
        levels = moments.constants - 0.5 * np.sum(moments.means**2 * precisions, axis=1)
        for start in range(0, len(packed), BLOCK):
            centres = self.centres[start : start + BLOCK]
            expected = np.hstack([centres, centres**2 + self.spreads[start : start + BLOCK]]) @ weights + levels
            likeliest = np.argpartition(-expected, many - 1, axis=1)[:, :many]
            _set(packed, np.arange(start, start + len(centres))[:, np.newaxis], likeliest)
        return replace(self, packed=packed)

    def members(self, n_components: int) -> list[NDArray[np.intp]]:
        """Return the members of each cell, increasing."""

        def found() -> list[NDArray[np.intp]]:
            return [np.flatnonzero(np.unpackbits(row, count=n_components)) for row in self.packed]

        return kept_with(self, "members", found)

    def holding(self, n_members: int, n_components: int) -> int:
        """Return how many cells have so many members, on average: all where it takes no longer to look at all."""
        if COST_OF_MEMBER * n_members >= n_components:
            return len(self.packed)
        size = int(np.bitwise_count(self.packed).sum()) / len(self.packed)
        return min(max(int(n_members / size), 1), len(self.packed))

    @property
    def discriminants(self) -> tuple[Array, Array]:
        """Slopes (n_features, n_cells) and offsets (n_cells,): a row is nearest to the cell with the largest."""

        def found() -> tuple[Array, Array]:
            within = self.spreads.mean(axis=0)
            slopes = (self.centres / within).T
            return slopes, -0.5 * np.sum(self.centres**2 / within, axis=1)

        return kept_with(self, "discriminants", found)


def _set(packed: NDArray[np.uint8], cells: NDArray[np.intp], components: NDArray[np.intp]) -> None:
    """Make components members of cells."""
    np.bitwise_or.at(packed, (cells, components >> 3), (128 >> (components & 7)).astype(np.uint8))
