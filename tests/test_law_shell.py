"""Law: the shell does with every family what Python does, and its reports are whole."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import zarr
from agreement import assert_same_bits
from cases import FAMILIES
from test_cli_commands import figures, works

import dem
from dem import plot
from dem.estimators.registry import criterion_of, figure_of

OPTIONS = ("-k", 3, "--seed", 0, "--tol", 1e-5, "--max-iter", 300)
# Commands start processes: once for each family is enough.
EVERY_CASE = pytest.mark.parametrize("case", FAMILIES, ids=str)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shell")


@pytest.fixture
def data(case, folder):
    """The rows of a case in five chunks."""
    path = folder / f"{case}.zarr"
    if not path.exists():
        rows = case.data()
        zarr.create_array(path, data=rows, chunks=(600, rows.shape[1]))
    return str(path)


@pytest.fixture
def model(case, folder, data):
    """A model that the shell fitted."""
    path = folder / f"{case}-model.zarr"
    if not path.exists():
        works("fit", data, *OPTIONS, *case.shell, "--out", path, "--quiet")
    return str(path)


@EVERY_CASE
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("--accelerate", "squarem"), {"accelerate": "squarem"}),
        (("--algorithm", "incremental"), {"algorithm": "incremental"}),
        (("--algorithm", "stepwise"), {"algorithm": "stepwise"}),
        (
            ("--top-components", "2", "--init", "random_from_data"),
            {"top_components": 2, "init_params": "random_from_data"},
        ),
    ],
    ids=["batch", "squarem", "incremental", "stepwise", "truncated"],
)
def test_fit_agrees_with_python(case, arguments, options, data, tmp_path):
    out = str(tmp_path / "out.zarr")
    shown = works("fit", data, *OPTIONS, *case.shell, *arguments, "--out", out, "--json")
    found, expected = json.loads(shown.stdout), case.estimator(tol=1e-5, max_iter=300, **options).fit(data)
    saved = dem.load(out)
    assert type(saved) is type(expected)
    assert_same_bits(saved, expected, (*case.parameters, "lower_bounds_", "n_iter_", "converged_"))
    assert saved.get_params() == expected.get_params()
    for name in (case.parameters[0], case.located):
        assert found[name.removesuffix("_")] == getattr(expected, name).tolist()
    assert (found["estimator"], found["n_components"]) == (type(expected).__name__, 3)
    assert (found["converged"], found[figure_of(expected)]) == (True, expected.lower_bound_)


@EVERY_CASE
def test_reports_are_whole(case, data, model):
    fitted = dem.load(model)
    shown = works("fit", data, *OPTIONS, *case.shell)
    weights = re.findall(r"^ +\d+ +(\d\.\d{4}) ", shown.stdout, flags=re.MULTILINE)
    # Where a table is too wide for the terminal, another with the rest of the features follows.
    np.testing.assert_allclose(np.array(weights[:3], dtype=float), fitted.weights_, atol=5e-5)
    described = works("info", model).stdout
    assert f"{type(fitted).__name__} of 3 components, {fitted.n_features_in_} features" in described
    assert "…" not in described
    found = figures("info", model)
    assert (found["kind"], found["n_components"], found["n_features"]) == ("model", 3, fitted.n_features_in_)


@EVERY_CASE
def test_score(case, data, model):
    found, fitted, rows = figures("score", model, data), dem.load(model), case.data()
    assert found["log_likelihood_per_row"] == pytest.approx(fitted.score(rows), rel=1e-12)
    assert found["bic"] == pytest.approx(fitted.bic(rows), rel=1e-12)
    assert found["aic"] == pytest.approx(fitted.aic(rows), rel=1e-12)
    assert "log-likelihood per row" in works("score", model, data).stdout


@EVERY_CASE
def test_predict(case, data, model, tmp_path):
    fitted, rows, out = dem.load(model), case.data(), str(tmp_path / "out.zarr")
    for options, expected in (
        ((), fitted.predict(rows)),
        (("--proba",), fitted.predict_proba(rows)),
        (("--log-density",), fitted.score_samples(rows)),
    ):
        assert figures("predict", model, data, out, *options, "--overwrite")["n_rows"] == 3000
        np.testing.assert_allclose(zarr.open_array(out, mode="r")[...], expected, rtol=1e-12)


@EVERY_CASE
def test_samples_can_be_fitted(case, model, tmp_path):
    for name in ("a", "b"):
        assert figures("sample", model, 1000, tmp_path / name, "--seed", 3)["n_rows"] == 1000
    first, second = (zarr.open_group(str(tmp_path / name), mode="r")["rows"][...] for name in ("a", "b"))
    assert first.shape == (1000, dem.load(model).n_features_in_)
    np.testing.assert_array_equal(first, second)
    works("fit", tmp_path / "a", "--variable", "rows", "-k", 3, *case.shell, "--tol", 1e-2, "--quiet")


@EVERY_CASE
def test_fit_goes_on_from_a_model(case, data, model, tmp_path):
    out = str(tmp_path / "out.zarr")
    found = figures("fit", data, "--from", model, "--out", out, "--tol", 1e-10, "--max-iter", 1000)
    before = dem.load(model)
    assert found[figure_of(before)] >= before.lower_bound_ - 1e-12  # rounding
    assert type(dem.load(out)) is type(dem.load(model))


@EVERY_CASE
def test_select(case, data, tmp_path):
    out, picture = tmp_path / "model.zarr", tmp_path / "criteria.png"
    arguments = (data, "-k", "2,3", *case.shell, "--seed", 0, "--tol", 1e-2, "--criterion", "icl")
    figures = json.loads(works("select", *arguments, "--out", out, "--plot", picture, "--json").stdout)
    assert [row["n_components"] for row in figures["models"]] == [2, 3]
    assert figures["best"] == min(figures["models"], key=lambda row: row["icl"])
    assert figures["models"][1]["n_parameters"] == case.n_parameters
    assert picture.stat().st_size > 5000
    fitted = dem.load(str(out))
    assert figures["best"]["icl"] == pytest.approx(fitted.icl(case.data()), rel=1e-12)
    assert f"chosen by icl: {fitted.n_components} components" in works("select", *arguments).stdout


@EVERY_CASE
def test_plan(case, data):
    found = figures("plan", data, "-k", 3, *case.shell)
    assert (found["n_rows"], found["problems"]) == (3000, [])
    assert found["memory_bytes"] > 0


@EVERY_CASE
def test_pictures(case, model):
    fitted = dem.load(model)
    above, _ = plot.convergence(fitted).axes
    way = "EM" if criterion_of(fitted).startswith("log") else "VB"
    assert above.get_title(loc="left") == f"Convergence of {way}: {fitted.lower_bound_:.6g} nats per row"
