"""What is added over chunks and blocks, and in which order; knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S", bound="Additive")

TREE_ARITY = 16


@dataclass(frozen=True, eq=False)
class Additive:
    """Base of what is added over chunks: ``a + b`` acts field by field, unless a subclass knows better.

    A subclass is a frozen dataclass whose fields are numbers, arrays or `Additive` themselves.
    """

    # NumPy scalars on the left must defer to __rmul__ instead of broadcasting over the object.
    __array_ufunc__ = None

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Statistics(Additive):
    """Base of statistics whose rows can be weighted: ``c * a`` is what rows of weight c would give.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, eq=False)
    ... class Moments(Statistics):
    ...     count: float
    ...     total: float
    >>> 2.0 * (Moments(1.0, 3.0) + Moments(2.0, 5.0))
    Moments(count=6.0, total=16.0)
    """

    def __mul__(self, factor: float) -> Self:
        return type(self)(*(factor * getattr(self, field.name) for field in fields(self)))

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class CentralMoments(Statistics):
    """Weighted counts, means and sums of squares about these means: nothing cancels, wherever the origin is.

    ``a + b`` joins two groups of rows (Chan, Golub and LeVeque 1983), ``c * a`` weights the rows.

    Attributes
    ----------
    counts : ndarray of shape (n_groups,)
    means : ndarray of shape (n_groups, n_features)
    scatter : ndarray of shape (n_groups, n_features)
        Σ weight · (x − mean)²; a subclass may keep products too.
    """

    counts: NDArray[np.float64]
    means: NDArray[np.float64]
    scatter: NDArray[np.float64]

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        counts = self.counts + other.counts
        share = other.counts / np.where(counts > 0.0, counts, 1.0)
        step = other.means - self.means
        scatter = self.scatter + other.scatter + self._between(self.counts * share, step)
        return type(self)(counts, self.means + share[:, np.newaxis] * step, scatter)

    def __mul__(self, factor: float) -> Self:
        return type(self)(factor * self.counts, self.means, factor * self.scatter)

    __rmul__ = __mul__

    def without(self, other: Self) -> Self:
        """Return the group that `other` has joined to make this one; it has lost what cancels."""
        counts = self.counts - other.counts
        there = counts > 0.0
        divisor = np.where(there, counts, 1.0)[:, np.newaxis]
        sums = self.counts[:, np.newaxis] * self.means - other.counts[:, np.newaxis] * other.means
        means = np.where(there[:, np.newaxis], sums / divisor, self.means)
        between = self._between(other.counts * np.where(there, counts, 0.0) / self.counts, means - other.means)
        return type(self)(counts, means, self.scatter - other.scatter - between)

    @staticmethod
    def _between(weights: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what two means that are `step` apart add to the scatter, shape as `scatter`."""
        return np.asarray(weights[:, np.newaxis] * step**2)


def add_models(parts: Sequence[Sequence[S]]) -> list[S]:
    """Add the statistics of several parts from left to right, model by model.

    Parameters
    ----------
    parts : sequence of sequences of Additive
        One entry per part (chunk, batch or subtree), each with one statistic per model.

    Returns
    -------
    list of Additive
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
    parts : sequence of sequences of Additive
        Partial statistics in the order of the data; see `add_models`.

    Returns
    -------
    list of Additive
        One total per model. The bits depend on the parts and their order alone.
    """
    total: TreeSum[S] = TreeSum(len(parts))
    for number, part in enumerate(parts):
        total.add(number, part)
    return total.result


class TreeSum(Generic[S]):
    """The sum of parts that become ready in any order, in the tree of `tree_sum`: keeps what waits for one before it.

    Parameters
    ----------
    n_parts : int

    Attributes
    ----------
    result : list of Additive
        One total per model, once all parts are added.
    """

    result: list[S]

    def __init__(self, n_parts: int) -> None:
        self._sizes = [n_parts]
        while self._sizes[-1] > 1:
            self._sizes.append(-(-self._sizes[-1] // TREE_ARITY))
        self._ready: dict[tuple[int, int], Sequence[S]] = {}
        self._sums: dict[tuple[int, int], tuple[int, Sequence[S]]] = {}

    def add(self, number: int, part: Sequence[S], level: int = 0) -> None:
        """Add the part of that number, or a sum of parts on a higher level of the tree."""
        self._ready[level, number] = part
        group = number // TREE_ARITY
        stop = min((group + 1) * TREE_ARITY, self._sizes[level])
        n_done, total = self._sums.pop((level, group), (group * TREE_ARITY, ()))
        while (ready := self._ready.pop((level, n_done), None)) is not None:
            total = add_models([total, ready]) if total else ready
            n_done += 1
        if n_done < stop:
            if total:
                self._sums[level, group] = n_done, total
        elif len(self._sizes) == level + 1:
            self.result = list(total)
        else:
            self.add(group, total, level + 1)
