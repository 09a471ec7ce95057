"""Mixtures whose features are independent within a component: what a new exponential family derives from."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from numpy.typing import NDArray

from dem.estimators.mixture import MixtureEstimator
from dem.estimators.options import option
from dem.families.exponential_family import ExponentialFamily
from dem.validation import check_bounded


class IndependentFeaturesMixture(MixtureEstimator):
    """Base of mixtures whose features are independent; a subclass names its component and its one parameter.

    Parameters
    ----------
    fit_weights : bool, default=True
        Whether EM updates the weights; else they stay as they start (equal without `weights_init`).
    """

    fit_weights: bool = option("boolean", default=True)

    @abstractmethod
    def _component(self) -> ExponentialFamily:
        """Return the component that the options describe."""

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values, component = super()._initial_values(n_features), self._component()
        name = f"{component.parameter}_init"
        if (given := getattr(self, name)) is not None:
            values[component.parameter] = check_bounded(name, given, (self.n_components, n_features), component.bounds)
        return values
