"""Rows of Dask arrays: lazy graphs run block by block inside a batch, and what all batches need is computed once."""

from __future__ import annotations

import pickle
import weakref
from operator import attrgetter

import dask
import dask.array as da
import numpy as np
import pytest
from dask._task_spec import Task, TaskRef
from reassembly import CountingArray, reassemble

import dem.data.dask
import dem.data.dask_graph
from dem.data import open_rows
from dem.engine.mapping import map_rows
from dem.errors import DataError, DataWarning

RNG = np.random.default_rng(1)
TABLE = RNG.normal(5, 2, (1000, 3))
DTYPES = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", ">i4", ">f8"]


@pytest.fixture(autouse=True)
def _no_joining(monkeypatch):
    """Keep small blocks apart, so that small data makes many batches."""
    monkeypatch.setattr(dem.data.dask, "READ_BYTES", 0)


def counting(table=TABLE, block_rows=10):
    """Return a Dask array and the array behind it, which counts the reads."""
    source = CountingArray(table)
    return da.from_array(source, chunks=(block_rows, 3), asarray=False, meta=np.empty((0, 0))), source


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    table = np.abs(TABLE).astype(dtype)
    rows = open_rows(da.from_array(table, chunks=(70, 3)))
    assert rows.dtype == table.dtype
    np.testing.assert_array_equal(reassemble(rows), table)


