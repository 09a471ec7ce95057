"""Ctrl-C and SIGTERM: the last parameters are saved, no process is left behind, no traceback is shown."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import zarr
from cases import gaussian_rows
from sources import CutRows

import dem
from dem.cli.session import interrupts
from dem.engine import current_engine

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("signals") / "data.zarr"
    zarr.create_array(path, data=rng.normal(size=(20_000, 3)), chunks=(5_000, 3))
    return str(path)


def start(*arguments):
    """Start a command in a session of its own, as a terminal would."""
    return subprocess.Popen(
        [sys.executable, "-m", "dem", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def session_members(leader):
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def interrupt(process, number, *, after):
    """Send a signal to the whole group once a line holds `after`; return what stdout has, and the lines of stderr."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if after in line:
            break
    else:
        pytest.fail(f"ended with {process.wait()} before {after!r}; its stderr:\n{''.join(seen)}")
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    # Shown by pytest if an assertion of the test fails.
    sys.stdout.write(f"stderr before signal {number}:\n{''.join(seen)}and after it:\n{stderr}")
    assert "Traceback" not in stderr, stderr
    deadline = time.monotonic() + 10
    while session_members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_members(process.pid) == []
    return stdout, stderr.splitlines()


FOR_EVER = ("--components", "3", "--seed", "0", "--tol", "0", "--max-iter", "1000000")


@pytest.mark.parametrize(
    "engine", [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)], ids=["threads", "processes"]
)
def test_ctrl_c_saves_the_last_parameters_under_a_name_that_is_no_finished_model(data, tmp_path, engine):
    out = str(tmp_path / "model.zarr")
    process = start("fit", data, *FOR_EVER, "--out", out, *engine)
    stdout, (*_, last) = interrupt(process, signal.SIGINT, after="iteration 5,")
    assert (process.returncode, stdout) == (130, "")
    model = dem.load(f"{out}.partial")
    assert model.n_iter_ >= 5
    assert model.converged_ is False
    after = f"after iteration {model.n_iter_}; the last parameters are saved in {out}.partial"
    assert last == f"dem: stopped by Ctrl-C {after}"
    assert [path.name for path in tmp_path.iterdir()] == ["model.zarr.partial"]


@pytest.mark.slow
def test_make_takes_an_interrupted_fit_for_unfinished(data, tmp_path):
    """`make` would find the target there, and no longer build it."""
    (tmp_path / "Makefile").write_text(
        f"model.zarr:\n\t{sys.executable} -m dem fit {data} {' '.join(FOR_EVER)} --out $@\n"
    )
    process = subprocess.Popen(
        ["make"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    interrupt(process, signal.SIGINT, after="iteration 5,")
    assert subprocess.run(["make", "--question"], cwd=tmp_path, check=False).returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "model.zarr.partial"]


@pytest.mark.slow
def test_sigterm_ends_as_cleanly_and_json_tells_it(data, tmp_path):
    out = str(tmp_path / "model.zarr")
    process = start("fit", data, *FOR_EVER, "--out", out, "--keep-partial", "--json")
    stdout, lines = interrupt(process, signal.SIGTERM, after="iteration 5,")
    assert process.returncode == 143
    assert lines[-1].startswith("dem: stopped by SIGTERM after iteration ")
    figures = json.loads(stdout)
    model = dem.load(out)
    assert (figures["model"], figures["status"], figures["converged"]) == (out, "interrupted", False)
    assert figures["n_iter"] == model.n_iter_ >= 5
    np.testing.assert_allclose(figures["means"], model.means_)


@pytest.mark.slow
def test_ctrl_c_without_out_says_that_nothing_is_saved(data):
    process = start("fit", data, *FOR_EVER, "--json")
    stdout, lines = interrupt(process, signal.SIGINT, after="iteration 1,")
    assert process.returncode == 130
    assert lines[-1].endswith("nothing is saved without --out")
    assert json.loads(stdout)["model"] is None


@pytest.mark.slow
@pytest.mark.parametrize("words", [("fit", "-k", "2"), ("select", "-k", "1:3")], ids=lambda words: words[0])
def test_ctrl_c_before_the_first_iteration(data, tmp_path, words):
    process = start(*words, data, "--json", "--out", str(tmp_path / "model.zarr"), "--init", "k-means||")
    stdout, lines = interrupt(process, signal.SIGINT, after="preparing")
    assert process.returncode == 130
    assert re.fullmatch(r"dem: stopped by Ctrl-C .*; (there is nothing to save|nothing is saved)", lines[-1]), lines
    assert json.loads(stdout)["status"] == "interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_amid_a_selection_says_how_far_it_was(data, tmp_path):
    process = start("select", data, "-k", "2:3", "--tol", "0", "--max-iter", "1000000", "--json")
    stdout, lines = interrupt(process, signal.SIGINT, after="iteration 5 (2 of 2 models go on)")
    assert process.returncode == 130
    figures = json.loads(stdout)
    assert (figures["model"], figures["status"]) == (None, "interrupted")
    assert figures["reads"] >= 5
    assert lines[-1] == f"dem: stopped by Ctrl-C after {figures['reads']} reads of all data; nothing is saved"


@pytest.mark.slow
def test_ctrl_c_while_predicting_leaves_no_output(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400_000, 4))
    zarr.create_array(tmp_path / "data.zarr", data=rows, chunks=(2_000, 4))
    dem.GaussianMixture(20, random_state=0, max_iter=2, tol=1e3).fit(rows[:1000]).save(str(tmp_path / "model.zarr"))
    before = sorted(path.name for path in tmp_path.iterdir())
    process = start("predict", str(tmp_path / "model.zarr"), str(tmp_path / "data.zarr"), str(tmp_path / "out.zarr"))
    deadline = time.monotonic() + 30
    while not any(tmp_path.glob(".out.zarr*/c/*")):  # chunks are being written
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "dem: stopped by Ctrl-C\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_signal_at_any_moment_of_a_sweep_shows_no_traceback(client, caplog):
    """Dask prints one if the exception comes as it begins to wait, Python if it comes in a `__del__`."""
    engine, rows = current_engine(), CutRows(gaussian_rows(), range(200, 3000, 200))
    expected = engine.sweep(rows, [len])
    for trial in range(100):
        timer = threading.Timer(1e-4 * trial, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt), interrupts():  # noqa: PT012 (until the signal comes)
            timer.start()
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                assert engine.sweep(rows, [len]) == expected
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


class Deaf:
    """A signal comes as the object goes: Python drops what destructors raise."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_comes_amid_a_destructor_is_not_lost():
    def goes():
        Deaf()
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt), interrupts():
        goes()


def test_a_signal_that_comes_amid_an_import_is_not_lost(tmp_path, monkeypatch):
    swallows = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    (tmp_path / "swallows_all.py").write_text(swallows)
    monkeypatch.syspath_prepend(tmp_path)

    def goes():
        importlib.import_module("swallows_all")
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt), interrupts():
        goes()


def test_ctrl_c_while_the_command_is_being_imported_is_one_line():
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'dem.cli.main':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from dem.__main__ import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "dem: stopped\n")


def test_who_asks_twice_does_not_wait_for_dask():
    with pytest.raises(KeyboardInterrupt), interrupts():  # noqa: PT012
        calling = {"__name__": "distributed.made_up", "os": os, "signal": signal}
        exec("os.kill(os.getpid(), signal.SIGINT); done = True", calling)
        assert calling["done"]  # put off: the frame is one of Dask's
        exec("os.kill(os.getpid(), signal.SIGINT); done = False", calling)
    assert calling["done"]
