"""Components of an exponential family: all that EM needs follows from T(x), the natural and the mean parameters."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import NEGLIGIBLE, Array, Component, RowBlock
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh
from dem.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Totals(Statistics):
    """ΣγT(x), shape (n_components, n_statistics)."""

    totals: Array


@dataclass(frozen=True)
class ExponentialFamily(Component[Array, Totals]):
    """Densities log p(x) = log h(x) + η·T(x) − A, with features that are independent within a component.

    The parameters are one array (n_components, n_features), which users know as `parameter`. A family states what
    follows; by default T(x) = x, and the parameters are its means. They may lie on the edge of what is possible, where
    a mean does (a count that is always 0); `natural_parameters` keeps a distance from it, so that all densities are
    finite. That is EM among the parameters at that distance: the M-step takes the best of them, since the expected
    log-likelihood has one maximum and falls on both sides of it.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). Maximum likelihood from incomplete data via the EM algorithm.
    Journal of the Royal Statistical Society B 39.
    """

    #: what users call the parameters
    parameter: ClassVar[str]
    #: between what numbers they lie
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def sufficient_statistics(self, rows: Array) -> Array:
        """Return T(x) of rows (n, n_features), shape (n, n_statistics), of a missing value NaN.

        One statistic of each feature after the other, in the order of the features: j, j + n_features, ….
        """
        return rows

    @abstractmethod
    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return η, shape (n_components, n_statistics), and A summed over the features, shape (n_components,)."""

    def log_base_measure(self, rows: Array) -> Array:
        """Return log h(x) summed over the features, shape (n,); 0 unless a family says otherwise."""
        return np.zeros(len(rows))

    def mean_parameters(self, parameters: Array) -> Array:
        """Return the expectation of T(x), shape (n_components, n_statistics)."""
        return parameters

    def from_mean_parameters(self, means: Array) -> Array:
        """Return the parameters with these expectations of T(x): those that maximise the likelihood."""
        return means

    @abstractmethod
    def unconstrained(self, parameters: Array) -> Array:
        """Return the parameters as numbers that may be any, shape (n_components, …)."""

    @abstractmethod
    def constrained(self, numbers: Array) -> Array:
        """Return parameters from what `unconstrained` gave."""

    def prior(self, mean: Array) -> tuple[float, Array]:
        """Return how many rows a start has besides those of the sample, and their T(x), given the mean of all."""
        return 1.0, mean

    # What follows -------------------------------------------------------------------------------------------

    def start(self, sample: NDArray[Any], responsibilities: Array) -> Array:
        """Return parameters from a sample and its responsibilities.

        A component that starts from a single row must not start with exactly its values, which EM might never leave.
        """
        totals = responsibilities.T @ self.sufficient_statistics(np.asarray(sample, dtype=np.float64))
        counts = responsibilities.sum(axis=0)[:, np.newaxis]
        n_more, more = self.prior(totals.sum(axis=0) / counts.sum())
        return self.from_mean_parameters((totals + n_more * more) / (counts + n_more))

    def kernel(
        self,
        parameters: Array,
        dtype: np.dtype[Any],  # noqa: ARG002
        *,
        exact: bool = False,  # noqa: ARG002
    ) -> ExponentialKernel:
        """Return the arithmetic of an E-step at `parameters`: double precision for rows of any dtype."""
        return ExponentialKernel(self, *self.natural_parameters(parameters))

    def marginals(self, parameters: Array, rows: NDArray[Any]) -> Iterator[tuple[NDArray[np.intp], MaskedKernel]]:
        """Yield all rows: whatever they lack, one product serves them."""
        yield np.arange(len(rows)), MaskedKernel(self, parameters)

    def conditional_means(self, parameters: Array, rows: Array, k: int) -> Array:
        """Return rows with E[x] in the place of what is missing: features are independent within a component."""
        return np.where(np.isnan(rows), self.mean_parameters(parameters[[k]])[:, : rows.shape[1]], rows)

    def m_step(self, statistics: Totals, counts: Array, parameters: Array) -> Array:
        """Return the parameters whose mean is that of the rows; a component without any rows stays where it is."""
        occupied = counts[:, np.newaxis] > NEGLIGIBLE
        means = statistics.totals / np.where(occupied, counts[:, np.newaxis], 1.0)
        return np.where(occupied, self.from_mean_parameters(means), parameters)

    def implied(self, parameters: Array, counts: Array) -> Totals:
        """Return the statistics from which the M-step makes `parameters`."""
        return Totals(counts[:, np.newaxis] * self.mean_parameters(parameters))

    def expected_log_density(self, statistics: Totals, counts: Array, parameters: Array) -> float:
        """Return Σγ log p(row | component) without log h, which no parameter changes."""
        slopes, offsets = self.natural_parameters(parameters)
        return float(np.sum(slopes * statistics.totals) - counts @ offsets)

    def monotonicity_slack(self, parameters: Array, weights: Array, dtype: np.dtype[Any]) -> float:  # noqa: ARG002
        """Return the rounding of η·T(x) − A + log h(x), whose terms are large and cancel where the values are large."""
        slopes, offsets = self.natural_parameters(parameters)
        size = np.sum(np.abs(slopes * self.mean_parameters(parameters)), axis=1) + np.abs(offsets)
        return float(4.0 * np.finfo(np.float64).eps * (weights @ size))

    def n_parameters(self, parameters: Array) -> int:
        """Return one number per component and feature."""
        return parameters.size

    def to_user(self, parameters: Array) -> dict[str, NDArray[Any]]:
        """Return the parameters by their name."""
        return {self.parameter: parameters}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> Array:
        """Return parameters from what `to_user` gave."""
        return np.asarray(values[self.parameter], dtype=np.float64)

    def unconstrain(self, parameters: Array) -> Vector:
        """Return the parameters as a vector."""
        return Vector(self.unconstrained(parameters), np.empty(0))

    def constrain(self, vector: Vector, parameters: Array) -> Array:  # noqa: ARG002
        """Return parameters from what `unconstrain` gave."""
        return self.constrained(vector.own)

    def collapsed(self, parameters: Array) -> NDArray[np.bool_]:
        """Return False of all: probabilities are at most 1, whatever the parameters."""
        return np.zeros(len(parameters), dtype=bool)

    def coordinates(self, parameters: Array) -> Array:
        """Return the unconstrained parameters."""
        return self.unconstrained(parameters)

    def divergence(self, parameters: Array, pairs: NDArray[np.intp], enough: float) -> Array:  # noqa: ARG002
        """Return (η − η′)·(E[T] − E′[T])."""
        (one, other), (slopes, _) = pairs.T, self.natural_parameters(parameters)
        means = self.mean_parameters(parameters)
        with np.errstate(over="ignore", invalid="ignore"):
            found: Array = np.sum((slopes[one] - slopes[other]) * (means[one] - means[other]), axis=1)
        return found

    def reseeded(self, parameters: Array, which: NDArray[np.intp], rows: Array, weights: Array) -> Array:
        """Return parameters where some components begin at rows, as in `start`: the mean of all is their prior."""
        n_more, more = self.prior(weights @ self.mean_parameters(parameters))
        changed = parameters.copy()
        changed[which] = self.from_mean_parameters((self.sufficient_statistics(rows) + n_more * more) / (1.0 + n_more))
        return changed


