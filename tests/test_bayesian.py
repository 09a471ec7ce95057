"""Variational Bayes of Gaussian mixtures: the bound by its definition, scikit-learn's numbers, priors, bad options."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import zarr
from agreement import OF_CLASSIFIERS, assert_same_bits
from cases import chunk_of, gaussian_rows
from numpy.testing import assert_allclose
from scipy.special import digamma, multigammaln
from scipy.stats import beta, dirichlet, multivariate_t, wishart
from sklearn.mixture import BayesianGaussianMixture as Peer
from sklearn.utils.estimator_checks import parametrize_with_checks
from sources import CutRows
from test_cli_commands import works

import dem
from dem.errors import ComponentWarning, DataWarning, OptionError
from dem.estimators.measuring import family_for

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
TYPES = ["full", "tied", "diag", "spherical"]
WEIGHTS = ["dirichlet_process", "dirichlet_distribution"]
# Two of them show what all have; the rest takes seconds.
KINDS = pytest.mark.parametrize(
    ("covariance_type", "weight_prior"),
    [
        pytest.param(kind, prior, marks=[] if place in (0, 7) else pytest.mark.slow)
        for place, (kind, prior) in enumerate(itertools.product(TYPES, WEIGHTS))
    ],
)
POSTERIOR = ("weights_", "weight_concentration_", "mean_precision_", "means_", "degrees_of_freedom_", "covariances_")
POSTERIOR = (*POSTERIOR, "precisions_", "precisions_cholesky_")
PRIORS = ("weight_concentration_prior_", "mean_precision_prior_", "mean_prior_", "degrees_of_freedom_prior_")
PRIORS = (*PRIORS, "covariance_prior_")


def some_rows(n: int = 150, seed: int = 7) -> np.ndarray:
    return gaussian_rows(n, seed)


def model(covariance_type="full", weight_prior="dirichlet_process", **options):
    given = {"n_components": 4, "random_state": 1, "tol": 0.0, "reg_covar": 0.0, **options}
    kinds = {"covariance_type": covariance_type, "weight_concentration_prior_type": weight_prior}
    return dem.BayesianGaussianMixture(**{**kinds, **given})


@pytest.mark.slow
@parametrize_with_checks([dem.BayesianGaussianMixture()], expected_failed_checks=lambda _: OF_CLASSIFIERS)
@pytest.mark.filterwarnings("ignore")
def test_check_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("init", ["kmeans", "random_from_data"])
@KINDS
def test_numbers_of_scikit_learn(covariance_type, weight_prior, init):
    """After some iterations from the same start; `peers_vb` has more of them."""
    rows = some_rows(300) + 20.0
    options = {"covariance_type": covariance_type, "weight_concentration_prior_type": weight_prior, "tol": 0.0}
    options |= {"n_components": 5, "random_state": 3, "init_params": init, "weight_concentration_prior": 0.3}
    for n in (1, 12):
        ours = dem.BayesianGaussianMixture(max_iter=n, **options).fit(CutRows(rows, [100, 250]))
        theirs = Peer(max_iter=n, **options).fit(rows)
        for name in (*POSTERIOR, *PRIORS):
            mine, expected = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
            assert mine.shape == expected.shape
            assert_allclose(mine, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max(), err_msg=name)
        assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), atol=1e-8)
        assert_allclose(ours.score_samples(rows), theirs.score_samples(rows), atol=1e-8)
        np.testing.assert_array_equal(ours.predict(rows), theirs.predict(rows))


# The bound --------------------------------------------------------------------------------------------------


def matrices(model, k, d):
    """Return W and ν of a component, and W₀⁻¹, whatever the type of covariance."""
    shape, before = model.covariance_type, np.asarray(model.covariance_prior_)
    nu = model.degrees_of_freedom_ if shape == "tied" else model.degrees_of_freedom_[k]
    precision = model.precisions_ if shape == "tied" else model.precisions_[k]
    return (
        (precision if np.ndim(precision) == 2 else precision * np.eye(d)) / nu,
        nu,
        before * np.eye(d) if (before.ndim < 2) else before,
    )


def bound_by_definition(model, rows):
    """E_q[log p(x, z, π, μ, Λ)] − E_q[log q] at the best q(z), term by term; what is missing is among the unknown."""
    (n, d), size = rows.shape, len(model.weights_)
    total, log_weights = 0.0, np.empty(size)
    if model.weight_concentration_prior_type == "dirichlet_process":
        behind = 0.0
        for k, (a, b) in enumerate(np.transpose(model.weight_concentration_)):
            log_v, log_rest = digamma([a, b]) - digamma(a + b)
            log_weights[k], behind = log_v + behind, behind + log_rest
            gamma = model.weight_concentration_prior_
            total += np.log(gamma) + (gamma - 1.0) * log_rest + beta(a, b).entropy()
    else:
        alpha = model.weight_concentration_
        log_weights = digamma(alpha) - digamma(alpha.sum())
        before = np.full(size, model.weight_concentration_prior_)
        # The density of the prior where log π is what is expected, and not its expectation's.
        total += dirichlet.entropy(alpha) + (before - 1.0) @ log_weights
        total += dirichlet.logpdf(np.full(size, 1.0 / size), before) + (before - 1.0).sum() * np.log(size)
    joint = np.empty((n, size))
    for k in range(size):
        scale, nu, inverse = matrices(model, k, d)
        m, precision, before = model.means_[k], model.mean_precision_[k], model.mean_precision_prior_
        log_det = digamma(0.5 * (nu - np.arange(d))).sum() + d * np.log(2.0) + np.linalg.slogdet(scale)[1]
        # E log N(μ | m₀, (β₀Λ)⁻¹) and E log Wishart(Λ | W₀, ν₀), and the entropies of both.
        away = m - model.mean_prior_
        total += 0.5 * (d * np.log(before / (2 * np.pi)) + log_det - d * before / precision)
        total -= 0.5 * before * nu * away @ scale @ away
        nu0 = model.degrees_of_freedom_prior_
        total += 0.5 * (nu0 - d - 1) * log_det - 0.5 * nu * np.trace(inverse @ scale) - multigammaln(0.5 * nu0, d)
        total -= 0.5 * nu0 * (d * np.log(2.0) - np.linalg.slogdet(inverse)[1])
        total += wishart(nu, scale).entropy() + 0.5 * (d * (1.0 + np.log(2 * np.pi / precision)) - log_det)
        for i, row in enumerate(rows):
            lacks, seen = np.isnan(row), ~np.isnan(row)
            spread = np.linalg.inv(nu * scale)
            gain = spread[np.ix_(lacks, seen)] @ np.linalg.inv(spread[np.ix_(seen, seen)])
            filled = row.copy()
            filled[lacks] = m[lacks] + gain @ (row - m)[seen]
            left = np.zeros((d, d))
            left[np.ix_(lacks, lacks)] = spread[np.ix_(lacks, lacks)] - gain @ spread[np.ix_(seen, lacks)]
            square = nu * ((filled - m) @ scale @ (filled - m) + np.trace(scale @ left)) + d / precision
            joint[i, k] = log_weights[k] + 0.5 * (log_det - d * np.log(2 * np.pi) - square)
            unknown = left[np.ix_(lacks, lacks)]
            joint[i, k] += 0.5 * np.linalg.slogdet(2 * np.pi * np.e * unknown)[1] if lacks.any() else 0.0
    shares = np.exp(joint - joint.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return total + np.sum(shares * (joint - np.log(np.maximum(shares, 1e-300))))


@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "gaps"])
@KINDS
def test_bound_is_that_of_its_definition(covariance_type, weight_prior, gaps):
    rows = some_rows(40)
    options = {"n_components": 3, "missing": "marginalise" if gaps else "error"}
    if gaps:
        rows = np.where(np.random.default_rng(3).random(rows.shape) < 0.2, np.nan, rows)
        rows = rows[~np.isnan(rows).all(axis=1)]
    fitted = model(covariance_type, weight_prior, max_iter=3, **options).fit(rows)
    later = model(covariance_type, weight_prior, max_iter=40, **options).fit(rows)
    assert later.lower_bounds_[3] == pytest.approx(bound_by_definition(fitted, rows) / len(rows), rel=1e-11)
    assert np.diff(later.lower_bounds_).min() > -1e-13


def test_bound_of_one_component_is_the_evidence():
    """Then the posterior is exact; the density of the rows is the product of those of each after all before it."""
    rows, d = some_rows(40), 3
    options = {"n_components": 1, "mean_prior": [1.0, 0.0, 2.0], "covariance_prior": np.diag([2.0, 1.0, 0.5])}
    options |= {"degrees_of_freedom_prior": 4.5, "mean_precision_prior": 0.7, "max_iter": 3}
    fitted = model("full", "dirichlet_distribution", **options).fit(rows)
    precision, nu, mean, scatter = 0.7, 4.5, np.array([1.0, 0.0, 2.0]), np.diag([2.0, 1.0, 0.5])
    evidence = 0.0
    for row in rows:
        free = nu - d + 1.0
        evidence += multivariate_t(mean, scatter * (precision + 1.0) / (precision * free), df=free).logpdf(row)
        scatter = scatter + precision / (precision + 1.0) * np.outer(row - mean, row - mean)
        mean = (precision * mean + row) / (precision + 1.0)
        precision, nu = precision + 1.0, nu + 1.0
    assert fitted.lower_bound_ == pytest.approx(evidence / len(rows), rel=1e-12)


def test_types_of_covariance_are_the_same_model_with_less_freedom():
    """With all labels known only q(π, μ, Λ) is left, and the bound of a form among others is lower."""
    rows = some_rows(300)
    labels = np.random.default_rng(0).integers(0, 3, size=len(rows))
    variances = np.array([2.0, 1.0, 0.5])
    priors = {"full": np.diag(variances), "tied": np.diag(variances), "diag": variances, "spherical": 1.3}
    alike = {**priors, "full": 1.3 * np.eye(3), "diag": np.full(3, 1.3)}

    def bound(kind, prior):
        options = {"n_components": 3, "max_iter": 3, "mean_prior": np.zeros(3), "covariance_prior": prior[kind]}
        return model(kind, **options).fit(rows, labels=labels).lower_bound_

    assert bound("full", priors) > bound("diag", priors)
    assert bound("full", priors) > bound("tied", priors)
    assert bound("diag", alike) > bound("spherical", alike)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_regularisation_costs_is_known(covariance_type):
    """The M-step with `reg_covar` loses just what the loop is told that the bound may fall by."""
    rows = 0.05 * some_rows(300)
    family = family_for(model(covariance_type, reg_covar=0.02), rows)
    plain = replace(family, component=replace(family.component, reg_covar=0.0))
    start = family.start(rows, np.random.default_rng(4).dirichlet(np.ones(4), size=len(rows)))
    statistics = plain.rebased(plain.e_step(start, chunk_of(rows)), start)
    best, regularised = plain.m_step(statistics, start), family.m_step(statistics, start)
    lost = plain.free_energy(statistics, best) - plain.free_energy(statistics, regularised)
    assert lost / len(rows) == pytest.approx(family.monotonicity_slack(regularised, rows.dtype), rel=1e-9)
    assert lost > 1e-3


@pytest.mark.parametrize(
    "options", [{"accelerate": "squarem"}, {"algorithm": "incremental"}, {"algorithm": "stepwise"}]
)
@pytest.mark.slow
def test_every_algorithm_ends_at_the_same_bound(options):
    rows = some_rows(1200)
    table = rows[np.random.default_rng(5).permutation(len(rows))]
    batch = model(n_components=3, tol=1e-10, max_iter=800).fit(table)
    other = model(n_components=3, tol=1e-10, max_iter=800, **options).fit(CutRows(table, range(100, 1200, 100)))
    assert other.lower_bound_ == pytest.approx(batch.lower_bound_, abs=1e-8)
    bounds = other.lower_bounds_[2 if "algorithm" in options else 0 :]
    assert np.diff(bounds).min(initial=0.0) > -1e-12


# Priors and options -----------------------------------------------------------------------------------------


def test_priors_are_of_all_rows_and_take_no_read_of_their_own():
    rows = CutRows(some_rows(2000), [300, 900, 1500])
    fitted = model(sample_rows=100, max_iter=3).fit(rows)
    assert_allclose(fitted.mean_prior_, rows.table.mean(axis=0), rtol=1e-12)
    assert_allclose(fitted.covariance_prior_, np.cov(rows.table.T), rtol=1e-12)
    assert rows.reads == 1 + 3


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", TYPES)
def test_priors_count_rows_as_often_as_their_weights_say(covariance_type):
    rows = some_rows(120)
    times = np.random.default_rng(2).integers(0, 4, size=len(rows))
    weighted = model(covariance_type, init_params="random", max_iter=1).fit(rows, sample_weight=times)
    repeated = model(covariance_type, init_params="random", max_iter=1).fit(rows.repeat(times, axis=0))
    assert_allclose(weighted.mean_prior_, repeated.mean_prior_, rtol=1e-12)
    assert_allclose(weighted.covariance_prior_, repeated.covariance_prior_, rtol=1e-12)


def test_priors_with_gaps_are_of_what_is_observed():
    rows = some_rows(400)
    rows[::7, 1] = np.nan
    fitted = model(missing="marginalise", max_iter=2).fit(rows)
    assert_allclose(fitted.mean_prior_, np.nanmean(rows, axis=0), rtol=1e-12)
    assert_allclose(np.diagonal(fitted.covariance_prior_), np.nanvar(rows, axis=0, ddof=1), rtol=1e-12)
    assert np.linalg.eigvalsh(fitted.covariance_prior_).min() > 0.0


@pytest.mark.slow
def test_components_that_are_not_needed_lose_their_rows_without_a_warning():
    rows = some_rows(800)
    fitted = model(n_components=9, tol=1e-7, max_iter=3000, weight_concentration_prior=1e-3).fit(rows)
    assert fitted.component_status_.count("ok") == 3
    assert fitted.component_status_.count("empty") == 6


@pytest.mark.slow
def test_select_by_the_bound():
    rows = CutRows(some_rows(900), [400])
    template = model("full", "dirichlet_distribution", tol=1e-6, max_iter=500)
    options = {"n_components": range(1, 6), "covariance_type": ("diag", "full"), "n_init": 2}
    chosen = dem.select(rows, estimator=template, criterion="lower_bound", **options)
    assert chosen.best_estimator_.n_components == 3
    assert rows.reads == chosen.reads
    best = chosen.table[chosen.best_index]
    assert best["lower_bound"] == max(row["lower_bound"] for row in chosen.table)
    assert best["lower_bound"] == pytest.approx(chosen.best_estimator_.lower_bound_, abs=1e-5)
    with pytest.raises(OptionError, match=r"criterion 'lower_bound' is of estimator=dem\.BayesianGaussianMixture"):
        dem.select(rows.table, criterion="lower_bound")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"degrees_of_freedom_prior": 2.0}, "should be greater than 2, but got 2.000"),
        ({"mean_prior": [0.0, 1.0]}, "'means' should have the shape of (3,)"),
        ({"covariance_prior": np.eye(2)}, "should have the shape of"),
        ({"covariance_prior": -np.eye(3)}, "'full covariance_prior' should be symmetric, positive-definite"),
        ({"covariance_prior": 2.0}, "should have the shape of"),
        (
            {"covariance_type": "diag", "covariance_prior": [1.0, 0.0, 1.0]},
            "'diag covariance_prior' should be positive",
        ),
        ({"weight_concentration_prior": 0.0}, "weight_concentration_prior"),
        ({"weight_concentration": 2.0}, "give weight_concentration_prior"),
        ({"weight_concentration_prior_type": "pitman_yor"}, "weight_concentration_prior_type"),
    ],
)
def test_what_is_refused(options, says):
    with pytest.raises(OptionError) as error:
        model(**options).fit(some_rows())
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_warm_start_keeps_its_prior():
    rows = some_rows()
    fitted = model(max_iter=4, warm_start=True).fit(rows)
    before = fitted.lower_bound_
    assert fitted.fit(rows).lower_bound_ >= before
    for name, value in (("mean_precision_prior", 3.0), ("weight_concentration_prior_type", "dirichlet_distribution")):
        other = model(max_iter=4, warm_start=True).fit(rows).set_params(**{name: value})
        with pytest.raises(OptionError, match=f"{name} is not that of the fitted model"):
            other.fit(rows)


def test_a_constant_column_has_a_prior_nevertheless():
    rows = np.hstack([some_rows(), np.full((150, 1), 3.0)])
    with pytest.warns(ComponentWarning, match="collapsed"), pytest.warns(DataWarning, match="constant"):
        fitted = model(reg_covar=1e-6, max_iter=30).fit(rows)
    assert np.isfinite(fitted.lower_bounds_).all()
    assert np.diff(fitted.lower_bounds_).min() > -1e-9


# Files, streams, shell --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", TYPES)
def test_files_hold_posterior_and_prior(covariance_type, tmp_path):
    rows = some_rows()
    fitted = model(covariance_type, max_iter=5).fit(rows)
    fitted.save(str(tmp_path / "model.zarr"))
    loaded = dem.load(str(tmp_path / "model.zarr"))
    assert_same_bits(loaded, fitted, (*POSTERIOR, *PRIORS))
    assert isinstance(loaded.degrees_of_freedom_, float) == (covariance_type == "tied")
    again = [one.set_params(warm_start=True).fit(rows) for one in (loaded, fitted)]
    assert_same_bits(*again, (*POSTERIOR, "lower_bounds_"))


@pytest.mark.slow
def test_a_stream_weighs_the_prior_against_all_rows():
    rows = some_rows(3000)
    table = rows[np.random.default_rng(0).permutation(len(rows))]
    streamed = model(n_components=3, mean_prior=table.mean(axis=0), covariance_prior=np.cov(table.T))
    for start in range(0, len(table), 500):
        streamed.partial_fit(table[start : start + 500])
    assert streamed.mean_precision_.sum() == pytest.approx(3 + 3000, rel=1e-9)
    whole = model(n_components=3, tol=1e-6, max_iter=500).fit(table)
    assert streamed.score(table) == pytest.approx(whole.score(table), abs=0.02)


def test_a_start_of_certain_weights():
    rows = some_rows()
    weights = np.array([0.7, 0.1, 0.1, 0.1])
    begun = model("full", "dirichlet_distribution", weights_init=weights, max_iter=0).fit(rows)
    assert_allclose(begun.mean_precision_ - 1.0, len(rows) * weights, rtol=1e-9)


def test_trial_models_have_a_prior():
    family = family_for(model(), some_rows())
    assert_allclose(family.prior.mean, some_rows().mean(axis=0), rtol=1e-12)


@pytest.mark.slow
def test_the_shell(tmp_path):
    data, out = str(tmp_path / "x.zarr"), str(tmp_path / "model.zarr")
    zarr.create_array(data, data=some_rows(900), chunks=(200, 3))
    options = ("--family", "bayesian_gaussian", "--seed", 0, "--weight-concentration-prior", 0.01)
    shown = works("fit", data, "-k", 6, *options, "--max-iter", 2000, "--tol", 1e-6, "--out", out)
    assert "evidence lower bound per row" in " ".join(shown.stdout.split())
    loaded = dem.load(out)
    assert (loaded.weight_concentration_prior_, loaded.component_status_.count("ok")) == (0.01, 3)
    picture = tmp_path / "picture.png"
    chosen = works("select", data, "-k", "1:5", *options, "--criterion", "lower_bound", "--plot", picture)
    assert "chosen by lower_bound" in chosen.stdout
    assert picture.stat().st_size > 5000
