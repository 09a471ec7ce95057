"""Counts the values that are NaN or infinite, and says where the first one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from dem.data.base import Chunk, Rows
from dem.data.labels import coordinate_text
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
    place = f"{'the first is' if total > 1 else 'it is'} {place_text(rows, found.row, found.column)}"
    dims = rows.grid_names if len(rows.grid) > 1 else None
    advice = ".dropna() of a DataFrame" if dims is None else f".stack(row={list(dims)}).dropna('row') of xarray"
    return (
        f"{rows.name} holds {found.n_nan} NaN and {found.n_infinite} infinite (inf) values; {place}; drop or fill "
        f"them first: rows must be complete, as after {advice}"
    )


def place_text(rows: Rows, row: int, column: int) -> str:
    """Word where a value is: its row, on a grid that names its dimensions by their indices, and its feature."""
    if rows.feature_names is not None:
        feature = f"column {column} ({rows.feature_names[column]!r})"
    elif rows.feature_coordinates is not None:
        feature = coordinate_text(rows.feature_dim, rows.feature_coordinates[column])
    else:
        feature = f"column {column}"
    if rows.grid_names is None or len(rows.grid) == 1:
        return f"in row {row}, {feature}"
    indices = zip(rows.grid_names, np.unravel_index(row, rows.grid), strict=True)
    return f"at index {', '.join(f'{dim} {index}' for dim, index in indices)} (row {row}), {feature}"
