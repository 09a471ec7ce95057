"""`BinomialMixture` and `BernoulliMixture`: mixtures of independent counts of successes."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval

from dem.estimators.base import MixtureEstimator
from dem.events import Callback
from dem.families.binomial import BinomialComponent
from dem.families.mixture import Mixture
from dem.validation import check_probabilities, check_weights


class BernoulliMixture(MixtureEstimator):
    """Mixture of independent binary features, fitted by expectation–maximisation.

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    fit_weights : bool, default=True
        Whether EM updates the weights; else they stay as they start (equal without `weights_init`).
    probabilities_init : array-like of shape (n_components, n_features), optional
        Start given by the user.
    weights_init : array-like of shape (n_components,), optional
        Start given by the user.
    algorithm, max_in_flight, step_power, accelerate, top_components, callbacks
        As in `GaussianMixture`.
    tol, max_iter, n_init, racing, init_params, random_state, warm_start, verbose, verbose_interval, sample_rows
        As in `GaussianMixture`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    probabilities_ : ndarray of shape (n_components, n_features)
        Probability of a 1.
    converged_, n_iter_, lower_bound_, lower_bounds_, history_, n_samples_seen_, n_features_in_, feature_names_in_
        As in `GaussianMixture`.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> X = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]])
    >>> bm = dem.BernoulliMixture(n_components=2, random_state=0).fit(X)
    >>> bm.predict(X).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MixtureEstimator._parameter_constraints,
        "fit_weights": ["boolean"],
        "probabilities_init": ["array-like", None],
    }
    _parameter_names = ("weights", "probabilities")
    _centres = "probabilities"

    def __init__(
        self,
        n_components: int = 1,
        *,
        fit_weights: bool = True,
        tol: float = 1e-3,
        max_iter: int = 100,
        algorithm: str = "batch",
        max_in_flight: int | None = None,
        step_power: float = 0.7,
        n_init: int = 1,
        racing: bool = False,
        init_params: str = "kmeans",
        weights_init: ArrayLike | None = None,
        probabilities_init: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        sample_rows: int | None = None,
        accelerate: str | None = None,
        top_components: int | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        self.n_components = n_components
        self.fit_weights = fit_weights
        self.tol = tol
        self.max_iter = max_iter
        self.algorithm = algorithm
        self.max_in_flight = max_in_flight
        self.step_power = step_power
        self.n_init = n_init
        self.racing = racing
        self.init_params = init_params
        self.weights_init = weights_init
        self.probabilities_init = probabilities_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.sample_rows = sample_rows
        self.accelerate = accelerate
        self.top_components = top_components
        self.callbacks = callbacks

    def _component(self) -> BinomialComponent:
        return BinomialComponent(1)

    def _family(self) -> Mixture[Any, Any]:
        return Mixture(self._component(), self.fit_weights, self.top_components)

    def _fitted_family(self) -> Mixture[Any, Any]:
        return self._family()

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values: dict[str, NDArray[Any]] = {}
        if self.weights_init is not None:
            values["weights"] = check_weights(self.weights_init, self.n_components)
        if self.probabilities_init is not None:
            values["probabilities"] = check_probabilities(self.probabilities_init, self.n_components, n_features)
        return values

    def _fixed_values(self) -> dict[str, NDArray[Any]]:
        return {} if self.fit_weights else {"weights": np.full(self.n_components, 1.0 / self.n_components)}


class BinomialMixture(BernoulliMixture):
    """Mixture of independent binomial features: each value counts the successes in `n_trials` trials.

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    n_trials : int, default=1
        Number of trials behind every value.
    fit_weights, probabilities_init, weights_init
        As in `BernoulliMixture`.
    algorithm, max_in_flight, step_power, accelerate, top_components, callbacks
        As in `GaussianMixture`.
    tol, max_iter, n_init, racing, init_params, random_state, warm_start, verbose, verbose_interval, sample_rows
        As in `GaussianMixture`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    probabilities_ : ndarray of shape (n_components, n_features)
        Probability of success.
    converged_, n_iter_, lower_bound_, lower_bounds_, history_, n_samples_seen_, n_features_in_, feature_names_in_
        As in `GaussianMixture`.

    References
    ----------
    Do, C. B. and Batzoglou, S. (2008). What is the expectation maximization algorithm? Nature Biotechnology 26.

    Examples
    --------
    Five sets of ten tosses, each with one of two coins (Do and Batzoglou 2008):

    >>> import dem
    >>> coins = dem.BinomialMixture(2, 10, probabilities_init=[[0.6], [0.5]], fit_weights=False, tol=0, max_iter=10)
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     print(coins.fit([[5], [9], [8], [4], [7]]).probabilities_.ravel().round(5))
    [0.79674 0.51966]
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BernoulliMixture._parameter_constraints,
        "n_trials": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 1,
        n_trials: int = 1,
        *,
        fit_weights: bool = True,
        tol: float = 1e-3,
        max_iter: int = 100,
        algorithm: str = "batch",
        max_in_flight: int | None = None,
        step_power: float = 0.7,
        n_init: int = 1,
        racing: bool = False,
        init_params: str = "kmeans",
        weights_init: ArrayLike | None = None,
        probabilities_init: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        sample_rows: int | None = None,
        accelerate: str | None = None,
        top_components: int | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        super().__init__(
            n_components,
            fit_weights=fit_weights,
            tol=tol,
            max_iter=max_iter,
            algorithm=algorithm,
            max_in_flight=max_in_flight,
            step_power=step_power,
            n_init=n_init,
            racing=racing,
            init_params=init_params,
            weights_init=weights_init,
            probabilities_init=probabilities_init,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
            verbose_interval=verbose_interval,
            sample_rows=sample_rows,
            accelerate=accelerate,
            top_components=top_components,
            callbacks=callbacks,
        )
        self.n_trials = n_trials

    def _component(self) -> BinomialComponent:
        return BinomialComponent(self.n_trials)
