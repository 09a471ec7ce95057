"""Multivariate t components of a mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from dem.families.base import Array, Component, Support
from dem.families.gaussian import GaussianComponent, GaussianParameters, Tied
from dem.families.gaussian.covariance import occupied
from dem.families.student_t.dof import LEAST, MOST, expected_log_weight, solve
from dem.families.student_t.kernel import StudentTKernel, StudentTStatistics
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh, kept_with
from dem.statistics import CentralMoments

# Quartiles of so many rows are known to some hundredths of the distance between them, which will do for fences.
_ROWS_OF_QUARTILES = 4096
# Single precision does where ν lies between these: below, δ near a centre counts as much as ν; above, (ν + d)/2 log u
# loses what log u has lost.
_SINGLE_FROM, _SINGLE_TO = 1.0, 1000.0


@dataclass(frozen=True, eq=False)
class StudentTParameters:
    """Parameters in the frame of the fit.

    Attributes
    ----------
    gaussian : GaussianParameters
        Centres and scale matrices.
    dofs : ndarray of shape (n_components,)
        Degrees of freedom ν.
    scales : ndarray of shape (n_components,)
        The scale α of the weights u, on which no density depends; see `StudentTComponent`.
    """

    gaussian: GaussianParameters
    dofs: Array
    scales: Array


@dataclass(frozen=True, eq=False)
class StudentTComponent(Component[StudentTParameters, StudentTStatistics]):
    """Multivariate t components: x ~ N(μ, Σ/u) with a scale weight u ~ Gamma(ν/2, ν/2) of each row.

    EM takes u as missing. Its expectation (ν + d)/(ν + δ), with δ = (x − μ)ᵀ Σ⁻¹ (x − μ), is small for outliers. As in
    PX-EM the model is expanded by a scale α: x ~ N(μ, αΣ/u) with u/α ~ Gamma(ν/2, ν/2), which has the same density. The
    M-step in the larger space divides the moments by Σγu where that of the smaller one has Σγ, and takes fewer
    iterations. α stays among the parameters: then it is EM, whose free energy never falls, for statistics of E-steps
    at different parameters too. One matrix that is shared (``'tied'``) has one α.

    Given α, ν solves log(ν/2) − ψ(ν/2) = Σγu/(αΣγ) − 1 − Σγ E[log u]/Σγ + log α: from statistics, without the rows.

    Parameters
    ----------
    gaussian : GaussianComponent
        The type of the scale matrices, and the frame of reference.
    dof : float
        ν at the start.
    fit_dof : {'free', 'shared', 'fixed'}
        Whether ν is one for each component, one for all, or stays as it started.

    References
    ----------
    Peel, D. and McLachlan, G. J. (2000). Robust mixture modelling using the t distribution. Statistics and Computing
    10. Liu, C. and Rubin, D. B. (1995). ML estimation of the t distribution using EM and its extensions, ECM and ECME.
    Statistica Sinica 5. Liu, C., Rubin, D. B. and Wu, Y. N. (1998). Parameter expansion to accelerate EM: the PX-EM
    algorithm. Biometrika 85.
    """

    gaussian: GaussianComponent
    dof: float = 4.0
    fit_dof: str = "free"
    name: ClassVar[str] = "student_t"
    support: ClassVar[Support] = Support()
    marginalises: ClassVar[bool] = False

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with origin and scale of a sample (n, n_features)."""
        return replace(self, gaussian=self.gaussian.adapted_to(fenced(sample)))

    def start(self, sample: NDArray[Any], responsibilities: Array) -> StudentTParameters:
        """Return the parameters of Gaussians, with ν as the options say."""
        return self._parameters(self.gaussian.start(sample, responsibilities))

    def kernel(self, parameters: StudentTParameters, dtype: np.dtype[Any], *, exact: bool = False) -> StudentTKernel:
        """Return the arithmetic of an E-step at `parameters` for rows of `dtype`; in double precision if `exact`."""
        dofs = parameters.dofs
        exact = exact or not (_SINGLE_FROM <= dofs.min() <= dofs.max() <= _SINGLE_TO)

        def made() -> StudentTKernel:
            return StudentTKernel(
                self.gaussian.kernel(parameters.gaussian, dtype, exact=exact),
                self.gaussian.log_constants(parameters.gaussian),
                dofs,
                parameters.scales,
                parameters.gaussian.means.shape[1],
            )

        return fresh(kept_with(parameters, (self, dtype, exact), made))

    def joins(self, other: Self) -> bool:
        """Tell whether the other has Gaussians that share the products of one kernel."""
        return type(self.gaussian) is type(other.gaussian) and self.gaussian.joins(other.gaussian)

    def add_at(self, total: StudentTStatistics, which: NDArray[np.intp], part: StudentTStatistics) -> None:
        """Add, in place, the statistics of some of the components to those of all."""
        self.gaussian.add_at(total.gaussian, which, part.gaussian)
        total.weights[which] += part.weights
        total.log_weights[which] += part.log_weights

    def m_step(
        self, statistics: StudentTStatistics, counts: Array, parameters: StudentTParameters
    ) -> StudentTParameters:
        """Return the maximising parameters; where a scale matrix is shared, those that raise what is maximised."""
        there = occupied(counts) & occupied(statistics.weights)
        counts = np.where(there, counts, 1.0)
        weights, logs = statistics.weights / counts, statistics.log_weights / counts
        if self.has_prior:  # which knows of no α: it stays 1, and this is EM without the larger space
            moments, scales = self._moments(statistics, parameters), parameters.scales
            gaussian = self.gaussian.m_step(moments, np.where(there, counts, 0.0), parameters.gaussian)
        else:
            gaussian = self.gaussian.m_step(statistics.gaussian, statistics.weights, parameters.gaussian)
            scales = np.where(there, weights, parameters.scales)
        if self._tied and not self.has_prior:
            # One α for all, at the ν there were; the Gaussians have divided by the sum of the weights.
            n = counts[there]
            shares = n * parameters.dofs[there]
            scales = np.full_like(scales, shares @ weights[there] / shares.sum())
            gaussian = _inflated(gaussian, float(n @ weights[there] / (n.sum() * scales[0])))
        if self.fit_dof == "fixed":
            return StudentTParameters(gaussian, parameters.dofs, scales)
        excess = weights / scales - 1.0 - logs + np.log(scales)
        if self.fit_dof == "shared":
            excess = np.full_like(excess, counts[there] @ excess[there] / counts[there].sum())
            there = np.full_like(there, fill_value=True)
        dofs = np.where(there, solve(np.where(there, excess, 1.0), parameters.dofs), parameters.dofs)
        return StudentTParameters(gaussian, dofs, scales)

    def rebased(
        self,
        statistics: StudentTStatistics,
        counts: Array,  # noqa: ARG002
        parameters: StudentTParameters,
    ) -> StudentTStatistics:
        """Return the moments behind the statistics of an E-step."""
        return replace(statistics, gaussian=self._moments(statistics, parameters))

    def _moments(self, statistics: StudentTStatistics, parameters: StudentTParameters) -> Any:
        if isinstance(statistics.gaussian, CentralMoments):
            return statistics.gaussian
        return self.gaussian.rebased(statistics.gaussian, statistics.weights, parameters.gaussian)

    def implied(self, parameters: StudentTParameters, counts: Array, n_rows: float = math.inf) -> StudentTStatistics:
        """Return the moments behind parameters."""
        scales = parameters.scales
        # A matrix that is shared takes the scale of all; the others have one each.
        moments = scales[0] * self.gaussian.implied(parameters.gaussian, counts * (scales / scales[0]), n_rows)
        logs = counts * (expected_log_weight(parameters.dofs) + np.log(scales))
        return StudentTStatistics(moments, counts * scales, logs)

    def expected_log_density(
        self, statistics: StudentTStatistics, counts: Array, parameters: StudentTParameters
    ) -> float:
        """Return Σγ E[log p(row, u | component)] without Σγ E[log u] (d/2 − 1), which no parameter changes."""
        dofs, scales, gaussian = parameters.dofs, parameters.scales, parameters.gaussian
        half, d = 0.5 * dofs, gaussian.means.shape[1]
        of_rows = self.gaussian.log_constants(gaussian) - 0.5 * d * np.log(scales)
        of_weights = half * np.log(half / scales) - gammaln(half)
        squares = self.gaussian.squares(statistics.gaussian, gaussian)
        return float(
            counts @ (of_rows + of_weights)
            + half @ (statistics.log_weights - statistics.weights / scales)
            - 0.5 * np.sum(squares / scales[: squares.size])
        )

    @property
    def has_prior(self) -> bool:  # type: ignore[override]
        """Whether centres and scale matrices have one."""
        return self.gaussian.has_prior

    def without_prior(self) -> Self:
        """Return the same with Gaussians that have none."""
        return replace(self, gaussian=self.gaussian.without_prior())

    def log_prior(self, parameters: StudentTParameters) -> float:
        """Return that of centres and scale matrices; of ν all are as likely."""
        return self.gaussian.log_prior(parameters.gaussian)

    def monotonicity_slack(self, parameters: StudentTParameters, weights: Array, dtype: np.dtype[Any]) -> float:
        """Return what the ridge and single precision can cost, and the rounding of (ν + d)/2 log u."""
        rounding = 4.0 * np.finfo(np.float64).eps * (weights @ parameters.dofs)
        return self.gaussian.monotonicity_slack(parameters.gaussian, weights, dtype) + float(rounding)

    def sample(self, parameters: StudentTParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label; shape (n, n_features)."""
        half = 0.5 * parameters.dofs[labels]
        rows = self.gaussian.sample(parameters.gaussian, labels, rng)
        centres = self.gaussian.to_user(parameters.gaussian)["means"][labels]
        return np.asarray(centres + (rows - centres) / np.sqrt(rng.gamma(half) / half)[:, np.newaxis])

    def n_parameters(self, parameters: StudentTParameters) -> int:
        """Return the number of free parameters of centres, scale matrices and degrees of freedom."""
        vector = self.unconstrain(parameters)
        return vector.own.size + vector.shared.size

    def to_user(self, parameters: StudentTParameters) -> dict[str, NDArray[Any]]:
        """Return the parameters of the Gaussians in the user's units, and ``dofs``."""
        return {**self.gaussian.to_user(parameters.gaussian), "dofs": parameters.dofs}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> StudentTParameters:
        """Return parameters from what `to_user` gave."""
        gaussian = self.gaussian.from_user(values)
        return replace(self._parameters(gaussian), dofs=np.asarray(values["dofs"], dtype=np.float64))

    def unconstrain(self, parameters: StudentTParameters) -> Vector:
        """Return those of the Gaussians, and log ν where it is free; α changes no density, and has no part in it."""
        vector, logs = self.gaussian.unconstrain(parameters.gaussian), np.log(parameters.dofs)
        if self.fit_dof == "free":
            return Vector(np.hstack([vector.own, logs[:, np.newaxis]]), vector.shared)
        return vector if self.fit_dof == "fixed" else Vector(vector.own, np.append(vector.shared, logs[0]))

    def constrain(self, vector: Vector, parameters: StudentTParameters) -> StudentTParameters:
        """Return parameters from what `unconstrain` gave."""
        dofs, logs = parameters.dofs, None
        if self.fit_dof == "free":
            vector, logs = Vector(vector.own[:, :-1], vector.shared), vector.own[:, -1]
        elif self.fit_dof == "shared":
            vector, logs = Vector(vector.own, vector.shared[:-1]), np.full_like(dofs, vector.shared[-1])
        if logs is not None:
            dofs = np.exp(np.clip(logs, np.log(np.minimum(dofs, LEAST)), np.log(np.maximum(dofs, MOST))))
        gaussian = self.gaussian.constrain(vector, parameters.gaussian)
        return StudentTParameters(gaussian, dofs, np.ones_like(dofs))

    def collapsed(self, parameters: StudentTParameters) -> NDArray[np.bool_]:
        """Tell which scale matrices are the ridge in some direction."""
        return self.gaussian.collapsed(parameters.gaussian)

    def coordinates(self, parameters: StudentTParameters) -> Array:
        """Return those of the Gaussians, and log ν."""
        return np.column_stack([self.gaussian.coordinates(parameters.gaussian), np.log(parameters.dofs)])

    def divergence(self, parameters: StudentTParameters, pairs: NDArray[np.intp], enough: float) -> Array:
        """Return that of the Gaussians, more where ν differs: no closed form is known of the divergence."""
        logs = np.log(parameters.dofs)[pairs]
        return np.asarray(self.gaussian.divergence(parameters.gaussian, pairs, enough) + (logs[:, 0] - logs[:, 1]) ** 2)

    def reseeded(
        self, parameters: StudentTParameters, which: NDArray[np.intp], rows: Array, weights: Array
    ) -> StudentTParameters:
        """Return parameters where some components begin anew, with the ν of a start where each has its own."""
        dofs, scales = parameters.dofs.copy(), parameters.scales.copy()
        if self.fit_dof == "free":
            dofs[which] = self.dof
        if not self._tied:
            scales[which] = 1.0
        return StudentTParameters(self.gaussian.reseeded(parameters.gaussian, which, rows, weights), dofs, scales)

    @property
    def _tied(self) -> bool:
        return isinstance(self.gaussian, Tied)

    def _parameters(self, gaussian: GaussianParameters) -> StudentTParameters:
        n_components = len(gaussian.means)
        return StudentTParameters(gaussian, np.full(n_components, float(self.dof)), np.ones(n_components))


def fenced(sample: NDArray[Any]) -> Array:
    """Return a sample (n, n_features) with what lies outside of Tukey's outer fences moved onto these.

    They are three times the distance of the quartiles away from them (Tukey 1977, Exploratory data analysis). Where
    start and frame are sought, outliers shall be there, but not far away.
    """
    rows = np.asarray(sample, dtype=np.float64)
    some = rows[:: -(-len(rows) // _ROWS_OF_QUARTILES)]
    low, high = np.quantile(some, [0.25, 0.75], axis=0)
    reach = np.where(high > low, 3.0 * (high - low), np.inf)
    return np.clip(rows, low - reach, high + reach)


def _inflated(parameters: GaussianParameters, factor: float) -> GaussianParameters:
    """Return the parameters with covariances that are larger by a factor."""
    factors = parameters.precisions_cholesky / np.sqrt(factor)
    return GaussianParameters(parameters.means, parameters.covariances * factor, factors)
