"""Every kind of source gives the same rows, the same fit, and results of its own kind."""

from __future__ import annotations

import itertools
import weakref

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from agreement import assert_close
from cases import gaussian_rows

import dem
from dem.data import dask as dask_rows
from dem.data import open_rows
from dem.errors import DataError, DataWarning

FITTED = ("weights_", "means_", "covariances_", "lower_bounds_", "n_iter_")


def read(rows) -> np.ndarray:
    """Put all chunks of a source back together by their index."""
    table = np.full((rows.n_rows, rows.n_features), np.nan)
    for chunk in itertools.chain.from_iterable(rows.batches()):
        table[np.asarray(chunk.index)] = chunk.rows
    return table


def small_reads(monkeypatch, n_rows, n_features=3):
    monkeypatch.setattr(dask_rows, "READ_BYTES", 8 * n_rows * n_features)


ZARR_LAYOUTS = {
    "v3": {"chunks": (250, 3)},
    "v3-sharded": {"chunks": (50, 3), "shards": (500, 3)},
    "v3-column-chunks": {"chunks": (400, 1)},
    "v3-uneven": {"chunks": (333, 2)},
    "v2": {"chunks": (250, 3), "zarr_format": 2},
    "v3-uncompressed": {"chunks": (1000, 3), "compressors": None},
    "v3-blosc": {"chunks": (100, 3), "compressors": zarr.codecs.BloscCodec(cname="lz4")},
}


@pytest.mark.parametrize("layout", ZARR_LAYOUTS)
@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "i1", "u2", "i8", ">f8", ">i4"])
def test_zarr(tmp_path, layout, kind):
    table = (10 * gaussian_rows(1700)).clip(0, 100).astype(kind)
    options = ZARR_LAYOUTS[layout]
    stored = zarr.create_array(tmp_path / "x.zarr", shape=table.shape, dtype=table.dtype, **options)
    stored[:] = table
    for source in (str(tmp_path / "x.zarr"), tmp_path / "x.zarr", stored, f"file://{tmp_path}/x.zarr"):
        np.testing.assert_array_equal(read(open_rows(source)), table.astype(float))


@pytest.fixture(scope="module")
def reference():
    return dem.GaussianMixture(3, random_state=0).fit(gaussian_rows())


def stored(tmp_path, **options):
    array = zarr.create_array(tmp_path / "x.zarr", data=gaussian_rows(), **{"chunks": (500, 3), **options})
    return str(tmp_path / "x.zarr"), array


def sources(tmp_path):
    table = gaussian_rows()
    path, array = stored(tmp_path)
    group = zarr.create_group(tmp_path / "group.zarr")
    group.create_array("other", data=np.zeros(3))
    group.create_array("rows", data=table, chunks=(700, 3))
    cube = table.reshape(10, 20, 15, 3)
    grid = xr.DataArray(cube, dims=("time", "lat", "lon", "band"), name="cube")
    dataset = xr.Dataset({name: grid.isel(band=i) for i, name in enumerate("uvw")})
    frame = pd.DataFrame(table, columns=list("uvw"))
    import dask.dataframe as dd

    return {
        "path": (path, {}),
        "zarr-array": (array, {}),
        "group": (str(tmp_path / "group.zarr"), {"variable": "rows"}),
        "list": (table.tolist(), {}),
        "dask": (da.from_array(table, chunks=(311, 3)), {}),
        "dask-lazy": (da.from_array(table + 1, chunks=(311, 3)) - 1, {}),
        "dask-filtered": (da.from_array(table, chunks=(500, 3))[da.from_array(np.ones(3000, bool), chunks=500)], {}),
        "xarray-memory": (grid, {}),
        "xarray-blocks": (grid.chunk(time=3, lat=7, lon=4, band=2), {}),
        "xarray-transposed": (grid.transpose("band", "time", "lat", "lon").chunk(time=4), {}),
        "xarray-named": (grid.rename(band="z"), {"feature_dim": "z"}),
        "dataset": (dataset, {}),
        "dataset-chunked": (dataset.chunk(time=2, lon=8), {}),
        "pandas": (frame, {}),
        "dask-frame": (dd.from_pandas(frame, npartitions=4), {}),
    }


