"""Gaussian components with full, tied, diagonal or spherical covariance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Component, Kernel, Support
from dem.families.gaussian.arithmetic import SINGLE_TOLERANCE
from dem.families.gaussian.covariance import GaussianParameters, GaussianStatistics, Shape
from dem.families.gaussian.diagonal import Diagonal, Spherical
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.full import Full
from dem.families.gaussian.tied import Tied
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh, kept_with
from dem.statistics import CentralMoments

__all__ = ["COVARIANCE_TYPES", "Frame", "GaussianComponent", "GaussianParameters", "GaussianStatistics"]

COVARIANCE_TYPES: Mapping[str, Shape] = {
    "full": Full(),
    "tied": Tied(),
    "diag": Diagonal(),
    "spherical": Spherical(),
}


@dataclass(frozen=True, eq=False)
class GaussianComponent(Component[GaussianParameters, GaussianStatistics]):
    """Multivariate normal components.

    Parameters
    ----------
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float
        Added to the variances in every M-step, in the user's squared units.
    frame : Frame, optional
        Origin and scale in which all arithmetic runs; from `adapted_to`.
    dtype : {'float32', 'float64'}, optional
        Precision of the arithmetic; that of the data when left out. Sums are double in any case.
    """

    covariance_type: str = "full"
    reg_covar: float = 1e-6
    frame: Frame | None = None
    dtype: str | None = None
    name: ClassVar[str] = "gaussian"
    support: ClassVar[Support] = Support()

    @property
    def shape(self) -> Shape:
        """The arithmetic of this covariance type."""
        return COVARIANCE_TYPES[self.covariance_type]

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with origin and scale of a sample (n, n_features)."""
        return replace(self, frame=Frame.of(sample, isotropic=self.shape.isotropic))

    def around(self, means: Array, covariances: Array) -> Self:
        """Return this component with a frame that suits given parameters (in the user's units)."""
        n_features = means.shape[1]
        within = self.shape.variances(covariances, n_features).mean(axis=0)
        frame = Frame.about(means.mean(axis=0), within + means.var(axis=0), isotropic=self.shape.isotropic)
        return replace(self, frame=frame)

    def from_precisions(self, precisions: Array) -> dict[str, Array]:
        """Return ``covariances`` and ``precisions_cholesky`` for given precisions."""
        covariances, factors = self.shape.from_precisions(precisions)
        return {"covariances": covariances, "precisions_cholesky": factors}

    def start(self, sample: NDArray[Any], responsibilities: Array) -> GaussianParameters:
        """Return parameters from a sample and its responsibilities."""
        frame = self._frame(sample.shape[1])
        return self.shape.start(frame.apply(sample).T, responsibilities, self._ridge(frame), frame)

    def kernel(
        self, parameters: GaussianParameters, dtype: np.dtype[Any], *, exact: bool = False
    ) -> Kernel[GaussianStatistics]:
        """Return the arithmetic of an E-step at `parameters` for rows of `dtype`; in double precision if `exact`."""
        frame, single = self._frame(parameters.means.shape[1]), self._single(dtype) and not exact
        return fresh(kept_with(parameters, (self, single), lambda: self.shape.kernel(parameters, frame, single=single)))

    def joins(self, other: Self) -> bool:
        """Tell whether the other has the same frame, precision and covariance type, and that is not shared."""
        mine, theirs = self.frame, other.frame
        same_frame = mine is theirs or (
            mine is not None
            and theirs is not None
            and np.array_equal(mine.origin, theirs.origin)
            and np.array_equal(mine.scale, theirs.scale)
        )
        alike = (self.covariance_type, self.dtype) == (other.covariance_type, other.dtype)
        return same_frame and alike and self.covariance_type != "tied"

    def add_at(self, total: GaussianStatistics, which: NDArray[np.intp], part: GaussianStatistics) -> None:
        """Add the statistics of some of the components; tied ones have one second moment in common."""
        if self.covariance_type != "tied":
            return super().add_at(total, which, part)
        total.first[which] += part.first
        total.second[...] += part.second
        return None

    def m_step(
        self, statistics: GaussianStatistics | CentralMoments, counts: Array, parameters: GaussianParameters
    ) -> GaussianParameters:
        """Return the maximising parameters, from the statistics of an E-step at `parameters` or from rebased ones."""
        frame = self._frame(parameters.means.shape[1])
        if isinstance(statistics, CentralMoments):
            return self.shape.m_step_of_moments(statistics, parameters, self._ridge(frame))
        return self.shape.m_step(statistics, counts, parameters, self._ridge(frame))

    def rebased(self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> CentralMoments:
        """Return counts, means and scatter in the frame of the fit."""
        return self.shape.rebased(statistics, counts, parameters)

    def implied(self, parameters: GaussianParameters, weights: Array) -> CentralMoments:
        """Return the moments per row from which the M-step makes `parameters`."""
        ridge = self._ridge(self._frame(parameters.means.shape[1]))
        return self.shape.implied(parameters, weights, ridge)

    def expected_log_density(self, statistics: CentralMoments, counts: Array, parameters: GaussianParameters) -> float:
        """Return Σγ log p(row | component) over rows and components."""
        constant = self.shape.log_constants(parameters, self._frame(parameters.means.shape[1]))
        return float(counts @ constant - 0.5 * np.sum(self.shape.squares(statistics, parameters)))

    def monotonicity_slack(self, parameters: GaussianParameters, weights: Array, dtype: np.dtype[Any]) -> float:
        """Return the most that `reg_covar` and single precision can cost the log-likelihood per row."""
        ridge = self._ridge(self._frame(parameters.means.shape[1]))
        rounding = SINGLE_TOLERANCE if self._single(dtype) else 0.0
        return self.shape.monotonicity_slack(parameters, weights, ridge) + rounding

    def sample(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label; shape (n, n_features)."""
        frame = self._frame(parameters.means.shape[1])
        return self.shape.sample(parameters, labels, rng) * frame.scale + frame.origin

    def n_parameters(self, parameters: GaussianParameters) -> int:
        """Return the number of free parameters of means and covariances."""
        return parameters.means.size + self.shape.n_covariance_parameters(*parameters.means.shape)

    def to_user(self, parameters: GaussianParameters) -> dict[str, NDArray[Any]]:
        """Return ``means``, ``covariances`` and ``precisions_cholesky`` in the user's units."""
        frame = self._frame(parameters.means.shape[1])
        return {
            "means": parameters.means * frame.scale + frame.origin,
            "covariances": self.shape.rescale(parameters.covariances, frame.scale, 2),
            "precisions_cholesky": self.shape.rescale(parameters.precisions_cholesky, frame.scale, -1),
        }

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> GaussianParameters:
        """Return parameters from what `to_user` gave."""
        means = np.asarray(values["means"], dtype=np.float64)
        frame = self._frame(means.shape[1])
        covariances = np.asarray(values["covariances"], dtype=np.float64)
        factors = np.asarray(values["precisions_cholesky"], dtype=np.float64)
        return GaussianParameters(
            (means - frame.origin) / frame.scale,
            self.shape.rescale(covariances, 1.0 / frame.scale, 2),
            self.shape.rescale(factors, 1.0 / frame.scale, -1),
        )

    def unconstrain(self, parameters: GaussianParameters) -> Vector:
        """Return means and log-Cholesky factors of the precisions, in the frame."""
        return self.shape.unconstrain(parameters)

    def constrain(self, vector: Vector, parameters: GaussianParameters) -> GaussianParameters:
        """Return parameters from what `unconstrain` gave."""
        return self.shape.constrain(vector, parameters.means.shape[1])

    def _single(self, dtype: np.dtype[Any]) -> bool:
        """Tell whether rows of `dtype` are computed in single precision, accuracy permitting."""
        if self.dtype is None:
            return dtype.kind == "f" and dtype.itemsize <= 4
        return self.dtype == "float32"

    def _frame(self, n_features: int) -> Frame:
        return self.frame if self.frame is not None else Frame.identity(n_features)

    def _ridge(self, frame: Frame) -> Array:
        """Return `reg_covar` in squared units of the frame, shape (n_features,)."""
        return self.reg_covar / frame.scale**2
