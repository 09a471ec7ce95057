"""Packed numbers (`scale_factor`, `_FillValue`, …) are decoded to the bits that xarray decodes."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from reassembly import reassemble

import dem
from dem.cli import dem as command
from dem.data import open_rows
from dem.errors import DataError

TABLE = np.random.default_rng(0).integers(-99, 99, (40, 3))


def decoded(path, variable="x"):
    """Return what xarray makes of a variable in a group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # several fill values, no consolidated metadata
        return xr.open_zarr(path, consolidated=False, chunks=None, decode_times=False)[variable]


def compare(path):
    rows = open_rows(path / "x")
    expected = decoded(path)
    found = reassemble(rows)
    assert found.dtype == rows.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, expected.values)


FLOATS = st.sampled_from([0.01, 0.1, 1e-3, 2.5, 1.0])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["i1", "u1", "i2", "u2", "i4", "i8", "f2", "f4", "f8"]),
    st.one_of(st.none(), FLOATS),
    st.one_of(st.none(), FLOATS, st.sampled_from([0.0, 273.15])),
    st.one_of(st.none(), st.integers(-99, 99)),
    st.one_of(st.none(), st.integers(-99, 99)),
    st.booleans(),
    st.sampled_from([2, 3]),
)
def test_as_xarray_does(tmp_path_factory, dtype, scale, offset, fill, missing, unsigned, version):
    assume(not (unsigned and (missing is not None or dtype[0] == "f")))
    path = tmp_path_factory.mktemp("x")
    table = TABLE.astype(dtype)
    attributes = {
        "scale_factor": scale,
        "add_offset": offset,
        "missing_value": missing,
        "_Unsigned": {"i": "true", "u": "false", "f": None}[dtype[0]] if unsigned else None,
    }
    if fill is not None:
        fill = abs(fill) if np.dtype(dtype).kind == "u" else fill
    variable = xr.Variable(("row", "column"), table, {key: v for key, v in attributes.items() if v is not None})
    group = zarr.create_group(path, zarr_format=version)
    named = {"dimension_names": variable.dims} if version == 3 else {}
    array = group.create_array(
        "x", data=table, chunks=(7, 3), **named, **({} if version == 3 else {"fill_value": fill})
    )
    array.attrs.update(variable.attrs)
    if version == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = list(variable.dims)
    elif fill is not None:
        array.attrs["_FillValue"] = xr.backends.zarr.FillValueCoder.encode(fill, table.dtype)
    compare(path)


@pytest.mark.parametrize("version", [2, 3])
def test_what_xarray_packs(tmp_path, version):
    values = xr.DataArray(np.random.default_rng(1).normal(280, 9, (30, 4)), dims=("row", "band"), name="x")
    values[3, 2] = np.nan
    packing = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -32768}
    values.to_dataset().to_zarr(tmp_path, encoding={"x": packing}, zarr_format=version, consolidated=False)
    compare(tmp_path)
    with pytest.raises(DataError, match=r"holds 1 NaN .* it is in row 3, column 2"):
        dem.GaussianMixture(2).fit(tmp_path / "x")
    group = zarr.open_group(tmp_path, mode="r+")
    group["x"][3, 2] = group["x"][2, 2]
    expected = dem.GaussianMixture(2, random_state=0).fit(decoded(tmp_path).values)
    for source, options in ((tmp_path / "x", {}), (group["x"], {}), (group, {"variable": "x"})):
        model = dem.GaussianMixture(2, random_state=0).fit(source, **options)
        np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-12)
    assert 250 < model.means_.min() < 310


def test_plain_arrays_are_not_decoded(tmp_path):
    """A fill value of format 2 marks nothing where no tool says that it does."""
    zarr.create_array(tmp_path / "x.zarr", data=TABLE, zarr_format=2, fill_value=0)
    np.testing.assert_array_equal(reassemble(open_rows(tmp_path / "x.zarr")), TABLE)
    array = zarr.create_array(tmp_path / "y.zarr", data=TABLE.astype(float))
    for value in ("AAAAAAAA+H8=", float("nan"), "NaN"):  # NaN, as xarray writes it
        array.attrs.update({"scale_factor": 1.0, "add_offset": 0.0, "_FillValue": value})
        np.testing.assert_array_equal(reassemble(open_rows(tmp_path / "y.zarr")), TABLE)
    array.attrs["_FillValue"] = float(TABLE[0, 0])  # a plain number, as other tools write it
    assert np.isnan(reassemble(open_rows(tmp_path / "y.zarr"))[0, 0])


@pytest.mark.parametrize("value", ["0.1", [0.1, 0.2], {"a": 1}, []])
@pytest.mark.parametrize("name", ["scale_factor", "add_offset"])
def test_attributes_that_are_no_numbers(tmp_path, name, value):
    array = zarr.create_array(tmp_path / "x.zarr", data=TABLE)
    array.attrs[name] = value
    words = f"x.zarr cannot be decoded: its attribute {name} is {value!r}, not a number; correct it in the metadata"
    with pytest.raises(DataError, match=re.escape(words)):
        open_rows(tmp_path / "x.zarr")
    result = CliRunner().invoke(command, ["fit", str(tmp_path / "x.zarr"), "--components", "2", "--quiet"])
    assert result.exit_code == 1
    assert words in result.stderr
    array.attrs[name] = [2.0]
    assert open_rows(tmp_path / "x.zarr").n_rows == len(TABLE)
