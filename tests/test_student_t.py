"""Mixtures of t distributions against EM written anew, SciPy, the Gaussian limit, and what made their samples."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from case import MEANS, WEIGHTS
from cases import gaussian_rows, student_t_rows
from scipy.special import digamma

import dem
from dem.data.base import Chunk
from dem.errors import OptionError
from dem.families.gaussian import COVARIANCE_TYPES, GaussianParameters
from dem.families.student_t.dof import LEAST, MOST, log_constants, solve

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
TYPES = ("full", "tied", "diag", "spherical")


def matrices(covariances, covariance_type):
    """Return a matrix for each of three components."""
    if covariance_type in ("full", "tied"):
        return np.broadcast_to(covariances, (3, 3, 3))
    return np.broadcast_to(np.reshape(covariances, (3, -1, 1)), (3, 3, 1)) * np.eye(3)


def reference(rows, weights, means, covariances, dofs, covariance_type, fit_dof, n_iterations):
    """EM in the expanded space, one iteration after another, from the formulas."""
    n, d = rows.shape
    scales = np.ones(3)
    for _ in range(n_iterations):
        full = matrices(covariances, covariance_type)
        away = rows[:, np.newaxis] - means
        delta = np.einsum("nki,kij,nkj->nk", away, np.linalg.inv(full), away)
        logs = [scipy.stats.multivariate_t(m, c, df).logpdf(rows) for m, c, df in zip(means, full, dofs, strict=True)]
        joint = np.log(weights) + np.transpose(logs)
        log_likelihood = np.logaddexp.reduce(joint, axis=1)
        gamma = np.exp(joint - log_likelihood[:, np.newaxis])
        u = scales * (dofs + d) / (dofs + delta)
        log_u = digamma((dofs + d) / 2) - np.log((dofs + delta) / 2) + np.log(scales)
        counts, total, logged = gamma.sum(0), (gamma * u).sum(0), (gamma * log_u).sum(0)
        weights, means = counts / n, ((gamma * u).T @ rows) / total[:, np.newaxis]
        away = rows[:, np.newaxis] - means
        scatter = np.einsum("nk,nki,nkj->kij", gamma * u, away, away)
        scales = total / counts
        if covariance_type == "tied":
            scales = np.full(3, dofs @ total / (dofs @ counts))
            covariances = scatter.sum(0) / n / scales[0]
        else:
            covariances = scatter / total[:, np.newaxis, np.newaxis]
            diagonals = np.diagonal(covariances, axis1=1, axis2=2)
            covariances = {"full": covariances, "diag": diagonals, "spherical": diagonals.mean(1)}[covariance_type]
        excess = total / counts / scales - 1.0 - logged / counts + np.log(scales)
        if fit_dof == "shared":
            excess = np.full(3, counts @ excess / n)
        if fit_dof != "fixed":
            dofs = np.array(
                [2 * scipy.optimize.brentq(lambda a, c=c: np.log(a) - digamma(a) - c, 1e-3, 1e4) for c in excess]
            )
    return {"weights_": weights, "means_": means, "covariances_": covariances, "dofs_": dofs}, log_likelihood.mean()


@pytest.mark.parametrize("fit_dof", ["free", "shared", "fixed"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_em_from_the_same_start(covariance_type, fit_dof):
    rows = student_t_rows()
    means = MEANS + np.array([0.5, -0.3, 0.2])
    eye, ones = np.eye(3), np.ones((3, 3))
    covariances = {"full": np.array([eye] * 3), "tied": eye, "diag": ones, "spherical": ones[0]}
    start = np.full(3, 1 / 3), means, covariances[covariance_type], np.full(3, 6.0)
    expected, log_likelihood = reference(rows, *start, covariance_type, fit_dof, 12)
    ours = dem.StudentTMixture(
        3,
        covariance_type=covariance_type,
        fit_dof=fit_dof,
        dof=6.0,
        weights_init=start[0],
        means_init=means,
        precisions_init=covariances[covariance_type],
        reg_covar=0.0,
        tol=0.0,
        max_iter=12,
    ).fit(rows)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(ours, name), value, rtol=1e-9, atol=1e-10, err_msg=name)
    assert ours.lower_bound_ == pytest.approx(log_likelihood, rel=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_densities_are_scipys(covariance_type):
    rows = student_t_rows()
    ours = dem.StudentTMixture(3, covariance_type=covariance_type, random_state=0, max_iter=5).fit(rows)
    full = matrices(ours.covariances_, covariance_type)
    rows = np.concatenate([rows, [[1e6, 0.0, 0.0]]])
    each = [
        np.log(w) + scipy.stats.multivariate_t(m, c, df).logpdf(rows)
        for w, m, c, df in zip(ours.weights_, ours.means_, full, ours.dofs_, strict=True)
    ]
    expected = np.logaddexp.reduce(each, axis=0)
    np.testing.assert_allclose(ours.score_samples(rows), expected, rtol=0, atol=1e-9)
    # What single precision does not do justice is computed in double.
    np.testing.assert_allclose(ours.score_samples(rows.astype(np.float32)), expected, rtol=0, atol=1e-3)


def test_its_own_sample_gives_the_degrees_of_freedom_back():
    made = dem.StudentTMixture(2, random_state=0, max_iter=1).fit(gaussian_rows())
    made.weights_, made.dofs_ = np.array([0.6, 0.4]), np.array([3.0, 12.0])
    made.means_ = np.array([[0.0, 0.0, 0.0], [20.0, 0.0, 0.0]])
    rows, labels = made.sample(40_000)
    found = dem.StudentTMixture(2, algorithm="auto", random_state=0, tol=1e-8).fit(rows)
    order = np.argsort(found.dofs_)
    # Standard errors, from the information of ν at these sizes, are 0.06 and 0.7.
    np.testing.assert_allclose(found.dofs_[order], [3.0, 12.0], atol=2.0, rtol=0.05)
    np.testing.assert_allclose(found.covariances_[order], made.covariances_, rtol=0.1, atol=0.05)
    assert np.mean(found.predict(rows) == order[labels]) > 0.99


@pytest.mark.parametrize("covariance_type", TYPES)
def test_many_degrees_of_freedom_are_a_gaussian(covariance_type):
    rows = gaussian_rows()
    options = {"covariance_type": covariance_type, "random_state": 0, "max_iter": 10, "tol": 0.0}
    ours = dem.StudentTMixture(3, dof=1e6, fit_dof="fixed", **options).fit(rows)
    theirs = dem.GaussianMixture(3, **options).fit(rows)
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-4)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-5)


def test_outliers_move_it_less():
    rows = gaussian_rows()
    rows[::300] += 400.0
    errors = []
    for kind in (dem.StudentTMixture, dem.GaussianMixture):
        given = {"means_init": MEANS, "weights_init": WEIGHTS, "precisions_init": np.array([np.eye(3)] * 3)}
        fitted = kind(3, **given, max_iter=300).fit(rows)
        errors.append(np.abs(fitted.means_ - MEANS).max())
    assert errors[0] < 0.15
    assert errors[1] > 1.0


def test_the_step_of_the_degrees_of_freedom():
    dofs = np.array([0.05, 0.3, 1.0, 4.0, 30.0, 700.0])
    excess = np.log(dofs / 2) - digamma(dofs / 2)
    np.testing.assert_allclose(solve(excess, np.full(6, 4.0)), dofs, rtol=1e-9)
    np.testing.assert_array_equal(solve(np.array([0.0, 1e9]), np.full(2, 4.0)), [MOST, LEAST])
    assert solve(np.array([0.0]), np.array([1e5])) == 1e5  # a step must not do harm
    for n_features in (1, 7, 60):
        expected = [
            scipy.stats.multivariate_t(np.zeros(n_features), np.eye(n_features), df).logpdf(np.zeros(n_features))
            for df in dofs
        ]
        np.testing.assert_allclose(log_constants(dofs, n_features), expected, rtol=1e-11)


def test_truncated_fits_never_fall():
    rows = student_t_rows()
    fitted = dem.StudentTMixture(6, top_components=2, random_state=0, tol=1e-6).fit(rows)
    assert np.diff(fitted.lower_bounds_).min() > -1e-9


def test_outliers_do_not_catch_the_start():
    rows = gaussian_rows()
    rows[::500] *= 1000.0
    fitted = dem.StudentTMixture(3, covariance_type="tied", random_state=0, max_iter=300).fit(rows)
    found = fitted.means_[np.argsort(-fitted.weights_)]
    np.testing.assert_allclose(found, MEANS, atol=0.15)


@pytest.mark.parametrize("options", [{"dof": 0.0}, {"dof": -1.0}, {"dof": np.nan}, {"dof": 1e9}, {"fit_dof": True}])
def test_bad_options(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        dem.StudentTMixture(2, **options).fit(gaussian_rows())


@pytest.mark.parametrize("apart", [1.0, 1e6])  # one product for all components, and a frame of each
@pytest.mark.parametrize("covariance_type", TYPES)
def test_linear_functions_of_gaussian_densities(covariance_type, apart):
    rng = np.random.default_rng(0)
    rows = gaussian_rows(100)
    means, slopes, intercepts = apart * MEANS, -rng.uniform(0.1, 2.0, 3), rng.normal(size=3)
    component = COVARIANCE_TYPES[covariance_type]()
    factors = {"full": np.array([2.0 * np.eye(3)] * 3), "tied": 2.0 * np.eye(3), "diag": np.full((3, 3), 2.0)}
    factor = factors.get(covariance_type, np.full(3, 2.0))
    covariance = factor / 8.0 if covariance_type in ("full", "tied") else 1.0 / factor**2
    parameters = GaussianParameters(means, covariance, factor)
    rows = np.concatenate([rows, means])
    densities = np.array([scipy.stats.multivariate_normal(mean, 0.25 * np.eye(3)).logpdf(rows) for mean in means])
    expected = slopes[:, np.newaxis] * densities + intercepts[:, np.newaxis]
    kernel = component.kernel(parameters, rows.dtype).linear(slopes, intercepts)
    for which in (np.arange(3), np.array([0, 2])):
        found = kernel.take(which).block(Chunk(rows, range(len(rows)))).log_density()
        np.testing.assert_allclose(found, expected[which], rtol=1e-10, atol=1e-10)
