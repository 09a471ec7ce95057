"""Modified Bessel functions of the first kind as directional densities need them: any order ν ≥ 0, any argument.

The functions themselves leave the range of numbers from some hundreds on. What is computed here does not: the logarithm
of I_ν(x) x^−ν, and the ratio I_ν+1(x) / I_ν(x), which is the mean resultant length of a von Mises–Fisher density.

Where √(ν² + x²) is large, both come from the uniform expansion for large orders, whose terms hold for small orders and
large arguments too; elsewhere from a power series and a continued fraction.

References
----------
Olver, F. W. J. et al. (2010). NIST handbook of mathematical functions, 10.25.2, 10.33.1 and 10.41. Amos, D. E. (1974).
Computation of modified Bessel functions and their ratios. Mathematics of Computation 28. Hornik, K. and Grün, B.
(2014). movMF: an R package for fitting mixtures of von Mises–Fisher distributions. Journal of Statistical Software 58.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import Polynomial
from scipy.special import gammaln

from dem.families.base import Array

# √(ν² + x²) from which on the expansion is exact to rounding with so many terms; up to there so many terms of the
# series, and steps of the fraction, are.
_LARGE, _TERMS, _STEPS = 35.0, 14, 60
# Newton's method comes from below and doubles its digits each time.
_MOST_STEPS = 30


def _expansions() -> tuple[Array, Array]:
    """Return the coefficients of the sums behind log I_ν and its derivative, shape (terms, powers of p²).

    U_k(p) is a polynomial p^k u_k(p²) (10.41.10), and V_k − U_k = −(1 − p²) p^k w_k(p²) (10.41.11).
    """
    p = Polynomial([0.0, 1.0])
    of_u, of_w = np.zeros((2, _TERMS, _TERMS))
    u = Polynomial([1.0])
    for k in range(_TERMS):
        of_u[k, : k + 1] = u.coef[k::2]
        w = 0.5 * p * u + p**2 * u.deriv()
        if k + 1 < _TERMS:
            of_w[k + 1, : k + 1] = w.coef[k + 1 :: 2]
        u = 0.5 * p**2 * (1.0 - p**2) * u.deriv() + 0.125 * ((1.0 - 5.0 * p**2) * u).integ()
    return of_u, of_w


_U, _W = _expansions()


def _sum(coefficients: Array, order: float, radius: Array) -> Array:
    """Return Σ radius^−k Σ coefficient p^2j, with p = ν / radius."""
    square, total = (order / radius) ** 2, np.zeros_like(radius)
    for of_powers in coefficients[::-1]:
        total = total / radius + np.polynomial.polynomial.polyval(square, of_powers)
    return total


def log_scaled(order: float, x: Array) -> Array:
    """Return log(I_ν(x) x^−ν) for x ≥ 0."""
    radius = np.maximum(np.hypot(order, x), _LARGE)
    large = radius - order * np.log(order + radius) - 0.5 * np.log(2.0 * np.pi * radius)
    large += np.log(_sum(_U, order, radius))
    small = 0.25 * np.minimum(x, _LARGE) ** 2
    total = np.ones_like(small)
    for k in range(_STEPS, 0, -1):  # Σ (x²/4)^k / (k! (ν + 1) … (ν + k))
        total = 1.0 + total * small / (k * (order + k))
    series = np.log(total) - order * np.log(2.0) - gammaln(order + 1.0)
    return np.where(radius > _LARGE, large, series)


def ratio(order: float, x: Array) -> Array:
    """Return I_ν+1(x) / I_ν(x) for x ≥ 0, which rises from 0 to 1."""
    radius = np.hypot(order, x)
    found = np.zeros_like(radius)
    near = radius < _LARGE
    if near.any():
        for k in range(_STEPS, 0, -1):
            found[near] = x[near] / (2.0 * (order + k) + x[near] * found[near])
    if not near.all():
        x, radius = x[~near], radius[~near]
        found[~near] = x / (radius + order) - x / radius * _sum(_W, order, radius) / _sum(_U, order, radius)
    return found


def argument_of(order: float, found: Array, most: float) -> Array:
    """Return the x, at most `most`, whose ratio is a number found of at least 0.

    Newton's method, from the larger of two lower bounds (Amos): the ratio is concave, so that no step goes too far.
    """
    square = np.minimum(found, 1.0 - 1e-16) ** 2
    inside = 1.0 - square
    first = np.sqrt(square) * (2.0 * order + 1.0) / inside
    second = np.sqrt(square) * (order + np.sqrt(order**2 * square + (order + 2.0) ** 2 * inside)) / inside
    x = np.minimum(np.maximum(first, second), most)
    for _ in range(_MOST_STEPS):
        value = ratio(order, x)
        slope = 1.0 - value**2 - (2.0 * order + 1.0) * value / np.where(x > 0.0, x, 1.0)
        slope = np.where(x > 0.0, slope, 0.5 / (order + 1.0))
        step = np.where(slope > 0.0, (found - value) / np.where(slope > 0.0, slope, 1.0), 0.0)
        before, x = x, np.clip(x + step, 0.0, most)
        # The next step would be the square of this one, or is rounding.
        if np.all(np.abs(x - before) <= np.maximum(1e-8, 1e-15 * x) * x):
            break
    return np.asarray(x)
