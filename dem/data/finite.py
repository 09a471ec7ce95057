"""Counts the values that are NaN or infinite, and says where the first one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from dem.data.base import Chunk, Rows
from dem.statistics import Statistics


@dataclass(frozen=True, eq=False)
class NonFinite(Statistics):
    """Counts of NaN and infinite values, and the place of the first (-1 if there is none); ``+`` keeps the earlier.

    Attributes
    ----------
    n_nan, n_infinite : int
    row, column : int
        The first row of the whole table that holds such a value, and its first column.
    """

    n_nan: int = 0
    n_infinite: int = 0
    row: int = -1
    column: int = -1

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        first = min((part for part in (self, other) if part.row >= 0), key=lambda part: part.row, default=self)
        return type(self)(self.n_nan + other.n_nan, self.n_infinite + other.n_infinite, first.row, first.column)


@dataclass(frozen=True)
class CountNonFinite:
    """Work that counts values that are not finite; returns `NonFinite`."""

    def __call__(self, chunk: Chunk) -> NonFinite:
        """Count in one chunk."""
        if chunk.rows.dtype.kind != "f":
            return NonFinite()
        bad = ~np.isfinite(chunk.rows)
        n_bad = int(np.count_nonzero(bad))
        if not n_bad:
            return NonFinite()
        places = np.flatnonzero(bad.any(axis=1))
        positions = np.asarray(chunk.index)[places]
        place = int(places[positions.argmin()])
        n_nan = int(np.count_nonzero(np.isnan(chunk.rows)))
        return NonFinite(n_nan, n_bad - n_nan, int(positions.min()), int(bad[place].argmax()))


def describe(rows: Rows, found: NonFinite) -> str | None:
    """Word what was found in one line; None if all values are finite.

    Parameters
    ----------
    rows : Rows
        The data that was counted.
    found : NonFinite
        The total of `CountNonFinite` over it.
    """
    total = found.n_nan + found.n_infinite
    if not total:
        return None
    name = f" ({rows.feature_names[found.column]!r})" if rows.feature_names else ""
    place = f"the first is in row {found.row}" if total > 1 else f"it is in row {found.row}"
    return (
        f"{rows.name} holds {found.n_nan} NaN and {found.n_infinite} infinite (inf) values; {place}, "
        f"column {found.column}{name}; drop or fill them first"
    )
