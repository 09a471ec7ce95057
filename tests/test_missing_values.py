"""Rows with missing values: left out, or marginalised, which is maximum likelihood if they are missing at random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr
from cases import CASES, NARROW, chunk_of, gaussian_rows
from gaps import with_gaps
from scipy.stats import multivariate_normal
from sources import CutRows

import dem
from dem.errors import DataError, OptionError

# t distributions have no marginals yet; rows with gaps can be skipped
KNOWING = [case for case in CASES if case.family().component.marginalises]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
# Little and Rubin (2002), example 11.1: hundreds of fruits, and percentages of wormy ones, of 18 apple trees.
FRUITS = [8, 6, 11, 22, 14, 17, 18, 24, 19, 23, 26, 40, 4, 4, 5, 6, 8, 10]
WORMY = [59, 58, 56, 53, 50, 45, 43, 42, 39, 38, 30, 27, *(6 * [np.nan])]


def test_apples():
    rows = np.column_stack([FRUITS, WORMY])
    fitted = dem.GaussianMixture(missing="marginalise", reg_covar=0, tol=1e-14, max_iter=5000).fit(rows)
    np.testing.assert_allclose(fitted.means_[0], [14.722222, 49.333333], atol=5e-7)
    np.testing.assert_allclose(fitted.covariances_[0], [[89.533951, -90.696729], [-90.696729, 114.694955]], atol=5e-7)
    assert fitted.score(rows) * 18 == pytest.approx(-101.785632, abs=5e-7)
    assert fitted.n_patterns_ == 1


def step_of_em(rows, weights, means, covariances):
    """One step of EM with missing values in mixtures of full covariances, row by row: Ghahramani and Jordan (1994)."""
    (n, d), size = rows.shape, len(weights)
    joint, filled, spread = np.zeros((n, size)), np.zeros((n, size, d)), np.zeros((n, size, d, d))
    for i, k in np.ndindex(n, size):
        there, mean, covariance = ~np.isnan(rows[i]), means[k], covariances[k]
        joint[i, k] = np.log(weights[k])
        filled[i, k], spread[i, k] = mean, covariance
        if there.any():
            seen, cross = covariance[np.ix_(there, there)], covariance[:, there]
            joint[i, k] += multivariate_normal.logpdf(rows[i, there], mean[there], seen)
            gain = cross @ np.linalg.inv(seen)
            filled[i, k] += gain @ (rows[i, there] - mean[there])
            spread[i, k] = covariance - gain @ cross.T
    log_density = np.logaddexp.reduce(joint, axis=1)
    shares = np.exp(joint - log_density[:, np.newaxis])
    counts = shares.sum(axis=0)
    new = np.einsum("nk,nkd->kd", shares, filled) / counts[:, np.newaxis]
    centred = filled - new
    scatter = np.einsum("nk,nkd,nke->kde", shares, centred, centred) + np.einsum("nk,nkde->kde", shares, spread)
    return log_density, shares, counts / n, new, scatter / counts[:, np.newaxis, np.newaxis]


@pytest.mark.filterwarnings("ignore:in some direction reg_covar")
@pytest.mark.parametrize("case", [CASES[0], NARROW[0]], ids=str)
def test_a_step_is_that_of_plain_numpy(case):
    rows = case.data()[:200]
    gaps = with_gaps(rows, 0.3)
    family = replace(case.family(rows, reg_covar=0), marginalises=True)
    start = case.estimator(max_iter=2).fit(rows)
    parameters = family.from_user({name: getattr(start, f"{name}_") for name in start._parameter_names})
    statistics = family.e_step(parameters, chunk_of(gaps))
    log_density, shares, *expected = step_of_em(gaps, start.weights_, start.means_, start.covariances_)
    assert statistics.log_likelihood == pytest.approx(log_density.sum(), rel=1e-12)
    np.testing.assert_allclose(family.log_likelihood(parameters, chunk_of(gaps)), log_density, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(family.posterior(parameters, chunk_of(gaps)), shares, atol=1e-10)
    for found in (statistics, family.rebased(statistics, parameters)):
        after = family.to_user(family.m_step(found, parameters))
        for name, value in zip(("weights", "means", "covariances"), expected, strict=True):
            np.testing.assert_allclose(after[name], value, rtol=1e-9, atol=1e-12 * np.abs(value).max())


INDEPENDENT = [case for case in KNOWING if case.independent]


@pytest.mark.filterwarnings("ignore:.*distinct rows")
@pytest.mark.parametrize("case", INDEPENDENT, ids=str)
def test_features_that_are_missing_are_not_there(case):
    # With independent features the density of some of them is that of the model without the others.
    rows = case.data()
    start = case.estimator(max_iter=3, missing="marginalise").fit(rows)
    gaps = rows.astype(float)
    gaps[:, [0, 2]] = np.nan
    without = case.estimator(max_iter=0, missing="error").fit(rows[:, 1:2])
    for name in without._parameter_names:
        value, like = getattr(start, f"{name}_"), np.shape(getattr(without, f"{name}_"))
        # Of categories as many as the feature has.
        setattr(without, f"{name}_", value[:, 1:2][tuple(map(slice, like))] if value.ndim > 1 else value)
    if gaps.shape[1] > 3:
        gaps[:, 3:] = np.nan
    np.testing.assert_allclose(start.score_samples(gaps), without.score_samples(rows[:, 1:2]), rtol=1e-9)
    np.testing.assert_allclose(start.predict_proba(gaps), without.predict_proba(rows[:, 1:2]), atol=1e-10)


@pytest.mark.parametrize("case", INDEPENDENT, ids=str)
def test_what_is_missing_counts_as_its_mean(case):
    gaps = with_gaps(case.data(), 0.3)
    family = replace(case.family(case.data()), marginalises=True)
    start = case.estimator(max_iter=3).fit(case.data())
    values = {name: getattr(start, f"{name}_") for name in start._parameter_names}
    parameters = family.from_user(values)
    statistics = family.e_step(parameters, chunk_of(gaps))
    shares = family.posterior(parameters, chunk_of(gaps))
    observed = case.statistics(gaps)[:, np.newaxis]
    filled = np.where(np.isnan(observed), case.row_means(values), observed)
    expected = np.einsum("nk,nkd->kd", shares, filled) / shares.sum(axis=0)[:, np.newaxis]
    after = family.to_user(family.m_step(statistics, parameters))
    np.testing.assert_allclose(case.row_means(after), expected, rtol=1e-9, atol=1e-10)
    free_energy = family.free_energy(family.rebased(statistics, parameters), parameters)
    assert free_energy == pytest.approx(statistics.log_likelihood, rel=1e-12)


@pytest.mark.parametrize(
    "case",
    [case for case in KNOWING if case.name in ("gaussian-full", "gaussian-tied", "gaussian-diag", "poisson")],
    ids=str,
)
def test_what_is_imputed_is_the_mean_of_draws(case):
    gaps = with_gaps(case.data()[:40], 0.3)
    fitted = case.estimator(max_iter=3).fit(case.data())
    means = fitted.impute(gaps)
    draws = fitted.impute(np.tile(gaps, (500, 1)), draw=True, random_state=0).reshape(500, *gaps.shape)
    np.testing.assert_array_equal(means[~np.isnan(gaps)], gaps[~np.isnan(gaps)])
    assert (np.abs(means - draws.mean(axis=0)) <= 5 * draws.std(axis=0) / np.sqrt(500) + 1e-9).all()


@pytest.mark.parametrize("case", KNOWING, ids=str)
def test_complete_rows_are_fitted_to_the_same_bits(case):
    rows = case.data()
    ours, theirs = (case.estimator(max_iter=5, **more).fit(rows) for more in ({"missing": "marginalise"}, {}))
    for name in case.parameters:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("algorithm", ["batch", "incremental", "stepwise", "auto"])
@pytest.mark.parametrize("case", KNOWING, ids=str)
def test_the_likelihood_does_not_fall(case, algorithm):
    gaps = with_gaps(case.data())
    weights = np.random.default_rng(4).random(len(gaps))
    rows = CutRows(gaps, range(300, 3000, 300))
    fitted = case.estimator(algorithm=algorithm, missing="marginalise", max_iter=12, tol=0)
    fitted.fit(rows, sample_weight=weights)
    bounds = np.array(fitted.lower_bounds_[1 if algorithm == "stepwise" else 0 :])
    assert np.diff(bounds).min() > -1e-6  # what reg_covar may cost
    assert fitted.score(rows, sample_weight=weights) >= bounds[-1] - 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("case", KNOWING, ids=str)
def test_algorithms_find_the_same_and_what_made_the_data(case):
    gaps = with_gaps(case.data(), 0.15)
    rows = CutRows(gaps, range(300, 3000, 300))
    found = [
        case.estimator(algorithm=name, missing="marginalise", max_iter=400, tol=1e-9, n_init=3).fit(rows)
        for name in ("auto", "incremental")
    ]
    assert found[0].score(gaps) == pytest.approx(found[1].score(gaps), abs=1e-4)
    ours = np.sort(getattr(found[0], case.located), axis=0)
    np.testing.assert_allclose(ours, np.sort(case.truth[case.located], axis=0), atol=2.5 * case.within)


@pytest.mark.parametrize("case", KNOWING, ids=str)
def test_cuts_do_not_matter(case):
    gaps = with_gaps(case.data())
    one, other = (
        case.estimator(missing="marginalise", max_iter=5, tol=0).fit(CutRows(gaps, edges))
        for edges in ([], [1, 8, 9, 700, 701, 2400])
    )
    for name in case.parameters:
        value = getattr(one, name)
        np.testing.assert_allclose(getattr(other, name), value, rtol=0, atol=1e-10 * np.abs(value).max())


def test_a_cluster_gives_the_same_bits(cluster, tmp_path):
    from distributed import Client

    zarr.create_array(tmp_path / "rows.zarr", data=with_gaps(gaussian_rows()), chunks=(250, 3))
    path = str(tmp_path / "rows.zarr")
    for missing in ("marginalise", "skip"):
        options = {"missing": missing, "random_state": 0, "max_iter": 5}
        here = dem.GaussianMixture(3, **options).fit(path)
        with Client(cluster):
            there = dem.GaussianMixture(3, **options).fit(path)
        np.testing.assert_array_equal(there.means_, here.means_)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_that_are_skipped_are_not_there(case):
    gaps = with_gaps(case.data())
    complete = ~np.isnan(gaps).any(axis=1)
    ours = case.estimator(missing="skip", max_iter=6).fit(CutRows(gaps, [7, 8, 1500]))
    theirs = case.estimator(max_iter=6).fit(gaps[complete])
    for name in case.parameters:
        value = getattr(theirs, name)
        np.testing.assert_allclose(getattr(ours, name), value, rtol=0, atol=1e-10 * np.abs(value).max())
    for criterion in ("score", "bic", "icl"):
        assert getattr(ours, criterion)(gaps) == pytest.approx(getattr(theirs, criterion)(gaps[complete]), rel=1e-10)
    assert ours.n_samples_seen_ == complete.sum()
    labels, proba, density = ours.predict(gaps), ours.predict_proba(gaps), ours.score_samples(gaps)
    assert (labels[~complete] == -1).all()
    assert np.isnan(proba[~complete]).all()
    assert np.isnan(density[~complete]).all()
    np.testing.assert_array_equal(labels[complete], ours.predict(gaps[complete]))


def test_k_means_skips():
    gaps = with_gaps(gaussian_rows())
    complete = ~np.isnan(gaps).any(axis=1)
    for init in ("k-means||", "k-means++"):
        ours = dem.KMeans(3, init=init, random_state=0, missing="skip").fit(gaps)
        np.testing.assert_array_equal(ours.labels_ == -1, ~complete)
        theirs = dem.KMeans(3, init=ours.cluster_centers_).fit(gaps[complete])
        assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-6)
    with pytest.raises(OptionError, match="for mixtures"):
        dem.KMeans(3, missing="marginalise").fit(gaps)


@pytest.mark.parametrize("case", [case for case in KNOWING if not case.prior_rows], ids=str)
def test_rows_with_nothing_observed_count_for_the_weights_only(case):
    rows = case.data()
    fitted = case.estimator(missing="marginalise", max_iter=3).fit(rows)
    nothing = np.full((2, rows.shape[1]), np.nan)
    np.testing.assert_allclose(fitted.score_samples(nothing), 0.0, atol=1e-12)
    np.testing.assert_allclose(fitted.predict_proba(nothing), [fitted.weights_] * 2, rtol=1e-12)


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data", "k-means||"])
@pytest.mark.parametrize("share", [0.1, 0.8])  # at 0.8 there are hardly any complete rows
def test_starts(init, share):
    gaps = with_gaps(gaussian_rows(), share)
    fitted = dem.GaussianMixture(3, missing="marginalise", init_params=init, random_state=0, max_iter=3).fit(gaps)
    assert np.isfinite(fitted.means_).all()
    assert np.diff(fitted.lower_bounds_).min() > -1e-6


def test_results_lie_on_the_grid(tmp_path):
    cube = gaussian_rows(600).reshape(20, 30, 3)
    cube[np.random.default_rng(1).random(cube.shape) < 0.2] = np.nan
    field = xr.DataArray(cube, dims=("y", "x", "band"), coords={"band": [2.0, 5.0, 7.0], "x": np.arange(30)})
    zarr.create_array(tmp_path / "cube.zarr", data=cube, chunks=(7, 11, 3), dimension_names=("y", "x", "band"))
    fitted = dem.GaussianMixture(3, missing="marginalise", random_state=0).fit(field)
    fitted.save(str(tmp_path / "model.zarr"))
    loaded = dem.load(str(tmp_path / "model.zarr"))
    assert loaded.missing == "marginalise"
    labels = loaded.predict(field)
    assert labels.dims == ("y", "x")
    np.testing.assert_array_equal(labels, fitted.predict(cube.reshape(-1, 3)).reshape(20, 30))
    expected = fitted.impute(cube.reshape(-1, 3)).reshape(cube.shape)
    assert np.isfinite(expected).all()
    imputed = loaded.impute(field.transpose("band", "y", "x"))
    assert imputed.dims == ("band", "y", "x")
    np.testing.assert_allclose(imputed.transpose("y", "x", "band"), expected, rtol=1e-12)
    np.testing.assert_array_equal(imputed.band, field.band)
    path = str(tmp_path / "cube.zarr")
    lazy = loaded.impute(path, feature_dim="band")
    np.testing.assert_allclose(lazy.compute(), expected, rtol=1e-12)
    loaded.impute_to(path, str(tmp_path / "out.zarr"), feature_dim="band")
    np.testing.assert_allclose(zarr.open_array(tmp_path / "out.zarr")[...], expected, rtol=1e-12)
    skipping = dem.GaussianMixture(3, missing="skip", random_state=0).fit(path, feature_dim="band")
    skipping.predict_to(path, str(tmp_path / "labels.zarr"), feature_dim="band")
    written = zarr.open_array(tmp_path / "labels.zarr")[...]
    np.testing.assert_array_equal(written == -1, np.isnan(cube).any(axis=-1))


def test_draws_keep_spread_and_correlation():
    rng = np.random.default_rng(2)
    x = rng.normal(size=20_000)
    rows = np.column_stack([x, 2 * x + rng.normal(size=20_000)])
    gaps = rows.copy()
    gaps[rng.random(20_000) < 0.5, 1] = np.nan
    fitted = dem.GaussianMixture(missing="marginalise", random_state=0).fit(gaps)
    drawn = fitted.impute(gaps, draw=True, random_state=1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(rows.T), rtol=0.05)
    np.testing.assert_array_equal(drawn, fitted.impute(gaps, draw=True, random_state=1))
    assert np.cov(fitted.impute(gaps).T)[1, 1] < 4.8  # means alone spread less


def test_select_and_partial_fit(tmp_path):
    gaps = with_gaps(gaussian_rows(1500), 0.1)
    chosen = dem.select(gaps, n_components=range(2, 5), missing="marginalise", random_state=0, n_init=2)
    assert chosen.best_estimator_.n_components == 3
    assert min(row["bic"] for row in chosen.table) == pytest.approx(chosen.best_estimator_.bic(gaps), rel=1e-10)
    learning = dem.GaussianMixture(3, missing="marginalise", random_state=0)
    for start in range(0, 1500, 50):
        learning.partial_fit(gaps[start : start + 50])
    assert learning.score(gaps) > chosen.best_estimator_.score(gaps) - 0.1


@pytest.mark.parametrize("missing", ["skip", "marginalise"])
def test_plan(missing):
    said = dem.plan(with_gaps(gaussian_rows()), dem.GaussianMixture(3, missing=missing), seconds=0.1)
    assert "random rows" not in str(said)


@pytest.mark.parametrize("at_once", [2, 1000])
@pytest.mark.parametrize("away", [0.0, 1e7])  # far from the origin each component goes through its own frame
def test_a_step_of_tied_covariances_is_that_of_plain_numpy(monkeypatch, at_once, away):
    monkeypatch.setattr("dem.families.gaussian.tied.most_tied", lambda *_: at_once)
    monkeypatch.setattr("dem.families.gaussian.tied_marginal.most_tied", lambda *_: at_once)
    rows = gaussian_rows(200)
    start = dem.GaussianMixture(4, covariance_type="tied", random_state=0, max_iter=2).fit(rows)
    rows[:5] += away
    start.means_[3] = rows[0]
    family, parameters = start._model()
    family = replace(family, marginalises=True, component=replace(family.component, reg_covar=0.0))
    gaps = with_gaps(rows, 0.3)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, 200)
    covariances = np.array([start.covariances_] * 4)
    log_density, shares, counts, means, spread = step_of_em(gaps, start.weights_, start.means_, covariances)
    np.testing.assert_allclose(family.log_likelihood(parameters, chunk_of(gaps)), log_density, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(family.posterior(parameters, chunk_of(gaps)), shares, atol=1e-9)
    after = family.to_user(family.m_step(family.e_step(parameters, chunk_of(gaps)), parameters))
    np.testing.assert_allclose(after["weights"], counts, rtol=1e-9)
    np.testing.assert_allclose(after["means"], means, rtol=1e-9, atol=1e-9)
    expected = np.tensordot(counts, spread, 1)
    np.testing.assert_allclose(after["covariances"], expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())
    weighted = family.e_step(parameters, replace(chunk_of(gaps), weights=weights))
    assert weighted.log_likelihood == pytest.approx(weights @ log_density, rel=1e-10)


def test_candidates_are_for_complete_rows():
    gaps = with_gaps(gaussian_rows())
    fitted = dem.GaussianMixture(5, missing="marginalise", top_components=2, random_state=0, max_iter=10).fit(gaps)
    assert np.diff(fitted.lower_bounds_).min() > -1e-6
    assert fitted.lower_bound_ <= fitted.score(gaps) + 1e-9


def test_single_precision_is_near_double():
    gaps = with_gaps(gaussian_rows())
    single, double = (
        dem.GaussianMixture(3, missing="marginalise", random_state=0, max_iter=5).fit(gaps.astype(kind))
        for kind in ("f4", "f8")
    )
    np.testing.assert_allclose(single.means_, double.means_, atol=1e-3)


def test_bad_input():
    gaps = with_gaps(gaussian_rows())
    with pytest.raises(DataError, match=r"NaN.*unless missing= \(--missing\) says otherwise"):
        dem.GaussianMixture(3).fit(gaps)
    for missing in ("skip", "marginalise"):
        infinite = gaps.copy()
        infinite[11, 1] = np.inf
        with pytest.raises(DataError, match=r"1 infinite \(inf\) values; it is in row 11, column 1; drop these rows"):
            dem.GaussianMixture(3, missing=missing).fit(infinite)
    empty = gaps.copy()
    empty[:, 2] = np.nan
    with pytest.raises(DataError, match="column 2 of NumPy array has no values, only NaN; drop it"):
        dem.GaussianMixture(3, missing="marginalise").fit(empty)
    with pytest.raises(DataError, match="column 2 of NumPy array has no values"):
        dem.GaussianMixture(3, missing="marginalise").partial_fit(empty[:100])
    with pytest.raises(DataError, match="no row of NumPy array counts"):
        dem.GaussianMixture(3, missing="skip").fit(empty)
    with pytest.raises(OptionError, match="missing"):
        dem.GaussianMixture(3, missing="fill").fit(gaps)
    with pytest.raises(OptionError, match="not for StudentTMixture; give missing='skip'"):
        dem.StudentTMixture(3, missing="marginalise").fit(gaps)
    with pytest.raises(OptionError, match="not for GaussianMixture with noise; give missing='skip'"):
        dem.GaussianMixture(3, missing="marginalise", noise=True).fit(gaps)


def test_the_shell_says_what_python_says(tmp_path, capsys):
    from test_cli_sources import run

    gaps = with_gaps(gaussian_rows(600))
    path, model, out = (str(tmp_path / name) for name in ("rows.zarr", "model.zarr", "labels.zarr"))
    zarr.create_array(path, data=gaps, chunks=(100, 3))
    fit = ("fit", path, "-k", 3, "--seed", 0, "--quiet")
    code, said = run(capsys, *fit)
    assert code == 1
    assert "--missing" in said.err
    assert run(capsys, *fit, "--missing", "marginalise", "--out", model)[0] == 0
    expected = dem.GaussianMixture(3, random_state=0, missing="marginalise").fit(path)
    np.testing.assert_array_equal(dem.load(model).means_, expected.means_)
    assert run(capsys, "predict", model, path, out, "--quiet")[0] == 0
    np.testing.assert_array_equal(zarr.open_array(out)[...], expected.predict(gaps))
    assert run(capsys, "predict", model, path, out, "--missing", "skip", "--overwrite", "--quiet")[0] == 0
    np.testing.assert_array_equal(zarr.open_array(out)[...] == -1, np.isnan(gaps).any(axis=1))
    complete = gaps[~np.isnan(gaps).any(axis=1)]
    code, said = run(capsys, "score", model, path, "--missing", "skip")
    assert code == 0
    assert f"{expected.score(complete):.8g}" in said.out
    assert str(len(complete)) in said.out
    for options, how in (((), {}), (("--draw", "--seed", 4), {"draw": True, "random_state": 4})):
        code, said = run(capsys, "impute", model, path, out, *options, "--overwrite", "--json")
        assert code == 0
        expected.impute_to(path, out + "2", overwrite=True, **how)
        written = zarr.open_array(out)[...]
        np.testing.assert_array_equal(written, zarr.open_array(out + "2")[...])
        assert np.isfinite(written).all()
    code, said = run(capsys, "select", path, "-k", "2:3", "--seed", 0, "--missing", "marginalise", "--quiet", "--json")
    assert code == 0
