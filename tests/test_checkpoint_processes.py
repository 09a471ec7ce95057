"""Processes that are killed or stopped amid a fit, and started again by the same line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from agreement import assert_same_bits
from sklearn.exceptions import ConvergenceWarning

import dem

DRIVER = """
import json, os, signal, sys, threading, time
import numpy as np, dem
path, out, options, seconds = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), float(sys.argv[4])
rows = np.random.default_rng(0).normal(size=(9000, 3)) + 2.0 * (np.arange(9000)[:, None] // 4500)
model = options.pop("model")
killer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL))
killer.daemon = True
began = None

def told(event):
    global began
    if began is None:  # with the first event: the start of Python takes longer than some of the fits
        began = time.monotonic()
        if seconds:
            killer.start()
    time.sleep(0.01 * hasattr(event, "gain"))

options["callbacks"] = [told]
if model == "select":
    fitted = dem.select(rows, checkpoint=path, random_state=0, tol=1e-5, sample_rows=900, **options).best_estimator_
else:
    fitted = getattr(dem, model)(4, random_state=0, sample_rows=900, **options).fit(rows, checkpoint=path)
arrays = {name: getattr(fitted, name + "_").tobytes().hex() for name in fitted._parameter_names}
lines = [[record["phase"], record["model"], record["log_likelihood"].hex()] for record in fitted.history_]
json.dump([arrays, lines, time.monotonic() - began], open(out, "w"))
"""


def run_driver(folder, options, seconds=0.0):
    arguments = [str(folder / "kept"), str(folder / "out.json"), json.dumps(options), str(seconds)]
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", DRIVER, *arguments], capture_output=True, check=False)
    assert run.returncode in (0, -signal.SIGKILL), run.stderr.decode()
    return run.returncode == 0


@pytest.mark.reliability(
    fault="the process that fits is killed (`kill -9`) at any moment, and started again",
    sees="with a checkpoint, the fit goes on",
    lost="the pass in progress; of incremental EM the blocks since the last save",
    recovery="the start of Python, two chunks read to compare, and the pass that was cut",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"model": "GaussianMixture", "max_iter": 60, "tol": 0, "init_params": "k-means||"},
        {"model": "GaussianMixture", "tol": 1e-6, "accelerate": "squarem"},
        {"model": "GaussianMixture", "tol": 1e-6, "algorithm": "incremental", "max_in_flight": 1, "max_iter": 40},
        {"model": "GaussianMixture", "tol": 1e-6, "algorithm": "stepwise", "max_in_flight": 1, "max_iter": 40},
        {"model": "KMeans", "tol": 0, "n_init": 2, "init": "random"},
        {"model": "select", "n_components": [1, 2, 3, 4]},
    ],
    ids=["batch", "squarem", "incremental", "stepwise", "k-means", "select"],
)
def test_a_killed_process_goes_on_to_the_same_bits(options, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert run_driver(whole, options)
    *expected, seconds = json.loads((whole / "out.json").read_text())
    went_on = False
    for share in (0.2, 0.4, 0.0):  # killed after that share of the time of the whole fit; in the end not at all
        done = run_driver(killed, options, share * seconds)
        went_on |= not done and bool(list((killed / "kept").glob("*-*.npz")))
        if done:
            break
    assert done
    assert went_on
    assert json.loads((killed / "out.json").read_text())[:2] == expected
    assert len(list((killed / "kept").glob("data-*.npz"))) <= 2
    assert len(list((killed / "kept").glob("sample-*.npz"))) <= 2


def dem_command(*arguments):
    return subprocess.run([sys.executable, "-m", "dem", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_same_command_goes_on(tmp_path):
    data, kept, model = (str(tmp_path / name) for name in ("data.zarr", "kept", "model.zarr"))
    zarr.create_array(data, data=np.random.default_rng(0).normal(size=(100_000, 4)), chunks=(5_000, 4))
    command = ["fit", data, "-k", "4", "--tol", "0", "--max-iter", "40", "--seed", "0", "--out", model]
    command += ["--checkpoint", kept]
    process = subprocess.Popen([sys.executable, "-m", "dem", *command], stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "")
    assert any("iteration 4" in line for line in lines)
    process.send_signal(signal.SIGINT)
    rest = process.communicate()[1]
    assert re.search(rf"stopped by Ctrl-C after iteration \d+; .*; the same command goes on from {kept}$", rest.strip())
    other = dem_command(*command, "--tol", "1e-3", "--overwrite")
    assert other.returncode != 0
    assert re.fullmatch(
        rf"dem: .*the checkpoint {kept} is of another fit: tol was 0\.0, and is 0\.001 now; .*",
        other.stderr.splitlines()[-1],
    )
    again = dem_command(*command, "--json")
    assert again.returncode == 0, again.stderr
    (line,) = [line for line in again.stderr.splitlines() if "going on from the checkpoint" in line]
    assert int(line.rpartition(" ")[2]) >= 3
    assert not Path(kept).exists()
    whole = dem.GaussianMixture(4, tol=0, max_iter=40, random_state=0)
    found = json.loads(again.stdout)
    assert found["n_iter"] == 40
    with pytest.warns(ConvergenceWarning):
        whole.fit(data)
    assert_same_bits(dem.load(model), whole, ("weights_", "means_", "covariances_", "lower_bounds_"))
    # A queue may start it once more, also after a kill between the saving of the model and the end of the checkpoint.
    with pytest.warns(ConvergenceWarning):
        whole.fit(data, checkpoint=kept)
    done = dem_command(*command)
    assert done.returncode == 0
    assert done.stderr == f"dem: {model} is what this command has come to; there is nothing left to do\n"
    assert not Path(kept).exists()
    assert dem_command(*command, "--tol", "1e-3").stderr.endswith("choose another path or give --overwrite\n")
