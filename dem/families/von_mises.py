"""Von Mises components: independent angles in each feature, such as directions and times of day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import i0e

from dem.families import bessel
from dem.families.base import Array
from dem.families.exponential_family import ExponentialFamily
from dem.families.support import Support

# Above this concentration, where angles scatter by 1e-5, log-densities lose digits, and the likelihood of rows that are
# all the same has no bound.
MOST = 1e10


@dataclass(frozen=True)
class VonMisesComponent(ExponentialFamily):
    """Each feature x, an angle in radians, has the density p(x) = exp(κ cos(x − μ)) / (2π I₀(κ)).

    T(x) = (cos x, sin x), so that angles count modulo 2π. The M-step takes the direction of the mean T for μ, and the κ
    with I₁(κ)/I₀(κ) equal to its length.

    References
    ----------
    Mardia, K. V. and Jupp, P. E. (2000). Directional statistics. Wiley.
    """

    name: ClassVar[str] = "von_mises"
    parameters: ClassVar[tuple[str, ...]] = ("means", "concentrations")
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((-np.inf, np.inf), (0.0, MOST))
    support: ClassVar[Support] = Support("finite angles in radians")

    def sufficient_statistics(self, rows: Array) -> Array:
        """Return cosines and sines."""
        return np.hstack([np.cos(rows), np.sin(rows)])

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return κ cos μ and κ sin μ, and log(2π I₀(κ))."""
        means, concentrations = np.hsplit(parameters, 2)
        log_constants = np.log(2.0 * np.pi * i0e(concentrations)) + concentrations
        return np.hstack([concentrations, concentrations]) * self.sufficient_statistics(means), log_constants

    def mean_parameters(self, parameters: Array) -> Array:
        """Return cos μ and sin μ, by the mean resultant length."""
        means, concentrations = np.hsplit(parameters, 2)
        resultants = bessel.ratio(0.0, concentrations)
        return np.hstack([resultants, resultants]) * self.sufficient_statistics(means)

    def expectations(self, parameters: Array) -> Array:
        """Return μ, the mean direction."""
        return np.hsplit(parameters, 2)[0]

    def from_mean_parameters(self, means: Array) -> Array:
        """Return direction and concentration of mean cosines and sines."""
        cosines, sines = np.hsplit(means, 2)
        resultants = np.hypot(cosines, sines)
        return np.hstack([np.arctan2(sines, cosines), bessel.argument_of(0.0, resultants, MOST)])

    def unconstrained(self, parameters: Array) -> Array:
        """Return κ cos μ and κ sin μ, which may be any numbers."""
        return self.natural_parameters(parameters)[0]

    def constrained(self, numbers: Array) -> Array:
        """Return parameters from those."""
        cosines, sines = np.hsplit(numbers, 2)
        return np.hstack([np.arctan2(sines, cosines), np.minimum(np.hypot(cosines, sines), MOST)])

    def collapsed(self, parameters: Array) -> NDArray[np.bool_]:
        """Tell which components have a feature that is one angle in all of their rows: their density has no bound."""
        return np.asarray((np.hsplit(parameters, 2)[1] >= 0.5 * MOST).any(axis=1))

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row of angles between −π and π for each label."""
        return rng.vonmises(*np.hsplit(parameters[labels], 2))
