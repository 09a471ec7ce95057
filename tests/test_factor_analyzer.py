"""Mixtures of factor analysers against scikit-learn, closed forms, and EM written anew with whole matrices."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
import sklearn.mixture
import zarr
from cases import CENTRES, LOADINGS, factor_rows
from click.testing import CliRunner
from sklearn.decomposition import PCA, FactorAnalysis

import dem
from dem.cli.main import dem as command
from dem.errors import ComponentWarning, DataError, FitError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NOISES = [(noise_type, tied) for noise_type in ("diag", "spherical") for tied in (False, True)]


def fitted(rows=None, **options):
    options = {"n_factors": 2, "random_state": 0, "max_iter": 5, **options}
    return dem.FactorAnalyzerMixture(3, **options).fit(factor_rows(600) if rows is None else rows)


def with_gaps(rows, share=0.3):
    """Return rows that lack values at random, one of them all, one all but one."""
    missing = np.random.default_rng(3).random(rows.shape) < share
    missing[0], missing[1] = True, np.arange(rows.shape[1]) > 0
    return np.where(missing, np.nan, rows)


def covariances_of(model):
    return np.array([model.get_covariance(k) for k in range(len(model.weights_))])


def posterior_of_gaps(row, mean, covariance):
    """Return log-density of what is observed, mean and covariance of the whole row given that."""
    there = ~np.isnan(row)
    if not there.any():
        return 0.0, mean, covariance
    seen, cross = covariance[np.ix_(there, there)], covariance[:, there]
    log_density = scipy.stats.multivariate_normal(mean[there], seen).logpdf(row[there])
    slope = np.linalg.solve(seen, cross.T).T
    whole, left = mean + slope @ (row - mean)[there], covariance - slope @ cross.T
    whole[there], left[there], left[:, there] = row[there], 0.0, 0.0
    return log_density, whole, left


def reference(rows, model, *, spherical, tied, gaps):
    """One iteration of PX-EM with whole covariances, from the formulas: weights, means, covariances."""
    n, d = rows.shape
    means, covariances = model.means_, covariances_of(model)
    if gaps:
        found = [[posterior_of_gaps(row, m, c) for row in rows] for m, c in zip(means, covariances, strict=True)]
        logs, wholes, lefts = (np.array([[one[i] for one in own] for own in found]) for i in range(3))
    else:
        pairs = zip(means, covariances, strict=True)
        logs = np.array([scipy.stats.multivariate_normal(m, c).logpdf(rows) for m, c in pairs])
        wholes, lefts = np.broadcast_to(rows, (3, n, d)), np.zeros((3, n, d, d))
    joint = np.log(model.weights_)[:, np.newaxis] + logs
    gamma = np.exp(joint - np.logaddexp.reduce(joint, axis=0))
    counts = gamma.sum(axis=1)
    new_means, parts, noises = [], [], []
    for g, x, left, loadings, covariance in zip(gamma, wholes, lefts, model.loadings_, covariances, strict=True):
        mean = g @ x / g.sum()
        scatter = ((x - mean).T * g @ (x - mean) + np.einsum("n,nij->ij", g, left)) / g.sum()
        beta = np.linalg.solve(covariance, loadings).T
        spread = np.eye(2) - beta @ loadings + beta @ scatter @ beta.T
        slopes = scatter @ beta.T @ np.linalg.inv(spread)
        new_means.append(mean)
        parts.append(slopes @ spread @ slopes.T)
        noises.append(np.diag(scatter - slopes @ beta @ scatter))
    noises = np.array(noises)
    if spherical:
        noises = np.repeat(noises.mean(axis=1, keepdims=True), d, axis=1)
    if tied:
        noises = np.broadcast_to(counts @ noises / n, noises.shape)
    new = [part + np.diag(noise) for part, noise in zip(parts, noises, strict=True)]
    return counts / n, np.array(new_means), np.array(new)


@pytest.mark.parametrize(("noise_type", "tied"), NOISES)
@pytest.mark.parametrize("gaps", [False, True])
def test_an_iteration_is_that_of_the_formulas(noise_type, tied, gaps):
    rows = factor_rows(150) + 100.0
    model = fitted(rows, noise_type=noise_type, tied_noise=tied)
    if gaps:
        rows = with_gaps(rows)
        model.set_params(missing="marginalise")
    spherical = noise_type == "spherical"
    weights, means, covariances = reference(rows, model, spherical=spherical, tied=tied, gaps=gaps)
    model.set_params(warm_start=True, max_iter=1).fit(rows)
    np.testing.assert_allclose(model.weights_, weights, rtol=1e-10)
    np.testing.assert_allclose(model.means_, means, rtol=1e-10)
    np.testing.assert_allclose(covariances_of(model), covariances, rtol=0, atol=1e-10 * np.abs(covariances).max())


@pytest.mark.parametrize(("noise_type", "tied"), [NOISES[0], NOISES[3]])
def test_densities_are_those_of_gaussian_mixtures_with_the_same_covariances(noise_type, tied):
    rows = factor_rows(600)
    model = fitted(rows, noise_type=noise_type, tied_noise=tied)
    full = sklearn.mixture.GaussianMixture(3)
    full.weights_, full.means_, full.covariances_ = model.weights_, model.means_, covariances_of(model)
    full.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(full.covariances_)).swapaxes(1, 2)
    np.testing.assert_allclose(model.score_samples(rows), full.score_samples(rows), rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(rows), full.predict_proba(rows), atol=1e-12)
    expected = dem.GaussianMixture(3)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(expected, name, getattr(full, name))
    expected.converged_, expected.n_features_in_ = True, 10
    np.testing.assert_allclose(model.score_samples(rows), expected.score_samples(rows), rtol=1e-12)


def test_densities_of_gaps_and_what_fills_them():
    rows = with_gaps(factor_rows(200))
    model = fitted(rows, missing="marginalise")
    found = [
        [posterior_of_gaps(row, *of) for row in rows]
        for of in zip(model.means_, covariances_of(model), strict=True)
    ]  # fmt: skip
    joint = np.log(model.weights_)[:, np.newaxis] + np.array([[one[0] for one in own] for own in found])
    densities = np.logaddexp.reduce(joint, axis=0)
    np.testing.assert_allclose(model.score_samples(rows), densities, atol=1e-10)
    wholes = np.array([[one[1] for one in own] for own in found])
    means = np.einsum("kn,knd->nd", np.exp(joint - densities), wholes)
    np.testing.assert_allclose(model.impute(rows), means, atol=1e-9)
    labels = joint.argmax(axis=0)
    factors = [
        model.loadings_[k].T @ np.linalg.solve(model.get_covariance(k), wholes[k, i] - model.means_[k])
        for i, k in enumerate(labels)
    ]
    np.testing.assert_allclose(model.transform(rows), factors, atol=1e-9)


@pytest.mark.slow
def test_draws_of_gaps_have_the_moments_of_what_is_missing():
    model = fitted(max_iter=20)
    row = np.where(np.arange(10) % 3, CENTRES[0], np.nan)
    k = int(model.predict(np.array([CENTRES[0]]))[0])
    single = fitted(max_iter=1)
    for name in ("weights_", "means_", "loadings_", "noise_variances_"):
        setattr(single, name, getattr(model, name)[[k, k, k]])
    single.weights_ = np.full(3, 1 / 3)
    drawn = single.impute(np.tile(row, (20_000, 1)), draw=True, random_state=1)
    _, mean, covariance = posterior_of_gaps(row, model.means_[k], model.get_covariance(k))
    error = 5.0 * np.sqrt(np.diag(covariance) / 20_000)
    assert (np.abs(drawn.mean(axis=0) - mean) <= error + 1e-12).all()
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.04 * covariance.max())


def test_one_component_is_factor_analysis():
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(1000, 2)) @ LOADINGS[0].T + rng.uniform(0.5, 1.5, 10) * rng.normal(size=(1000, 10))
    ours = dem.FactorAnalyzerMixture(n_factors=2, algorithm="auto", tol=1e-13, max_iter=2000, random_state=0).fit(rows)
    theirs = FactorAnalysis(2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(rows)
    assert ours.score(rows) == pytest.approx(theirs.score(rows), rel=1e-9)
    np.testing.assert_allclose(ours.get_covariance(0), theirs.get_covariance(), rtol=0, atol=1e-3)


def test_one_component_of_spherical_noise_is_the_closed_form_of_probabilistic_pca():
    rows = factor_rows(1000) * np.arange(1.0, 11.0)
    options = {"noise_type": "spherical", "tol": 1e-14, "max_iter": 500, "random_state": 0}
    ours = dem.FactorAnalyzerMixture(n_factors=2, **options).fit(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    noise = values[:-2].mean()
    loadings = vectors[:, :-3:-1] * np.sqrt(values[:-3:-1] - noise)
    assert ours.noise_variances_ == pytest.approx(noise, rel=1e-9)
    signs = np.sign(loadings[np.abs(loadings).argmax(axis=0), [0, 1]])
    np.testing.assert_allclose(ours.loadings_[0], loadings * signs, atol=1e-6)
    unbiased = 1000 / 999  # scikit-learn's covariance divides by n − 1
    theirs = PCA(2).fit(rows)
    np.testing.assert_allclose(theirs.noise_variance_, unbiased * ours.noise_variances_[0], rtol=1e-9)


def test_as_many_numbers_as_a_covariance_are_the_covariance():
    """Three features and one factor: 3 + 3 numbers, as many as the matrix has."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(800, 1)) * np.array([1.0, 2.0, 1.5]) + rng.normal(size=(800, 3))
    model = dem.FactorAnalyzerMixture(tol=1e-15, max_iter=2000, algorithm="auto").fit(rows)
    np.testing.assert_allclose(model.get_covariance(0), np.cov(rows.T, bias=True), rtol=1e-5)


