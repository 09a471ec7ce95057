"""The life of an estimator: a failed fit, a warm start, a subclass, odd arguments of its methods."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
import zarr
from cases import gaussian_rows
from sklearn.exceptions import NotFittedError

import dem
from dem.errors import DataError, OptionError, StoreError


@pytest.fixture
def fitted():
    return dem.GaussianMixture(2, random_state=0).fit(gaussian_rows())


def test_a_first_fit_that_fails_leaves_nothing():
    model = dem.GaussianMixture(2)
    with pytest.raises(DataError):
        model.fit(np.full((10, 2), np.nan))
    assert not hasattr(model, "n_features_in_")
    with pytest.raises(NotFittedError):
        model.predict(np.ones((3, 2)))


def test_a_later_fit_that_fails_leaves_the_model(fitted):
    before = fitted.predict(gaussian_rows())
    with pytest.raises(DataError):
        fitted.fit(np.full((10, 2), np.nan))
    np.testing.assert_array_equal(fitted.predict(gaussian_rows()), before)


def test_a_warm_start_goes_on_with_the_same_model_only(fitted):
    rows = gaussian_rows()
    fitted.set_params(warm_start=True, n_components=3)
    with pytest.raises(OptionError, match="which is to go on, has 2 components, but n_components is 3"):
        fitted.fit(rows)
    fitted.set_params(n_components=2, covariance_type="diag")
    with pytest.raises(OptionError, match="covariances of another type than 'diag'"):
        fitted.fit(rows)
    fitted.set_params(covariance_type="full")
    with pytest.raises(DataError, match=r"2 features.*expecting 3"):
        fitted.fit(rows[:, :2])
    again = fitted.fit(rows)
    assert again.n_iter_ == 1  # it had converged, so that one iteration confirms it


def test_masked_values_are_refused():
    rows = np.ma.MaskedArray(gaussian_rows(), mask=False)
    dem.GaussianMixture(2, random_state=0).fit(rows)
    rows[7, 1] = np.ma.masked
    with pytest.raises(DataError, match="masked"):
        dem.GaussianMixture(2, random_state=0).fit(rows)


def test_values_that_a_family_cannot_produce_have_no_label(tmp_path):
    ones = np.tile([[0, 1], [1, 0]], (10, 1))
    model = dem.BernoulliMixture(2, random_state=0).fit(ones)
    ones[11, 1] = 2
    with pytest.raises(DataError, match=r"not whole numbers from 0 to 1.*row 11.*column 1"):
        model.predict(ones)
    with pytest.raises(DataError, match=r"row 11, column 1"):
        model.predict_to(da.from_array(ones, chunks=(4, 2)), str(tmp_path / "labels.zarr"))
    assert list(tmp_path.iterdir()) == []


def test_a_nan_is_one_error_and_no_warning(fitted):
    rows = gaussian_rows()
    rows[5] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="row 5, column 0"):
            fitted.score(rows)


class Subclass(dem.GaussianMixture):
    """What a user may derive."""


def test_a_subclass_is_saved_as_what_it_derives_from(tmp_path):
    model = Subclass(2, random_state=0).fit(gaussian_rows())
    model.save(tmp_path / "m.zarr")
    np.testing.assert_array_equal(dem.load(tmp_path / "m.zarr").means_, model.means_)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"callbacks": [3]}, "callbacks must be callables"),
        ({"sample_rows": 1}, "sample_rows must be at least n_components, 2, not 1"),
    ],
)
def test_options_that_contradict(options, says):
    with pytest.raises(OptionError, match=says):
        dem.GaussianMixture(2, **options).fit(gaussian_rows())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n_rows": 0}, "Invalid value for 'n_rows': 0; it must be a whole number of at least 1"),
        ({"n_rows": 2.5}, "n_rows"),
        ({"n_rows": 10, "chunk_rows": -1}, "chunk_rows"),
        ({"n_rows": 10, "random_state": -1}, "random_state"),
        ({"n_rows": 10, "random_state": "seven"}, "random_state"),
    ],
)
def test_draws_with_odd_arguments(fitted, tmp_path, arguments, says):
    with pytest.raises(OptionError, match=says):
        fitted.sample_to(path=str(tmp_path / "draws.zarr"), **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"sha256": [1, 2]},
        {"sha256": None},
        {"sha256": {}},
        {"versions": None, "format": 7},
        {"options": 5},
        {"options": None},
        {"fitted": None},
        {"fitted": {"n_features_in_": 7}},
        {"family": ["gaussian"]},
        {"feature_names": 3},
        {"feature_names": ["a", "b"]},
    ],
    ids=str,
)
def test_damaged_attributes(fitted, tmp_path, damage):
    path = tmp_path / "m.zarr"
    fitted.save(path)
    zarr.open_group(path, mode="r+").attrs.update(damage)
    with pytest.raises(StoreError, match=r"m\.zarr"):
        dem.load(path)
