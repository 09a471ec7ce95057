"""Several reads in flight: the same bits, errors and end, and never more of them than was said."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import weakref

import dask
import numpy as np
import pytest
import zarr
from faulty_stores import FailingStore
from stores import TABLE, After, mixture, store
from zarr.storage import LocalStore, WrapperStore

import dem
import dem.data.retries
import dem.data.zarr
from dem.data import open_rows
from dem.engine import LocalEngine
from dem.engine.base import Room
from dem.engine.reading import Pace, in_flight_bytes, reads_in_flight
from dem.errors import DataError, EngineError, OptionError
from dem.estimators import memory

pytestmark = pytest.mark.filterwarnings("ignore:.*did not converge")
N_CHUNKS = 12


@pytest.fixture(autouse=True)
def _a_chunk_is_a_read(monkeypatch):
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 160)
    monkeypatch.setattr(dem.data.retries, "_FIRST_PAUSE", 0.001)


class LateStore(WrapperStore):
    """Answers late, and counts how many chunks are asked for at once; of `stuck` ones it never sends any."""

    def __init__(self, store, seconds=0.01, stuck=()):
        super().__init__(store)
        self.seconds, self.stuck, self.n, self.most, self.released = seconds, stuck, 0, 0, threading.Event()

    async def get(self, key, prototype, byte_range=None):
        if not key.startswith("c/"):
            return await self._store.get(key, prototype, byte_range)
        self.n += 1
        self.most = max(self.most, self.n)
        try:
            await asyncio.sleep(self.seconds)
            if key in self.stuck:
                await asyncio.to_thread(self.released.wait)
            return await self._store.get(key, prototype, byte_range)
        finally:
            self.n -= 1

    def with_read_only(self, read_only=False):
        return self


def late(path, *arguments, **options):
    store(path, **options)
    return zarr.open_array(LateStore(LocalStore(path), *arguments), mode="r")


def in_flight(n):
    return dask.config.set({"dem.reads-in-flight": n})


def threads_that_read():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dem-read")]


def ended(seconds=5.0):
    deadline = time.monotonic() + seconds
    while threads_that_read() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not threads_that_read()


@pytest.mark.parametrize(
    ("algorithm", "more"),
    [("batch", {}), ("incremental", {"sample_weight": np.arange(1.0, 121.0)})],
    ids=["batch", "incremental, weighted"],
)
def test_the_number_in_flight_changes_no_bits(tmp_path, algorithm, more):
    array = late(tmp_path / "x.zarr", 0.0)
    expected = mixture(algorithm=algorithm).fit(array, **more)
    for n in (1, 2, 8):
        array.store_path.store.most = 0
        with in_flight(n):
            fitted = mixture(algorithm=algorithm).fit(array, **more)
        for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
            np.testing.assert_array_equal(getattr(fitted, name), getattr(expected, name))
        assert array.store_path.store.most <= n
    assert ended()


@pytest.mark.parametrize("n", [1, 2, 9])
def test_chunks_are_taken_in_their_order_whenever_they_come(tmp_path, monkeypatch, n):
    """60 reads in 28 batches; of two neighbours the first takes longer."""
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 32)
    zarr.create_array(tmp_path / "x.zarr", data=TABLE, chunks=(2, 2))
    whole = dem.data.zarr.ZarrBatch._read

    def read(self, region, **how):
        time.sleep(0.0 if region.offset[0] % 4 else 0.005)
        return whole(self, region, **how)

    monkeypatch.setattr(dem.data.zarr.ZarrBatch, "_read", read)
    rows = open_rows(tmp_path / "x.zarr")
    assert len(rows.batches()) == 28
    with in_flight(n), LocalEngine(2) as engine:
        (starts,) = engine.sweep(rows, [lambda chunk: [chunk.index.start]])
    assert starts == list(range(0, 120, 2))


@pytest.mark.slow
def test_on_a_cluster_too(tmp_path, client):
    store(tmp_path / "x.zarr")
    expected = mixture().fit(tmp_path / "x.zarr").means_
    for n in (1, 8):
        with in_flight(n):
            np.testing.assert_array_equal(mixture().fit(tmp_path / "x.zarr").means_, expected)


def test_one_thread_too(tmp_path):
    array = late(tmp_path / "x.zarr")
    with in_flight(5), LocalEngine(1) as engine:
        (total,) = engine.sweep(open_rows(array), [lambda chunk: chunk.rows.sum(axis=0)])
    np.testing.assert_allclose(total, TABLE.sum(axis=0), rtol=1e-13)
    assert 1 < array.store_path.store.most <= 5


def test_a_failing_read_in_the_middle_is_the_same_line(tmp_path):
    said = (
        r"chunk c/3/0 of x\.zarr \(rows 30 to 39\) cannot be read \(OSError: \[Errno 5\] injected, tried 8 times\); .*"
    )
    store(tmp_path / "x.zarr")
    for n in ("auto", 1, 8):
        flaky = FailingStore(LocalStore(tmp_path / "x.zarr"), times=10**9, keys=("c/3/0", "c/9/0"))
        with in_flight(n), pytest.raises(DataError) as caught:
            mixture().fit(zarr.open_array(flaky, mode="r"))
        assert re.fullmatch(said, str(caught.value))
        assert ended()


def test_retries_are_counted_once(tmp_path):
    store(tmp_path / "x.zarr")
    flaky = zarr.open_array(FailingStore(LocalStore(tmp_path / "x.zarr"), times=2), mode="r")
    with in_flight(8):
        assert mixture().fit(flaky).n_retries_ == 2 * N_CHUNKS


def test_never_more_chunks_than_were_said(tmp_path):
    """Asked for, come and not in work yet: not more than so many, also where the work takes longer than the reads."""
    array, alive, lock, most = late(tmp_path / "x.zarr", 0.0), [0], threading.Lock(), []

    def gone():
        with lock:
            alive[0] -= 1

    whole = dem.data.zarr.ZarrBatch._read

    def read(self, region, **how):
        with lock:
            alive[0] += 1
            most.append(alive[0])
        chunk = whole(self, region, **how)
        weakref.finalize(chunk, gone)
        return chunk

    def work(chunk):
        time.sleep(0.01)
        return len(chunk)

    for n, n_threads in ((3, 1), (3, 2), (1, 2)):
        most.clear()
        with pytest.MonkeyPatch.context() as patch, in_flight(n), LocalEngine(n_threads) as engine:
            patch.setattr(dem.data.zarr.ZarrBatch, "_read", read)
            assert engine.sweep(open_rows(array), [work]) == [120]
        assert max(most) <= n + n_threads, "one more for each thread, in work"


def test_batches_behind_are_read_meanwhile(tmp_path):
    """Each batch has one read here: while the first is in work four others are asked for."""
    array = late(tmp_path / "x.zarr", 0.0)
    begun, lock = [], threading.Lock()
    whole = dem.data.zarr.ZarrBatch._read

    def read(self, region, **how):
        with lock:
            begun.append(self.first)
        return whole(self, region, **how)

    def work(chunk):
        deadline = time.monotonic() + 5.0
        while len(begun) < min(chunk.index.start // 10 + 5, N_CHUNKS) and time.monotonic() < deadline:
            time.sleep(0.001)
        return len(begun)

    rows = open_rows(array)
    assert len(rows.batches()) == N_CHUNKS
    with pytest.MonkeyPatch.context() as patch, in_flight(4), LocalEngine(1) as engine:
        patch.setattr(dem.data.zarr.ZarrBatch, "_read", read)
        (seen,) = zip(*engine.sweep(rows, [work], by_batch=True), strict=True)
    assert seen == tuple(min(number + 5, N_CHUNKS) for number in range(N_CHUNKS))


@pytest.mark.reliability(
    fault="a read of an object store hangs while others are in flight",
    sees="nothing has come of rows 30 to 39 for 0.3 s … (by default an hour, dask's setting `dem.stall-timeout`)",
    lost="the pass in progress, with a checkpoint",
    recovery="the stall timeout, then the same line",
)
def test_a_read_that_hangs_ends_the_fit(tmp_path):
    array = late(tmp_path / "x.zarr", 0.0, ("c/3/0",))
    said = r"^nothing has come of rows 30 to 39 for 0\.3 s: a store or a disk does not answer"
    try:
        with in_flight(8), dask.config.set({"dem.stall-timeout": "300ms"}), pytest.raises(EngineError, match=said):
            mixture().fit(array)
    finally:
        array.store_path.store.released.set()
    assert ended()


@pytest.mark.parametrize("algorithm", ["batch", "incremental"])
def test_an_interrupted_fit_leaves_no_threads(tmp_path, algorithm):
    def interrupt():
        raise KeyboardInterrupt

    array = late(tmp_path / "x.zarr")
    with in_flight(8), pytest.raises(KeyboardInterrupt):
        mixture(algorithm=algorithm, callbacks=[After(2, interrupt)]).fit(array)
    assert ended()
    with in_flight(8), LocalEngine(2) as engine, pytest.raises(ZeroDivisionError):
        engine.sweep(open_rows(array), [lambda chunk: 1 / (len(chunk) - 10)])
    assert ended()


def test_the_pace_asks_for_what_is_needed():
    """A quarter of a second to read; each of two threads takes 8 chunks a second: 4 under way, 2 that lie ready."""
    pace = Pace(2)
    for _ in range(4):
        assert pace.wanted() == np.inf
        pace.read(0.25, 0.1875)
        pace.worked(0.0625)
    assert pace.wanted() == 6
    for _ in range(40):
        pace.worked(10.0)
    assert pace.wanted() == 3, "slow arithmetic needs little"


def test_only_what_waits_has_several_in_flight(tmp_path):
    store(tmp_path / "x.zarr")
    assert reads_in_flight(open_rows(tmp_path / "x.zarr"), 2) is None
    assert reads_in_flight(open_rows(TABLE), 2) is None
    with in_flight(7):
        assert reads_in_flight(open_rows(tmp_path / "x.zarr"), 2) == (7, True)
        assert reads_in_flight(open_rows(TABLE), 2) is None
    for wrong in (0, 2.5, True, "many"):
        with in_flight(wrong), pytest.raises(OptionError, match=r"^dem\.reads-in-flight must be 'auto' or a whole"):
            mixture().fit(tmp_path / "x.zarr")


def test_what_is_in_flight_is_part_of_the_need(bucket, tmp_path):
    """A chunk of 8 MB takes 24 while it is read: stored, decoded and as rows; 32 of them are the most."""
    array = zarr.create_array(f"{bucket}/x.zarr", shape=(10**7, 10), chunks=(10**5, 10), dtype="f8")
    rows, room, chunk = open_rows(array), Room("w", None, 2), 8 * 10**6
    assert in_flight_bytes(rows) == 3 * chunk
    model = dem.GaussianMixture(2)
    assert reads_in_flight(rows, 2) == (2**28 // (3 * chunk), False)
    assert memory.need_of_fit([model], rows, room, 1)["chunks"] == (2 * 2 + 3 * 11) * chunk
    with in_flight(40):
        assert memory.need_of_fit([model], rows, room, 1)["chunks"] == (2 * 2 + 3 * 40) * chunk
    least = memory.need_of_fit([model], rows, room, 1, most_in_flight=2)
    assert least["chunks"] == (2 * 2 + 3 * 2) * chunk
    tight = Room("w", int(1.3 * sum(least.values())), 2)

    def need_in(room, rows, most):
        return memory.need_of_fit([model], rows, room, 1, most_in_flight=most)

    found = memory.in_slices(need_in, rows, [tight], loops=False)
    assert found.fits
    assert found.rows is rows
    assert 2 <= found.most_in_flight < 11
    assert memory.in_slices(need_in, rows, [Room("w", 10**12, 2)], loops=False).most_in_flight == 11


def test_a_client_of_s3_has_connections_for_them(bucket):
    """Unless the user says how many."""
    import fsspec

    zarr.create_array(f"{bucket}/x.zarr", data=TABLE, chunks=(10, 2))

    def connections():
        return open_rows(f"{bucket}/x.zarr").table.parts[0].array.store_path.store.fs.config_kwargs

    assert connections() == {"max_pool_connections": 64}
    fsspec.config.conf["s3"]["config_kwargs"] = {"max_pool_connections": 5}
    try:
        assert connections() == {"max_pool_connections": 5}
    finally:
        del fsspec.config.conf["s3"]["config_kwargs"]
