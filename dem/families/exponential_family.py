"""Components of an exponential family: all that EM needs follows from T(x), the natural and the mean parameters."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import NEGLIGIBLE, Array, Component
from dem.families.exponential_kernel import ExponentialKernel, MaskedKernel, Totals
from dem.families.unconstrained import Vector
from dem.sparse import SparseRows


@dataclass(frozen=True)
class Conjugate:
    """A conjugate prior: as if each component had some more rows, whose mean T(x) is `statistics`.

    Its log-density is rows · (η · statistics − A), but for a constant.

    References
    ----------
    Diaconis, P. and Ylvisaker, D. (1979). Conjugate priors for exponential families. Annals of Statistics 7.
    """

    rows: float
    statistics: tuple[float, ...]


@dataclass(frozen=True)
class ExponentialFamily(Component[Array, Totals]):
    """Densities log p(x) = log h(x) + η·T(x) − A, with features that are independent within a component.

    The parameters are one array (n_components, m), which users know as `parameters`: an array (n_components,
    n_features) of each name, one beside the other. A family states what follows; by default T(x) = x, and the
    parameters are its means. They may lie on the edge of what is possible, where a mean does (a count that is always
    0); `natural_parameters` keeps a distance from it, so that all densities are finite. That is EM among the parameters
    at that distance: the M-step takes the best of them, since the expected log-likelihood has one maximum and falls on
    both sides of it.

    What comes by feature, A and log h, has one column where features do not stand alone; such a family sets
    `marginalises` to False.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). Maximum likelihood from incomplete data via the EM algorithm.
    Journal of the Royal Statistical Society B 39.
    """

    conjugate: Conjugate | None = field(default=None, kw_only=True)
    #: whether the M-step takes the mean of T(x), to which a conjugate prior adds rows
    has_conjugates: ClassVar[bool] = True
    #: what users call the parameters, what locates the components first
    parameters: ClassVar[tuple[str, ...]]
    #: between what numbers those of each name lie
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((0.0, math.inf),)
    masks: ClassVar[bool] = True

    def sufficient_statistics(self, rows: Array) -> Array:
        """Return T(x) of rows (n, n_features), shape (n, n_statistics), of a missing value NaN."""
        return rows

    def owners(self, n_features: int) -> NDArray[np.intp]:
        """Return the feature that each statistic is of, shape (n_statistics,).

        Unless a family says otherwise, there are as many of each feature as names of parameters: one of each, in the
        order of the features, then the next.
        """
        return np.tile(np.arange(n_features), len(self.parameters))

    @abstractmethod
    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return η, shape (n_components, n_statistics), and A by feature, shape (n_components, n_features)."""

    def log_base_measure(self, rows: Array) -> Array:
        """Return log h(x) by feature, shape (n, n_features); a column of zeros unless a family says otherwise."""
        return np.zeros((len(rows), 1))

    def log_base_measure_of_sparse(self, rows: SparseRows) -> Array:
        """Return Σ log h(x) of each sparse row, shape (n,), for a family that takes them: h(0) is 1."""
        return rows.sums(self.log_base_measure(rows.data[:, np.newaxis])[:, 0])

    def far_rows(self, rows: Array | SparseRows) -> NDArray[np.intp]:  # noqa: ARG002
        """Return the rows whose η·T(x), A and log h(x) are so large that their sum lacks digits; none by default."""
        return np.empty(0, dtype=np.intp)

    def far_log_density(self, parameters: Array, rows: Array) -> Array:
        """Return log p(x) of such rows to all digits, of one component (m,), by feature as `log_base_measure`."""
        raise NotImplementedError

    def mean_parameters(self, parameters: Array) -> Array:
        """Return the expectation of T(x), shape (n_components, n_statistics)."""
        return parameters

    def expectations(self, parameters: Array) -> Array:
        """Return E[x], shape (n_components, n_features): that of T(x) unless a family says otherwise."""
        return self.mean_parameters(parameters)

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
        return ExponentialKernel(self, parameters)

    def marginals(self, parameters: Array, rows: NDArray[Any]) -> Iterator[tuple[NDArray[np.intp], MaskedKernel]]:
        """Yield all rows: whatever they lack, one product serves them."""
        yield np.arange(len(rows)), MaskedKernel(self, parameters)

    def conditional_means(self, parameters: Array, rows: Array, k: int) -> Array:
        """Return rows with E[x] in the place of what is missing: features are independent within a component."""
        return np.where(np.isnan(rows), self.expectations(parameters[[k]]), rows)

    def m_step(self, statistics: Totals, counts: Array, parameters: Array) -> Array:
        """Return the parameters whose mean is that of the rows; a component without any rows stays where it is."""
        more, of_prior = self._of_prior()
        counts = counts + more
        occupied = counts[:, np.newaxis] > NEGLIGIBLE
        means = (statistics.totals + of_prior) / np.where(occupied, counts[:, np.newaxis], 1.0)
        return np.where(occupied, self.from_mean_parameters(means), parameters)

    def implied(self, parameters: Array, counts: Array, n_rows: float = math.inf) -> Totals:
        """Return the statistics from which the M-step makes `parameters`."""
        more, of_prior = self._of_prior()
        totals = (counts + more / n_rows)[:, np.newaxis] * self.mean_parameters(parameters)
        return Totals(totals - of_prior / n_rows)

    def _of_prior(self) -> tuple[float, Array]:
        """Return the rows of the prior, and their ΣT(x)."""
        if self.conjugate is None:
            return 0.0, np.zeros(1)
        return self.conjugate.rows, self.conjugate.rows * np.array(self.conjugate.statistics)

    @property
    def has_prior(self) -> bool:  # type: ignore[override]
        """Whether there is one."""
        return self.conjugate is not None

    def without_prior(self) -> Self:
        """Return the same component without one."""
        return replace(self, conjugate=None)

    def log_prior(self, parameters: Array) -> float:
        """Return Σ rows · (η · statistics − A) over the components."""
        more, of_prior = self._of_prior()
        if not more:
            return 0.0
        slopes, offsets = self.natural_parameters(parameters)
        return float(np.sum(slopes @ of_prior) - more * offsets.sum())

    def expected_log_density(self, statistics: Totals, counts: Array, parameters: Array) -> float:
        """Return Σγ log p(row | component) without log h, which no parameter changes."""
        slopes, offsets = self.natural_parameters(parameters)
        return float(np.sum(slopes * statistics.totals) - counts @ offsets.sum(axis=1))

    def monotonicity_slack(self, parameters: Array, weights: Array, dtype: np.dtype[Any]) -> float:  # noqa: ARG002
        """Return the rounding of η·T(x) − A + log h(x), whose terms are large and cancel where the values are large."""
        slopes, offsets = self.natural_parameters(parameters)
        size = np.sum(np.abs(slopes * self.mean_parameters(parameters)), axis=1) + np.sum(np.abs(offsets), axis=1)
        return float(4.0 * np.finfo(np.float64).eps * (weights @ size))

    def n_parameters(self, parameters: Array) -> int:
        """Return how many numbers there are, unless a family binds some of them to others."""
        return parameters.size

    def user_shapes(self, n_components: int, n_features: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what `to_user` gives."""
        return dict.fromkeys(self.parameters, (n_components, n_features))

    def to_user(self, parameters: Array) -> dict[str, NDArray[Any]]:
        """Return the parameters by their names."""
        return dict(zip(self.parameters, np.hsplit(parameters, len(self.parameters)), strict=True))

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> Array:
        """Return parameters from what `to_user` gave."""
        return np.hstack([np.asarray(values[name], dtype=np.float64) for name in self.parameters])

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
