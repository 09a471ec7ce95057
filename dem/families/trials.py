"""Binomial components whose rows have numbers of trials of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from dem.families.base import NEGLIGIBLE, Array, RowBlock, Support
from dem.families.binomial import SMALLEST, log_binomial, log_choices
from dem.families.exponential_family import ExponentialFamily
from dem.families.exponential_kernel import ExponentialBlock, ExponentialKernel, Totals
from dem.families.factorials import far_rows
from dem.row_draws import RowDraws
from dem.sparse import SparseRows


@dataclass(frozen=True)
class SuccessesSupport(Support):
    """Rows of successes, and behind them the trials of each, which have been judged (`dem.data.rules.TrialsRule`)."""

    def outside(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which successes are no whole numbers or more than there were trials, shape (n, n_features)."""
        successes, trials = np.hsplit(rows, 2)
        return super().outside(successes) | (successes > trials)


@dataclass(frozen=True)
class TrialsComponent(ExponentialFamily):
    """Each feature x counts successes among m independent trials with probability p, where m is known of each row.

    Rows are x and behind it m, (n, 2 · n_features), and so is T: log p(x) = x log(p/(1 − p)) + m log(1 − p) + log C(m,
    x). A missing x is of no trials. The parameters are p and behind it the mean number of trials of the rows of each
    component, on which no density depends.
    """

    name: ClassVar[str] = "binomial"
    parameters: ClassVar[tuple[str, ...]] = ("probabilities", "row_trials")
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((0.0, 1.0), (0.0, np.inf))
    support: ClassVar[Support] = SuccessesSupport("whole numbers from 0 to the trials of their row", 0.0, whole=True)

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return log p − log(1 − p) and log(1 − p), and 0."""
        probabilities = np.clip(_halves(parameters)[0], SMALLEST, 1.0 - SMALLEST)
        log_failure = np.log1p(-probabilities)
        return np.hstack([np.log(probabilities) - log_failure, log_failure]), np.zeros_like(probabilities)

    def log_base_measure(self, rows: Array) -> Array:
        """Return log C(m, x)."""
        successes, trials = _halves(rows)
        return log_choices(trials, successes)

    def far_rows(self, rows: Array | SparseRows) -> NDArray[np.intp]:
        """Return the rows that have a huge number of trials."""
        return far_rows(rows)

    def far_log_density(self, parameters: Array, rows: Array) -> Array:
        """Return log p(x) by feature."""
        successes, trials = _halves(rows)
        return log_binomial(successes, trials, parameters[: trials.shape[1]])

    def mean_parameters(self, parameters: Array) -> Array:
        """Return m p and m, of the mean m."""
        probabilities, trials = _halves(parameters)
        return np.hstack([trials * probabilities, trials])

    def from_mean_parameters(self, means: Array) -> Array:
        """Return p, the successes among all trials, and the mean m; without any trials p is NaN."""
        successes, trials = _halves(means)
        shares = np.divide(successes, trials, out=np.full_like(trials, np.nan), where=trials > NEGLIGIBLE)
        return np.hstack([np.clip(shares, 0.0, 1.0), trials])

    def expectations(self, parameters: Array) -> Array:
        """Return m p, of the mean m."""
        return _halves(self.mean_parameters(parameters))[0]

    def prior(self, mean: Array) -> tuple[float, Array]:
        """Return one success and one failure (Laplace)."""
        return 1.0, np.repeat([1.0, 2.0], mean.shape[-1] // 2)

    def marginals(self, parameters: Array, rows: NDArray[Any]) -> Iterator[tuple[NDArray[np.intp], ExponentialKernel]]:  # type: ignore[override]
        """Yield all rows: what is missing counts as no trials."""
        yield np.arange(len(rows)), KernelOfGaps(self, parameters)

    def m_step(self, statistics: Totals, counts: Array, parameters: Array) -> Array:
        """Return the maximising p; where a component has no trials, p stays what it was."""
        found = super().m_step(statistics, counts, parameters)
        return np.where(np.isnan(found), parameters, found)

    def conditional_means(self, parameters: Array, rows: Array, k: int) -> Array:
        """Return rows with m p in the place of what is missing; an m that is not known is the mean."""
        (successes, trials), (probabilities, means) = _halves(rows), _halves(parameters)
        trials = np.where(np.isnan(trials), means[k], trials)
        return np.hstack([np.where(np.isnan(successes), trials * probabilities[k], successes), trials])

    def conditional_draws(self, parameters: Array, rows: Array, labels: NDArray[np.int64], rng: RowDraws) -> Array:
        """Return rows with what is missing drawn."""
        (successes, trials), (probabilities, means) = _halves(rows), _halves(parameters)
        trials = np.where(np.isnan(trials), np.rint(means[labels]), trials)
        drawn = rng.generator.binomial(trials, probabilities[labels])
        return np.hstack([np.where(np.isnan(successes), drawn, successes), trials])

    def n_parameters(self, parameters: Array) -> int:
        """Return the number of p."""
        return parameters.size // 2

    def unconstrained(self, parameters: Array) -> Array:
        """Return the log-odds, and log m."""
        probabilities, trials = _halves(parameters)
        logs = np.log(np.maximum(trials, SMALLEST))
        return np.hstack([logit(np.clip(probabilities, SMALLEST, 1.0 - SMALLEST)), logs])

    def constrained(self, numbers: Array) -> Array:
        """Return p and m from log-odds and log m."""
        odds, logs = _halves(numbers)
        return np.hstack([expit(odds), np.exp(logs)])

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one row of successes and trials for each label, of numbers of trials that are Poisson distributed."""
        probabilities, means = _halves(parameters)
        trials = rng.poisson(means[labels])
        return np.hstack([rng.binomial(trials, probabilities[labels]), trials])


class KernelOfGaps(ExponentialKernel):
    """The arithmetic for rows in which values are missing: they are of no trials, and so are in no sum."""

    def block(self, chunk: RowBlock) -> ExponentialBlock:
        """Return rows in double precision, with 0 of 0 trials in the place of what is missing."""
        record: Any = chunk
        rows = np.asarray(chunk.rows, dtype=np.float64)
        known = np.tile(~np.isnan(_halves(rows)[0]), 2)
        found: Any = super().block(replace(record, rows=np.where(known, rows, 0.0)))
        return found  # type: ignore[no-any-return]


def _halves(both: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what is of successes, and what is of trials."""
    successes, trials = np.hsplit(both, 2)
    return successes, trials
