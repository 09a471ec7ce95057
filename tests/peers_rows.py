"""Rows as they are (gaps, limits, backgrounds, heavy tails) beside the peers of dem; see `peers`."""

from __future__ import annotations

import numpy as np
from cases import gaussian_rows
from peers import Comparisons, difference, r

import dem

#: the page of the docs that has the table
PAGE = "rows.md"


def _model(**options: object) -> dem.GaussianMixture:
    return dem.GaussianMixture(3, random_state=0, **options).fit(gaussian_rows())


def _two_of_three_unknown() -> tuple[np.ndarray, np.ndarray]:
    """Return rows and which entries are observed: one of each (askcarl fails where one alone is not)."""
    return gaussian_rows(200, seed=9), np.arange(3) == np.arange(200)[:, np.newaxis] % 3


def densities_of_gaps() -> float:
    """Densities of incomplete rows under one mixture: askcarl has a limit far away for a gap."""
    import askcarl

    model, (rows, observed) = _model(missing="marginalise"), _two_of_three_unknown()
    theirs = askcarl.GaussianMixture(model.weights_, model.means_, model.covariances_)
    gaps = np.where(observed, rows, np.nan)
    return difference(model.score_samples(gaps), theirs.logpdf(np.where(observed, rows, 1e3), observed))


def apples() -> float:
    """Means and covariances of the apple data, a third of whose second feature is missing (as mvnmle publishes)."""
    fruits = [8, 6, 11, 22, 14, 17, 18, 24, 19, 23, 26, 40, 4, 4, 5, 6, 8, 10]
    wormy = [59, 58, 56, 53, 50, 45, 43, 42, 39, 38, 30, 27, *(6 * [np.nan])]
    options = {"missing": "marginalise", "reg_covar": 0.0, "tol": 1e-14, "max_iter": 5000}
    ours = dem.GaussianMixture(**options).fit(np.column_stack([fruits, wormy]))
    published = [14.722222, 49.333333, 89.533951, -90.696729, -90.696729, 114.694955]
    return difference([*ours.means_[0], *ours.covariances_[0].ravel()], published)


def densities_of_limits() -> float:
    """Densities of rows with two upper limits each under one mixture of diagonal covariances."""
    import askcarl

    model, (rows, observed) = _model(covariance_type="diag"), _two_of_three_unknown()
    matrices = model.covariances_[:, :, np.newaxis] * np.eye(3)
    theirs = askcarl.GaussianMixture(model.weights_, model.means_, matrices)
    ours = model.score_samples(np.where(observed, rows, np.nan), upper=rows)
    return difference(ours, theirs.logpdf(rows, observed))


def student_t() -> float:
    """Locations, scales and weights of two t components, each fit at its own end (studenttmixture)."""
    from studenttmixture import EMStudentMixture

    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.standard_t(4, (600, 2)), 2.0 * rng.standard_t(4, (300, 2)) + np.array([9.0, 3.0])])
    theirs = EMStudentMixture(2, tol=1e-12, max_iter=10_000, df=4.0, fixed_df=True, reg_covar=0.0)
    theirs.fit(rows)
    options = {"dof": 4.0, "fit_dof": "fixed", "reg_covar": 0.0, "tol": 1e-13, "max_iter": 5000, "random_state": 0}
    ours = dem.StudentTMixture(2, **options).fit(rows)
    mine, yours = np.argsort(ours.means_[:, 0]), np.argsort(theirs.location[:, 0])
    scales = np.moveaxis(theirs.scale, 2, 0)  # (d, d, K)
    return max(
        difference(ours.means_[mine], theirs.location[yours]),
        difference(ours.covariances_[mine], scales[yours]),
        difference(ours.weights_[mine], theirs.mix_weights[yours]),
    )


_NOISE = """
suppressMessages(library(mclust))
control <- emControl(tol = c(1e-13, 1e-13), itmax = c(10000, 10000))
fit <- me(modelName = "VVV", data = rows, z = z, Vinv = 1 / volume[1], control = control)
say(fit$loglik, fit$parameters$pro, fit$parameters$mean)
"""


def noise() -> float:
    """Log-likelihood, weights and means of two full Gaussians before a uniform background (R's mclust)."""
    rng = np.random.default_rng(0)
    clusters = rng.normal(size=(600, 2)) + np.repeat([[0.0, 0.0], [6.0, 0.0]], [400, 200], axis=0)
    rows = np.concatenate([clusters, rng.uniform(-20.0, 20.0, (100, 2))])
    volume = 1600.0
    options = {"noise": volume, "reg_covar": 0.0, "tol": 1e-14, "max_iter": 5000, "random_state": 0}
    ours = dem.GaussianMixture(2, **options).fit(rows)
    z = np.asarray(ours.predict_proba(rows))
    # A start near by: both climb to the maximum from there.
    found = r(_NOISE, rows=rows, z=0.8 * z + 0.2 / 3.0, volume=[[volume]])
    weights = [*ours.weights_, ours.noise_weight_]
    return max(
        difference(ours.score(rows) * len(rows), found[0]),
        difference(weights, found[1:4]),
        difference(ours.means_.ravel(), found[4:]),
    )


def limits() -> float:
    """Mean and deviation of censored rows (scipy's `norm.fit` of `CensoredData`)."""
    from scipy import stats

    values = np.random.default_rng(0).normal(2.0, 3.0, 400)
    hidden = values < 0.5
    mean, deviation = stats.norm.fit(stats.CensoredData(uncensored=values[~hidden], left=np.full(hidden.sum(), 0.5)))
    options = {"covariance_type": "diag", "reg_covar": 0.0, "tol": 1e-15, "max_iter": 10_000, "random_state": 0}
    ours = dem.GaussianMixture(1, **options).fit(np.where(hidden, np.nan, values)[:, np.newaxis], upper=0.5)
    return difference([ours.means_[0, 0], np.sqrt(ours.covariances_[0, 0])], [mean, deviation])


#: what is compared: a row of the table, the function, and how far both may be apart
COMPARISONS: Comparisons = {
    "apples": ("means and covariances of the apple data, six of 18 values missing | mvnmle, published", apples, 1e-7),
    "gaps": ("densities of rows with two gaps each, full covariances | askcarl", densities_of_gaps, 1e-6),
    "limits": (
        "densities of rows with two upper limits each, diagonal covariances | askcarl",
        densities_of_limits,
        1e-6,
    ),
    "censored": ("mean and deviation of one censored Gaussian | scipy", limits, 1e-4),
    "student": ("two t components with ν = 4: locations, scales, weights | studenttmixture", student_t, 1e-4),
    "noise": ("two Gaussians and noise: log-likelihood, weights, means | mclust", noise, 1e-6),
}
