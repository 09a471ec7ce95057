"""What all mixture estimators share: scoring and drawing with scikit-learn's face."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state

from dem.data.sources import SourceOptions
from dem.em.predict import ROW_FUNCTIONS, Entropy, LogDensity, LogLikelihood, Posterior, RowTotal
from dem.engine import Work, current_engine
from dem.estimators import inputs, streams
from dem.estimators.criteria import Criteria
from dem.estimators.options import option
from dem.estimators.partial import LearnsFromStreams
from dem.families.exponential_family import ExponentialFamily
from dem.families.mixture import Mixture
from dem.validation import check_bounded, check_count, check_rows, check_weights


class MixtureEstimator(DensityMixin, LearnsFromStreams):
    """Base of the mixtures: a model that `fit` has fitted, in use."""

    _row_functions = ROW_FUNCTIONS

    def fit_predict(
        self,
        X: Any,
        y: object = None,
        **source: Unpack[SourceOptions],
    ) -> Any:
        """Fit the mixture and return the labels of X; see `fit` and `predict`."""
        return self.fit(X, y, **source).predict(X, **source)

    def predict_proba(self, X: Any, **source: Unpack[SourceOptions]) -> Any:
        """Return the responsibilities, shape (n_samples, n_components); of the kinds that `predict` returns."""
        return self._map(Posterior, X, source)

    def score_samples(self, X: Any, **source: Unpack[SourceOptions]) -> Any:
        """Return the log-density of each row (nats), shape (n_samples,); of the kinds that `predict` returns."""
        return self._map(LogDensity, X, source)

    def score(
        self,
        X: Any,
        y: object = None,  # noqa: ARG002
        **source: Unpack[SourceOptions],
    ) -> float:
        """Return the mean log-likelihood per row (nats), in one read."""
        return self._criteria(X, source).log_likelihood.mean

    def bic(self, X: Any, **source: Unpack[SourceOptions]) -> float:
        """Return the Bayesian information criterion −2 log L + p log n (Schwarz 1978); lower is better."""
        return self._criteria(X, source).bic

    def aic(self, X: Any, **source: Unpack[SourceOptions]) -> float:
        """Return the Akaike information criterion −2 log L + 2p (Akaike 1974); lower is better."""
        return self._criteria(X, source).aic

    def icl(self, X: Any, **source: Unpack[SourceOptions]) -> float:
        """Return the integrated completed likelihood BIC + 2 · entropy (Biernacki et al. 2000); lower is better."""
        return self._criteria(X, source, Entropy).icl

    def _criteria(self, data: Any, source: SourceOptions, *more: type[Entropy]) -> Criteria:
        """Return what the model is worth on data, in one read."""
        model = self._model()
        rows = inputs.rows_of(self, data, reset=False, **source)
        works: list[Work] = [LogLikelihood(*model), *(kind(*model) for kind in more)]
        with current_engine() as engine:
            totals: list[RowTotal] = engine.sweep(rows, works)
            if not math.isfinite(totals[0].total):
                check_rows(rows, engine, model[0].support)
        return Criteria(totals[0], model[0].n_parameters(model[1]), *totals[1:])

    def _n_parameters(self) -> int:
        """Return the number of free parameters, under scikit-learn's name."""
        family, parameters = self._model()
        return int(family.n_parameters(parameters))

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
        check_count("n_samples", n_samples)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1, size=4))
        labels = np.sort(rng.choice(len(self.weights_), size=n_samples, p=self.weights_ / np.sum(self.weights_)))
        return family.component.sample(parameters.components, labels, rng), labels

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

    def _family(self) -> Mixture[Any, Any]:
        return Mixture(self._component(), self.fit_weights, self.top_components)

    def _fitted_family(self) -> Mixture[Any, Any]:
        return self._family()

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values: dict[str, NDArray[Any]] = {}
        if self.weights_init is not None:
            values["weights"] = check_weights(self.weights_init, self.n_components)
        component = self._component()
        name = f"{component.parameter}_init"
        if (given := getattr(self, name)) is not None:
            values[component.parameter] = check_bounded(name, given, (self.n_components, n_features), component.bounds)
        return values

    def _fixed_values(self) -> dict[str, NDArray[Any]]:
        return {} if self.fit_weights else {"weights": np.full(self.n_components, 1.0 / self.n_components)}
