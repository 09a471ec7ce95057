"""Columns of the data itself, by their names there, and columns that lie on the grid of the rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cases import gaussian_rows
from test_cli_sources import run

import dem
from dem.errors import DataError

VALUES = np.random.default_rng(6).random(600)


@pytest.mark.parametrize("kind", ["dataset", "coordinate", "frame", "dask frame", "parquet"])
@pytest.mark.parametrize("make", [dem.GaussianMixture, dem.KMeans])
def test_a_column_that_is_named_is_no_feature(tmp_path, make, kind):
    import dask.dataframe as dd

    rows = gaussian_rows(600)
    frame = pd.DataFrame(rows, columns=list("abc")).assign(importance=VALUES)
    data = {
        "dataset": lambda: xr.Dataset({name: ("obs", frame[name]) for name in frame}),
        "coordinate": lambda: xr.DataArray(rows, dims=("obs", "f"), coords={"importance": ("obs", VALUES)}),
        "frame": lambda: frame,
        "dask frame": lambda: dd.from_pandas(frame, npartitions=3),
        "parquet": lambda: frame.to_parquet(tmp_path / "t.parquet") or str(tmp_path / "t.parquet"),
    }[kind]()
    expected = make(3, random_state=0).fit(rows, sample_weight=VALUES)
    ours = make(3, random_state=0).fit(data, sample_weight="importance")
    located = "means_" if make is dem.GaussianMixture else "cluster_centers_"
    np.testing.assert_allclose(getattr(ours, located), getattr(expected, located), rtol=1e-9)
    score = ours.score(data, sample_weight="importance")
    assert score == pytest.approx(expected.score(rows, sample_weight=VALUES), rel=1e-9)
    np.testing.assert_array_equal(ours.predict(data), expected.predict(rows))


@pytest.mark.parametrize("kind", ["frame", "parquet", "dataset"])
def test_a_feature_of_the_model_may_be_named_too(tmp_path, kind):
    rows, size = gaussian_rows(90), np.arange(90) % 3 + 1.0
    frame = pd.DataFrame({"a": rows[:, 0], "size": size})
    data = {"frame": frame, "parquet": str(tmp_path / "t.parquet"), "dataset": frame.to_xarray().drop_vars("index")}[
        kind
    ]
    frame.to_parquet(tmp_path / "t.parquet")
    expected = dem.PoissonMixture(1, random_state=0).fit(np.round(frame.abs()), sample_weight=size)
    parts = {"a": "gaussian", "size": "poisson"}
    mixture = dem.Mixture(parts, n_components=1, random_state=0).fit(data, sample_weight="size")
    np.testing.assert_allclose(mixture.means_[0, 1], expected.rates_[0, 1], rtol=1e-12)
    fitted = dem.GaussianMixture(1).fit(data)
    score = fitted.score(data, sample_weight="size")
    assert score == pytest.approx(np.average(fitted.score_samples(frame), weights=size), rel=1e-12)
    groups = fitted.adapt(data, groups="size")
    np.testing.assert_array_equal(groups.groups, [1, 2, 3])
    np.testing.assert_array_equal(groups.n_rows, [30, 30, 30])


@pytest.mark.parametrize("kind", ["frame", "parquet"])
def test_several_columns_are_named_in_a_list(tmp_path, kind):
    rng = np.random.default_rng(3)
    variances = rng.uniform(0.1, 1.0, (600, 3))
    rows = gaussian_rows(600)
    frame = pd.DataFrame(np.hstack([rows, variances]), columns=["a", "b", "c", "va", "vb", "vc"])
    frame.to_parquet(tmp_path / "t.parquet")
    data = frame if kind == "frame" else str(tmp_path / "t.parquet")
    ours = dem.GaussianMixture(2, random_state=0).fit(data, noise_covariance=["va", "vb", "vc"])
    expected = dem.GaussianMixture(2, random_state=0).fit(rows, noise_covariance=variances)
    np.testing.assert_allclose(ours.covariances_, expected.covariances_, rtol=1e-9)
    assert ours.feature_names_in_.tolist() == ["a", "b", "c"]


def sea(kind, tmp_path, names=("TEMP", "PSAL"), depth=(0.0, 10.0, 50.0)):
    """Profiles with errors of each variable, and the same as rows and errors."""
    rng = np.random.default_rng(9)
    values = {name: rng.normal(size=(3, 20, 15)) + 4.0 * rng.integers(0, 2, (20, 15)) for name in names}
    errors = {f"{name}_ERR": rng.uniform(0.1, 1.0, (3, 20, 15)) for name in names}
    grid = {"depth": list(depth), "lat": np.arange(20.0), "lon": np.arange(15.0)}
    dataset = xr.Dataset({name: (("depth", "lat", "lon"), one) for name, one in (values | errors).items()}, grid)
    dataset["AREA"] = (("lat", "lon"), rng.random((20, 15)))
    rows, noise = (np.concatenate([one.reshape(3, -1) for one in part.values()]).T for part in (values, errors))
    if kind == "memory":
        return dataset, rows, noise
    dataset.chunk({"lat": 7, "depth": 2}).to_zarr(tmp_path / "sea.zarr", zarr_format=3, consolidated=False)
    path = str(tmp_path / "sea.zarr")
    return xr.open_zarr(path, consolidated=False) if kind == "dask" else path, rows, noise


@pytest.mark.parametrize("kind", ["memory", "dask", "path"])
@pytest.mark.parametrize(("form", "small"), [("dict", True), ("dict", False), ("list", True)])
def test_errors_of_profiles_are_named(tmp_path, monkeypatch, kind, form, small):
    if not small:
        monkeypatch.setattr("dem.data.columns.READ_BYTES", 0)
    data, rows, noise = sea(kind, tmp_path)
    errors = {"TEMP_ERR": "depth", "PSAL_ERR": "depth"} if form == "dict" else ["TEMP_ERR", "PSAL_ERR"]
    ours = dem.GaussianMixture(2, random_state=0)
    ours.fit(data, features={"TEMP": "depth", "PSAL": "depth"}, noise_covariance=errors, sample_weight="AREA")
    weights = xr.open_zarr(data, consolidated=False).AREA if kind == "path" else data.AREA
    expected = dem.GaussianMixture(2, random_state=0)
    expected.fit(rows, noise_covariance=noise, sample_weight=np.ravel(weights))
    np.testing.assert_allclose(ours.covariances_, expected.covariances_, rtol=1e-8, atol=1e-12)
    density = np.asarray(ours.score_samples(data, noise_covariance=errors))
    assert density.shape == (20, 15)
    np.testing.assert_allclose(density.ravel(), expected.score_samples(rows, noise_covariance=noise), rtol=1e-8)


@pytest.mark.parametrize("kind", ["memory", "dask", "path"])
def test_limits_and_errors_of_variables_are_named(tmp_path, kind):
    data, _, _ = sea("memory", tmp_path)
    data = data.isel(depth=0, drop=True)
    rows = np.stack([np.ravel(data[name]) for name in ("TEMP", "PSAL")], axis=1)
    noise = np.stack([np.ravel(data[f"{name}_ERR"]) for name in ("TEMP", "PSAL")], axis=1)
    data.transpose("lon", "lat").to_zarr(tmp_path / "flat.zarr", zarr_format=3, consolidated=False)
    source = {}
    if kind == "path":
        source = {"variable": ["TEMP", "PSAL"]}
        rows, noise = (one.reshape(20, 15, 2).swapaxes(0, 1).reshape(-1, 2) for one in (rows, noise))
        given = str(tmp_path / "flat.zarr")
    else:
        given = (data if kind == "memory" else data.chunk({"lat": 6}))[["TEMP", "PSAL", "TEMP_ERR", "PSAL_ERR"]]
    ours = dem.GaussianMixture(2, random_state=0)
    ours.fit(given, noise_covariance=["TEMP_ERR", "PSAL_ERR"], **source)
    expected = dem.GaussianMixture(2, random_state=0).fit(rows, noise_covariance=noise)
    np.testing.assert_allclose(ours.covariances_, expected.covariances_, rtol=1e-8)
    hidden = dem.GaussianMixture(2, covariance_type="diag", random_state=0)
    hidden.fit(given, upper=["TEMP_ERR", "PSAL_ERR"], **source)  # of values that are all known


def test_the_shell_names_errors_of_profiles(tmp_path, capsys):
    data, rows, noise = sea("path", tmp_path)
    given = (
        data,
        "--variable",
        "TEMP",
        "--variable",
        "PSAL",
        "--feature-dim",
        "depth",
        "--errors",
        "TEMP_ERR,PSAL_ERR",
    )
    code, _ = run(capsys, "fit", *given, "-k", 2, "--seed", 0, "--out", tmp_path / "m.zarr")
    assert code == 0
    expected = dem.GaussianMixture(2, random_state=0).fit(rows, noise_covariance=noise)
    np.testing.assert_allclose(dem.load(str(tmp_path / "m.zarr")).means_, expected.means_, rtol=1e-8)


def test_names_that_do_not_go_with_the_features(tmp_path):
    data, _, _ = sea("memory", tmp_path)
    features = {"TEMP": "depth", "PSAL": "depth"}
    model = dem.GaussianMixture(2, random_state=0)
    other = data.assign(TEMP_ERR=data.TEMP_ERR.rename(depth="level").assign_coords(level=[0.0, 10.0, 60.0]))
    with pytest.raises(DataError, match=r"noise_covariance has TEMP_ERR\[level=60\], but .* is TEMP\[depth=50\]"):
        model.fit(other, features=features, noise_covariance={"TEMP_ERR": "level", "PSAL_ERR": "depth"})
    with pytest.raises(DataError, match="noise_covariance: the data has nothing of the name 'SIGMA'"):
        model.fit(data, features=features, noise_covariance={"SIGMA": "depth", "PSAL_ERR": "depth"})
    with pytest.raises(DataError, match=r"labels cannot be .* goes with noise_covariance, lower, upper"):
        model.fit(data, features=features, labels={"AREA": "depth"})
    with pytest.raises(DataError, match=r"noise_covariance has the shape \(n_rows, 3\), but there are 6 features"):
        model.fit(data, features=features, noise_covariance={"TEMP_ERR": "depth"})
    with pytest.raises(DataError, match=r"several columns \(lat, lon\) cannot be named of a DataArray"):
        model.fit(data.TEMP, feature_dim="depth", noise_covariance=["lat", "lon"])


def grid_weights(values, lat=(10.0, 20.0, 30.0, 40.0), dims=("lat", "lon")):
    return xr.DataArray(values, dims=dims, coords={"lat": list(lat), "lon": np.arange(5.0)})


@pytest.mark.parametrize("kind", ["dataset", "zarr"])
def test_weights_lie_on_the_coordinates_of_the_rows(tmp_path, kind):
    rng = np.random.default_rng(8)
    names, values = ("t", "s"), rng.random((4, 5))
    data = xr.Dataset({name: grid_weights(rng.normal(size=(4, 5))) for name in names})
    expected = dem.GaussianMixture(1).fit(data, sample_weight=values)
    source = {}
    if kind == "zarr":
        data.to_zarr(tmp_path / "data.zarr", consolidated=False)
        data, source = str(tmp_path / "data.zarr"), {"variable": names}
    turned = grid_weights(values).transpose("lon", "lat")
    ours = dem.GaussianMixture(1).fit(data, sample_weight=turned, **source)
    np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-12)
    along_lat = xr.DataArray(np.ones(4), dims="lat")
    bad = {
        r"entry 2 along lat is lat 31 of sample_weight, but lat 30 of .*; bring": grid_weights(
            values, (10, 20, 31, 40)
        ),
        r"has the dimensions \(lat\), but the rows of .* lie on \(lat, lon\); sample_weight\.broadcast_like": along_lat,
        r"sample_weight has the shape \(3, 5\)": grid_weights(values[:3], (10, 20, 30)),
    }
    for says, given in bad.items():
        with pytest.raises(DataError, match=says):
            dem.GaussianMixture(1).fit(data, sample_weight=given, **source)
    moved = grid_weights(values, (10, 20, 30, 45)).rename("w")
    moved.to_zarr(tmp_path / "moved.zarr", consolidated=False)
    with pytest.raises(DataError, match=r"entry 3 along lat is lat 45 of sample_weight"):
        dem.GaussianMixture(1).fit(data, sample_weight=str(tmp_path / "moved.zarr/w"), **source)
    moved.transpose().to_zarr(tmp_path / "turned.zarr", consolidated=False)
    with pytest.raises(DataError, match=r"has the dimensions \(lon, lat\), but the rows of .*; store it along"):
        dem.GaussianMixture(1).fit(data, sample_weight=str(tmp_path / "turned.zarr/w"), **source)


@pytest.mark.parametrize("kind", ["dataset", "group", "frame", "parquet"])
def test_a_name_that_the_data_does_not_have_is_told_with_those_it_has(tmp_path, kind):
    frame = pd.DataFrame(gaussian_rows(60)[:, :2], columns=["temp", "salt"]).assign(area=1.0)
    grid = xr.Dataset({name: ("obs", frame[name]) for name in frame})
    data, source = grid, {}
    if kind == "group":
        grid.to_zarr(tmp_path / "g.zarr", consolidated=False)
        data, source = str(tmp_path / "g.zarr"), {"variable": ["temp", "salt"]}
    if kind in ("frame", "parquet"):
        frame.to_parquet(tmp_path / "t.parquet")
        data = frame if kind == "frame" else str(tmp_path / "t.parquet")
    says = r"sample_weight: the data has nothing of the name 'arae', nor is there .* path; it has .*\barea\b.*"
    with pytest.raises(DataError, match=says):
        dem.GaussianMixture(1).fit(data, sample_weight="arae", **source)
    with pytest.raises(DataError, match=r"upper: the data has nothing of the name 'uper'; it has .*\barea\b"):
        dem.GaussianMixture(1).fit(data, upper=["area", "uper"], **source)
    with pytest.raises(DataError, match="lower must be numbers, or names of variables or columns"):
        dem.GaussianMixture(1).fit(gaussian_rows(60), lower=["a", "b", "c"])


def test_advice_about_dimensions_leaves_that_of_the_features_out():
    rng = np.random.default_rng(2)
    data = xr.Dataset({"temp": (("depth", "lat", "lon"), rng.normal(size=(3, 4, 5)))})
    along_lat = xr.DataArray(np.arange(1.0, 5.0), dims="lat")
    for where, source in ((data, {"features": {"temp": "depth"}}), (data["temp"], {"feature_dim": "depth"})):
        with pytest.raises(DataError) as caught:
            dem.GaussianMixture(1).fit(where, sample_weight=along_lat, **source)
        advice = str(caught.value).rpartition("; ")[2]
        weights = eval(advice, {"data": where, "sample_weight": along_lat})  # what the message says to do
        fitted = dem.GaussianMixture(1).fit(where, sample_weight=weights, **source)
        assert fitted.n_samples_seen_ == 50


def test_frames_keep_their_index_and_columns():
    rng = np.random.default_rng(7)
    rows, names = gaussian_rows(80), [f"star {number}" for number in range(80)]
    rows[::9, 1] = np.nan
    frame = pd.DataFrame(rows, columns=list("abc"), index=pd.Index(names, name="name"))
    gm = dem.GaussianMixture(2, missing="marginalise", random_state=0).fit(frame)
    plain = dem.GaussianMixture(2, missing="marginalise", random_state=0).fit(rows)
    more = frame.assign(other=rng.random(80), **dict.fromkeys(("va", "vb", "vc"), 0.1))
    for data, given in ((frame, {}), (more, {}), (more, {"noise_covariance": ["va", "vb", "vc"]})):
        filled = gm.impute(data, **given)
        errors = {name: np.full((80, 3), 0.1) for name in given}
        expected = plain.impute(rows, **errors)
        pd.testing.assert_frame_equal(filled, pd.DataFrame(expected, columns=list("abc"), index=frame.index))
    found = gm.outliers(frame, n=3)
    assert found.coordinates["name"].tolist() == [names[place] for place in found.index]
    assert list(found.columns)[:2] == ["index", "name"]
    unnamed = gm.outliers(frame.rename_axis(index=None), n=3)
    assert unnamed.coordinates["id"].tolist() == found.coordinates["name"].tolist()
    assert not gm.outliers(frame.reset_index(drop=True), n=3).coordinates


def test_limits_in_a_dask_frame():
    import dask.dataframe as dd

    rows = gaussian_rows(90)
    rows[::4, 2] = np.nan
    frame = pd.DataFrame(rows, columns=list("abc")).assign(la=np.inf, lb=np.inf, lc=0.5)
    lazy = dd.from_pandas(frame, npartitions=3)
    expected = dem.GaussianMixture(2, covariance_type="diag", random_state=0).fit(rows, upper=[np.inf, np.inf, 0.5])
    ours = dem.GaussianMixture(2, covariance_type="diag", random_state=0).fit(lazy, upper=["la", "lb", "lc"])
    np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-9)
