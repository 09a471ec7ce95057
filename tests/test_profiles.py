"""Several variables along dimensions of theirs as features, from xarray, zarr and the shell."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from test_cli_sources import run

import dem
from dem.errors import DataError

FEATURES = {"TEMP": "depth", "PSAL": "level", "SST": None}
NAMES = ["TEMP[depth=0]", "TEMP[depth=10]", "TEMP[depth=12.5]", "PSAL[0]", "PSAL[1]", "SST"]


def ocean(n_lat=12, n_lon=10):
    """Two kinds of profiles; the variables have their dimensions in different orders, and one single precision."""
    rng = np.random.default_rng(4)
    kind = 5.0 * rng.integers(0, 2, (n_lat, n_lon))
    data = {
        "TEMP": (("depth", "lat", "lon"), kind + rng.normal(size=(3, n_lat, n_lon))),
        "PSAL": (("lon", "level", "lat"), (kind.T[:, None] + rng.normal(size=(n_lon, 2, n_lat))).astype("f4")),
        "SST": (("lat", "lon"), rng.normal(size=(n_lat, n_lon))),
        "other": (("depth",), np.arange(3.0)),
    }
    coords = {"depth": [0.0, 10.0, 12.5], "lat": np.linspace(-60, 60, n_lat), "lon": np.arange(n_lon) * 30.0}
    return xr.Dataset(data, coords)


def table(data):
    """Return the same rows as NumPy has them."""
    parts = [data.TEMP.values.transpose(1, 2, 0), data.PSAL.values.transpose(2, 0, 1), data.SST.values[..., None]]
    return np.concatenate(parts, axis=-1, dtype=np.float64).reshape(-1, 6)


CHUNKS = {"TEMP": (2, 5, 10), "PSAL": (4, 1, 6), "SST": (12, 3)}


def opened(kind, folder):
    data = ocean()
    if kind == "memory":
        return data
    if kind == "dask":
        return data.chunk({"lat": 5, "lon": 4, "depth": 2})
    data.to_zarr(folder / "o.zarr", encoding={name: {"chunks": c} for name, c in CHUNKS.items()}, consolidated=False)
    return (
        xr.open_zarr(folder / "o.zarr", consolidated=False, chunks=None) if kind == "lazy" else str(folder / "o.zarr")
    )


@pytest.mark.parametrize("kind", ["memory", "dask", "lazy", "zarr"])
def test_rows_are_those_of_numpy(tmp_path, kind):
    data = opened(kind, tmp_path)
    rows = dem.open_rows(data, features=FEATURES)
    assert list(rows.feature_names) == NAMES
    assert (rows.n_rows, rows.n_features, rows.grid, rows.grid_names) == (120, 6, (12, 10), ("lat", "lon"))
    found = np.full((120, 6), np.nan)
    for batch in rows.batches():
        for chunk in batch:
            found[np.asarray(chunk.index)] = chunk.rows
    np.testing.assert_array_equal(found, table(ocean()))


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_a_saved_model_knows_its_features(tmp_path, kind):
    data = opened(kind, tmp_path)
    model = dem.GaussianMixture(2, covariance_type="diag", random_state=0).fit(data, features=FEATURES)
    expected = dem.GaussianMixture(2, covariance_type="diag", random_state=0).fit(table(ocean()))
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-9, atol=1e-12)
    model.save(str(tmp_path / "model.zarr"))
    loaded = dem.load(str(tmp_path / "model.zarr"))
    assert list(loaded.features_.items()) == list(FEATURES.items())
    assert loaded.feature_names_in_.tolist() == NAMES
    assert loaded.score(data) == pytest.approx(expected.score(table(ocean())), rel=1e-10)
    labels = expected.predict(table(ocean())).reshape(12, 10)
    found = loaded.predict(data)
    np.testing.assert_array_equal(found, labels)
    if kind == "dask":
        assert found.dims == ("lat", "lon")
        assert set(found.coords) == {"lat", "lon"}
        assert loaded.predict_proba(data).dims == ("lat", "lon", "component")
        moved = data.assign_coords(depth=[0.0, 10.0, 13.0])
        with pytest.raises(
            DataError, match=r"column 2 of Dataset is 'TEMP\[depth=13\]', but the model was fitted with"
        ):
            loaded.predict(moved)
    loaded.predict_to(data, str(tmp_path / "labels.zarr"))
    written = xr.open_zarr(tmp_path / "labels.zarr")
    np.testing.assert_array_equal(written.labels, labels)
    assert set(written.labels.coords) == {"lat", "lon"}


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_land_has_no_label(tmp_path, kind):
    data = ocean()
    land = np.random.default_rng(2).random((12, 10)) < 0.3
    data["TEMP"] = data.TEMP.where(xr.DataArray(~land, dims=("lat", "lon")))
    complete = table(data)[~land.ravel()]
    data = data.chunk(lat=5)
    if kind == "zarr":
        data.to_zarr(tmp_path / "o.zarr", consolidated=False)
        data = str(tmp_path / "o.zarr")
    options = {"covariance_type": "diag", "scale": True, "random_state": 0}
    ours = dem.GaussianMixture(2, missing="skip", **options).fit(data, features=FEATURES)
    expected = dem.GaussianMixture(2, **options).fit(complete)
    np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-9, atol=1e-12)
    labels = np.asarray(ours.predict(data))
    assert labels.shape == (12, 10)
    np.testing.assert_array_equal(labels == -1, land)
    np.testing.assert_array_equal(labels[~land], expected.predict(complete))


def test_gaps_are_no_part_of_the_scales():
    rows = table(ocean())
    rows[np.random.default_rng(2).random(rows.shape) < 0.2] = np.nan
    model = dem.GaussianMixture(2, covariance_type="diag", scale=True, missing="marginalise", random_state=0).fit(rows)
    np.testing.assert_allclose(model.feature_scales_, np.nanstd(rows, axis=0), rtol=1e-10)
    inner = (rows - np.nanmean(rows, axis=0)) / np.nanstd(rows, axis=0)
    theirs = dem.GaussianMixture(2, covariance_type="diag", missing="marginalise", random_state=0).fit(inner)
    assert model.score(rows) == pytest.approx(
        theirs.score(inner) - (np.isfinite(rows) * np.log(model.feature_scales_)).sum() / len(rows), abs=1e-6
    )


def test_a_cluster_reads_the_same(cluster, tmp_path):
    from distributed import Client

    data = opened("zarr", tmp_path)
    here = dem.GaussianMixture(2, random_state=0).fit(data, features=FEATURES)
    with Client(cluster):
        there = dem.GaussianMixture(2, random_state=0).fit(data, features=FEATURES)
    np.testing.assert_array_equal(here.means_, there.means_)


def test_the_shell_takes_a_dimension_of_several_variables(tmp_path, capsys):
    data = ocean().drop_vars(["PSAL", "SST", "other"]).assign(ALSO=ocean().TEMP[::-1].drop_vars("depth") ** 2)
    data.to_zarr(tmp_path / "o.zarr", consolidated=False)
    source = ("--variable", "TEMP", "--variable", "ALSO", "--feature-dim", "depth")
    options = ("-k", 2, "--seed", 0, "--quiet", "--out", tmp_path / "m.zarr")
    assert run(capsys, "fit", tmp_path / "o.zarr", *source, *options)[0] == 0
    expected = dem.GaussianMixture(2, random_state=0).fit(data, features={"TEMP": "depth", "ALSO": "depth"})
    np.testing.assert_allclose(dem.load(str(tmp_path / "m.zarr")).means_, expected.means_, rtol=1e-9)
    code, _ = run(capsys, "predict", tmp_path / "m.zarr", tmp_path / "o.zarr", tmp_path / "l.zarr")
    assert code == 0
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "l.zarr").labels, expected.predict(data))


@pytest.mark.parametrize("kind", ["memory", "zarr"])
@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"TEMP": "depth", "nothing": "depth"}, r"has no (variable|array) 'nothing'"),
        ({"TEMP": "height"}, r"TEMP.* has no dimension 'height'; its dimensions are: depth, lat, lon"),
        ({"TEMP": "depth", "PSAL": "lon"}, r"the rows of variable 'PSAL' of .* lie on \(.*level.*'TEMP' on \(lat"),
        ({"TEMP": "depth", "other": None}, r"the rows of variable 'other' of .* lie on \(depth"),
        ({"other": "depth"}, r"(no dimension but|for the rows)"),
        ({}, r"features must be a dict such as"),
        (["TEMP"], r"features must be a dict such as"),
    ],
)
def test_features_that_make_no_table(tmp_path, kind, features, says):
    with pytest.raises(DataError, match=says):
        dem.open_rows(opened(kind, tmp_path), features=features)


def test_features_go_with_datasets_and_groups(tmp_path):
    with pytest.raises(DataError, match=r"features .* can be named for xarray Datasets and zarr groups only"):
        dem.open_rows(table(ocean()), features=FEATURES)
    with pytest.raises(DataError, match=r"features name variables of a Dataset, and DataArray 'TEMP' is none"):
        dem.open_rows(ocean().TEMP, features=FEATURES)
    with pytest.raises(DataError, match=r"leave feature_dim \('depth'\) out"):
        dem.open_rows(ocean(), features=FEATURES, feature_dim="depth")


@pytest.mark.parametrize("kind", ["memory", "zarr"])
def test_what_data_lacks_is_named(tmp_path, kind):
    model = dem.GaussianMixture(2, random_state=0).fit(opened("memory", tmp_path), features=FEATURES)

    def changed(data):
        if kind == "memory":
            return data
        data.to_zarr(tmp_path / "changed.zarr", consolidated=False, mode="w")
        return str(tmp_path / "changed.zarr")

    with pytest.raises(DataError, match=r"has no (variable|array) 'PSAL'; it h"):
        model.predict(changed(ocean().drop_vars("PSAL")))
    shallow = ocean()
    lost = float(shallow.depth[-1])
    shallow = shallow.isel(depth=slice(None, -1))
    with pytest.raises(DataError, match=rf"is expecting \d+ features as input; it lacks 'TEMP\[depth={lost:g}\]'"):
        model.predict(changed(shallow))
    with pytest.raises(DataError, match=rf"features as input; it lacks depth {lost:.1f}"):
        dem.GaussianMixture(2, random_state=0).fit(ocean().TEMP, feature_dim="depth").predict(shallow.TEMP)


def test_results_join_with_the_data(tmp_path):
    rng = np.random.default_rng(3)
    times = np.array(["2020-01-01", "2020-02-01", "2020-03-01", "2020-04-01"], dtype="datetime64[ns]")
    shape = {"time": 4, "depth": 3, "station": 5}
    data = xr.Dataset(
        {name: (tuple(shape), rng.normal(size=(4, 3, 5))) for name in ("TEMP", "PSAL")}
        | {"SST": (("station", "time"), rng.normal(size=(5, 4)))},
        {"time": times, "depth": [0.0, 10.0, 50.0], "station": list("abcde")},
    )
    data.TEMP[{"time": 1, "depth": 2}] = np.nan
    features = {"TEMP": "depth", "SST": None, "PSAL": "depth"}
    model = dem.GaussianMixture(1, covariance_type="diag", missing="marginalise").fit(data, features=features)
    filled = model.impute(data)
    assert isinstance(filled, xr.Dataset)
    for name in features:
        assert filled[name].dims == data[name].dims
        np.testing.assert_array_equal(filled[name], data[name].fillna(model.means_[0, 2]))
    xr.testing.assert_identical(filled.coords.to_dataset(), data.coords.to_dataset())
    data.chunk({"time": 2}).to_zarr(tmp_path / "x.zarr", zarr_format=2)
    for given in (data, data.chunk({"time": 3}), str(tmp_path / "x.zarr")):
        model.predict_to(given, str(tmp_path / "out.zarr"), overwrite=True)
        joined = data.assign(kind=xr.open_zarr(tmp_path / "out.zarr").labels)
        assert joined.kind.dtype.kind in "iu"
        assert (joined.kind == 0).all()
        assert joined.sizes == data.sizes
        model.impute_to(given, str(tmp_path / "out.zarr"), overwrite=True)
        written = xr.open_zarr(tmp_path / "out.zarr").imputed
        assert written.feature.to_numpy().tolist() == model.feature_names_in_.tolist()
        found = written.sel(feature="TEMP[depth=50]", station="c", time="2020-02-01")
        assert found == pytest.approx(model.means_[0, 2])
    field = data.TEMP.fillna(0.0)
    model = dem.GaussianMixture(1, covariance_type="diag", missing="marginalise").fit(field, feature_dim="depth")
    model.impute_to(field, str(tmp_path / "out.zarr"), overwrite=True)
    xr.testing.assert_allclose(
        xr.open_zarr(tmp_path / "out.zarr").imputed.transpose(*field.dims), field.rename("imputed")
    )
