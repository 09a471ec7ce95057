"""What a block is: incremental and stepwise EM move on some forty times a read, however small the data."""

from __future__ import annotations

import itertools

import dask.array as da
import numpy as np
import pytest
import zarr
from agreement import assert_same_bits
from distributed import Client

import dem
from dem.data import open_rows
from dem.em.e_step import N_BLOCKS, Blocks
from dem.families.mixture import Mixture

N_ROWS, CHUNK = 4000, 100
PARAMETERS = ("weights_", "means_", "covariances_")


def overlapping(n_rows: int = N_ROWS) -> np.ndarray:
    rng = np.random.default_rng(3)
    labels = rng.integers(3, size=n_rows)
    return np.array([[0.0, 0.0], [2.5, 0.5], [0.2, 2.5]])[labels] + rng.normal(size=(n_rows, 2))


def stored(path, **layout):
    table = overlapping()
    array = zarr.create_array(path, shape=table.shape, dtype=table.dtype, **layout)
    array[:] = table
    return str(path)


# numpy.random.default_rng(0).permutation(8), written out.
ORDER = [2, 4, 3, 6, 5, 0, 1, 7]

SOURCES = {
    "zarr": lambda folder: stored(folder / "x.zarr", chunks=(CHUNK, 2)),
    "zarr with shards": lambda folder: stored(folder / "x.zarr", chunks=(CHUNK, 2), shards=(N_ROWS, 2)),
    "Dask array": lambda _: da.from_array(overlapping(), chunks=(CHUNK, 2)),
    "Dask pipeline": lambda _: (x := da.from_array(overlapping(), chunks=(CHUNK, 2))) - x.mean(axis=0),
    "NumPy array": lambda _: overlapping(),
    "larger NumPy array": lambda _: np.tile(overlapping(), (60, 1)),
}


def updates(monkeypatch, data, **options):
    """Return how often the parameters moved on in each read."""
    m_steps, per_read = [0], []
    m_step = Mixture.m_step

    def counted(self, statistics, parameters):
        m_steps[0] += 1
        return m_step(self, statistics, parameters)

    def note(event):
        if isinstance(event, dem.events.IterationEnded) and event.phase == "data":
            per_read.append(m_steps[0])
            m_steps[0] = 0

    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "m_step", counted)
        start = {"means_init": [[-0.5, 0.0], [1.0, 0.0], [0.0, 1.0]], "precisions_init": [np.eye(2)] * 3}
        model = dem.GaussianMixture(3, weights_init=np.full(3, 1 / 3), **start, tol=0.0, callbacks=[note], **options)
        model.fit(data)
    return per_read


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("source", SOURCES)
def test_small_data_moves_the_parameters_on_forty_times_a_read(source, monkeypatch, tmp_path):
    data = SOURCES[source](tmp_path)
    # The first read of incremental EM, and its last, are exact: one step.
    first, second, *_ = updates(monkeypatch, data, algorithm="incremental", max_in_flight=1, max_iter=3)
    assert first == 1
    assert 38 <= second <= 40
    assert 38 <= updates(monkeypatch, data, algorithm="stepwise", max_iter=1)[0] <= 40


def test_reading_stays_as_it_was_for_batch_em(tmp_path):
    rows = open_rows(SOURCES["zarr"](tmp_path))
    assert sum(1 for batch in rows.batches() for _ in batch) == 1  # 64 kB: one read of forty chunks
    assert len(rows.divided(40).batches()) == 40
    assert len(rows.batches()) == 1


@pytest.mark.parametrize("source", SOURCES)
def test_divided_rows_are_the_same_rows(source, tmp_path):
    rows = open_rows(SOURCES[source](tmp_path))
    for wanted in (1, 7, 40, 10**6):
        chunks = list(itertools.chain.from_iterable(rows.divided(wanted).batches()))
        assert [i for chunk in chunks for i in chunk.index] == list(range(rows.n_rows))
        whole = np.concatenate([chunk.rows for batch in rows.batches() for chunk in batch])
        np.testing.assert_array_equal(np.concatenate([chunk.rows for chunk in chunks]), whole)


def test_few_chunks_are_few_blocks(tmp_path):
    rows = open_rows(stored(tmp_path / "x.zarr", chunks=(1000, 2))).divided(40)
    assert len(rows.batches()) == 4
    assert len(Blocks.of(rows, None, N_BLOCKS)) == 4
    assert len(open_rows(overlapping(100)).divided(40).batches()) == 4  # of 32 rows, the last of the rest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("algorithm", ["incremental", "stepwise"])
def test_blocks_of_chunks_give_the_same_bits_on_threads_and_workers(algorithm, cluster, tmp_path):
    path = SOURCES["zarr"](tmp_path)
    options = {"algorithm": algorithm, "max_iter": 5, "random_state": 0}
    here = dem.GaussianMixture(3, **options).fit(path)
    with Client(cluster):
        there = dem.GaussianMixture(3, **options).fit(path)
    assert_same_bits(here, there, PARAMETERS)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_incremental_em_takes_the_blocks_in_a_fixed_order_without_pattern():
    read = []

    def noted(block, block_info):
        read.append(block_info[0]["chunk-location"][0])
        return block

    table = da.from_array(overlapping()[:800], chunks=(100, 2))
    noting = table.map_blocks(noted, dtype=table.dtype, meta=np.empty((0, 2)))
    start = {"means_init": [[-0.5, 0.0], [1.0, 0.0], [0.0, 1.0]], "precisions_init": [np.eye(2)] * 3}
    options = {"weights_init": np.full(3, 1 / 3), **start, "tol": 0.0, "max_iter": 4, "max_in_flight": 1}
    dem.GaussianMixture(3, algorithm="incremental", **options).fit(noting)
    assert any(read[i : i + 8] == ORDER for i in range(len(read)))
