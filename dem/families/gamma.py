"""Gamma components: independent positive numbers in each feature, such as amounts, durations and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.digamma import log_gamma_rest, log_minus_digamma, solved
from dem.families.exponential_family import ExponentialFamily
from dem.families.support import Support

# The shapes that the M-step looks for. Above, where the deviation is 1e-5 of the mean, log-densities lose digits and
# the likelihood of a constant column has no bound; below, rows would lie further apart than numbers do.
LEAST, MOST = 1e-4, 1e10
# Means between which shape / mean is finite.
SMALLEST, LARGEST = 1e-290, 1e300


@dataclass(frozen=True)
class GammaComponent(ExponentialFamily):
    """Each feature x has the density p(x) = (a/m)ᵃ xᵃ⁻¹ exp(−ax/m) / Γ(a), with mean m and shape a.

    T(x) = (x, log x). The M-step takes the mean of the rows for m and solves log a − ψ(a) = log mean(x) − mean(log x).

    References
    ----------
    Minka, T. P. (2002). Estimating a gamma distribution. Wiper, M., Ríos Insua, D. and Ruggeri, F. (2001). Mixtures of
    gamma distributions with applications. Journal of Computational and Graphical Statistics 10.
    """

    name: ClassVar[str] = "gamma"
    parameters: ClassVar[tuple[str, ...]] = ("means", "shapes")
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((SMALLEST, LARGEST), (LEAST, MOST))
    support: ClassVar[Support] = Support("numbers above 0", lowest=float(np.nextafter(0.0, 1.0)))

    def sufficient_statistics(self, rows: Array) -> Array:
        """Return x and log x."""
        return np.hstack([rows, np.log(rows)])

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return −a/m and a − 1, and log Γ(a) − a log(a/m)."""
        means, shapes = np.hsplit(parameters, 2)
        log_constants = log_gamma_rest(shapes) + shapes * (np.log(means) - 1.0)
        return np.hstack([-shapes / means, shapes - 1.0]), log_constants

    def mean_parameters(self, parameters: Array) -> Array:
        """Return m, and log m − (log a − ψ(a))."""
        means, shapes = np.hsplit(parameters, 2)
        return np.hstack([means, np.log(means) - log_minus_digamma(shapes)])

    def expectations(self, parameters: Array) -> Array:
        """Return m."""
        return np.hsplit(parameters, 2)[0]

    def from_mean_parameters(self, means: Array) -> Array:
        """Return m, and the a whose rows have this mean logarithm."""
        means, logs = np.hsplit(means, 2)
        means = np.clip(means, SMALLEST, LARGEST)
        # Between 1/(2a) and 1/a of the bounds; of a constant column rounding may say less than 0.
        excess = np.clip(np.log(means) - logs, 0.5 / MOST, 1.0 / LEAST)
        return np.hstack([means, np.clip(solved(excess), LEAST, MOST)])

    def unconstrained(self, parameters: Array) -> Array:
        """Return the logarithms."""
        return np.log(parameters)

    def constrained(self, numbers: Array) -> Array:
        """Return parameters from their logarithms."""
        means, shapes = np.hsplit(numbers, 2)
        return np.hstack(
            [
                np.exp(np.clip(means, np.log(SMALLEST), np.log(LARGEST))),
                np.exp(np.clip(shapes, np.log(LEAST), np.log(MOST))),
            ]
        )

    def collapsed(self, parameters: Array) -> NDArray[np.bool_]:
        """Tell which components have a feature that is constant in all of their rows: their density has no bound."""
        return np.asarray((np.hsplit(parameters, 2)[1] >= 0.5 * MOST).any(axis=1))

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label."""
        means, shapes = np.hsplit(parameters[labels], 2)
        # Of small shapes the least numbers are none that a float can hold.
        return np.maximum(rng.gamma(shapes, means / shapes), np.finfo(np.float64).tiny)
