"""Mixtures of regressions: against NumPy's least squares and scipy's densities, columns by name, lines that cross."""

from __future__ import annotations

import itertools
import json

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from agreement import assert_close, assert_same_bits
from cases_columns import INTERCEPTS, SLOPES, regression_rows
from scipy.stats import norm
from test_cli_commands import works

import dem
from dem.data.base import Chunk
from dem.errors import ComponentWarning, DataError, FitError, OptionError

NAMES = ("weights_", "coefficients_", "intercepts_", "sigmas_")


def crossing(n_rows=600, seed=0):
    """Rows of three lines through one point."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=[0.5, 0.3, 0.2])
    x = rng.uniform(-3.0, 3.0, size=n_rows)
    return np.column_stack([x, np.array([2.0, 0.0, -1.5])[labels] * x + 0.3 * rng.normal(size=n_rows)])


def least_squares(rows, weights):
    """Return coefficients and standard deviation of a weighted regression of the last column, by NumPy's `lstsq`."""
    root = np.sqrt(weights)
    z = np.column_stack([np.ones(len(rows)), rows[:, :-1]])
    found = np.linalg.lstsq(z * root[:, np.newaxis], rows[:, -1] * root)[0]
    return found, np.sqrt(weights @ (rows[:, -1] - z @ found) ** 2 / weights.sum())


@pytest.fixture(scope="module")
def fitted():
    return dem.RegressionMixture(3, random_state=0, tol=1e-6).fit(regression_rows())


