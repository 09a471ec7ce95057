"""Chunks that stay decoded: read once where they fit, never above the limit, gone with their batches."""

from __future__ import annotations

import gc

import dask
import numpy as np
import pytest
import zarr
from agreement import assert_same_bits
from cases import gaussian_rows

import dem
from dem.data.base import Batch, Chunk
from dem.data.found import Found
from dem.engine import connect
from dem.engine.base import run_batch
from dem.engine.cache import ChunkCache
from dem.errors import DataError

CHUNK_BYTES = 1000 * 8


class Counted(Batch):
    """Four chunks of 8 kB that count how often they are read."""

    def __init__(self):
        self.reads = 0

    @property
    def span(self):
        return range(4000)

    def __iter__(self):
        for number in range(4):
            self.reads += 1
            yield Chunk(np.full((1000, 1), float(number)), range(1000 * number, 1000 * (number + 1)))


def total(chunk):
    return chunk.rows.sum()


@pytest.mark.parametrize(("room", "reads"), [(8, 8), (7, 8 + 4 * 2), (4, 8 + 4 * 2), (3, 8 * 3), (0, 8 * 3)])
def test_batches_that_fit_are_read_once(room, reads):
    cache, batches = ChunkCache(room * CHUNK_BYTES), [Counted(), Counted()]
    for _ in range(3):
        for batch in batches:
            assert run_batch(batch, [total], cache=cache) == [6000.0, Found()]
            assert cache.n_bytes <= cache.limit
    assert sum(batch.reads for batch in batches) == reads


def test_memory_goes_with_the_batch():
    cache, batch = ChunkCache(100 * CHUNK_BYTES), Counted()
    run_batch(batch, [total], cache=cache)
    assert cache.n_bytes == 4 * CHUNK_BYTES
    del batch
    gc.collect()
    assert cache.n_bytes == 0


def test_an_error_gives_the_room_back():
    cache = ChunkCache(100 * CHUNK_BYTES)

    class Broken(Counted):
        def __iter__(self):
            yield from list(super().__iter__())[:2]
            raise OSError(5, "gone")

    with pytest.raises(OSError, match="gone"):
        run_batch(Broken(), [total], cache=cache)
    assert cache.n_bytes == 0


@pytest.mark.slow
def test_a_store_that_fits_is_read_once(tmp_path):
    """After the first read the chunks are taken away: with room for them the fit goes on, to the same bits."""
    table = gaussian_rows(40_000)
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=table, chunks=(1000, 3))
    expected = dem.GaussianMixture(3, random_state=0, tol=1e-6).fit(table[:])
    cut = dem.GaussianMixture(3, random_state=0, tol=1e-6).fit(str(path))
    taken = []

    def take_away(event):
        if event.__class__.__name__ == "FitStarted" and event.phase == "data" and not taken:
            import shutil

            shutil.rmtree(path / "c")
            taken.append(True)

    # One worker: between two a busy scheduler may move a batch, which is then read once more.
    with connect(workers=1, memory_limit="1GB"):
        kept = dem.GaussianMixture(3, random_state=0, tol=1e-6, callbacks=[take_away]).fit(str(path))
    assert taken
    assert kept.n_iter_ == expected.n_iter_ > 2
    assert_same_bits(kept, cut, ("weights_", "means_", "covariances_", "lower_bounds_"))


@pytest.mark.slow
def test_without_a_cache_every_pass_reads(tmp_path):
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=gaussian_rows(), chunks=(1000, 3))

    def zero(event):
        if getattr(event, "iteration", 0) == 1:
            zarr.open_array(path, mode="r+")[:] = np.nan

    with dask.config.set({"dem.cache": 0}), connect(workers=1), pytest.raises(DataError, match="9000 NaN"):
        dem.GaussianMixture(2, random_state=0, callbacks=[zero]).fit(str(path))