class ExponentialKernel:
    """One product gives the log-densities, W·T(x), and one the statistics, ΣγT(x)."""

    block_rows = 8192
    trusted_above = -np.inf

    def __init__(self, family: ExponentialFamily, slopes: Array, offsets: Array) -> None:
        self.family, self.slopes, self.offsets = family, slopes, offsets[:, np.newaxis]
        self.clear()

    def clear(self) -> None:
        """Start the sums anew."""
        self.totals = np.zeros_like(self.slopes)

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        return fresh(self, slopes=self.slopes[which], offsets=self.offsets[which])

    def block(self, chunk: RowBlock) -> ExponentialBlock:
        """Return rows in double precision."""
        return ExponentialBlock(self, np.asarray(chunk.rows, dtype=np.float64))

    def statistics(self) -> Totals:
        """Return what was accumulated."""
        return Totals(self.totals)


class ExponentialBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: ExponentialKernel, rows: Array) -> None:
        self._kernel, self._rows = kernel, rows
        self._statistics = kernel.family.sufficient_statistics(rows)

    def log_density(self) -> Array:
        """Return log p(row | component), shape (n_components, n); NaN for rows outside the support."""
        kernel, family = self._kernel, self._kernel.family
        with np.errstate(invalid="ignore", over="ignore"):
            density: Array = np.dot(kernel.slopes, self._statistics.T)
            density -= kernel.offsets
            density += family.log_base_measure(self._rows)
        # NaN makes the loop look for the rows and name them.
        density[:, family.support.outside(self._rows).any(axis=1)] = np.nan
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._statistics = np.where(which[:, np.newaxis], 0.0, self._statistics)

    def accumulate(self, responsibilities: Array) -> None:
        """Add ΣγT(x) of the rows."""
        self._kernel.totals += np.dot(responsibilities, self._statistics)


