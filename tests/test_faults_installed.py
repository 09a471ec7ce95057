"""Workers on which something is missing: dem, a module of the user's, or that do not even start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import dask
import pytest
from cases import gaussian_rows
from clusters import After, cluster_of, cluster_of_threads
from sources import CutBatch, CutRows

import dem
from dem.engine import connect
from dem.engine.base import ByBatch
from dem.engine.cluster import ClusterEngine
from dem.errors import EngineError

EDGES = list(range(200, 3000, 200))
EM = {"random_state": 0, "tol": 1e-6}


def rows():
    return CutRows(gaussian_rows(), EDGES)


WITHOUT_DEM = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dem":
            raise ModuleNotFoundError("No module named 'dem'", name="dem")

sys.meta_path.insert(0, Missing())
from distributed.cli.dask_worker import main
main()
"""


@contextmanager
def worker_without_dem(address):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            WITHOUT_DEM,
            address,
            "--no-nanny",
            "--dashboard-address",
            "127.0.0.1:0",
            "--host",
            "127.0.0.1",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.reliability(
    fault="a worker has no dem installed",
    sees="worker … cannot import dem; install dask-em … there",
    lost="nothing: before the first read",
    recovery="an installation",
)
def test_a_worker_without_dem_is_named():
    with cluster_of(0) as (cluster, client), worker_without_dem(cluster.scheduler_address):
        client.wait_for_workers(1, timeout=60)
        (address,) = client.nthreads()
        with pytest.raises(EngineError, match=f"worker {address} cannot import dem .*install dask-em .* there"):
            dem.GaussianMixture(3, **EM).fit(rows())


@pytest.mark.slow
@pytest.mark.reliability(
    fault="a worker without dem joins during a fit",
    sees="worker … cannot import dem; install dask-em … there",
    lost="what follows the last iteration, which the estimator holds",
    recovery="an installation, then the same line",
)
def test_a_worker_without_dem_joins_later():
    with cluster_of(1) as (cluster, client), worker_without_dem(cluster.scheduler_address) as process:
        os.kill(process.pid, signal.SIGSTOP)

        def joins():
            os.kill(process.pid, signal.SIGCONT)
            client.wait_for_workers(2, timeout=60)
            time.sleep(1.5)  # until the workers are looked at again

        model = dem.GaussianMixture(3, random_state=0, tol=0.0, max_iter=1000, callbacks=[After(joins)])
        with pytest.raises(EngineError, match=r"worker tcp.* cannot import dem"):
            model.fit(rows())
    assert model.n_iter_ >= 2


@pytest.mark.reliability(
    fault="a worker that dem starts is killed before it is ready",
    sees="a worker ended as it was started (Nanny failed to start.) …; start again",
    lost="nothing: before the first read",
    recovery="at once: the same line",
)
def test_a_worker_that_ends_as_it_is_started(tmp_path):
    (tmp_path / "ends.py").write_text("import os\nos._exit(1)\n")
    with (
        dask.config.set({"distributed.worker.preload": [str(tmp_path / "ends.py")]}),
        pytest.raises(EngineError, match=r"^a worker ended as it was started \(Nanny failed to start\.\)"),
        connect(workers=1),
    ):
        pass


def not_here():
    message = "no module named mine"
    raise ModuleNotFoundError(message)


class UnknownBatch(CutBatch):
    def __reduce__(self):
        return not_here, ()


class UnknownRows(CutRows):
    def batches(self):
        return [UnknownBatch(batch.table, batch.first, batch.edges) for batch in super().batches()]


class UnknownWork:
    def __call__(self, chunk):
        return len(chunk)

    def __reduce__(self):
        return not_here, ()


@pytest.mark.reliability(
    fault="a worker cannot make use of the batches or the model: a module of yours is not there",
    sees="worker … cannot make use of what it is sent (ModuleNotFoundError: …); install there …",
    lost="nothing: before the first read",
    recovery="an installation",
)
def test_what_workers_cannot_unpack_is_named():
    said = r"^worker \S+ cannot make use of what it is sent \(ModuleNotFoundError: no module named mine\); install"
    with cluster_of_threads(1) as (_, client):
        engine = ClusterEngine(client)
        for data, work in [(UnknownRows(gaussian_rows(), EDGES), len), (rows(), UnknownWork())]:
            with pytest.raises(EngineError, match=said):
                engine.sweep(data, [work])
        with pytest.raises(EngineError, match=said):
            engine.sweep(rows(), [ByBatch([UnknownWork()] * len(rows().batches()))])
