"""`RegressionMixture`: a linear regression in each component, for rows that follow one of several lines."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self, Unpack

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from dem.data.base import Rows
from dem.data.checks import frame_columns
from dem.data.sources import RowOptions, SourceOptions, source_kind
from dem.em.algorithm import Fit
from dem.engine import Engine
from dem.engine.base import single_threaded_blas
from dem.errors import ComponentWarning, DataError, OptionError
from dem.estimators import inputs
from dem.estimators.mixture import MixtureEstimator
from dem.estimators.options import option
from dem.estimators.registry import REGRESSION_STARTS
from dem.estimators.responses import Responses, place_of
from dem.families.base import Component
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.families.regression import RegressionComponent
from dem.families.regression.short_em import short_em
from dem.initialise.sample import RowSample, as_known
from dem.validation import check_array, check_bounded, check_seed

# Columns that a message names at most.
_NAMED = 4


class RegressionMixture(MixtureEstimator):
    """Mixture of linear regressions: each row follows y = intercept + coefficients · x + N(0, sigma²) of one component.

    Also known as clusterwise regression or latent class regression (with `sample_weight` it weighs cases as R's
    flexmix does). A row is the design x and the response y together, as columns of one table, from which `fit`,
    `predict`, `predict_proba` and `score_samples` (log p(y | x)) take both; the response may also be given as
    `y`, for X in memory, to all of these. `predict` tells the component of each row, `predict_response` the response
    of a design. Standard deviations are those of maximum likelihood (flexmix divides by n − p instead of n).

    Where the design is singular among the rows of a component, its coefficients are those nearest to where they were
    (of minimum norm), and a warning names component and columns. A row whose response is missing tells nothing:
    ``missing='skip'`` leaves it out, as it does rows with gaps in the design, which are an error otherwise.

    Parameters
    ----------
    response : str or int, optional
        The column that is explained, by name or number: the last when left out. A `y` that is given goes before.
    design : sequence of str or int, optional
        The columns that explain it: all others when left out. Columns that are neither are not looked at; of
        DataFrames, Datasets, parquet and groups of variables they are not even read where both are names.
    intercept : bool, default=True
        Whether the lines have an intercept; else they go through 0.
    fit_sigma : {'free', 'shared'}, default='free'
        Whether each component has its own standard deviation about its line, or all have the same.
    reg_covar : float, default=1e-6
        The least sigma², in squared units of the response.
    init_params : {'short-em', 'kmeans', 'k-means++', 'random', ...}, default='short-em'
        How to start. ``'short-em'`` takes the likeliest of 30 short runs of EM on 2,000 rows of the sample (Biernacki,
        Celeux and Govaert 2003), half of them from lines through neighbouring rows, half from random responsibilities;
        it finds lines that cross. The others are those of all mixtures; but for ``'random'`` they look at design and
        response as points, where such lines are no clusters.
    coefficients_init, intercepts_init, sigmas_init : array-like, optional
        Start given by the user, of the shapes of `coefficients_`, `intercepts_` and `sigmas_`.

    Attributes
    ----------
    coefficients_ : ndarray of shape (n_components, n_design)
    intercepts_ : ndarray of shape (n_components,)
    sigmas_ : ndarray of shape (n_components,)
        Standard deviations of the response about the lines.
    design_means_, design_covariances_ : ndarray
        Of the rows of each component, (n_components, n_design) and (n_components, n_design, n_design); no density
        depends on them. `sample` draws designs from normal distributions that have them, and then responses.

    References
    ----------
    DeSarbo, W. S. and Cron, W. L. (1988). A maximum likelihood methodology for clusterwise linear regression. Journal
    of Classification 5. Leisch, F. (2004). FlexMix: a general framework for finite mixture models and latent class
    regression in R. Journal of Statistical Software 11.

    Examples
    --------
    Two lines that cross:

    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, size=400)
    >>> slopes = np.where(np.arange(400) < 250, 2.0, -1.0)
    >>> y = slopes * x + 0.1 * rng.normal(size=400)
    >>> rm = dem.RegressionMixture(2, random_state=0).fit(x[:, np.newaxis], y)
    >>> np.sort(rm.coefficients_[:, 0]).round(1)
    array([-1.,  2.])
    >>> rm.predict_response([[1.0]]).round(1)
    array([0.9])
    """

    response: str | int | None = option(str, Integral, None, default=None)
    design: Sequence[str | int] | None = option("array-like", None, default=None)
    intercept: bool = option("boolean", default=True)
    fit_sigma: str = option(StrOptions({"free", "shared"}), default="free")
    reg_covar: float = option(Interval(Real, 0.0, None, closed="left"), default=1e-6)
    init_params: str = option(StrOptions(set(REGRESSION_STARTS)), default="short-em")
    coefficients_init: ArrayLike | None = option("array-like", None, default=None)
    intercepts_init: ArrayLike | None = option("array-like", None, default=None)
    sigmas_init: ArrayLike | None = option("array-like", None, default=None)

    # Single rows determine no line: those near to each do.
    _spreads_starts = True
    _reported = ("intercepts", "sigmas")

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        return ("weights", "coefficients", "intercepts", "sigmas", "design_means", "design_covariances")

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        n_design = n_features - 1 if self.design is None else len(self.design)
        shapes = {"coefficients": 1, "design_means": 1, "design_covariances": 2}
        return (size, *(n_design,) * shapes.get(name, 0))

    def _component(self, columns: tuple[int, ...] | None = None, n_features: int | None = None) -> RegressionComponent:
        return RegressionComponent(columns, n_features, self.intercept, self.fit_sigma == "shared", self.reg_covar)

    def _component_as_fitted(self) -> Component[Any, Any]:
        names = inputs.labels_of(self, "_")
        component = self._component(self._columns(names, self.n_features_in_, "the data"), self.n_features_in_)
        return component.around({name: np.asarray(getattr(self, f"{name}_")) for name in self._parameter_names})

    def _adapted(self, rows: Rows, engine: Engine, sample: RowSample) -> Component[Any, Any]:  # noqa: ARG002
        names = inputs.labels_of(rows)
        columns = self._columns(inputs.labels_of(self, "_") if names is None else names, rows.n_features, rows.name)
        return self._component(columns, rows.n_features).adapted_to(sample.rows)

    def _support(self) -> Any:
        try:
            columns = self._columns(inputs.labels_of(self, "_"), self.n_features_in_, "the data")
        except (AttributeError, OptionError):  # nothing is known of the columns yet
            columns = None
        return self._component(columns).support

    def _columns(self, names: NDArray[Any] | None, n_features: int, data: str) -> tuple[int, ...] | None:
        """Return where the design stands in a row, and last the response; None if that is all there is, in order."""
        if n_features < 2 and self.design is None:
            message = f"{data} has {n_features} column; a response and a column that explains it are needed"
            raise DataError(message)
        words = None if names is None else [str(name) for name in names]
        response = place_of(-1 if self.response is None else self.response, "response", words, n_features, data)
        others = [j for j in range(n_features) if j != response]
        design = others
        if self.design is not None:
            design = [place_of(one, "design", words, n_features, data) for one in self.design]
        if not design or len(set(design)) < len(design) or response in design:
            message = f"design={list(self.design or ())} must be at least one column, each once, without the response"
            raise OptionError(message)
        columns = (*design, response)
        return None if columns == tuple(range(n_features)) else columns

    @property
    def _named(self) -> list[str] | None:
        """The names of the columns that are read, where the options name all of them."""
        names = [*(self.design or ()), self.response]
        by_name = bool(self.design) and all(isinstance(one, str) for one in names) and len({*names}) == len(names)
        return [str(name) for name in names] if by_name else None

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values, size = super()._initial_values(n_features), self.n_components
        given = {name: getattr(self, f"{name}_init") for name in ("coefficients", "intercepts")}
        for name, value in given.items():
            if value is not None:
                values[name] = check_array(f"{name}_init", value, self._shape(name, size, n_features), name)
        if self.sigmas_init is not None:
            values["sigmas"] = check_bounded("sigmas_init", self.sigmas_init, (size,), (1e-150, np.inf))
        return values

    def _start(
        self,
        family: Mixture[Any, Any],
        rows: Rows,
        engine: Engine,
        sample: RowSample,
        random_state: RandomState,
    ) -> MixtureParameters[Any]:
        given = self._initial_values(rows.n_features)
        of_lines = given.keys() >= {"coefficients", "intercepts", "sigmas"}
        if self.init_params != "short-em" and not of_lines:
            return super()._start(family, rows, engine, sample, random_state)
        component: Any = family.component
        chunk, size = sample.chunk, self.n_components
        if of_lines:  # all besides is where designs lie
            responsibilities = np.full((len(chunk), size), 1.0 / size)
        else:
            z, response = component.design(sample.rows)
            with single_threaded_blas():  # whatever the number of cores
                responsibilities = short_em(z, response, chunk.weights, size, random_state, intercept=self.intercept)
            if chunk.labels is not None:
                responsibilities = as_known(responsibilities, chunk.labels)
        start = family.start(sample.rows, responsibilities, chunk.weights)
        return family.from_user({**family.to_user(start), **given}) if given else start

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *more: Any) -> None:
        vars(self).pop("_raw", None)
        frame = family.component.frame
        coefficients = best.parameters.components.coefficients
        self._raw = {"0.origin": frame.origin, "0.scale": frame.scale, "components.coefficients": coefficients}
        super()._keep(history, family, best, *more)

    def _finish(self, data: Any, source: SourceOptions) -> None:
        super()._finish(data, source)
        if trouble := self._open_coefficients():
            warnings.warn(trouble, ComponentWarning, stacklevel=3)

    def _open_coefficients(self) -> str:
        """Return a line that names a component whose design is singular, and the columns; else ``''``."""
        family, parameters = self._model()
        component: Any = family.component
        undetermined = component.undetermined(parameters.components)
        (which,) = np.nonzero(undetermined.any(axis=1))
        if not len(which):
            return ""
        (columns,) = np.nonzero(undetermined[which[0]])
        names = self._design_words()
        named = ", ".join(names[j] for j in columns[:_NAMED]) + (", …" if len(columns) > _NAMED else "")
        others = f" (and of {len(which) - 1} more)" if len(which) > 1 else ""
        return (
            f"the design of component {which[0]}{others} is singular in {named}: constant there, or a linear function "
            "of others, so that their coefficients are not determined; leave a column out, or take fewer components"
        )

    def _design_words(self) -> list[str]:
        """Return what the columns of the design are called."""
        names, n_features = inputs.labels_of(self, "_"), self.n_features_in_
        columns = self._columns(names, n_features, "the data") or tuple(range(n_features))
        return [f"column {j}" if names is None else str(names[j]) for j in columns[:-1]]

    def _table(self) -> tuple[list[str], NDArray[np.float64]]:
        """Return what reports show of each component: headings, and numbers (n_components, n_columns)."""
        words = [*(["intercept"] if self.intercept else []), *self._design_words(), "sigma"]
        intercepts = [self.intercepts_] if self.intercept else []
        return words, np.column_stack([*intercepts, self.coefficients_, self.sigmas_])

    # With the response by itself ----------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | str | None = None,
        **given: Unpack[RowOptions],
    ) -> Self:
        """Fit the model by EM; see `GaussianMixture.fit`.

        Parameters
        ----------
        X : path or URL of a zarr array or group, zarr.Array, array, DataFrame, DataArray or Dataset
            The data, with the response among its columns unless there is a `y`.
        y : array-like of shape (n_samples,), optional
            The response, for X in memory: the same as a last column of X. A name of its own becomes that of the column.
        sample_weight, checkpoint, checkpoint_every, **given
            As for `GaussianMixture.fit`.
        """
        kept = {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every}
        return super().fit(self._joined(X, y), None, sample_weight, **kept, **given)  # type: ignore[arg-type]

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None, **given: Any) -> Any:
        """Fit, and return the labels of the rows; see `fit` and `predict`."""
        return super().fit_predict(self._joined(X, y), None, sample_weight, **given)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None, **given: Unpack[RowOptions]) -> Self:
        """Learn from newly observed rows; see `GaussianMixture.partial_fit`."""
        return super().partial_fit(self._joined(X, y), None, sample_weight, **given)

    def predict(self, X: Any, y: Any = None, **given: Unpack[RowOptions]) -> Any:
        """Return the component of each row, given design and response; see `GaussianMixture.predict`."""
        return super().predict(self._joined(X, y), **given)

    def predict_proba(self, X: Any, y: Any = None, **given: Unpack[RowOptions]) -> Any:
        """Return the responsibilities, given design and response, shape (n_samples, n_components)."""
        return super().predict_proba(self._joined(X, y), **given)

    def score_samples(self, X: Any, y: Any = None, **given: Unpack[RowOptions]) -> Any:
        """Return log p(response | design) of each row (nats), shape (n_samples,)."""
        return super().score_samples(self._joined(X, y), **given)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None, **given: Unpack[RowOptions]) -> float:
        """Return the mean of log p(response | design) (nats)."""
        return super().score(self._joined(X, y), None, sample_weight, **given)

    def predict_response(
        self, X: Any, *, draw: bool = False, random_state: int | None = None, **given: Unpack[RowOptions]
    ) -> Any:
        """Return the mean response of each row given its design alone: that of all lines, by their weights.

        Parameters
        ----------
        X, **given
            Data as in `fit`; its response is not looked at, and may be missing. In memory it may be the design alone.
        draw : bool
            Whether to draw a response from the mixture for each row instead.
        random_state : int, optional
            Seed of the draws; that of a row depends on it and on the position of the row.

        Returns
        -------
        array of float64, shape (n_samples,)
            Of the kinds that `predict` returns.
        """
        check_seed(random_state)
        family, parameters = self._model()
        columns = self._columns(inputs.labels_of(self, "_"), self.n_features_in_, "the data")
        response = self.n_features_in_ - 1 if columns is None else columns[-1]
        seed = None
        if draw:
            seed = random_state if random_state is not None else int(check_random_state(None).randint(2**31 - 1))
        return inputs.mapped(
            self, Responses(family, parameters, place=response, seed=seed), self._whole(X, response), **given
        )

    def _whole(self, X: Any, response: int) -> Any:
        """Return a table in memory with a column in the place of the response, where it has none."""
        kind, names = source_kind(X), getattr(self, "feature_names_in_", None)
        if kind == "pandas" and names is not None and hasattr(X, "columns") and names[response] not in X.columns:
            X = X.assign(**{str(names[response]): 0.0})
            return X[list(names)] if set(names) <= set(X.columns) else X
        if kind == "numpy" and np.ndim(X) == 2 and np.shape(X)[1] == self.n_features_in_ - 1:
            return np.insert(np.asarray(X, dtype=np.float64), response, 0.0, axis=1)
        return X

    def _joined(self, X: Any, y: Any) -> Any:
        """Return a table in memory with the response as its last column."""
        if y is None:
            return X
        kind, values = source_kind(X), np.asarray(y)
        if kind not in ("numpy", "pandas") or np.ndim(X) != 2:
            message = "y goes with arrays and DataFrames in memory; else give the response as a column of X (response=)"
            raise DataError(message)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.shape != (len(X),):
            message = f"y has shape {values.shape}; with {len(X)} rows of X it must be ({len(X)},)"
            raise DataError(message)
        if not hasattr(X, "columns"):
            if self.response not in (None, -1, np.shape(X)[1]):
                message = f"y becomes the last column; leave response={self.response!r} out"
                raise OptionError(message)
            return np.column_stack([np.asarray(X), values])
        if frame_columns(X) is None:
            message = "the columns of X have no names that are words, and y is given; give X as an array"
            raise DataError(message)
        name = self.response if isinstance(self.response, str) else str(getattr(y, "name", None) or "y")
        if name in X.columns:
            message = f"X has a column {name!r} already, and y is given; drop one of them"
            raise DataError(message)
        return X.assign(**{name: values})
