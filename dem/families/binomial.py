"""Binomial components (Bernoulli for one trial): independent counts of successes in each feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln, logit

from dem.families.base import Array, Support
from dem.families.exponential_family import ExponentialFamily

# Keeps log p and log(1 − p) finite: a feature that never varies within a component stays representable.
SMALLEST = 1e-12


@dataclass(frozen=True)
class BinomialComponent(ExponentialFamily):
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
    name: ClassVar[str] = "binomial"
    parameter: ClassVar[str] = "probabilities"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @property
    def support(self) -> Support:
        """Counts of successes."""
        return Support(f"whole numbers from 0 to {self.n_trials}", 0.0, self.n_trials, whole=True)

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return log p − log(1 − p) and −n log(1 − p)."""
        probabilities = np.clip(parameters, SMALLEST, 1.0 - SMALLEST)
        log_failure = np.log1p(-probabilities)
        return np.log(probabilities) - log_failure, -self.n_trials * log_failure.sum(axis=1)

    def log_base_measure(self, rows: Array) -> Array:
        """Return Σ log C(n, x)."""
        n = float(self.n_trials)
        if n == 1.0:  # log C(1, x) = 0
            return np.zeros(len(rows))
        return np.asarray(np.sum(gammaln(n + 1.0) - gammaln(rows + 1.0) - gammaln(n - rows + 1.0), axis=1))

    def mean_parameters(self, parameters: Array) -> Array:
        """Return n p."""
        return self.n_trials * parameters

    def from_mean_parameters(self, means: Array) -> Array:
        """Return p = mean / n, between 0 and 1 also after rounding."""
        return np.clip(means / self.n_trials, 0.0, 1.0)

    def prior(self, mean: Array) -> tuple[float, Array]:
        """Return one success and one failure (Laplace), whatever the number of trials."""
        return 2.0 / self.n_trials, np.full_like(mean, 0.5 * self.n_trials)

    def unconstrained(self, parameters: Array) -> Array:
        """Return the log-odds."""
        return np.asarray(logit(np.clip(parameters, SMALLEST, 1.0 - SMALLEST)))

    def constrained(self, numbers: Array) -> Array:
        """Return probabilities from log-odds."""
        return np.asarray(expit(numbers))

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one row of counts for each label."""
        return rng.binomial(self.n_trials, parameters[labels])