def test_loadings_are_turned_to_their_canonical_axes():
    model = fitted()
    for k in range(3):
        loadings = model.loadings_[k]
        inner = loadings.T / model.noise_variances_[k] @ loadings
        np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0.0, atol=1e-10 * inner.max())
        assert inner[0, 0] > inner[1, 1]
        assert (loadings[np.abs(loadings).argmax(axis=0), [0, 1]] > 0.0).all()
    family, parameters = model._model()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    turned = family.from_user({**family.to_user(parameters), "loadings": model.loadings_ @ turn})
    np.testing.assert_allclose(family.to_user(turned)["loadings"], model.loadings_, atol=1e-12)
    np.testing.assert_allclose(family.unconstrain(turned).own, family.unconstrain(parameters).own, atol=1e-10)


def test_factors_of_rows():
    rows = factor_rows(600)
    model = fitted(rows)
    labels = model.predict(rows)
    for k in range(3):
        beta = np.linalg.solve(model.get_covariance(k), model.loadings_[k]).T
        expected = (rows - model.means_[k]) @ beta.T
        np.testing.assert_allclose(model.transform(rows, component=k), expected, atol=1e-10)
        np.testing.assert_allclose(model.transform(rows)[labels == k], expected[labels == k], atol=1e-10)
    with pytest.raises(OptionError, match="component must be between 0 and 2, not 3"):
        model.transform(rows, component=3)
    assert list(model.get_feature_names_out()) == ["factoranalyzermixture0", "factoranalyzermixture1"]