def test_density_and_posterior_are_those_of_normal_responses(fitted):
    rows = regression_rows(200, seed=3)
    mean = fitted.intercepts_ + rows[:, :-1] @ fitted.coefficients_.T
    joint = fitted.weights_ * norm.pdf(rows[:, -1:], mean, fitted.sigmas_)
    np.testing.assert_allclose(fitted.score_samples(rows), np.log(joint.sum(axis=1)), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(fitted.predict_proba(rows), joint / joint.sum(axis=1, keepdims=True), atol=1e-10)
    np.testing.assert_allclose(fitted.predict_response(rows[:, :-1]), mean @ fitted.weights_, rtol=1e-12)


def test_an_m_step_is_weighted_least_squares(fitted):
    rows, (family, parameters) = regression_rows(500, seed=4), fitted._model()
    weights = np.random.default_rng(0).random(500)
    after = family.to_user(
        family.m_step(family.e_step(parameters, Chunk(rows, range(500), weights=weights)), parameters)
    )
    shares = fitted.predict_proba(rows) * weights[:, np.newaxis]
    for k, share in enumerate(shares.T):
        coefficients, sigma = least_squares(rows, share)
        ours = [after["intercepts"][k], *after["coefficients"][k]]
        np.testing.assert_allclose(ours, coefficients, rtol=1e-10)
        assert after["sigmas"][k] == pytest.approx(sigma, rel=1e-10)


def test_finds_coefficients_and_intercepts(fitted):
    order = np.argsort(fitted.intercepts_)[[1, 2, 0]]
    np.testing.assert_allclose(fitted.intercepts_[order], INTERCEPTS, atol=0.2)
    np.testing.assert_allclose(fitted.coefficients_[order], SLOPES, atol=0.05)
    np.testing.assert_allclose(fitted.sigmas_[order], [0.5, 0.3, 0.8], atol=0.05)


@pytest.mark.parametrize("algorithm", ["batch", "incremental"])
def test_tight_residuals_lose_no_digits(algorithm):
    """With R² of 1 − 1e-12 and a design far from 0, moments about the origin would leave no digit of sigma."""
    rng = np.random.default_rng(1)
    x = 1e4 + rng.normal(size=(2000, 2))
    rows = np.column_stack([x, x @ [1.0, -2.0] + 3.0 + 1e-6 * rng.normal(size=2000)])
    model = dem.RegressionMixture(1, reg_covar=0.0, algorithm=algorithm, tol=0.0, max_iter=4)
    with pytest.warns(UserWarning, match="converge"):
        model.fit(dask.array.from_array(rows, chunks=(250, 3)))
    centred = rows - [1e4, 1e4, -1e4 + 3.0]
    _, sigma = least_squares(centred, np.ones(2000))
    assert model.sigmas_[0] == pytest.approx(sigma, rel=1e-9)
    np.testing.assert_allclose(model.coefficients_[0], [1.0, -2.0], atol=1e-6)


def test_lines_that_cross_are_found_by_one_start():
    found = [dem.RegressionMixture(3, random_state=seed).fit(crossing(seed=seed)) for seed in range(3)]
    for model in found:
        np.testing.assert_allclose(np.sort(model.coefficients_[:, 0]), [-1.5, 0.0, 2.0], atol=0.15)


def test_no_intercept_and_shared_sigma():
    rows = crossing()
    model = dem.RegressionMixture(3, random_state=0, intercept=False, fit_sigma="shared", tol=1e-8).fit(rows)
    assert not model.intercepts_.any()
    assert len(set(model.sigmas_)) == 1
    assert model._n_parameters() == 2 + 3 + 1
    shares = model.predict_proba(rows)
    x, y = rows.T
    slopes = (shares * (x * y)[:, np.newaxis]).sum(axis=0) / (shares * (x * x)[:, np.newaxis]).sum(axis=0)
    np.testing.assert_allclose(model.coefficients_[:, 0], slopes, rtol=1e-4)
    residuals = (y[:, np.newaxis] - x[:, np.newaxis] * slopes) ** 2
    assert model.sigmas_[0] == pytest.approx(np.sqrt((shares * residuals).sum() / 600), rel=1e-4)
    free = dem.RegressionMixture(3, random_state=0, intercept=False).fit(rows)
    assert free._n_parameters() == 2 + 3 + 3


@pytest.mark.slow
def test_columns_by_name_of_all_kinds_of_tables(tmp_path):
    rows = regression_rows()
    options = {"n_components": 3, "random_state": 0, "max_iter": 3, "tol": 1e9}
    expected = dem.RegressionMixture(**options).fit(rows)
    frame = pd.DataFrame({"y": rows[:, 2], "b": rows[:, 1], "a": rows[:, 0], "who": "somebody"})
    by_name = {**options, "response": "y", "design": ["a", "b"]}
    frame.drop(columns="who").to_parquet(tmp_path / "table.parquet")
    group = zarr.create_group(str(tmp_path / "group.zarr"))
    for name in ("y", "b", "a"):
        group.create_array(name, data=frame[name].to_numpy(), chunks=(1000,))
    dataset = xr.Dataset({name: ("row", frame[name].to_numpy()) for name in ("y", "b", "a")})
    more = dataset.assign(nothing=("row", np.full(3000, np.nan)))
    for table in (frame, str(tmp_path / "table.parquet"), str(tmp_path / "group.zarr"), dataset, more):
        model = dem.RegressionMixture(**by_name).fit(table)
        assert_close(model, expected, NAMES)
        np.testing.assert_array_equal(np.asarray(model.predict(table)).ravel(), expected.predict(rows))
        responses = np.asarray(model.predict_response(table)).ravel()
        np.testing.assert_allclose(responses, expected.predict_response(rows[:, :2]), rtol=1e-9)
    with_gaps = np.column_stack([rows[:, 2], np.where(np.arange(3000) % 7, rows[:, 0], np.nan), rows[:, 1], rows[:, 0]])
    by_number = dem.RegressionMixture(**options, response=0, design=[3, 2]).fit(with_gaps)
    assert_close(by_number, expected, NAMES)
    drawn, _ = by_number.sample(5)
    assert np.isnan(drawn[:, 1]).all()
    assert np.isfinite(drawn[:, [0, 2, 3]]).all()
    only_design = frame[["b", "a"]]
    model = dem.RegressionMixture(**by_name).fit(frame)
    np.testing.assert_allclose(model.predict_response(only_design), expected.predict_response(rows), rtol=1e-9)


def test_the_response_may_stand_by_itself(fitted):
    rows = regression_rows()
    apart = dem.RegressionMixture(3, random_state=0, tol=1e-6).fit(rows[:, :2], rows[:, 2])
    assert_same_bits(apart, fitted, NAMES)
    assert apart.score(rows[:, :2], rows[:, 2]) == fitted.score(rows)
    np.testing.assert_array_equal(apart.predict(rows[:, :2], rows[:, 2]), fitted.predict(rows))
    frame = pd.DataFrame(rows[:, :2], columns=["a", "b"])
    named = dem.RegressionMixture(3, random_state=0, tol=1e-6).fit(frame, pd.Series(rows[:, 2], name="visits"))
    assert list(named.feature_names_in_) == ["a", "b", "visits"]
    assert_same_bits(named, fitted, NAMES)
    with pytest.raises(DataError, match="y goes with arrays and DataFrames"):
        fitted.fit(dask.array.from_array(rows[:, :2]), rows[:, 2])
    with pytest.raises(DataError, match=r"y has shape \(2999,\)"):
        fitted.predict(rows[:, :2], rows[1:, 2])


def test_draws_of_responses_belong_to_rows(fitted):
    rows = regression_rows(20000, seed=9)
    drawn = fitted.predict_response(rows, draw=True, random_state=3)
    parts = fitted.predict_response(dask.array.from_array(rows, chunks=(777, 3)), draw=True, random_state=3)
    np.testing.assert_array_equal(drawn, parts.compute())
    assert fitted.score(rows[:, :2], drawn) == pytest.approx(fitted.score(rows), abs=0.05)


def test_gaps_in_the_response_are_no_information(fitted):
    rows = regression_rows()
    gaps = np.concatenate([rows, np.where(np.arange(3) == 2, np.nan, rows[:500])])
    skipping = dem.RegressionMixture(
        3, random_state=0, tol=1e-6, missing="skip", coefficients_init=fitted.coefficients_
    )
    skipping.set_params(intercepts_init=fitted.intercepts_, sigmas_init=fitted.sigmas_)
    assert_close(skipping.fit(gaps), skipping.fit(rows), NAMES)
    with pytest.raises(DataError, match="row 3000, column 2"):
        dem.RegressionMixture(3).fit(gaps)
    with pytest.raises(OptionError, match="missing='marginalise' is not for RegressionMixture"):
        dem.RegressionMixture(3, missing="marginalise").fit(gaps)
    assert np.isfinite(fitted.predict_response(gaps)).all()


def test_a_design_that_is_singular_in_a_component_is_named():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    x[:200, 1] = 7.0
    y = np.where(np.arange(400) < 200, 50.0 + x[:, 0], x @ [1.0, 2.0]) + 0.1 * rng.normal(size=400)
    labels = np.where(np.arange(400) < 200, 1, 0)
    frame = pd.DataFrame({"age": x[:, 0], "dose": x[:, 1], "y": y})
    model = dem.RegressionMixture(2, random_state=0)
    with pytest.warns(ComponentWarning, match=r"the design of component 1 is singular in dose: constant there"):
        model.fit(frame, labels=labels)
    np.testing.assert_allclose(model.coefficients_[0], [1.0, 2.0], atol=0.05)
    assert model.coefficients_[1, 0] == pytest.approx(1.0, abs=0.05)
    twice = np.column_stack([x[200:, 0], x[200:], y[200:]])
    with pytest.warns(ComponentWarning, match="singular in column 0, column 1: constant there, or a linear function"):
        model = dem.RegressionMixture(1).fit(twice)
    np.testing.assert_allclose(model.coefficients_, [[0.5, 0.5, 2.0]], atol=0.05)  # of minimum norm


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"response": "z"}, OptionError, "response: pandas DataFrame has no column 'z'; it has a, b, y"),
        ({"response": 7}, OptionError, "response: pandas DataFrame has 3 columns, and no column 7"),
        ({"response": "y", "design": ["a", "y"]}, OptionError, "without the response"),
        ({"design": ["a", "a"]}, OptionError, "each once"),
        ({"coefficients_init": [[1.0]]}, OptionError, r"shape of \(2, 2\).*coefficients_init"),
        ({"sigmas_init": [0.0, 1.0]}, OptionError, "sigmas_init must be at least 1e-150"),
    ],
)
def test_bad_options(options, error, says):
    frame = pd.DataFrame(regression_rows(50), columns=["a", "b", "y"])
    with pytest.raises(error, match=says) as raised:
        dem.RegressionMixture(2, **options).fit(frame)
    assert "\n" not in str(raised.value)


