"""Rows in memory: arrays, lists, DataFrames; what cannot be used gets one clear line."""

from __future__ import annotations

import re

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from reassembly import reassemble

from dem.data import open_rows
from dem.data.dask import DaskRows
from dem.engine.mapping import map_rows
from dem.errors import DataError
from dem.families.base import Support
from dem.validation import CountBadValues, describe

RNG = np.random.default_rng(2)
DTYPES = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", ">i4", ">f8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_dtypes_without_a_copy(dtype, order):
    table = np.asarray(np.abs(RNG.normal(0, 30, (20_000, 3))), dtype=dtype, order=order)
    rows = open_rows(table)
    assert rows.dtype == table.dtype
    np.testing.assert_array_equal(reassemble(rows), table)
    assert all(np.shares_memory(chunk.rows, table) for batch in rows.batches() for chunk in batch)


@pytest.mark.parametrize(
    ("n_rows", "n_features", "n_chunks"),
    [(1, 1, 1), (4096, 2, 1), (10_000, 2, 3), (131_072, 2, 32), (1_000_000, 2, 32), (200, 1_000_000, 200)],
)
def test_chunks_depend_on_the_shape_alone(n_rows, n_features, n_chunks):
    table = np.broadcast_to(np.int8(1), (n_rows, n_features))
    chunks = [chunk for batch in open_rows(table).batches() for chunk in batch]
    assert len(chunks) == n_chunks
    assert [chunk.index.start for chunk in chunks] == [0, *(chunk.index.stop for chunk in chunks[:-1])]


def test_a_batch_travels_with_its_own_rows_only(tmp_path):
    import pickle

    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype="f4", shape=(200_000, 4))
    mapped[:, 1] = np.arange(200_000)
    for table in (mapped, mapped[:, ::2], np.asarray(mapped), np.asfortranarray(mapped)):
        rows = open_rows(table)
        texts = [pickle.dumps(batch) for batch in rows.batches()]
        assert sum(map(len, texts)) < 1.01 * table.nbytes
        chunks = [chunk for text in texts for chunk in pickle.loads(text)]
        assert all(type(chunk.rows) is np.ndarray for chunk in chunks)
        np.testing.assert_array_equal(np.concatenate([chunk.rows for chunk in chunks]), table)


def test_a_memory_map_is_not_loaded(tmp_path):
    np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype="f4", shape=(200_000, 4))
    table = np.load(tmp_path / "x.npy", mmap_mode="r")
    chunk = next(iter(open_rows(table).batches()[0]))
    assert np.shares_memory(chunk.rows, table)


def test_what_becomes_an_array():
    np.testing.assert_array_equal(reassemble(open_rows([[1, 2], [3, 4]])), [[1, 2], [3, 4]])
    rows = open_rows(np.zeros((2, 2)))
    assert open_rows(rows) is rows


class Stubborn:
    def __array__(self, dtype=None, copy=None):
        message = "no array of me"
        raise RuntimeError(message)


def torn(_):
    message = "the tape is torn"
    raise OSError(message)


BAD = [
    (np.zeros(5), r"NumPy array has 1 dimension \(shape \(5,\)\).*reshape\(-1, 1\)"),
    (np.zeros((2, 3, 4)), "NumPy array has 3 dimensions.*feature_dim"),
    (np.zeros((0, 3)), "NumPy array is empty: 0 rows"),
    (np.zeros((3, 0)), "is empty: 3 rows × 0 features"),
    (np.array([["a", "b"]]), "strings"),
    (np.array([[1, None]]), r"Python objects; convert them with astype\(float\)"),
    (np.array([[b"a"]]), "byte strings"),
    (np.zeros((2, 2), complex), "complex numbers"),
    (np.zeros((2, 2), "M8[s]"), "dates"),
    (np.zeros((2, 2), "m8[s]"), "time differences"),
    (np.zeros(2, [("a", float)]).reshape(2, 1), "records"),
    (np.zeros((2, 2), np.longdouble), "convert them to float64"),
    ([[1, 2], [3]], "list cannot be made an array of numbers"),
    (Stubborn(), "Stubborn cannot be made an array of numbers .*no array of me"),
    (None, "NoneType has 0 dimensions.*give an array of numbers, the path of a zarr array"),
    ({"a": [1]}, "dict has 0 dimensions"),
    (np.ma.masked_equal([[1.0, 2.0]], 2.0), "masked values"),
    (pd.Series([1.0, 2.0]), r"Series has one dimension; use to_frame\(\)"),
    (pd.DataFrame({"a": [1.0], "b": ["x"]}), "column 'b' of pandas DataFrame"),
    (pd.DataFrame({"a": [1.0], "day": pd.to_datetime(["2020-01-01"])}), "column 'day' of pandas DataFrame holds dates"),
    (pd.DataFrame({"a": pd.Categorical(["x"])}), "column 'a' of pandas DataFrame holds values of type category"),
    (pd.DataFrame({"a": []}), "is empty"),
    (dd.from_pandas(pd.DataFrame({"a": ["x", "y"]}), npartitions=1), "column 'a' of dask DataFrame"),
    (dd.from_pandas(pd.Series([1.0, 2.0]), npartitions=1), r"a Series has one dimension; use to_frame\(\)"),
    (dd.from_pandas(pd.Series([1.0, 2.0]), npartitions=1).index, "an Index has one dimension"),
    (
        dd.from_pandas(pd.DataFrame({"a": [1.0, 2.0]}), npartitions=1).map_partitions(torn, meta={"a": float}),
        r"the lengths of the blocks of dask DataFrame cannot be computed \(OSError: the tape is torn\)",
    ),
    ("", "the path of the data is empty"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_bad_data_gets_one_clear_line(data, message):
    with pytest.raises(DataError, match=message) as caught:
        open_rows(data)
    assert "\n" not in str(caught.value)


def test_options_that_do_not_fit_the_data():
    with pytest.raises(DataError, match=r"a variable .*'t'.* zarr groups only"):
        open_rows(np.zeros((2, 2)), variable="t")
    with pytest.raises(DataError, match=r"a feature dimension .*'x'.* xarray objects, zarr and Dask arrays only"):
        open_rows(np.zeros((2, 2)), feature_dim="x")


FRAMES = {
    "floats": pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}),
    "mixed": pd.DataFrame({"a": [1, 2], "b": [True, False], "c": np.array([1.5, 2.5], "f4")}),
    "nullable": pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [1.0, 2.0]}),
    "Arrow": pd.DataFrame({"a": pd.array([1, 2], "int64[pyarrow]"), "b": [1.0, 2.0]}),
    "booleans": pd.DataFrame({"a": pd.array([True, False], "boolean"), "b": pd.array([1.5, None], "Float32")}),
    "numbered": pd.DataFrame(np.arange(6).reshape(3, 2)),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("lazy", [False, True])
