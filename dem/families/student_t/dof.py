"""Degrees of freedom ν: the constant of the density, and the step that finds ν from statistics of the scale weights."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from dem.families.base import Array
from dem.families.digamma import log_minus_digamma, solved

# Between these the M-step looks for ν. Below, the density at the centre is all that counts; above, a t is a Gaussian:
# they differ by some d² / (4 ν²) nats per row.
LEAST, MOST = 0.01, 1000.0
# From this half of ν on, Γ comes from Stirling's series, whose terms up to a⁻³ leave less than 1e-13.
_SERIES_FROM = 100.0


def log_gamma_ratio(a: Array, step: float) -> Array:
    """Return log Γ(a + step) − log Γ(a), also where both are large."""
    far = np.maximum(a, _SERIES_FROM)

    def rest(x: Array) -> Array:
        return np.asarray(1.0 / (12.0 * x) - 1.0 / (360.0 * x**3))

    series = (far + step - 0.5) * np.log1p(step / far) + step * np.log(far) - step + rest(far + step) - rest(far)
    return np.where(a > _SERIES_FROM, series, gammaln(a + step) - gammaln(a))


def log_constants(dofs: Array, n_features: int) -> Array:
    """Return the log-densities of standard t distributions at their centres, shape as `dofs`."""
    half = 0.5 * n_features
    return np.asarray(log_gamma_ratio(0.5 * dofs, half) - half * np.log(np.pi * dofs))


def expected_log_weight(dofs: Array) -> Array:
    """Return the expectation of log u, for weights u with the gamma distribution of mean 1 that belongs to ν."""
    return -log_minus_digamma(0.5 * dofs)


def solve(excess: Array, before: Array) -> Array:
    """Return the ν with log(ν/2) − ψ(ν/2) = excess, the M-step of gamma distributions of mean 1, within bounds.

    `before` is what ν was: where it lies beyond the bounds, those reach to there, so that the step cannot do harm.
    """
    least, most = np.minimum(before, LEAST), np.maximum(before, MOST)
    # log a − ψ(a) lies between 1/(2a) and 1/a.
    bounded = np.clip(excess, 1.0 / (2.0 * most), 4.0 / least)
    return np.clip(2.0 * solved(bounded), least, most)
