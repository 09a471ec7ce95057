"""Limits: values that are not known, but lie in an interval (censored values), as below a detection limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk
from dem.data.rules import refuse
from dem.errors import DataError


class Values(Protocol):
    """Values of rows by their positions; see `dem.data.column_values`."""

    @property
    def width(self) -> int:
        """Numbers of each row."""

    @property
    def carried_bytes(self) -> int:
        """Bytes in memory here that travel with batches."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the largest piece that is read or computed, of which a process keeps some."""

    def at(self, index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Return the values of rows."""

    def opened(self) -> Any:
        """Return what serves one reader, who asks for rows one chunk after another."""

    def cut(self, index: range | NDArray[np.int64]) -> Any:
        """Return what has to travel with a batch."""


@dataclass(frozen=True, eq=False)
class SameValues:
    """The same value for all rows, an array of any shape."""

    value: NDArray[Any]
    carried_bytes = 0
    chunk_bytes = 0

    @property
    def width(self) -> int:
        """Numbers of each row."""
        return self.value.size

    def at(self, index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Return the value as often as there are rows."""
        return np.broadcast_to(self.value, (len(index), *self.value.shape))

    def opened(self) -> Self:
        """Return itself."""
        return self

    def cut(self, index: range | NDArray[np.int64]) -> Self:  # noqa: ARG002
        """Return itself."""
        return self


@dataclass(frozen=True, eq=False)
class LimitValues:
    """Lower and upper limits side by side, shape (n, n_features, 2)."""

    lower: Values
    upper: Values

    @property
    def width(self) -> int:
        """Numbers of each row."""
        return self.lower.width + self.upper.width

    @property
    def carried_bytes(self) -> int:
        """Of both."""
        return self.lower.carried_bytes + self.upper.carried_bytes

    @property
    def chunk_bytes(self) -> int:
        """Of both."""
        return self.lower.chunk_bytes + self.upper.chunk_bytes

    def at(self, index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Return both limits of rows."""
        return np.stack([self.lower.at(index), self.upper.at(index)], axis=-1)

    def opened(self) -> Self:
        """Return both for one reader."""
        return type(self)(self.lower.opened(), self.upper.opened())

    def cut(self, index: range | NDArray[np.int64]) -> Self:
        """Return those of a batch."""
        return type(self)(self.lower.cut(index), self.upper.cut(index))


@dataclass(frozen=True)
class LimitRule:
    """Rule: lower or upper limits (n, n_features), which are numbers or infinite."""

    n_features: int

    def __call__(self, name: str, values: NDArray[Any], index: range | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return limits in double precision."""
        d, values = self.n_features, np.asarray(values, dtype=np.float64)
        if values.shape[1:] != (d,) and not (values.ndim == 1 and d == 1):
            shape = ", ".join(["n_rows", *map(str, values.shape[1:])])
            message = f"{name} has the shape ({shape}); give a number, one for each of {d} features, or (n_rows, {d})"
            raise DataError(message)
        refuse(np.isnan(values), name, values, index, "a limit is a number, -inf or inf where there is none")
        return values.reshape(-1, d)


def pairs_rule(name: str, values: NDArray[Any], index: range | NDArray[np.int64]) -> NDArray[Any]:  # noqa: ARG001
    """Rule: no lower limit is above the upper one; values of shape (n, n_features, 2)."""
    crossed = values[..., 0] > values[..., 1]
    if crossed.any():
        row, column = np.argwhere(crossed)[0]
        lower, upper = values[row, column]
        where = f"in row {int(np.asarray(index)[row])}, column {column}"
        message = f"lower is {lower} and upper is {upper} {where}; a lower limit must not be above the upper one"
        raise DataError(message)
    return values


def censored(chunk: Chunk, most: float) -> Chunk:
    """Return a chunk with limits where values are NaN and have any, and NaN limits elsewhere.

    For what looks at rows alone, such as starts, the value is then a number of its interval: its one limit, or the
    middle of two.

    Parameters
    ----------
    chunk : Chunk
        With limits as they were given.
    most : float
        How many values of a row may have limits.

    Raises
    ------
    DataError
        If a row has more.
    """
    if chunk.limits is None:
        return chunk
    lower, upper = chunk.limits[..., 0], chunk.limits[..., 1]
    below, above = np.isfinite(upper), np.isfinite(lower)
    within = np.isnan(chunk.rows) & (below | above)
    limited = within & (lower < upper)
    n_limited = limited.sum(axis=1)
    if (n_limited > most).any():
        row = int(np.argmax(n_limited > most))
        message = (
            f"row {int(np.asarray(chunk.index)[row])} has limits for {n_limited[row]} of its values; with full or "
            "tied covariances a row can have one: use covariance_type='diag'"
        )
        raise DataError(message)
    rows = chunk.rows
    if within.any():
        with np.errstate(invalid="ignore"):
            middle = 0.5 * lower + 0.5 * upper
        rows = np.where(within, np.where(below & above, middle, np.where(above, lower, upper)), rows).astype(rows.dtype)
    limits = np.where(limited[..., np.newaxis], chunk.limits, np.nan)
    return replace(chunk, rows=rows, limits=limits)