@pytest.mark.slow
def test_draws_have_the_covariance():
    model = fitted(max_iter=30)
    rows, labels = model.sample(60_000)
    for k, covariance in enumerate(covariances_of(model)):
        np.testing.assert_allclose(np.cov(rows[labels == k].T), covariance, atol=0.05 * covariance.max())


@pytest.mark.parametrize(
    ("n_features", "options", "says"),
    [
        (
            6,
            {"n_factors": 4},
            "n_factors = 4 are too many for n_features = 6: give at most 3, or they are not identified",
        ),
        (6, {"n_factors": 6}, "n_factors = 6 are too many for n_features = 6: give at most 3"),
        (6, {"n_factors": 10**9}, "n_factors = 1000000000 are too many for n_features = 6: give at most 3"),
        (2, {"n_factors": 1}, "n_features = 2 are too few for a factor: factor analysis takes at least 3"),
        (6, {"n_factors": 6, "noise_type": "spherical"}, "give at most 5, fewer than features"),
        (1, {"n_factors": 1, "noise_type": "spherical"}, "n_features = 1 are too few for a factor"),
        (6, {"n_factors": 0}, "n_factors"),
    ],
)
def test_too_many_factors(n_features, options, says):
    with pytest.raises(OptionError) as error:
        fitted(np.random.default_rng(0).normal(size=(50, n_features)), **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(OptionError) as planned:
        dem.plan(np.zeros((50, n_features)), dem.FactorAnalyzerMixture(3, **options), seconds=0.001)
    assert str(planned.value) == str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"noise_variances_init": np.zeros((3, 10))}, "noise_variances_init must be above 0"),
        ({"loadings_init": np.zeros((3, 2, 10))}, "loadings_init must have shape (3, 10, 2), not (3, 2, 10)"),
    ],
)
def test_bad_starts(options, says):
    with pytest.raises(OptionError) as error:
        fitted(**options)
    assert str(error.value) == says