def test_responses_that_follow_exactly_are_an_error():
    x = np.random.default_rng(0).normal(size=(100, 1))
    with pytest.raises(FitError, match="component 0: the response follows from the design there"):
        dem.RegressionMixture(1, reg_covar=0.0).fit(np.column_stack([x, 2.0 * x]))
    with pytest.warns(ComponentWarning, match="reg_covar=0.0001 is most of the variance"):
        kept = dem.RegressionMixture(1, reg_covar=1e-4).fit(np.column_stack([x, 2.0 * x]))
    assert kept.sigmas_[0] == pytest.approx(1e-2)
    with pytest.raises(DataError, match="a response and a column that explains it"):
        dem.RegressionMixture(1).fit(x)


@pytest.mark.slow
def test_the_shell_takes_columns_by_name(tmp_path):
    frame = pd.DataFrame(regression_rows(), columns=["a", "b", "y"])[["y", "b", "a"]]
    frame.to_parquet(tmp_path / "table.parquet")
    arguments = ("fit", tmp_path / "table.parquet", "-k", 3, "--family", "regression")
    arguments = (*arguments, "--response", "y", "--design", "a,b", "--seed", 0, "--out", tmp_path / "model.zarr")
    found = json.loads(works(*arguments, "--json").stdout)
    expected = dem.RegressionMixture(3, random_state=0, response="y", design=["a", "b"]).fit(frame)
    for name in NAMES:
        assert found[name.removesuffix("_")] == getattr(expected, name).tolist()
    model = dem.load(str(tmp_path / "model.zarr"))
    assert (model.response, model.design) == ("y", ["a", "b"])
    assert_same_bits(model, expected, (*NAMES, "design_means_", "design_covariances_"))
    planned = json.loads(works("plan", *arguments[1:-4], "--json").stdout)
    assert (planned["n_features"], planned["problems"]) == (3, [])
    described = works("info", tmp_path / "model.zarr").stdout
    assert "response y, design a, b" in described
    for word in ("intercept", "sigma", "coefficient"):
        assert word in works(*arguments, "--overwrite").stdout
    through_0 = works("fit", tmp_path / "table.parquet", "--family", "regression", "-k", 2, "--no-intercept", "--json")
    assert json.loads(through_0.stdout)["intercepts"] == [0.0, 0.0]