GRAPHS = {
    "irregular": lambda x: x.rechunk(((1, 499, 200, 300), 3)),
    "sliced": lambda x: x[13:-7:3],
    "reversed": lambda x: x[::-1],
    "one column": lambda x: x[:, 1:2],
    "scaled": lambda x: (x - x.mean(0)) / x.std(0),
    "scaled twice": lambda x: GRAPHS["scaled"](GRAPHS["scaled"](x) ** 3),
    "joined": lambda x: da.concatenate([x, x * 2]),
    "cumulative": lambda x: da.cumsum(x, axis=0),
    "twice": lambda x: da.concatenate([x, -x, x.rechunk((25, 3))]),
    "overlapping": lambda x: x.map_overlap(lambda b: b * 2, depth=2, boundary="nearest"),
    "filtered": lambda x: x[x[:, 0] > 5],
    "with empty blocks": lambda x: x[x[:, 0] > 9],
    "single block": lambda x: x.rechunk(-1),
    "from delayed": lambda _: da.concatenate(
        [da.from_delayed(dask.delayed(np.full)((5, 3), i), (5, 3), float) for i in range(4)]
    ),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_lazy_graphs_give_what_dask_computes(graph):
    array = GRAPHS[graph](da.from_array(TABLE, chunks=(10, 3)))
    rows = open_rows(array)
    np.testing.assert_allclose(reassemble(rows), array.compute(), rtol=1e-12)


def test_unknown_chunks_are_computed_on_a_copy():
    x = da.from_array(TABLE, chunks=(100, 3))
    filtered = x[x[:, 0] > 5]
    assert open_rows(filtered).n_rows == (TABLE[:, 0] > 5).sum()
    assert np.isnan(filtered.shape[0])  # the user's array is as it was


def test_the_mean_of_a_scaling_pipeline_is_computed_once():
    x, source = counting()
    rows = open_rows((x - x.mean(0)) / x.std(0))
    assert not source.reads
    batches = rows.batches()
    assert len(batches) > 20
    assert len(source.reads) == 100  # mean and deviation together: one read of the data
    for _ in range(2):
        source.reads.clear()
        np.testing.assert_allclose(reassemble(rows), (TABLE - TABLE.mean(0)) / TABLE.std(0), atol=1e-12)
        assert len(source.reads) == 100
    assert rows.batches() is batches


def test_a_mean_that_depends_on_another_is_computed_once():
    x, source = counting()
    centred = x - x.mean(0)
    rows = open_rows(centred / abs(centred).mean(0))
    rows.batches()
    assert len(source.reads) <= 200
    source.reads.clear()
    reassemble(rows)
    assert len(source.reads) == 100


def test_blocks_are_read_one_by_one():
    x, source = counting()
    batch = open_rows(x + 1).batches()[-1]
    assert not source.reads
    chunks = iter(batch)
    next(chunks)
    assert len(source.reads) == 1
    next(chunks)
    assert len(source.reads) == 2


def test_blocks_cut_from_a_larger_one_share_a_batch():
    x, source = counting(block_rows=200)
    rows = open_rows(x.rechunk((5, 3)))
    np.testing.assert_array_equal(reassemble(rows), TABLE)
    assert len(source.reads) == 5
    assert len(rows.batches()) == 5


def test_what_is_needed_twice_far_apart_does_not_make_one_batch_of_all():
    x, _ = counting()
    assert len(open_rows(da.concatenate([x, -x])).batches()) > 40


def test_neighbours_that_overlap_each_read_the_edge():
    x, source = counting(block_rows=11)
    rows = open_rows(x.rechunk((10, 3)))
    reassemble(rows)
    assert 91 <= len(source.reads) <= 91 + len(rows.batches())
    assert len(rows.batches()) > 20


def test_batches_do_not_depend_on_the_order_in_which_a_graph_is_sorted(monkeypatch):
    def scattered_first(nodes):
        """One kind of node after the other; when that is reversed, every fifth of a kind comes first."""

        def depth(key):
            return 1 + max(map(depth, nodes[key].dependencies), default=0)

        return sorted(nodes, key=lambda key: (depth(key), isinstance(key, tuple) and key[1] % 5 == 0))

    x, _ = counting(block_rows=11)
    expected = len(open_rows(x.rechunk((10, 3))).batches())
    monkeypatch.setattr(dem.data.dask_graph, "toposort", scattered_first)
    x, _ = counting(block_rows=11)
    assert len(open_rows(x.rechunk((10, 3))).batches()) == expected


def test_what_is_large_is_not_kept(monkeypatch):
    monkeypatch.setattr(dem.data.dask_graph, "SHARED_BYTES", 1000)
    x, _ = counting()
    order = np.random.default_rng(0).permutation(1000)
    rows = open_rows(x[order])
    with pytest.warns(DataWarning, match="needed by many batches but are too large"):
        batches = rows.batches()
    assert max(len(pickle.dumps(batch.reads)) for batch in batches) < 20_000
    np.testing.assert_array_equal(reassemble(rows), TABLE[order])


def test_intermediate_results_are_dropped_after_their_last_use():
    made, alive_when_made = [], []

    def make(_):
        alive_when_made.append(sum(reference() is not None for reference in made))
        array = np.zeros((5, 3))
        made.append(weakref.ref(array))
        return array

    x = da.map_blocks(make, da.zeros((50, 3), chunks=(5, 3)), dtype=float, meta=np.empty((0, 0)))
    (batch,) = open_rows(x.rechunk((50, 3))).batches()
    rows = open_rows(x)
    made.clear()
    alive_when_made.clear()
    # All blocks in one batch, so that one could hold another's.
    held = type(batch)(
        [read for b in rows.batches() for read in b.reads],
        {key: node for b in rows.batches() for key, node in b.graph.items()},
        {},
        3,
        "test",
    )
    for chunk in held:
        del chunk
    assert len(made) == 10
    assert set(alive_when_made) == {0}


@pytest.mark.parametrize("kept", [0, 3 * 240, 2**20])
def test_few_results_wait_for_a_later_block(monkeypatch, kept):
    monkeypatch.setattr(dem.data.dask_graph, "KEPT_BYTES", kept)
    alive, most, made = 0, [0], [0]

    def make(i):
        nonlocal alive
        array = np.full((10, 3), float(i))
        alive += 1
        made[0] += 1
        most[0] = max(most[0], alive)
        weakref.finalize(array, gone)
        return array

    def gone():
        nonlocal alive
        alive -= 1

    # The second half of the blocks needs those of the first half again, by way of another task.
    nodes = {("a", i): Task(("a", i), make, i) for i in range(20)}
    nodes |= {("b", i): Task(("b", i), np.copy, TaskRef(("a", i))) for i in range(20)}
    nodes |= {("c", i): Task(("c", i), np.negative, TaskRef(("b", i))) for i in range(20)}
    outputs = [("b", i) for i in range(20)] + [("c", i) for i in range(20)]
    for i, block in enumerate(dem.data.dask_graph.run_blocks(nodes, outputs)):
        np.testing.assert_array_equal(block, float(i) if i < 20 else -float(i - 20))
    assert most[0] == 1
    assert made[0] == {0: 40, 720: 37, 2**20: 20}[kept]


def test_batches_hold_only_their_own_part_of_the_graph():
    rows = open_rows((da.from_array(TABLE, chunks=(10, 3)) - 1).rechunk((5, 3)))
    import cloudpickle

    sizes = [len(cloudpickle.dumps(batch)) for batch in rows.batches()]
    assert sum(sizes) < 10 * TABLE.nbytes


def test_a_hundred_thousand_blocks_are_few_batches():
    from dem.data.base import batch_bounds
    from dem.data.dask import blocks_of

    array = da.zeros((1_000_000, 3), chunks=(10, 3))
    assert len(batch_bounds(len(list(blocks_of(array))))) < 1300


def test_small_blocks_are_joined_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(dem.data.dask, "READ_BYTES", 35 * 24)
    rows = open_rows(da.from_array(TABLE, chunks=(10, 3)))
    chunks = [chunk for batch in rows.batches() for chunk in batch]
    assert [len(chunk) for chunk in chunks] == [30] * 33 + [10]
    np.testing.assert_array_equal(reassemble(rows), TABLE)


def test_column_chunks_are_rechunked_with_a_warning():
    with pytest.warns(DataWarning, match="chunked along its columns"):
        rows = open_rows(da.from_array(TABLE, chunks=(100, 2)))
    np.testing.assert_array_equal(reassemble(rows), TABLE)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (da.zeros(10), r"Dask array has 1 dimension \(shape \(10,\)\)"),
        (da.zeros((3, 4, 5)), r"which dimension of Dask array holds the features\?"),
        (da.zeros((3, 4), dtype=complex), "complex numbers"),
        (da.zeros((3, 0)), "is empty"),
        (da.from_array(np.array([["a"]])), "strings"),
        (dask.delayed(np.zeros)((3, 4)), "a dask Delayed has no rows and columns"),
    ],
)
def test_bad_arrays(array, message):
    with pytest.raises(DataError, match=message):
        open_rows(array)


