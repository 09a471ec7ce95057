"""k-means from the shell: the same clusters as in Python, and one line for what only mixtures can do."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import zarr
from test_cli_commands import fails, figures, run, works, write
from test_cli_signals import interrupt, start

import dem
from dem.estimators.registry import ESTIMATORS

K = ("--family", "kmeans", "-k", 4, "--seed", 0)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return 100.0 * (rng.integers(-4, 5, (4, 2))[rng.integers(4, size=1000)] + rng.normal(size=(1000, 2)))


@pytest.fixture
def data(tmp_path, rows):
    return write(tmp_path / "data.zarr", rows, chunks=(256, 2))


@pytest.fixture
def model(tmp_path, rows):
    path = str(tmp_path / "model.zarr")
    dem.KMeans(4, random_state=0).fit(rows).save(path)
    return path


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.zarr")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("--init", "random", "--n-init", 3, "--max-iter", 200), {"init": "random", "n_init": 3, "max_iter": 200}),
        (("--tol", 0, "--sample-rows", 100), {"tol": 0.0, "sample_rows": 100}),
        (("--algorithm", "batch", "--workers", 1), {}),
    ],
    ids=["defaults", "starts", "sample", "process"],
)
def test_fit_agrees_with_python(data, out, rows, arguments, options):
    found = figures("fit", data, *K, *arguments, "--out", out)
    expected = dem.KMeans(4, random_state=0, **options).fit(data)
    assert np.array_equal(dem.load(out).cluster_centers_, expected.cluster_centers_)
    assert found["cluster_centers"] == expected.cluster_centers_.tolist()
    assert (found["inertia"], found["n_iter"]) == (expected.inertia_, expected.n_iter_)
    assert (found["estimator"], found["n_clusters"], found["converged"]) == ("KMeans", 4, True)
    saved = dem.load(out).get_params()
    assert {name: saved[name] for name in options} == options
    assert (saved["tol"], saved["max_iter"]) == (options.get("tol", 1e-4), options.get("max_iter", 300))


def test_what_people_see(data, out):
    shown = works("fit", data, *K, "--tol", 0, "--out", out)
    first, second, *_ = [line for line in shown.stderr.splitlines() if re.search(r" iteration \d+,", line)]
    history = dem.load(out).history_
    assert f", inertia per row {-history[0]['log_likelihood']:.6g}, " in first
    assert history[0]["log_likelihood"] < 0.0
    assert f", fall {history[1]['gain']:.2e}, " in second
    inertia = dem.load(out).inertia_
    assert "cluster" in shown.stdout
    assert "centre of each feature" in shown.stdout
    assert f"inertia {inertia:.6g}" in shown.stdout
    assert "log-likelihood" not in shown.output
    described = works("info", out).stdout
    assert "KMeans of 4 clusters, 2 features" in described
    assert f"; inertia {inertia:.6g}" in described
    assert figures("info", out)["inertia"] == inertia
    assert works("fit", data, *K, "--quiet").output == ""


def test_fit_goes_on_from_saved_centres(data, out, tmp_path):
    assert "did not converge within 1 iteration;" in works("fit", data, *K, "--max-iter", 1, "--out", out).stderr
    rough = dem.load(out)
    better = str(tmp_path / "better.zarr")
    found = figures("fit", data, "--from", out, "--max-iter", 50, "--tol", 0, "--seed", 5, "--out", better)
    expected = dem.KMeans(4, init=rough.cluster_centers_, random_state=5, max_iter=50, tol=0.0).fit(data)
    assert found["cluster_centers"] == expected.cluster_centers_.tolist()
    assert found["n_iter"] == expected.n_iter_
    assert found["inertia"] < rough.inertia_
    assert dem.load(better).max_iter == 50


@pytest.mark.parametrize(
    "engine", [(), pytest.param(("--workers", 1), marks=pytest.mark.slow)], ids=["threads", "process"]
)
def test_predict_writes_the_nearest_centres(data, model, out, rows, engine):
    assert figures("predict", model, data, out, *engine)["n_rows"] == 1000
    written = zarr.open_array(out, mode="r")
    distances = np.linalg.norm(rows[:, np.newaxis] - dem.load(model).cluster_centers_, axis=2)
    assert np.array_equal(written[...], distances.argmin(axis=1))
    assert (written.dtype, written.chunks) == (np.uint8, (256,))


def test_score_is_the_inertia(data, model, rows):
    found = figures("score", model, data)
    assert found == {
        "inertia": pytest.approx(-dem.load(model).score(rows), rel=1e-12),
        "inertia_per_row": found["inertia"] / 1000,
        "n_rows": 1000,
    }
    assert f"inertia per row         {found['inertia_per_row']:.8g}" in works("score", model, data).stdout


def owners_of(parameter):
    """Return the families that have an option."""
    return " or ".join(
        name for name, entry in ESTIMATORS.items() if parameter in {option.parameter for option in entry.options}
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--covariance", "full"), f"--covariance is for --family {owners_of('covariance_type')}"),
        (("--reg-covar", 0.1), f"--reg-covar is for --family {owners_of('reg_covar')}"),
        (("--trials", 3), "--trials is for --family binomial"),
        (("--accelerate", "squarem"), "--accelerate is for mixtures, not for --family kmeans"),
        (("--algorithm", "stepwise"), "--algorithm stepwise is for mixtures, not for --family kmeans"),
        (("--algorithm", "auto"), "--algorithm auto is for mixtures, not for --family kmeans"),
        (("--init", "kmeans"), "--init kmeans is for mixtures; --family kmeans has k-means||, k-means++, random"),
    ],
)
def test_options_of_mixtures_are_refused(option, message):
    refused("fit", "x", *K, *option, message=message)


def refused(*arguments, message):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"dem: {message} (see dem {arguments[0]} --help)\n"


def test_what_only_mixtures_can_do_is_refused(data, model, out):
    for arguments, what in (
        (("predict", model, data, out, "--proba"), "--proba"),
        (("predict", model, data, out, "--log-density"), "--log-density"),
        (("sample", model, 10, out), "sampling"),
        (("fit", data, "--from", model, "--accelerate", "squarem"), "--accelerate"),
        (("fit", data, "--from", model, "--algorithm", "incremental"), "--algorithm incremental"),
    ):
        refused(*arguments, "--quiet", message=f"{what} is for mixtures, but {model} is a KMeans model")
    assert not Path(out).exists()
    refused("fit", data, "--from", model, "-k", 3, "--quiet", message=f"--components 3, but {model} has 4 of them")


def test_bad_data_is_one_line(tmp_path, model):
    assert "3 features" in fails("predict", model, write(tmp_path / "wide.zarr", np.zeros((9, 3))), tmp_path / "out")
    assert "n_samples=3 should be >= n_clusters=4" in fails("fit", write(tmp_path / "few.zarr", np.eye(3)), *K)
    holes = np.ones((50, 2))
    holes[30, 1] = np.nan
    assert "row 30" in fails("fit", write(tmp_path / "holes.zarr", holes), *K)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_ctrl_c_saves_the_last_centres(tmp_path, out):
    data = write(tmp_path / "data.zarr", np.random.default_rng(0).normal(size=(40_000, 3)), chunks=(5_000, 3))
    process = start("fit", data, "--family", "kmeans", "-k", "300", "--tol", "0", "--seed", "0", "--out", out)
    _, (*_, last) = interrupt(process, signal.SIGINT, after="iteration 3,")
    assert process.returncode == 130
    model = dem.load(f"{out}.partial")
    after = f"after iteration {model.n_iter_}; the last parameters are saved in {out}.partial"
    assert last == f"dem: stopped by Ctrl-C {after}"
    assert (model.converged_, len(model.history_)) == (False, model.n_iter_)
    assert model.cluster_centers_.shape == (300, 3)
    rows = zarr.open_array(data, mode="r")[...]
    assert -model.score(rows) < model.inertia_ == pytest.approx(-model.score(rows), rel=0.05)
