"""Which values a family allows, in all columns or in each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dem.sparse import SparseRows, values_at
from dem.units import unrounded


@dataclass(frozen=True)
class Support:
    """The values that a family allows: finite numbers within bounds.

    Attributes
    ----------
    description : str
        What the values must be, for messages.
    lowest : float
    highest : float or tuple of float
        Of all columns, or of each.
    whole : bool
        Whether they must be whole numbers.
    gaps : bool
        Whether values may be missing (NaN).
    family : str
        Whose values they are, for messages.
    """

    description: str = "finite numbers"
    lowest: float = -math.inf
    highest: float | tuple[float, ...] = math.inf
    whole: bool = False
    gaps: bool = False
    family: str = ""

    #: what is judged, for messages
    judged: ClassVar[str] = "values"

    @property
    def words(self) -> str:
        """What the values must be, and for which family."""
        return f"{self.description} ({self.family})" if self.family else self.description

    def shown(self, rows: NDArray[Any], places: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return what a message shows of values that are not allowed: themselves."""
        return values_at(rows, places, columns)

    def said_of(self, column: int) -> str:
        """Return what messages say of a column whose value is outside, if its support is not that of all."""
        return f"; the highest there is {unrounded(self.highest[column])}" if isinstance(self.highest, tuple) else ""

    def places_outside(self, rows: NDArray[Any] | SparseRows) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return rows and columns of the values that are not allowed, row after row; of sparse rows 0 is allowed."""
        if not isinstance(rows, SparseRows):
            places, columns = np.nonzero(self.outside(rows))
            return places, columns
        highest: Any = self.highest
        if isinstance(highest, tuple):
            highest = tuple(np.asarray(highest)[rows.columns])
        (bad,) = np.nonzero(replace(self, highest=highest).outside(rows.data))
        return rows.places[bad], rows.columns[bad].astype(np.intp)

    def outside(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which values are not allowed; the shape of `rows`."""
        above = self.highest != math.inf
        bounded = self.lowest > -math.inf and above
        inside: NDArray[np.bool_] = rows >= self.lowest if bounded else np.isfinite(rows)
        if above:
            inside &= rows <= np.asarray(self.highest)
        elif self.lowest > -math.inf:
            inside &= rows >= self.lowest
        if self.whole:
            inside &= rows == np.rint(rows)
        if self.gaps:
            inside |= np.isnan(rows)
        return ~inside


@dataclass(frozen=True)
class ColumnSupports(Support):
    """The values that each column allows, by the family of its part.

    Attributes
    ----------
    parts : tuple of (tuple of int, Support, str)
        Columns, what they allow, and the name of their family.
    """

    description: str = "what the families of their columns take"
    parts: tuple[tuple[tuple[int, ...], Support, str], ...] = ()

    @property
    def words(self) -> str:
        """What the values must be; of which family, is said of the column."""
        return self.description

    def outside(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which values are not allowed; the shape of `rows`."""
        found = np.zeros(rows.shape, dtype=bool)
        for columns, support, _ in self.parts:
            found[:, columns] = replace(support, gaps=self.gaps).outside(rows[:, columns])
        return found

    def said_of(self, column: int) -> str:
        """Return the family of a column and what it allows."""
        columns, support, family = self.part_of(column)
        return f"; values of {family} are {support.description}{support.said_of(columns.index(column))}"

    def part_of(self, column: int) -> tuple[tuple[int, ...], Support, str]:
        """Return the entry of the part that a column is in."""
        return next(part for part in self.parts if column in part[0])