def test_a_start_that_is_given_is_where_it_begins():
    model, rows = fitted(), factor_rows(600)
    names = ("weights", "means", "loadings", "noise_variances")
    again = fitted(**{f"{name}_init": getattr(model, f"{name}_") for name in names}, max_iter=1)
    assert again.lower_bound_ == pytest.approx(model.score(rows), rel=1e-12)


def test_another_number_of_factors_does_not_go_on():
    model = fitted().set_params(warm_start=True, n_factors=1)
    with pytest.raises(OptionError, match=r"has loadings of shape \(3, 10, 2\), not \(3, 10, 1\)"):
        model.fit(factor_rows(600))


def test_a_feature_that_the_factors_explain_is_a_collapse():
    """A Heywood case: noise falls to its floor, which is `reg_covar`."""
    # A factor that had the correlations 0.8, 0.8 and 0.5 would explain 0.8² / 0.5 of the variance of the first feature.
    rows = np.random.default_rng(0).normal(size=(400, 3))
    rows = (rows - rows.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T, bias=True))).T
    rows = rows @ np.linalg.cholesky([[1.0, 0.8, 0.8], [0.8, 1.0, 0.5], [0.8, 0.5, 1.0]]).T
    model = dem.FactorAnalyzerMixture(n_factors=1, reg_covar=1e-3, algorithm="auto", tol=1e-9, max_iter=500)
    with pytest.warns(ComponentWarning, match="reg_covar=0.001 is most of the variance"):
        model.fit(rows)
    assert model.component_status_ == ["collapsed"]
    assert model.noise_variances_[0, 0] == pytest.approx(1e-3)
    assert np.diff(model.lower_bounds_).min() > -1e-12


@pytest.mark.parametrize("noise_type", ["diag", "spherical"])
def test_rows_without_noise_are_refused_unless_it_has_a_floor(noise_type):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8))
    options = {"n_factors": 2, "noise_type": noise_type, "max_iter": 2000, "tol": 1e-9}
    with pytest.raises(FitError, match=r"ill-defined empirical covariance.*increase reg_covar.*component 0"):
        dem.FactorAnalyzerMixture(reg_covar=0.0, **options).fit(rows)
    with pytest.warns(ComponentWarning, match="reg_covar=1e-06"):
        assert dem.FactorAnalyzerMixture(**options).fit(rows).converged_


def test_a_bad_value_is_named():
    rows = factor_rows(600)
    rows[77, 4] = np.inf
    with pytest.raises(DataError, match="row 77, column 4"):
        fitted(rows)


