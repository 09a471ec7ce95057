"""Exponential components: independent waiting times in each feature, whose mean is 1 / rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Support
from dem.families.exponential_family import ExponentialFamily

# Of rates and means; keeps log λ finite where all rows of a component are 0, whose density grows without bound.
SMALLEST = 1e-300
# No data hold values this far apart: a mean so much smaller than that of another component is on its way to 0.
_APART = 1e-100


@dataclass(frozen=True)
class ExponentialComponent(ExponentialFamily):
    """Each feature x has the density p(x) = λ exp(−λx).

    References
    ----------
    Jewell, N. P. (1982). Mixtures of exponential distributions. Annals of Statistics 10.
    """

    name: ClassVar[str] = "exponential"
    takes_sparse: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = ("rates",)
    support: ClassVar[Support] = Support("numbers of at least 0", lowest=0.0)

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return −λ and −log λ."""
        rates = np.maximum(parameters, SMALLEST)
        return -rates, -np.log(rates)

    def mean_parameters(self, parameters: Array) -> Array:
        """Return 1 / λ."""
        return 1.0 / np.maximum(parameters, SMALLEST)

    def from_mean_parameters(self, means: Array) -> Array:
        """Return λ = 1 / mean."""
        return 1.0 / np.maximum(means, SMALLEST)

    def unconstrained(self, parameters: Array) -> Array:
        """Return log λ."""
        return np.log(np.maximum(parameters, SMALLEST))

    def constrained(self, numbers: Array) -> Array:
        """Return λ from log λ."""
        return np.asarray(np.exp(np.minimum(numbers, -np.log(SMALLEST))))

    def collapsed(self, parameters: Array) -> NDArray[np.bool_]:
        """Tell which components have a feature that is 0 in all of their rows: their density has no bound."""
        ends = (parameters >= 0.5 / SMALLEST) | (parameters * _APART > parameters.min(axis=0))
        return np.asarray(ends.any(axis=1))

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row of waiting times for each label."""
        return rng.exponential(1.0 / parameters[labels])
