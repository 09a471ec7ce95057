"""Rows of xarray objects: any dimensions, any chunks, every row at its place of the stacked table."""

from __future__ import annotations

import itertools

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from reassembly import reassemble

import dem.data.numpy
from dem.data import open_rows
from dem.data.dask import DaskRows
from dem.data.numpy import ArrayRows
from dem.engine.mapping import map_rows
from dem.errors import DataError, DataWarning

SHAPE = {"time": 4, "lat": 5, "lon": 6, "band": 3}
CUBE = xr.DataArray(
    np.random.default_rng(0).normal(size=tuple(SHAPE.values())),
    dims=tuple(SHAPE),
    coords={
        "lat": np.linspace(-60, 60, 5),
        "time": np.array(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"], "M8[ns]"),
        "band": ["red", "green", "blue"],
        "area": (("lat", "lon"), np.ones((5, 6))),
        "wavelength": ("band", [0.7, 0.5, 0.4]),
    },
    name="ocean",
)


def stacked(array, feature):
    """Return what the rows must be."""
    return array.transpose(..., feature).values.reshape(-1, array.sizes[feature])


@given(st.permutations(list(SHAPE)), st.tuples(*(st.integers(1, n) for n in SHAPE.values())))
def test_any_order_of_dimensions_and_any_chunks(order, chunks):
    array = CUBE.transpose(*order)
    sizes = dict(zip(SHAPE, chunks, strict=True), band=3)
    rows = open_rows(array.chunk(sizes))
    assert isinstance(rows, DaskRows)
    assert rows.feature_names == ("red", "green", "blue")
    assert rows.grid == tuple(SHAPE[dim] for dim in order if dim != "band")
    assert rows.grid_names == tuple(dim for dim in order if dim != "band")
    np.testing.assert_array_equal(reassemble(rows), stacked(array, "band"))


@given(st.permutations(list(SHAPE)), st.integers(1, 130))
def test_in_memory_in_any_order(order, chunk_rows):
    array = CUBE.transpose(*order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dem.data.numpy, "chunk_rows", lambda *_: chunk_rows)
        rows = open_rows(array)
    assert isinstance(rows, ArrayRows)
    assert rows.grid == tuple(SHAPE[dim] for dim in order if dim != "band")
    for chunk in itertools.chain.from_iterable(rows.batches()):
        assert len(chunk) <= chunk_rows
    np.testing.assert_array_equal(reassemble(rows), stacked(array, "band"))


def test_small_blocks_that_are_no_block_together_stay_apart():
    chunks = list(itertools.chain.from_iterable(open_rows(CUBE.chunk(time=1, lat=2)).batches()))
    assert len(chunks) == 4 * 3
    assert len(list(itertools.chain.from_iterable(open_rows(CUBE.chunk(time=1)).batches()))) == 1


@pytest.mark.parametrize("lazy", [False, True])
def test_a_dataset_has_its_variables_as_features(lazy):
    data = xr.Dataset(
        {
            "t": (("y", "x"), np.arange(12.0).reshape(3, 4)),
            "s": (("x", "y"), np.arange(12).reshape(4, 3)),
        },
        coords={"x": [10, 20, 30, 40]},
    )
    data["h"] = xr.DataArray([7, 8, 9], dims="y").broadcast_like(data["s"])
    rows = open_rows(data.chunk(x=2) if lazy else data)
    assert isinstance(rows, DaskRows if lazy else ArrayRows)
    assert rows.feature_names == ("t", "s", "h")
    np.testing.assert_array_equal(reassemble(rows), stacked(data.to_dataarray("f"), "f"))


@pytest.mark.parametrize("dask_backed", [False, True])
@pytest.mark.parametrize("columns", [None, 2])
def test_results_lie_on_the_same_grid_with_its_coordinates(dask_backed, columns):
    array = CUBE.chunk(lat=2, band=-1) if dask_backed else CUBE

    def function(chunk):
        return chunk.rows.sum(axis=1) if columns is None else chunk.rows[:, :2]

    result = map_rows(array, function, dtype="f8", n_columns=columns)
    assert isinstance(result.data, da.Array if dask_backed else np.ndarray)
    assert result.dims == ("time", "lat", "lon") + (() if columns is None else ("component",))
    assert set(result.coords) == {"time", "lat", "area"}
    expected = CUBE.sum("band") if columns is None else CUBE[..., :2]
    np.testing.assert_allclose(result.values, expected.values)
    dataset = CUBE.to_dataset("band")
    result = map_rows(dataset.chunk(lon=2) if dask_backed else dataset, function, dtype="f8", n_columns=columns)
    assert set(result.coords) == {"time", "lat", "area"}
    np.testing.assert_allclose(result.values, expected.values)


def test_data_on_disk_stays_there(tmp_path, monkeypatch):
    monkeypatch.setattr("dem.data.xarray.READ_BYTES", 300)
    CUBE.drop_vars(["time", "area", "wavelength", "band"]).to_dataset(name="c").to_zarr(
        tmp_path / "c.zarr", consolidated=False
    )
    opened = xr.open_zarr(tmp_path / "c.zarr", chunks=None, consolidated=False)["c"]
    rows = open_rows(opened)
    assert isinstance(rows, DaskRows)
    assert not opened.variable._in_memory
    np.testing.assert_array_equal(reassemble(rows), stacked(CUBE, "band"))
    assert not opened.variable._in_memory
    result = map_rows(opened, lambda chunk: chunk.rows[:, 0], dtype="f8", n_columns=None)
    assert isinstance(result.data, da.Array)
    np.testing.assert_array_equal(result, CUBE[..., 0])


@pytest.mark.parametrize(
    ("dims", "feature_dim", "expected"),
    [
        (("a", "b"), None, "b"),
        (("a", "b"), "a", "a"),
        (("feature", "b"), None, "feature"),
        (("channel", "b", "c"), None, "channel"),
        (("a", "b", "c"), "b", "b"),
    ],
)
def test_the_feature_dimension(dims, feature_dim, expected):
    array = xr.DataArray(np.arange(24).reshape((2, 3, 4)[: len(dims)] if len(dims) == 3 else (6, 4)), dims=dims)
    np.testing.assert_array_equal(reassemble(open_rows(array, feature_dim=feature_dim)), stacked(array, expected))


@pytest.mark.parametrize(
    ("data", "feature_dim", "message"),
    [
        (CUBE.rename(band="x"), None, "which dimension of DataArray 'ocean' holds the features.*time, lat, lon, x"),
        (CUBE, "depth", "has no dimension 'depth'; its dimensions are: time, lat, lon, band"),
        (CUBE.astype(complex), None, "complex"),
        (CUBE.astype(str), None, "strings"),
        (CUBE[0, 0, 0], None, "no dimension but 'band'"),
        (CUBE[:0], None, "is empty"),
        (xr.Dataset(), None, "has no variables"),
        (CUBE.to_dataset("band"), "lat", "the features of Dataset are its variables"),
        (
            xr.Dataset({"a": ("x", [1.0]), "day": ("x", np.array(["2020-01-01"], "M8[ns]"))}),
            None,
            "variable 'day'.*dates",
        ),
    ],
)
def test_bad_objects(data, feature_dim, message):
    with pytest.raises(DataError, match=message):
        open_rows(data, feature_dim=feature_dim)


def test_dimensions_may_be_named_by_numbers():
    array = xr.DataArray(np.arange(24.0).reshape(6, 4), dims=(0, 1))
    for data, options in ((array, {}), (array, {"feature_dim": 1}), (array.chunk({0: 2}), {"feature_dim": "1"})):
        rows = open_rows(data, **options)
        np.testing.assert_array_equal(reassemble(rows), array.values)
        assert rows.grid_names == ("0",)
        labels = map_rows(data, lambda chunk: chunk.rows[:, 0], dtype="f8", n_columns=None, **options)
        assert labels.dims == (0,)
        np.testing.assert_array_equal(labels.values, array.values[:, 0])
    with pytest.raises(DataError, match="one of: 0, 1, 2"):
        open_rows(xr.DataArray(np.zeros((2, 3, 4)), dims=(0, 1, 2)))


@pytest.mark.parametrize(
    ("variable", "dims"), [(("time", np.arange(4.0)), r"\[time\]"), (3.0, r"\[\]"), (("lat", np.zeros(5)), r"\[lat\]")]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_variables_of_fewer_dimensions_are_not_spread_unasked(variable, dims, chunked):
    data = CUBE.to_dataset("band").assign(extra=variable)
    data = data.chunk(time=2) if chunked else data
    message = (
        rf"variable 'extra' of Dataset has the dimensions {dims}, but .* has \[time, lat, lon\]; "
        r"select the features, such as ds\[\['\w+', .*\]\], or give all .* ds\['extra'\].broadcast_like"
    )
    with pytest.raises(DataError, match=message):
        open_rows(data)
    with pytest.raises(DataError, match=message):
        map_rows(data, lambda chunk: chunk.rows[:, 0], dtype="f8", n_columns=None)
    spread = data.assign(extra=data["extra"].broadcast_like(data[next(iter(data.data_vars))]))
    assert open_rows(spread).n_features == len(data.data_vars)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            xr.DataTree.from_dict({"/": CUBE.to_dataset("band")}),
            r"DataTree is neither .*tree\['group'\]",
        ),
        (xr.Variable(("x", "band"), np.zeros((3, 2))), "an xarray Variable is neither a Dataset nor a DataArray"),
    ],
)
def test_other_objects_of_xarray(data, message):
    for attempt in (open_rows, lambda data: map_rows(data, len, dtype="f8", n_columns=None)):
        with pytest.raises(DataError, match=message):
            attempt(data)


