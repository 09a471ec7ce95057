"""Variational Bayes beside scikit-learn's, iteration by iteration; see `peers`."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
from peers import Comparisons, difference
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

import dem

POSTERIOR = ("weights_", "weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_", "covariances_")
POSTERIOR = (*POSTERIOR, "precisions_", "precisions_cholesky_")
PRIORS = ("weight_concentration_prior_", "mean_precision_prior_", "mean_prior_", "degrees_of_freedom_prior_")
PRIORS = (*PRIORS, "covariance_prior_")


def _rows() -> np.ndarray:
    """Return rows of four components in four features, far from the origin."""
    rng = np.random.default_rng(11)
    mixing = np.eye(4) + 0.4 * rng.normal(size=(4, 4))
    centres, labels = 3.0 * rng.normal(size=(4, 4)), rng.choice(4, size=900, p=[0.5, 0.3, 0.15, 0.05])
    return np.asarray(centres[labels] + rng.normal(size=(900, 4)) @ mixing + 50.0)


def iterations(kind: str, weight_prior: str) -> float:
    """All fitted numbers, responsibilities and densities after some iterations."""
    rows, worst = _rows(), 0.0
    for n in (1, 2, 3, 10, 60):
        options = {"n_components": 7, "max_iter": n, "tol": 0.0, "random_state": 2, "covariance_type": kind}
        options["weight_concentration_prior_type"] = weight_prior
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            ours = dem.BayesianGaussianMixture(**options).fit(rows)
            theirs = BayesianGaussianMixture(**options).fit(rows)
        found = [difference(getattr(ours, name), getattr(theirs, name)) for name in (*POSTERIOR, *PRIORS)]
        found += [difference(ours.predict_proba(rows), theirs.predict_proba(rows))]
        worst = max(worst, *found, difference(ours.score_samples(rows), theirs.score_samples(rows)))
    return worst


COMPARISONS: Comparisons = {
    f"variational Bayes, {kind} covariances, {weight_prior}": (
        f"`dem.BayesianGaussianMixture`, {kind}, {weight_prior}: 1 to 60 iterations, all numbers | scikit-learn",
        partial(iterations, kind, weight_prior),
        1e-8,
    )
    for kind in ("full", "tied", "diag", "spherical")
    for weight_prior in ("dirichlet_process", "dirichlet_distribution")
}