def test_dataframes(frame, lazy):
    table = FRAMES[frame]
    expected = table.astype(float).to_numpy()
    rows = open_rows(dd.from_pandas(table, npartitions=2) if lazy else table)
    assert isinstance(rows, DaskRows) == lazy
    assert rows.feature_names == (None if frame == "numbered" else tuple(table.columns))
    np.testing.assert_array_equal(reassemble(rows).astype(float), expected)


@pytest.mark.parametrize("columns", [None, 2])
def test_map_rows_in_memory(columns):
    table = RNG.normal(size=(50_000, 3))

    def function(chunk):
        assert len(chunk) < 50_000
        return chunk.rows[:, 0] if columns is None else chunk.rows[:, :2]

    expected = table[:, 0] if columns is None else table[:, :2]
    result = map_rows(table, function, dtype="f8", n_columns=columns)
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, expected)
    frame = pd.DataFrame(table, columns=list("abc"))
    np.testing.assert_array_equal(map_rows(frame, function, dtype="f8", n_columns=columns), expected)
    lazy = map_rows(dd.from_pandas(frame, npartitions=2), function, dtype="f8", n_columns=columns)
    np.testing.assert_array_equal(lazy.compute(), expected)
    assert map_rows([[1, 2], [3, 4]], function, dtype="f8", n_columns=columns).shape[0] == 2


def test_map_rows_raises_what_the_function_raises():
    def fail(chunk):
        message = f"{len(chunk)} rows"
        raise DataError(message)

    with pytest.raises(DataError, match="4096 rows"):
        map_rows(np.zeros((10_000, 2)), fail, dtype="f8", n_columns=None)


def count(rows):
    total = None
    for batch in reversed(rows.batches()):  # the order does not matter
        for chunk in batch:
            found = CountBadValues(Support())(chunk)
            total = found if total is None else total + found
    return total


def test_values_that_are_not_finite_are_counted_and_the_first_is_named():
    table = RNG.normal(size=(20_000, 3))
    table[[15_000, 7_000], [0, 2]] = np.nan
    table[7_000, 1] = -np.inf
    rows = open_rows(pd.DataFrame(table, columns=["a", "salinity", "c"]))
    found = count(rows)
    assert (found.n_nan, found.n_infinite, *found.first[:3]) == (2, 1, False, 7_000, 1)
    assert describe(rows, found, Support()) == (
        "pandas DataFrame holds 2 NaN and 1 infinite (inf) values; the first is in row 7000, column 1 ('salinity'); "
        "drop or fill them first: rows must be complete, as after .dropna() of a DataFrame, "
        "unless missing= (--missing) says otherwise"
    )


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i4", "bool"])
def test_finite_data_has_nothing_to_say(dtype):
    rows = open_rows(np.ones((10, 2), dtype))
    assert count(rows).count == 0


def test_the_first_row_counts_also_where_chunks_are_not_in_order():
    from dem.data.base import Chunk

    table = np.zeros((4, 2))
    table[[1, 2], [0, 1]] = np.nan
    found = CountBadValues(Support())(Chunk(table, np.array([3, 9, 5, 1])))
    assert (found.n_nan, *found.first[:3]) == (2, False, 5, 1)  # not row 9, which comes first in the chunk


def test_values_that_are_not_finite_are_told_before_others():
    from dem.data.base import Chunk

    support = Support("whole numbers from 0", lowest=0.0, whole=True)
    rows = open_rows(np.array([[0.5, 1.0], [-2.0, 1.0], [3.0, 4.0], [1.0, np.inf]]))
    parts = [CountBadValues(support)(Chunk(rows.table[i : i + 1], range(i, i + 1))) for i in range(4)]
    assert [part.count for part in parts] == [1, 1, 0, 1]
    expected = r"holds 2 values that are not whole numbers from 0; the first is 0.5 in row 0, column 0$"
    assert re.search(expected, describe(rows, parts[1] + parts[2] + parts[0], support))
    total = parts[1] + parts[3] + parts[2] + parts[0]
    assert "holds 0 NaN and 1 infinite (inf) values; it is in row 3, column 1; drop" in describe(rows, total, support)


def test_optional_packages_are_not_imported_for_arrays():
    import subprocess
    import sys

    code = (
        "import sys, numpy as np, dem.data; dem.data.open_rows(np.ones((3, 2))).batches(); "
        "print([m for m in ('dask', 'xarray', 'pandas', 'distributed', 'zarr') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
