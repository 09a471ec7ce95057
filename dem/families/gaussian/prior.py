"""The conjugate prior of Gaussian components, normal–inverse-Wishart or its kin, as pseudo-observations."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from dem.families.base import Array


@dataclass(frozen=True, eq=False)
class NormalWishart:
    """Prior of the mean and the covariance of each component, in the user's units.

    μ ~ N(mean, Σ / shrinkage) given Σ. Of matrices Σ ~ inverse Wishart(dof, scale): one for each component, or one for
    all. Of diagonal ones each variance, of spherical ones the one variance, is inverse gamma(dof / 2, scale / 2).

    Attributes
    ----------
    mean : ndarray of shape (n_features,)
    shrinkage : float
        κ ≥ 0, the rows that the prior mean counts for; with 0 the mean has no prior.
    dof : float
        ν.
    scale : ndarray
        Λ: (n_features, n_features) of matrices, (n_features,) of diagonal covariances, a number of spherical ones.

    References
    ----------
    Fraley, C. and Raftery, A. E. (2007). Bayesian regularization for normal mixture estimation and model-based
    clustering. Journal of Classification 24.
    """

    mean: Array
    shrinkage: float
    dof: float
    scale: Array

    def to_user(self) -> dict[str, Array]:
        """Return the hyper-parameters by the names of fitted attributes."""
        return {f"prior_{one.name}": np.asarray(getattr(self, one.name), dtype=np.float64) for one in fields(self)}

    @property
    def of_mean(self) -> float:
        """By how many rows more than a maximum of the likelihood each mean makes covariances those of: 0 or 1."""
        return float(self.shrinkage > 0.0)


def default_scale(covariance: Array, n_components: int) -> Array:
    """Return the scale that makes the volumes of all components together that of the data."""
    return np.asarray(covariance / n_components ** (2.0 / len(covariance)))
