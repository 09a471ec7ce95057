"""What all tests share: a small cluster, Old Faithful, and no traces outside the temporary folder."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import s3

DATA = Path(__file__).parent / "data"

# Set before dask or matplotlib are imported, and inherited by every process that a test starts.
os.environ["MPLBACKEND"] = "Agg"

hypothesis.settings.register_profile(
    "dem", deadline=None, max_examples=15, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("dem")

# Laws that all cases obey in every run; others on the cases alone whose arithmetic no other case has, and long ones on
# quick cases alone.
OF_EVERY_CASE = ("test_law_fits", "test_law_kernels", "test_law_chunking", "test_names")
_SCRATCH = "DASK_TEMPORARY_DIRECTORY"


def pytest_configure(config):
    if _SCRATCH not in os.environ:  # the workers of pytest-xdist inherit it
        config.scratch = os.environ[_SCRATCH] = tempfile.mkdtemp(prefix="dem-tests-")


def pytest_collection_modifyitems(items):
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")
        if getattr(case, "is_slow", False) or "s3_server" in item.fixturenames:  # a server takes seconds to start
            item.add_marker("slow")
        too_long = getattr(case, "is_slow", False) and item.get_closest_marker("long")
        if too_long or (getattr(case, "is_alike", False) and item.path.stem not in OF_EVERY_CASE):
            item.add_marker("thorough")


def pytest_unconfigure(config):
    if hasattr(config, "scratch"):
        shutil.rmtree(config.scratch, ignore_errors=True)
        del os.environ[_SCRATCH]


@pytest.fixture(scope="session")
def cluster():
    """Two worker processes of one thread each on the loopback interface, kept for the session."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster


@pytest.fixture(autouse=True, scope="session")
def _zarr_decodes():
    """Tests count what is asked of zarr's stores; tests/test_codec_pipeline.py has zarrs, and so have processes."""
    import dask

    with dask.config.set({"dem.codec-pipeline": "zarr"}):
        yield


@pytest.fixture(autouse=True)
def _no_scheduler_is_left():
    """Clients that end in another order than they began leave Dask's setting of the scheduler behind."""
    yield
    if "dask" in sys.modules:
        sys.modules["dask"].config.config.pop("scheduler", None)


@pytest.fixture(scope="session")
def compiled_loops():
    """Compile the loops of mixtures in one process of pytest-xdist, while the others wait for its cache."""
    import fcntl

    from dem.native import mixtures

    with Path(os.environ[_SCRATCH], "compiling").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in ("e_step", "by_row"):
            for number in ("float64", "float32"):
                mixtures.compile_loop(name, number)


@pytest.fixture(params=["off", pytest.param("always", marks=pytest.mark.slow)], ids=["NumPy", "compiled"])
def arithmetic(request, monkeypatch):
    """NumPy's arithmetic, then the compiled loops, for the laws that hold for both."""
    if request.param == "always":
        request.getfixturevalue("compiled_loops")
    monkeypatch.setenv("DEM_NATIVE", request.param)


@pytest.fixture
def client(cluster):
    """The active client of `cluster`: while a test holds it, dem computes there."""
    from distributed import Client

    with Client(cluster) as client:
        yield client


@pytest.fixture(scope="session")
def faithful():
    """Old Faithful, read-only, shape (272, 2)."""
    data = np.loadtxt(DATA / "faithful.csv", delimiter=",", skiprows=1)
    data.setflags(write=False)
    return data


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server of moto's, kept for the session."""
    with s3.moto() as server:
        yield server


@pytest.fixture(scope="session")
def ceph_server():
    """An object gateway of Ceph's, kept for the session."""
    with tempfile.TemporaryDirectory(prefix="ceph-") as folder, s3.ceph(Path(folder)) as server:
        yield server


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """The URL of an empty bucket on a real S3 server; what it needs is in the environment while a test holds it."""
    s3_server.use(monkeypatch)
    return s3.new_bucket()
