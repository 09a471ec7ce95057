"""Zarr arrays of any number of dimensions, and several variables as features: the same rows as through xarray."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from reassembly import reassemble

import dem
import dem.data.zarr
from dem.data import open_rows
from dem.data.zarr_writer import write_rows
from dem.engine import LocalEngine
from dem.engine.mapping import map_rows
from dem.errors import DataError

CUBE = xr.DataArray(
    np.random.default_rng(0).normal(size=(5, 4, 6, 3)),
    dims=("time", "depth", "lat", "lon"),
    coords={"depth": [0.0, 10.0, 30.0, 70.0]},
    name="t",
)
LAYOUTS = {
    "v3": {"zarr_format": 3, "chunks": (2, 2, 4, 3)},
    "v2": {"zarr_format": 2, "chunks": (1, 4, 5, 2)},
    "sharded": {"zarr_format": 3, "chunks": (1, 2, 3, 1), "shards": (2, 4, 3, 3)},
}


def store(path, layout="v3", data=CUBE):
    """Write a group as xarray does, with names of dimensions and coordinates."""
    group = zarr.create_group(path, zarr_format=LAYOUTS[layout]["zarr_format"])
    named = {"dimension_names": data.dims} if layout != "v2" else {}
    array = group.create_array("t", data=data.values, chunks=LAYOUTS[layout]["chunks"], **named, **sharding(layout))
    depth = {"dimension_names": ["depth"]} if layout != "v2" else {}
    level = group.create_array("depth", data=data.depth.values, **depth)
    if layout == "v2":
        array.attrs["_ARRAY_DIMENSIONS"] = list(data.dims)
        level.attrs["_ARRAY_DIMENSIONS"] = ["depth"]
    return group


def sharding(layout):
    return {"shards": LAYOUTS[layout]["shards"]} if "shards" in LAYOUTS[layout] else {}


@pytest.mark.parametrize("read_bytes", [1, 400, 2**20])
@pytest.mark.parametrize("feature", ["depth", "lon", "time"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_and_results_are_those_of_xarray(tmp_path, monkeypatch, layout, feature, read_bytes):
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", read_bytes)
    group = store(tmp_path / "g.zarr", layout)
    expected = CUBE.transpose(..., feature).values
    number = CUBE.dims.index(feature)
    for source, options in (
        (tmp_path / "g.zarr", {"variable": "t", "feature_dim": feature}),
        (tmp_path / "g.zarr/t", {"feature_dim": str(number)}),
        (group["t"], {"feature_dim": number - 4}),
    ):
        rows = open_rows(source, **options)
        np.testing.assert_array_equal(reassemble(rows), expected.reshape(-1, expected.shape[-1]))
        assert rows.grid == expected.shape[:-1]
        assert rows.grid_names == tuple(dim for dim in CUBE.dims if dim != feature)
        assert rows.feature_dim == feature
    labels = map_rows(group["t"], lambda chunk: chunk.rows.sum(axis=1), dtype="f8", n_columns=None, feature_dim=feature)
    assert isinstance(labels, da.Array)
    np.testing.assert_allclose(labels.compute(), expected.sum(axis=-1))
    write_rows(rows, first, tmp_path / "o.zarr", dtype="f8", columns=None, engine=LocalEngine(2))
    beside = "/results" if rows.stored_coordinates() else ""
    result = zarr.open_array(f"{tmp_path}/o.zarr{beside}")
    np.testing.assert_array_equal(result[...], expected[..., 0])
    assert result.metadata.dimension_names == rows.grid_names


def first(chunk):
    return chunk.rows[:, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_chunk_is_read_once(tmp_path, monkeypatch, layout):
    group = store(tmp_path / "g.zarr", layout)
    array = zarr.open_group(tmp_path / "g.zarr", mode="r")["t"]
    keys = []
    get = zarr.storage.LocalStore.get

    async def counting(self, key, prototype, byte_range=None):
        if key.startswith("t/") and key[-1].isdigit():
            keys.append((key, repr(byte_range)))
        return await get(self, key, prototype, byte_range)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counting)
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 300)
    rows = open_rows(array, feature_dim="depth")
    assert len(rows.batches()) > 1
    reassemble(rows)
    size = group["t"].shards or group["t"].chunks
    n_chunks = np.prod([-(-extent // part) for extent, part in zip(CUBE.shape, size, strict=True)])
    assert len(keys) == len(set(keys))
    assert len({key for key, _ in keys}) == n_chunks  # of a shard at the edge zarr reads the parts


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.data(),
)
def test_any_grid_and_chunks(shape, data):
    chunks = tuple(data.draw(st.integers(1, extent)) for extent in shape)
    feature = data.draw(st.integers(0, len(shape) - 1))
    values = np.arange(1, 1 + np.prod(shape), dtype="f4").reshape(shape)  # zarr leaves out chunks of zeros
    array = zarr.create_array(zarr.storage.MemoryStore(), data=values, chunks=chunks)
    expected = np.moveaxis(values, feature, -1)
    whole = tuple(shape[axis] if axis == feature else size for axis, size in enumerate(chunks))
    for source in (array, da.from_array(values, chunks=whole)):
        rows = open_rows(source, feature_dim=feature)
        np.testing.assert_array_equal(reassemble(rows), expected.reshape(-1, shape[feature]))
        result = map_rows(source, first, dtype="f4", n_columns=None, feature_dim=feature - len(shape))
        np.testing.assert_array_equal(result.compute(), expected[..., 0])


def test_several_variables_are_features_of_one_grid(tmp_path, monkeypatch):
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 500)
    group = zarr.create_group(tmp_path / "g.zarr")
    names = ["time", "lat"]
    t, s = np.random.default_rng(1).normal(size=(2, 30, 20))
    group.create_array("t", data=t, chunks=(10, 20), dimension_names=names)
    group.create_array("s", data=s.T.astype("f4"), chunks=(5, 10), dimension_names=names[::-1])
    group.create_array("o", data=s, chunks=(7, 20))
    group.create_array("short", data=s[:5], dimension_names=names)
    group.create_array("map", data=s, dimension_names=["lat", "lon"])
    expected = np.stack([t, s.astype("f4"), s], axis=-1)
    rows = open_rows(tmp_path / "g.zarr", variable=["t", "s", "o"])
    assert rows.feature_names == ("t", "s", "o")
    assert (rows.grid, rows.grid_names) == ((30, 20), ("time", "lat"))
    np.testing.assert_array_equal(reassemble(rows), expected.reshape(-1, 3))
    one = open_rows(group, variable=["t"])
    assert (one.feature_names, one.grid) == (("t",), (30, 20))
    np.testing.assert_array_equal(reassemble(one), t.reshape(-1, 1))
    model = dem.GaussianMixture(2, random_state=0).fit(tmp_path / "g.zarr", variable=("t", "s"))
    assert model.feature_names_in_.tolist() == ["t", "s"]
    labels = model.predict(group, variable=("t", "s"))
    np.testing.assert_array_equal(
        labels.compute().ravel(), model.predict(da.from_array(expected[..., :2].reshape(-1, 2)))
    )
    for variable, feature_dim, message in (
        (["t", "short"], None, r"'short' of .* has the shape \(5, 20\) \(time, lat\), but 't' has \(30, 20\)"),
        (["t", "map"], None, r"'map' of .* \(lat, lon\), but 't' has \(30, 20\) \(time, lat\); .* lie on one grid"),
        (["t", "x"], None, "has no array 'x'"),
        (["t", "o"], "lat", "the features of .* are its variables t, o; leave feature_dim out, name one"),
    ):
        with pytest.raises(DataError, match=message):
            open_rows(tmp_path / "g.zarr", variable=variable, feature_dim=feature_dim)
    with pytest.raises(DataError, match=r"column 0 of .* is 's', but the model was fitted with 't' there"):
        model.predict(group, variable=("s", "t"))


def test_columns_of_one_dimension(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in "ugr":
        group.create_array(name, data=np.arange(50.0) + ord(name), chunks=(7,))
    rows = open_rows(tmp_path / "g.zarr", variable=list("ugr"))
    expected = np.stack([group[name][:] for name in "ugr"], axis=-1)
    np.testing.assert_array_equal(reassemble(rows), expected)


def test_levels_are_known_from_the_array_beside(tmp_path):
    store(tmp_path / "g.zarr")
    store(tmp_path / "shifted.zarr", data=CUBE.assign_coords(depth=[0.0, 10.0, 30.0, 75.0]))
    model = dem.GaussianMixture(2, random_state=0).fit(tmp_path / "g.zarr", variable="t", feature_dim="depth")
    np.testing.assert_array_equal(model.feature_coordinates_, CUBE.depth)
    model.predict(str(tmp_path / "g.zarr/t"))  # it knows the dimension
    xr.testing.assert_equal(model.predict(CUBE[:, ::-1]), model.predict(CUBE))
    for source in (CUBE.assign_coords(depth=[0.0, 10.0, 30.0, 75.0]), tmp_path / "shifted.zarr/t"):
        with pytest.raises(DataError, match=r"depth 3 of .* is 75\.0, but the model was fitted with 70\.0 there"):
            model.predict(source)


def test_a_damaged_chunk_of_a_cube_is_named(tmp_path):
    store(tmp_path / "g.zarr")
    (tmp_path / "g.zarr/t/c/1/0/1/0").write_bytes(b"not a chunk")
    with pytest.raises(DataError, match=r"chunk c/1/0/1/0 of .*g.zarr/t \(\[2:4, 0:2, 4:6, 0:3\]\) cannot be read"):
        reassemble(open_rows(tmp_path / "g.zarr", variable="t", feature_dim="depth"))


def test_a_grid_of_a_million_chunks_costs_little(tmp_path):
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=(10_000, 5000, 5000, 50), chunks=(1, 500, 500, 50), dtype="f8", dimension_names=None
    )
    rows = open_rows(array, feature_dim=0)  # 100 TB
    assert len(rows.batches()) <= 4000
    assert rows.n_rows == 5000 * 5000 * 50


@pytest.mark.parametrize("feature_dim", [True, False, np.True_])
def test_booleans_are_no_dimensions(feature_dim):
    array = zarr.create_array(zarr.storage.MemoryStore(), data=CUBE.values)
    for source in (array, da.from_array(CUBE.values), CUBE):
        with pytest.raises(
            DataError, match=r"^feature_dim must be the name or number of a dimension of .*, not .*(True|False)"
        ):
            open_rows(source, feature_dim=feature_dim)


@pytest.mark.parametrize("feature_dim", ["depth", 4, -5, "x"])
def test_dimensions_that_are_not_there(feature_dim):
    array = zarr.create_array(zarr.storage.MemoryStore(), data=CUBE.values)
    for source in (array, da.from_array(CUBE.values)):
        with pytest.raises(DataError, match=r"has no dimension .*; its dimensions are: 0, 1, 2, 3"):
            open_rows(source, feature_dim=feature_dim)
    with pytest.raises(DataError, match="xarray objects, zarr and Dask arrays only"):
        open_rows(CUBE.values, feature_dim=feature_dim)
