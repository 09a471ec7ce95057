"""Beta components: independent shares in each feature, numbers between 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, expit, logit, polygamma

from dem.families.base import Array
from dem.families.digamma import log_gamma_rest, log_minus_digamma
from dem.families.exponential_family import ExponentialFamily
from dem.families.support import Support

# The concentrations that the M-step looks for. Above, where shares scatter by 1e-5, log-densities lose digits, and the
# likelihood of a constant column has no bound.
LEAST, MOST = 1e-4, 1e10
# Means between which both parameters of scipy's are above 0.
SMALLEST, LARGEST = 1e-290, 1.0 - 2.0**-53
# Of Newton's method, which doubles its digits in each step near the end, and the longest step of a logarithm.
_MOST_STEPS, _LONGEST = 100, 1.0


@dataclass(frozen=True)
class BetaComponent(ExponentialFamily):
    """Each feature x has the density p(x) = x^(a−1) (1 − x)^(b−1) / B(a, b), with mean m = a/(a + b) and c = a + b.

    T(x) = (log x, log(1 − x)), with means ψ(a) − ψ(c) and ψ(b) − ψ(c): of those of the rows the M-step finds a and b.

    References
    ----------
    Ji, Y., Wu, C., Liu, P., Wang, J. and Coombes, K. R. (2005). Applications of beta-mixture models in bioinformatics.
    Bioinformatics 21. Ferrari, S. and Cribari-Neto, F. (2004). Beta regression for modelling rates and proportions.
    Journal of Applied Statistics 31.
    """

    name: ClassVar[str] = "beta"
    parameters: ClassVar[tuple[str, ...]] = ("means", "concentrations")
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((SMALLEST, LARGEST), (LEAST, MOST))
    support: ClassVar[Support] = Support(
        "numbers between 0 and 1, without these", float(np.nextafter(0.0, 1.0)), 1.0 - 2.0**-53
    )

    def sufficient_statistics(self, rows: Array) -> Array:
        """Return log x and log(1 − x)."""
        return np.hstack([np.log(rows), np.log1p(-rows)])

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return a − 1 and b − 1, and log B(a, b)."""
        means, concentrations = np.hsplit(parameters, 2)
        a, b = shapes(parameters)
        # Of log B(a, b) what is left where a log a and the like are taken together.
        rest = log_gamma_rest(a) + log_gamma_rest(b) - log_gamma_rest(concentrations)
        return np.hstack([a - 1.0, b - 1.0]), a * np.log(means) + b * np.log1p(-means) + rest

    def mean_parameters(self, parameters: Array) -> Array:
        """Return ψ(a) − ψ(c) and ψ(b) − ψ(c)."""
        means, concentrations = np.hsplit(parameters, 2)
        a, b = shapes(parameters)
        of_all = log_minus_digamma(concentrations)
        return np.hstack(
            [np.log(means) - log_minus_digamma(a) + of_all, np.log1p(-means) - log_minus_digamma(b) + of_all]
        )

    def expectations(self, parameters: Array) -> Array:
        """Return m."""
        return np.hsplit(parameters, 2)[0]

    def from_mean_parameters(self, means: Array) -> Array:
        """Return m and c of the beta distribution whose rows have these mean logarithms."""
        a, b = solved(*np.hsplit(means, 2))
        return np.hstack([np.clip(a / (a + b), SMALLEST, LARGEST), np.clip(a + b, LEAST, MOST)])

    def unconstrained(self, parameters: Array) -> Array:
        """Return log-odds of m and log c."""
        means, concentrations = np.hsplit(parameters, 2)
        return np.hstack([logit(means), np.log(concentrations)])

    def constrained(self, numbers: Array) -> Array:
        """Return parameters from those."""
        means, concentrations = np.hsplit(numbers, 2)
        concentrations = np.exp(np.clip(concentrations, np.log(LEAST), np.log(MOST)))
        return np.hstack([np.clip(expit(means), SMALLEST, LARGEST), concentrations])

    def collapsed(self, parameters: Array) -> NDArray[np.bool_]:
        """Tell which components have a feature that is constant in all of their rows: their density has no bound."""
        return np.asarray((np.hsplit(parameters, 2)[1] >= 0.5 * MOST).any(axis=1))

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label."""
        rows = rng.beta(*shapes(parameters[labels]))
        # Numbers nearer to the ends than a float can tell.
        return np.clip(rows, np.finfo(np.float64).tiny, self.support.highest)


def shapes(parameters: Array) -> tuple[Array, Array]:
    """Return a = mc and b = (1 − m)c."""
    means, concentrations = np.hsplit(parameters, 2)
    return means * concentrations, (1.0 - means) * concentrations


def solved(log_mean: Array, log_rest: Array) -> tuple[Array, Array]:
    """Return the a and b with ψ(a) − ψ(a + b) and ψ(b) − ψ(a + b) as given, a + b at most `MOST`.

    Newton's method for the log-likelihood, which is concave in (a, b), with steps of their logarithms, so that both
    stay above 0; from the start of Johnson and Kotz (1970, Continuous univariate distributions 2).
    """
    share, rest = np.exp(log_mean), np.exp(log_rest)
    room = 2.0 * np.maximum(1.0 - share - rest, 0.5 / MOST)
    a, b = 0.5 + share / room, 0.5 + rest / room
    for _ in range(_MOST_STEPS):
        c = a + b
        of_all = log_minus_digamma(c)
        slope_a = log_mean - np.log(a / c) + log_minus_digamma(a) - of_all
        slope_b = log_rest - np.log(b / c) + log_minus_digamma(b) - of_all
        # (diag(p, q) − r 11ᵀ)⁻¹ by Sherman and Morrison; by a and b, as steps of their logarithms.
        p, q, r = polygamma(1, a), polygamma(1, b), polygamma(1, c)
        left = np.maximum(1.0 - r * (1.0 / p + 1.0 / q), np.finfo(np.float64).eps)
        common = r * (slope_a / p + slope_b / q) / left
        step_a, step_b = (slope_a + common) / (p * a), (slope_b + common) / (q * b)
        longest = np.maximum(np.abs(step_a), np.abs(step_b))
        shorter = _LONGEST / np.maximum(longest, _LONGEST)
        a, b = a * np.exp(shorter * step_a), b * np.exp(shorter * step_b)
        within = np.minimum(1.0, MOST / (a + b))
        a, b = a * within, b * within
        if np.all((longest <= np.maximum(1e-7, 1e-14 * c)) | (within < 1.0)):  # the next would be its square
            break
    capped = a + b >= (1.0 - 1e-9) * MOST
    if capped.any():
        a[capped], b[capped] = _on_the_edge((log_mean - log_rest)[capped], a[capped])
    return a, b


def _on_the_edge(difference: Array, a: Array) -> tuple[Array, Array]:
    """Return the likeliest a and b whose sum is `MOST`, by Newton's method for the log-odds of a / MOST."""
    odds = logit(np.clip(a / MOST, SMALLEST, LARGEST))
    for _ in range(_MOST_STEPS):
        share = expit(odds)
        a, b = share * MOST, expit(-odds) * MOST
        slope = share * b * (polygamma(1, a) + polygamma(1, b))
        step = (difference - digamma(a) + digamma(b)) / slope
        odds = np.clip(odds + np.clip(step, -_LONGEST, _LONGEST), logit(SMALLEST), logit(LARGEST))
        if np.all(np.abs(step) <= 1e-8):
            break
    return expit(odds) * MOST, expit(-odds) * MOST
