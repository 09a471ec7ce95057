"""Errors and limits of features, by the names and coordinates of these."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from cases import gaussian_rows

import dem
from dem.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

BANDS = ["u", "g", "r"]
N_ROWS = 120


def errors():
    return np.random.default_rng(4).uniform(0.1, 4.0, (N_ROWS, 3)) * [0.1, 1.0, 10.0]


def catalogue(values, bands=BANDS, dims=("obs", "band")):
    return xr.DataArray(values, dims=dims, coords={"band": list(bands)})


@pytest.mark.parametrize("kind", ["array", "frame", "dataset", "dask frame"])
@pytest.mark.parametrize("matrices", [False, True], ids=["variances", "covariances"])
def test_errors_in_another_order_are_those_of_their_features(kind, matrices):
    import dask.dataframe as dd

    rows, noise = gaussian_rows(N_ROWS), errors()
    frame, turned = pd.DataFrame(rows, columns=BANDS), [2, 0, 1]
    data = {
        "array": lambda: catalogue(rows),
        "frame": lambda: frame,
        "dask frame": lambda: dd.from_pandas(frame, npartitions=2),
        "dataset": lambda: xr.Dataset({name: ("obs", frame[name]) for name in frame}),
    }[kind]()
    names = [BANDS[place] for place in turned]
    if matrices:
        noise = noise[:, :, np.newaxis] * np.eye(3) + 0.01
        ours = xr.DataArray(
            noise[:, turned][:, :, turned], dims=("obs", "band", "other"), coords={"band": names, "other": names}
        )
    elif "frame" in kind:
        ours = pd.DataFrame(noise[:, turned], columns=names)
    elif kind == "dataset":
        ours = xr.Dataset({name: ("obs", values) for name, values in zip(names, noise[:, turned].T, strict=True)})
    else:
        ours = catalogue(noise[:, turned], names)
    options = {"random_state": 0, "max_iter": 3, "tol": 0.0}
    expected = dem.GaussianMixture(2, **options).fit(rows, noise_covariance=noise)
    found = dem.GaussianMixture(2, **options).fit(data, noise_covariance=ours)
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9)
    np.testing.assert_allclose(
        found.score_samples(data, noise_covariance=ours), expected.score_samples(rows, noise_covariance=noise)
    )


def test_limits_are_those_of_their_features():
    rows = gaussian_rows(N_ROWS)
    rows[::3, 1] = np.nan
    upper = pd.Series([np.inf, -2.0, np.inf], index=BANDS)
    frame = pd.DataFrame(rows, columns=BANDS)
    every = pd.DataFrame(np.tile(upper, (N_ROWS, 1)), columns=BANDS)
    options = {"covariance_type": "diag", "random_state": 0, "max_iter": 3, "tol": 0.0}
    expected = dem.GaussianMixture(2, **options).fit(rows, upper=upper.to_numpy())
    for data, given in (
        (frame, upper[["g", "r", "u"]]),
        (frame, every[["g", "r", "u"]]),
        (catalogue(rows), xr.DataArray(upper.to_numpy()[::-1], dims="band", coords={"band": BANDS[::-1]})),
    ):
        found = dem.GaussianMixture(2, **options).fit(data, upper=given)
        np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9)


def test_names_of_other_things_go_by_their_order():
    rows, noise = gaussian_rows(N_ROWS), errors()
    frame, named = pd.DataFrame(rows, columns=BANDS), pd.DataFrame(noise, columns=["var_u", "var_g", "var_r"])
    expected = dem.GaussianMixture(1, max_iter=3).fit(rows, noise_covariance=noise)
    found = dem.GaussianMixture(1, max_iter=3).fit(frame, noise_covariance=named)
    np.testing.assert_array_equal(found.means_, expected.means_)


def test_errors_of_other_features_are_refused(tmp_path):
    rows, noise = gaussian_rows(N_ROWS), errors()
    frame = pd.DataFrame(rows, columns=BANDS)
    with pytest.raises(
        DataError, match=r"entry 2 along column is i of noise_covariance, but the feature there is r of"
    ):
        dem.GaussianMixture(1).fit(frame, noise_covariance=pd.DataFrame(noise, columns=["u", "g", "i"]))
    with pytest.raises(DataError, match=r"entry 0 along band is x of noise_covariance, but the feature there is u of"):
        dem.GaussianMixture(1).fit(catalogue(rows), noise_covariance=catalogue(noise, "xyz"))
    deep = xr.DataArray(rows, dims=("obs", "depth"), coords={"depth": [5.0, 10.0, 20.0]}, name="t")
    moved = deep.assign_coords(depth=[5.0, 10.0, 30.0]).copy(data=noise)
    with pytest.raises(DataError, match=r"entry 2 along depth is 30.0 of noise_covariance"):
        dem.GaussianMixture(1).fit(deep, noise_covariance=moved)
    deep.to_dataset(name="t").to_zarr(tmp_path / "t.zarr", consolidated=False)
    deep.copy(data=noise).isel(depth=[2, 1, 0]).rename("v").to_zarr(tmp_path / "v.zarr", consolidated=False)
    stored = zarr.open_group(str(tmp_path / "v.zarr"))["v"]
    with pytest.raises(DataError, match=r"noise_covariance has the features of .* in another order along depth"):
        dem.GaussianMixture(1).fit(str(tmp_path / "t.zarr"), variable="t", feature_dim="depth", noise_covariance=stored)