def test_chunks_along_the_features_are_put_together_and_warn_in_a_table():
    np.testing.assert_array_equal(reassemble(open_rows(CUBE.chunk(band=1))), stacked(CUBE, "band"))
    with pytest.warns(DataWarning, match="DataArray 'ocean' is chunked along its columns"):
        open_rows(CUBE[0, 0].chunk(band=1))


def test_the_dimension_of_features_is_remembered():
    grid = xr.DataArray(
        np.random.default_rng(0).normal(size=(9, 10, 3)), dims=("y", "x", "f"), coords={"f": ["a", "b", "c"]}
    )
    model = dem.GaussianMixture(2, random_state=0).fit(grid, feature_dim="f")
    xr.testing.assert_identical(model.predict(grid), model.predict(grid, feature_dim="f"))
    assert model.score(grid) == model.score(grid, feature_dim="f")
    with pytest.raises(DataError, match="feature_dim"):  # other data, other names
        model.predict(grid.rename(f="g"))


@pytest.mark.parametrize("chunked", [False, True])
def test_points_with_gaps_are_left_out_and_come_back_as_gaps(chunked):
    """The recipe of README.md."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 5, 6)) + 6 * rng.integers(0, 2, (4, 5, 6))
    land = np.zeros((4, 5, 6), bool)
    land[:, 1:3, 2] = land[3, 4, 5] = True
    t = xr.DataArray(np.where(land, np.nan, values), dims=("time", "lat", "lon"))
    ds = xr.Dataset({"t": t, "s": 2 * t + rng.normal(size=t.shape)})
    points = (ds.chunk(time=2) if chunked else ds).stack(row=["time", "lat", "lon"]).dropna("row")
    model = dem.GaussianMixture(2, random_state=0).fit(points)
    kinds = model.predict(points).unstack("row")
    np.testing.assert_array_equal(kinds.isnull(), land)
    plain = np.column_stack([ds.t.values[~land], ds.s.values[~land]])
    expected = dem.GaussianMixture(2, random_state=0).fit(plain)
    np.testing.assert_array_equal(kinds.values[~land], expected.predict(plain))
