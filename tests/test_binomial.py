"""Binomial mixtures with numbers of trials for each column or row, against SciPy and what made their samples."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
import xarray as xr
import zarr
from click.testing import CliRunner

import dem
from dem.cli.main import dem as shell
from dem.errors import DataError, OptionError

TRIALS = np.array([10, 3, 25])
SHARES = np.array([[0.1, 0.8, 0.5], [0.7, 0.2, 0.4]])


def successes(n_rows=2000):
    rng = np.random.default_rng(0)
    return rng.binomial(TRIALS, SHARES[rng.choice(2, n_rows, p=[0.6, 0.4])])


def test_trials_of_each_column(tmp_path):
    rows = successes()
    fitted = dem.BinomialMixture(2, TRIALS, random_state=0, tol=1e-8, max_iter=500).fit(rows)
    order = np.argsort(fitted.probabilities_[:, 0])
    np.testing.assert_allclose(fitted.probabilities_[order], SHARES, atol=0.03)
    each = scipy.stats.binom(TRIALS, fitted.probabilities_[:, np.newaxis]).logpmf(rows).sum(axis=2)
    expected = np.logaddexp.reduce(np.log(fitted.weights_)[:, np.newaxis] + each, axis=0)
    np.testing.assert_allclose(fitted.score_samples(rows), expected, rtol=1e-10)
    np.testing.assert_allclose(fitted.score_samples(scipy.sparse.csr_array(rows)), expected, rtol=1e-10)
    assert (fitted.sample(1000)[0].max(axis=0) <= TRIALS).all()
    fitted.save(str(tmp_path / "model.zarr"))
    np.testing.assert_array_equal(dem.load(str(tmp_path / "model.zarr")).predict(rows), fitted.predict(rows))
    gaps = np.where(np.arange(3) == np.arange(len(rows))[:, np.newaxis] % 9, np.nan, rows)
    found = dem.BinomialMixture(2, TRIALS, missing="marginalise", random_state=0, tol=1e-8, max_iter=500).fit(gaps)
    np.testing.assert_allclose(found.probabilities_, fitted.probabilities_, atol=0.02)


def test_the_shell_is_told(tmp_path):

    zarr.create_array(str(tmp_path / "rows.zarr"), data=successes(200))
    out = str(tmp_path / "model.zarr")
    asked = ["fit", str(tmp_path / "rows.zarr"), "-k", "2", "--family", "binomial", "--out", out, "--quiet"]
    done = CliRunner().invoke(shell, [*asked, "--trials", "10,3,25"])
    assert done.exit_code == 0, done.output
    assert dem.load(out).n_trials.tolist() == [10, 3, 25]
    assert CliRunner().invoke(shell, [*asked, "--trials", "10,x"]).exit_code == 2


def test_what_is_wrong():
    rows = successes(50)
    rows[7, 1] = 4
    for data in (rows, scipy.sparse.csr_array(rows)):
        with pytest.raises(DataError, match=r"n_trials of their column.*; the first is 4 in row 7, column 1; .* is 3"):
            dem.BinomialMixture(2, TRIALS).fit(data)
    for trials, said in (
        ([3, 4], "2 columns, but there are 3"),
        ([3, 4, 0], "at least 1"),
        (2.5, "n_trials"),
        ([[3]], "n_trials"),
    ):
        with pytest.raises(OptionError, match=said):
            dem.BinomialMixture(2, trials).fit(rows)


START = np.array([[0.3, 0.5, 0.5], [0.5, 0.4, 0.5]])


def tosses(n_rows=400):
    """Rows of successes, the trials of each, some of which are 0, and the components."""
    rng = np.random.default_rng(1)
    labels, trials = rng.choice(2, n_rows, p=[0.6, 0.4]), rng.integers(0, 30, size=(n_rows, 3))
    return rng.binomial(trials, SHARES[labels]), trials, labels


def expected_of(rows, trials, weights, n_steps):
    """Return what so many steps of EM from `START` come to: p and the shares of the components."""
    known, shares, p = ~np.isnan(rows), np.array([0.5, 0.5]), START
    rows, trials = np.where(known, rows, 0.0), np.where(known, trials, 0)
    for _ in range(n_steps):
        joint = np.log(shares) + scipy.stats.binom(trials[:, np.newaxis], p).logpmf(rows[:, np.newaxis]).sum(axis=2)
        own = weights[:, np.newaxis] * np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
        shares, p = own.sum(axis=0) / own.sum(), (own.T @ rows) / (own.T @ trials)
    return p, shares


@pytest.mark.filterwarnings("ignore:Best performing")
@pytest.mark.parametrize("missing", ["error", "skip", "marginalise"])
def test_trials_of_each_row_against_scipy(missing):
    rng, (rows, trials, _) = np.random.default_rng(2), tosses()
    weights = rng.random(len(rows)) * (rng.random(len(rows)) < 0.8)
    rows = np.where(rng.random(rows.shape) < (0.2 if missing != "error" else 0.0), np.nan, rows)
    counted = ~np.isnan(rows).any(axis=1) if missing == "skip" else np.ones(len(rows), dtype=bool)
    p, shares = expected_of(rows[counted], trials[counted], weights[counted], 12)
    options = {"probabilities_init": START, "weights_init": [0.5, 0.5], "tol": 0.0, "max_iter": 12}
    fitted = dem.BinomialMixture(2, missing=missing, **options).fit(rows, sample_weight=weights, trials=trials)
    np.testing.assert_allclose(fitted.probabilities_, p, rtol=1e-10)
    np.testing.assert_allclose(fitted.weights_, shares, rtol=1e-10)


def test_the_same_trials_of_all_rows_are_those_of_the_columns():
    rows = successes(500)
    of_columns = dem.BinomialMixture(2, TRIALS, random_state=0).fit(rows)
    given = {"trials": np.broadcast_to(TRIALS, rows.shape)}
    of_rows = dem.BinomialMixture(2, random_state=0).fit(rows, **given)
    np.testing.assert_allclose(of_rows.probabilities_, of_columns.probabilities_, rtol=1e-10)
    np.testing.assert_allclose(of_rows.row_trials_, np.broadcast_to(TRIALS, (2, 3)), rtol=1e-12)
    assert of_rows.bic(rows, **given) == pytest.approx(of_columns.bic(rows), rel=1e-12)


@pytest.mark.parametrize("options", [{"algorithm": "incremental"}, {"algorithm": "stepwise"}, {"algorithm": "auto"}])
def test_every_algorithm_finds_what_made_the_rows(options):
    rows, trials, labels = tosses(2000)
    known = np.where(np.arange(len(rows)) < 20, labels, -1)
    fitted = dem.BinomialMixture(2, random_state=0, tol=1e-7, **options).fit(rows, trials=trials, labels=known)
    np.testing.assert_allclose(fitted.probabilities_, SHARES, atol=0.02)
    drawn, found = fitted.sample(1000, trials=trials[:1000])
    assert (drawn <= trials[:1000]).all()
    assert (fitted.predict(drawn, trials=trials[:1000]) == found).mean() > 0.95
    gaps = np.where(np.arange(3) == 1, np.nan, rows)
    filled = fitted.set_params(missing="marginalise").impute(gaps, trials=trials)
    shares = fitted.predict_proba(gaps, trials=trials)
    np.testing.assert_allclose(filled[:, 1], trials[:, 1] * (shares @ fitted.probabilities_[:, 1]), rtol=1e-12)


def test_trials_come_in_every_form(tmp_path):
    rows, trials, _ = tosses()
    alike = trials.min(axis=1) + 30
    fitted = dem.BinomialMixture(2, random_state=0).fit(rows, trials=trials)
    expected, of_rows = fitted.predict_proba(rows, trials=trials), fitted.predict_proba(rows, trials=alike)
    store = str(tmp_path / "data.zarr")
    group = zarr.open_group(store, mode="w")
    for name, values in (("heads", rows), ("tosses", trials), ("alike", alike)):
        group.create_array(name, data=values, chunks=(100, *values.shape[1:]))
    frame = pd.DataFrame({**dict(zip("abc", rows.T, strict=True)), **dict(zip("uvw", trials.T, strict=True))})
    grid = xr.Dataset(
        {"heads": (("y", "x", "coin"), rows.reshape(20, 20, 3)), "n": (("y", "x"), alike.reshape(20, 20))}
    )
    for data, given, wanted in (
        (store, {"variable": "heads", "trials": "tosses"}, expected),
        (store, {"variable": "heads", "trials": f"{store}/alike"}, of_rows),
        (da.from_array(rows, chunks=(70, 3)), {"trials": da.from_array(trials, chunks=(90, 3))}, expected),
        (rows, {"trials": pd.array(alike, dtype="Int64")}, of_rows),
    ):
        np.testing.assert_allclose(np.asarray(fitted.predict_proba(data, **given)), wanted, rtol=1e-12)
    of_frame = dem.BinomialMixture(2, random_state=0).fit(frame, trials=["u", "v", "w"])
    np.testing.assert_allclose(of_frame.probabilities_, fitted.probabilities_, rtol=1e-12)
    of_grid = fitted.predict(grid, trials="n", features={"heads": "coin"})
    np.testing.assert_array_equal(np.ravel(of_grid), of_rows.argmax(axis=1))
    run = CliRunner().invoke
    out, opened = str(tmp_path / "model.zarr"), ["--variable", "heads"]
    asked = ["fit", store, *opened, "-k", "2", "--family", "binomial", "--seed", "0", "--out", out, "--quiet"]
    assert run(shell, [*asked, "--trials", "tosses"]).exit_code == 0
    np.testing.assert_allclose(dem.load(out).probabilities_, fitted.probabilities_, rtol=1e-12)
    done = run(shell, ["predict", out, store, str(tmp_path / "p.zarr"), *opened, "--proba", "--trials", "tosses"])
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(zarr.open_array(str(tmp_path / "p.zarr"))[:], expected, rtol=1e-12)
    again = run(shell, ["fit", store, *opened, "--from", out, "--trials", "tosses", "--quiet"])
    assert again.exit_code == 0, again.output
    assert "needs --trials of each row" in run(shell, ["score", out, store, *opened]).output
    assert "drawn in Python" in run(shell, ["sample", out, "5", str(tmp_path / "drawn.zarr")]).output
    searched = run(
        shell, ["select", store, *opened, "-k", "1", "--family", "binomial", "--trials", "tosses", "--quiet"]
    )
    assert searched.exit_code == 0, searched.output
    frame.assign(word="x").to_parquet(tmp_path / "t.parquet")
    of_words = [
        "fit",
        str(tmp_path / "t.parquet"),
        "--columns",
        "a,b",
        "-k",
        "2",
        "--family",
        "binomial",
        "--trials",
        "word",
    ]
    assert "--trials: column 'word' of" in run(shell, of_words).output
    gaussian = str(tmp_path / "gaussian.zarr")
    dem.GaussianMixture(1).fit(rows).save(gaussian)
    told = run(shell, ["score", gaussian, store, *opened, "--trials", "tosses"]).output
    assert "--trials goes with binomial mixtures without n_trials only" in told


def test_what_is_wrong_with_trials_of_rows():
    rows, trials, _ = tosses(50)
    mixture = dem.BinomialMixture(2, random_state=0)
    for value, said in ((-1, "not negative"), (2.5, "whole"), (np.nan, "known where values are")):
        wrong = trials.astype(float)
        wrong[7, 1] = value
        with pytest.raises(DataError, match=rf"trials is {value}\.?0? in row 7, column 1; .*{said}"):
            mixture.fit(rows, trials=wrong)
    rows[5, 2] = trials[5, 2] + 1
    with pytest.raises(
        DataError, match=rf"trials of their row \(binomial\); the first is {rows[5, 2]} in row 5, column 2"
    ):
        mixture.fit(rows, trials=trials)
    with pytest.raises(OptionError, match=r"needs n_trials=, or trials= of each row"):
        mixture.fit(rows)
    with pytest.raises(OptionError, match="trials goes with binomial mixtures without n_trials only"):
        dem.BinomialMixture(2, 99).fit(rows, trials=trials)
    with pytest.raises(OptionError, match=r"'1,2': binomial needs n_trials; write \('binomial', \{'n_trials': 10\}\)"):
        dem.Mixture({"0": "poisson", "1,2": "binomial"}, n_components=2).fit(rows)
