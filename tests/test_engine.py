"""What engines do beside sums over all the data: totals of batches, works of batches, events, and clearing up."""

from __future__ import annotations

import threading
import time
from operator import attrgetter

import dask.array as da
import numpy as np
import pytest
import zarr
from reassembly import reassemble
from sources import CutRows

import dem
from dem.data import open_rows
from dem.data.numpy import ArrayRows
from dem.engine import ByBatch, LocalEngine, current_engine
from dem.errors import DataError
from dem.estimators.holdout import Holdout, HoldoutEngine
from dem.events import BatchEnded, FitStarted, IterationEnded, Preparing
from dem.statistics import TreeSum, tree_sum

TABLE = np.random.default_rng(5).normal(size=(3000, 2))
EDGES = list(range(70, 3000, 70))


@pytest.fixture(params=["one thread", "threads", "cluster"])
def where(request):
    """Where engines run that are made meanwhile."""
    if request.param == "cluster":
        request.getfixturevalue("client")
        return current_engine
    return lambda told=lambda _: None: LocalEngine(1 if request.param == "one thread" else 3, told)


def total(chunk):
    return chunk.rows.sum(axis=0)


def test_totals_of_batches(where):
    rows = CutRows(TABLE, EDGES, 4)
    with where() as engine:
        parts = engine.sweep(rows, [total, len], by_batch=True)
        some = engine.submit(rows, [len], slice(2, 5), by_batch=True).result()
        whole = engine.sweep(rows, [total, len])
    assert [n for _, n in parts] == [len(batch.span) for batch in rows.batches()]
    assert some == [[n] for _, n in parts[2:5]]
    for mine, theirs in zip(tree_sum(parts), whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)


class Inner:
    """A work that has its own part of a second array."""

    def __init__(self, weights, span):
        self.weights, self.start = weights, span.start

    def __call__(self, chunk):
        own = self.weights[np.asarray(chunk.index) - self.start]
        return own @ chunk.rows


def test_a_second_array_is_cut_to_the_spans(where):
    rows, weights = CutRows(TABLE, EDGES, 4), np.arange(3000.0)
    spans = [batch.span for batch in rows.batches()]
    works = [len, ByBatch([Inner(weights[span.start : span.stop], span) for span in spans]), total]
    with where() as engine:
        n_rows, inner, plain = engine.sweep(rows, works)
        some = engine.submit(rows, works, slice(3, 6)).result()
    assert n_rows == 3000
    np.testing.assert_allclose(inner, weights @ TABLE, rtol=1e-12)
    np.testing.assert_allclose(plain, TABLE.sum(axis=0), rtol=1e-12)
    part = slice(spans[3].start, spans[5].stop)
    np.testing.assert_allclose(some[1], weights[part] @ TABLE[part], rtol=1e-12)


def test_works_of_batches_see_what_is_not_held_out():
    rows, holdout = CutRows(TABLE, EDGES, 4), Holdout(0.3)
    weights, there = np.arange(3000.0), ~holdout.holds(range(3000))
    works = [Inner(weights[batch.span.start : batch.span.stop], batch.span) for batch in rows.batches()]
    with HoldoutEngine(LocalEngine(2), holdout) as engine:
        (inner,) = engine.sweep(rows, [ByBatch(works)])
    np.testing.assert_allclose(inner, weights[there] @ TABLE[there], rtol=1e-12)


def test_it_is_told_when_batches_end(where):
    told, driver = [], threading.get_ident()

    def tell(event):
        assert threading.get_ident() == driver
        told.append(event)

    rows = CutRows(TABLE, EDGES, 4)
    lengths = sorted(len(batch.span) for batch in rows.batches())
    with where(tell) as engine:
        engine.sweep(rows, [len])
        assert sorted(event.n_rows for event in told) == lengths
        assert {event.of_rows for event in told} == {3000}
        seconds = [event.seconds for event in told]
        assert all(second >= 0.0 for second in seconds)
        assert seconds == sorted(seconds)
        told.clear()
        first, second = (engine.submit(rows, [len], part) for part in (slice(0, 4), slice(4, None)))
        assert first.result() + second.result() == [4 * 280, 3000 - 4 * 280]
        assert sorted(event.n_rows for event in told) == lengths
        assert first.result() == [4 * 280], "as often as one likes"


def test_a_long_pass_tells_of_its_batches_before_it_ends(client, monkeypatch):
    monkeypatch.setattr("dem.engine.workers.TICK", 0.02)

    def slow(chunk):
        time.sleep(0.05)
        return len(chunk)

    told = []
    with current_engine(told.append) as engine:
        engine.sweep(CutRows(TABLE, EDGES, 4), [slow])
    seconds = [event.seconds for event in told]
    assert seconds[0] < 0.7 * seconds[-1]


