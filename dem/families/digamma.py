"""log Γ(a) and log a − ψ(a) without what is large and cancels: for densities with gamma functions, and M-steps."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma, gammaln, polygamma

from dem.families.base import Array

# From here on the series is exact to rounding, where log a and ψ(a) have ever more digits in common.
_SERIES_FROM = 50.0


def log_minus_digamma(a: Array) -> Array:
    """Return log a − ψ(a), which falls from ∞ to 0, also where a is large."""
    inverse = 1.0 / np.maximum(a, _SERIES_FROM)
    square = inverse**2
    series = inverse * (0.5 + inverse * (1.0 / 12.0 - square * (1.0 / 120.0 - square / 252.0)))
    near = np.minimum(a, _SERIES_FROM)
    return np.where(a < _SERIES_FROM, np.log(near) - digamma(near), series)


def log_gamma_rest(a: Array) -> Array:
    """Return log Γ(a) − (a log a − a), which grows like log a alone."""
    inverse = 1.0 / np.maximum(a, _SERIES_FROM)
    square = inverse**2
    series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square / 1260.0))
    near = np.minimum(a, _SERIES_FROM)
    far = 0.5 * np.log(2.0 * np.pi * inverse) + series
    return np.where(a < _SERIES_FROM, gammaln(near) - near * np.log(near) + near, far)


def solved(excess: Array) -> Array:
    """Return the a with log a − ψ(a) = excess > 0, by Newton's method for 1/a.

    References
    ----------
    Minka, T. P. (2002). Estimating a gamma distribution.
    """
    a = (3.0 - excess + np.sqrt((excess - 3.0) ** 2 + 24.0 * excess)) / (12.0 * excess)
    for _ in range(6):
        a = 1.0 / (1.0 / a + (log_minus_digamma(a) - excess) / (a - a**2 * polygamma(1, a)))
    return np.asarray(a)
