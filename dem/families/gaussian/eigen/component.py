"""Gaussian components whose covariances have a structure: the E-steps of diagonal and full ones, with other M-steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.errors import FitError
from dem.families.base import NEGLIGIBLE, Array
from dem.families.gaussian.component import OwnCovariance
from dem.families.gaussian.covariance import GaussianParameters, GaussianStatistics, means_of, occupied
from dem.families.gaussian.diagonal import Diagonal
from dem.families.gaussian.eigen.structures import STRUCTURES, n_numbers
from dem.families.gaussian.full import Full
from dem.families.unconstrained import Vector
from dem.statistics import CentralMoments

# How far covariances may be from their structure, relative to the largest.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Structured(OwnCovariance):
    """Covariances λ D A Dᵀ whose volumes λ, shapes A and orientations D may be equal; see `structures`.

    The ridge is added to the variances of the rows before a structure is sought in them: `reg_covar` in each feature
    for each row, which for the four types of scikit-learn is what they do.

    Parameters
    ----------
    structure : str
        A name of `STRUCTURES`.
    """

    structure: str = ""

    @property
    def isotropic(self) -> bool:
        """Whether rows may only be scaled by one number for all features."""
        return STRUCTURES[self.structure].isotropic

    def m_step(
        self, statistics: GaussianStatistics | CentralMoments, counts: Array, parameters: GaussianParameters
    ) -> GaussianParameters:
        """Return the maximising parameters; a fixed point begins at `parameters`, and each of its rounds is better."""
        moments: CentralMoments = (
            statistics if isinstance(statistics, CentralMoments) else self.rebased(statistics, counts, parameters)
        )
        there = occupied(moments.counts)
        counts = np.where(there, moments.counts, NEGLIGIBLE * moments.counts.sum())
        # A component without rows has as good as none, of the covariance it had: its own share of the structure stays.
        n, own = self._spread(counts), self._spread(there)
        ridge = self._as_scatter(self._ridge(parameters.means.shape[1]))
        scatter = np.where(own, moments.scatter + n * ridge, n * parameters.covariances)
        return self.structured(means_of(moments, parameters), scatter, counts, parameters.covariances)

    def structured(
        self, means: Array, scatter: Array, counts: Array, before: Array | None = None
    ) -> GaussianParameters:
        """Return the likeliest parameters of this structure, given the scatter of all rows with their ridge."""
        return self.with_covariances(means, STRUCTURES[self.structure].covariances(scatter, counts, before))

    def of_sample(self, moments: CentralMoments) -> GaussianParameters:
        """Return the parameters of a start, from the moments of a sample."""
        means, counts = moments.means, moments.counts
        ridge = self._as_scatter(self._ridge(means.shape[1]))
        return self.structured(means, moments.scatter + self._spread(counts) * ridge, counts)

    def reseeded(
        self, parameters: GaussianParameters, which: NDArray[np.intp], rows: Array, weights: Array
    ) -> GaussianParameters:
        """Return parameters where some components begin at rows, with what the others leave free."""
        found = super().reseeded(parameters, which, rows, weights)
        counts = np.where(weights > 0.0, weights, NEGLIGIBLE)
        scatter = self._spread(counts) * found.covariances
        return self.structured(found.means, scatter, counts, found.covariances)

    def likest(self, covariances: Array) -> tuple[Array, Array]:
        """Return covariances of this structure, the likest to those given, and Cholesky factors of the precisions."""
        means, counts = np.zeros(covariances.shape[:2]), np.ones(len(covariances))
        found = self.structured(means, covariances, counts)
        return found.covariances, found.precisions_cholesky

    def admits(self, covariances: Array) -> bool:
        """Tell whether covariances have this structure."""
        counts, means = np.ones(len(covariances)), np.zeros(covariances.shape[:2])
        nearest = self.structured(means, covariances, counts, covariances).covariances
        return bool(np.abs(nearest - covariances).max() <= _ROUNDING * np.abs(covariances).max())

    def monotonicity_slack(self, parameters: GaussianParameters, weights: Array, dtype: np.dtype[Any]) -> float:
        """Return twice what it is where each component has a covariance of its own: what they share may bend less."""
        return 2.0 * super().monotonicity_slack(parameters, weights, dtype)

    def n_parameters(self, parameters: GaussianParameters) -> int:
        """Return the number of free parameters of means and covariances."""
        return parameters.means.size + n_numbers(self.structure, *parameters.means.shape)

    def _spread(self, of_components: NDArray[Any]) -> NDArray[Any]:
        """Return one number for each component in the dimensions of their scatter."""
        raise NotImplementedError

    def _as_scatter(self, ridge: Array) -> Array:
        """Return the ridge (n_features,) as the scatter of one row."""
        raise NotImplementedError


class Aligned(Structured, Diagonal):
    """Axes along the features: EII, EEI, VEI and EVI.

    Logarithms of the variances that have the structure are a subspace, which SQUAREM does not leave.
    """

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return the likest variances and 1/σ."""
        return self.likest(super().from_precisions(precisions)[0])

    def _spread(self, of_components: NDArray[Any]) -> NDArray[Any]:
        return of_components[:, np.newaxis]

    def _as_scatter(self, ridge: Array) -> Array:
        return ridge


class Oriented(Structured, Full):
    """Axes of any direction: VEE, EVE, VVE, EEV, VEV and EVV."""

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return the likest covariances and the Cholesky factors of their precisions."""
        return self.likest(super().from_precisions(precisions)[0])

    def constrain(self, vector: Vector, parameters: GaussianParameters) -> GaussianParameters:
        """Return the parameters of this structure that are likest to those that a vector says, or else those given."""
        found = super().constrain(vector, parameters)
        counts = np.ones(len(found.means))
        try:
            return self.structured(found.means, found.covariances, counts, parameters.covariances)
        except (FitError, np.linalg.LinAlgError):
            return parameters

    def _spread(self, of_components: NDArray[Any]) -> NDArray[Any]:
        return of_components[:, np.newaxis, np.newaxis]

    def _as_scatter(self, ridge: Array) -> Array:
        return np.diag(ridge)
