"""`BayesianGaussianMixture`: scikit-learn's variational Bayes for data larger than memory."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any, cast

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from dem.data.base import Rows
from dem.em.algorithm import Fit
from dem.engine import Engine, Work
from dem.errors import FitError, OptionError
from dem.estimators.gaussian import OfGaussians
from dem.estimators.options import option
from dem.families.base import Component
from dem.families.gaussian.covariance import cholesky_of_precision
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.families.variational import WEIGHT_PRIORS, NormalWishart, VariationalMixture, WeightPrior
from dem.initialise.moments import PairMoments, feature_moments
from dem.initialise.sample import RowSample
from dem.statistics import CentralMoments
from dem.validation import check_array, check_precisions, shape_of_covariances

# What is one number; of degrees of freedom and the prior of covariances by the type of these.
_NUMBERS = ("weight_concentration_prior", "mean_precision_prior", "degrees_of_freedom_prior")
_ABOVE_0 = Interval(Real, 0.0, None, closed="neither")


class BayesianGaussianMixture(OfGaussians):
    """Gaussian mixture with a posterior of its parameters, by variational Bayes, on data in memory or far larger.

    Parameters, attributes and methods are those of `sklearn.mixture.BayesianGaussianMixture`, and from the same start
    every iteration gives its numbers. Components that the data does not need lose their rows: `n_components` is the
    most there may be. Data may be of all the kinds that `GaussianMixture` takes, with weights, labels, missing values,
    errors and limits, by batch, incremental and stepwise EM and with SQUAREM, on threads or a Dask cluster.

    The model is one for all types of covariance: each component has its own precision matrix Λ ~ Wishart, and a mean
    μ ~ N(`mean_prior`, (`mean_precision_prior` Λ)⁻¹). The type says of what form the scale matrix of the posterior is:
    any, one that all components share, diagonal, or a multiple of the identity. Bounds of different types can so be
    compared if the priors are the same, which those from the data are not.

    Parameters
    ----------
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Shape of the covariances.
    reg_covar : float, default=1e-6
        A variance that each row has besides, in squared units of the data.
    weight_concentration_prior_type : {'dirichlet_process', 'dirichlet_distribution'}, default='dirichlet_process'
        Whether the weights come from breaking a stick (the first components are the largest), or from a symmetric
        Dirichlet distribution.
    weight_concentration_prior : float, optional
        The smaller, the fewer components keep rows; 1 / n_components by default.
    mean_precision_prior : float, optional
        For how many rows the prior of a mean counts; 1 by default.
    mean_prior : array-like of shape (n_features,), optional
        The mean of all rows by default, found on the read of the sample.
    degrees_of_freedom_prior : float, optional
        For how many rows the prior of a covariance counts: more than n_features − 1; n_features by default.
    covariance_prior : float or array-like, optional
        Shape (n_features, n_features) for full and tied covariances, (n_features,) for diagonal ones, else a number.
        By default the covariance of all rows, or their variances, or the mean of these. A value that is missing has no
        part in them. In a stream they are of the first rows.
    weight_concentration : float, default=1.0
        Of mixtures without a posterior: it stays as it is.
    tol : float, default=1e-3
        It stops when the lower bound per row changes by less.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Expected weights.
    weight_concentration_ : ndarray
        Of a Dirichlet distribution α, shape (n_components,); of a Dirichlet process the a and b of each Beta
        distribution, shape (2, n_components).
    mean_precision_ : ndarray of shape (n_components,)
    means_ : ndarray of shape (n_components, n_features)
        Expected means.
    degrees_of_freedom_ : ndarray of shape (n_components,)
        Of the Wishart distributions; one number for tied covariances.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Inverses of the expected precisions, these, and their factors: full (K, d, d), tied (d, d), diag (K, d),
        spherical (K,).
    weight_concentration_prior_, mean_precision_prior_, degrees_of_freedom_prior_ : float
    mean_prior_ : ndarray of shape (n_features,)
    covariance_prior_ : ndarray, or float for spherical covariances
    lower_bound_ : float
        The evidence lower bound per row (nats), of the posterior that entered the last iteration: the logarithm of the
        density of all rows given the priors is larger. Scikit-learn's `lower_bound_` is another: it leaves out terms
        that differ between numbers of components and between priors, and is not divided by the number of rows. The one
        here may fall by what `reg_covar` costs alone. ``dem.select(…, criterion="lower_bound")`` chooses by it.
        `score` and the other criteria are of the expected parameters.

    References
    ----------
    Attias, H. (2000). A variational Bayesian framework for graphical models. NIPS 12. Bishop, C. M. (2006). Pattern
    recognition and machine learning, 10.2. Blei, D. M. and Jordan, M. I. (2006). Variational inference for Dirichlet
    process mixtures. Bayesian Analysis 1.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(300, 2)), 8 + rng.normal(size=(100, 2))])
    >>> bgm = dem.BayesianGaussianMixture(n_components=6, tol=1e-6, max_iter=1000, random_state=0).fit(X)
    >>> int((bgm.weights_ > 0.01).sum())
    2
    """

    covariance_type: str = option(StrOptions({"full", "tied", "diag", "spherical"}), default="full")
    weight_concentration_prior_type: str = option(StrOptions(set(WEIGHT_PRIORS)), default="dirichlet_process")
    weight_concentration_prior: float | None = option(None, _ABOVE_0, default=None)
    mean_precision_prior: float | None = option(None, _ABOVE_0, default=None)
    mean_prior: ArrayLike | None = option(None, "array-like", default=None)
    degrees_of_freedom_prior: float | None = option(None, _ABOVE_0, default=None)
    covariance_prior: float | ArrayLike | None = option(None, "array-like", _ABOVE_0, default=None)

    #: of a posterior that has learned from rows, more rows make another one, as `partial_fit` does
    _adapts = False

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        names = ("weights", "means", "covariances", "precisions_cholesky")
        posterior = ("weight_concentration", "mean_precision", "degrees_of_freedom")
        return (*names, *posterior, *_NUMBERS, "mean_prior", "covariance_prior")

    def _component(self) -> Component[Any, Any]:
        return self._gaussian()

    def _component_as_fitted(self) -> Component[Any, Any]:
        return self._gaussian_as_fitted()

    def _family(self, component: Component[Any, Any] | None = None) -> VariationalMixture:
        plain = super()._family(component)
        family = VariationalMixture(plain.component, True, plain.top_components, plain.marginalises)
        if "mean_prior_" not in vars(self):
            return family
        known: dict[str, Any] = {name: vars(self)[f"{name}_"] for name in (*_NUMBERS, "mean_prior", "covariance_prior")}
        return replace(family, weight_prior=self._weight_prior(known), prior=_normal_wishart(known))

    def _weight_prior(self, known: dict[str, Any]) -> WeightPrior:
        return WEIGHT_PRIORS[self.weight_concentration_prior_type](float(known["weight_concentration_prior"]))

    def _measures(self) -> tuple[Work, ...]:
        if self.mean_prior is not None and self.covariance_prior is not None:
            return ()
        return (PairMoments.of if self._has_matrices else feature_moments,)

    @property
    def _has_matrices(self) -> bool:
        return self.covariance_type in ("full", "tied")

    def _sample(self, rows: Rows, engine: Engine, random_state: RandomState) -> RowSample:
        """Return the sample; where it is not all the rows, its rows count for these, as against the prior."""
        sample = super()._sample(rows, engine, random_state)
        if sample.complete:
            return sample
        weights = np.ones(len(sample.rows)) if sample.chunk.weights is None else sample.chunk.weights
        weights = weights * (sample.total_weight / weights.sum())
        return replace(sample, chunk=replace(sample.chunk, weights=weights))

    def _family_for(self, rows: Rows, engine: Engine, sample: RowSample) -> Mixture[Any, Any]:
        given = self._given_priors(sample.rows.shape[1])
        known = given
        if works := self._measures():
            found = sample.found[0] if sample.found else None
            if not isinstance(found, PairMoments if self._has_matrices else PairMoments | CentralMoments):
                # Data that are the sample are not read again; of several models another may have drawn it, for less.
                found = works[0](sample.chunk) if sample.complete else engine.sweep(rows, works)[0]
            known = self._proper({**self._priors_of(found), **given})
        family = VariationalMixture(
            self._adapted(rows, engine, sample), True, self.top_components, self.missing == "marginalise"
        )
        return replace(family, weight_prior=self._weight_prior(known), prior=_normal_wishart(known))

    def _given_priors(self, n_features: int) -> dict[str, Any]:
        """Return the checked priors, but for those that the data tells."""
        concentration, precision = self.weight_concentration_prior, self.mean_precision_prior
        dof = float(n_features if self.degrees_of_freedom_prior is None else self.degrees_of_freedom_prior)
        if not dof > n_features - 1:
            message = (
                "The parameter 'degrees_of_freedom_prior' should be greater than "
                f"{n_features - 1}, but got {dof:.3f}: more than the number of features less one"
            )
            raise OptionError(message)
        given: dict[str, Any] = {
            "weight_concentration_prior": 1.0 / self.n_components if concentration is None else float(concentration),
            "mean_precision_prior": 1.0 if precision is None else float(precision),
            "degrees_of_freedom_prior": dof,
        }
        if self.mean_prior is not None:
            given["mean_prior"] = check_array("mean_prior", self.mean_prior, (n_features,), "means")
        if self.covariance_prior is not None:
            # It has the shape of the covariance of one component.
            names = ("covariance_prior", "covariance_prior")
            kind = "full" if self._has_matrices else self.covariance_type
            shape = shape_of_covariances(kind, 1, n_features)[1:]
            prior = check_array(names[0], self.covariance_prior, shape, names[1])[np.newaxis]
            given["covariance_prior"] = check_precisions(prior, kind, 1, n_features, names)[0]
        return given

    def _priors_of(self, found: PairMoments | CentralMoments) -> dict[str, Any]:
        """Return the priors that the moments of all rows tell."""
        features = found.features if isinstance(found, PairMoments) else found
        covariance = features.scatter[:, 0] / np.maximum(features.counts - 1.0, 0.5 * features.counts)
        if isinstance(found, PairMoments) and self._has_matrices:
            covariance = found.covariance
        elif self.covariance_type == "spherical":
            units = 1.0 if self._units is None else self._units
            covariance = np.asarray(np.mean(covariance / np.square(units)))
        return {"mean_prior": features.means[:, 0], "covariance_prior": covariance}

    def _proper(self, known: dict[str, Any]) -> dict[str, Any]:
        """Return the priors with what `reg_covar` adds to rows where a variance is 0: else they have no density."""
        covariance, dof = known["covariance_prior"], known["degrees_of_freedom_prior"]
        units = 1.0 if self._units is None or self.covariance_type == "spherical" else self._units
        ridge = dof * self.reg_covar * np.square(units)
        if not self._has_matrices:
            return {**known, "covariance_prior": np.where(covariance > 0.0, covariance, ridge)}
        try:
            cholesky_of_precision(covariance, "the prior")
        except FitError:
            covariance = covariance + np.diag(np.broadcast_to(ridge, len(covariance)))
        return {**known, "covariance_prior": covariance}

    def _start(
        self,
        family: Mixture[Any, Any],
        rows: Rows,
        engine: Engine,
        sample: RowSample,
        random_state: RandomState,
    ) -> MixtureParameters[Any]:
        if (weights := super()._initial_values(rows.n_features).get("weights")) is None:
            return super()._start(family, rows, engine, sample, random_state)
        start: Any = super()._start(family, rows, engine, sample, random_state)
        return cast("VariationalMixture", family).of_counts(start.components, start.counts.sum() * weights)

    def _check_options(self) -> None:
        super()._check_options()
        if self.weight_concentration != 1.0:
            message = "weight_concentration is for point estimates; give weight_concentration_prior"
            raise OptionError(message)

    def _check_goes_on(self) -> None:
        super()._check_goes_on()
        given = {name: getattr(self, name) for name in (*_NUMBERS, "mean_prior", "covariance_prior")}
        other = [name for name, value in given.items() if not _agrees(value, getattr(self, f"{name}_"))]
        if np.shape(self.weight_concentration_) != self._shape("weight_concentration", self.n_components, 0):
            other.append("weight_concentration_prior_type")
        if other:
            message = f"{other[0]} is not that of the fitted model, which is to go on; set it back, or fit anew"
            raise OptionError(message)

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *more: Any) -> None:
        """Set the fitted attributes, and what they round: the counts are differences of these."""
        super()._keep(history, family, best, *more)
        self._raw |= {name: getattr(best.parameters, name) for name in ("weights", "counts", "expected_logs")}

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of a fitted array; see `Estimator._shape`."""
        process = self.weight_concentration_prior_type == "dirichlet_process"
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(_NUMBERS, (1,)),  # of numbers too, files have arrays
            "weight_concentration": (2, size) if process else (size,),
            "degrees_of_freedom": (1,) if self.covariance_type == "tied" else (size,),
            "mean_prior": (n_features,),
            "covariance_prior": {"diag": (n_features,), "spherical": (1,)}.get(
                self.covariance_type, (n_features, n_features)
            ),
        }
        return shapes.get(name) or super()._shape(name, size, n_features)

    def _complete(self) -> None:
        super()._complete()
        numbers = [*_NUMBERS, *(["degrees_of_freedom"] if self.covariance_type == "tied" else [])]
        for name in numbers if self.covariance_type != "spherical" else [*numbers, "covariance_prior"]:
            setattr(self, f"{name}_", np.asarray(getattr(self, f"{name}_")).item())


def _normal_wishart(known: dict[str, Any]) -> NormalWishart:
    """Return the prior by scikit-learn's names."""
    mean, covariance = (np.asarray(known[name], dtype=np.float64) for name in ("mean_prior", "covariance_prior"))
    scale = covariance if covariance.ndim else float(covariance)
    return NormalWishart(known["mean_precision_prior"], known["degrees_of_freedom_prior"], mean, scale)


def _agrees(given: Any, fitted: NDArray[Any]) -> bool:
    """Tell whether a prior that is given, or left out, is that of a fit."""
    if given is None:
        return True
    return np.shape(given) == np.shape(fitted) and bool(np.allclose(given, fitted, rtol=1e-9, atol=0.0))
