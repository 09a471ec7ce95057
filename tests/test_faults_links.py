"""Links that are cut, clients that are gone while workers work, workers that stand still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import dask
import pytest
import zarr
from agreement import assert_same_bits
from cases import gaussian_rows
from clusters import After, cluster_of, cluster_of_threads
from distributed import Client
from faulty_stores import FailingStore
from s3 import Gate, Server
from sources import CutRows
from zarr.storage import LocalStore

import dem
from dem.data.sources import open_rows
from dem.engine.cluster import ClusterEngine
from dem.errors import EngineError
from dem.events import FitResumed

EDGES = list(range(200, 3000, 200))
FITTED = ("weights_", "means_", "covariances_", "lower_bounds_")
EM = {"random_state": 0, "tol": 1e-4, "init_params": "random", "max_iter": 500}


def rows():
    return CutRows(gaussian_rows(), EDGES)


def goes_on(path):
    """Begin the same fit again on threads; return what it comes to, having seen that it went on."""
    told = After()
    fitted = dem.GaussianMixture(3, callbacks=[told], **EM).fit(rows(), checkpoint=path)
    assert [event for event in told.events if isinstance(event, FitResumed) and event.phase == "data" and event.past]
    return fitted


@pytest.mark.slow
@pytest.mark.reliability(
    fault="the link between client and scheduler is cut during a fit",
    sees="the cluster at … went away …; start it and the fit again",
    lost="the pass in progress, with a checkpoint",
    recovery="at once (a silent link: `distributed.comm.timeouts.tcp`), then the same line",
)
def test_a_link_that_is_cut(tmp_path):
    whole = dem.GaussianMixture(3, **EM).fit(rows())
    with cluster_of_threads(1) as (cluster, _):
        gate = Gate(Server(cluster.scheduler_address.replace("tcp", "http")), b"", 10**9)
        try:
            with Client(gate.server.address.replace("http", "tcp"), timeout="10s") as client:
                cut = After(gate.cut, iteration=5)
                with pytest.raises(
                    EngineError, match=r"^the cluster at tcp://127.0.0.1:\d+ went away .*; start it and the fit again"
                ):
                    dem.GaussianMixture(3, callbacks=[cut], **EM).fit(rows(), checkpoint=tmp_path / "kept")
                client.close(timeout=5)
        finally:
            gate.cut()
        nothing_is_left(cluster)
    assert_same_bits(goes_on(tmp_path / "kept"), whole, FITTED)


def nothing_is_left(cluster, seconds=60.0):
    """Assert that the scheduler knows of no task, and no worker runs one, after a while."""
    deadline = time.monotonic() + seconds
    while names := [name for name in cluster.scheduler.tasks if name.startswith("dem-")]:
        assert time.monotonic() < deadline, names
        time.sleep(0.05)
    assert not any(state.processing for state in cluster.scheduler.workers.values())


@pytest.mark.slow
@pytest.mark.reliability(
    fault="the process that fits is killed while the workers of a cluster work for it",
    sees="nothing; the scheduler forgets its tasks",
    lost="the pass in progress, with a checkpoint",
    recovery="the same line",
)
def test_no_work_is_left_of_a_client_that_is_gone(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=gaussian_rows(200_000), chunks=(2_000, 3))
    command = [
        sys.executable,
        "-m",
        "dem",
        "fit",
        str(tmp_path / "x.zarr"),
        "-k",
        "8",
        "--tol",
        "0",
        "--max-iter",
        "999",
    ]
    with cluster_of_threads(1) as (cluster, _):
        process = subprocess.Popen(
            [*command, "--scheduler", cluster.scheduler_address], stderr=subprocess.PIPE, text=True
        )
        assert any("iteration 2" in line for line in process.stderr)
        assert [name for name in cluster.scheduler.tasks if name.startswith("dem-")]
        process.kill()
        process.communicate()
        nothing_is_left(cluster)


def test_reads_that_nobody_waits_for_are_not_tried_again(tmp_path):
    """Their pauses would take up to a minute: a worker is free for others as soon as its task is released."""
    zarr.create_array(tmp_path / "x.zarr", data=gaussian_rows(), chunks=(3_000, 3))
    data = zarr.open_array(FailingStore(LocalStore(tmp_path / "x.zarr"), times=10**9), mode="r")
    with cluster_of_threads(1) as (cluster, client), dask.config.set({"dem.read-attempts": 1000}):
        (worker,) = cluster.workers.values()
        engine = ClusterEngine(client)
        begun = engine.submit(open_rows(data), [len])
        wait_until(lambda: "dem-batch" in str(worker.state.executing))
        del begun
        engine.close()
        wait_until(lambda: not worker.state.executing and not worker.state.long_running)
        began = time.monotonic()
        assert client.submit(sum, [1, 2]).result(timeout=10) == 3
        assert time.monotonic() < began + 5


def wait_until(there, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def stopped_process():
    """Yield a function that makes a process stand still; it is ended in the end."""
    stopped = []

    def stop(pid):
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)

    try:
        yield stop
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):  # its nanny has done so
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.reliability(
    fault="a worker stands still (SIGSTOP, a machine that swaps or is frozen), for a while",
    sees="nothing, but for the time",
    lost="nothing; the same bits",
    recovery="as long as it stands still",
)
@pytest.mark.reliability(
    fault="a worker stands still for good, before Dask gives it up",
    sees="nothing has come of … for 3.0 s: … tcp://… at work; … (by default an hour, `dem.stall-timeout`)",
    lost="the pass in progress, with a checkpoint",
    recovery="the stall timeout, then the same line",
)
def test_a_worker_that_stands_still(tmp_path):
    whole = dem.GaussianMixture(3, **EM).fit(rows())
    with cluster_of(2) as (cluster, _), stopped_process() as stop:
        pid = next(iter(cluster.workers.values())).pid

        def stand_still():
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(1.5, os.kill, [pid, signal.SIGCONT]).start()

        assert_same_bits(
            dem.GaussianMixture(3, callbacks=[After(stand_still, iteration=5)], **EM).fit(rows()), whole, FITTED
        )
        stop_it = After(lambda: stop(pid), iteration=5)
        said = r"^nothing has come of test rows for 3\.0 s: \d+ parts? under way, .*tcp://127.0.0.1:\d+ at work"
        with dask.config.set({"dem.stall-timeout": "3s"}), pytest.raises(EngineError, match=said):
            dem.GaussianMixture(3, callbacks=[stop_it], **EM).fit(rows(), checkpoint=tmp_path / "kept")
    assert_same_bits(goes_on(tmp_path / "kept"), whole, FITTED)


@pytest.mark.slow
@pytest.mark.reliability(
    fault="a worker stands still for good, and Dask gives it up (`distributed.scheduler.worker-ttl`, 5 minutes)",
    sees="nothing, but for the time",
    lost="nothing; the same bits",
    recovery="the time to live, then other workers go on",
)
def test_a_worker_that_is_given_up():
    whole = dem.GaussianMixture(3, **EM).fit(rows())
    with dask.config.set({"distributed.scheduler.worker-ttl": "3s"}), cluster_of(2) as (cluster, _):
        pid = next(iter(cluster.workers.values())).pid
        with stopped_process() as stop:
            fitted = dem.GaussianMixture(3, callbacks=[After(lambda: stop(pid), iteration=5)], **EM).fit(rows())
    assert_same_bits(fitted, whole, FITTED)
