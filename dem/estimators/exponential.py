"""`ExponentialMixture`: mixtures of independent waiting times."""

from __future__ import annotations

from numpy.typing import ArrayLike

from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import option
from dem.families.exponential import ExponentialComponent


class ExponentialMixture(IndependentFeaturesMixture):
    """Mixture of independent exponential features, such as waiting times, fitted by expectation–maximisation.

    Parameters
    ----------
    rates_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    rates_ : ndarray of shape (n_components, n_features)
        1 / mean.
    """

    rates_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> ExponentialComponent:
        return ExponentialComponent()
