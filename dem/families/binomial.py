"""Binomial components (Bernoulli for one trial): independent counts of successes in each feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from dem.families.base import Array, Support
from dem.families.exponential_family import ExponentialFamily
from dem.families.factorials import FAR, log_factorials, log_poisson
from dem.sparse import SparseRows

# Keeps log p and log(1 − p) finite: a feature that never varies within a component stays representable.
SMALLEST = 1e-12


@dataclass(frozen=True)
class BinomialComponent(ExponentialFamily):
    """Each feature x counts successes in `n_trials` independent trials with probability p.

    Parameters
    ----------
    n_trials : int or tuple of int
        Number of trials behind every value, or behind those of each feature.

    References
    ----------
    Do, C. B. and Batzoglou, S. (2008). What is the expectation maximization algorithm? Nature Biotechnology 26.
    """

    n_trials: int | tuple[int, ...]
    name: ClassVar[str] = "binomial"
    takes_sparse: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = ("probabilities",)
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((0.0, 1.0),)

    @property
    def support(self) -> Support:
        """Counts of successes."""
        if isinstance(self.n_trials, tuple):
            return Support("whole numbers from 0 to n_trials of their column", 0.0, self.n_trials, whole=True)
        family = "bernoulli" if self.n_trials == 1 else self.name
        return Support(f"whole numbers from 0 to {self.n_trials}", 0.0, self.n_trials, whole=True, family=family)

    @property
    def trials(self) -> Array:
        """The numbers of trials, of no dimension or of shape (n_features,)."""
        return np.asarray(self.n_trials, dtype=np.float64)

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return log p − log(1 − p) and −n log(1 − p)."""
        probabilities = np.clip(parameters, SMALLEST, 1.0 - SMALLEST)
        log_failure = np.log1p(-probabilities)
        return np.log(probabilities) - log_failure, -self.trials * log_failure

    def log_base_measure(self, rows: Array) -> Array:
        """Return log C(n, x)."""
        if (self.trials == 1.0).all():  # log C(1, x) = 0
            return super().log_base_measure(rows)
        return log_choices(self.trials, rows)

    def log_base_measure_of_sparse(self, rows: SparseRows) -> Array:
        """Return Σ log C(n, x) of each sparse row, shape (n,)."""
        return rows.sums(log_choices(np.broadcast_to(self.trials, rows.shape[1])[rows.columns], rows.data))

    def far_rows(self, rows: Array | SparseRows) -> NDArray[np.intp]:
        """Return all rows where numbers of trials are huge."""
        return np.arange(len(rows) if self.trials.max() > FAR else 0)

    def far_log_density(self, parameters: Array, rows: Array) -> Array:
        """Return log p(x) by feature."""
        return log_binomial(rows, self.trials, parameters)

    def mean_parameters(self, parameters: Array) -> Array:
        """Return n p."""
        return self.trials * parameters

    def from_mean_parameters(self, means: Array) -> Array:
        """Return p = mean / n, between 0 and 1 also after rounding."""
        return np.clip(means / self.trials, 0.0, 1.0)

    def prior(self, mean: Array) -> tuple[Any, Array]:
        """Return one success and one failure (Laplace), whatever the number of trials."""
        return 2.0 / self.trials, np.broadcast_to(0.5 * self.trials, mean.shape)

    def unconstrained(self, parameters: Array) -> Array:
        """Return the log-odds."""
        return np.asarray(logit(np.clip(parameters, SMALLEST, 1.0 - SMALLEST)))

    def constrained(self, numbers: Array) -> Array:
        """Return probabilities from log-odds."""
        return np.asarray(expit(numbers))

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one row of counts for each label."""
        return rng.binomial(np.asarray(self.n_trials), parameters[labels])


def log_binomial(x: Array, n: Array, p: Array) -> Array:
    """Return log p(x) of x successes in n trials to all digits, whatever n: p is at a distance from 0 and 1.

    The distance is `SMALLEST`, and above `FAR` trials shorter, for p may be 1e-14 there: as many successes as in `FAR`.
    """
    least = SMALLEST * np.minimum(n, FAR)
    successes = log_poisson(x, np.maximum(n * p, least))
    failures = log_poisson(n - x, np.maximum(n * (1.0 - p), least))
    return np.asarray(successes + failures - log_poisson(n, n))


def log_choices(n: Array, x: Array) -> Array:
    """Return log C(n, x)."""
    return log_factorials(n) - log_factorials(x) - log_factorials(n - x)
