"""Moments of rows and their factors that add across E-steps: each row regressed on its factors, nothing cancels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from dem.families.base import Array
from dem.families.factor_analyzer.parameters import times
from dem.statistics import Statistics


@dataclass(frozen=True, eq=False)
class FactorMoments(Statistics):
    """Expected moments of rows x and factors z as the regression of x on z, (n_components, …) each.

    ``a + b`` joins two groups of rows: what their regressions differ by adds to the residuals, squares only. Moments
    Σγ(x − x̄)² less what the factors explain would lose the digits that small noise has.

    Attributes
    ----------
    counts : ndarray of shape (n_components,)
        Σγ.
    means, factor_means : ndarray of shape (n_components, n_features) and (n_components, n_factors)
        Of x and E[z].
    spread : ndarray of shape (n_components, n_factors, n_factors)
        Σγ E[(z − z̄)(z − z̄)ᵀ].
    slopes : ndarray of shape (n_components, n_features, n_factors)
        Of the regression of x on z.
    residuals : ndarray of shape (n_components, n_features)
        Σγ E[(x − x̄ − slope (z − z̄))²].
    """

    counts: Array
    means: Array
    factor_means: Array
    spread: Array
    slopes: Array
    residuals: Array

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        counts = self.counts + other.counts
        share = other.counts / np.where(counts > 0.0, counts, 1.0)
        between = self.counts * share
        step, turn = other.means - self.means, other.factor_means - self.factor_means
        # What the rows of `other`, and the step between the means, differ from the slopes of `self` by.
        apart = step - times(self.slopes, turn)
        spread = self.spread + other.spread + between[:, np.newaxis, np.newaxis] * outer(turn, turn)
        cross = (other.slopes - self.slopes) @ other.spread + outer(between[:, np.newaxis] * apart, turn)
        change = solved(cross, spread)
        slopes = self.slopes + change
        residuals = self.residuals + other.residuals
        residuals = residuals + squares(change, self.spread) + squares(other.slopes - slopes, other.spread)
        residuals = residuals + between[:, np.newaxis] * (apart - times(change, turn)) ** 2
        means = self.means + share[:, np.newaxis] * step
        return type(self)(counts, means, self.factor_means + share[:, np.newaxis] * turn, spread, slopes, residuals)

    def __mul__(self, factor: float) -> Self:
        return type(self)(
            factor * self.counts, self.means, self.factor_means, factor * self.spread, self.slopes,
            factor * self.residuals,
        )  # fmt: skip

    __rmul__ = __mul__


def outer(a: Array, b: Array) -> Array:
    """Return a bᵀ of each pair of vectors, (n_components, …)."""
    return np.asarray(a[:, :, np.newaxis] * b[:, np.newaxis])


def squares(slopes: Array, spread: Array) -> Array:
    """Return the diagonals of slope · spread · slopeᵀ, shape (n_components, n_features)."""
    return np.asarray(np.vecdot(slopes @ spread, slopes))


def solved(cross: Array, spread: Array) -> Array:
    """Return cross · spread⁻¹, (n_components, n_features, n_factors); 0 where there is no spread."""
    nothing = ~(np.trace(spread, axis1=1, axis2=2) > 0.0)
    whole = np.where(nothing[:, np.newaxis, np.newaxis], np.eye(spread.shape[1]), spread)
    return np.asarray(np.linalg.solve(whole, cross.swapaxes(1, 2)).swapaxes(1, 2))
