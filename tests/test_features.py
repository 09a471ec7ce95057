"""Features have labels: names, or coordinate values of their dimension. Models know theirs, from fit to file."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

import dem
from dem.data.labels import order_of, same
from dem.errors import DataError

DEPTHS = np.array([0.0, 10.0, 30.0, 70.0])
RNG = np.random.default_rng(5)
# Profiles of two kinds; the levels differ, so that a mix-up of levels changes the labels.
PROFILES = xr.DataArray(
    RNG.normal(size=(30, 8, 4)) + np.array([8.0, 2.0, 0.0, -9.0]) * RNG.integers(0, 2, (30, 8, 1)),
    dims=("time", "lon", "depth"),
    coords={"depth": DEPTHS, "lon": np.arange(8)},
    name="temperature",
)
MODELS = {
    "gaussian": lambda: dem.GaussianMixture(2, random_state=0),
    "kmeans": lambda: dem.KMeans(2, random_state=0),
}


def fitted(kind, data, tmp_path, saved, **source):
    model = MODELS[kind]().fit(data, **source)
    if not saved:
        return model
    model.save(str(tmp_path / "model.zarr"))
    return dem.load(str(tmp_path / "model.zarr"))


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("chunked", [False, True])
def test_levels_in_another_order_are_put_right(tmp_path, kind, saved, chunked):
    data = PROFILES.chunk(time=7, depth=2) if chunked else PROFILES
    model = fitted(kind, data, tmp_path, saved, feature_dim="depth")
    expected = model.predict(PROFILES, feature_dim="depth")
    for other in (data.isel(depth=slice(None, None, -1)), data.isel(depth=[2, 0, 3, 1]).transpose("depth", ...)):
        labels = model.predict(other, feature_dim="depth")
        assert (labels.chunks is not None) == chunked
        xr.testing.assert_identical(labels.compute().transpose(*expected.dims), expected)
        assert model.score(other) == pytest.approx(model.score(data), rel=1e-12)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_other_levels_are_refused_with_the_difference(tmp_path, kind, saved):
    model = fitted(kind, PROFILES, tmp_path, saved, feature_dim="depth")
    shifted = PROFILES.assign_coords(depth=[0.0, 10.0, 30.0, 75.0])
    message = (
        r"^depth 3 of DataArray 'temperature' is 75.0, but the model was fitted with 70.0 there; "
        r"the model knows 0.0, 10.0, 30.0, 70.0, the data has 0.0, 10.0, 30.0, 75.0$"
    )
    for attempt in (
        lambda: model.predict(shifted),
        lambda: model.predict(shifted, feature_dim="depth"),
        lambda: model.score(shifted.chunk(time=10)),
        lambda: model.predict_to(shifted, str(tmp_path / "labels.zarr")),
    ):
        with pytest.raises(DataError, match=message):
            attempt()
    assert not (tmp_path / "labels.zarr").exists()
    with pytest.raises(DataError, match=r"depth 0 of .* is 'surface', but the model was fitted with 0\.0 there"):
        model.predict(PROFILES.assign_coords(depth=["surface", "b", "c", "d"]))


def test_going_on_with_other_levels_is_refused():
    model = dem.GaussianMixture(2, random_state=0, warm_start=True).fit(PROFILES, feature_dim="depth")
    means = model.means_
    shifted = PROFILES.assign_coords(depth=DEPTHS + 5)
    for learn in (model.fit, model.partial_fit):
        with pytest.raises(DataError, match=r"depth 0 of .* is 5\.0, but the model was fitted with 0\.0 there"):
            learn(shifted)
    model.partial_fit(PROFILES[:, :, ::-1])
    assert np.abs(model.means_ - means).max() < 1
    np.testing.assert_array_equal(model.feature_coordinates_, DEPTHS)
    model.set_params(warm_start=False).fit(shifted, feature_dim="depth")
    np.testing.assert_array_equal(model.feature_coordinates_, DEPTHS + 5)
    model.fit(RNG.normal(size=(50, 4)))
    assert not hasattr(model, "feature_coordinates_")
    assert not hasattr(model, "feature_dim_")


def test_variables_of_a_dataset_in_another_order(tmp_path):
    data = xr.Dataset({name: PROFILES.isel(depth=i, drop=True) for i, name in enumerate(["t", "s", "o"])})
    model = fitted("gaussian", data, tmp_path, saved=True)
    xr.testing.assert_identical(model.predict(data[["o", "t", "s"]]), model.predict(data))
    assert model.score(data[["s", "o", "t"]].chunk(time=7)) == pytest.approx(model.score(data), rel=1e-12)
    message = r"column 2 of Dataset is 'x', but the model was fitted with 'o' there; the model knows 't', 's', 'o', the"
    with pytest.raises(DataError, match=message):
        model.predict(data.rename(o="x"))


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["red", "green", "blue", "nir"]),
        np.array(["2001-01-01", "2001-02-01", "2001-03-01", "2002-01-01"], "M8[ns]"),
        np.array([400, 500, 650, 800], ">i4"),
        np.array([1e-9, 2.5, np.inf, np.nan]),
    ],
    ids=["names", "times", "whole numbers", "not finite"],
)
def test_labels_survive_in_the_file(tmp_path, labels):
    data = PROFILES.assign_coords(depth=labels)
    model = fitted("gaussian", data, tmp_path, saved=True, feature_dim="depth")
    assert model.feature_dim_ == "depth"
    held = model.feature_names_in_ if labels.dtype.kind == "U" else model.feature_coordinates_
    np.testing.assert_array_equal(held, labels)
    xr.testing.assert_identical(model.predict(data[..., ::-1]), model.predict(data))
    with pytest.raises(DataError, match="the model was fitted with"):
        model.predict(data.assign_coords(depth=labels[[3, 0, 1, 0]]))


def test_files_of_earlier_versions_still_load(tmp_path):
    model = fitted("gaussian", PROFILES, tmp_path, saved=True, feature_dim="depth")
    group = zarr.open_group(tmp_path / "model.zarr", mode="r+")
    attributes = group.attrs.asdict()
    assert attributes.pop("feature_axis") == {"dim": "depth", "dtype": "f8", "coordinates": DEPTHS.tolist()}
    group.attrs.put(attributes)
    older = dem.load(str(tmp_path / "model.zarr"))
    np.testing.assert_array_equal(older.predict(PROFILES, feature_dim="depth"), model.predict(PROFILES))


def test_rounding_does_not_make_other_labels():
    model = dem.GaussianMixture(1).fit(PROFILES.assign_coords(depth=[0.1, 0.2, 0.3, 0.7]), feature_dim="depth")
    model.predict(PROFILES.assign_coords(depth=np.float32([0.1, 0.2, 0.3, 0.7])))
    model.predict(PROFILES.assign_coords(depth=np.arange(1, 8)[[0, 1, 2, 6]] * 0.1))
    julian = 2451545.0 + np.arange(4.0)
    model.fit(PROFILES.assign_coords(depth=julian), feature_dim="depth")
    with pytest.raises(DataError, match=r"2451545\.001"):
        model.predict(PROFILES.assign_coords(depth=julian + 1e-3))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.randoms())
def test_any_permutation_is_found(values, random):
    wanted = np.array(values)
    shuffled = list(values)
    random.shuffle(shuffled)
    found = np.array(shuffled)
    order = order_of(found, wanted)
    assert sorted(order) == list(range(len(values)))
    assert same(found[order], wanted).all()
    assert order_of(np.append(found[1:], 2e6), wanted) is None