class MaskedKernel:
    """Rows with missing values: log-densities are Σ m(η·T − A + log h), where m says what is observed.

    With T' = m T that is a product over z = [T', m], whose sums ΣγT' and Σγm give the statistics: a missing T counts
    as its mean.
    """

    block_rows = 8192
    trusted_above = -np.inf

    def __init__(self, family: ExponentialFamily, parameters: Array) -> None:
        self.family, self.n_features = family, parameters.shape[1]
        slopes, _ = family.natural_parameters(parameters)
        one_by_one = [family.natural_parameters(parameters[:, [j]])[1] for j in range(self.n_features)]
        self.means = family.mean_parameters(parameters)
        self.weights = np.hstack([slopes, -np.stack(one_by_one, axis=1)])
        self.counts = np.zeros((len(self.weights), 1))
        self.sums = np.zeros_like(self.weights)

    def block(self, chunk: RowBlock) -> MaskedBlock:
        """Return rows in double precision."""
        return MaskedBlock(self, np.asarray(chunk.rows, dtype=np.float64))

    def statistics(self) -> Totals:
        """Return ΣγT(x) of completed rows."""
        n_statistics = self.means.shape[1]
        lacking = self.counts - self.sums[:, n_statistics:]
        return Totals(self.sums[:, :n_statistics] + np.tile(lacking, n_statistics // self.n_features) * self.means)


class MaskedBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: MaskedKernel, rows: Array) -> None:
        self._kernel, family = kernel, kernel.family
        observed = ~np.isnan(rows)
        invalid = family.support.outside(rows) & observed
        # Of what is missing all terms are NaN before they are left out.
        with np.errstate(invalid="ignore", over="ignore"):
            own = [family.log_base_measure(rows[:, [j]]) for j in range(rows.shape[1])]
            statistics = family.sufficient_statistics(rows)
        self._base = np.where(observed, np.stack(own, axis=1), 0.0).sum(axis=1)
        self._base[invalid.any(axis=1)] = np.nan  # makes the loop look for the rows and name them
        there = np.tile(observed, statistics.shape[1] // rows.shape[1])
        self._z = np.hstack([np.where(there, statistics, 0.0), observed])

    def log_density(self) -> Array:
        """Return the log-density of what is observed, shape (n_components, n)."""
        with np.errstate(invalid="ignore", over="ignore"):
            density: Array = np.dot(self._kernel.weights, self._z.T)
            density += self._base
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._z[which] = 0.0

    def accumulate(self, responsibilities: Array) -> None:
        """Add Σγ and Σγ[T', m] of the rows."""
        self._kernel.counts += responsibilities.sum(axis=1, keepdims=True)
        self._kernel.sums += np.dot(responsibilities, self._z)