def test_sums_about_any_coefficients_add(fitted):
    """Statistics of E-steps at different coefficients are, added, those of all rows about one of them."""
    family, parameters = fitted._model()
    rows = regression_rows()
    component, later = family.component, family.m_step(family.e_step(parameters, Chunk(rows, range(3000))), parameters)
    weights = np.random.default_rng(0).random((3, 3000))

    def sums(at, where):
        kernel = component.kernel(at.components, rows.dtype)
        kernel.block(Chunk(rows[where], range(3000)[where])).accumulate(weights[:, where])
        return component.rebased(kernel.statistics(), weights.sum(axis=1), at.components)

    halves = slice(1500), slice(1500, None)
    for one, other in itertools.product((parameters, later), repeat=2):
        total = sums(one, halves[0]) + sums(other, halves[1])
        whole = sums(one, slice(None))
        for name in ("products", "moments", "squares"):
            scale = np.abs(sums(parameters, halves[0]).squares).max()
            np.testing.assert_allclose(getattr(total, name), getattr(whole, name), atol=1e-10 * scale)


@pytest.mark.parametrize("value", [0.0, 5.0])
@pytest.mark.filterwarnings("ignore::dem.errors.DataWarning", "ignore::dem.errors.ComponentWarning")
def test_a_constant_response_is_one_line_on_the_floor(value):
    design = np.random.default_rng(0).normal(size=(300, 2))
    model = dem.RegressionMixture(3, random_state=0).fit(np.column_stack([design, np.full(300, value)]))
    np.testing.assert_allclose(model.predict_response(design), value, atol=1e-12)
    np.testing.assert_allclose(model.sigmas_, np.sqrt(model.reg_covar), rtol=1e-9)


def test_adapting_moves_the_whole_line():
    rows, new = crossing(200), crossing(40, seed=1) + np.array([0.0, 1.0])
    ours = dem.RegressionMixture(1).fit(rows).adapt(new, relevance=10.0)
    both, weights = np.concatenate([rows, new]), np.repeat([10.0 / 200, 1.0], [200, 40])
    line, _ = least_squares(both, weights)
    np.testing.assert_allclose([ours.intercepts_[0], ours.coefficients_[0, 0]], line, rtol=1e-8)
