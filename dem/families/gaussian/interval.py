"""A standard normal number that is known to lie in an interval: its probability, mean and variance.

Closed forms with log Φ, mirrored so that both ends lie on the side where Φ has no rounding; where an interval is so
narrow that they cancel, Gauss–Legendre quadrature, which is exact to rounding there.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from dem.families.base import Array
from dem.families.gaussian.covariance import LOG_2PI

# Intervals in which the density changes by no more than the exponential of it are narrow: 16 nodes lose nothing there.
NARROW = 4.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def truncated(lower: Array, upper: Array) -> tuple[Array, Array, Array]:
    """Return log P(lower < y < upper), and mean and variance of y within, for y ~ N(0, 1); arrays of one shape."""
    mirrored = lower + upper > 0.0
    a, b = np.where(mirrored, -upper, lower), np.where(mirrored, -lower, upper)
    width = b - a
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        narrow = width * np.maximum(np.abs(a), np.abs(b)) < NARROW
        log_b = log_ndtr(b)
        log_mass = log_b + np.log(-np.expm1(log_ndtr(a) - log_b))
        at_a, at_b = (np.exp(-0.5 * (LOG_2PI + end**2) - log_mass) for end in (a, b))
        mean = at_a - at_b
        # An infinite end times its density, which is 0, counts as 0.
        ends = [np.where(np.isinf(end), 0.0, end) * density for end, density in ((a, at_a), (b, at_b))]
        variance = np.maximum(1.0 + ends[0] - ends[1] - mean**2, 0.0)
    if narrow.any():
        middle, half = 0.5 * (a[narrow] + b[narrow]), 0.5 * width[narrow]
        steps = half * _NODES.reshape(-1, *(1,) * middle.ndim)
        density = np.exp(-steps * (middle + 0.5 * steps)) * _WEIGHTS.reshape(-1, *(1,) * middle.ndim)
        mass = density.sum(axis=0)
        shift = (density * steps).sum(axis=0) / mass
        log_mass[narrow] = np.log(mass * half) - 0.5 * (LOG_2PI + middle**2)
        mean[narrow] = middle + shift
        variance[narrow] = (density * (steps - shift) ** 2).sum(axis=0) / mass
    beyond = log_b == -np.inf  # even the logarithm of the probability is no number
    log_mass[beyond], mean[beyond], variance[beyond] = -np.inf, b[beyond], 0.0
    return log_mass, np.where(mirrored, -mean, mean), variance


def drawn(lower: Array, upper: Array, share: Array) -> Array:
    """Return y ~ N(0, 1) given lower < y < upper, of uniform numbers in (0, 1), by the inverse of log Φ."""
    mirrored = lower + upper > 0.0
    a, b = np.where(mirrored, -upper, lower), np.where(mirrored, -lower, upper)
    share = np.where(mirrored, 1.0 - share, share)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_b = log_ndtr(b)
        below = np.exp(log_ndtr(a) - log_b)
        y = ndtri_exp(log_b + np.log(below + share * (1.0 - below)))
    y = np.where(log_b == -np.inf, b, np.clip(y, a, b))
    return np.where(mirrored, -y, y)
