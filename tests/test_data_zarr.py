"""Rows of zarr arrays: every format, whole chunks only, and the name of the one that cannot be read."""

from __future__ import annotations

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from reassembly import reassemble

import dem.data.checks
import dem.data.zarr
from dem.data import open_rows
from dem.engine.mapping import map_rows
from dem.errors import DataError

DTYPES = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", ">i4", ">f4", ">f8"]
LAYOUTS = {
    "v3": {"zarr_format": 3, "chunks": (10, 3)},
    "v2": {"zarr_format": 2, "chunks": (10, 3)},
    "sharded": {"zarr_format": 3, "chunks": (5, 3), "shards": (20, 3)},
    "v3 columns": {"zarr_format": 3, "chunks": (10, 2)},
    "v2 columns": {"zarr_format": 2, "chunks": (7, 1)},
    "sharded columns": {"zarr_format": 3, "chunks": (5, 1), "shards": (10, 2)},
    "one chunk": {"zarr_format": 3, "chunks": (200, 3)},
    "uncompressed": {"zarr_format": 3, "chunks": (10, 3), "compressors": None},
}
TABLE = np.random.default_rng(0).normal(0, 30, (103, 3))


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch):
    """Make a read of this data a few chunks, not all of it."""
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 600)


def store(path, table, **layout):
    array = zarr.create_array(path, shape=table.shape, dtype=table.dtype, **layout)
    array[...] = table
    return array


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_layouts_and_dtypes_are_read_as_they_are(tmp_path, layout, dtype):
    table = np.abs(TABLE).astype(dtype)
    store(tmp_path / "x.zarr", table, **LAYOUTS[layout])
    rows = open_rows(tmp_path / "x.zarr")
    assert (rows.n_rows, rows.n_features) == (103, 3)
    assert rows.dtype.newbyteorder("=") == table.dtype.newbyteorder("=")  # format 3 leaves the order to a codec
    np.testing.assert_array_equal(reassemble(rows), table)


@pytest.mark.parametrize(
    "codec", [zarr.codecs.GzipCodec(), zarr.codecs.BloscCodec(cname="lz4"), zarr.codecs.ZstdCodec()]
)
def test_any_codec(tmp_path, codec):
    store(tmp_path / "x.zarr", TABLE, chunks=(10, 3), compressors=codec)
    np.testing.assert_array_equal(reassemble(open_rows(str(tmp_path / "x.zarr"))), TABLE)


def test_arrays_groups_urls_and_memory_stores(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("ocean/t", data=TABLE, chunks=(10, 3))
    group.create_array("u", data=TABLE + 1, chunks=(10, 3))
    group.create_array("v", data=TABLE[:, 0])
    in_memory = zarr.create_array(zarr.storage.MemoryStore(), data=TABLE, chunks=(10, 3))
    zarr.create_array("memory://dem-test/x.zarr", data=TABLE, chunks=(10, 3))
    cases = [
        (tmp_path / "g.zarr", "ocean/t", TABLE),
        (f"file://{tmp_path}/g.zarr/u", None, TABLE + 1),
        (group, "u", TABLE + 1),
        (group["u"], None, TABLE + 1),
        (group["ocean"], None, TABLE),  # the only array there
        (in_memory, None, TABLE),
        ("memory://dem-test/x.zarr", None, TABLE),
    ]
    for source, variable, table in cases:
        np.testing.assert_array_equal(reassemble(open_rows(source, variable=variable)), table)
    assert open_rows(group, variable="u").name == "g.zarr/u"


def test_a_memory_store_on_threads():
    rows = open_rows(zarr.create_array(zarr.storage.MemoryStore(), data=TABLE, chunks=(5, 3)))
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda batch: [chunk.rows for chunk in batch], rows.batches()))
    np.testing.assert_array_equal(np.concatenate([part for parts_of in parts for part in parts_of]), TABLE)
    assert zarr.config.get("async.concurrency") == 10  # zarr's own setting is back


@pytest.mark.parametrize("layout", ["v3", "sharded", "v2 columns"])
def test_a_read_is_whole_chunks_up_to_the_limit(tmp_path, layout):
    array = store(tmp_path / "x.zarr", TABLE, **LAYOUTS[layout])
    unit = (array.shards or array.chunks)[0]
    chunks = [chunk for batch in open_rows(tmp_path / "x.zarr").batches() for chunk in batch]
    assert len(chunks) > 3
    for chunk in chunks:
        assert chunk.index.start % unit == 0
        assert chunk.index.stop % unit == 0 or chunk.index.stop == 103
        assert len(chunk) == unit or chunk.rows.nbytes <= 600


def test_nothing_is_read_before_it_is_asked_for_and_nothing_twice(tmp_path, monkeypatch):
    store(tmp_path / "x.zarr", TABLE, chunks=(10, 3))
    keys = []
    get = zarr.storage.LocalStore.get

    async def counting(self, key, *args, **kwargs):
        keys.append(key)
        return await get(self, key, *args, **kwargs)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counting)
    rows = open_rows(tmp_path / "x.zarr")
    batches = rows.batches()
    assert not [key for key in keys if "c/" in key]
    reading = iter(batches[0])
    next(reading)
    assert sum("c/" in key for key in keys) == 2  # 600 bytes
    keys.clear()
    reassemble(rows)
    chunk_keys = [key for key in keys if "c/" in key]
    assert len(chunk_keys) == len(set(chunk_keys)) == 11


