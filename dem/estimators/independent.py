"""Mixtures whose features are independent within a component: what a new exponential family derives from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import StrOptions

from dem.data.base import Rows
from dem.em.algorithm import Fit
from dem.engine import Engine
from dem.errors import OptionError
from dem.estimators.inputs import CONJUGATE
from dem.estimators.mixture import MixtureEstimator
from dem.estimators.options import option
from dem.families.exponential_family import Conjugate, ExponentialFamily
from dem.initialise.sample import RowSample
from dem.validation import check_bounded

F = TypeVar("F", bound=ExponentialFamily)


class IndependentFeaturesMixture(MixtureEstimator):
    """Base of mixtures whose features are independent; a subclass names its component and its parameters.

    Parameters
    ----------
    fit_weights : bool, default=True
        Whether EM updates the weights; else they stay as they start (equal without `weights_init`).
    prior : 'default' or mapping, optional
        Conjugate prior of the parameters of each component (Diaconis and Ylvisaker 1979), which keeps them from the
        edge of what is possible: EM then maximises the log-likelihood + log prior, as if some more rows belonged to
        each component. ``'default'`` is one row, with the mean statistics of the sample on which starts are chosen. A
        mapping says how many ``rows`` (1 if it does not; not only whole numbers), and of what parameters they would be
        typical, by their names (all or none): ``{"rows": 2, "rates": 3.5}``.

    Attributes
    ----------
    prior_rows_, prior_statistics_ : float, list of float
        With `prior`: how many rows, and their mean statistics T(x), which a warm start keeps.
    """

    fit_weights: bool = option("boolean", default=True)
    prior: str | Mapping[str, Any] | None = option(StrOptions({"default"}), dict, None, default=None)

    @abstractmethod
    def _component(self) -> ExponentialFamily:
        """Return the component that the options describe."""

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values, component = super()._initial_values(n_features), self._component()
        shapes = component.user_shapes(self.n_components, n_features)
        for name, bounds in zip(component.parameters, component.bounds, strict=True):
            if (given := getattr(self, f"{name}_init", None)) is not None:
                values[name] = check_bounded(f"{name}_init", given, shapes[name], bounds)
        return values

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        """Fitted attributes; see `Estimator._parameter_names`."""
        return ("weights", *self._component().parameters)

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of a fitted array; see `Estimator._shape`."""
        shapes = self._component().user_shapes(size, n_features)
        return shapes[name] if name in shapes else super()._shape(name, size, n_features)

    #: whether the parameters of a component, of one column where they are so many for each, are shares of 1
    _sums_to_one = False

    # The prior ----------------------------------------------------------------------------------------------

    def _adapted(self, rows: Rows, engine: Engine, sample: RowSample) -> ExponentialFamily:
        component: Any = super()._adapted(rows, engine, sample)
        found: ExponentialFamily = self._with_prior(component, sample)
        return found

    def _with_prior(self, component: F, sample: RowSample) -> F:
        """Return a component with the prior that the options describe."""
        if self.prior is None:
            return component
        given = dict(self.prior) if isinstance(self.prior, Mapping) else {}
        n_rows = float(given.pop("rows", 1.0))
        table = np.asarray(sample.rows, dtype=np.float64)
        if given:
            n_features: int = vars(self).get("n_features_in_") or table.shape[1]
            shapes = component.user_shapes(1, n_features)
            values = {}
            for name, bounds in zip(component.parameters, component.bounds, strict=True):
                shape = shapes[name][1:]
                value = np.full(shape, given[name]) if np.isscalar(given[name]) else given[name]
                array = check_bounded(f"prior's {name}", value, shape, bounds)
                if self._sums_to_one and not np.allclose(array.sum(axis=-1), 1.0, rtol=0.0, atol=1e-6):
                    message = f"prior's {name} must sum to 1, but sum to {array.sum(axis=-1).min():g}"
                    raise OptionError(message)
                values[name] = array[np.newaxis]
            statistics = component.mean_parameters(component.from_user(values))[0]
        else:
            found = component.sufficient_statistics(table)
            weights = np.ones(len(table)) if sample.chunk.weights is None else sample.chunk.weights
            there = ~np.isnan(found)
            statistics = weights @ np.where(there, found, 0.0) / (weights @ there)
        return replace(component, conjugate=Conjugate(n_rows, tuple(statistics.tolist())))

    def _component_as_fitted(self) -> ExponentialFamily:
        return self._with_prior_as_fitted(self._component())

    def _with_prior_as_fitted(self, component: F) -> F:
        """Return a component with the prior of the fit, if the fitted attributes are there.

        Raises
        ------
        OptionError
            If the fit had none.
        """
        if self.prior is None or not hasattr(self, "weights_"):
            return component
        if not hasattr(self, "prior_rows_"):
            message = f"the model was fitted without a prior, and prior is {self.prior!r} now; set it back, or fit anew"
            raise OptionError(message)
        return replace(component, conjugate=Conjugate(self.prior_rows_, tuple(self.prior_statistics_)))

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *more: Any) -> None:
        for name in CONJUGATE:
            vars(self).pop(name, None)
        if (conjugate := family.component.conjugate) is not None:
            self.prior_rows_, self.prior_statistics_ = conjugate.rows, list(conjugate.statistics)
        super()._keep(history, family, best, *more)

    def _check_options(self) -> None:
        super()._check_options()
        component = self._component()
        if self.prior is not None and not component.has_conjugates:
            message = f"{type(self).__name__} has no conjugate prior; leave prior out"
            raise OptionError(message)
        given = dict(self.prior) if isinstance(self.prior, Mapping) else {}
        n_rows = given.pop("rows", 1.0)
        if not isinstance(n_rows, int | float | np.number) or not 0.0 < float(n_rows) < np.inf:
            message = f"prior's rows must be a number above 0, not {n_rows!r}"
            raise OptionError(message)
        if given and set(given) != set(component.parameters):
            names = " and ".join(component.parameters)
            message = f"prior has rows and {names}, all of them or none, not {', '.join(map(str, given))}"
            raise OptionError(message)
