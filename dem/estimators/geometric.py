"""`GeometricMixture`: mixtures of independent numbers of failures before a success."""

from __future__ import annotations

from numpy.typing import ArrayLike

from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import option
from dem.families.geometric import GeometricComponent


class GeometricMixture(IndependentFeaturesMixture):
    """Mixture of independent failures before a success (geometric features), fitted by expectation–maximisation.

    Parameters
    ----------
    probabilities_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    probabilities_ : ndarray of shape (n_components, n_features)
        Probability of success: 1 / (1 + mean).
    """

    probabilities_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> GeometricComponent:
        return GeometricComponent()
