"""Clusters that fail amid a fit with a checkpoint: the same line goes on, on another cluster or on threads."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time

import dask
import numpy as np
import pytest
import zarr
from agreement import assert_same_bits
from cases import gaussian_rows
from clusters import After, cluster_of, cluster_of_threads, kill_all
from distributed import Client
from sources import CutBatch, CutRows

import dem
from dem.errors import EngineError
from dem.events import FitResumed, IterationEnded

EDGES = list(range(200, 3000, 200))
FITTED = ("weights_", "means_", "covariances_", "lower_bounds_")
EM = {"random_state": 0, "tol": 1e-6, "init_params": "random", "max_iter": 500}


def rows():
    return CutRows(gaussian_rows(), EDGES)


def goes_on(path, data=None):
    """Begin the same fit again; return what it comes to, having seen that it went on."""
    told = After()
    fitted = dem.GaussianMixture(3, callbacks=[told], **EM).fit(rows() if data is None else data, checkpoint=path)
    assert [event for event in told.events if isinstance(event, FitResumed) and event.phase == "data" and event.past]
    return fitted


class HangingBatch(CutBatch):
    """A batch that waits while it is told to, as for a disk that does not answer."""

    hangs = threading.Event()
    goes_on = threading.Event()

    def __iter__(self):
        if self.hangs.is_set() and self.first == 600:
            self.goes_on.wait(60)
        yield from super().__iter__()


class HangingRows(CutRows):
    def batches(self):
        batches = super().batches()
        for batch in batches:
            batch.__class__ = HangingBatch
        return batches


@pytest.mark.slow
@pytest.mark.reliability(
    fault="a worker hangs: a store or a disk does not answer",
    sees="nothing has come of … for 4.0 s … (by default an hour, dask's setting `dem.stall-timeout`)",
    lost="the pass in progress, with a checkpoint",
    recovery="the stall timeout, then the same line",
)
def test_a_worker_that_hangs(tmp_path):
    whole = dem.GaussianMixture(3, **EM).fit(rows())
    data = HangingRows(gaussian_rows(), EDGES)
    HangingBatch.hangs.clear()
    HangingBatch.goes_on.clear()
    stop = After(HangingBatch.hangs.set, iteration=5)
    try:
        with (
            cluster_of_threads(1),
            dask.config.set({"dem.stall-timeout": "4s", "dem.cache": 0}),
        ):
            said = (
                r"^nothing has come of test rows for 4\.0 s: \d+ parts under way, (inproc|tcp)://.* at work; see there"
            )
            with pytest.raises(EngineError, match=said) as error:
                dem.GaussianMixture(3, callbacks=[stop], **EM).fit(data, checkpoint=tmp_path / "kept")
            HangingBatch.goes_on.set()
    finally:
        HangingBatch.goes_on.set()
        HangingBatch.hangs.clear()
    (note,) = error.value.__notes__
    assert re.search(rf"iteration \d+; the same call goes on from the checkpoint {tmp_path / 'kept'}$", note)
    assert_same_bits(goes_on(tmp_path / "kept", data), whole, FITTED)


class ReadAhead(HangingBatch):
    reads_ahead = True


@pytest.mark.reliability(
    fault="a store or a disk does not answer, and a read on threads of one process hangs",
    sees="nothing has come of rows 600 to 799 for 500 ms … (by default an hour, dask's setting `dem.stall-timeout`)",
    lost="the pass in progress, with a checkpoint",
    recovery="the stall timeout, then the same line; `dem` ends, but Python waits for the read as it exits: `os._exit`",
)
def test_a_read_that_hangs(tmp_path, monkeypatch):
    whole = dem.GaussianMixture(3, **EM).fit(rows())
    monkeypatch.setattr("test_faults_and_checkpoints.HangingBatch", ReadAhead)
    data = HangingRows(gaussian_rows(), EDGES)
    ReadAhead.hangs.clear()
    ReadAhead.goes_on.clear()
    stop, said = (
        After(ReadAhead.hangs.set, iteration=5),
        r"^nothing has come of rows 600 to 799 for \S+ m?s: a store or a disk does not",
    )
    try:
        with dask.config.set({"dem.stall-timeout": "500ms"}), pytest.raises(EngineError, match=said):
            dem.GaussianMixture(3, callbacks=[stop], **EM).fit(data, checkpoint=tmp_path / "kept")
        assert any(thread.name.startswith("dem-read") for thread in threading.enumerate())
    finally:
        ReadAhead.goes_on.set()
        ReadAhead.hangs.clear()
    assert_same_bits(goes_on(tmp_path / "kept", data), whole, FITTED)


@pytest.mark.reliability(
    fault="the scheduler is killed during a fit",
    sees="the cluster at … went away …; start it and the fit again",
    lost="the pass in progress, with a checkpoint",
    recovery="seconds until it is noticed, then the same line",
)
@pytest.mark.slow
def test_a_scheduler_that_is_killed(tmp_path):
    data = str(tmp_path / "data.zarr")  # its worker has no tests to import
    zarr.create_array(data, data=gaussian_rows(), chunks=(200, 3))
    whole = dem.GaussianMixture(3, **EM).fit(data)
    place = tmp_path / "scheduler.json"
    python, options = [sys.executable, "-m"], ["--scheduler-file", str(place), "--host", "127.0.0.1"]
    options += ["--dashboard-address", "127.0.0.1:0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        subprocess.Popen([*python, "distributed.cli.dask_scheduler", *options, "--port", "0"], **quiet) as scheduler,
        subprocess.Popen([*python, "distributed.cli.dask_worker", *options, "--nthreads", "1"], **quiet) as worker,
    ):
        try:
            deadline = time.monotonic() + 60
            while not place.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            with Client(scheduler_file=str(place)) as client:
                client.wait_for_workers(1, timeout=60)
                kill = After(scheduler.kill, iteration=5)
                with pytest.raises(EngineError, match=r"^the cluster at tcp://127.0.0.1:\d+ went away"):
                    dem.GaussianMixture(3, callbacks=[kill], **EM).fit(data, checkpoint=tmp_path / "kept")
        finally:
            scheduler.kill()
            worker.kill()
    assert_same_bits(goes_on(tmp_path / "kept", data), whole, FITTED)


@pytest.mark.slow
@pytest.mark.reliability(
    fault="a cluster grows and shrinks during a fit, its workers being retired gracefully (adaptive scaling)",
    sees="nothing",
    lost="nothing; the same bits",
    recovery="none: the fit goes on",
)
def test_a_cluster_that_grows_and_shrinks():
    whole = dem.GaussianMixture(3, **EM).fit(rows())
    with cluster_of_threads(1) as (cluster, client):
        sizes = iter([3, 1, 2, 1, 3, 2] * 100)

        def scale(event):
            if isinstance(event, IterationEnded) and event.phase == "data" and event.iteration % 4 == 0:
                n_workers = next(sizes)
                cluster.scale(n_workers)
                client.wait_for_workers(1)
                time.sleep(0.3)

        fitted = dem.GaussianMixture(3, callbacks=[scale], **EM).fit(rows())
    assert_same_bits(fitted, whole, FITTED)


@pytest.mark.slow
@pytest.mark.reliability(
    fault="all workers are preempted again and again, and others come (spot instances)",
    sees="waiting for workers, at times",
    lost="nothing; the same bits",
    recovery="the start of a worker, seconds, each time",
)
def test_workers_that_live_for_a_while():
    whole = dem.GaussianMixture(3, **EM).fit(rows())
    gaps = np.random.default_rng(0).integers(2, 9, size=3)
    ends = list(np.cumsum(gaps))
    with cluster_of(2) as (_, client):

        def preempt(event):
            if isinstance(event, IterationEnded) and event.phase == "data" and event.iteration in ends:
                ends.remove(event.iteration)
                kill_all(client)

        fitted = dem.GaussianMixture(3, callbacks=[preempt], **EM).fit(rows())
    assert not ends
    assert_same_bits(fitted, whole, FITTED)
