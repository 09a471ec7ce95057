"""`BinomialMixture` and `BernoulliMixture`: mixtures of independent counts of successes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dem.data.base import Chunk
from dem.data.rules import TrialsRule, refuse
from dem.errors import OptionError
from dem.estimators import inputs
from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import POSITIVE, option
from dem.families.binomial import BinomialComponent
from dem.families.trials import TrialsComponent
from dem.initialise.sample import RowSample


class BernoulliMixture(IndependentFeaturesMixture):
    """Mixture of independent binary features, fitted by expectation–maximisation.

    Parameters
    ----------
    probabilities_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    probabilities_ : ndarray of shape (n_components, n_features)
        Probability of a 1.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> X = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]])
    >>> bm = dem.BernoulliMixture(n_components=2, random_state=0).fit(X)
    >>> bm.predict(X).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """

    probabilities_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> BinomialComponent:
        return BinomialComponent(1)


class BinomialMixture(IndependentFeaturesMixture):
    """Mixture of independent binomial features: each value counts the successes in some trials, `n_trials`.

    Where rows differ in their trials, these go with the rows: ``fit(X, trials=m)``, and so with `predict` and all else
    that takes rows. They are whole numbers of at least 0, of each row, (n_samples,), or of each value, (n_samples,
    n_features): of any kind of data that X may be, or the names of variables or columns of X (``--trials NAME``). 0 of
    0 trials tell nothing of a component, nor does a value that is missing (``missing="marginalise"``).

    Parameters
    ----------
    n_trials : int or array-like of shape (n_features,), optional
        Number of trials behind every value, or behind those of each column (``--trials 10,10,4``). If it is left out,
        each row comes with its own.
    probabilities_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    probabilities_ : ndarray of shape (n_components, n_features)
        Probability of success.
    row_trials_ : ndarray of shape (n_components, n_features)
        Without `n_trials`, the mean number of trials of the rows of each component. No density depends on it.

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

    As many heads in sets of other lengths:

    >>> coins = dem.BinomialMixture(2, random_state=0).fit([[5], [9], [8], [40], [7]], trials=[10, 10, 10, 90, 10])
    >>> coins.predict([[50], [10]], trials=[60, 25]).tolist() == coins.predict([[9], [4]], trials=[10, 10]).tolist()
    True
    """

    n_trials: int | ArrayLike | None = option(POSITIVE, "array-like", None, default=None, kw_only=False)
    probabilities_init: ArrayLike | None = option("array-like", None, default=None)

    @property
    def _needs(self) -> Mapping[str, str]:
        return {"trials": "n_trials"} if self.n_trials is None else {}

    @property
    def _knows(self) -> frozenset[str]:
        return frozenset(self._needs)

    def _component(self) -> BinomialComponent | TrialsComponent:
        if self.n_trials is None:
            return TrialsComponent()
        given = self._trials_given()
        return BinomialComponent(int(given) if given.ndim == 0 else tuple(map(int, given)))

    def _trials_given(self) -> NDArray[Any]:
        """Return `n_trials`, of no dimension or of shape (n_features,); raises `OptionError`."""
        try:
            given = np.asarray(self.n_trials)
        except ValueError:  # lists of different lengths
            given = np.empty(0)
        if given.ndim > 1 or given.dtype.kind not in "iu" or (given < 1).any():
            message = f"n_trials must be a whole number of at least 1, or one for each column, not {self.n_trials!r}"
            raise OptionError(message)
        return given

    def _given_start(self, sample: RowSample) -> dict[str, NDArray[Any]]:
        if self.n_trials is not None:
            return super()._given_start(sample)
        successes, trials = np.hsplit(sample.rows, 2)
        given = super()._given_start(replace(sample, chunk=replace(sample.chunk, rows=successes)))
        if "probabilities" in given:
            means = np.average(trials, axis=0, weights=sample.chunk.weights)
            given["row_trials"] = np.broadcast_to(means, given["probabilities"].shape)
        return given

    def _chunk_of_start(self, sample: RowSample) -> Chunk:
        """Return a sample with the successes that as many trials in all rows would have brought."""
        if self.n_trials is not None:
            return super()._chunk_of_start(sample)
        successes, trials = np.hsplit(sample.rows, 2)
        pooled = successes.sum(axis=0) / np.maximum(trials.sum(axis=0), 1.0)
        shares = np.where(trials > 0.0, successes / np.where(trials > 0.0, trials, 1.0), pooled)
        return replace(sample.chunk, rows=shares * trials.mean(axis=0))

    def sample(self, n_samples: int = 1, trials: Any = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Draw rows from the fitted mixture; without `n_trials`, of the trials that are given.

        Parameters
        ----------
        n_samples : int
            Number of rows.
        trials : int or array of shape (n_samples,) or (n_samples, n_features), optional
            Of all rows, or of each: row i has those at i.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of int64, shape (n_samples,)
            The components they come from, in increasing order as in scikit-learn.
        """
        given = {} if trials is None else {"trials": trials}
        inputs.check_known(self, given)
        if not given:
            return super().sample(n_samples)
        family, parameters, labels, rng = self._labels_drawn(n_samples)
        each = np.full(n_samples, trials) if np.ndim(trials) == 0 else np.asarray(trials)
        if len(each) != n_samples:
            message = f"trials has {len(each)} entries for {n_samples} rows; give one for each"
            raise OptionError(message)
        each = TrialsRule(self.n_features_in_)("trials", each, range(n_samples))
        refuse(np.isnan(each), "trials", each, range(n_samples), "numbers of trials are whole and not negative")
        probabilities = family.to_user(parameters)["probabilities"]
        return rng.binomial(each.reshape(n_samples, -1).astype(np.int64), probabilities[labels]), labels

    def _check_options(self) -> None:
        super()._check_options()
        if self.n_trials is None:
            if self.init_params == "k-means||":
                message = "init_params='k-means||' compares counts, not shares of trials of each row; give 'kmeans'"
                raise OptionError(message)
        else:
            self._trials_given()

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        if self.n_trials is not None and np.ndim(self.n_trials) and np.size(self.n_trials) != n_features:
            message = f"n_trials tells of {np.size(self.n_trials)} columns, but there are {n_features}"
            raise OptionError(message)
        return super()._initial_values(n_features)
