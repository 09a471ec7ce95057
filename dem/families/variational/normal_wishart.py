"""The prior of means and precisions of Gaussian components, and its divergence from their posterior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import digamma, multigammaln

from dem.families.base import Array
from dem.families.gaussian import GaussianComponent, GaussianParameters, Tied
from dem.statistics import CentralMoments


@dataclass(frozen=True, eq=False)
class NormalWishart:
    """Λ ~ Wishart(W₀, ν₀) and μ ~ N(m₀, (β₀Λ)⁻¹), for each component alike.

    The prior counts as β₀ rows at m₀ with the scatter W₀⁻¹, so that the posterior is the sum of two moments
    (`CentralMoments`). It is W⁻¹ = νΣ with the covariance Σ of the component, of the type that the component has:
    each type is the whole Wishart model, with posteriors whose W is shared, diagonal, or a multiple of the identity.
    Among these, the sum over the components, the diagonal and its mean minimise the divergence.

    Attributes
    ----------
    mean_precision : float
        β₀.
    dof : float
        ν₀, above n_features − 1.
    mean : ndarray of shape (n_features,)
        m₀, in the user's units as all of these.
    covariance : ndarray
        W₀⁻¹: (n_features, n_features) for full and tied covariances, (n_features,) for diagonal ones, or a number.
    """

    mean_precision: float
    dof: float
    mean: Array
    covariance: Array | float

    def moments(self, component: GaussianComponent, n_components: int) -> CentralMoments:
        """Return the prior as moments of rows in the frame of the fit, less the ridge that M-steps add."""
        covariances = np.asarray(self.covariance) / self.dof
        if not is_tied(component):
            covariances = np.broadcast_to(covariances, (n_components, *covariances.shape))
        means = np.broadcast_to(self.mean, (n_components, len(self.mean)))
        values = {"means": means, "covariances": covariances, "precisions_cholesky": np.zeros_like(covariances)}
        # What the M-step makes of rows that are ν₀ for each component.
        own = component.implied(component.from_user(values), np.full(n_components, 1.0 / n_components))
        moments: CentralMoments = (n_components * self.dof) * own
        return replace(moments, counts=np.full(n_components, self.mean_precision))

    def dofs(self, component: GaussianComponent, counts: Array) -> Array:
        """Return ν, shape (n_components,), after so many rows."""
        return self.dof + (np.full_like(counts, counts.mean()) if is_tied(component) else counts)

    def offsets(self, component: GaussianComponent, counts: Array) -> Array:
        """Return E[log N(x | μ, Λ⁻¹)] − log N(x | m, (νW)⁻¹), which is the same for all x, shape (n_components,)."""
        nu, d = self.dofs(component, counts), len(self.mean)
        return np.asarray(0.5 * (_multidigamma(nu, d) + d * np.log(2.0 / nu) - d / (self.mean_precision + counts)))

    def divergence(self, component: GaussianComponent, parameters: GaussianParameters, counts: Array) -> float:
        """Return Σ KL(posterior ‖ prior) over the components, in nats."""
        size, d = parameters.means.shape
        prior = self.moments(replace(component, reg_covar=0.0), size)
        nu, ratio = self.dofs(component, counts), self.mean_precision / (self.mean_precision + counts)
        scatter: Any = prior.scatter / size if is_tied(component) else prior.scatter[0]
        log_before = -np.linalg.slogdet(scatter)[1] if scatter.ndim == 2 else -np.log(scatter).sum()
        log_scale = 2.0 * component.log_determinants(parameters) - d * np.log(nu)
        of_scales = 0.5 * self.dof * (log_before - log_scale) - 0.5 * nu * d
        of_scales += multigammaln(0.5 * self.dof, d) - multigammaln(0.5 * nu, d)
        of_scales += 0.5 * (nu - self.dof) * _multidigamma(nu, d)
        of_means = 0.5 * d * (ratio - 1.0 - np.log(ratio))
        # ν tr(W₀⁻¹W) + β₀ν (m − m₀)ᵀ W (m − m₀).
        squares = component.squares(prior, parameters)
        return float(np.sum(of_scales + of_means) + 0.5 * np.sum(squares))


def is_tied(component: GaussianComponent) -> bool:
    """Tell whether the components share one matrix."""
    return isinstance(component, Tied)


def _multidigamma(dofs: Array, n_features: int) -> Array:
    """Return Σ_i ψ((ν − i)/2) over i < n_features."""
    return np.asarray(digamma(0.5 * (dofs - np.arange(n_features)[:, np.newaxis])).sum(axis=0))
