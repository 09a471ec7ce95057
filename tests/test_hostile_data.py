"""Data that was made to harm: refused in one line, before memory is taken, code run, or a name followed."""

from __future__ import annotations

import json
import os
import pickle
import re
import tracemalloc
import zipfile

import numpy as np
import pytest
import zarr

import dem
from dem.cli.main import dem as main
from dem.errors import DataError, StoreError

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


class Harm:
    """Unpickling this makes a folder in the current one."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "harmed").exists()


def array_2(folder, shape=(100, 3), chunks=(50, 3), chunk=b"", **other):
    """Write an array of format 2 by hand."""
    described = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": "<f8", "compressor": None}
    described |= {"fill_value": 0, "order": "C", "filters": None, **other}
    folder.mkdir()
    (folder / ".zarray").write_text(json.dumps(described))
    (folder / ".".join("0" * len(shape))).write_bytes(chunk)
    return folder


def array_3(folder, shape=(100, 3), chunks=(50, 3), **other):
    """Write an array of format 3 by hand."""
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    keys = {"name": "default", "configuration": {"separator": "/"}}
    described = {"zarr_format": 3, "node_type": "array", "shape": shape, "data_type": "float64", "chunk_grid": grid}
    described |= {"chunk_key_encoding": keys, "fill_value": 0.0, "codecs": [LITTLE], "attributes": {}, **other}
    folder.mkdir()
    (folder / "zarr.json").write_text(json.dumps(described))
    return folder


def sharded(*inner, codecs=(LITTLE,)):
    index = [LITTLE, {"name": "crc32c"}]
    configuration = {"chunk_shape": inner, "codecs": codecs, "index_codecs": index, "index_location": "end"}
    return [{"name": "sharding_indexed", "configuration": configuration}]


def refused(path, match, **given):
    """Fit, and see that it is refused in one line for little memory."""
    model = dem.KMeans(2)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=match) as caught:
            model.fit(path, **given)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    assert "\n" not in str(caught.value)


@pytest.mark.reliability(
    fault="the metadata of a zarr array claim more chunks, or larger ones, than there can be",
    sees="x.zarr says that it is in 1.0e+15 chunks, as no store is; …",
    lost="nothing; no memory is taken for them",
    recovery="at once",
)
@pytest.mark.parametrize("write", [array_2, array_3])
@pytest.mark.parametrize(
    ("shape", "chunks", "match"),
    [
        ((10**15, 3), (1, 3), r"x\.zarr says that it is in 1\.0e\+15 chunks, as no store is; its metadata are damaged"),
        ((10**20, 3), (1000, 3), r"is in 1\.0e\+17 chunks, as no store is"),
        ((10**18, 10**18), (1, 3), r"e\+35 chunks, as no store is"),
        ((100, 10**12), (1, 10), r"is in 1\.0e\+13 chunks, as no store is"),
        ((2,) * 60, (1,) * 60, r"is in 1\.2e\+18 chunks, as no store is"),
        (
            (10**15, 3),
            (10**15, 3),
            r"says that each chunk takes 24\.0 PB, as no machine has; write it in smaller",
        ),
        ((100, 3), (10**15, 3), r"says that each chunk takes 24\.0 PB"),
        ((100, 3), (0, 3), r"(its metadata are damaged|cannot be opened)"),
        ((-100, 3), (50, 3), r"cannot be opened"),
        ((100.5, 3), (50, 3), r"cannot be opened"),
    ],
    ids=str,
)
def test_metadata_that_cannot_be(tmp_path, write, shape, chunks, match):
    refused(write(tmp_path / "x.zarr", shape, chunks), match)


@pytest.mark.parametrize(
    ("shape", "shard", "codecs", "match"),
    [
        ((10**12, 3), (10**12, 3), sharded(1, 1), r"says that its shards hold 3\.0e\+12 chunks each"),
        ((100, 3), (50, 3), sharded(7, 2), "cannot be opened"),
        ((100, 3), (50, 3), sharded(0, 3), "cannot be opened"),
        ((100, 3), (50, 3), sharded(-1, 3), "cannot be opened"),
        ((100, 3), (50, 3), sharded(50, 3, codecs=[{"name": "numcodecs.pickle"}]), "cannot be opened"),
        ((100, 3), (50, 3), [LITTLE, *sharded(50, 3)], "cannot be opened"),
        ((10**15, 3), (10, 3), sharded(1, 3), r"is in 1\.0e\+14 chunks"),
    ],
    ids=str,
)
@pytest.mark.reliability(
    fault="the metadata of shards of a zarr array cannot be",
    sees="x.zarr says that its shards hold 3.0e+12 chunks each; …, or it cannot be opened",
    lost="nothing",
    recovery="at once",
)
def test_shards_that_cannot_be(tmp_path, shape, shard, codecs, match):
    refused(array_3(tmp_path / "x.zarr", shape, shard, codecs=codecs), match)


PICKLES = {"filters": [{"id": "pickle"}]}


@pytest.mark.parametrize(
    "codecs",
    [
        {"compressor": {"id": "pickle"}},
        PICKLES,
        {**PICKLES, "dtype": "|O"},
        {"filters": [{"id": "pickle"}, {"id": "delta", "dtype": "<f8"}]},
        {"filters": [{"id": "delta", "dtype": "<f8"}, {"id": "pickle"}]},
        {"filters": [{"id": "shuffle", "elementsize": 8}], "compressor": {"id": "pickle"}},
    ],
    ids=str,
)
@pytest.mark.reliability(
    fault="a zarr array is stored as pickles",
    sees="x.zarr cannot be opened (…)",
    lost="nothing; they are not opened",
    recovery="at once",
)
def test_pickles_in_zarr_are_never_opened(tmp_path, codecs):
    array_2(tmp_path / "x.zarr", chunk=pickle.dumps(Harm()), **codecs)
    refused(tmp_path / "x.zarr", "cannot be opened")


def group_with(tmp_path, dim):
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=2)
    array = group.create_array("x", data=np.random.default_rng(0).normal(size=(100, 2)))
    array.attrs["_ARRAY_DIMENSIONS"] = ["row", dim]
    return tmp_path / "g.zarr"


def test_pickles_of_coordinates_are_never_opened(tmp_path):
    path = group_with(tmp_path, "band")
    array_2(path / "band", (2,), (2,), pickle.dumps(Harm()), dtype="|O", **PICKLES)
    assert not hasattr(dem.KMeans(2, random_state=0).fit(path, variable="x"), "feature_coordinates_")


@pytest.mark.parametrize("dim", ["../elsewhere", "/elsewhere", "..", ".", "", "a/../../elsewhere", "a\0b"])
def test_names_of_dimensions_are_not_followed(tmp_path, dim):
    zarr.create_array(tmp_path / "elsewhere", data=np.arange(2.0), zarr_format=2)
    model = dem.KMeans(2, random_state=0).fit(group_with(tmp_path, dim), variable="x")
    assert not hasattr(model, "feature_coordinates_")


@pytest.mark.reliability(
    fault="the coordinates of the features cannot be read",
    sees="the coordinates g.zarr/band cannot be read (…)",
    lost="nothing",
    recovery="once they are repaired or removed, the same line",
)
def test_coordinates_that_cannot_be_read(tmp_path):
    path = group_with(tmp_path, "band")
    array_2(path / "band", (2,), (2,), b"short")
    refused(path, r"the coordinates g\.zarr/band cannot be read", variable="x")


@pytest.mark.parametrize("depth", [100, 100_000])
def test_attributes_of_great_depth(tmp_path, depth):
    zarr.create_array(path := tmp_path / "x.zarr", data=np.random.default_rng(0).normal(size=(100, 3)))
    document = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(
        document.replace('"attributes": {}', f'"attributes": {{"a": {"[" * depth}{"]" * depth}}}')
    )
    if depth == 100:
        assert dem.KMeans(2, random_state=0).fit(path).n_features_in_ == 3
    else:
        refused(path, "cannot be opened")


@pytest.mark.parametrize("text", ["", "null", "[]", '{"zarr_format": 3, "node_type": "array"}', "\udcff"])
@pytest.mark.parametrize("variable", [None, "x", "y"])
@pytest.mark.reliability(
    fault="the metadata of one array of a zarr group are damaged",
    sees="g.zarr cannot be opened (…), where that array is asked for",
    lost="nothing",
    recovery="once they are repaired, the same line; other arrays of the group at once",
)
def test_members_of_groups_whose_metadata_are_damaged(tmp_path, capsys, text, variable):
    group = zarr.create_group(path := tmp_path / "g.zarr")
    for name in ("x", "y"):
        group.create_array(name, data=np.random.default_rng(0).normal(size=(100, 2)))
    (path / "x" / "zarr.json").write_text(text, errors="surrogateescape")
    if variable == "y":
        assert dem.KMeans(2, random_state=0).fit(path, variable="y").n_features_in_ == 2
    elif text or variable:
        refused(path, r"g\.zarr (cannot be opened|has no array 'x')", variable=variable)
    command = ["info", str(path), *(() if variable is None else ("--variable", variable))]
    with pytest.raises(SystemExit) as ended:
        main.main(command)
    said = capsys.readouterr().err
    if variable == "x":
        assert re.fullmatch(r"dem: .*g\.zarr (cannot be described|cannot be opened|has no variable 'x').*\n", said)
    assert ended.value.code == bool(said)
    assert said.count("\n") <= 1


@pytest.mark.parametrize("text", [b"{", b"\xff{}", b"3", b'{"index_columns": 3}'])
@pytest.mark.reliability(
    fault="the metadata for pandas of a parquet file are damaged",
    sees="x.parquet cannot be opened as parquet: its metadata for pandas are damaged (…)",
    lost="nothing",
    recovery="once the file is written again, the same line",
)
def test_metadata_of_parquet_for_pandas_that_are_damaged(tmp_path, text):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"u": np.arange(9.0), "v": np.arange(9.0) ** 2}).replace_schema_metadata({"pandas": text})
    pq.write_table(table, path := str(tmp_path / "x.parquet"))
    refused(path, "its metadata for pandas are damaged")


@pytest.mark.reliability(
    fault="the metadata of zarr are a pipe, a device, or a link to one",
    sees="x.zarr cannot be opened: its zarr.json is no plain file",
    lost="nothing; nobody waits for it",
    recovery="at once",
)
@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zattrs"])
@pytest.mark.parametrize("kind", ["pipe", "link to a device", "long"])
def test_metadata_without_end(tmp_path, name, kind):
    path = array_2(tmp_path / "x.zarr")
    place = path / name
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "long":
        with place.open("wb") as file:
            file.truncate(2**40)
    else:
        place.symlink_to("/dev/zero")
    what = r"longer than 268\.4 MB" if kind == "long" else "no plain file"
    refused(path, rf"x\.zarr cannot be opened: its {re.escape(name)} is {what}")
    with pytest.raises(SystemExit):
        main.main(["info", str(path)])


def test_zip_files_are_no_stores(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../zarr.json", "{}")
        archive.writestr("zarr.json", "{}")
    refused(tmp_path / "x.zip", r"x\.zip")
    with pytest.raises(StoreError, match=r"there is no model at .*x\.zip"):
        dem.load(tmp_path / "x.zip")
