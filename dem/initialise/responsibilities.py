"""Starts on a sample in memory, with scikit-learn's meaning and, for the same `random_state`, its numbers."""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState

from dem.families.base import Array

#: start methods that look at the sample alone
SAMPLE_METHODS = ("kmeans", "k-means++", "random", "random_from_data")


def start_responsibilities(method: str, sample: Array, n_components: int, random_state: RandomState) -> Array:
    """Return responsibilities of the sample's rows from which EM starts.

    Parameters
    ----------
    method : {'kmeans', 'k-means++', 'random', 'random_from_data'}
        As `init_params` of `sklearn.mixture.GaussianMixture`.
    sample : ndarray of shape (n, n_features)
    n_components : int
    random_state : numpy.random.RandomState
        Consumed exactly as scikit-learn does.

    Returns
    -------
    ndarray of shape (n, n_components)
    """
    # Imported late: workers that only draw a sample need not load scikit-learn.
    from sklearn.cluster import KMeans, kmeans_plusplus  # noqa: PLC0415

    n_rows = len(sample)
    if method == "random":
        responsibilities = random_state.uniform(size=(n_rows, n_components))
        return np.asarray(responsibilities / responsibilities.sum(axis=1, keepdims=True))
    responsibilities = np.zeros((n_rows, n_components))
    if method == "kmeans":
        labels = KMeans(n_clusters=n_components, n_init=1, random_state=random_state).fit(sample).labels_
        responsibilities[np.arange(n_rows), labels] = 1.0
        return responsibilities
    if method == "k-means++":
        _, chosen = kmeans_plusplus(sample, n_components, random_state=random_state)
    else:
        chosen = random_state.choice(n_rows, size=n_components, replace=False)
    responsibilities[chosen, np.arange(n_components)] = 1.0
    return responsibilities
