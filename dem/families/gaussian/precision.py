"""Which arithmetic a component gets: the wide product or its own frame, double or single precision.

The wide product sums terms of a certain *size* to a quadratic form of size 1 and its moments cancel by the same factor,
so its error is at most size · ε. In the component's own frame y = Uᵀ(x − μ) only the rounding of y counts, at most
√size · ε, which enters the log-density as 2 |y| δy. Both are known from the parameters before any row is read.
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
    """

    wide: NDArray[np.intp]
    own: NDArray[np.intp]
    dtype: np.dtype[Any]

    def restricted(self, which: NDArray[np.intp]) -> tuple[Self, NDArray[np.intp]]:
        """Return the plan of some of the components, and where those in `wide` stood there."""
        if not len(self.own):
            return type(self)(np.arange(len(which)), self.own, self.dtype), which
        is_wide = np.isin(which, self.wide)
        places = np.searchsorted(self.wide, which[is_wide])
        return type(self)(np.flatnonzero(is_wide), np.flatnonzero(~is_wide), self.dtype), places


def plan(size: Array, n_features: int, most_features: float, *, single: bool) -> Plan:
    """Choose the arithmetic of each component.

    Parameters
    ----------
    size : ndarray of shape (n_components,)
        By how much the wide product cancels.
    n_features : int
    most_features : float
        Beyond as many features all components get their own frames (which is then faster).
    single : bool
        Whether single precision is wanted.

    Returns
    -------
    Plan
        Which components are wide does not depend on `single`: the M-step must know it too.
    """
    own = (size * np.finfo(DOUBLE).eps > WIDE_TOLERANCE) | (n_features > most_features)
    error = np.where(own, 2.0 * np.sqrt(n_features * size), size) * np.finfo(SINGLE).eps
    good_enough = single and bool(np.all(error <= SINGLE_TOLERANCE))
    return Plan(np.flatnonzero(~own), np.flatnonzero(own), SINGLE if good_enough else DOUBLE)