def test_divergences_and_pooled_covariances_are_those_of_the_matrices():
    family, parameters = fitted()._model()
    component, own = family.component, parameters.components
    full = own.unit_loadings @ own.unit_loadings.swapaxes(1, 2) + own.noise[:, :, np.newaxis] * np.eye(10)
    inverse, pairs = np.linalg.inv(full), np.array([[0, 1], [2, 1]])
    expected = []
    for a, b in pairs:
        step = own.means[a] - own.means[b]
        traces = np.trace(full[a] @ inverse[b] + full[b] @ inverse[a])
        expected.append(0.5 * (traces + step @ (inverse[a] + inverse[b]) @ step) - 10)
    np.testing.assert_allclose(component.divergence(own, pairs, np.inf), expected, rtol=1e-10)
    rows = factor_rows(600)[:1]
    seeded = component.reseeded(own, np.array([1]), rows, np.array([1.0, 0.0, 0.0]))
    new = seeded.unit_loadings[1] @ seeded.unit_loadings[1].T + np.diag(seeded.noise[1])
    np.testing.assert_allclose(new, full[0], atol=1e-10)
    np.testing.assert_allclose(component.to_user(seeded)["means"][1], rows[0])
    both = component.reseeded(own, np.array([1]), rows, np.array([0.5, 0.0, 0.5]))
    np.testing.assert_allclose(both.variances[1], 0.5 * (own.variances[0] + own.variances[2]), rtol=1e-12)


@pytest.mark.slow
def test_more_components_than_are_computed_for_each_row():
    rows = factor_rows(3000)
    options = {"n_factors": 2, "random_state": 0, "max_iter": 4, "tol": 0.0}
    whole = dem.FactorAnalyzerMixture(12, **options).fit(rows)
    part = dem.FactorAnalyzerMixture(12, top_components=8, **options).fit(rows)
    assert part.lower_bound_ <= whole.lower_bound_
    assert part.lower_bound_ == pytest.approx(whole.lower_bound_, abs=0.05)
    assert np.diff(part.lower_bounds_).min() > 0.0


def test_scaled_features_are_those_of_scaled_data():
    rows = factor_rows(600) * np.array([1.0, 1e3, 1e-3, *np.ones(7)])
    scaled = fitted(rows, noise_type="spherical", scale=True, reg_covar=0.0)
    plain = fitted(rows / rows.std(axis=0), noise_type="spherical", reg_covar=0.0)
    np.testing.assert_allclose(scaled.noise_variances_, plain.noise_variances_, rtol=1e-9)
    np.testing.assert_allclose(scaled.means_, plain.means_ * rows.std(axis=0), rtol=1e-9)
    expected = plain.get_covariance(0) * np.outer(rows.std(axis=0), rows.std(axis=0))
    np.testing.assert_allclose(scaled.get_covariance(0), expected, rtol=1e-8)


@pytest.mark.slow
def test_selection():
    found = dem.select(
        factor_rows(1500),
        n_components=range(2, 5),
        estimator=dem.FactorAnalyzerMixture(n_factors=2, random_state=0, max_iter=200),
    )
    assert found.best_estimator_.n_components == 3


def test_selection_of_the_number_of_factors(tmp_path):
    rows = factor_rows(300)
    template = dem.FactorAnalyzerMixture(random_state=0, max_iter=30, tol=1e-2)
    found = dem.select(rows, n_components=(1, 3), n_factors=(1, 2), estimator=template)
    alone = [dem.select(rows, n_components=(1, 3), n_factors=q, estimator=template).table for q in (1, 2)]
    assert [(row["n_components"], row["n_factors"]) for row in found.table] == [(1, 1), (3, 1), (1, 2), (3, 2)]
    ours, theirs = ([row["bic"] for row in table] for table in (found.table, [*alone[0], *alone[1]]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    axes = dem.plot.selection(found).axes[0]
    best = found.best_estimator_
    assert axes.get_title(loc="left") == f"Best: {best.n_components} components, factors {best.n_factors}"
    zarr.save_array(str(tmp_path / "rows.zarr"), rows)
    given = [
        "select",
        str(tmp_path / "rows.zarr"),
        "--family",
        "factor_analyzer",
        "--components",
        "1",
        "--factors",
        "1,2",
    ]
    told = CliRunner().invoke(command, [*given, "--max-iter", "2", "--seed", "0", "--json"], standalone_mode=False)
    assert [row["n_factors"] for row in json.loads(told.stdout)["models"]] == [1, 2]
    with pytest.raises(OptionError, match="n_factors is for mixtures of factor analysers; GaussianMixture has none"):
        dem.select(rows, n_components=2, n_factors=2)
