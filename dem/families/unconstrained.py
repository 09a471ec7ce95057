"""Parameters as unconstrained vectors: any numbers are valid parameters, so that they can be extrapolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from dem.statistics import Statistics

if TYPE_CHECKING:
    from dem.families.base import Array


@dataclass(frozen=True, eq=False)
class Vector(Statistics):
    """Unconstrained form of the parameters of a mixture; a vector space.

    Attributes
    ----------
    own : ndarray of shape (n_components, p)
        What each component has for itself.
    shared : ndarray of shape (q,)
        What all components have in common.
    """

    own: Array
    shared: Array

    def __sub__(self, other: Self) -> Self:
        return self + (-1.0) * other

    @property
    def norm(self) -> float:
        """Euclidean length."""
        return float(np.sqrt(np.sum(self.own**2) + np.sum(self.shared**2)))

    @property
    def largest(self) -> float:
        """Largest absolute value; NaN if there is any."""
        return float(max(np.abs(part).max(initial=0.0) for part in (self.own, self.shared)))

    def differs(self, other: Vector, tolerance: float) -> bool:
        """Tell whether two parameters differ by more than `tolerance`, whatever the order of the components.

        A number x may differ by `tolerance` · (1 + |x|). The components are paired so that the sum of their squared
        distances is smallest.
        """
        if self.own.shape != other.own.shape or not (np.isfinite(self.largest) and np.isfinite(other.largest)):
            return True
        from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - 17 MB that workers do without

        # ‖a − b‖² = ‖a‖² − 2 a·b + ‖b‖², of which the pairing decides only about a·b.
        mine, theirs = linear_sum_assignment(self.own @ other.own.T, maximize=True)
        pairs = ((self.own[mine], other.own[theirs]), (self.shared, other.shared))
        return any(bool(np.any(np.abs(a - b) > tolerance * (1.0 + np.abs(a)))) for a, b in pairs)
