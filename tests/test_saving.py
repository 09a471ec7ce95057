"""A model that was fitted is never thrown away, and what a killed process leaves behind goes away: on a disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from cases import gaussian_rows
from click.testing import CliRunner

import dem
from dem.cli import dem as command
from dem.errors import StoreError

ROWS = gaussian_rows()[:60]


@pytest.fixture
def data(tmp_path):
    zarr.create_array(tmp_path / "data.zarr", data=ROWS, chunks=(20, ROWS.shape[1]))
    return str(tmp_path / "data.zarr")


@pytest.fixture
def other():
    """A model that somebody else saves."""
    return dem.GaussianMixture(1).fit(ROWS)


def shell(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Something else has the name -----------------------------------------------------------------------------------------


@pytest.mark.reliability(
    fault="two `dem fit` with one `--out`, or one `dem select` beside them",
    sees="model.zarr exists already …; the model is saved in model-2.zarr",
    lost="nothing: the second model stands beside the first",
    recovery="at once: rename it",
)
@pytest.mark.parametrize("words", [("fit", "-k", "2"), ("select", "-k", "2:3")], ids=lambda words: words[0])
def test_two_fits_with_one_out(data, other, tmp_path, monkeypatch, words):
    out = tmp_path / "model.zarr"
    name, *options = words
    find = {"fit": "dem.GaussianMixture.fit", "select": "dem.select"}[name]
    ours = dem.GaussianMixture.fit if name == "fit" else dem.select

    def and_meanwhile(*arguments, **options):
        fitted = ours(*arguments, **options)
        other.save(out)
        return fitted

    monkeypatch.setattr(find, and_meanwhile)
    result = shell(name, data, *options, "--seed", "0", "--max-iter", "3", "--tol", "10", "--out", out, "--json")
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    beside = str(tmp_path / "model-2.zarr")
    assert re.fullmatch(rf"dem: {re.escape(str(out))} exists already; .*; the model is saved in {beside}", line), line
    assert json.loads(result.stdout)["model"] == beside
    assert dem.load(out).n_components == 1
    assert dem.load(beside).n_components >= 2
    assert names(tmp_path) == ["data.zarr", "model-2.zarr", "model.zarr"]


def test_results_that_find_their_name_taken_stand_beside(other, tmp_path):
    path = tmp_path / "labels.zarr"
    zarr.create_array(tmp_path / "labels-2.zarr", shape=(1,), dtype="i1")

    def and_meanwhile(block):
        if not path.exists():
            zarr.create_array(path, shape=(3,), dtype="i1")
        return block

    rows = da.from_array(ROWS, chunks=(60, -1)).map_blocks(and_meanwhile, dtype=ROWS.dtype, meta=ROWS[:0])
    with pytest.raises(StoreError, match="written by something else meanwhile") as caught:
        other.predict_to(rows, str(path))
    assert caught.value.kept == str(tmp_path / "labels-3.zarr")
    assert str(caught.value).endswith(f"what was to be there is in {caught.value.kept}")
    assert zarr.open_array(path, mode="r").shape == (3,)
    np.testing.assert_array_equal(zarr.open_array(caught.value.kept, mode="r")[:], np.zeros(60))
    assert names(tmp_path) == ["labels-2.zarr", "labels-3.zarr", "labels.zarr"]


# The disk is full ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.reliability(
    fault="the disk is full when `dem fit` saves its model",
    sees="No space left on device; the model is saved in …",
    lost="nothing: the model is in the current folder, else in that for temporary files",
    recovery="at once: move the model",
)
@pytest.mark.parametrize("where", ["current", "temporary"])
def test_a_full_disk(tmp_path, where):
    wide = np.random.default_rng(0).normal(size=(400, 60))
    zarr.create_array(tmp_path / "data.zarr", data=wide)
    for folder in ("full", "here", "temporary"):
        (tmp_path / folder).mkdir()
    fit = "fit ../data.zarr -k 2 --seed 0 --max-iter 2 --tol 10 --out ../full/model.zarr --json"
    script = f"mount -t tmpfs -o size=40k tmpfs ../full && exec {sys.executable} -m dem {fit}"
    if where == "temporary":
        script = f"mount -t tmpfs -o size=40k tmpfs . && cd $PWD && {script}"
    process = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=tmp_path / "here",
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if process.returncode == 1 and "unshare" in process.stderr:
        pytest.skip(f"this machine does not let users mount a small disk: {process.stderr}")
    saved = {"current": "model.zarr", "temporary": str(tmp_path / "temporary" / "model.zarr")}[where]
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == (
        f"dem: cannot write ../full/model.zarr: No space left on device; the model is saved in {saved}"
    )
    assert "Traceback" not in process.stderr
    assert json.loads(process.stdout)["model"] == saved
    assert dem.load(tmp_path / "here" / saved).means_.shape == (2, 60)


def test_a_model_that_can_be_saved_nowhere(data, tmp_path, monkeypatch):
    def full(self, path, **options):
        message = "the disk is full"
        raise StoreError(message)

    monkeypatch.setattr("dem.estimators.base.Estimator.save", full)
    result = shell("fit", data, "-k", "1", "--out", tmp_path / "model.zarr", "--quiet")
    assert result.exit_code == 1
    assert result.stderr == "dem: the disk is full; and the model could not be saved anywhere else\n"


# A process that was killed -------------------------------------------------------------------------------------------

WRITE_FOR_EVER = """
import os, sys, time, zarr
from dem.data.atomic import destination
with destination(sys.argv[1], overwrite=True) as draft:
    zarr.create_array(draft.path, shape=(3,), dtype="i1")
    print(draft.path, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is writing `tmp_path / "model.zarr"`."""
    path = str(tmp_path / "model.zarr")
    with subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, path], stdout=subprocess.PIPE, text=True) as process:
        process.draft = Path(process.stdout.readline().strip())
        yield process
        process.kill()


@pytest.mark.reliability(
    fault="`dem` is killed (kill -9) while it writes a model, or results in their first second",
    sees="nothing; the name is free, or what had it before is still there",
    lost="what was being written; its temporary directory goes away when that path is written again",
    recovery="at once: the same line",
)
def test_what_a_killed_process_has_left_is_removed_by_the_next(writer, other, tmp_path):
    other.save(tmp_path / "model.zarr")
    assert writer.draft.is_dir(), "a living process keeps its temporary directory"
    writer.kill()
    writer.wait()
    other.save(tmp_path / "another.zarr")
    assert writer.draft.is_dir(), "another path is another matter"
    other.save(tmp_path / "model.zarr", overwrite=True)
    assert names(tmp_path) == ["another.zarr", "model.zarr"]


def test_what_was_replaced_comes_back_if_the_process_was_killed_amid_the_renames(writer, other, tmp_path):
    writer.kill()
    writer.wait()
    other.save(tmp_path / "old.zarr")
    (tmp_path / "old.zarr").rename(f"{writer.draft}.old")
    with pytest.raises(StoreError, match="exists already"):
        other.save(tmp_path / "model.zarr")
    assert dem.load(tmp_path / "model.zarr").n_components == 1
    assert names(tmp_path) == ["model.zarr"]
    (tmp_path / "model.zarr").rename(f"{writer.draft}.old")  # killed after both renames, and moved by the user
    other.save(tmp_path / "model.zarr")
    assert names(tmp_path) == ["model.zarr"]


def test_the_partial_model_goes_when_the_fit_that_went_on_from_it_is_saved(tmp_path):
    zarr.create_array(tmp_path / "data.zarr", data=gaussian_rows(600), chunks=(200, 3))
    out, partial, other = (str(tmp_path / name) for name in ("m.zarr", "m.zarr.partial", "other.partial"))
    for path in (partial, other):
        dem.GaussianMixture(2, random_state=0, max_iter=200).fit(str(tmp_path / "data.zarr")).save(path)

    def goes_on(start_from, *more):
        arguments = ["fit", str(tmp_path / "data.zarr"), "--from", start_from, "--out", out, *more]
        return CliRunner().invoke(command, arguments)

    for refused in (goes_on(partial, "--reg-covar", "-1"), goes_on(partial, "--variable", "x")):
        assert refused.exit_code != 0
        assert Path(partial).is_dir(), "nothing is saved that could take its place"
    assert goes_on(other).exit_code == 0
    assert Path(other).is_dir()
    assert Path(partial).is_dir(), "the fit did not go on from it"
    result = goes_on(f"{partial}/", "--overwrite")
    assert result.exit_code == 0, result.output
    assert f"dem: {partial}, from which this fit went on, is removed" in result.stderr
    assert not Path(partial).exists()
    assert dem.load(out).converged_


def test_one_iteration_is_not_several(data):
    result = CliRunner().invoke(command, ["fit", data, "-k", "1", "--max-iter", "1"])
    assert "not converged after 1 iteration, " in result.stdout
