"""What goes with rows is read by the batch that needs it, and results that depend on it stay lazy."""

from __future__ import annotations

import threading
import tracemalloc

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import dem
from dem.data import open_rows
from dem.data.columns import with_columns
from dem.data.parquet import RowGroups


@pytest.fixture(autouse=True)
def _nothing_is_small(monkeypatch):
    monkeypatch.setattr("dem.data.columns.READ_BYTES", 0)


class Counted:
    """Values whose blocks are made when they are asked for; counts rows asked for, and their most at once."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.asked, self._lock = [], threading.Lock()

    def __getitem__(self, place):
        found = self.values[place]
        with self._lock:
            self.asked.append(len(found))
        return np.array(found)


def catalogue(n_rows=6000):
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(n_rows, 2)) + 4.0 * rng.integers(0, 2, (n_rows, 1))
    return rows, rng.uniform(0.5, 2.0, n_rows), rng.uniform(0.1, 1.0, (n_rows, 2))


def lazily(values, chunks):
    return dask.array.from_array(Counted(values), chunks, asarray=False)


@pytest.mark.parametrize("extent", [400, 1700, 6000])
def test_columns_of_dask_arrays_are_read_by_their_blocks(extent):
    rows, weights, errors = catalogue()
    expected = dem.GaussianMixture(2, random_state=0).fit(rows, sample_weight=weights, noise_covariance=errors)
    matrices = errors[:, :, np.newaxis] * np.eye(2)
    for noise in (lazily(errors, (extent, 1)), lazily(matrices, (extent, 2, 1))):
        data = dask.array.from_array(rows, (500, 2))
        ours = dem.GaussianMixture(2, random_state=0)
        ours.fit(data, sample_weight=lazily(weights, extent), noise_covariance=noise)
        np.testing.assert_allclose(ours.covariances_, expected.covariances_, rtol=1e-9)


def test_no_column_is_ever_whole():
    rows, weights, _ = catalogue()
    source = Counted(weights)
    data = dask.array.from_array(rows, (500, 2))
    model = dem.GaussianMixture(2, random_state=0).fit(rows)
    given = dask.array.from_array(source, 300, asarray=False)
    source.asked.clear()
    opened = with_columns(open_rows(data).divided(12), {"sample_weight": given}, 2)
    assert source.asked == []
    next(iter(opened.batches()[0]))
    assert source.asked == [300, 300]
    source.asked.clear()
    assert model.score(data, sample_weight=given) == pytest.approx(model.score(rows, sample_weight=weights))
    assert max(source.asked) == 300
    assert sum(source.asked) <= 1.5 * 6000  # what two batches need is read by both at most


def test_columns_of_parquet_are_read_with_its_rows(tmp_path, monkeypatch):
    n_rows = 1_000_000
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(n_rows, 5)), columns=["a", "b", "w", "va", "vb"]).abs()
    for part in range(4):
        own = frame[part * n_rows // 4 : (part + 1) * n_rows // 4]
        (tmp_path / "c").mkdir(exist_ok=True)
        own.to_parquet(tmp_path / "c" / f"{part}.parquet", row_group_size=25_000, index=False)
    monkeypatch.setattr("dem.data.parquet.READ_BYTES", 2**20)
    monkeypatch.setattr("dem.engine.local.available_cores", lambda: 1)
    read, sizes = RowGroups.table, []

    def counted(self):
        sizes.append(self.n_rows)
        return read(self)

    monkeypatch.setattr(RowGroups, "table", counted)
    columns = {"sample_weight": "w", "noise_covariance": ["va", "vb"]}
    model = dem.GaussianMixture(1, random_state=0, tol=0.1)
    model.fit(frame[["a", "b"]][:1000], noise_covariance=frame[["va", "vb"]][:1000])
    expected = model.score(frame[["a", "b"]], sample_weight=frame.w, noise_covariance=frame[["va", "vb"]])
    del frame
    peaks = []
    for data in (str(tmp_path / "c" / "0.parquet"), str(tmp_path / "c")):
        sizes.clear()
        tracemalloc.start()
        found = model.score(data, **columns)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found == pytest.approx(expected, rel=1e-12)
    assert sum(sizes) <= 1.6 * 2 * n_rows
    assert max(sizes) <= 150_000
    assert peaks[1] - peaks[0] < 0.6 * 18 * n_rows  # three quarters of the three columns take 18 bytes a row


@pytest.mark.parametrize("kind", ["dask", "zarr", "parquet", "frame", "xarray", "cube"])
def test_results_with_errors_and_limits_are_lazy(tmp_path, kind):
    import dask.dataframe as dd

    rows, _, errors = catalogue(1200)
    rows[::5, 1] = np.nan
    model = dem.GaussianMixture(2, random_state=0, missing="marginalise").fit(rows[:300])
    given = {"noise_covariance": errors, "upper": np.where(np.arange(1200)[:, np.newaxis] % 10 == 0, 1.0, np.inf)}
    given["upper"] = np.broadcast_to(given["upper"], (1200, 2)).copy()
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(250, 2))
    frame = pd.DataFrame(rows, columns=["a", "b"])
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=300)
    cube = xr.DataArray(rows.reshape(30, 40, 2), dims=("y", "x", "f")).chunk({"y": 7, "x": 11})
    data = {
        "dask": lambda: dask.array.from_array(rows, (350, 2)),
        "zarr": lambda: str(tmp_path / "x.zarr"),
        "parquet": lambda: str(tmp_path / "x.parquet"),
        "frame": lambda: dd.from_pandas(frame, npartitions=3),
        "xarray": lambda: xr.DataArray(rows, dims=("n", "f")).chunk({"n": 350}),
        "cube": lambda: cube,
    }[kind]()
    if kind == "frame":
        model.feature_names_in_ = np.array(["a", "b"], dtype=object)
    if kind == "cube":
        model.feature_dim_ = "f"
    for noise in (errors, lazily(errors, (400, 2))):
        ours = model.score_samples(data, **{**given, "noise_covariance": noise})
        assert isinstance(getattr(ours, "data", ours) if kind in ("xarray", "cube") else ours, dask.array.Array)
        expected = model.score_samples(frame if kind == "frame" else rows, **given)
        np.testing.assert_allclose(np.asarray(ours).ravel(), expected, rtol=1e-9)
    assert np.asarray(model.predict_proba(data, **given)).shape[-1] == 2
    assert np.isfinite(np.asarray(model.impute(data, **given))).all()


def test_nothing_is_read_before_it_is_asked_for():
    rows, _, errors = catalogue()
    source = Counted(errors)
    model = dem.GaussianMixture(2, random_state=0).fit(rows)
    given = dask.array.from_array(source, (500, 2), asarray=False)
    source.asked.clear()
    lazy = model.predict(dask.array.from_array(rows, (1000, 2)), noise_covariance=given)
    assert source.asked == []
    expected = model.predict(rows, noise_covariance=errors)
    np.testing.assert_array_equal(lazy[2000:3000].compute(), expected[2000:3000])
    assert sum(source.asked) == 1000


@pytest.mark.slow
def test_columns_travel_in_parts(cluster, tmp_path):
    from distributed import Client

    rows, weights, errors = catalogue()
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(500, 2))
    data = str(tmp_path / "x.zarr")
    given = {"sample_weight": dask.array.from_array(weights, 700).map_blocks(np.copy)}
    noise = dask.array.from_array(errors, (900, 2)).map_blocks(np.copy)
    here = dem.GaussianMixture(2, random_state=0).fit(data, **given, noise_covariance=noise)
    expected = np.asarray(here.predict(data, noise_covariance=noise))
    with Client(cluster):
        there = dem.GaussianMixture(2, random_state=0).fit(data, **given, noise_covariance=noise)
        np.testing.assert_array_equal(there.means_, here.means_)
        for one in (noise, errors):
            np.testing.assert_array_equal(np.asarray(there.predict(data, noise_covariance=one)), expected)
