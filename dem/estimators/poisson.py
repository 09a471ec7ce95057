"""`PoissonMixture`: mixtures of independent counts."""

from __future__ import annotations

from numpy.typing import ArrayLike

from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import option
from dem.families.poisson import PoissonComponent


class PoissonMixture(IndependentFeaturesMixture):
    """Mixture of independent Poisson features, such as counts of events, fitted by expectation–maximisation.

    Parameters
    ----------
    rates_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    rates_ : ndarray of shape (n_components, n_features)
        Mean count.
    """

    rates_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> PoissonComponent:
        return PoissonComponent()
