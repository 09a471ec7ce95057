"""Rows of lowest density: against sorting all densities, for any chunks, on grids and clusters, with bad options."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from cases import CASES, gaussian_rows
from sources import CutRows
from test_cli_sources import run

import dem
from dem.errors import DataError, OptionError

QUICK = [case for case in CASES if not case.is_slow]


@pytest.fixture(scope="module")
def model():
    return dem.GaussianMixture(3, random_state=0).fit(gaussian_rows())


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_they_are_the_lowest_of_all_densities(case):
    rows = case.data()
    fitted = case.estimator(max_iter=20, tol=1e-3).fit(rows)
    found = fitted.outliers(rows, share=0.01)
    density = fitted.score_samples(rows)
    # Equal to nine digits is equal; among these the first are taken.
    expected = np.lexsort((np.arange(3000), np.round(density, 7)))[:30]
    np.testing.assert_array_equal(np.sort(density[found.index]), np.sort(density[expected]))
    np.testing.assert_array_equal(found.rows, rows[found.index])
    np.testing.assert_allclose(found.log_density, density[found.index], rtol=1e-12)
    assert np.diff(found.log_density).min() > -1e-8


def test_chunks_do_not_matter_and_one_read_is_enough(model):
    rows = np.concatenate([gaussian_rows(), np.full((40, 3), 9.0)])  # forty that are equal
    expected = model.outliers(rows, n=20)
    for edges in ([], [1, 2, 3000], range(7, 3040, 7), [3010, 3020, 3030]):
        cut = CutRows(rows, list(edges))
        found = model.outliers(cut, n=20)
        np.testing.assert_array_equal(found.index, expected.index)
        assert cut.reads == 1
    assert list(expected.index) == list(range(3000, 3020))
    order = np.random.default_rng(0).permutation(3040)
    shuffled = model.outliers(rows[order], n=45)
    assert set(order[shuffled.index]) == set(model.outliers(rows, n=45).index)


def test_the_share_is_one_of_the_rows(model):
    rows = gaussian_rows()
    assert len(model.outliers(rows)) == 3
    assert len(model.outliers(rows, share=1.0)) == 3000
    assert len(model.outliers(rows[:10])) == 1
    assert len(model.outliers(rows[:10], n=50)) == 10


def test_where_they_are_on_a_grid(model):
    cube = xr.DataArray(
        gaussian_rows(2400).reshape(20, 120, 3),
        dims=("lat", "lon", "band"),
        coords={"lat": np.linspace(-60, 60, 20), "band": ["a", "b", "c"]},
    )
    fitted = dem.GaussianMixture(3, random_state=0).fit(cube, feature_dim="band")
    found = fitted.outliers(cube, n=5)
    np.testing.assert_array_equal(found.coordinates["lat"], cube["lat"].to_numpy()[found.index // 120])
    np.testing.assert_array_equal(found.coordinates["lon"], found.index % 120)  # it has no coordinates
    frame = pd.DataFrame(found.columns)
    assert list(frame.columns)[:3] == ["index", "lat", "lon"]
    assert frame["log_density"].is_monotonic_increasing
    assert frame.shape == (5, 7)


def test_on_a_cluster(cluster, model, tmp_path):
    from distributed import Client

    zarr.create_array(tmp_path / "rows.zarr", data=gaussian_rows(), chunks=(170, 3))
    here = model.outliers(str(tmp_path / "rows.zarr"), n=12)
    with Client(cluster):
        there = model.outliers(str(tmp_path / "rows.zarr"), n=12)
    np.testing.assert_array_equal(there.index, here.index)
    np.testing.assert_array_equal(there.log_density, here.log_density)


def test_what_is_no_number_is_named(model):
    rows = gaussian_rows()
    rows[1234, 1] = np.nan
    with pytest.raises(DataError, match="row 1234, column 1"):
        model.outliers(CutRows(rows, [1000, 2000]))


@pytest.mark.parametrize(
    "options", [{"share": 0.0}, {"share": 1.5}, {"share": np.nan}, {"n": 0}, {"n": 3, "share": 0.1}]
)
def test_bad_options(model, options):
    with pytest.raises(OptionError, match=next(iter(options))):
        model.outliers(gaussian_rows(), **options)


def test_in_the_shell(model, tmp_path, capsys):
    rows = gaussian_rows()
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(500, 3))
    model.save(str(tmp_path / "model.zarr"))
    given = ("outliers", tmp_path / "model.zarr", tmp_path / "rows.zarr", "--rows", 4)
    code, said = run(capsys, *given, "--json")
    expected = model.outliers(rows, n=4)
    assert code == 0
    assert json.loads(said.out)["index"] == expected.index.tolist()
    code, said = run(capsys, *given)
    lines = said.out.splitlines()
    assert lines[0].split() == ["index", "x0", "x1", "x2", "log_density"]
    assert [int(line.split()[0]) for line in lines[1:]] == expected.index.tolist()
    code, said = run(capsys, *given[:3], "--share", 2)
    assert (code, "share must be a number above 0" in said.err) == (1, True)


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(8)
    names = [f"star {number:04}" for number in rng.permutation(3000)]
    key = pd.Index(rng.permutation(3000) + 10_000, name="key")
    return pd.DataFrame(gaussian_rows(), columns=list("uvw"), index=key).assign(star=names)


@pytest.mark.parametrize("kind", ["pandas", "dask", "parquet"])
def test_ids_of_tables(frame, model, tmp_path, kind):
    expected = frame.iloc[model.outliers(frame[["u", "v", "w"]].to_numpy(), n=9).index]
    if kind == "dask":
        import dask.dataframe as dd

        data = dd.from_pandas(frame, npartitions=7, sort=False)
    elif kind == "pandas":
        data = frame
    else:
        data = tmp_path / "table.parquet"
        frame.to_parquet(data, row_group_size=450)
    fitted = dem.GaussianMixture(3, random_state=0).fit(frame[["u", "v", "w"]])
    found = fitted.outliers(data, n=9, ids="star")
    assert list(found.columns) == ["index", "key", "star", "u", "v", "w", "log_density"]
    joined = fitted.outliers(data, n=9, ids="star", labels=np.full(3000, -1))
    np.testing.assert_array_equal(joined.coordinates["star"], expected["star"])
    np.testing.assert_array_equal(found.coordinates["key"], expected.index)
    np.testing.assert_array_equal(found.coordinates["star"], expected["star"])
    np.testing.assert_array_equal(found.columns["u"], expected["u"])
    with pytest.raises(DataError, match=r"ids: .* has no column 'name'; it has u, v, w, star"):
        fitted.outliers(data, n=9, ids=["name"])


def test_arrays_have_no_columns(model):
    with pytest.raises(DataError, match="ids names columns of a DataFrame or of parquet; this data has none"):
        model.outliers(gaussian_rows(), ids="star")


def test_ids_gaps_and_limits_in_the_shell(frame, model, tmp_path, capsys):
    gaps = frame.copy()
    gaps.iloc[17, 1] = np.nan
    gaps.to_parquet(tmp_path / "table.parquet")
    dem.GaussianMixture(3, covariance_type="diag", random_state=0).fit(frame[["u", "v", "w"]]).save(tmp_path / "m.zarr")
    given = ("outliers", tmp_path / "m.zarr", tmp_path / "table.parquet", "--rows", 5, "--ids", "star", "--json")
    code, said = run(capsys, *given)
    assert (code, "row 17, column 1" in said.err) == (1, True)
    for options, python in (
        (("--missing", "skip"), {"missing": "skip"}),
        (("--missing", "marginalise"), {"missing": "marginalise"}),
        (("--upper", -3.0), {"upper": -3.0}),
    ):
        code, said = run(capsys, *given, *options)
        assert (code, said.err) == (0, "")
        fitted = dem.load(tmp_path / "m.zarr").set_params(missing=python.pop("missing", "error"))
        expected = fitted.outliers(gaps, n=5, ids="star", **python)
        assert json.loads(said.out)["star"] == expected.coordinates["star"].tolist()
        assert json.loads(said.out)["index"] == expected.index.tolist()
