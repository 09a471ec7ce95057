"""What all mixture estimators share: fitting, predicting and scoring with scikit-learn's face."""

from __future__ import annotations

import math
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.validation import check_is_fitted

from dem.data import map_rows, open_rows
from dem.data.base import Rows
from dem.em.evaluate import Entropy, LogLikelihood, RowTotal
from dem.em.functions import Labels, LogDensity, Posterior, RowFunction
from dem.em.loop import Fit, Settings, Status, fit
from dem.engine import Engine, LocalEngine, Work, current_engine
from dem.errors import DataError, NonFiniteError, OptionError
from dem.estimators import inputs, persistence, streams
from dem.estimators.recorders import History, Latest, Verbose
from dem.families.mixture import Mixture, MixtureParameters
from dem.initialise import SAMPLE_METHODS, kmeans_parallel_start, row_sample, start_responsibilities
from dem.initialise.sample import RowSample
from dem.validation import check_rows, check_sample

Values = Mapping[str, NDArray[Any]]


class MixtureEstimator(DensityMixin, BaseEstimator, metaclass=ABCMeta):
    """Base of the mixtures; a subclass names its component and its parameters."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions({*SAMPLE_METHODS, "k-means||"})],
        "weights_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "sample_rows": [Interval(Integral, 1, None, closed="left"), None],
        "callbacks": [list, tuple, None],
    }

    # What a subclass provides -------------------------------------------------------------------------------

    @abstractmethod
    def _family(self) -> Mixture[Any, Any]:
        """Return the mixture that the options describe, without a frame of reference."""

    @abstractmethod
    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        """Return the checked ``*_init`` options that are given, by the names of the parameters they replace."""

    @abstractmethod
    def _fitted_family(self) -> Mixture[Any, Any]:
        """Return the mixture with a frame of reference that fits the fitted parameters."""

    # Fitting ------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: object = None, *, variable: str | None = None, feature_dim: str | None = None) -> Self:  # noqa: ARG002
        """Fit the mixture by EM.

        Parameters
        ----------
        X : path or URL of a zarr array or group, zarr.Array, array, DataFrame, DataArray or Dataset
            The data, shape (n_samples, n_features). It is read chunk by chunk, several times.
        y : ignored
            For scikit-learn's API.
        variable : str, optional
            Name of the array if X is a zarr group.
        feature_dim : str, optional
            Name of the feature dimension if X is a DataArray.

        Returns
        -------
        self
            The fitted estimator. If the fit is interrupted (KeyboardInterrupt), the estimator holds the
            parameters of the last whole iteration.

        Raises
        ------
        OptionError
            If an option has an unknown or impossible value.
        DataError
            If the data cannot be read, is not finite, or has fewer rows than components.
        FitError
            If a covariance is not positive definite.
        """
        self._check_options()
        goes_on = self.warm_start and hasattr(self, "converged_")
        rows = inputs.rows_of(self, X, reset=not goes_on, variable=variable, feature_dim=feature_dim)
        if rows.n_rows < self.n_components:
            message = (
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {rows.n_rows} in {rows.name}"
            )
            raise DataError(message)
        engine = current_engine()
        history, latest = History(), Latest()
        callbacks = [history, latest, *(self.callbacks or ())]
        if self.verbose:
            callbacks.append(Verbose(int(self.verbose), self.verbose_interval))
        settings = Settings(self.tol, self.max_iter, tuple(callbacks))
        try:
            family, best = self._search(rows, engine, settings, goes_on=goes_on)
        except NonFiniteError:
            check_rows(rows, engine, self._family().component)
            raise
        except KeyboardInterrupt:
            if latest.event is not None:
                event = latest.event
                interrupted = Fit(event.parameters, Status.MAX_ITER, [event.log_likelihood] * event.iteration)
                self._keep(event.family, interrupted, history)
            raise
        finally:
            engine.close()
        self._keep(family, best, history)
        if best.status is Status.MAX_ITER and self.max_iter > 0:
            warnings.warn(f"The best start did not converge: {best.status.value}.", ConvergenceWarning, stacklevel=2)
        return self

    def fit_predict(
        self,
        X: Any,
        y: object = None,
        *,
        variable: str | None = None,
        feature_dim: str | None = None,
    ) -> Any:
        """Fit the mixture and return the labels of X; see `fit` and `predict`."""
        return self.fit(X, y, variable=variable, feature_dim=feature_dim).predict(
            X, variable=variable, feature_dim=feature_dim
        )

    def _search(
        self, rows: Rows, engine: Engine, settings: Settings, *, goes_on: bool
    ) -> tuple[Mixture[Any, Any], Fit]:
        """Return the best of all starts, fitted to all the data."""
        if goes_on:
            family, parameters = self._model()
            return family, fit(family, [parameters], rows, engine, settings, previous=self.lower_bound_)[0]
        random_state = check_random_state(self.random_state)
        given = self._initial_values(rows.n_features)
        sample = self._sample(rows, engine, random_state)
        unadapted = self._family()
        family = Mixture(unadapted.component.adapted_to(sample.rows), unadapted.fit_weights)
        values = {**self._fixed_values(), **given}
        starts = [self._start(family, rows, engine, sample, values, random_state) for _ in range(self.n_init)]
        if not sample.complete and not given and settings.max_iter > 0:
            # Starts are compared on the sample, in memory; only the best is polished on all the data.
            on_sample = Settings(settings.tol, max(settings.max_iter, 100), settings.callbacks, "sample")
            starts = [_best(fit(family, starts, open_rows(sample.rows), LocalEngine(), on_sample)).parameters]
        return family, _best(fit(family, starts, rows, engine, settings))

    def _sample(self, rows: Rows, engine: Engine, random_state: RandomState) -> RowSample:
        # scikit-learn draws nothing for data that is used whole, so neither may we before its start methods do.
        _, key, position, *_ = random_state.get_state()
        seed = np.random.SeedSequence([*map(int, key[:4]), int(position)])
        sample = row_sample(rows, engine, self.sample_rows, seed)
        check_sample(sample, rows, engine, self._family().component, self.n_components)
        return sample

    def _start(
        self,
        family: Mixture[Any, Any],
        rows: Rows,
        engine: Engine,
        sample: RowSample,
        given: Values,
        random_state: RandomState,
    ) -> MixtureParameters[Any]:
        if given.keys() >= set(self._parameter_names):
            return family.from_user(given)
        if self.init_params == "k-means||":
            start = kmeans_parallel_start(family, rows, engine, sample.rows, self.n_components, random_state)
        else:
            responsibilities = start_responsibilities(self.init_params, sample.rows, self.n_components, random_state)
            start = family.start(sample.rows, responsibilities)
        return family.from_user({**family.to_user(start), **given}) if given else start

    def _fixed_values(self) -> dict[str, NDArray[Any]]:
        """Return the parameters that options hold fixed."""
        return {}

    _parameter_names: ClassVar[tuple[str, ...]]

    def _keep(self, family: Mixture[Any, Any], best: Fit, history: History) -> None:
        """Set the fitted attributes."""
        for name, value in family.to_user(best.parameters).items():
            setattr(self, f"{name}_", value)
        self.converged_ = best.status is Status.CONVERGED
        self.n_iter_ = best.n_iter
        self.lower_bound_ = best.log_likelihood
        self.lower_bounds_ = list(best.log_likelihoods)
        self.history_ = history.records
        self._complete()

    def _complete(self) -> None:
        """Derive the attributes that follow from the parameters."""

    def _check_options(self) -> None:
        try:
            self._validate_params()
        except InvalidParameterError as error:
            raise OptionError(str(error)) from error

    # Using the fitted model ---------------------------------------------------------------------------------

    def _model(self) -> tuple[Mixture[Any, Any], MixtureParameters[Any]]:
        """Return family and parameters from the fitted attributes, which are the one truth."""
        check_is_fitted(self)
        family = self._fitted_family()
        return family, family.from_user({name: getattr(self, f"{name}_") for name in self._parameter_names})

    def _map(self, kind: type[RowFunction], data: Any, variable: str | None, feature_dim: str | None) -> Any:
        function = kind(*self._model())
        data = inputs.checked(self, data, reset=False)
        if not isinstance(data, np.ndarray):
            inputs.rows_of(self, data, reset=False, variable=variable, feature_dim=feature_dim)
        return map_rows(
            data,
            function,
            dtype=function.dtype,
            columns=function.columns,
            variable=variable,
            feature_dim=feature_dim,
        )

    def predict(self, X: Any, *, variable: str | None = None, feature_dim: str | None = None) -> Any:
        """Return the most probable component of each row.

        Parameters
        ----------
        X, variable, feature_dim
            Data as in `fit`.

        Returns
        -------
        array of int64, shape (n_samples,)
            Of the same kind as X: NumPy for arrays and DataFrames in memory; a lazy Dask array for Dask and
            zarr; a DataArray on the same grid, with its coordinates, for xarray.
        """
        return self._map(Labels, X, variable, feature_dim)

    def predict_proba(self, X: Any, *, variable: str | None = None, feature_dim: str | None = None) -> Any:
        """Return the responsibilities, shape (n_samples, n_components); of the kinds that `predict` returns."""
        return self._map(Posterior, X, variable, feature_dim)

    def score_samples(self, X: Any, *, variable: str | None = None, feature_dim: str | None = None) -> Any:
        """Return the log-density of each row (nats), shape (n_samples,); of the kinds that `predict` returns."""
        return self._map(LogDensity, X, variable, feature_dim)

    def score(
        self,
        X: Any,
        y: object = None,  # noqa: ARG002
        *,
        variable: str | None = None,
        feature_dim: str | None = None,
    ) -> float:
        """Return the mean log-likelihood per row (nats), in one read."""
        return self._evaluate(X, variable, feature_dim)[0].mean

    def bic(self, X: Any, *, variable: str | None = None, feature_dim: str | None = None) -> float:
        """Return the Bayesian information criterion −2 log L + p log n (Schwarz 1978); lower is better."""
        total = self._evaluate(X, variable, feature_dim)[0]
        return -2.0 * total.total + self._n_parameters() * math.log(total.n_rows)

    def aic(self, X: Any, *, variable: str | None = None, feature_dim: str | None = None) -> float:
        """Return the Akaike information criterion −2 log L + 2p (Akaike 1974); lower is better."""
        return -2.0 * self._evaluate(X, variable, feature_dim)[0].total + 2.0 * self._n_parameters()

    def icl(self, X: Any, *, variable: str | None = None, feature_dim: str | None = None) -> float:
        """Return the integrated completed likelihood BIC + 2 · entropy (Biernacki et al. 2000); lower is better."""
        total, entropy = self._evaluate(X, variable, feature_dim, Entropy)
        bic = -2.0 * total.total + self._n_parameters() * math.log(total.n_rows)
        return bic + 2.0 * entropy.total

    def _evaluate(
        self, data: Any, variable: str | None, feature_dim: str | None, *more: type[Entropy]
    ) -> list[RowTotal]:
        """Return the log-likelihood, and what else is asked for, of all rows in one read."""
        model = self._model()
        rows = inputs.rows_of(self, data, reset=False, variable=variable, feature_dim=feature_dim)
        engine = current_engine()
        try:
            works: list[Work] = [LogLikelihood(*model), *(kind(*model) for kind in more)]
            totals: list[RowTotal] = engine.sweep(rows, works)
            if not math.isfinite(totals[0].total):
                check_rows(rows, engine, model[0].component)
        finally:
            engine.close()
        return totals

    def _n_parameters(self) -> int:
        family, parameters = self._model()
        return family.n_parameters(parameters)

    def sample(self, n_samples: int = 1) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Draw rows from the fitted mixture.

        Parameters
        ----------
        n_samples : int
            Number of rows. For more than fit in memory see `sample_to`.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of int64, shape (n_samples,)
            The components they come from, in increasing order as in scikit-learn.
        """
        family, parameters = self._model()
        if n_samples < 1:
            message = f"n_samples must be at least 1, not {n_samples}"
            raise OptionError(message)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1, size=4))
        labels = np.sort(rng.choice(len(self.weights_), size=n_samples, p=self.weights_ / np.sum(self.weights_)))
        return family.component.draw(parameters.components, labels, rng), labels

    def predict_to(
        self,
        X: Any,
        path: str,
        *,
        kind: str = "labels",
        overwrite: bool = False,
        variable: str | None = None,
        feature_dim: str | None = None,
    ) -> None:
        """Stream labels, responsibilities or log-densities of X into a zarr array, chunk by chunk.

        Parameters
        ----------
        X, variable, feature_dim
            Data as in `fit`.
        path : str
            Where the array is written; it appears there only when it is whole.
        kind : {'labels', 'proba', 'log_density'}
            What is written.
        overwrite : bool
            Whether to replace what is at `path`.
        """
        streams.predict_to(self, X, path, kind=kind, overwrite=overwrite, variable=variable, feature_dim=feature_dim)

    def sample_to(
        self,
        n_rows: int,
        path: str,
        *,
        random_state: int | None = None,
        overwrite: bool = False,
        chunk_rows: int | None = None,
    ) -> None:
        """Stream rows drawn from the mixture into a zarr group with the arrays ``rows`` and ``labels``.

        Parameters
        ----------
        n_rows : int
            Number of rows; memory holds a few chunks of them.
        path : str
            Where the group is written; it appears there only when it is whole.
        random_state : int, optional
            Seed; each chunk has its own stream of random numbers derived from it.
        overwrite : bool
            Whether to replace what is at `path`.
        chunk_rows : int, optional
            Rows per chunk; about 16 MB when left out.
        """
        streams.sample_to(self, n_rows, path, random_state=random_state, overwrite=overwrite, chunk_rows=chunk_rows)

    def save(self, path: str, *, overwrite: bool = False) -> None:
        """Write the fitted model as a zarr group that is readable without dem; see `dem.load`.

        Parameters
        ----------
        path : str
            A directory or URL.
        overwrite : bool
            Whether to replace what is at `path`.
        """
        check_is_fitted(self)
        persistence.save(self, path, overwrite=overwrite)


def _best(fits: list[Fit]) -> Fit:
    """Return the fit with the largest log-likelihood, the first of equals."""
    return max(fits, key=lambda one: one.log_likelihood)
