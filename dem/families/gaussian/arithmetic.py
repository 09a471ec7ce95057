"""Which arithmetic a component gets: the wide product or its own frame, double or single precision.

The wide product sums terms of a certain *size* to a quadratic form of size 1 and its moments cancel by the same factor,
so its error is at most size · ε. In the component's own frame y = Uᵀ(x − μ) only the rounding of y counts, at most
√size · ε, which enters the log-density as 2 |y| δy. Both are known from the parameters before any row is read, but for
rows that are far from their component, since the error grows with y². Single precision gives them up for double.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array

# Largest error of a log-density, or of a whitened covariance, that the wide product may add in double precision.
WIDE_TOLERANCE = 1e-11
# The same for single precision, in either form; beyond it the computation is in double precision.
SINGLE_TOLERANCE = 5e-4
# By how much the error of the wide product may exceed ε times the size of its terms in y: measured 2.4.
ROUNDING = 3.0
DOUBLE, SINGLE = np.dtype(np.float64), np.dtype(np.float32)


@dataclass(frozen=True)
class Plan:
    """The arithmetic of one E-step.

    Attributes
    ----------
    wide, own : ndarray of int
        Components that share the wide product, and those with their own frame.
    dtype : dtype
        float64, or float32 where that was asked for and is good enough for all components.
    reach : ndarray of shape (n_components,)
        The y² up to which log-densities are good enough.
    """

    wide: NDArray[np.intp]
    own: NDArray[np.intp]
    dtype: np.dtype[Any]
    reach: Array

    def trusted_above(self, constant: Array) -> float:
        """Return the log-density that the likeliest component of a row has at least where single precision will do.

        `constant` are the log-densities at the means, shape (n_components,) or a number.
        """
        if self.dtype == DOUBLE:
            return -np.inf
        return float(np.max(constant - 0.5 * self.reach))

    def take(self, which: NDArray[np.intp]) -> tuple[Self, NDArray[np.intp]]:
        """Return the plan of some of the components, and where those in `wide` stood there."""
        if not len(self.own):
            return type(self)(np.arange(len(which)), self.own, self.dtype, self.reach[which]), which
        is_wide = np.isin(which, self.wide)
        places = np.searchsorted(self.wide, which[is_wide])
        return type(self)(np.flatnonzero(is_wide), np.flatnonzero(~is_wide), self.dtype, self.reach[which]), places


def plan(
    mean: Array,
    deviation: Array,
    n_features: int,
    most_features: float,
    *,
    single: bool,
    whitening: Array | None = None,
) -> Plan:
    """Choose the arithmetic of each component.

    Parameters
    ----------
    mean, deviation : ndarray of shape (n_components,)
        Roots of the sizes of the terms of the wide product: at the mean, and from there to a row in a distance of 1 σ
        in each feature. It cancels by the sum of their squares.
    n_features : int
    most_features : float
        Beyond as many features all components get their own frames (which is then faster).
    single : bool
        Whether single precision is wanted.
    whitening : ndarray of shape (2, n_components), optional
        The same roots for the product that gives y, where the wide product is one over y and not over x.

    Returns
    -------
    Plan
        Which components are wide does not depend on `single`: the M-step must know it too.
    """
    own = ((mean**2 + deviation**2) * np.finfo(DOUBLE).eps > WIDE_TOLERANCE) | (n_features > most_features)
    # The error is at most ε times constant + 2 linear |y| + square y².
    step = deviation / np.sqrt(n_features)
    constant = np.where(own, 0.0, mean**2)
    linear = np.where(own, mean, np.sqrt(ROUNDING) * mean * step)
    square = np.where(own, 2.0 * step + 1.0, ROUNDING * step**2)
    if whitening is not None:
        linear = np.where(own, 0.0, linear) + whitening[0]
        square = np.where(own, 1.0, square) + 2.0 * whitening[1] / np.sqrt(n_features)
    room = SINGLE_TOLERANCE / np.finfo(SINGLE).eps - constant
    reach = np.where(room > 0.0, (np.sqrt(linear**2 + square * np.maximum(room, 0.0)) - linear) / square, 0.0) ** 2
    # y² of a row of the component itself is near the number of features.
    good_enough = single and bool(np.all(reach >= 2.0 * n_features + 20.0))
    return Plan(np.flatnonzero(~own), np.flatnonzero(own), SINGLE if good_enough else DOUBLE, reach)
