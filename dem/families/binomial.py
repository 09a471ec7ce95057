"""Binomial components (Bernoulli for one trial): independent counts of successes in each feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln, logit

from dem.families.base import NEGLIGIBLE, Array, RowBlock, Support
from dem.families.unconstrained import Vector
from dem.families.workspace import copy_with
from dem.statistics import Statistics

# Keeps log p and log(1 − p) finite: a feature that never varies within a component stays representable.
SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class BinomialStatistics(Statistics):
    """Σγx, shape (n_components, n_features)."""

    successes: Array


@dataclass(frozen=True, eq=False)
class BinomialComponent:
    """Each feature x counts successes in `n_trials` independent trials with probability p.

    Parameters
    ----------
    n_trials : int
        Number of trials behind every value.

    References
    ----------
    Do, C. B. and Batzoglou, S. (2008). What is the expectation maximization algorithm? Nature Biotechnology 26.
    """

    n_trials: int
    name: str = "binomial"

    @property
    def support(self) -> Support:
        """Counts of successes."""
        return Support(f"whole numbers from 0 to {self.n_trials}", 0.0, self.n_trials, whole=True)

    def adapted_to(self, sample: NDArray[Any]) -> Self:  # noqa: ARG002
        """Return this component: counts need no frame of reference."""
        return self

    def start(self, sample: NDArray[Any], responsibilities: Array) -> Array:
        """Return probabilities (n_components, n_features) from a sample and its responsibilities."""
        successes = responsibilities.T @ np.asarray(sample, dtype=np.float64)
        # One success and one failure more (Laplace): a component that starts from a single row must not start
        # with probabilities of 0 and 1, which EM could never leave.
        counts = responsibilities.sum(axis=0)[:, np.newaxis]
        return np.asarray((successes + 1.0) / (self.n_trials * counts + 2.0))

    def kernel(self, parameters: Array, dtype: np.dtype[Any], *, exact: bool = False) -> BinomialKernel:  # noqa: ARG002
        """Return the arithmetic of an E-step at `parameters`: double precision for rows of any dtype."""
        return BinomialKernel(parameters, self)

    def joins(self, other: Self) -> bool:
        """Tell whether the other counts the same number of trials."""
        return other.n_trials == self.n_trials

    def add_at(self, total: BinomialStatistics, which: NDArray[np.intp], part: BinomialStatistics) -> None:
        """Add the statistics of some of the components."""
        total.successes[which] += part.successes

    def m_step(self, statistics: BinomialStatistics, counts: Array, parameters: Array) -> Array:
        """Return Σγx / (n_trials Σγ); a component without any rows stays where it is."""
        occupied = counts[:, np.newaxis] > NEGLIGIBLE
        trials = self.n_trials * np.where(occupied, counts[:, np.newaxis], 1.0)
        return np.where(occupied, np.clip(statistics.successes / trials, 0.0, 1.0), parameters)

    def rebased(self, statistics: BinomialStatistics, counts: Array, parameters: Array) -> BinomialStatistics:  # noqa: ARG002
        """Return the statistics: they refer to no parameters."""
        return statistics

    def implied(self, parameters: Array, weights: Array) -> BinomialStatistics:
        """Return the statistics per row from which the M-step makes `parameters`."""
        return BinomialStatistics(weights[:, np.newaxis] * self.n_trials * parameters)

    def expected_log_density(self, statistics: BinomialStatistics, counts: Array, parameters: Array) -> float:
        """Return Σγ log p(row | component) without the binomial coefficients, which no parameter changes."""
        probabilities = np.clip(parameters, SMALLEST, 1.0 - SMALLEST)
        failures = self.n_trials * counts[:, np.newaxis] - statistics.successes
        return float(np.sum(statistics.successes * np.log(probabilities) + failures * np.log1p(-probabilities)))

    def monotonicity_slack(self, parameters: Array, weights: Array, dtype: np.dtype[Any]) -> float:  # noqa: ARG002
        """Nothing is regularised beyond clipping at `SMALLEST`."""
        return float(self.n_trials * parameters.shape[1] * SMALLEST)

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one row of counts for each label."""
        return rng.binomial(self.n_trials, parameters[labels])

    def n_parameters(self, parameters: Array) -> int:
        """Return one probability per component and feature."""
        return parameters.size

    def to_user(self, parameters: Array) -> dict[str, NDArray[Any]]:
        """Return ``probabilities``, shape (n_components, n_features)."""
        return {"probabilities": parameters}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> Array:
        """Return parameters from what `to_user` gave."""
        return np.asarray(values["probabilities"], dtype=np.float64)

    def unconstrain(self, parameters: Array) -> Vector:
        """Return the log-odds of the probabilities."""
        return Vector(logit(np.clip(parameters, SMALLEST, 1.0 - SMALLEST)), np.empty(0))

    def constrain(self, vector: Vector, parameters: Array) -> Array:  # noqa: ARG002
        """Return parameters from what `unconstrain` gave."""
        return np.asarray(expit(vector.own))


class BinomialKernel:
    """log p(x) = Σ log C(n, x) + x log p + (n − x) log(1 − p), linear in x: one small matrix product."""

    block_rows = 8192
    trusted_above = -np.inf

    def __init__(self, parameters: Array, component: BinomialComponent) -> None:
        probabilities = np.clip(parameters, SMALLEST, 1.0 - SMALLEST)
        log_failure = np.log1p(-probabilities)
        self.slope = np.log(probabilities) - log_failure
        self.component = component
        self.constant = component.n_trials * log_failure.sum(axis=1, keepdims=True)
        self.clear()

    def clear(self) -> None:
        """Start the sums anew."""
        self.successes = np.zeros_like(self.slope)

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        part = copy_with(self, slope=self.slope[which], constant=self.constant[which])
        part.clear()
        return part

    def block(self, chunk: RowBlock) -> BinomialBlock:
        """Return rows in double precision."""
        return BinomialBlock(self, np.asarray(chunk.rows, dtype=np.float64))

    def statistics(self) -> BinomialStatistics:
        """Return what was accumulated."""
        return BinomialStatistics(self.successes)


class BinomialBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: BinomialKernel, rows: Array) -> None:
        self._kernel = kernel
        self._rows = rows

    def log_density(self) -> Array:
        """Return log p(row | component), shape (n_components, n); NaN for rows that are no counts."""
        kernel = self._kernel
        density: Array = kernel.slope @ self._rows.T
        density += kernel.constant
        density += self._log_coefficients()
        # What is no count has no density; NaN makes the loop look for the rows and name them.
        density[:, kernel.component.support.outside(self._rows).any(axis=1)] = np.nan
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._rows = np.where(which[:, np.newaxis], 0.0, self._rows)

    def accumulate(self, responsibilities: Array) -> None:
        """Add Σγx of the rows."""
        self._kernel.successes += responsibilities @ self._rows

    def _log_coefficients(self) -> Array:
        n, rows = self._kernel.component.n_trials, self._rows
        if n == 1:  # log C(1, x) = 0
            return np.zeros(len(rows))
        rows = np.clip(rows, 0.0, n)
        return np.asarray(
            rows.shape[1] * gammaln(n + 1.0) - (gammaln(rows + 1.0) + gammaln(n - rows + 1.0)).sum(axis=1)
        )
