"""Parquet files as a source: row groups are read one after another, and only the columns asked for."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from reassembly import reassemble

import dem
import dem.data.parquet
from dem.data import open_rows
from dem.errors import DataError


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Five files of several row groups, with text and whole numbers among the columns."""
    folder = tmp_path_factory.mktemp("data") / "catalogue"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        frame = pd.DataFrame(
            rng.normal(size=(90 + 7 * i, 3)) + 5 * rng.integers(0, 2, (90 + 7 * i, 1)), columns=list("ugr")
        )
        frame = frame.assign(n=rng.integers(0, 9, len(frame)).astype("i2"), ok=frame["u"] > 0, name="galaxy")
        frame.to_parquet(folder / f"part.{i}.parquet", row_group_size=40)
    return folder


COLUMNS = ["u", "g", "r"]


def test_row_groups_are_read_in_order(catalogue, monkeypatch):
    whole = pd.read_parquet(catalogue)
    rows = open_rows(catalogue, columns=["r", "n", "ok"])
    assert rows.feature_names == ("r", "n", "ok")
    np.testing.assert_array_equal(reassemble(rows), whole[["r", "n", "ok"]].to_numpy(float))
    file = open_rows(str(catalogue / "part.3.parquet"), columns=["n"])
    assert (file.n_rows, file.dtype) == (111, np.float32)
    monkeypatch.setattr(dem.data.parquet, "READ_ROWS", 50)  # less than two row groups
    rows = open_rows(catalogue, columns=COLUMNS)
    assert len(rows.batches()) == 14
    np.testing.assert_array_equal(reassemble(rows), whole[COLUMNS].to_numpy())
    monkeypatch.setattr(dem.data.parquet, "READ_ROWS", 7)  # less than a row group
    rows = open_rows(catalogue, columns=COLUMNS)
    assert max(len(chunk.rows) for batch in rows.batches() for chunk in batch) == 7
    np.testing.assert_array_equal(reassemble(rows), whole[COLUMNS].to_numpy())


def test_a_fit_is_that_of_the_table(catalogue, tmp_path):
    table = pd.read_parquet(catalogue)[COLUMNS]
    model = dem.GaussianMixture(2, random_state=0).fit(catalogue, columns=COLUMNS)
    expected = dem.GaussianMixture(2, random_state=0).fit(table)
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-10)
    assert model.feature_names_in_.tolist() == COLUMNS
    # The model knows which columns it was fitted to.
    labels = model.predict(str(catalogue))
    assert labels.dask is not None
    np.testing.assert_array_equal(labels.compute(), expected.predict(table))
    assert model.score(catalogue) == pytest.approx(expected.score(table), rel=1e-12)
    model.predict_to(catalogue, str(tmp_path / "labels.zarr"))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "labels.zarr")[:], expected.predict(table))


def test_batches_travel_without_rows(catalogue):
    batch = open_rows(catalogue, columns=COLUMNS).batches()[0]
    sent = pickle.dumps(batch)
    assert len(sent) < 4000
    np.testing.assert_array_equal(next(iter(pickle.loads(sent))).rows, next(iter(batch)).rows)


def test_other_layouts(tmp_path):
    frame = pd.DataFrame({"u": [1.0, 2.0, 3.0, 4.0], "year": [2020, 2020, 2021, 2021]}, index=[3, 5, 7, 9])
    frame.to_parquet(tmp_path / "years", partition_cols=["year"])  # a folder in Hive's manner, its index a column
    np.testing.assert_array_equal(reassemble(open_rows(tmp_path / "years")), frame[["u", "year"]].to_numpy(float))
    frame.to_parquet(tmp_path / "plain")  # no suffix
    np.testing.assert_array_equal(
        reassemble(open_rows(tmp_path / "plain", columns=["year", "u"])), frame[["year", "u"]]
    )
    zarr.create_array(tmp_path / "zarr.parquet", data=np.ones((3, 2)))  # what is in it counts, not its name
    assert open_rows(tmp_path / "zarr.parquet").n_features == 2
    url = open_rows(f"file://{tmp_path}/plain", columns=["u"])
    assert url.n_rows == 4


def test_missing_values_are_nan(tmp_path):
    table = pa.table({"n": pa.array([1, None, 3], "int32"), "b": pa.array([True, None, False]), "x": [None, 1.5, 2.0]})
    pq.write_table(table, tmp_path / "x.parquet")
    np.testing.assert_array_equal(
        reassemble(open_rows(tmp_path / "x.parquet")), [[1, 1, np.nan], [np.nan, np.nan, 1.5], [3, 0, 2]]
    )
    with pytest.raises(DataError, match=r"x.parquet holds 3 NaN .* row 0, column 2 \('x'\); drop or fill them"):
        dem.GaussianMixture().fit(tmp_path / "x.parquet")


def test_what_is_wrong_is_said_in_one_line(catalogue, tmp_path, monkeypatch):
    empty = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"x": pa.array([], "float64")}), empty)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "days.parquet").mkdir()
    pd.DataFrame({"day": pd.to_datetime(["2020-01-01"])}).to_parquet(tmp_path / "days.parquet" / "a.parquet")
    bare = tmp_path / "bare.parquet"
    bare.mkdir()
    bare.with_name("plain").mkdir()
    for path, columns, message in (
        (catalogue, None, r"column 'name' of .*catalogue holds values of type \w*string, .* name the columns to use"),
        (catalogue, ["u", "x"], r"catalogue has no column 'x'; it has u, g, r, n, ok, name$"),
        (catalogue, ["u", "g", "u"], r"column 'u' of .*catalogue is named twice"),
        (bare, ["u", "g"], r"there is no parquet file in .*bare\.parquet"),
        (bare.with_name("plain"), ["u"], r"plain is an empty folder: there is no parquet file in it"),
        (bare, None, r"there is no parquet file in .*bare\.parquet"),
        (catalogue, "u", "columns must be a list of names"),
        (tmp_path / "days.parquet", None, r"column 'day' of .* holds values of type timestamp\["),
        (tmp_path / "nothing.parquet", None, "there is nothing at .*nothing.parquet"),
        (tmp_path / "torn.parquet", None, r"torn.parquet cannot be opened as parquet \("),
        (empty, None, "is empty: 0 rows × 1 features"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            open_rows(path, columns=columns)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"columns \(u, g\) can be named for parquet only"):
        open_rows(np.zeros((3, 2)), columns=["u", "g"])
    model = dem.GaussianMixture().fit(pd.read_parquet(catalogue)[["u", "g"]].rename(columns={"g": "z"}))
    with pytest.raises(DataError, match="has no column 'z'"):
        model.predict(catalogue)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'needs the package pyarrow, .* pip install "dask-em\[parquet\]"'):
        open_rows(catalogue)


def test_files_that_change_are_noticed(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": np.arange(100.0), "y": np.ones(100)}), path)
    rows = open_rows(path)
    for shorter in (50, 150):
        pq.write_table(pa.table({"x": np.arange(float(shorter)), "y": np.ones(shorter)}), path)
        with pytest.raises(DataError, match=r"x.parquet of .*x.parquet (gave 50 rows instead of 100|cannot be read)"):
            reassemble(rows)
    path.unlink()
    with pytest.raises(DataError, match=r"x.parquet of .* cannot be read \(FileNotFoundError"):
        reassemble(rows)
