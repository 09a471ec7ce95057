"""Weighted least squares from sums over rows: of residuals about coefficients near by, so that nothing cancels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array
from dem.statistics import Statistics

# An eigenvalue of the correlations of a design that counts as 0, and the share of Σ z² that a variance must be to count
# as one: below, rounding decides.
SINGULAR, CONSTANT = 1e-10, 1e-13
# The entry of a unit vector from which on a column has a part in it.
PART = 1e-2


@dataclass(frozen=True, eq=False)
class ResidualSums(Statistics):
    """Sums over rows of z = [1, x] and the residual r of the response, about the coefficients of an E-step.

    Attributes
    ----------
    products : ndarray of shape (n_components, q, q)
        Σγ z zᵀ.
    moments : ndarray of shape (n_components, q)
        Σγ z r.
    squares : ndarray of shape (n_components,)
        Σγ r².
    """

    products: Array
    moments: Array
    squares: Array


@dataclass(frozen=True, eq=False)
class ReferredSums(Statistics):
    """The same, with the coefficients that residuals are about: sums about others can be added.

    Attributes
    ----------
    reference : ndarray of shape (n_components, q)
    products, moments, squares
        As in `ResidualSums`.
    """

    reference: Array
    products: Array
    moments: Array
    squares: Array

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        nothing = self.products[:, :1, 0] <= 0.0
        reference = np.where(nothing, other.reference, self.reference)
        one, two = self.about(reference), other.about(reference)
        products, moments = one.products + two.products, one.moments + two.moments
        return type(self)(reference, products, moments, one.squares + two.squares)

    def __mul__(self, factor: float) -> Self:
        return type(self)(self.reference, factor * self.products, factor * self.moments, factor * self.squares)

    __rmul__ = __mul__

    def about(self, reference: Array) -> Self:
        """Return the sums of residuals about other coefficients: what is added is as small as these are near."""
        step = self.reference - reference
        moved = np.einsum("kij,kj->ki", self.products, step)
        squares = self.squares + np.vecdot(step, 2.0 * self.moments + moved)
        return type(self)(reference, self.products, self.moments + moved, np.maximum(squares, 0.0))


def solved(products: Array, moments: Array, *, intercept: bool) -> tuple[Array, Array]:
    """Return the least change of coefficients that makes residuals smallest, and by how much Σγ r² falls.

    Where a design is singular, what it does not determine stays (the change of minimum norm, with columns in units of
    their standard deviations).

    Parameters
    ----------
    products, moments : ndarray
        Of `ResidualSums`, of components that have rows.
    intercept : bool
        Whether there is one: else the first coefficient stays.

    Returns
    -------
    step : ndarray of shape (n_components, q)
    gain : ndarray of shape (n_components,)
    """
    counts, means = products[:, 0, 0], products[:, 0, 1:] / products[:, :1, 0]
    slopes = moments[:, 1:] - means * moments[:, :1] if intercept else moments[:, 1:]
    units, values, vectors = spectrum(products, intercept=intercept)
    usable = values > SINGULAR
    projected = np.where(usable, np.einsum("kij,ki->kj", vectors, slopes * units), 0.0)
    scaled = projected / np.where(usable, values, 1.0)
    step = np.zeros_like(moments)
    step[:, 1:] = units * np.einsum("kij,kj->ki", vectors, scaled)
    gain = np.vecdot(projected, scaled)
    if intercept:
        step[:, 0] = moments[:, 0] / counts - np.vecdot(means, step[:, 1:])
        gain = gain + moments[:, 0] ** 2 / counts
    return step, gain


def spectrum(products: Array, *, intercept: bool) -> tuple[Array, Array, Array]:
    """Return one over the spreads of the columns of the design, and eigenvalues and -vectors of it in these units.

    A column that is constant (without an intercept: 0) has the unit 0, and an eigenvalue of 0 belongs to it.
    """
    second = products[:, 1:, 1:]
    raw = np.diagonal(second, axis1=1, axis2=2)
    if intercept:
        means = products[:, 0, 1:] / products[:, :1, 0]
        second = second - products[:, :1, :1] * means[:, :, np.newaxis] * means[:, np.newaxis, :]
    squares = np.diagonal(second, axis1=1, axis2=2)
    varies = squares > CONSTANT * raw
    units = np.where(varies, 1.0 / np.sqrt(np.where(varies, squares, 1.0)), 0.0)
    values, vectors = np.linalg.eigh(second * units[:, :, np.newaxis] * units[:, np.newaxis, :])
    return units, values, vectors


def undetermined(products: Array, *, intercept: bool) -> NDArray[np.bool_]:
    """Return which coefficients the design of each component leaves open, shape (n_components, q − 1)."""
    _, values, vectors = spectrum(products, intercept=intercept)
    has_part = (np.abs(vectors) > PART) & (values <= SINGULAR)[:, np.newaxis, :]
    return np.asarray(has_part.any(axis=2))
