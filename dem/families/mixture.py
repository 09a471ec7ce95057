"""Finite mixtures over any kind of component: weights, responsibilities, log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from dem import native, tree
from dem.errors import OptionError
from dem.families.base import (
    NEGLIGIBLE,
    Array,
    Component,
    Kernel,
    RowBlock,
    Support,
    has_gaps,
    total_weight,
    weighted_sum,
)
from dem.families.expectation import accumulate
from dem.families.listed import FEWEST_COMPONENTS, MOST_NUMBERS, ListedComponent, RowLists
from dem.families.mixture_parameters import MixtureParameters, MixtureStatistics, RebasedStatistics
from dem.families.row_by_row import RowByRow
from dem.families.status import component_status
from dem.families.truncation import Candidates
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh, kept_with
from dem.namespaces import on_host
from dem.statistics import Statistics

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)
C = TypeVar("C", bound=RowBlock)

# Weight of a component that begins anew, as a share of an equal one.
WEIGHT_OF_SEED = 0.5


@dataclass(frozen=True, eq=False)
class Mixture(RowByRow[P, S]):
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
    weight_concentration : float
        α ≥ 1 of a symmetric Dirichlet prior of the weights: as if each component had α − 1 rows more.
    """

    component: Component[P, S]
    fit_weights: bool = True
    top_components: int | None = None
    marginalises: bool = False
    weight_concentration: float = 1.0

    @property
    def has_prior(self) -> bool:  # type: ignore[override]
        """Whether components or weights have one."""
        return self.component.has_prior or self._more_rows > 0.0

    @property
    def takes_device(self) -> bool:  # type: ignore[override]
        """Whether components do."""
        return self.component.takes_device

    @property
    def criterion(self) -> str:  # type: ignore[override]
        """What is maximised."""
        return "log-posterior" if self.has_prior else "log-likelihood"

    @property
    def _more_rows(self) -> float:
        """The rows that the prior of the weights gives to each component."""
        return self.weight_concentration - 1.0 if self.fit_weights else 0.0

    @property
    def support(self) -> Support:
        """The values that have a density."""
        found = self.component.support
        return replace(found, gaps=self.marginalises, family=found.family or self.component.name)

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
            chunk = on_host(chunk)
        if isinstance(parameters.candidates, RowLists):
            return self._listed_e_step(parameters, parameters.candidates, chunk)
        if parameters.candidates is not None:
            return self._truncated_e_step(parameters, parameters.candidates, chunk)
        return self.e_steps(parameters, [len(parameters.weights)], chunk)[0]

    def truncated(self, parameters: MixtureParameters[P], n_rows: float = math.inf) -> MixtureParameters[P]:
        """Return the parameters with candidates of each row, or region, if fewer than all components are to count.

        Each of `n_rows` rows has a list of its own where the family knows how and the lists are not too large.
        """
        n_components = self.size(parameters)
        if self.top_components is None or self.top_components >= n_components:
            return parameters
        fits = n_components >= FEWEST_COMPONENTS and n_rows * self.top_components <= MOST_NUMBERS
        # What joins other parts to its components has no lists.
        if fits and type(self) is Mixture and isinstance(self.component, ListedComponent) and native.state() != "NumPy":
            return self.listed(parameters)
        return self.with_cells(parameters)

    def with_cells(self, parameters: MixtureParameters[P]) -> MixtureParameters[P]:
        """Return the parameters with candidates of each region, if fewer than all components are to count."""
        if self.top_components is None or self.top_components >= len(parameters.weights):
            return parameters
        candidates = Candidates.learnt(
            lambda labels, rng: self.component.sample(parameters.components, labels, rng),
            lambda draws: self.posterior(parameters, draws),
            parameters.weights,
            self.top_components,
        )
        return replace(parameters, candidates=candidates)

    def listed(self, parameters: MixtureParameters[P]) -> MixtureParameters[P]:
        """Return the parameters with a list of candidates for each row."""
        component: Any = self.component
        moments = component.moments(parameters.components, parameters.log_weights)
        most = min(self.top_components or math.inf, len(parameters.weights))
        lists = RowLists.learnt(parameters.weights, parameters.components, moments, int(most))
        return replace(parameters, candidates=lists)

    def _listed_e_step(
        self, parameters: MixtureParameters[P], candidates: RowLists, chunk: RowBlock
    ) -> MixtureStatistics[S]:
        """Return the statistics of a chunk, each row by its list; the log-likelihood is that of the lists alone."""
        _refuse_labels(chunk)
        n_rows, log_weights = total_weight(chunk), parameters.log_weights
        chunk, _, groups = self.divide(parameters, chunk)

        component: Any = self.component

        def look(found: NDArray[Any]) -> None:
            anchor = candidates.anchor
            logs = MixtureParameters(anchor.weights, anchor.components).log_weights
            component.find_likeliest(anchor.components, logs, chunk, anchor.cells, anchor.n_nearest, found)

        lists = candidates.of(chunk, look)
        counts, densities, statistics = component.listed_sums(
            parameters.components, log_weights, chunk, lists, candidates.order(lists)
        )
        log_likelihoods = [weighted_sum(densities, chunk.weights)]
        for marginal, part, _ in groups:  # no list is known of these rows: all components are candidates
            own = accumulate(marginal, lambda: marginal, log_weights, [slice(len(counts))], part)  # noqa: B023 - used at once
            counts += own.counts
            log_likelihoods.extend(own.log_likelihoods)
            statistics = statistics + own.components
        return MixtureStatistics(n_rows, math.fsum(log_likelihoods), counts, statistics)

    def _truncated_e_step(
        self, parameters: MixtureParameters[P], candidates: Candidates, chunk: RowBlock
    ) -> MixtureStatistics[S]:
        """Return the statistics of a chunk, cell by cell; the log-likelihood is that of the candidates alone."""
        _refuse_labels(chunk)
        component, n_rows = self.component, total_weight(chunk)
        chunk, _, groups = self.divide(parameters, chunk)
        kernel = self.arithmetic(parameters, chunk)

        def of_cells() -> list[Kernel[S]]:
            return [kernel.take(which) for which in candidates.lists]

        kernels = kept_with(parameters, (component, chunk.rows.dtype, type(kernel)), of_cells)
        log_weights = parameters.log_weights
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
                return self.arithmetic(parameters, chunk, exact=True).take(which)

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
        n_rows, log_weights = total_weight(chunk), parameters.log_weights
        chunk, _, groups = self.divide(parameters, chunk)
        kernel = self.arithmetic(parameters, chunk)

        def exact() -> Kernel[S]:
            return self.arithmetic(parameters, chunk, exact=True)

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
        """Return the parameters that maximise the expected complete-data log-likelihood + log prior."""
        weights = parameters.weights
        if self.fit_weights:
            counts = statistics.counts + self._more_rows
            weights = counts / counts.sum()
        components = self.component.m_step(statistics.components, statistics.counts, parameters.components)
        candidates = parameters.candidates
        if isinstance(candidates, RowLists) and not isinstance(statistics, RebasedStatistics):
            # Not where E-steps at other parameters still count.
            component: Any = self.component
            logs = MixtureParameters(weights, components).log_weights
            candidates = candidates.after(weights, components, lambda: component.moments(components, logs))
        return MixtureParameters(weights, components, candidates)

    def objective(self, statistics: MixtureStatistics[S], parameters: MixtureParameters[P]) -> float:
        """Return the log-likelihood (nats) of all rows + log prior."""
        return statistics.log_likelihood + self.log_prior(parameters)

    def log_prior(self, parameters: MixtureParameters[P]) -> float:
        """Return the log prior of weights and components, but for terms that no parameter changes."""
        own = self.component.log_prior(parameters.components)
        if not self._more_rows:
            return own
        logs = np.log(np.maximum(parameters.weights, np.finfo(np.float64).tiny))
        return own + self._more_rows * float(logs.sum())

    def rebased(self, statistics: MixtureStatistics[S], parameters: MixtureParameters[P]) -> RebasedStatistics:
        """Return statistics that add to those of E-steps at other parameters."""
        components = self.component.rebased(statistics.components, statistics.counts, parameters.components)
        rebased = RebasedStatistics(statistics.n_rows, 0.0, statistics.counts, components)
        # At its own parameters the free energy of an E-step, without the prior, is the log-likelihood.
        entropy = statistics.log_likelihood - self._of_rows(rebased, parameters)
        return replace(rebased, entropy=entropy)

    def implied(self, parameters: MixtureParameters[P], n_rows: float = math.inf) -> RebasedStatistics:
        """Return the statistics per row from n of which the M-step makes `parameters`; their entropy is left out.

        Where no rows could have made the weights, the nearest that could.
        """
        counts = parameters.weights
        if self._more_rows:
            more = self._more_rows / n_rows
            counts = np.maximum(counts * (1.0 + len(counts) * more) - more, 0.0)
            counts /= counts.sum()
        return RebasedStatistics(1.0, 0.0, counts, self.component.implied(parameters.components, counts, n_rows))

    def free_energy(self, statistics: RebasedStatistics, parameters: MixtureParameters[P]) -> float:
        """Return the expected complete-data log-likelihood plus entropy and log prior: at most the objective."""
        return self._of_rows(statistics, parameters) + self.log_prior(parameters)

    def _of_rows(self, statistics: RebasedStatistics, parameters: MixtureParameters[P]) -> float:
        """Return the same without the prior."""
        # What is as good as nothing must not meet the logarithm of a weight of 0.
        counts = np.where(statistics.counts > NEGLIGIBLE, statistics.counts, 0.0)
        expected = self.component.expected_log_density(statistics.components, counts, parameters.components)
        return statistics.entropy + float(np.sum(xlogy(counts, parameters.weights))) + expected

    def monotonicity_slack(self, parameters: MixtureParameters[P], dtype: np.dtype[Any]) -> float:
        """Return the most that regularisation and rounding can cost the log-likelihood per row of `dtype`."""
        return self.component.monotonicity_slack(parameters.components, parameters.weights, dtype)

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


def _refuse_labels(chunk: RowBlock) -> None:
    if chunk.labels is not None:
        message = "labels do not go with top_components: a component that is known may be none of the candidates"
        raise OptionError(message)
