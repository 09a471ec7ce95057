"""Expected sufficient statistics as a vector space; knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S", bound="Statistics")

TREE_ARITY = 16


@dataclass(frozen=True, eq=False)
class Statistics:
    """Base of all statistics: ``a + b``, ``a - b`` and ``c * a`` act field by field.

    A subclass is a frozen dataclass whose fields are floats, arrays or nested `Statistics`. Batch and incremental EM
    only add; stepwise EM scales too.

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

    def numbers(self) -> NDArray[np.float64]:
        """Return all numbers one after another, for storage."""
        values = [getattr(self, field.name) for field in fields(self)]
        return np.concatenate(
            [np.ravel(value.numbers() if isinstance(value, Statistics) else value) for value in values]
        )

    def with_numbers(self, numbers: NDArray[np.float64]) -> Self:
        """Return statistics of the same shapes with what `numbers` returned; arrays are views of it."""
        values: list[Any] = []
        for field in fields(self):
            value = getattr(self, field.name)
            size = value.numbers().size if isinstance(value, Statistics) else np.size(value)
            own, numbers = numbers[:size], numbers[size:]
            if isinstance(value, Statistics):
                values.append(value.with_numbers(own))
            else:
                values.append(own.reshape(value.shape) if isinstance(value, np.ndarray) else float(own[0]))
        return type(self)(*values)

    def _paired(self, other: Self) -> list[tuple[Any, Any]]:
        return [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]


@dataclass(frozen=True, eq=False)
class CentralMoments(Statistics):
    """Weighted counts, means and sums of squares about these means: nothing cancels, wherever the origin is.

    ``a + b`` joins two groups of rows (Chan, Golub and LeVeque 1983), ``c * a`` weights the rows; ``-`` there is none.

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

    def __sub__(self, other: Self) -> Self:
        return NotImplemented

    def __mul__(self, factor: float) -> Self:
        return type(self)(factor * self.counts, self.means, factor * self.scatter)

    __rmul__ = __mul__

    @staticmethod
    def _between(weights: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what two means that are `step` apart add to the scatter, shape as `scatter`."""
        return np.asarray(weights[:, np.newaxis] * step**2)


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
