"""What a fit needs of memory is stated before it begins, and its peak stays below; what does not fit is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from cases import gaussian_rows
from click.testing import CliRunner
from distributed import Client, LocalCluster

import dem
from dem.cli import dem as command
from dem.data import open_rows
from dem.data.columns import with_columns
from dem.engine import LocalEngine, connect
from dem.engine.base import Room
from dem.errors import EngineError, EngineWarning, OptionError
from dem.estimators import memory
from dem.events import MemoryNeeded

MODEL = {"random_state": 0, "max_iter": 2, "tol": 0.0, "sample_rows": 2000, "init_params": "random_from_data"}
SHARD = 8_000  # rows of 16 doubles: 1 MB, in 16 chunks


def wide_rows(n=3 * SHARD):
    return np.random.default_rng(3).normal(size=(n, 16)) + 4.0 * np.random.default_rng(4).integers(0, 3, size=(n, 1))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("sharded") / "x.zarr")
    zarr.create_array(path, data=wide_rows(), chunks=(SHARD // 16, 16), shards=(SHARD, 16))
    return path


class Limited(LocalEngine):
    """Threads of this process that are said to have so much memory."""

    def __init__(self, limit, n_threads=1, *, is_here=False):
        super().__init__(n_threads)
        self.limit, self.is_here = limit, is_here

    def rooms(self):
        return [Room("worker w", self.limit, self.n_threads, is_here=self.is_here)]


# What is stated ---------------------------------------------------------------------------------------------


def stated(path, model, **given):
    told = []
    with dask.config.set({"dem.memory-check": "warn"}):
        model.set_params(callbacks=[lambda event: told.append(event) if isinstance(event, MemoryNeeded) else None])
        model.fit(path, **given)
    return told[0]


def test_it_is_told_before_the_first_read_and_on_one_line(tmp_path, capsys):
    path = str(tmp_path / "x.zarr")
    zarr.create_array(path, data=gaussian_rows(), chunks=(500, 3))
    events = []
    dem.GaussianMixture(2, random_state=0, callbacks=[events.append], verbose=1).fit(path)
    assert isinstance(events[0], MemoryNeeded), "before anything is read"
    assert events[0].holder == "this process"
    assert sum(events[0].need.values()) == events[0].n_bytes < events[0].limit
    assert capsys.readouterr().out.startswith("this process needs up to ")
    result = CliRunner().invoke(command, ["fit", path, "-k", "2"])
    (line,) = (line for line in result.stderr.splitlines() if "needs up to" in line)
    assert " chunks, " in line
    assert " E-step, " in line
    found = dem.plan(path, dem.GaussianMixture(2), seconds=0.01)
    assert found.memory == events[0].need, "the plan says the same"


def test_chunks_count_as_often_as_they_are_held(tmp_path):
    """One in work, one being made of one decoded and one stored: four of a chunk where others follow in its batch."""
    path = str(tmp_path / "x.zarr")
    array = zarr.create_array(path, shape=(40_000_000, 8), chunks=(1_000_000, 8), dtype="f8")
    chunk = 64 * 10**6
    one, two = (Room("worker w", None, n) for n in (1, 2))
    model = dem.GaussianMixture(2)
    assert memory.need_of_fit([model], open_rows(array), one, 1)["chunks"] == 4 * chunk
    assert memory.need_of_fit([model], open_rows(array), two, 1)["chunks"] == 8 * chunk
    few = zarr.create_array(tmp_path / "few.zarr", shape=(4_000_000, 8), chunks=(1_000_000, 8), dtype="f8")
    assert memory.need_of_fit([model], open_rows(few), one, 1)["chunks"] == 3 * chunk, "nothing is read ahead"
    weights = zarr.create_array(tmp_path / "w.zarr", shape=(40_000_000,), chunks=(1_000_000,), dtype="f8")
    weighted = with_columns(open_rows(array), {"sample_weight": weights}, n_components=2)
    # Twice 9 numbers a row, and those that count; 16 to decode the rows from; four chunks of weights that may be kept.
    assert memory.need_of_fit([model], weighted, one, 1)["chunks"] == (18 + 9 + 16 + 4) * chunk // 8


def test_more_models_need_more_statistics(sharded):
    rows, room = open_rows(sharded), Room("worker w", None, 1)
    alone = memory.need_of_fit([dem.GaussianMixture(8)], rows, room, 1)
    grid = memory.need_of_fit([dem.GaussianMixture(8), dem.GaussianMixture(8)], rows, room, 1)
    # 8 components of 1 + 1 + 16 + 16 · 16 numbers, those of a thread three times and five in the process.
    sums = 8 * 8 * (2 + 16 + 256)
    assert grid["E-step"] - alone["E-step"] == 8 * sums
    starts = memory.need_of_fit([dem.GaussianMixture(8, n_init=9, sample_rows=1000)], rows, room, 1)
    assert starts["E-step"] - alone["E-step"] == 2 * 8 * sums, "three of nine go on from the sample"


# What does not fit ------------------------------------------------------------------------------------------


@pytest.mark.reliability(
    fault="the chunks of a zarr array are too large for the memory limit of the workers",
    sees="worker … needs up to 2.5 GB for x.zarr, and 400.0 MB is the memory limit of … (…): store the data in chunks "
    "of at most …, or give a worker at least …; also in `dem plan`",
    lost="nothing: it is said before anything is read",
    recovery="at once, with larger workers or fewer threads in each; or the data are written in smaller chunks",
)
def test_chunks_that_are_too_large_are_refused_with_the_numbers(tmp_path, monkeypatch):
    path = str(tmp_path / "x.zarr")
    zarr.create_array(path, shape=(150_000_000, 1), chunks=(75_000_000, 1), dtype="f8")  # no chunk is there to be read
    engine = Limited(400 * 10**6, 2)
    monkeypatch.setattr("dem.estimators.base.current_engine", lambda *_: engine)
    with pytest.raises(EngineError) as caught:
        dem.GaussianMixture(2, sample_rows=1000).fit(path)
    line = str(caught.value)
    assert line.startswith("worker w needs up to 4.")
    assert "400.0 MB is the memory limit of worker w (190.0 MB Python and packages, 3.6 GB chunks" in line
    fits = float(re.search(r"in chunks of at most ([\d.]+) MB", line)[1])
    # Three of a chunk for each of two threads, and the reserve; beside 190 MB and what is small.
    assert 6 * fits * 1.2 == pytest.approx(0.95 * 400 - 1.2 * 190, abs=25)
    assert "give each process fewer threads than 2" in line
    asked = float(re.search(r"give a worker at least (4\.\d) GB", line)[1])
    engine.limit = int(asked * 1e9)
    memory.fitting([dem.GaussianMixture(2, sample_rows=1000)], open_rows(path), engine)  # what is asked for is enough


def test_a_process_of_little_memory_is_told_too(sharded, monkeypatch):
    monkeypatch.setattr("dem.engine.local.free_memory", lambda: 2 * 10**6)
    with pytest.raises(EngineError, match=r"this process needs up to .*, and 2.0 MB are free here \(.*sample_rows"):
        dem.GaussianMixture(2).fit(sharded)
    with (
        pytest.raises(OptionError, match="memory-check must be 'raise' or 'warn', not 'no'"),
        dask.config.set({"dem.memory-check": "no"}),
    ):
        dem.GaussianMixture(2).fit(sharded)
    with pytest.warns(EngineWarning, match="2.0 MB are free here"), dask.config.set({"dem.memory-check": "warn"}):
        dem.KMeans(2, max_iter=3, random_state=0).fit(sharded)


# Slices -----------------------------------------------------------------------------------------------------


@pytest.mark.reliability(
    fault="the shards of a zarr array are too large for the memory limit of the workers, their chunks are not",
    sees="nothing: fewer chunks of a shard are read at once",
    lost="nothing; numbers differ by rounding from those of a worker that has more memory",
    recovery="none: the fit runs",
)
@pytest.mark.parametrize("columns", [{}, {"sample_weight": np.arange(3 * SHARD) % 3}], ids=["rows", "weighted"])
def test_shards_that_are_too_large_are_read_in_slices(sharded, monkeypatch, columns):
    whole = dem.GaussianMixture(3, **MODEL)
    with pytest.warns(match="did not converge"):
        whole.fit(sharded, **columns)
    need = memory.need_of_fit([whole], open_rows(sharded), Room("w", None, 1), 1)
    read = []
    monkeypatch.setattr(memory, "READ_BYTES", SHARD // 2 * 16 * 8)
    for limit, most in ((sum(need.values()) - need["chunks"] // 3, SHARD // 2), (1, SHARD // 16)):
        engine = Limited(limit)
        monkeypatch.setattr("dem.estimators.base.current_engine", lambda *_, engine=engine: engine)
        engine_sweep = engine.sweep

        def sweep(rows, works, engine_sweep=engine_sweep, **how):
            read.append(max(len(chunk) for batch in rows.batches() for chunk in batch))
            return engine_sweep(rows, works, **how)

        engine.sweep = sweep
        sliced = dem.GaussianMixture(3, **MODEL)
        with pytest.warns(match="did not converge|needs up to"), dask.config.set({"dem.memory-check": "warn"}):
            sliced.fit(sharded, **columns)
        assert max(read) <= most
        read.clear()
        for name in ("weights_", "means_", "covariances_", "lower_bound_"):
            np.testing.assert_allclose(getattr(sliced, name), getattr(whole, name), rtol=1e-12, atol=1e-12)


def test_slices_are_whole_chunks_in_the_same_batches(tmp_path):
    """Nothing is decoded twice: the chunks that are asked for are those of the store, each once."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 60, 3))
    path = str(tmp_path / "x.zarr")
    zarr.create_array(path, data=values, chunks=(5, 10, 3), shards=(20, 60, 3))
    rows = open_rows(path, feature_dim=2)
    for n_bytes in (1, 2400, 4 * 1200):
        sliced = rows.sliced(n_bytes)
        seen = np.zeros((40, 60), int)
        for batch, same in zip(sliced.batches(), rows.batches(), strict=True):
            assert (batch.n_rows, batch.span) == (same.n_rows, same.span)
            for chunk in batch:
                assert chunk.rows.nbytes <= max(n_bytes, 1200)
                grid = np.zeros((40, 60), bool)
                grid.ravel()[np.asarray(chunk.index)] = True
                seen += grid
                np.testing.assert_array_equal(values.reshape(-1, 3)[np.asarray(chunk.index)], chunk.rows)
                places = np.argwhere(grid)
                for axis, size in enumerate((5, 10)):
                    assert places[:, axis].min() % size == 0
                    assert (places[:, axis].max() + 1) % size == 0
        assert (seen == 1).all()
    plain = open_rows(zarr.create_array(tmp_path / "plain.zarr", data=values, chunks=(20, 60, 3)), feature_dim=2)
    assert {len(chunk) for batch in plain.batches() for chunk in batch} == {2400}, "small chunks are read together"
    slices = plain.sliced(1)
    assert {len(chunk) for batch in slices.batches() for chunk in batch} == {1200}, "a chunk is decoded whole"
    assert slices.sliced(1).read_rows == 1200


