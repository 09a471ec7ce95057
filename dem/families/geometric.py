"""Geometric components: independent numbers of failures before the first success in each feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from dem.families.base import Array, Support
from dem.families.exponential_family import ExponentialFamily

# Keep log p and log(1 − p) finite: the latter where all rows of a component are 0.
SMALLEST, LARGEST = 1e-300, 1.0 - 1e-12


@dataclass(frozen=True)
class GeometricComponent(ExponentialFamily):
    """Each feature x counts failures before the first success of probability p: p(x) = p (1 − p)ˣ for x = 0, 1, 2, ….

    Counts begin at 0, as those of other families and of data do, and as where the geometric is the negative binomial of
    one success. `numpy.random.Generator.geometric` and `scipy.stats.geom` count the trials, one more (``loc=-1``).

    References
    ----------
    Johnson, N. L., Kemp, A. W. and Kotz, S. (2005). Univariate discrete distributions, chapter 5. Wiley.
    """

    name: ClassVar[str] = "geometric"
    takes_sparse: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = ("probabilities",)
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((0.0, 1.0),)
    support: ClassVar[Support] = Support("whole numbers of at least 0", lowest=0.0, whole=True)

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return log(1 − p) and −log p."""
        probabilities = np.clip(parameters, SMALLEST, LARGEST)
        return np.log1p(-probabilities), -np.log(probabilities)

    def mean_parameters(self, parameters: Array) -> Array:
        """Return (1 − p) / p."""
        return (1.0 - parameters) / np.maximum(parameters, SMALLEST)

    def from_mean_parameters(self, means: Array) -> Array:
        """Return p = 1 / (1 + mean)."""
        return 1.0 / (1.0 + means)

    def unconstrained(self, parameters: Array) -> Array:
        """Return the log-odds."""
        return np.asarray(logit(np.clip(parameters, SMALLEST, LARGEST)))

    def constrained(self, numbers: Array) -> Array:
        """Return probabilities from log-odds."""
        return np.asarray(expit(numbers))

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one row of counts for each label."""
        return rng.geometric(parameters[labels]) - 1
