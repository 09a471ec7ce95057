"""Results streamed into zarr: each chunk written once, by one task; whole or not at all."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import dask.array as da
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from sources import CutRows

import dem.data.base
import dem.data.zarr
import dem.data.zarr_writer
from dem.data import open_rows
from dem.data.atomic import destination
from dem.data.base import Chunk
from dem.data.zarr_writer import check_destination, write_rows
from dem.engine import LocalEngine
from dem.errors import DataError, StoreError

TABLE = np.random.default_rng(3).normal(size=(1000, 3))


def total(chunk):
    return chunk.rows.sum(axis=1)


def first_two(chunk):
    return chunk.rows[:, :2]


def whole(table):
    return Chunk(table, range(len(table)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


FUNCTIONS = {None: total, 2: first_two}


def write(rows, path, columns=None, **options):
    write_rows(rows, FUNCTIONS[columns], path, dtype="f8", columns=columns, engine=LocalEngine(2), **options)
    return zarr.open_array(path, mode="r")


@pytest.fixture
def writes(monkeypatch):
    """Keys of chunks in the order in which they are written."""
    keys = []
    put = zarr.storage.LocalStore.set

    async def counting(self, key, value):
        if "zarr.json" not in key:
            keys.append(f"{self.root.name}/{key}" if "fragments" in str(self.root) else key)
        await put(self, key, value)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", counting)
    return keys


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize(
    ("layout", "rows_per_chunk"),
    [
        ({"chunks": (40, 3)}, 40),
        ({"chunks": (40, 2)}, 40),
        ({"chunks": (5, 3), "shards": (50, 3)}, 50),
        ({"chunks": (40, 3), "zarr_format": 2}, 40),
        ({"chunks": (2000, 3)}, 1000),
    ],
)
def test_chunks_follow_those_of_the_source(tmp_path, monkeypatch, writes, columns, layout, rows_per_chunk):
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 3000)
    zarr.create_array(tmp_path / "x.zarr", shape=TABLE.shape, dtype="f8", **layout)[...] = TABLE
    writes.clear()
    result = write(open_rows(tmp_path / "x.zarr"), tmp_path / "out.zarr", columns)
    assert result.metadata.zarr_format == 3
    assert result.chunks[0] == rows_per_chunk
    assert result.shards is None
    assert len(writes) == len(set(writes)) == -(-1000 // rows_per_chunk)
    np.testing.assert_array_equal(result[...], FUNCTIONS[columns](whole(TABLE)))
    assert names(tmp_path) == ["out.zarr", "x.zarr"]


@pytest.mark.parametrize(("dtype", "absent"), [("i8", -1), ("f8", np.nan), ("u1", 255)])
def test_a_lost_chunk_does_not_read_as_a_result(tmp_path, writes, dtype, absent):
    write_rows(
        open_rows(np.zeros((10, 3))), total, tmp_path / "o.zarr", dtype=dtype, columns=None, engine=LocalEngine(1)
    )
    assert writes == ["c/0"]  # zeros are written too
    (tmp_path / "o.zarr" / "c" / "0").unlink()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "o.zarr", mode="r")[...], absent)


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize("edges", [[1, 2, 3], [99, 100, 101, 500], [250, 251, 400, 999], []])
def test_irregular_chunks_are_put_together(tmp_path, monkeypatch, writes, columns, edges):
    monkeypatch.setattr(dem.data.base, "RESULT_CHUNK_ROWS", 100)
    result = write(CutRows(TABLE, edges), tmp_path / "out.zarr", columns)
    assert result.chunks[0] == 100
    np.testing.assert_array_equal(result[...], FUNCTIONS[columns](whole(TABLE)))
    assert len(writes) == len(set(writes))
    assert names(tmp_path / "out.zarr") == ["c", "zarr.json"]


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize("chunks", [(10, 3), (7, 3), ((300, 1, 299, 400), 3), (1000, 3)])
def test_dask_blocks(tmp_path, monkeypatch, writes, columns, chunks):
    monkeypatch.setattr("dem.data.dask.READ_BYTES", 0)
    result = write(open_rows(da.from_array(TABLE, chunks=chunks)), tmp_path / "out.zarr", columns)
    np.testing.assert_array_equal(result[...], FUNCTIONS[columns](whole(TABLE)))
    assert len(writes) == len(set(writes))


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize(
    "chunks", [{"t": 2, "y": 2, "x": 3}, {"t": (1, 3, 1), "y": (4, 1), "x": (2, 4)}, {"t": -1}, None]
)
def test_a_grid_is_written_as_a_grid(tmp_path, columns, chunks):
    cube = xr.DataArray(TABLE.ravel()[:450].reshape(5, 3, 5, 6), dims=("t", "band", "y", "x"))
    rows = open_rows(cube if chunks is None else cube.chunk(chunks))
    result = write(rows, tmp_path / "out.zarr", columns)
    expected = FUNCTIONS[columns](whole(np.moveaxis(cube.values, 1, -1).reshape(-1, 3))).reshape(result.shape)
    assert result.metadata.dimension_names == ("t", "y", "x") + (() if columns is None else ("component",))
    np.testing.assert_allclose(result[...], expected)


def test_wide_results_have_smaller_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(dem.data.zarr_writer, "RESULT_BYTES", 3200)
    zarr.create_array(tmp_path / "x.zarr", data=TABLE, chunks=(500, 3))
    result = write(open_rows(tmp_path / "x.zarr"), tmp_path / "out.zarr", 2)
    assert result.chunks == (125, 2)
    np.testing.assert_array_equal(result[...], TABLE[:, :2])


def test_the_function_sees_few_rows_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(dem.data.zarr_writer, "READ_ROWS", 100)
    monkeypatch.setattr(dem.data.base, "RESULT_CHUNK_ROWS", 30)
    seen = []

    def noting(chunk):
        seen.append(len(chunk))
        return total(chunk)

    write_rows(CutRows(TABLE, []), noting, tmp_path / "o.zarr", dtype="f8", columns=None, engine=LocalEngine(1))
    assert max(seen) == 90
    assert sum(seen) == 1000


def test_an_url():
    result = write(open_rows(TABLE), "memory://dem-results/out.zarr")
    np.testing.assert_array_equal(result[...], total(whole(TABLE)))
    write(open_rows(2 * TABLE), "memory://dem-results/out.zarr", overwrite=True)
    result = zarr.open_array("memory://dem-results/out.zarr", mode="r")
    np.testing.assert_array_equal(result[...], total(whole(2 * TABLE)))
    assert [Path(path).name for path in fsspec.filesystem("memory").ls("/dem-results", detail=False)] == ["out.zarr"]
    with pytest.raises(StoreError, match="exists already"):
        check_destination("memory://dem-results/out.zarr", overwrite=False)


class Breaks:
    """A function of rows that fails in the middle."""

    def __init__(self, error):
        self.error = error
        self.calls = 0

    def __call__(self, chunk):
        self.calls += 1
        if self.calls == 5:
            raise self.error
        return total(chunk)


@pytest.mark.parametrize(
    "error", [DataError("bad rows"), RuntimeError("bug"), KeyboardInterrupt(), OSError("disk full")]
)
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_failure_leaves_nothing_behind_and_the_old_in_place(tmp_path, error, existing, n_threads):
    path = tmp_path / "out.zarr"
    if existing:
        write(open_rows(TABLE), path)
    rows = CutRows(2 * TABLE, list(range(50, 1000, 50)))
    with pytest.raises(StoreError if isinstance(error, OSError) else type(error)):
        write_rows(
            rows, Breaks(error), path, dtype="f8", columns=None, overwrite=existing, engine=LocalEngine(n_threads)
        )
    assert names(tmp_path) == (["out.zarr"] if existing else [])
    if existing:
        np.testing.assert_array_equal(zarr.open_array(path, mode="r")[...], total(whole(TABLE)))


def test_a_task_that_outlives_its_sweep_writes_nothing(tmp_path):
    (tmp_path / "gone").mkdir()
    work = dem.data.zarr_writer.WriteResults(total, str(tmp_path / "gone" / "x"), (1000,), (100,), None)
    with pytest.raises(FileNotFoundError):
        work(whole(TABLE))
    assert names(tmp_path / "gone") == []


def test_an_existing_path_is_refused_unless_overwritten(tmp_path):
    path = tmp_path / "out.zarr"
    write(open_rows(TABLE), path)
    calls = []
    with pytest.raises(StoreError, match=r"out.zarr exists already; pass overwrite=True"):
        write_rows(open_rows(TABLE), calls.append, path, dtype="f8", columns=None, engine=LocalEngine(1))
    assert not calls
    write(open_rows(TABLE[:500] * 2), path, overwrite=True)
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[...], total(whole(TABLE[:500] * 2)))
    assert names(tmp_path) == ["out.zarr"]


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file is not a writable directory"):
        check_destination(tmp_path / "file" / "out.zarr", overwrite=False)


def test_a_directory_that_is_not_writable_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(StoreError, match="is not a writable directory"):
        check_destination(tmp_path / "out.zarr", overwrite=False)


def test_rows_that_change_meanwhile_are_noticed(tmp_path):
    rows = CutRows(TABLE, [500])
    rows.n_rows = 1001
    with pytest.raises(DataError, match="gave 1000 rows instead of 1001"):
        write(rows, tmp_path / "out.zarr")
    assert names(tmp_path) == []


@pytest.mark.slow
def test_on_a_cluster(tmp_path, client):
    from dem.engine import current_engine

    x = da.from_array(TABLE, chunks=((150, 250, 599, 1), 3))
    for data in (x, x.persist()):
        write_rows(
            open_rows(data),
            total,
            tmp_path / "o.zarr",
            dtype="f8",
            columns=None,
            overwrite=True,
            engine=current_engine(),
        )
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "o.zarr", mode="r")[...], total(whole(TABLE)))


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_named_as_such(path):
    with pytest.raises(StoreError, match="the path to write to is empty"):
        check_destination(path, overwrite=True)


def test_a_thread_that_writes_on_after_a_failure_leaves_nothing(tmp_path):
    threads = []

    def write_on(path):
        time.sleep(0.08)
        Path(path, "c").mkdir(parents=True, exist_ok=True)

    def stop(path):
        threads.append(threading.Thread(target=write_on, args=(path,)))
        threads[0].start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), destination(tmp_path / "out.zarr", overwrite=False) as draft:
        stop(draft.path)
    threads[0].join()
    assert list(tmp_path.iterdir()) == []
