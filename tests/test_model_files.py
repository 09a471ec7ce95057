"""Models on disk: round trip, readable without dem, damage and foreign files get one clear line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from agreement import assert_same_bits
from cases import CASES, gaussian_rows

import dem
from dem import store
from dem.data.atomic import destination
from dem.errors import StoreError
from dem.estimators.persistence import where_it_ended


@pytest.fixture
def saved(tmp_path):
    model = dem.GaussianMixture(3, random_state=0, means_init=gaussian_rows()[:3]).fit(gaussian_rows())
    path = tmp_path / "model.zarr"
    model.save(path)
    return path, model


@pytest.mark.parametrize("case", CASES, ids=str)
def test_round_trip(case, tmp_path):
    model = case.estimator().fit(case.data())
    model.save(tmp_path / "model.zarr")
    back = dem.load(tmp_path / "model.zarr")
    fitted = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "n_features_in_")
    assert type(back) is type(model)
    assert_same_bits(back, model, (*case.parameters, *fitted))
    assert back.history_ == model.history_
    assert back.get_params() == model.get_params()
    np.testing.assert_array_equal(back.predict_proba(case.data()), model.predict_proba(case.data()))


def test_array_options_come_back(saved):
    path, model = saved
    np.testing.assert_array_equal(dem.load(path).means_init, model.means_init)


def test_feature_names_come_back(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(gaussian_rows(), columns=["u", "v", "w"])
    dem.GaussianMixture(2, random_state=0).fit(frame).save(tmp_path / "m")
    back = dem.load(tmp_path / "m")
    assert back.feature_names_in_.tolist() == ["u", "v", "w"]
    back.predict(frame)
    with pytest.raises(ValueError, match="feature names"):
        back.predict(frame[["v", "u", "w"]])


def test_readable_without_dem(saved):
    path, model = saved
    code = (
        "import sys, json, zarr; g = zarr.open_group(sys.argv[1], mode='r'); "
        "print(json.dumps([g['means'][:].tolist(), g.attrs['family'], g.attrs['format']])); "
        "assert not any(name.split('.')[0] == 'dem' for name in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert json.loads(output.stdout) == [model.means_.tolist(), "gaussian", 2]


def test_never_a_pickle(saved):
    path, _ = saved
    for file in path.rglob("*"):
        assert not file.is_file() or not file.read_bytes().startswith(b"\x80")


def test_refuses_to_overwrite(saved):
    path, model = saved
    with pytest.raises(StoreError, match="exists already"):
        model.save(path)
    model.weights_ = model.weights_[::-1].copy()
    model.save(path, overwrite=True)
    np.testing.assert_array_equal(dem.load(path).weights_, model.weights_)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_nothing_there(tmp_path):
    with pytest.raises(StoreError, match="no model at"):
        dem.load(tmp_path / "nowhere.zarr")


@pytest.mark.parametrize("name", ["weights", "means"])
def test_missing_chunk(saved, name):
    path, _ = saved
    (chunk,) = [file for file in (path / name / "c").rglob("*") if file.is_file()]
    chunk.unlink()
    with pytest.raises(StoreError, match=f"damaged.*{name}"):
        dem.load(path)


def test_flipped_bytes(saved):
    path, _ = saved
    (chunk,) = [file for file in (path / "means" / "c").rglob("*") if file.is_file()]
    content = bytearray(chunk.read_bytes())
    content[-3] ^= 0xFF
    chunk.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="model at"):
        dem.load(path)


@pytest.mark.reliability(
    fault="the checksum of an array is missing in a model file",
    sees="the model at … is damaged: there is no checksum of its array …",
    lost="nothing but that model",
    recovery="at once; a copy of the model",
)
@pytest.mark.parametrize("name", ["weights", "options/means_init"])
def test_missing_checksum(saved, name):
    path, _ = saved
    group = zarr.open_group(path, mode="r+")
    group.attrs["sha256"] = {key: value for key, value in group.attrs["sha256"].items() if key != name}
    shutil.rmtree(path / name / "c")  # as zeros it would be accepted
    with pytest.raises(StoreError, match=rf"damaged: there is no checksum of its array '{name}'"):
        dem.load(path)


def test_half_a_metadata_file(saved):
    path, _ = saved
    metadata = path / "zarr.json"
    metadata.write_text(metadata.read_text()[:100])
    with pytest.raises(StoreError, match="cannot be read"):
        dem.load(path)


def test_missing_array(saved):
    path, _ = saved
    shutil.rmtree(path / "means")
    with pytest.raises(StoreError, match=r"damaged.*means"):
        dem.load(path)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("format", 99, "format 99.*reads format 1 and 2"), ("family", "poissonian", "poissonian.*knows .*gaussian")],
)
def test_other_formats_and_families(saved, attribute, value, message):
    path, _ = saved
    zarr.open_group(path, mode="r+").attrs[attribute] = value
    with pytest.raises(StoreError, match=message):
        dem.load(path)


def test_some_other_zarr_group(tmp_path):
    zarr.create_group(tmp_path / "other.zarr").create_array("x", shape=3, dtype="f8")
    with pytest.raises(StoreError, match="not a model"):
        dem.load(tmp_path / "other.zarr")
    zarr.create_array(tmp_path / "array.zarr", shape=3, dtype="f8")
    with pytest.raises(StoreError, match=r"array\.zarr"):
        dem.load(tmp_path / "array.zarr")


def test_unwritable_destination(tmp_path, saved):
    _, model = saved
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        model.save(tmp_path / "file" / "model.zarr")


def test_failed_write_leaves_nothing_and_keeps_the_old(tmp_path):
    path = tmp_path / "out"
    store.write(path, {"x": np.arange(3.0)}, {"format": 1})

    def interrupted():
        with destination(path, overwrite=True) as draft:
            zarr.create_group(draft.path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    np.testing.assert_array_equal(store.read(path)[0]["x"], [0.0, 1.0, 2.0])


def test_numbers_that_json_cannot_hold(tmp_path):
    store.write(tmp_path / "out", {}, {"lower": -np.inf, "list": [np.float64(1.5), np.int64(2)]})
    assert store.read(tmp_path / "out")[1] == {"lower": -np.inf, "list": [1.5, 2]}


def test_memory_url():
    store.write("memory://somewhere/model", {"x": np.arange(3.0)}, {"a": 1})
    arrays, attributes = store.read("memory://somewhere/model")
    np.testing.assert_array_equal(arrays["x"], [0.0, 1.0, 2.0])
    assert attributes == {"a": 1}
    with pytest.raises(StoreError, match="exists already"):
        store.write("memory://somewhere/model", {}, {})
    store.write("memory://somewhere/model", {"x": np.zeros(2)}, {}, overwrite=True)
    np.testing.assert_array_equal(store.read("memory://somewhere/model")[0]["x"], [0.0, 0.0])


@pytest.mark.parametrize("options", [{}, {"covariance_type": "tied"}, {"algorithm": "auto"}], ids=str)
def test_a_loaded_model_goes_on_to_the_bits_of_one_that_was_not_saved(tmp_path, options):
    rows = 1e3 + gaussian_rows()
    options = {"max_iter": 4, "tol": 0.0, "warm_start": True, "random_state": 0, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = dem.GaussianMixture(3, **options).fit(rows)
        model.save(path := str(tmp_path / "model.zarr"))
        after, loaded = model.fit(rows), dem.load(path).fit(rows)
        whole = dem.GaussianMixture(3, **{**options, "max_iter": 8}).fit(rows)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        assert np.array_equal(getattr(loaded, name), getattr(after, name)), name
        if "algorithm" not in options:  # the acceleration begins anew
            assert np.array_equal(getattr(loaded, name), getattr(whole, name)), name


def test_what_a_user_has_changed_is_where_a_fit_goes_on():
    rows = gaussian_rows()
    model = dem.GaussianMixture(3, max_iter=2, tol=0.0, warm_start=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows)
    model.means_ = model.means_ + 1.0
    family, parameters = where_it_ended(model)
    np.testing.assert_allclose(family.to_user(parameters)["means"], model.means_, rtol=0, atol=1e-12)


def test_files_of_format_1_are_read():
    model = dem.load(str(Path(__file__).parent / "data" / "model_format_1.zarr"))
    assert (model.n_components, model.covariance_type, model.converged_) == (2, "full", True)
    assert model.predict([[1.0, 2.0], [10.0, 2.0]]).tolist() == model.predict([[1.0, 0.0], [10.0, 4.0]]).tolist()
    assert not hasattr(model, "_raw")
    assert model.set_params(warm_start=True).fit(gaussian_rows()[:, :2]).converged_