@pytest.mark.parametrize(
    "name",
    [
        "path", "zarr-array", "group", "list", "dask", "dask-lazy", "dask-filtered", "xarray-memory", "xarray-blocks",
        "xarray-transposed", "xarray-named", "dataset", "dataset-chunked", "pandas", "dask-frame",
    ],
)  # fmt: skip
def test_every_source_gives_the_same_fit_and_results_of_its_kind(name, tmp_path, reference):
    table = gaussian_rows()
    data, options = sources(tmp_path)[name]
    np.testing.assert_allclose(read(open_rows(data, **options)), table, rtol=1e-12, atol=1e-12)
    fitted = dem.GaussianMixture(3, random_state=0).fit(data, **options)
    assert_close(fitted, reference, FITTED)

    labels, proba = fitted.predict(data, **options), fitted.predict_proba(data, **options)
    density = fitted.score_samples(data, **options)
    assert fitted.score(data, **options) == pytest.approx(reference.score(table), rel=1e-10)
    if name.startswith(("xarray", "dataset")):
        assert isinstance(labels, xr.DataArray)
        assert set(labels.dims) == {"time", "lat", "lon"}
        assert set(proba.dims) == {"time", "lat", "lon", "component"}
        assert (labels.chunks is not None) == (name not in ("xarray-memory", "xarray-named", "dataset"))
        labels, density = (one.transpose("time", "lat", "lon") for one in (labels, density))
        proba = proba.transpose("time", "lat", "lon", "component")
    elif name in ("list", "pandas"):
        assert isinstance(labels, np.ndarray)
    else:
        assert isinstance(labels, da.Array)
    np.testing.assert_array_equal(np.asarray(labels).ravel(), reference.predict(table))
    np.testing.assert_allclose(np.asarray(proba).reshape(-1, 3), reference.predict_proba(table), atol=1e-8)
    np.testing.assert_allclose(np.asarray(density).ravel(), reference.score_samples(table), rtol=1e-8)


def test_xarray_keeps_coordinates():
    grid = xr.DataArray(
        gaussian_rows().reshape(10, 300, 3),
        dims=("time", "place", "feature"),
        coords={
            "time": pd.date_range("2020-01-01", periods=10),
            "lat": ("place", np.linspace(-60, 60, 300)),
            "feature": ["u", "v", "w"],
        },
    )
    fitted = dem.GaussianMixture(2, random_state=0).fit(grid)
    assert fitted.feature_names_in_.tolist() == ["u", "v", "w"]
    labels = fitted.predict(grid.chunk(time=3))
    assert set(labels.coords) == {"time", "lat"}
    xr.testing.assert_identical(labels.lat, grid.lat)
    assert fitted.score(grid.isel(feature=[1, 0, 2])) == pytest.approx(fitted.score(grid), rel=1e-12)
    with pytest.raises(DataError, match=r"feature 0 .* is 'x'"):
        fitted.score(grid.assign_coords(feature=["x", "v", "w"]))


def test_results_follow_the_chunks_of_a_store(tmp_path, reference):
    path, _ = stored(tmp_path, chunks=(50, 3), shards=(200, 3))
    reference.predict_to(path, str(tmp_path / "labels.zarr"))
    labels = zarr.open_array(tmp_path / "labels.zarr", mode="r")
    assert labels.chunks[0] in (50, 200)
    np.testing.assert_array_equal(labels[:], reference.predict(gaussian_rows()))
    assert reference.predict(path).chunks[0][0] % 200 == 0


