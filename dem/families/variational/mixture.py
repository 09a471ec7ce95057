"""Gaussian mixtures whose parameters have a posterior: variational Bayes on the statistics of EM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dem.families.base import NEGLIGIBLE, Array, RowBlock
from dem.families.gaussian import GaussianComponent, GaussianParameters, GaussianStatistics
from dem.families.listed import RowLists
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters, MixtureStatistics, RebasedStatistics
from dem.families.status import component_status
from dem.families.truncation import Candidates
from dem.families.unconstrained import Vector
from dem.families.variational.normal_wishart import NormalWishart, is_tied
from dem.families.variational.weights import Dirichlet, WeightPrior
from dem.statistics import CentralMoments

# As scikit-learn has it: what is added to the counts of a start.
_NO_ROWS = 10 * float(np.finfo(np.float64).eps)
# A variance, in squares of the data's, that a start may have for a while.
_ROUNDING = 1e-12
_ROUNDING_OF_DIVERGENCES = 64 * float(np.finfo(np.float64).eps)


def _nothing() -> Array:
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class VariationalParameters(MixtureParameters[GaussianParameters]):
    """A posterior q(π) Π q(μ_k, Λ_k), as the parameters of its expected densities.

    Attributes
    ----------
    weights, components, candidates
        E[π]; m and (νW)⁻¹ of each component, as means and covariances; see `MixtureParameters`.
    counts : ndarray of shape (n_components,)
        Σγ: what the posterior adds to the prior. All else of it follows from these.
    expected_logs : ndarray of shape (n_components,)
        E[log π] and what else an E-step adds to the log-densities of the components; exp of it sums to less than 1.
    """

    counts: Array = field(default_factory=_nothing)
    expected_logs: Array = field(default_factory=_nothing)

    @property
    def log_weights(self) -> Array:
        """What an E-step adds to log-densities, shape (n_components, 1)."""
        return self.expected_logs[:, np.newaxis]


@dataclass(frozen=True, eq=False)
class VariationalMixture(Mixture[GaussianParameters, GaussianStatistics]):
    """Mean-field variational Bayes of a Gaussian mixture.

    The free energy of a posterior q(z) q(π) Π q(μ_k, Λ_k) is the evidence lower bound

        Σ_n log Σ_k exp(E[log π_k + log N(x_n | μ_k, Λ_k⁻¹)]) − KL(q(π) ‖ p(π)) − Σ_k KL(q(μ_k, Λ_k) ‖ p(μ_k, Λ_k))

    after an E-step, whose densities are those of Gaussians with the precision νW and weights that do not sum to 1:
    kernels and statistics are those of `GaussianComponent`. The M-step adds the moments of the rows to those of the
    prior. `reg_covar` counts as a variance that each row has besides.

    Parameters
    ----------
    weight_prior : WeightPrior
    prior : NormalWishart
    """

    weight_prior: WeightPrior = field(default_factory=lambda: Dirichlet(1.0))
    prior: NormalWishart = field(default_factory=lambda: NormalWishart(1.0, 0.0, np.empty(0), 1.0))

    # Which is maximised, and that there always is a prior.
    criterion = "evidence lower bound"
    has_prior = True

    @property
    def gaussian(self) -> GaussianComponent:
        """The components."""
        return cast("GaussianComponent", self.component)

    def start(
        self, sample: NDArray[Any], responsibilities: Array, weights: Array | None = None
    ) -> VariationalParameters:
        """Return the posterior of a sample's rows, its responsibilities and weights."""
        if weights is not None:
            responsibilities = responsibilities * weights[:, np.newaxis]
        gaussian, counts = self.gaussian, responsibilities.sum(axis=0) + _NO_ROWS
        if not gaussian.reg_covar:  # a single row has no variance, and with a prior it needs none
            largest = 1.0 if gaussian.frame is None else gaussian.frame.scale.max()
            gaussian = replace(gaussian, reg_covar=_ROUNDING * largest**2)
        start, total = gaussian.start(sample, responsibilities), counts.sum()
        return self._posterior(total * gaussian.implied(start, counts / total), start)

    def of_counts(
        self, components: GaussianParameters, counts: Array, candidates: Candidates | RowLists | None = None
    ) -> VariationalParameters:
        """Return the posterior with m and (νW)⁻¹ of the components, after so many rows."""
        logs = self.weight_prior.expected_logs(counts) + self.prior.offsets(self.gaussian, counts)
        return VariationalParameters(self.weight_prior.means(counts), components, candidates, counts, logs)

    def m_step(
        self,
        statistics: MixtureStatistics[GaussianStatistics] | RebasedStatistics,
        parameters: MixtureParameters[GaussianParameters],
    ) -> VariationalParameters:
        """Return the posterior that maximises the bound."""
        moments: Any = statistics.components
        if isinstance(statistics, MixtureStatistics):
            moments = self.component.rebased(moments, statistics.counts, parameters.components)
        return self._posterior(moments, parameters.components, parameters.candidates)

    def _posterior(
        self, moments: CentralMoments, parameters: GaussianParameters, candidates: Candidates | RowLists | None = None
    ) -> VariationalParameters:
        """Return the posterior of rows by their moments."""
        joint = self.prior.moments(self.gaussian, len(moments.counts)) + moments
        dofs = self.prior.dofs(self.gaussian, moments.counts)
        components = self.component.m_step(replace(joint, counts=dofs), dofs, parameters)
        return self.of_counts(components, moments.counts, candidates)

    def log_prior(self, parameters: MixtureParameters[GaussianParameters]) -> float:
        """Return −KL(posterior ‖ prior)."""
        counts = _of(parameters).counts
        of_components = self.prior.divergence(self.gaussian, parameters.components, counts)
        return -(self.weight_prior.divergence(counts) + of_components)

    def _of_rows(self, statistics: RebasedStatistics, parameters: MixtureParameters[GaussianParameters]) -> float:
        """Return the free energy without the divergences."""
        counts = np.where(statistics.counts > NEGLIGIBLE, statistics.counts, 0.0)
        expected = self.component.expected_log_density(statistics.components, counts, parameters.components)
        return statistics.entropy + float(counts @ _of(parameters).expected_logs) + expected

    def implied(self, parameters: MixtureParameters[GaussianParameters], n_rows: float = math.inf) -> RebasedStatistics:
        """Return the statistics per row, of as many rows as the posterior has counted, that it comes from."""
        del n_rows  # the posterior knows
        components, counts = parameters.components, _of(parameters).counts
        prior, dofs = self.prior.moments(self.gaussian, len(counts)), self.prior.dofs(self.gaussian, counts)
        joint = dofs.sum() * self.component.implied(components, dofs / dofs.sum())
        rows = replace(joint, counts=prior.counts + counts).without(prior)
        share = 1.0 / counts.sum()
        return RebasedStatistics(1.0, 0.0, share * counts, share * replace(rows, counts=counts))

    def monotonicity_slack(self, parameters: MixtureParameters[GaussianParameters], dtype: np.dtype[Any]) -> float:
        """Return the most that `reg_covar` and single precision can cost per row.

        The M-step has W⁻¹ = V + n·ridge in the place of V: that costs KL(q ‖ q′) = ν/2 Σ (−log(1 − λ) − λ), λ the
        eigenvalues of n·ridge·W.
        """
        counts, component = _of(parameters).counts, self.gaussian
        nu = self.prior.dofs(component, counts)
        ridge = np.clip(component.relative_ridge(parameters.components), 0.0, 1.0)
        bounded = ridge * (1.0 - self.prior.dof / nu)[:, np.newaxis]
        with np.errstate(divide="ignore"):
            lost = 0.5 * nu @ np.sum(-np.log1p(-bounded) - bounded, axis=-1)
        # Divergences are differences of numbers of the size of ν; few rows have a share in all of their rounding.
        lost += _ROUNDING_OF_DIVERGENCES * parameters.components.means.shape[1] * nu.sum()
        # Without rows, what the components tell is the cost of single precision.
        return float(lost / counts.sum()) + component.monotonicity_slack(parameters.components, 0.0 * nu, dtype)

    def component_status(
        self, parameters: MixtureParameters[GaussianParameters], n_rows: float, *, duplicates: bool = True
    ) -> tuple[str, ...]:
        """Return what has become of each component, by the rows that it has rather than by E[π]."""
        counts = _of(parameters).counts
        shares = counts / counts.sum()
        return component_status(self.component, parameters.components, shares, n_rows, duplicates=duplicates)

    def reseeded(
        self, parameters: MixtureParameters[GaussianParameters], which: NDArray[np.intp], chunk: RowBlock
    ) -> VariationalParameters:
        """Return a posterior where components begin anew at rows."""
        begun = super().reseeded(parameters, which, chunk)
        return self.of_counts(begun.components, _of(parameters).counts.sum() * begun.weights, begun.candidates)

    def to_user(self, parameters: MixtureParameters[GaussianParameters]) -> dict[str, NDArray[Any]]:
        """Return posterior and prior in the user's units, by scikit-learn's names."""
        counts, prior, process = _of(parameters).counts, self.prior, self.weight_prior
        dofs = prior.dofs(self.gaussian, counts)
        return {
            **super().to_user(parameters),
            "weight_concentration": process.posterior(counts),
            "mean_precision": prior.mean_precision + counts,
            # One for the matrix that all share.
            "degrees_of_freedom": dofs[0] if is_tied(self.gaussian) else dofs,
            "weight_concentration_prior": np.asarray(process.concentration),
            "mean_precision_prior": np.asarray(prior.mean_precision),
            "mean_prior": prior.mean,
            "degrees_of_freedom_prior": np.asarray(prior.dof),
            "covariance_prior": np.asarray(prior.covariance),
        }

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> VariationalParameters:
        """Return the posterior from what `to_user` gave; the prior is this mixture's own."""
        counts = np.asarray(values["mean_precision"], dtype=np.float64) - self.prior.mean_precision
        return self.of_counts(self.component.from_user(values), np.maximum(counts, 0.0))

    def unconstrain(self, parameters: MixtureParameters[GaussianParameters]) -> Vector:
        """Return the posterior as an unconstrained vector: the counts as the roots of their shares."""
        vector, counts = self.component.unconstrain(parameters.components), _of(parameters).counts
        return Vector(np.hstack([np.sqrt(counts / counts.sum())[:, np.newaxis], vector.own]), vector.shared)

    def constrain(self, vector: Vector, parameters: MixtureParameters[GaussianParameters]) -> VariationalParameters:
        """Return the posterior from what `unconstrain` gave, after as many rows as `parameters`."""
        shares = vector.own[:, 0] ** 2
        counts = _of(parameters).counts.sum() * (shares / shares.sum())
        components = self.component.constrain(Vector(vector.own[:, 1:], vector.shared), parameters.components)
        return self.of_counts(components, counts, parameters.candidates)


def _of(parameters: Any) -> VariationalParameters:
    """Return parameters as what they are: those of this mixture."""
    return cast("VariationalParameters", parameters)
