"""Stepwise EM and `partial_fit`: streams that can stop and go on, starts from few rows, data that looks sorted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from agreement import assert_same_bits
from cases import CASES, gaussian_rows
from click.testing import CliRunner
from sklearn.exceptions import NotFittedError
from sources import CutRows

import dem
from dem.cli import dem as command
from dem.errors import DataError, DataWarning

EDGES = list(range(100, 3000, 100))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_stream_comes_close_to_a_fit(case):
    rows = case.data()
    model = case.estimator(**case.for_streams)
    for part in np.array_split(rows, 15):
        assert model.partial_fit(part) is model
    assert model.n_samples_seen_ == len(rows)
    assert not model.converged_
    assert model.score(rows) > case.estimator(n_init=3).fit(rows).score(rows) - 0.02


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_stream_goes_on_tomorrow_with_the_same_bits(case, tmp_path):
    rows, path = case.data(), str(tmp_path / "model.zarr")
    today = case.estimator(**case.for_streams).partial_fit(rows[:700])
    today.save(path)
    tomorrow = dem.load(path)
    for model in (today, tomorrow):
        model.partial_fit(CutRows(rows[700:2000], [300, 600]))
    assert_same_bits(tomorrow, today, (*case.parameters, "n_samples_seen_", "lower_bound_"))
    assert today.n_samples_seen_ == 2000


def test_rows_are_held_until_there_are_enough():
    rows = gaussian_rows()
    model = dem.GaussianMixture(3, random_state=0).partial_fit(rows[:1]).partial_fit(rows[1:2])
    with pytest.raises(NotFittedError):
        model.predict(rows)
    model.partial_fit(rows[2:40])
    at_once = dem.GaussianMixture(3, random_state=0).partial_fit(rows[:40])
    assert_same_bits(model, at_once, ("weights_", "means_", "covariances_", "n_samples_seen_"))
    assert model.n_samples_seen_ == 40


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_few_rows_do_not_undo_a_fit(case):
    rows = case.data()
    fitted = case.estimator(n_init=3).fit(rows)
    before = fitted.score(rows)
    assert fitted.partial_fit(rows[:20]).score(rows) > before - 0.01
    assert fitted.n_samples_seen_ == len(rows) + 20


def test_a_stream_that_fails_leaves_the_model():
    rows = gaussian_rows()
    model = dem.GaussianMixture(3, random_state=0).partial_fit(rows[:500])
    before = model.means_.copy()
    with pytest.raises(DataError, match="row 3, column 1"):
        model.partial_fit(np.where(np.arange(30).reshape(10, 3) == 10, np.nan, 1.0))
    with pytest.raises(DataError, match="2 features"):
        model.partial_fit(rows[:, :2])
    np.testing.assert_array_equal(model.means_, before)
    assert model.n_samples_seen_ == 500


def test_sorted_rows_are_told():
    table = gaussian_rows()
    model = dem.GaussianMixture(3, algorithm="stepwise", random_state=0)
    with pytest.warns(DataWarning, match="look sorted.*column 0.*algorithm='incremental'"):
        model.fit(CutRows(table[np.argsort(table[:, 0])], EDGES))
    model.fit(CutRows(table, EDGES))  # a warning would be an error


@pytest.mark.slow
def test_algorithm_on_the_command_line(tmp_path):
    path = str(tmp_path / "data.zarr")
    zarr.create_array(path, data=gaussian_rows(), chunks=(100, 3))
    shared = ["fit", path, "-k", "3", "--seed", "0", "--tol", "1e-9", "--json"]
    found = {}
    for algorithm in ("auto", "batch", "incremental", "stepwise"):
        result = CliRunner().invoke(command, [*shared, "--algorithm", algorithm])
        assert result.exit_code == 0, result.output
        found[algorithm] = json.loads(result.stdout)
    assert CliRunner().invoke(command, [*shared, "--algorithm", "sgd"]).exit_code == 2
    key = "log_likelihood_per_row"
    assert found["incremental"][key] == pytest.approx(found["batch"][key], abs=1e-6)
    assert found["stepwise"][key] == pytest.approx(found["batch"][key], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7, 10])
def test_few_rows_at_a_time_lose_no_component(size):
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.concatenate([rng.normal(centre, 1.0, size=(200, 3)) for centre in (0.0, 4.0, 8.0)]))
    model = dem.GaussianMixture(3, random_state=0)
    for start in range(0, len(rows), size):
        model.partial_fit(rows[start : start + size])
        assert model.n_samples_seen_ == min(start + size, len(rows)) if hasattr(model, "weights_") else start < 3
    assert model.weights_.min() > 0.25
    assert model.score(rows) > dem.GaussianMixture(3, random_state=0).fit(rows).score(rows) - 0.05


def test_a_model_saved_while_the_first_rows_are_held_goes_on_to_the_same_bits(tmp_path):
    rows = np.random.default_rng(0).normal(size=(400, 3))
    today = dem.GaussianMixture(3, random_state=0).partial_fit(rows[:50]).partial_fit(rows[50:53])
    today.save(str(tmp_path / "model.zarr"))
    tomorrow = dem.load(str(tmp_path / "model.zarr"))
    for model in (today, tomorrow):
        model.partial_fit(rows[53:100]).partial_fit(rows[100:])
    assert_same_bits(tomorrow, today, ("weights_", "means_", "covariances_", "n_samples_seen_"))
    assert not hasattr(tomorrow, "_held_rows")