def test_results_and_checkpoints_do_not_know_of_slices(sharded, tmp_path, monkeypatch):
    model = dem.GaussianMixture(3, **MODEL)
    kept = str(tmp_path / "kept")
    with pytest.warns(match="did not converge"):
        model.fit(sharded, checkpoint=kept)
    expected = model.predict(sharded).compute()
    engine = Limited(1)
    monkeypatch.setattr("dem.estimators.base.current_engine", lambda *_: engine)
    monkeypatch.setattr("dem.estimators.streams.current_engine", lambda *_: engine)
    with dask.config.set({"dem.memory-check": "warn"}):
        with pytest.warns(EngineWarning, match="needs up to"):
            model.predict_to(sharded, str(tmp_path / "labels.zarr"))
        with pytest.warns(match="needs up to|did not converge"):
            again = dem.GaussianMixture(3, **MODEL).fit(sharded, checkpoint=kept)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "labels.zarr")[:], expected)
    np.testing.assert_allclose(again.means_, model.means_, rtol=1e-12)


# The peak ---------------------------------------------------------------------------------------------------


def probes():
    """Return functions for a worker, which travel by value: to import this file there would take 40 MB."""

    def listen(dask_worker):
        import logging

        dask_worker.said, handler = [], logging.Handler(logging.WARNING)
        handler.emit = dask_worker.said.append
        logging.getLogger("distributed.worker.memory").addHandler(handler)

    def of_process(dask_worker):
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
        return peak, dask_worker.data.spilled_total.disk, [record.getMessage() for record in dask_worker.said]

    return listen, of_process


