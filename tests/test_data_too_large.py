"""Numbers that are finite, but whose squares are not: one line that says so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cases import gaussian_rows

import dem
from dem.errors import DataError


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("scale", [1e154, 1e200, 1e307])
def test_squares_that_overflow(covariance_type, scale):
    rows = gaussian_rows(500)
    rows[:, 1] *= scale
    model = dem.GaussianMixture(2, covariance_type=covariance_type, random_state=0)
    with pytest.raises(
        DataError, match=r"^column 1 of NumPy array has values of a size \(.*\) whose squares overflow; "
    ):
        model.fit(rows)
    named = dem.open_rows(pd.DataFrame(rows, columns=["x", "y", "z"]))
    with pytest.raises(DataError, match=r"^column 1 \('y'\) of pandas DataFrame "):
        model.fit(named)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_just_below(covariance_type):
    rows = gaussian_rows(500)
    options = {"covariance_type": covariance_type, "random_state": 0}
    small, large = dem.GaussianMixture(2, **options).fit(rows), dem.GaussianMixture(2, **options).fit(rows * 2.0**500)
    np.testing.assert_allclose(large.means_, small.means_ * 2.0**500, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:the value -9.22e.18 in row 0")
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_other_kinds_of_numbers_spread_in_float64(dtype):
    rows = np.random.default_rng(0).integers(0, 2, (200, 3)).astype(dtype)
    rows[0] = np.iinfo(np.int64).min if dtype is np.int64 else 1
    dem.GaussianMixture(1, covariance_type="diag", random_state=0).fit(rows)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "model",
    [
        dem.GaussianMixture(2, random_state=0, sample_rows=500, missing="marginalise"),
        dem.GaussianMixture(2, random_state=0, sample_rows=500, algorithm="stepwise"),
        dem.KMeans(2, random_state=0, sample_rows=500),
    ],
    ids=["gaussian", "stepwise", "k-means"],
)
def test_a_value_outside_of_the_sample_is_named(model):
    rows = np.random.default_rng(0).normal(size=(20_000, 3))
    rows[[14_321, 17_000], 1] = -1e225
    if model.get_params().get("missing") == "marginalise":
        rows[::7, 0] = np.nan
    found = r"^the value -1e\+225 in row 14321, column 1 of NumPy array is of a size whose squares overflow; drop or"
    with pytest.raises(DataError, match=found):
        model.fit(rows)
