"""`BinomialMixture` and `BernoulliMixture`: mixtures of independent counts of successes."""

from __future__ import annotations

from numpy.typing import ArrayLike

from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import POSITIVE, option
from dem.families.binomial import BinomialComponent


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
    """Mixture of independent binomial features: each value counts the successes in `n_trials` trials.

    Parameters
    ----------
    n_trials : int, default=1
        Number of trials behind every value.
    probabilities_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    probabilities_ : ndarray of shape (n_components, n_features)
        Probability of success.

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

    n_trials: int = option(POSITIVE, default=1, kw_only=False)
    probabilities_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> BinomialComponent:
        return BinomialComponent(self.n_trials)
