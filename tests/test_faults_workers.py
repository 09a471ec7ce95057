"""Workers that die, come late, or need more memory than they have; callbacks and clients that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import dask
import numpy as np
import pytest
import zarr
from agreement import assert_same_bits
from cases import gaussian_rows
from clusters import After, cluster_of, cluster_of_threads, kill_all
from sources import CutRows

import dem
from dem.engine import connect
from dem.engine.cluster import ClusterEngine
from dem.errors import EngineError, EngineWarning

EDGES = list(range(200, 3000, 200))
FITTED = ("weights_", "means_", "covariances_", "lower_bounds_")
EM = {"random_state": 0, "tol": 1e-6}


def rows():
    return CutRows(gaussian_rows(), EDGES)


@pytest.fixture
def told_soon(monkeypatch):
    monkeypatch.setattr("dem.engine.workers.TELL_AFTER", 0.2)


@pytest.mark.slow
@pytest.mark.reliability(
    fault="all workers of a cluster are killed during a fit; nannies restart them",
    sees="after 10 s without a worker: waiting for workers",
    lost="nothing; the same bits",
    recovery="the start of a worker, seconds",
)
def test_all_workers_die_and_are_restarted():
    expected = dem.GaussianMixture(3, **EM).fit(rows())
    with connect(workers=2) as engine:
        kill = After(lambda: kill_all(engine.client))
        fitted = dem.GaussianMixture(3, **EM, callbacks=[kill]).fit(rows())
    assert kill.done
    assert_same_bits(fitted, expected, FITTED)


@pytest.fixture(scope="module")
def lone():
    with connect(workers=1) as engine:
        yield engine.client


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["batch", "incremental", "stepwise"])
@pytest.mark.reliability(
    fault="the only worker is killed during a fit, by any algorithm; its nanny restarts it",
    sees="nothing, but for the time",
    lost="nothing; the same bits",
    recovery="the start of a worker, seconds",
)
def test_the_only_worker_dies_and_is_restarted(lone, algorithm):
    kill = After(lambda: kill_all(lone))
    fitted = dem.GaussianMixture(3, **EM, algorithm=algorithm, callbacks=[kill]).fit(rows())
    assert kill.done
    with lone.as_current(), threads_of_this_process():
        expected = dem.GaussianMixture(3, **EM, algorithm=algorithm).fit(rows())
    assert_same_bits(fitted, expected, FITTED)


@contextmanager
def threads_of_this_process():
    from dem.engine import LocalEngine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dem.estimators.base.current_engine", lambda _: LocalEngine())
        patch.setattr("dem.estimators.selection.current_engine", lambda _: LocalEngine())
        yield


@pytest.mark.slow
@pytest.mark.reliability(
    fault="the only worker is killed while models are compared",
    sees="nothing, but for the time",
    lost="nothing; the same table",
    recovery="the start of a worker, seconds",
)
def test_select_outlives_the_only_worker(lone):
    kill = After(lambda: kill_all(lone))
    chosen = dem.select(rows(), n_components=[2, 3], **EM, callbacks=[kill])
    assert kill.done
    with threads_of_this_process():
        assert chosen.table == dem.select(rows(), n_components=[2, 3], **EM).table


@pytest.mark.slow
@pytest.mark.reliability(
    fault="the only worker is killed while labels are written",
    sees="nothing, but for the time",
    lost="nothing; the same labels",
    recovery="the start of a worker, seconds",
)
def test_labels_outlive_the_only_worker(lone, tmp_path):
    table = gaussian_rows(40_000)
    zarr.create_array(tmp_path / "x.zarr", data=table, chunks=(500, 3))
    model = dem.GaussianMixture(3, random_state=0, max_iter=2, tol=1e3).fit(table[:1000])
    killer = threading.Thread(target=kill_while_writing, args=(lone, tmp_path))
    killer.start()
    model.predict_to(str(tmp_path / "x.zarr"), str(tmp_path / "labels.zarr"))
    killer.join()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "labels.zarr")[:], model.predict(table))


def kill_while_writing(client, folder):
    deadline = time.monotonic() + 60
    while not any(folder.glob(".labels.zarr*/c/*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    kill_all(client)


@pytest.mark.slow
@pytest.mark.reliability(
    fault="all workers end, and others join later",
    sees="waiting for workers",
    lost="nothing; the same bits",
    recovery="until a worker joins",
)
def test_other_workers_join_later(monkeypatch):
    monkeypatch.setattr("dem.engine.workers.TELL_AFTER", 2)
    expected = dem.GaussianMixture(3, **EM).fit(rows())
    with cluster_of(1) as (cluster, _):

        def leave():
            cluster.scale(0)
            threading.Timer(4, cluster.scale, [2]).start()

        change = After(leave)
        fitted = dem.GaussianMixture(3, **EM, callbacks=[change]).fit(rows())
    assert_same_bits(fitted, expected, FITTED)
    first, *_, last = change.waits
    assert first.n_workers == 0
    assert first.seconds == pytest.approx(2, abs=1)
    assert last.n_workers > 0


@pytest.mark.slow
@pytest.mark.reliability(
    fault="all workers end and none comes back",
    sees="no worker of the cluster at … was ready for 1.5 s (by default 5 minutes, `--worker-timeout`)",
    lost="what follows the last iteration, which the estimator holds",
    recovery="the worker timeout, then the same line where there are workers",
)
def test_no_worker_comes_back(told_soon):
    with cluster_of_threads(1) as (cluster, _), dask.config.set({"dem.worker-timeout": "1.5s"}):
        leave = After(lambda: cluster.scale(0), iteration=3)
        model = dem.GaussianMixture(3, random_state=0, tol=0.0, callbacks=[leave])
        with pytest.raises(EngineError, match=r"no worker of the cluster at .* was ready for 1\.5 s") as error:
            model.fit(rows())
    assert leave.waits
    assert leave.waits[0].timeout == 1.5
    assert error.value.__notes__ == [f"the estimator holds the parameters of iteration {model.n_iter_}"]
    with pytest.warns(UserWarning, match="did not converge"):
        short = dem.GaussianMixture(3, random_state=0, tol=0.0, max_iter=model.n_iter_).fit(rows())
    np.testing.assert_array_equal(model.means_, short.means_)


@pytest.mark.slow
@pytest.mark.reliability(
    fault="a cluster has no workers yet, as under SLURM right after `scale(jobs=2)`",
    sees="waiting for workers of the cluster",
    lost="nothing",
    recovery="until a worker joins",
)
def test_the_first_workers_are_awaited(told_soon):
    expected = dem.GaussianMixture(3, **EM).fit(rows())
    with cluster_of_threads(0) as (cluster, _):
        threading.Timer(2, cluster.scale, [2]).start()
        with pytest.warns(EngineWarning, match="waiting for workers of the cluster"):
            fitted = dem.GaussianMixture(3, **EM).fit(rows())
    assert_same_bits(fitted, expected, FITTED)


def fail():
    message = "the callback's own"
    raise LookupError(message)


@pytest.mark.parametrize("model", [dem.GaussianMixture(3, tol=0.0), dem.KMeans(3, tol=0.0)], ids=["mixture", "kmeans"])
@pytest.mark.reliability(
    fault="a callback raises an exception",
    sees="the exception, with the note: the estimator holds the parameters of iteration 2",
    lost="what follows the last iteration, which the estimator holds",
    recovery="at once: `warm_start`, or the same line with a checkpoint",
)
def test_an_exception_in_a_callback(model):
    with pytest.raises(LookupError, match="the callback's own") as error:
        model.set_params(random_state=0, callbacks=[After(fail)]).fit(rows())
    assert error.value.__notes__ == ["the estimator holds the parameters of iteration 2"]
    assert model.n_iter_ == 2
    assert not model.converged_
    assert len(model.predict(gaussian_rows())) == 3000


def test_a_scheduler_that_ends_before_the_first_read():
    with cluster_of_threads(1) as (cluster, client):
        engine = ClusterEngine(client)
        cluster.close()
        with pytest.raises(EngineError, match=r"the cluster at .* went away .*; start it and the fit again"):
            engine.rooms()


@pytest.mark.parametrize("what", ["client", "cluster"])
@pytest.mark.reliability(
    fault="the client is closed, or the scheduler ends, during a fit",
    sees="the cluster at … went away; start it and the fit again",
    lost="what follows the last iteration, which the estimator holds",
    recovery="at once: the same line",
)
def test_a_client_or_a_scheduler_that_ends(what):
    with cluster_of_threads(1) as (cluster, client):
        close = After({"client": client, "cluster": cluster}[what].close)
        model = dem.GaussianMixture(3, random_state=0, tol=0.0, callbacks=[close])
        with pytest.raises(EngineError, match=r"the cluster at .* went away .*; start it and the fit again") as error:
            model.fit(rows())
    assert error.value.__notes__ == ["the estimator holds the parameters of iteration 2"]
    assert model.n_iter_ == 2


@pytest.mark.slow
@pytest.mark.reliability(
    fault="a chunk of 600 MB, a worker with a memory limit of 400 MB, and dask's setting `dem.memory-check: warn`",
    sees="a warning with the numbers; then: "
    "workers died 4 times … memory limit of 400.0 MB … a chunk of … takes up to 600.0 MB decoded",
    lost="the fit: it cannot run there",
    recovery="four deaths of a worker, seconds, then workers with more memory or smaller chunks",
)
def test_a_memory_limit_that_is_too_small(tmp_path):
    path = tmp_path / "x.zarr"
    array = zarr.create_array(path, shape=(150_000_000, 1), chunks=(75_000_000, 1), dtype="f8")
    for first in (0, 75_000_000):  # real chunks, of one number each: they compress to nothing
        array[first : first + 75_000_000] = float(first + 1)
    command = ["fit", str(path), "--components", "2", "--seed", "0", "--workers", "1", "--memory-limit", "400MB"]
    checked = {**os.environ, "DASK_DEM__MEMORY_CHECK": "warn"}
    done = subprocess.run(
        [sys.executable, "-m", "dem", *command], capture_output=True, text=True, timeout=300, check=False, env=checked
    )
    assert done.returncode == 1, done.stderr
    assert "400.0 MB is the memory limit of worker" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "workers died 4 times over the same chunks, probably for lack of memory" in last
    assert "had a memory limit of 400.0 MB" in last
    assert "takes up to 600.0 MB decoded" in last
    assert "--memory-limit" in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_shell_waits_and_is_stopped(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=gaussian_rows(), chunks=(500, 3))
    with cluster_of(0) as (cluster, _):
        command = ["fit", str(tmp_path / "x.zarr"), "--components", "3", "--scheduler", cluster.scheduler_address]
        process = subprocess.Popen(
            [sys.executable, "-m", "dem", *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        said = next(line for line in process.stderr if "waiting for workers" in line)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)
        assert "at most 5 min" in said
        assert process.returncode == 130, rest
        assert "Traceback" not in rest
        gives_up = subprocess.run(
            [sys.executable, "-m", "dem", *command, "--worker-timeout", "2s"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert gives_up.returncode == 1
        assert "was ready for 2.0 s" in gives_up.stderr.splitlines()[-1]


@pytest.mark.slow
def test_batches_are_spread_anew_when_a_worker_comes_back():
    table = rows()
    with connect(workers=2) as engine:
        assert engine.sweep(table, [len]) == [3000]
        os.kill(next(iter(engine.client.run(os.getpid).values())), signal.SIGKILL)
        assert engine.sweep(table, [len]) == [3000]
        engine.client.wait_for_workers(2, timeout=60)
        time.sleep(1.5)  # until the workers are looked at again
        assert engine.sweep(table, [len]) == [3000]
        held = engine.client.who_has(engine._spread_evenly(table).futures)
        places = [worker for workers in held.values() for worker in workers]
        assert min(places.count(worker) for worker in engine.client.nthreads()) >= 7