def test_batches_are_small_descriptions(tmp_path):
    store(tmp_path / "x.zarr", TABLE, chunks=(10, 3))
    rows = open_rows(tmp_path / "x.zarr")
    copies = [pickle.loads(pickle.dumps(batch)) for batch in rows.batches()]
    assert max(len(pickle.dumps(batch)) for batch in rows.batches()) < 4000
    got = np.concatenate([chunk.rows for batch in copies for chunk in batch])
    np.testing.assert_array_equal(got, TABLE)


@pytest.mark.parametrize("n_chunks", [100_000, 1_000_000])
def test_a_million_chunks_cost_the_driver_little(tmp_path, n_chunks):
    zarr.create_array(tmp_path / "x.zarr", shape=(100 * n_chunks, 2), chunks=(100, 2), dtype="f8")
    tracemalloc.start()
    batches = open_rows(tmp_path / "x.zarr").batches()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(batches) <= 4000
    assert peak < 4e6


def test_large_shards_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(dem.data.zarr, "SHARD_BYTES", 1000)
    store(tmp_path / "x.zarr", TABLE, chunks=(5, 3), shards=(60, 3))
    rows = open_rows(tmp_path / "x.zarr")
    assert rows.grid_chunks == (20,)
    np.testing.assert_array_equal(reassemble(rows), TABLE)


@pytest.mark.parametrize(
    ("layout", "file", "named"),
    [
        ("v3", "c/4/0", "chunk c/4/0 of .*x.zarr (rows 40 to 49)"),
        ("v2", "4.0", "chunk 4.0 of .*x.zarr (rows 40 to 49)"),
        ("v3 columns", "c/10/1", "chunk c/10/1 of .*x.zarr (rows 100 to 102)"),
        ("sharded", "c/2/0", "shard c/2/0 of .*x.zarr (rows 40 to 59)"),
    ],
)
def test_a_damaged_chunk_is_named(tmp_path, monkeypatch, layout, file, named):
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 2**20)  # one read of many chunks
    store(tmp_path / "x.zarr", TABLE, **LAYOUTS[layout])
    Path(tmp_path / "x.zarr" / file).write_bytes(b"not a chunk at all")
    pattern = named.replace("(", r"\(").replace(")", r"\)") + r" cannot be read \((\w+: |of the 68 bytes)"
    with pytest.raises(DataError, match=pattern) as caught:
        reassemble(open_rows(tmp_path / "x.zarr"))
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=pattern):
        map_rows(tmp_path / "x.zarr", lambda chunk: chunk.rows.sum(axis=1), dtype="f8", n_columns=None).compute()


BAD = [
    ("nothing.zarr", None, "there is nothing at .*nothing.zarr"),
    ("empty", None, "there is no zarr array or group at .*empty"),
    ("g.zarr", "w", r"g.zarr has no array 'w'; it holds u \(103, 3\), v \(103,\)"),
    ("g.zarr", None, r"several arrays; name one as the variable, .*: u \(103, 3\), v \(103,\)"),
    ("no.zarr", None, "holds no array"),
    ("g.zarr/u", "u", "is an array, not a group"),
    ("g.zarr", "v", r"g.zarr/v has 1 dimension \(shape \(103,\)\).*reshape\(-1, 1\)"),
    ("cube.zarr", None, r"which dimension of .*cube.zarr holds the features\? Pass feature_dim= .*: 0, 1, 2"),
    ("complex.zarr", None, "complex numbers"),
    ("dates.zarr", None, "dates"),
    ("text.zarr", None, "strings"),
    ("rowless.zarr", None, "is empty: 0 rows × 3 features"),
    ("foo://bucket/x.zarr", None, "unknown URL scheme foo://"),
    ("gs://bucket/x.zarr", None, "gs:// needs the package gcsfs.*pip install gcsfs"),
]


@pytest.mark.parametrize(("path", "variable", "message"), BAD)
def test_bad_sources_get_one_clear_line(tmp_path, path, variable, message):
    (tmp_path / "empty").mkdir()
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("u", data=TABLE)
    group.create_array("v", data=TABLE[:, 0])
    zarr.create_group(tmp_path / "no.zarr")
    zarr.create_array(tmp_path / "cube.zarr", shape=(4, 5, 2), dtype="f8")
    zarr.create_array(tmp_path / "complex.zarr", shape=(4, 5), dtype="c16")
    zarr.create_array(tmp_path / "dates.zarr", shape=(4, 5), dtype="M8[s]", zarr_format=2)
    zarr.create_array(tmp_path / "text.zarr", shape=(4, 5), dtype="U3", zarr_format=2)
    zarr.create_array(tmp_path / "rowless.zarr", shape=(0, 3), chunks=(1, 3), dtype="f8")
    source = path if "://" in path else str(tmp_path / path)
    with pytest.raises(DataError, match=message) as caught:
        open_rows(source, variable=variable)
    assert "\n" not in str(caught.value)


def test_s3_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(dem.data.checks.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r'pip install "dask-em\[s3\]"'):
        open_rows("s3://bucket/x.zarr")


def test_map_rows_is_lazy_and_follows_the_reads(tmp_path):
    store(tmp_path / "x.zarr", TABLE, chunks=(10, 3))
    result = map_rows(tmp_path / "x.zarr", lambda chunk: chunk.rows[:, :2] * 2, dtype="f8", n_columns=2)
    assert result.chunks[0] == (20, 20, 20, 20, 20, 3)
    np.testing.assert_array_equal(result.compute(), TABLE[:, :2] * 2)
