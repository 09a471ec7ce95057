"""Poisson components: independent counts in each feature, whose mean is the rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Support
from dem.families.exponential_family import ExponentialFamily
from dem.families.factorials import far_rows, log_factorials, log_poisson
from dem.sparse import SparseRows

# Keeps log λ finite where all rows of a component count 0.
SMALLEST = 1e-12


@dataclass(frozen=True)
class PoissonComponent(ExponentialFamily):
    """Each feature x counts events: p(x) = λˣ exp(−λ) / x!.

    References
    ----------
    Karlis, D. and Meligkotsidou, L. (2007). Finite mixtures of multivariate Poisson distributions with application.
    Journal of Statistical Planning and Inference 137.
    """

    name: ClassVar[str] = "poisson"
    takes_sparse: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = ("rates",)
    support: ClassVar[Support] = Support("whole numbers of at least 0", lowest=0.0, whole=True)

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return log λ and λ."""
        rates = np.maximum(parameters, SMALLEST)
        return np.log(rates), rates

    def log_base_measure(self, rows: Array) -> Array:
        """Return −log x!."""
        return -log_factorials(rows)

    def far_rows(self, rows: Array | SparseRows) -> NDArray[np.intp]:
        """Return the rows that hold a huge count."""
        return far_rows(rows)

    def far_log_density(self, parameters: Array, rows: Array) -> Array:
        """Return log p(x) by feature."""
        return log_poisson(rows, np.maximum(parameters, SMALLEST))

    def unconstrained(self, parameters: Array) -> Array:
        """Return log λ."""
        return np.log(np.maximum(parameters, SMALLEST))

    def constrained(self, numbers: Array) -> Array:
        """Return λ from log λ."""
        return np.exp(numbers)

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one row of counts for each label."""
        return rng.poisson(parameters[labels])
