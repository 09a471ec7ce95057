"""Finite mixtures over any kind of component: weights, responsibilities, log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from dem import tree
from dem.errors import OptionError
from dem.families.base import (
    NEGLIGIBLE,
    Array,
    Component,
    IncrementalModel,
    Kernel,
    RowBlock,
    Support,
    has_gaps,
    total_weight,
    weighted_sum,
)
from dem.families.expectation import accumulate, distrusted_rows, log_joint, normalise
from dem.families.gaps import Divided, divided, imputed
from dem.families.mixture_parameters import MixtureParameters, MixtureStatistics, RebasedStatistics
from dem.families.status import component_status
from dem.families.truncation import Candidates
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh, kept_with, largest_row
from dem.row_draws import RowDraws
from dem.statistics import Statistics

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)
C = TypeVar("C", bound=RowBlock)

# Weights of rows that single precision is good for, whatever the rows.
_SINGLE_WEIGHTS = 1e-15, 1e15
# Weight of a component that begins anew, as a share of an equal one.
WEIGHT_OF_SEED = 0.5


@dataclass(frozen=True, eq=False)
class Mixture(IncrementalModel[MixtureParameters[P], Any], Generic[P, S]):
    """A mixture with `component` as the kind of its components.

    Parameters
    ----------
    component : Component
        Density of the components.
    fit_weights : bool
        Whether the M-step updates the weights; else they stay as they started.
    top_components : int, optional
        How many components an E-step computes for each row; see `truncated`. All when left out.
    marginalises : bool
        Whether values of rows may be missing (NaN), at random: densities are those of what is observed.
    """

    component: Component[P, S]
    fit_weights: bool = True
    top_components: int | None = None
    marginalises: bool = False

    @property
    def support(self) -> Support:
        """The values that have a density."""
        return replace(self.component.support, gaps=self.marginalises)

    def start(
        self, sample: NDArray[Any], responsibilities: Array, weights: Array | None = None
    ) -> MixtureParameters[P]:
        """Return parameters from a sample (n, n_features), its responsibilities (n, n_components) and weights (n,)."""
        if weights is not None:  # of any scale: a family may count rows of its own besides
            responsibilities = responsibilities * (weights / weights.mean())[:, np.newaxis]
        weights = responsibilities.sum(axis=0) / len(responsibilities)
        return MixtureParameters(weights, self.component.start(sample, responsibilities))

    def begun(self, parameters: MixtureParameters[P]) -> MixtureParameters[P]:
        """Return the parameters where EM begins, from those of rows given wholly to the components."""
        return parameters

    def e_step(self, parameters: MixtureParameters[P], chunk: RowBlock) -> MixtureStatistics[S]:
        """Return the expected sufficient statistics of one chunk (rows of shape (n, n_features))."""
        if parameters.candidates is not None:
            return self._truncated_e_step(parameters, parameters.candidates, chunk)
        return self.e_steps(parameters, [len(parameters.weights)], chunk)[0]

    def truncated(self, parameters: MixtureParameters[P]) -> MixtureParameters[P]:
        """Return the parameters with the candidates of each region, if fewer than all components are to count."""
        n_components = self.size(parameters)
        if self.top_components is None or self.top_components >= n_components:
            return parameters
        candidates = Candidates.learnt(
            lambda labels, rng: self.component.sample(parameters.components, labels, rng),
            lambda draws: self.posterior(parameters, draws),
            parameters.weights,
            self.top_components,
        )
        return replace(parameters, candidates=candidates)

    def _truncated_e_step(
        self, parameters: MixtureParameters[P], candidates: Candidates, chunk: RowBlock
    ) -> MixtureStatistics[S]:
        """Return the statistics of a chunk, cell by cell; the log-likelihood is that of the candidates alone."""
        if chunk.labels is not None:
            message = "labels do not go with top_components: a component that is known may be none of the candidates"
            raise OptionError(message)
        component, n_rows = self.component, total_weight(chunk)
        chunk, _, groups = self._divided(parameters, chunk)
        kernel = self._kernel(parameters, chunk)

        def of_cells() -> list[Kernel[S]]:
            return [kernel.take(which) for which in candidates.lists]

        kernels = kept_with(parameters, (component, chunk.rows.dtype, type(kernel)), of_cells)
        log_weights = _log_weights(parameters)
        counts = np.zeros(len(parameters.weights))
        log_likelihoods: list[float] = []
        statistics = kernel.statistics()
        for marginal, part, _ in groups:  # no cell is known of these rows: all components are candidates
            own = accumulate(marginal, lambda: marginal, log_weights, [slice(len(counts))], part)  # noqa: B023 - used at once
            counts += own.counts
            log_likelihoods.extend(own.log_likelihoods)
            statistics = statistics + own.components
        for cell, where in candidates.rows_of_cells(chunk.rows):
            which = candidates.lists[cell]

            def exact(which: NDArray[np.intp] = which) -> Kernel[S]:
                return self._kernel(parameters, chunk, exact=True).take(which)

            own = accumulate(fresh(kernels[cell]), exact, log_weights[which], [slice(len(which))], chunk.take(where))
            counts[which] += own.counts
            log_likelihoods.extend(own.log_likelihoods)
            component.add_at(statistics, which, own.components)
        return MixtureStatistics(n_rows, math.fsum(log_likelihoods), counts, statistics)

    def size(self, parameters: MixtureParameters[P]) -> int:
        """Return the number of components."""
        return len(parameters.weights)

    def joins(self, other: Self) -> bool:
        """Tell whether the components of both can share the products of one kernel."""
        if self.top_components is not None or other.top_components is not None:
            return False  # each has cells of its own
        return type(self.component) is type(other.component) and self.component.joins(other.component)

    def joined(self, parameters: Sequence[MixtureParameters[P]]) -> MixtureParameters[P]:
        """Return the weights and components of several models, one model after another, for `e_steps`."""
        return tree.concatenate(parameters)

    def e_steps(
        self, parameters: MixtureParameters[P], n_components: Sequence[int], chunk: RowBlock
    ) -> list[MixtureStatistics[S]]:
        """Return the statistics of several models, joined, whose components share the products of one kernel."""
        n_rows, log_weights = total_weight(chunk), _log_weights(parameters)
        chunk, _, groups = self._divided(parameters, chunk)
        kernel = self._kernel(parameters, chunk)

        def exact() -> Kernel[S]:
            return self._kernel(parameters, chunk, exact=True)

        ends = np.cumsum(n_components)
        segments = [slice(end - size, end) for end, size in zip(ends, n_components, strict=True)]
        sums = accumulate(kernel, exact, log_weights, segments, chunk)
        for own, part, _ in groups:
            sums = sums + accumulate(own, exact, log_weights, segments, part)
        parts = [sums.components] if len(segments) == 1 else tree.split(sums.components, n_components)
        return [
            MixtureStatistics(n_rows, float(log_likelihood), sums.counts[segment], part)
            for log_likelihood, segment, part in zip(sums.log_likelihoods, segments, parts, strict=True)
        ]

    def m_step(
        self, statistics: MixtureStatistics[S] | RebasedStatistics, parameters: MixtureParameters[P]
    ) -> MixtureParameters[P]:
        """Return the parameters that maximise the expected complete-data log-likelihood."""
        weights = parameters.weights
        if self.fit_weights:
            weights = statistics.counts / statistics.counts.sum()
        components = self.component.m_step(statistics.components, statistics.counts, parameters.components)
        return MixtureParameters(weights, components, parameters.candidates)

    def objective(self, statistics: MixtureStatistics[S], parameters: MixtureParameters[P]) -> float:  # noqa: ARG002
        """Return the log-likelihood (nats) of all rows."""
        return statistics.log_likelihood

    def rebased(self, statistics: MixtureStatistics[S], parameters: MixtureParameters[P]) -> RebasedStatistics:
        """Return statistics that add to those of E-steps at other parameters."""
        components = self.component.rebased(statistics.components, statistics.counts, parameters.components)
        rebased = RebasedStatistics(statistics.n_rows, 0.0, statistics.counts, components)
        # At its own parameters the free energy of an E-step is the log-likelihood.
        entropy = statistics.log_likelihood - self.free_energy(rebased, parameters)
        return replace(rebased, entropy=entropy)

    def implied(self, parameters: MixtureParameters[P]) -> RebasedStatistics:
        """Return the statistics per row from which the M-step makes `parameters`; their entropy is left out."""
        weights = parameters.weights
        return RebasedStatistics(1.0, 0.0, weights, self.component.implied(parameters.components, weights))

    def free_energy(self, statistics: RebasedStatistics, parameters: MixtureParameters[P]) -> float:
        """Return the expected complete-data log-likelihood plus the entropy: at most the log-likelihood."""
        # What is as good as nothing must not meet the logarithm of a weight of 0.
        counts = np.where(statistics.counts > NEGLIGIBLE, statistics.counts, 0.0)
        expected = self.component.expected_log_density(statistics.components, counts, parameters.components)
        return statistics.entropy + float(np.sum(xlogy(counts, parameters.weights))) + expected

    def monotonicity_slack(self, parameters: MixtureParameters[P], dtype: np.dtype[Any]) -> float:
        """Return the most that regularisation and rounding can cost the log-likelihood per row of `dtype`."""
        return self.component.monotonicity_slack(parameters.components, parameters.weights, dtype)

    def log_likelihood(self, parameters: MixtureParameters[P], chunk: RowBlock) -> Array:
        """Return log p(row), shape (n,)."""
        return self._by_row(parameters, chunk, np.empty(len(chunk.rows)), normalise)

    def ranked(self, parameters: MixtureParameters[P], chunk: RowBlock) -> tuple[Array, Array]:
        """Return by what rows are ordered, the most outlying lowest, and log p(row); shape (n,) both."""
        densities = self.log_likelihood(parameters, chunk)
        return densities, densities

    def posterior(self, parameters: MixtureParameters[P], chunk: RowBlock) -> Array:
        """Return the responsibilities, shape (n, n_components)."""

        def responsibilities(joint: Array, largest: Array) -> Array:
            normalise(joint, largest)
            return joint.T

        return self._by_row(parameters, chunk, np.empty((len(chunk.rows), self.size(parameters))), responsibilities)

    def labels(self, parameters: MixtureParameters[P], chunk: RowBlock) -> NDArray[np.int64]:
        """Return the most probable component of each row, shape (n,)."""
        numbers = self._by_row(parameters, chunk, np.empty(len(chunk.rows), dtype=np.int64), largest_row)
        return self.named(numbers, parameters)

    def entropy(self, parameters: MixtureParameters[P], chunk: RowBlock) -> float:
        """Return the sum over the rows of the entropy of their responsibilities (nats)."""

        def by_row(joint: Array, largest: Array) -> Array:
            normalise(joint, largest)
            entropies: Array = -np.sum(joint * np.log(np.where(joint > 0.0, joint, 1.0)), axis=0)  # 0·log 0 = 0
            return entropies

        entropies = self._by_row(parameters, chunk, np.empty(len(chunk.rows)), by_row)
        return weighted_sum(entropies, chunk.weights)

    def imputed(self, parameters: MixtureParameters[P], chunk: RowBlock, rng: RowDraws | None = None) -> NDArray[Any]:
        """Return the rows, float64, with what is missing replaced by its mean given the rest, or drawn if `rng`."""
        return imputed(self.component, parameters.components, chunk, lambda part: self.posterior(parameters, part), rng)

    def named(self, numbers: NDArray[np.int64], parameters: MixtureParameters[P]) -> NDArray[np.int64]:  # noqa: ARG002
        """Return the labels that users see of components, by their numbers."""
        return numbers

    def sample(
        self, parameters: MixtureParameters[P], n_rows: int, rng: np.random.Generator
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Draw rows, shape (n_rows, n_features), and the components they come from."""
        labels = rng.choice(len(parameters.weights), size=n_rows, p=parameters.weights)
        return self.component.sample(parameters.components, labels, rng), self.named(labels, parameters)

    def n_parameters(self, parameters: MixtureParameters[P]) -> int:
        """Return the number of free parameters."""
        free_weights = len(parameters.weights) - 1 if self.fit_weights else 0
        return free_weights + self.component.n_parameters(parameters.components)

    def component_status(
        self, parameters: MixtureParameters[P], n_rows: float, *, duplicates: bool = True
    ) -> tuple[str, ...]:
        """Return what has become of each component; see `dem.families.status`."""
        weights = parameters.weights[: self.n_own(parameters)] if self.fit_weights else None
        return component_status(self.component, parameters.components, weights, n_rows, duplicates=duplicates)

    def n_own(self, parameters: MixtureParameters[P]) -> int:
        """Return the number of components, without a background."""
        return len(parameters.weights)

    def reseeded(
        self, parameters: MixtureParameters[P], which: NDArray[np.intp], chunk: RowBlock
    ) -> MixtureParameters[P]:
        """Return parameters where components begin anew at rows, with a small weight, the others less as much."""
        rows = self.imputed(parameters, chunk) if has_gaps(chunk.rows) else np.asarray(chunk.rows, dtype=np.float64)
        others = parameters.weights.copy()
        others[which] = 0.0
        own = others[: self.n_own(parameters)]
        components = self.component.reseeded(parameters.components, which, rows, own / own.sum())
        weights = parameters.weights
        if self.fit_weights:
            small = WEIGHT_OF_SEED / len(weights)
            weights = others * ((1.0 - len(which) * small) / others.sum())
            weights[which] = small
        return replace(parameters, weights=weights, components=components)

    def to_user(self, parameters: MixtureParameters[P]) -> dict[str, NDArray[Any]]:
        """Return the parameters in the user's units, by the names users see."""
        return {"weights": parameters.weights, **self.component.to_user(parameters.components)}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> MixtureParameters[P]:
        """Return parameters from what `to_user` gave."""
        weights = np.asarray(values["weights"], dtype=np.float64)
        return MixtureParameters(weights, self.component.from_user(values))

    def unconstrain(self, parameters: MixtureParameters[P]) -> Vector:
        """Return the parameters as an unconstrained vector: the weights as log-ratios to their geometric mean."""
        vector = self.component.unconstrain(parameters.components)
        if not self.fit_weights:
            return vector
        logs = np.log(np.maximum(parameters.weights, np.finfo(np.float64).tiny))[:, np.newaxis]
        return Vector(np.hstack([logs - logs.mean(), vector.own]), vector.shared)

    def constrain(self, vector: Vector, parameters: MixtureParameters[P]) -> MixtureParameters[P]:
        """Return parameters from what `unconstrain` gave; what is fixed comes from `parameters`."""
        weights = parameters.weights
        if self.fit_weights:
            weights = np.exp(vector.own[:, 0] - vector.own[:, 0].max())
            weights /= weights.sum()
            vector = Vector(vector.own[:, 1:], vector.shared)
        components = self.component.constrain(vector, parameters.components)
        return MixtureParameters(weights, components, parameters.candidates)

    def _kernel(self, parameters: MixtureParameters[P], chunk: RowBlock, *, exact: bool = False) -> Kernel[S]:
        """Return the arithmetic for a chunk; where it has gaps that may not be, one that makes the loop find them."""
        exact = exact or _needs_double(chunk.weights)
        is_known = chunk.noise is not None or chunk.limits is not None
        if is_known and not self.marginalises and has_gaps(chunk.rows):
            return self.component.kernel(parameters.components, chunk.rows.dtype, exact=exact)
        return self.component.kernel_for(parameters.components, chunk, exact=exact)

    def _divided(self, parameters: MixtureParameters[P], chunk: C) -> Divided[C, S]:
        """Return the rows of a chunk that the ordinary kernel knows, and the groups of others; see `gaps.divided`.

        What knows of errors knows of gaps and limits too.
        """
        has_limits = chunk.limits is not None and not np.isnan(chunk.limits).all()
        if chunk.noise is None and (has_limits or self.marginalises) and (has_limits or has_gaps(chunk.rows)):
            return divided(self.component, parameters.components, chunk, marginalises=self.marginalises)
        return chunk, slice(None), iter(())

    def _by_row(
        self,
        parameters: MixtureParameters[P],
        chunk: RowBlock,
        result: NDArray[Any],
        function: Callable[[Array, Array], NDArray[Any]],
    ) -> NDArray[Any]:
        """Fill `result` with what a function makes of log(weight · density), (n_components, n), and its largest.

        Rows that single precision does not do justice come a second time, in double precision.
        """
        log_weights, far = _log_weights(parameters), [np.empty(0, dtype=np.intp)]
        whole, numbers, groups = self._divided(parameters, chunk)
        kernel = self._kernel(parameters, whole)
        own = result if isinstance(numbers, slice) else result[numbers]
        for where, joint, largest in log_joint(kernel, log_weights, whole):
            if (distrusted := distrusted_rows(kernel, largest)) is not None:
                far.append(where.start + np.flatnonzero(distrusted))
                joint[:, distrusted] = largest[distrusted] = 0.0  # they may have overflowed
            own[where] = function(joint, largest)
        again = np.concatenate(far)
        if len(again):
            kernel = self._kernel(parameters, whole, exact=True)
            for where, joint, largest in log_joint(kernel, log_weights, whole.take(again)):
                own[again[where]] = function(joint, largest)
        if not isinstance(numbers, slice):
            result[numbers] = own
        for marginal, part, numbers in groups:
            for where, joint, largest in log_joint(marginal, log_weights, part):
                result[numbers[where]] = function(joint, largest)
        return result


def _needs_double(weights: NDArray[Any] | None) -> bool:
    """Tell whether products of weights of rows could overflow in single precision, or lose digits."""
    if weights is None or not len(weights):
        return False
    return not (_SINGLE_WEIGHTS[0] <= weights.min() and weights.max() <= _SINGLE_WEIGHTS[1])


def _log_weights(parameters: MixtureParameters[Any]) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(parameters.weights)[:, np.newaxis])