@contextmanager
def limited_worker(limit):
    """A worker process of one thread with that limit, and Dask's own settings for spilling, pausing and ending it."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=limit
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(probes()[0])
        yield client


def assert_calm(client, limit, pids):
    ((peak, spilled, said),) = client.run(probes()[1]).values()
    assert not [line for line in said if "Pausing" in line or "spill" in line], "nothing was paused"
    assert spilled == 0
    assert peak < 0.8 * limit, f"peak {peak / 1e6:.0f} MB of {limit / 1e6:.0f} MB"
    assert client.run(os.getpid) == pids, "nothing was restarted"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux's /proc")
@pytest.mark.parametrize("kind", ["chunks", "shards", "weights", "predict_to"])
def test_a_worker_with_a_fifth_more_than_the_need_is_calm(tmp_path, kind):
    path, n, d = str(tmp_path / "x.zarr"), 150_000, 16  # 19 MB a chunk or shard
    division = {"chunks": (n // 10, d), "shards": (n, d)} if kind == "shards" else {"chunks": (n, d)}
    array = zarr.create_array(path, shape=(18 * n, d), dtype="f8", **division)
    part = np.random.default_rng(0).normal(size=(n, d)) + np.repeat([0.0, 5.0], n // 2)[:, np.newaxis]
    for start in range(0, 18 * n, n):
        array[start : start + n] = np.roll(part, start // n, axis=0)
    weights = str(tmp_path / "w.zarr")
    zarr.create_array(weights, data=np.tile([0.5, 0.0, 2.0, 1.0], n * 18 // 4), chunks=(n,))
    given = {"sample_weight": weights} if kind == "weights" else {}
    model = dem.GaussianMixture(2, covariance_type="diag", **MODEL)
    rows = open_rows(path)
    if kind == "weights":
        rows = with_columns(rows, given, n_components=2)
    room = Room("w", None, 1)
    if kind == "predict_to":
        need = memory.need_of_results(model.set_params(max_iter=50, tol=1e-3).fit(part), rows, room, 1, 1)
    else:
        need = memory.need_of_fit([model], rows, room, 1)
    limit = int(1.2 * sum(need.values()))
    with limited_worker(limit) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two passes are not enough
        pids = client.run(os.getpid)
        if kind == "predict_to":
            model.predict_to(path, str(tmp_path / "labels.zarr"))
        else:
            model.fit(path, **given)
            assert model.n_samples_seen_ == (18 * n if kind != "weights" else 15.75 * n)
        assert_calm(client, limit, pids)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux's /proc")
@pytest.mark.parametrize(
    ("spare", "options"),
    [(0, {}), (150_000_000, {}), (0, {"init_params": "k-means||", "n_init": 2, "n_components": 20})],
    ids=["sample", "cache", "k-means||"],
)
def test_own_workers_keep_chunks_where_there_is_room_and_no_more(tmp_path, spare, options):
    """A sample of the usual size, a fit that keeps chunks, labels: under Dask's limit with just what is asked for."""
    path, n, d = str(tmp_path / "x.zarr"), 100_000, 8
    array = zarr.create_array(path, shape=(16 * n, d), chunks=(n, d), dtype="f8")  # 102 MB
    part = np.random.default_rng(0).normal(size=(n, d)) + np.repeat([0.0, 5.0], n // 2)[:, np.newaxis]
    for start in range(0, 16 * n, n):
        array[start : start + n] = np.roll(part, start // n, axis=0)
    model = dem.GaussianMixture(2, covariance_type="diag", **{**MODEL, "max_iter": 4, "sample_rows": None})
    model.set_params(**options)
    need = memory.need_of_fit([model], open_rows(path), Room("w", None, 1), 1)
    limit = int(sum(need.values()) / memory.ENDS_AT) + 1 + spare
    with connect(workers=1, memory_limit=str(limit)) as engine, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.client.run(probes()[0])
        pids = engine.client.run(os.getpid)
        model.fit(path).predict_to(path, str(tmp_path / "labels.zarr"))
        ((peak, _, _),) = engine.client.run(probes()[1]).values()
        assert engine.client.run(os.getpid) == pids, "nothing was restarted"
    assert peak < memory.ENDS_AT * limit


@pytest.mark.slow
def test_the_shell_refuses_what_its_workers_cannot_hold(tmp_path):
    path = tmp_path / "x.zarr"
    array = zarr.create_array(path, shape=(150_000_000, 1), chunks=(75_000_000, 1), dtype="f8")
    array[0] = 1.0
    arguments = ["fit", str(path), "-k", "2", "--workers", "1", "--memory-limit", "400MB"]
    done = subprocess.run([sys.executable, "-m", "dem", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs up to 2." in done.stderr.splitlines()[-1]
    assert "400.0 MB is the memory limit of worker" in done.stderr.splitlines()[-1]
