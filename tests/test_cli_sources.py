"""The shell takes what Python takes: grids with a feature dimension, several variables, packed numbers, parquet."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import dem
from dem.cli.main import dem as command


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Stores that other tools wrote."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    t = xr.DataArray(
        rng.normal(size=(20, 4, 6, 5)) + 4 * rng.integers(0, 2, (20, 1, 6, 5)),
        dims=("time", "depth", "lat", "lon"),
        coords={"depth": [0.0, 10.0, 30.0, 70.0]},
    )
    ocean = xr.Dataset({"t": t, "s": 2 * t + rng.normal(size=t.shape)})
    packed = {"t": {"dtype": "i2", "scale_factor": 0.001, "_FillValue": -32768}}
    ocean.to_zarr(folder / "ocean.zarr", encoding=packed, consolidated=False)
    shifted = ocean.assign_coords(depth=[0.0, 10.0, 30.0, 75.0])
    shifted.to_zarr(folder / "shifted.zarr", encoding=packed, consolidated=False)
    (folder / "catalogue").mkdir()
    for i in range(3):
        frame = pd.DataFrame(rng.normal(size=(200, 3)), columns=list("ugr")).assign(name="galaxy")
        frame.to_parquet(folder / "catalogue" / f"part.{i}.parquet", row_group_size=90)
    return folder


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        command.main([str(argument) for argument in arguments])
    return exit_.value.code, capsys.readouterr()


def test_a_cube_with_a_feature_dimension(here, tmp_path, capsys):
    options = ("--variable", "t", "--feature-dim", "depth", "-k", 2, "--seed", 0, "--quiet")
    code, said = run(capsys, "fit", here / "ocean.zarr", *options, "--out", tmp_path / "m.zarr")
    assert (code, said.err) == (0, "")
    ocean = xr.open_zarr(here / "ocean.zarr", consolidated=False)
    expected = dem.GaussianMixture(2, random_state=0).fit(ocean.t, feature_dim="depth")  # as xarray decodes it
    model = dem.load(str(tmp_path / "m.zarr"))
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-10)
    assert model.feature_coordinates_.tolist() == [0.0, 10.0, 30.0, 70.0]
    code, _ = run(capsys, "predict", tmp_path / "m.zarr", here / "ocean.zarr", tmp_path / "l.zarr", "--variable", "t")
    labels = zarr.open_array(tmp_path / "l.zarr")
    assert (code, labels.dtype, labels.metadata.dimension_names) == (0, np.uint8, ("time", "lat", "lon"))
    np.testing.assert_array_equal(labels[...], expected.predict(ocean.t))
    for index in ("1", "-3"):
        arguments = (tmp_path / "m.zarr", here / "ocean.zarr/t", "--feature-dim", index, "--json")
        assert json.loads(run(capsys, "score", *arguments)[1].out)["log_likelihood_per_row"] == pytest.approx(
            expected.score(ocean.t), rel=1e-12
        )
    code, said = run(capsys, "score", tmp_path / "m.zarr", here / "shifted.zarr", "--variable", "t")
    assert code == 1
    assert "depth 3 of " in said.err
    assert "is 75.0, but the model was fitted with 70.0 there" in said.err
    code, said = run(capsys, "fit", here / "shifted.zarr", "--variable", "t", "--from", tmp_path / "m.zarr")
    assert (code, "is 75.0" in said.err) == (1, True)
    code, said = run(capsys, "fit", here / "ocean.zarr", "--variable", "t", "-k", 2)
    assert (code, said.err.count("\n")) == (1, 1)
    assert "(--feature-dim) with one of: time, depth, lat, lon" in said.err


def test_features_are_called_by_their_coordinates(here, tmp_path, capsys):
    options = ("--variable", "t", "--feature-dim", "depth", "-k", 2, "--seed", 0, "--out", tmp_path / "m.zarr")
    code, said = run(capsys, "fit", here / "ocean.zarr", *options)
    assert code == 0
    for shown in (said.out, run(capsys, "info", tmp_path / "m.zarr")[1].out):
        assert all(f"depth {level}" in shown for level in (0, 10, 30, 70))
        assert "feature 0" not in shown
    again = run(capsys, "fit", here / "ocean.zarr", *options, "--overwrite", "--json")[1].out
    for text in (again, run(capsys, "info", tmp_path / "m.zarr", "--json")[1].out):
        figures = json.loads(text)
        assert (figures["feature_dim"], figures["feature_coordinates"]) == ("depth", [0.0, 10.0, 30.0, 70.0])


def test_info_of_parquet(here, tmp_path, capsys):
    code, said = run(capsys, "info", here / "catalogue", "--json")
    found = json.loads(said.out)
    assert (code, found["kind"], found["rows"], found["files"]) == (0, "parquet", 600, 3)
    assert (found["row_groups"], found["largest_row_group"]) == (9, 90)
    assert list(found["columns"]) == ["u", "g", "r", "name"]
    assert {found["columns"][name] for name in "ugr"} == {"float64"}
    pd.DataFrame({"n": np.arange(12_345), "x": np.float32(1.5)}).to_parquet(tmp_path / "table.parquet")
    code, said = run(capsys, "info", tmp_path / "table.parquet")
    assert (code, "12,345" in said.out, "n int64, x float32" in said.out) == (0, True, True)
    code, said = run(capsys, "info", tmp_path / "missing.parquet")
    assert (code, said.err) == (1, f"dem: there is no {tmp_path / 'missing.parquet'}\n")
    code, said = run(capsys, "info", here / "catalogue", "--variable", "u")
    assert (code, "--variable is for zarr groups" in said.err) == (2, True)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    code, said = run(capsys, "info", tmp_path / "broken.parquet")
    assert (code, said.err.count("\n"), "broken.parquet" in said.err) == (1, 1, True)


def test_gaps_are_placed_on_the_grid(tmp_path, capsys):
    values = np.random.default_rng(0).normal(size=(3, 4, 6, 5))
    values[1, 2, 4, 3] = values[2, 1, 0, 0] = np.nan
    t = xr.DataArray(values, dims=("time", "depth", "lat", "lon"), coords={"depth": [0.0, 10.0, 30.0, 70.0]})
    xr.Dataset({"t": t, "s": 2 * t}).to_zarr(tmp_path / "gaps.zarr", consolidated=False)
    options = ("-k", 2, "--seed", 0, "--quiet")
    code, said = run(capsys, "fit", tmp_path / "gaps.zarr", "--variable", "t", "--feature-dim", "depth", *options)
    place = 1 * 30 + 4 * 5 + 3
    assert code == 1
    assert f"the first is at index time 1, lat 4, lon 3 (row {place}), depth 30; drop or fill them" in said.err
    assert "rows must be complete, as after .stack(row=['time', 'lat', 'lon']).dropna('row') of xarray" in said.err
    code, said = run(capsys, "fit", tmp_path / "gaps.zarr", "--variable", "t", "--variable", "s", *options)
    place = 1 * 120 + 2 * 30 + 4 * 5 + 3
    assert code == 1
    assert f"the first is at index time 1, depth 2, lat 4, lon 3 (row {place}), column 0 ('t');" in said.err
    xr.Dataset({"t": t.fillna(0.0)}).to_zarr(tmp_path / "full.zarr", consolidated=False)
    options = ("--variable", "t", "--feature-dim", "depth", "--family", "bernoulli", *options)
    code, said = run(capsys, "fit", tmp_path / "full.zarr", *options)
    assert (code, "at index time 0, lat 0, lon 0 (row 0), depth 0" in said.err) == (1, True)


def test_several_variables(here, tmp_path, capsys):
    both = ("--variable", "t", "--variable", "s")
    options = (*both, "-k", 2, "--seed", 0, "--quiet", "--out", tmp_path / "m.zarr")
    assert run(capsys, "fit", here / "ocean.zarr", *options)[0] == 0
    ocean = xr.open_zarr(here / "ocean.zarr", consolidated=False)
    expected = dem.GaussianMixture(2, random_state=0).fit(ocean[["t", "s"]])
    np.testing.assert_allclose(dem.load(str(tmp_path / "m.zarr")).means_, expected.means_, rtol=1e-10)
    # The model knows its variables.
    arguments = (tmp_path / "m.zarr", here / "ocean.zarr", tmp_path / "p.zarr", "--proba", "--dtype", "float32")
    assert run(capsys, "predict", *arguments)[0] == 0
    found = zarr.open_array(tmp_path / "p.zarr" / "proba")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[...], expected.predict_proba(ocean[["t", "s"]]), atol=1e-6)


def test_columns_of_parquet(here, tmp_path, capsys):
    options = ("--columns", "u,g", "-k", 2, "--seed", 0, "--quiet", "--out", tmp_path / "m.zarr")
    assert run(capsys, "fit", here / "catalogue", *options)[0] == 0
    table = pd.read_parquet(here / "catalogue")[["u", "g"]]
    expected = dem.GaussianMixture(2, random_state=0).fit(table)
    arguments = (tmp_path / "m.zarr", here / "catalogue", tmp_path / "l.zarr", "--dtype", "int16")
    assert run(capsys, "predict", *arguments)[0] == 0
    labels = zarr.open_array(tmp_path / "l.zarr")
    assert labels.dtype == np.int16
    np.testing.assert_array_equal(labels[...], expected.predict(table))
    code, said = run(capsys, "fit", here / "catalogue", "-k", 2)
    assert (code, said.err.count("\n")) == (1, 1)
    assert "column 'name' of " in said.err
    assert run(capsys, "fit", here / "catalogue", "-k", 2, "--columns", "u,,g")[0] == 2


@pytest.mark.parametrize(("n_components", "dtype"), [(2, "uint8"), (255, "uint8"), (256, "uint16"), (300, "uint16")])
def test_labels_have_the_smallest_type(tmp_path, n_components, dtype):
    centres = np.arange(float(n_components))[:, None]
    model = dem.KMeans(n_components, init=centres, max_iter=1).fit(np.repeat(centres, 2, axis=0))
    model.predict_to(centres, str(tmp_path / "l.zarr"))
    found = zarr.open_array(tmp_path / "l.zarr")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:], np.arange(n_components))
    assert model.predict(centres).dtype == np.int64
    for wrong in ("int8", "float64", "no type") if n_components > 128 else ("float64",):
        with pytest.raises(dem.errors.OptionError, match="dtype must be"):
            model.predict_to(centres, str(tmp_path / "wrong.zarr"), dtype=wrong)
    assert not (tmp_path / "wrong.zarr").exists()