def test_a_block_that_fails_is_named():
    def fail(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 7:
            message = "the tape is torn\nin two"
            raise OSError(message)
        return block

    rows = open_rows(da.from_array(TABLE, chunks=(10, 3)).map_blocks(fail, dtype=float, meta=np.empty((0, 0))))
    message = r"the block at \(70,\) of Dask array \(rows 70 to 79\) cannot be computed \(OSError: the tape is torn\)$"
    with pytest.raises(DataError, match=message) as caught:
        reassemble(rows)
    assert isinstance(caught.value.__cause__, OSError)


WRONG_BLOCKS = {
    "shorter": (lambda b: b[1:], r"has the shape \(9, 3\), though Dask was told \(10, 3\); tell it the right chunks"),
    "narrower": (lambda b: b[:, 1:], r"has the shape \(10, 2\), though Dask was told \(10, 3\)"),
    "complex": (lambda b: b * 1j, "holds complex numbers"),
    "objects": (lambda b: b.astype(object), "holds Python objects"),
    "strings": (lambda b: b.astype(str), "holds strings"),
    "dates": (lambda b: b.astype("M8[s]"), "holds dates"),
}


@pytest.mark.parametrize("kind", WRONG_BLOCKS)
def test_blocks_that_are_not_what_dask_was_told_are_refused(kind):
    change, message = WRONG_BLOCKS[kind]
    array = da.from_array(TABLE, chunks=(10, 3)).map_blocks(change, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(DataError, match=rf"^the block at \(0,\) of Dask array \(rows 0 to 9\) {message}"):
        reassemble(open_rows(array))
    if kind != "shorter":  # a result of other rows is what the user's own array gives too
        result = map_rows(array, lambda chunk: chunk.rows[:, 0], dtype="f8", n_columns=None)
        with pytest.raises(DataError, match=f"^a block of the Dask array {message.replace('10', '[0-9]+')}"):
            result.compute(scheduler="sync")


def fail(_):
    message = "the tape is torn"
    raise OSError(message)


def test_what_fails_before_the_first_read_is_one_line_too():
    broken = da.from_array(TABLE, chunks=(10, 3)).map_blocks(fail, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(DataError, match=r"what all blocks of the Dask array need .* \(OSError: the tape"):
        open_rows(da.from_array(TABLE, chunks=(10, 3)) - broken.mean(axis=0)).batches()
    with pytest.raises(DataError, match=r"lengths of the blocks of Dask array cannot be computed \(OSError: the tape"):
        open_rows(broken[broken[:, 0] > 0])


def test_masked_values_are_refused():
    masked = da.ma.masked_greater(da.from_array(TABLE, chunks=(100, 3)), 6)
    with pytest.raises(DataError, match="masked values; drop their rows or fill them"):
        reassemble(open_rows(masked))


@pytest.mark.parametrize(("columns", "shape"), [(None, (1000,)), (2, (1000, 2))])
def test_map_rows_is_lazy(columns, shape):
    def first(chunk):
        return chunk.rows[:, 0] if columns is None else chunk.rows[:, :2]

    x, source = counting()
    result = map_rows(x * 1, first, dtype="f8", n_columns=columns)
    assert isinstance(result, da.Array)
    assert (result.shape, result.dtype, result.numblocks[0]) == (shape, np.dtype(float), 100)
    assert not source.reads
    np.testing.assert_array_equal(result.compute(scheduler="sync"), TABLE[:, 0] if columns is None else TABLE[:, :2])


class Total:
    """Adds the columns of all rows; as a work and as its result."""

    def __init__(self, value=0.0):
        self.value = value

    def __call__(self, chunk):
        return Total(chunk.rows.sum(axis=0))

    def __add__(self, other):
        return Total(self.value + other.value)


@pytest.mark.slow
def test_persisted_arrays(client):
    from dem.engine import LocalEngine, current_engine

    x = da.from_array(TABLE, chunks=(10, 3)).persist()
    future = client.submit(np.ones, (10, 3))
    cases = [
        (x, TABLE),
        (x * 2, TABLE * 2),
        (x - x.mean(0), TABLE - TABLE.mean(0)),
        (da.from_delayed(dask.delayed(future), (10, 3), float), np.ones((10, 3))),
    ]
    for engine in (current_engine(), LocalEngine(1)):
        for array, table in cases:
            (total,) = map(attrgetter("value"), engine.sweep(open_rows(array), [Total()]))
            np.testing.assert_allclose(total, table.sum(axis=0), atol=1e-9)


@pytest.mark.slow
def test_persisted_arrays_without_their_client(cluster):
    from distributed import Client, wait

    with Client(cluster):
        x = da.from_array(TABLE, chunks=(10, 3)).persist()
        failed = da.from_array(TABLE, chunks=(1000, 3)).map_blocks(fail, dtype=float, meta=np.empty((0, 0))).persist()
        wait(failed)
        with pytest.raises(DataError, match=r"was persisted, but could not be computed \(OSError: the tape is torn"):
            open_rows(failed)
    for array in (x, x - x.mean(0), x[x[:, 0] > 5]):
        with pytest.raises(DataError, match="persisted on a cluster whose client has been closed"):
            open_rows(array)
        with (
            Client(cluster),
            pytest.raises(DataError, match="persisted on a cluster whose client has been closed"),
        ):
            open_rows(array)


@pytest.mark.slow
def test_lazy_pipelines_on_a_cluster(client):
    from dem.engine import current_engine

    x = da.from_array(TABLE, chunks=(10, 3))
    (total,) = current_engine().sweep(open_rows((x - x.mean(0)) / x.std(0) + 1), [Total()])
    np.testing.assert_allclose(total.value, 1000)
