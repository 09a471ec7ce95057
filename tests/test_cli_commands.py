"""The commands on real stores, and the line that each kind of bad input ends in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import dem
from dem import native
from dem.cli import dem as command


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def works(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def figures(*arguments):
    """Run with ``--json`` and return what stdout holds, which must be JSON and nothing else."""
    return json.loads(works(*arguments, "--json").stdout)


def fails(*arguments):
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    *before, line = result.stderr.splitlines()
    assert all(text.startswith("dem: ") for text in before), "progress or warnings"
    assert line.startswith("dem: ")
    return line.removeprefix("dem: ")


def write(path, values, chunks=None, **options):
    values = np.asarray(values)
    zarr.create_array(path, data=values, chunks=chunks or "auto", **options)
    return str(path)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(-1, 1, (300, 2)), rng.normal(2, 2, (700, 2))])


@pytest.fixture
def data(tmp_path, rows):
    return write(tmp_path / "data.zarr", rows, chunks=(256, 2))


@pytest.fixture
def model(tmp_path, rows):
    path = str(tmp_path / "model.zarr")
    dem.GaussianMixture(2, random_state=0).fit(rows).save(path)
    return path


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.zarr")


# What works -------------------------------------------------------------------------------------------------


def test_fit_agrees_with_python(data, out, rows):
    result = works("fit", data, "--components", 2, "--seed", 0, "--out", out)
    assert f"saved in {out}" in result.stdout
    assert "converged after" in result.stdout
    expected = dem.GaussianMixture(2, random_state=0).fit(rows)
    assert np.allclose(dem.load(out).means_, expected.means_, rtol=1e-10)


def test_fit_logs_one_line_for_each_iteration(data):
    result = works("fit", data, "-k", 2, "--seed", 0, "--tol", 1e-9, "--max-iter", 50)
    iterations = [line for line in result.stderr.splitlines() if re.search(r" iteration \d+,", line)]
    assert len(iterations) > 2
    assert all("log-likelihood per row" in line and "rows/s" in line and "read" in line for line in iterations)
    assert "\x1b" not in result.output


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_fit_json(data, covariance):
    found = figures("fit", data, "-k", 2, "--seed", 0, "--covariance", covariance)
    assert found["converged"] is True
    assert found["covariance_type"] == covariance
    assert np.shape(found["means"]) == (2, 2)
    assert sum(found["weights"]) == pytest.approx(1)
    assert found["model"] is None
    assert "component" in works("fit", data, "-k", 2, "--covariance", covariance).stdout


def test_quiet_says_nothing(data, out):
    result = works("fit", data, "-k", 2, "--out", out, "--quiet", "--max-iter", 1, "--tol", 0)
    assert result.output == ""


def test_a_warning_is_one_line(data):
    result = works("fit", data, "-k", 2, "--max-iter", 1, "--tol", 0)
    (line,) = [line for line in result.stderr.splitlines() if "warning" in line]
    assert line.startswith("dem: warning: Best performing initialization did not converge. ")


def test_fit_goes_on_from_a_model(data, model, out):
    found = figures("fit", data, "--from", model, "--out", out, "--tol", 1e-12, "--max-iter", 500)
    assert found["log_likelihood_per_row"] >= dem.load(model).lower_bound_
    saved = dem.load(out)
    assert saved.tol == 1e-12
    assert saved.warm_start is False


def test_fit_of_coins(tmp_path, out):
    tosses = write(tmp_path / "tosses.zarr", np.array([[5], [9], [8], [4], [7]]))
    works("fit", tosses, "-k", 2, "--family", "binomial", "--trials", 10, "--seed", 0, "--out", out)
    assert dem.load(out).n_trials == 10
    assert "probability of each feature" in works("info", out).stdout


def test_variable_of_a_group(tmp_path, rows):
    group = zarr.create_group(str(tmp_path / "group.zarr"))
    group.create_array("values", data=rows)
    assert figures("fit", tmp_path / "group.zarr", "--variable", "values", "-k", 1)["n_features"] == 2


@pytest.mark.parametrize(
    "engine", [(), pytest.param(("--workers", 1), marks=pytest.mark.slow)], ids=["threads", "process"]
)
def test_predict(data, model, out, rows, engine):
    fitted = dem.load(model)
    for options, expected in (
        ((), fitted.predict(rows)),
        (("--proba",), fitted.predict_proba(rows)),
        (("--log-density",), fitted.score_samples(rows)),
    ):
        assert figures("predict", model, data, out, *options, *engine, "--overwrite")["n_rows"] == 1000
        written = zarr.open_array(out, mode="r")
        assert np.allclose(written[...], expected, rtol=1e-12)
        assert written.chunks[0] == 256


def test_score(data, model, rows):
    found, fitted = figures("score", model, data), dem.load(model)
    assert found["log_likelihood_per_row"] == pytest.approx(fitted.score(rows), rel=1e-12)
    assert found["bic"] == pytest.approx(fitted.bic(rows), rel=1e-12)
    assert found["aic"] == pytest.approx(fitted.aic(rows), rel=1e-12)
    assert "log-likelihood per row" in works("score", model, data).stdout


def test_sample_is_repeatable(model, tmp_path):
    for name in ("a", "b"):
        assert figures("sample", model, "1e3", tmp_path / name, "--seed", 3)["n_rows"] == 1000
    first, second = (zarr.open_group(str(tmp_path / name), mode="r")["rows"][...] for name in ("a", "b"))
    assert first.shape == (1000, 2)
    assert np.array_equal(first, second)


def test_more_draws_than_the_disk_holds(model, out):
    assert "are needed, but" in fails("sample", model, "1e17", out)
    assert not Path(out).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [(), pytest.param(("--workers", 1), marks=pytest.mark.slow)], ids=["threads", "process"]
)
def test_failing_workers_leave_one_line(tmp_path, rows, engine):
    path = Path(write(tmp_path / "x.zarr", rows, chunks=(250, 2)))
    (path / "c" / "2" / "0").write_bytes(b"torn")
    arguments = [str(part) for part in ("fit", path, "-k", 2, *engine)]
    result = subprocess.run([sys.executable, "-m", "dem", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    *steps, line = result.stderr.splitlines()
    assert all(" preparing: " in step or " needs up to " in step for step in steps)
    assert line.startswith("dem: chunk c/2/0 of ")


def test_info_of_a_model(model):
    found = figures("info", model)
    assert (found["kind"], found["n_components"], found["n_features"]) == ("model", 2, 2)
    assert "GaussianMixture of 2 components, 2 features, full covariances" in works("info", model).stdout


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_info_of_an_array(tmp_path, rows, zarr_format):
    path = write(tmp_path / "x.zarr", rows.astype("f4"), chunks=(250, 2), zarr_format=zarr_format)
    found = figures("info", path)
    assert (found["kind"], found["shape"], found["chunks"]) == ("array", [1000, 2], [250, 2])
    assert (found["dtype"], found["bytes"], found["zarr_format"]) == ("float32", 8000, zarr_format)
    assert "zstd" in found["codecs"]
    assert "1,000 x 2" in works("info", path).stdout


def test_info_of_a_group(tmp_path, rows):
    group = zarr.create_group(str(tmp_path / "group.zarr"))
    group.create_array("values", data=rows, chunks=(100, 2), shards=(500, 2))
    assert figures("info", group.store.root)["arrays"]["values"]["shards"] == [500, 2]
    assert figures("info", group.store.root, "--variable", "values")["kind"] == "array"
    assert "values" in works("info", group.store.root).stdout


def test_info_of_the_system():
    found = figures("info", "--system")
    assert found["numpy"] == np.__version__
    assert found["loops"] == "compiled by " + native.offered()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**20


# Bad input --------------------------------------------------------------------------------------------------


def bad(values):
    def make(folder):
        return write(folder / "bad.zarr", values)

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: str(folder / "missing.zarr"), ["missing.zarr"]),
        (bad(np.zeros((0, 2))), ["bad.zarr", "0 rows"]),
        (bad(np.zeros((1, 2))), ["1"]),
        (bad(np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0], [np.inf, 1.0]])), ["NaN", "row 1"]),
        (bad(np.zeros((4, 2), dtype=complex)), ["complex"]),
        (bad(np.array([["a", "b"], ["c", "d"]])), ["bad.zarr"]),
        (bad(np.zeros(5)), ["bad.zarr", "1"]),
        (bad(np.zeros((2, 2, 2))), ["bad.zarr", "3"]),
        (lambda folder: str(zarr.create_group(str(folder / "bad.zarr")).store.root), ["bad.zarr"]),
        (lambda _: "nowhere://bucket/x.zarr", ["nowhere"]),
    ],
    ids=["missing", "empty", "few", "nan", "complex", "strings", "1-D", "3-D", "group", "scheme"],
)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning", "ignore::FutureWarning")
def test_bad_data_is_one_line(tmp_path, make, words):
    line = fails("fit", make(tmp_path), "-k", 2, "--quiet")
    assert all(word in line for word in words), line


def test_group_without_the_variable(tmp_path, rows):
    zarr.create_group(str(tmp_path / "group.zarr")).create_array("values", data=rows)
    for arguments in (("fit", "-k", 1), ("info",)):
        line = fails(*arguments, tmp_path / "group.zarr", "--variable", "value")
        assert "value" in line
        assert "values" in line, "it names the variables there are"


def test_a_chunk_that_cannot_be_decoded(tmp_path, rows):
    path = Path(write(tmp_path / "x.zarr", rows, chunks=(250, 2)))
    chunk = path / "c" / "2" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    assert "500" in fails("fit", path, "-k", 2, "--quiet")


def test_model_and_data_of_other_features(tmp_path, model, out):
    wide = write(tmp_path / "wide.zarr", np.zeros((10, 3)))
    for arguments in (
        ("predict", model, wide, out),
        ("score", model, wide),
        ("fit", wide, "--from", model),
    ):
        line = fails(*arguments)
        assert "3 features" in line
        assert "2" in line
    assert not Path(out).exists()


def test_components_of_the_model_to_start_from(data, model):
    result = run("fit", data, "--from", model, "-k", 3)
    assert result.exit_code == 2
    assert result.stderr.startswith("dem: --components 3, but ")


def test_models_that_are_none(tmp_path, data):
    assert "there is no model at" in fails("score", tmp_path / "missing.zarr", data)
    assert data in fails("score", data, data)
    assert "there is no" in fails("info", tmp_path / "missing.zarr")
    (tmp_path / "text").write_text("x")
    line = fails("info", tmp_path / "text")
    assert "neither a model nor a zarr array or group, nor parquet" in line
    assert "Error" not in line
    line = fails("info", "nowhere://bucket/x.zarr")
    assert "nowhere" in line
    assert "Error" not in line


def test_a_damaged_model(model):
    for chunk in (Path(model) / "means" / "c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    for arguments in (("info", model), ("sample", model, 10, f"{model}.out")):
        assert "damaged" in fails(*arguments)


@pytest.mark.slow
def test_an_unreachable_scheduler(data, monkeypatch):
    monkeypatch.setattr("dem.engine.client.TIMEOUT", 2)
    line = fails("fit", data, "-k", 2, "--scheduler", "tcp://127.0.0.1:1")
    assert "no scheduler answers at tcp://127.0.0.1:1" in line


def test_outputs_are_not_replaced(data, model, rows):
    assert "exists already" in fails("fit", data, "-k", 2, "--out", model)
    assert "exists already" in fails("predict", model, data, f"{model}/means")
    assert "would destroy" in fails("predict", model, data, data, "--overwrite")
    assert "lies inside the zarr array" in fails("predict", model, data, f"{data}/labels")
    assert "would destroy" in fails("fit", data, "-k", 2, "--out", data, "--overwrite")
    assert "would destroy" in fails("sample", model, 10, model, "--overwrite")
    assert np.array_equal(zarr.open_array(data, mode="r")[...], rows)
    works("fit", data, "-k", 3, "--out", model, "--overwrite")
    assert dem.load(model).n_components == 3


def test_a_failed_predict_leaves_nothing(tmp_path, model, out):
    holes = write(tmp_path / "holes.zarr", np.array([[1.0, np.nan], [1.0, 2.0]]))
    before = sorted(tmp_path.iterdir())
    assert "NaN" in fails("predict", model, holes, out)
    assert sorted(tmp_path.iterdir()) == before