def test_the_callbacks_of_a_fit_see_the_batches_of_each_pass(where, monkeypatch):
    monkeypatch.setattr("dem.estimators.base.current_engine", where)
    events = []
    model = dem.GaussianMixture(2, random_state=0, max_iter=3, tol=1e-9, callbacks=[events.append])
    with pytest.warns(match="did not converge"):
        model.fit(CutRows(TABLE, EDGES, 4))
    passes, n_rows = [], 0
    for event in events:
        if isinstance(event, BatchEnded):
            n_rows += event.n_rows
        elif isinstance(event, Preparing | FitStarted | IterationEnded):
            passes.append((event.iteration if isinstance(event, IterationEnded) else type(event).__name__, n_rows))
            n_rows = 0
    assert passes[-3:] == [(1, 3000), (2, 3000), (3, 3000)]
    assert sum(n for _, n in passes) == 4 * 3000, "the sample, and three passes"


def test_threads_add_what_is_ready_and_keep_nothing_else():
    parts = [[np.random.default_rng(number).normal(size=3)] for number in range(300)]
    expected = tree_sum(parts)[0]
    backwards, forwards = TreeSum(300), TreeSum(300)
    for number in range(300):
        forwards.add(number, parts[number])
        backwards.add(299 - number, parts[299 - number])
        kept = len(forwards._ready) + len(forwards._sums)
        assert kept <= 3, "one sum for each level of the tree"
    np.testing.assert_array_equal(forwards.result[0], expected)
    np.testing.assert_array_equal(backwards.result[0], expected)


class FailsOn:
    """A work that fails for two batches; the later one is the quicker."""

    def __init__(self):
        self.later_failed = threading.Event()

    def __call__(self, chunk):
        if chunk.index[0] == 70:
            self.later_failed.wait(10)
            message = "the first of the data"
            raise DataError(message)
        if chunk.index[0] == 140:
            self.later_failed.set()
            message = "the second of the data"
            raise DataError(message)
        return 0


def test_the_error_is_that_of_the_first_rows():
    with LocalEngine(3) as engine, pytest.raises(DataError, match="the first of the data"):
        engine.sweep(CutRows(TABLE, EDGES), [FailsOn()])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dem")]


def test_an_engine_ends_with_its_block():
    with LocalEngine(2) as engine:
        engine.sweep(CutRows(TABLE, EDGES), [len])
        assert [thread for thread in threading.enumerate() if thread.name.startswith("dem")]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dem")]


# What batches say of their rows ------------------------------------------------------------------------------------


def stored(shape, chunks):
    values = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    return zarr.create_array(zarr.storage.MemoryStore(), data=values, chunks=chunks)


def frame(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    pd.DataFrame(TABLE, columns=["a", "b"]).to_parquet(path, row_group_size=100)
    return open_rows(str(path))


SOURCES = {
    "numpy": (lambda _: open_rows(TABLE), True),
    "numpy cube": (lambda _: ArrayRows(np.arange(28_000.0).reshape(7, 40, 50, 2)), True),
    "cut": (lambda _: CutRows(TABLE, EDGES, 4), True),
    "zarr": (lambda _: open_rows(stored((3000, 2), (100, 2))), True),
    "zarr grid, whole rows": (lambda _: open_rows(stored((30, 40, 2), (3, 40, 2)), feature_dim=2), True),
    "zarr grid": (lambda _: open_rows(stored((30, 40, 2), (7, 9, 2)), feature_dim=2), False),
    "dask": (lambda _: open_rows(da.from_array(TABLE, chunks=(101, 2))), True),
    "dask grid": (lambda _: open_rows(da.ones((30, 40, 2), chunks=(7, 9, 2)), feature_dim=2), False),
    "parquet": (frame, True),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("n_batches", [1, 60])
def test_another_array_can_be_cut_to_the_rows_of_a_batch(kind, n_batches, tmp_path, monkeypatch):
    monkeypatch.setattr("dem.data.zarr.READ_BYTES", 1000)
    make, consecutive = SOURCES[kind]
    rows = make(tmp_path).divided(n_batches)
    everything, second, n_rows = reassemble(rows), np.arange(rows.n_rows), 0
    for batch in rows.batches():
        chunks = list(batch)
        index = np.concatenate([np.asarray(chunk.index) for chunk in chunks])
        assert batch.n_rows == len(index)
        n_rows += batch.n_rows
        if batch.span is None:
            assert len(index) < np.ptp(index) + 1
            continue
        assert (batch.span.start, batch.span.stop) == (index.min(), index.max() + 1)
        np.testing.assert_array_equal(np.sort(index), second[batch.span.start : batch.span.stop])
        for chunk in chunks:
            np.testing.assert_array_equal(everything[np.asarray(chunk.index)], chunk.rows)
    assert n_rows == rows.n_rows
    spans = list(map(attrgetter("span"), rows.batches()))
    assert (None not in spans) is consecutive
