"""Von Mises–Fisher components: directions, as rows of length 1 in any number of dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dem.families import bessel
from dem.families.base import Array
from dem.families.exponential_family import ExponentialFamily
from dem.families.support import Support
from dem.families.von_mises import MOST


@dataclass(frozen=True)
class UnitLength(Support):
    """Rows of length 1, but for the rounding of single precision. Others are marked in their first column."""

    description: str = "of length 1 (within 1e-5); divide each row by its length"
    tolerance: float = 1e-5
    judged: ClassVar[str] = "rows"

    def outside(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which values are not finite, and the first of each row whose length is another."""
        with np.errstate(invalid="ignore", over="ignore"):
            off = ~(np.abs(lengths(rows) - 1.0) <= self.tolerance)
        if not off.any():  # nor is any value other than finite
            return np.zeros(rows.shape, dtype=bool)
        outside = super().outside(rows)
        outside[:, 0] |= off & ~outside.any(axis=1)
        return outside

    def shown(self, rows: NDArray[Any], places: NDArray[np.intp], columns: NDArray[np.intp]) -> Array:
        """Return the lengths of rows whose values are finite."""
        values = super().shown(rows, places, columns)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(np.isfinite(values), lengths(rows[places]), values)


def lengths(rows: NDArray[Any]) -> Array:
    """Return the lengths of rows, shape (n,)."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)))


def _divided(vectors: Array) -> tuple[Array, Array]:
    """Return directions of vectors, (n, d), any where they are 0, and lengths, (n, 1)."""
    size = lengths(vectors)[:, np.newaxis]
    first = np.eye(1, vectors.shape[1])
    return np.where(size > 0.0, vectors / np.where(size > 0.0, size, 1.0), first), size


@dataclass(frozen=True)
class VonMisesFisherComponent(ExponentialFamily):
    """Rows x of length 1 have the density p(x) = C exp(κ μ·x) on the sphere, with mean direction μ and concentration κ.

    C = κ^ν / ((2π)^(ν+1) I_ν(κ)) with ν = d/2 − 1. T(x) = x. The M-step takes the direction of the mean row for μ, and
    the κ whose mean resultant length is that row's length.

    References
    ----------
    Banerjee, A., Dhillon, I. S., Ghosh, J. and Sra, S. (2005). Clustering on the unit hypersphere using von
    Mises–Fisher distributions. Journal of Machine Learning Research 6. Wood, A. T. A. (1994). Simulation of the von
    Mises Fisher distribution. Communications in Statistics: Simulation and Computation 23.
    """

    name: ClassVar[str] = "von_mises_fisher"
    parameters: ClassVar[tuple[str, ...]] = ("means", "concentrations")
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((-np.inf, np.inf), (0.0, MOST))
    support: ClassVar[UnitLength] = UnitLength()
    marginalises: ClassVar[bool] = False

    def sufficient_statistics(self, rows: Array) -> Array:
        """Return x, of length 1 in double precision too."""
        return rows / lengths(rows)[:, np.newaxis]

    def owners(self, n_features: int) -> NDArray[np.intp]:
        """Return the features as they are."""
        return np.arange(n_features)

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return κμ, and −log C."""
        means, concentrations = parameters[:, :-1], parameters[:, -1:]
        order = 0.5 * means.shape[1] - 1.0
        return concentrations * means, (order + 1.0) * np.log(2.0 * np.pi) + bessel.log_scaled(order, concentrations)

    def mean_parameters(self, parameters: Array) -> Array:
        """Return μ, as long as the mean resultant."""
        means, concentrations = parameters[:, :-1], parameters[:, -1:]
        return means * bessel.ratio(0.5 * means.shape[1] - 1.0, concentrations)

    def from_mean_parameters(self, means: Array) -> Array:
        """Return direction and concentration of a mean row; where it is 0 any direction will do."""
        directions, resultants = _divided(means)
        return np.hstack([directions, bessel.argument_of(0.5 * means.shape[1] - 1.0, resultants, MOST)])

    def unconstrained(self, parameters: Array) -> Array:
        """Return κμ, which may be any numbers."""
        return self.natural_parameters(parameters)[0]

    def constrained(self, numbers: Array) -> Array:
        """Return parameters from κμ."""
        directions, concentrations = _divided(numbers)
        return np.hstack([directions, np.minimum(concentrations, MOST)])

    def collapsed(self, parameters: Array) -> NDArray[np.bool_]:
        """Tell which components are one direction: their density has no bound."""
        return np.asarray(parameters[:, -1] >= 0.5 * MOST)

    def n_parameters(self, parameters: Array) -> int:
        """Return d − 1 numbers for each direction, and its concentration."""
        return int(len(parameters) * (parameters.shape[1] - 1))

    def user_shapes(self, n_components: int, n_features: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of directions and concentrations."""
        return {"means": (n_components, n_features), "concentrations": (n_components,)}

    def to_user(self, parameters: Array) -> dict[str, NDArray[Any]]:
        """Return directions and concentrations."""
        return {"means": parameters[:, :-1], "concentrations": parameters[:, -1]}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> Array:
        """Return parameters from what `to_user` gave."""
        return np.column_stack([np.asarray(values[name], dtype=np.float64) for name in self.parameters])

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label (Wood 1994): how far along the mean, by rejection, then a direction across."""
        means, concentrations = parameters[labels, :-1], parameters[labels, -1]
        more = means.shape[1] - 1.0
        b = more / (2.0 * concentrations + np.hypot(2.0 * concentrations, more))
        best = 2.0 * b / (1.0 + b)
        short = np.empty(len(labels))  # 1 − cosine of the angle to the mean, whose most probable value is `best`
        left = np.arange(len(labels))
        while len(left):
            z, own = rng.beta(0.5 * more, 0.5 * more, size=len(left)), best[left]
            short[left] = 2.0 * b[left] * z / (1.0 - (1.0 - b[left]) * z)
            value = concentrations[left] * (own - short[left])
            value += more * np.log((own + (1.0 - own) * short[left]) / (own * (2.0 - own)))
            left = left[value < -rng.exponential(size=len(left))]
        across = rng.normal(size=means.shape)
        across -= np.einsum("ij,ij->i", across, means)[:, np.newaxis] * means
        across /= lengths(across)[:, np.newaxis]
        rows = (1.0 - short)[:, np.newaxis] * means + np.sqrt(short * (2.0 - short))[:, np.newaxis] * across
        return np.asarray(rows / lengths(rows)[:, np.newaxis])
