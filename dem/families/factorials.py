"""Logarithms of factorials of counts, from a table where counts are small, as most are; densities of huge counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from dem.families.base import Array
from dem.sparse import SparseRows

# What the table has room for. A look-up takes a tenth of the time of `gammaln`, and has its values.
_TABLE = gammaln(np.arange(1.0, 1025.0))
# Of larger counts η·T(x), A and log h(x) are so large that their sum lacks digits: 1e-7 nats there.
FAR = 2.0**24
# Below this |u|, u − log(1 + u) comes from its series.
_SMALL = 0.01


def log_factorials(x: Array) -> Array:
    """Return log x! = log Γ(x + 1), of the shape of `x`.

    >>> log_factorials(np.array([0.0, 3.0])).round(4).tolist()
    [0.0, 1.7918]
    >>> log_factorials(np.array([3.0, 5000.0])).round(4).tolist()  # more than the table holds
    [1.7918, 37591.1435]
    """
    if x.size and x.min() >= 0.0 and x.max() < len(_TABLE):  # neither is, where a value is NaN
        whole = x.astype(np.intp)
        if (whole == x).all():
            return np.asarray(_TABLE[whole])
    return np.asarray(gammaln(x + 1.0))


def far_rows(counts: Array | SparseRows) -> NDArray[np.intp]:
    """Return the rows in which there is a count above `FAR`."""
    if isinstance(counts, SparseRows):
        above = counts.data > FAR
        return np.unique(counts.places[above]) if above.any() else np.empty(0, dtype=np.intp)
    above = counts > FAR
    return np.flatnonzero(above.any(axis=1)) if above.any() else np.empty(0, dtype=np.intp)


def log_poisson(x: Array, mean: Array) -> Array:
    """Return x log m − m − log x! of a count x and a mean m > 0, or 0 where both are, to all digits.

    Large counts come from the saddle point, −½ log 2πx − (Stirling's rest) − (x log(x/m) + m − x), whose terms are as
    small as their sum. Binomial and multinomial densities follow: Σ_j log_poisson(x_j, n p_j) − log_poisson(n, n).

    References
    ----------
    Loader, C. (2000). Fast and accurate computation of binomial probabilities.

    >>> float(log_poisson(np.array([1e14]), np.array([1e14]))[0].round(8))
    -17.03703418
    """
    near, far = np.minimum(x, len(_TABLE) - 1.0), np.maximum(x, float(len(_TABLE)))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        u = (mean - far) / far
        deviance = np.where(u > -0.5, far * excess(np.maximum(u, -0.5)), far * np.log(far / mean) + (mean - far))
        large = -0.5 * np.log(2.0 * np.pi * far) - stirling(far) - deviance
        return np.where(x < len(_TABLE), xlogy(near, mean) - mean - log_factorials(near), large)


def stirling(y: Array) -> Array:
    """Return log y! − (y + ½) log y + y − ½ log 2π, of large y."""
    return np.asarray((1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * y**2)) / y**2) / y)


def excess(u: Array) -> Array:
    """Return u − log(1 + u) to all digits, for u of at least −½."""
    small = np.clip(u, -_SMALL, _SMALL)
    # u²/2 − u³/3 + u⁴/4 − …
    series = np.polynomial.polynomial.polyval(small, [(-1.0) ** n / n if n > 1 else 0.0 for n in range(10)])
    return np.where(np.abs(u) < _SMALL, series, u - np.log1p(u))
