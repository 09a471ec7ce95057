"""Expected sufficient statistics as a vector space; knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

S = TypeVar("S", bound="Statistics")

TREE_ARITY = 16


@dataclass(frozen=True, eq=False)
class Statistics:
    """Base of all statistics: ``a + b``, ``a - b`` and ``c * a`` act field by field.

    A subclass is a frozen dataclass whose fields are floats, arrays or nested `Statistics`. Batch EM only
    adds; incremental EM subtracts a chunk's old statistics and stepwise EM scales them.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, eq=False)
    ... class Moments(Statistics):
    ...     count: float
    ...     total: float
    >>> 2.0 * (Moments(1.0, 3.0) + Moments(2.0, 5.0)) - Moments(1.0, 1.0)
    Moments(count=5.0, total=15.0)
    """

    # NumPy scalars on the left must defer to __rmul__ instead of broadcasting over the object.
    __array_ufunc__ = None

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(*(mine + theirs for mine, theirs in self._paired(other)))

    def __sub__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(*(mine - theirs for mine, theirs in self._paired(other)))

    def __mul__(self, factor: float) -> Self:
        return type(self)(*(factor * getattr(self, field.name) for field in fields(self)))

    __rmul__ = __mul__

    def _paired(self, other: Self) -> list[tuple[Any, Any]]:
        return [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]


def add_models(parts: Sequence[Sequence[S]]) -> list[S]:
    """Add the statistics of several parts from left to right, model by model.

    Parameters
    ----------
    parts : sequence of sequences of Statistics
        One entry per part (chunk, batch or subtree), each with one statistic per model.

    Returns
    -------
    list of Statistics
        One total per model.
    """
    totals = list(parts[0])
    for part in parts[1:]:
        totals = [total + statistic for total, statistic in zip(totals, part, strict=True)]
    return totals


def tree_sum(parts: Sequence[Sequence[S]]) -> list[S]:
    """Add parts in a fixed tree of arity `TREE_ARITY`, the same on every engine.

    Parameters
    ----------
    parts : sequence of sequences of Statistics
        Partial statistics in the order of the data; see `add_models`.

    Returns
    -------
    list of Statistics
        One total per model. The bits depend on the parts and their order alone.
    """
    level = list(parts)
    while len(level) > 1:
        level = [add_models(level[i : i + TREE_ARITY]) for i in range(0, len(level), TREE_ARITY)]
    return list(level[0])