def test_results_of_irregular_blocks(tmp_path, reference):
    table = gaussian_rows()
    reference.predict_to(da.from_array(table, chunks=((7, 1300, 1, 692, 1000), 3)), str(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr", mode="r")[:], reference.predict(table))
    grid = xr.DataArray(table.reshape(10, 20, 15, 3), dims=("t", "y", "x", "band")).chunk(t=3, y=7)
    reference.predict_to(grid, str(tmp_path / "b.zarr"), kind="proba")
    found = zarr.open_array(tmp_path / "b.zarr", mode="r")
    assert found.shape == (10, 20, 15, 3)
    np.testing.assert_allclose(found[:].reshape(-1, 3), reference.predict_proba(table), atol=1e-8)


@pytest.mark.parametrize("kind", ["labels", "proba", "log_density"])
def test_results_of_a_grid_in_memory_have_its_shape(tmp_path, reference, kind):
    table = gaussian_rows()
    grid = xr.DataArray(table.reshape(10, 20, 15, 3), dims=("t", "y", "x", "band"))
    reference.predict_to(grid, str(tmp_path / "a.zarr"), kind=kind)
    found = zarr.open_array(tmp_path / "a.zarr", mode="r")
    tail, names = ((3,), ("component",)) if kind == "proba" else ((), ())
    assert found.shape == (10, 20, 15, *tail)
    assert found.metadata.dimension_names == ("t", "y", "x", *names)
    expected = {"labels": reference.predict, "proba": reference.predict_proba, "log_density": reference.score_samples}
    np.testing.assert_allclose(found[:].reshape(3000, *tail), expected[kind](table), rtol=1e-8, atol=1e-8)


def test_a_failed_stream_leaves_nothing(tmp_path, reference):
    table = gaussian_rows()
    table[2999, 0] = np.nan
    with pytest.raises(DataError, match=r"1 NaN.*row 2999"):
        reference.predict_to(da.from_array(table, chunks=(100, 3)), str(tmp_path / "labels.zarr"))
    assert list(tmp_path.iterdir()) == []


def test_draws_are_streamed(tmp_path, reference):
    reference.sample_to(5000, str(tmp_path / "a.zarr"), random_state=1, chunk_rows=700)
    reference.sample_to(5000, str(tmp_path / "b.zarr"), random_state=1, chunk_rows=700)
    first, second = (zarr.open_group(tmp_path / name, mode="r") for name in ("a.zarr", "b.zarr"))
    assert first["rows"].shape == (5000, 3)
    assert first["rows"].chunks == (700, 3)
    np.testing.assert_array_equal(first["rows"][:], second["rows"][:])
    assert len(np.unique(first["rows"][:, 0])) == 5000  # no chunk repeats another
    assert reference.score(str(tmp_path / "a.zarr"), variable="rows") == pytest.approx(
        reference.score(gaussian_rows()), abs=0.1
    )


class TestDask:
    def test_columns_chunked(self):
        with pytest.warns(DataWarning, match="chunked along its columns"):
            rows = open_rows(da.from_array(gaussian_rows(), chunks=(500, 1)))
        np.testing.assert_array_equal(read(rows), gaussian_rows())

    def test_what_all_batches_need_is_computed_once(self, monkeypatch):
        small_reads(monkeypatch, 100)
        reads = []

        def load(block):
            reads.append(len(block))
            return block

        x = da.from_array(gaussian_rows(1000), chunks=(100, 3)).map_blocks(load, dtype=float)
        reads.clear()
        rows = open_rows((x - x.mean(axis=0)) / x.std(axis=0))
        assert len(rows.batches()) == 10
        once = len(reads)
        assert once <= 20  # for mean and std, which Dask may load separately
        for n_passes in (1, 2, 3):
            read(rows)
            assert len(reads) == once + 10 * n_passes

    def test_no_more_than_a_few_blocks_at_a_time(self, monkeypatch):
        small_reads(monkeypatch, 100)
        alive, peak = [0], [0]

        def dead():
            alive[0] -= 1

        def load(block):
            fresh = block.copy()
            weakref.finalize(fresh, dead)
            alive[0] += 1
            peak[0] = max(peak[0], alive[0])
            return fresh

        x = da.from_array(gaussian_rows(6400), chunks=(100, 3)).map_blocks(load, dtype=float, meta=np.empty((0, 0)))
        for batch in open_rows(x).batches():
            for _ in batch:
                pass
        assert 1 <= peak[0] <= 3

    def test_overlapping_rechunk(self, monkeypatch):
        small_reads(monkeypatch, 77)
        table = gaussian_rows(1000)
        x = da.from_array(table, chunks=(100, 3)).rechunk((77, 3)) * 2.0
        np.testing.assert_array_equal(read(open_rows(x)), 2.0 * table)

    def test_many_blocks_are_few_batches(self):
        x = da.zeros((100_000, 2), chunks=(10, 2))
        assert len(open_rows(x).batches()) <= 16

    def test_persisted_on_a_cluster(self, client, reference):
        x = da.from_array(gaussian_rows(), chunks=(500, 3)).persist()
        fitted = dem.GaussianMixture(3, random_state=0).fit(x)
        assert_close(fitted, reference, FITTED)
        scaled = dem.GaussianMixture(3, random_state=0).fit((x - x.mean(axis=0)) / 2.0)
        np.testing.assert_allclose(scaled.weights_, reference.weights_, rtol=1e-6)

    def test_a_block_that_fails_is_named(self):
        def fail(block, block_info=None):
            if block_info and block_info[0]["chunk-location"][0] == 2:
                raise OSError(5, "disk on fire")
            return block

        x = da.from_array(gaussian_rows(), chunks=(500, 3)).map_blocks(fail, dtype=float, meta=np.empty((0, 0)))
        with pytest.raises(DataError, match=r"block at \(1000,\).*OSError: .*disk on fire"):
            dem.GaussianMixture(2).fit(x)

    def test_other_numbers_of_dimensions(self):
        with pytest.raises(DataError, match=r"which dimension of Dask array holds the features\? .* one of: 0, 1, 2"):
            dem.GaussianMixture(2).fit(da.zeros((5, 5, 5)))


class TestBadInput:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match="nothing at"):
            dem.GaussianMixture().fit(str(tmp_path / "nowhere.zarr"))

    def test_no_zarr(self, tmp_path):
        (tmp_path / "x").mkdir()
        with pytest.raises(DataError, match="no zarr array or group"):
            dem.GaussianMixture().fit(str(tmp_path / "x"))

    def test_groups(self, tmp_path):
        group = zarr.create_group(tmp_path / "g.zarr")
        group.create_array("a", data=np.zeros((5, 2)))
        group.create_array("b", data=np.zeros((5, 2)))
        with pytest.raises(DataError, match=r"name one .*a .*b"):
            open_rows(str(tmp_path / "g.zarr"))
        with pytest.raises(DataError, match=r"no array 'c'.*a .*b"):
            open_rows(str(tmp_path / "g.zarr"), variable="c")

    def test_schemes(self, monkeypatch):
        with pytest.raises(DataError, match="unknown URL scheme"):
            open_rows("gopher://x/y.zarr")
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(DataError, match=r"dask-em\[s3\]"):
            open_rows("s3://bucket/y.zarr")

    @pytest.mark.parametrize(
        ("table", "says"),
        [
            (np.zeros((0, 3)), "empty"),
            (np.zeros(5), "1 dimension"),
            (np.zeros((5, 2, 2)), "which dimension of .* holds the features"),
            (np.zeros((5, 2), dtype=complex), "complex"),
        ],
    )
    def test_tables_that_are_none(self, tmp_path, table, says):
        zarr.create_array(tmp_path / "x.zarr", shape=table.shape, dtype=table.dtype)
        with pytest.raises(DataError, match=says):
            dem.GaussianMixture().fit(str(tmp_path / "x.zarr"))

    @pytest.mark.parametrize("damage", ["garbage", "truncated"])
    def test_a_chunk_that_cannot_be_decoded(self, tmp_path, damage, client):
        path, _ = stored(tmp_path)
        chunk = tmp_path / "x.zarr" / "c" / "4" / "0"
        chunk.write_bytes(b"garbage" * 9 if damage == "garbage" else chunk.read_bytes()[:100])
        with pytest.raises(DataError, match=r"chunk c/4/0 .*rows 2000 to 2499.*cannot be read") as error:
            dem.GaussianMixture(2).fit(path)
        assert "\n" not in str(error.value)

    def test_frames(self):
        with pytest.raises(ValueError, match="x"):
            dem.GaussianMixture().fit(pd.DataFrame({"n": [1.0, 2.0], "name": ["x", "y"]}))
        import dask.dataframe as dd

        frame = dd.from_pandas(pd.DataFrame({"n": [1.0, 2.0], "name": ["x", "y"]}), npartitions=1)
        with pytest.raises(DataError, match="column 'name'"):
            dem.GaussianMixture().fit(frame)

    def test_xarray(self):
        grid = xr.DataArray(np.zeros((4, 5, 2)), dims=("a", "b", "c"))
        with pytest.raises(DataError, match=r"feature_dim= \(--feature-dim\) with one of: a, b, c"):
            dem.GaussianMixture().fit(grid)
        with pytest.raises(DataError, match="no dimension 'z'"):
            dem.GaussianMixture().fit(grid, feature_dim="z")
        with pytest.raises(DataError, match="no variables"):
            dem.GaussianMixture().fit(xr.Dataset())
