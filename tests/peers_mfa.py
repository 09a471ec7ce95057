"""Factor analysers and probabilistic PCA beside the peers of dem; see `peers`."""

from __future__ import annotations

import numpy as np
from cases import LOADINGS, factor_rows
from peers import Comparisons, difference

import dem

_EXACTLY = {"reg_covar": 0.0, "tol": 1e-14, "max_iter": 5000, "random_state": 0}


def _one_analyser() -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.normal(size=(1000, 2)) @ LOADINGS[0].T + rng.uniform(0.5, 1.5, 10) * rng.normal(size=(1000, 10))


def factor_analysis() -> float:
    """Log-likelihood and covariance of one factor analyser (scikit-learn's `FactorAnalysis`)."""
    from sklearn.decomposition import FactorAnalysis

    rows = _one_analyser()
    ours = dem.FactorAnalyzerMixture(n_factors=2, algorithm="auto", **_EXACTLY).fit(rows)
    theirs = FactorAnalysis(2, tol=1e-11, max_iter=20_000, svd_method="lapack").fit(rows)
    covariances = difference(ours.get_covariance(0), theirs.get_covariance())
    return max(difference(ours.score(rows), theirs.score(rows)), covariances)


def probabilistic_pca() -> float:
    """Covariance and densities of one component of probabilistic PCA (scikit-learn's `PCA`, which divides by n − 1)."""
    from sklearn.decomposition import PCA

    rows = _one_analyser()
    ours = dem.FactorAnalyzerMixture(n_factors=2, noise_type="spherical", **_EXACTLY).fit(rows)
    theirs = PCA(2).fit(rows)
    return difference(ours.get_covariance(0), theirs.get_covariance() * (len(rows) - 1) / len(rows))


def densities() -> float:
    """Densities under a mixture of factor analysers (scikit-learn's `GaussianMixture` with its covariances)."""
    from sklearn.mixture import GaussianMixture

    rows = factor_rows()
    ours = dem.FactorAnalyzerMixture(3, n_factors=2, random_state=0).fit(rows)
    theirs = GaussianMixture(3)
    theirs.weights_, theirs.means_ = ours.weights_, ours.means_
    roots = [np.linalg.cholesky(ours.get_covariance(k)) for k in range(3)]
    theirs.precisions_cholesky_ = np.linalg.inv(roots).swapaxes(1, 2)
    return difference(ours.score_samples(rows), theirs.score_samples(rows))


#: what is compared, the function, and how far both may be apart
COMPARISONS: Comparisons = {
    "factor analysis": (
        "log-likelihood and covariance of one factor analyser, each at its own end | scikit-learn `FactorAnalysis`",
        factor_analysis,
        1e-6,
    ),
    "probabilistic PCA": (
        "covariance of one component of probabilistic PCA | scikit-learn `PCA`",
        probabilistic_pca,
        1e-6,
    ),
    "densities of factor analysers": (
        "densities under a mixture of factor analysers | scikit-learn `GaussianMixture` with their covariances",
        densities,
        1e-10,
    ),
}
