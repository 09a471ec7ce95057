"""What may be given of rows, by which names, and what is said of anything else."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dem
from dem.errors import DataError, OptionError


def rows(n=300, d=3):
    return np.random.default_rng(0).normal(size=(n, d))


@pytest.mark.parametrize("model", [dem.GaussianMixture(2, random_state=0), dem.KMeans(2, random_state=0)], ids=str)
def test_unknown_arguments_are_named_with_the_known_ones(model):
    said = r"^there is no argument 'wieght'; what is known of rows goes by sample_weight, labels, .* variable, "
    with pytest.raises(OptionError, match=said):
        model.fit(rows(), wieght=np.ones(300))
    fitted = model.fit(rows())
    with pytest.raises(OptionError, match=said):
        fitted.predict(rows(), wieght=None)
    with pytest.raises(OptionError, match="there is no argument 'proba'"):
        fitted.predict_to(rows(), "nowhere.zarr", proba=True)


@pytest.mark.parametrize("known", [{"u": "eu", "g": "eg"}, {"eu": "no", "eg": "such"}, {"u": 0.1, "g": 0.2}], ids=str)
@pytest.mark.parametrize("kind", ["pandas", "parquet"])
def test_a_dict_names_no_columns_of_a_table(kind, known, tmp_path):
    frame = pd.DataFrame(np.exp(rows(d=2)), columns=["u", "g"]).assign(eu=0.01, eg=0.02)
    data = frame
    if kind == "parquet":
        data = str(tmp_path / "table.parquet")
        frame.to_parquet(data)
    with pytest.raises(DataError, match="columns of a table are named in a list, in the order of the features"):
        dem.GaussianMixture(2).fit(data, noise_covariance=known)


@pytest.mark.filterwarnings("ignore:X has feature names")
def test_a_model_of_an_array_takes_tables_with_names():
    table = pd.DataFrame(rows(), columns=list("ugr"))
    for model in (dem.GaussianMixture(2, random_state=0), dem.KMeans(2, random_state=0)):
        fitted = model.fit(rows())
        np.testing.assert_array_equal(fitted.predict(table), fitted.predict(rows()))
        assert fitted.score(table) == fitted.score(rows())
    gaps = rows()
    gaps[::5, 1] = np.nan
    fitted = dem.GaussianMixture(2, missing="marginalise", random_state=0).fit(gaps)
    filled = fitted.impute(pd.DataFrame(gaps, columns=list("ugr")))
    np.testing.assert_array_equal(filled, fitted.impute(gaps))


def test_a_stream_may_bring_rows_that_do_not_count():
    model = dem.GaussianMixture(2, random_state=0).partial_fit(rows())
    before = model.means_.copy(), model.lower_bound_, model.n_samples_seen_
    model.partial_fit(rows() + 5.0, sample_weight=np.zeros(300))
    np.testing.assert_array_equal(model.means_, before[0])
    assert (model.lower_bound_, model.n_samples_seen_) == before[1:]


@pytest.mark.filterwarnings("ignore:components 0, 1 are empty")
def test_the_background_of_a_fitted_model_is_that_of_its_fit():
    boxed = dem.GaussianMixture(2, noise=True, warm_start=True, random_state=0).fit(rows())
    for other in (5.0, False):
        boxed.set_params(noise=other)
        for use in (boxed.predict, boxed.score, boxed.fit, boxed.partial_fit):
            with pytest.raises(OptionError, match=rf"^noise was True in the fit of the model, and is {other} now; set"):
                use(rows())
    boxed.set_params(noise=True).score(rows())
    volume = dem.GaussianMixture(2, noise=5.0, warm_start=True, random_state=0).fit(rows())
    volume.fit(rows()).partial_fit(rows())
    for other in (7.0, True):
        with pytest.raises(OptionError, match=f"noise was 5 in the fit of the model, and is {other} now"):
            volume.set_params(noise=other).score(rows())
    plain = dem.GaussianMixture(2, random_state=0).fit(rows()).set_params(noise=True)
    with pytest.raises(OptionError, match="noise was False in the fit of the model, and is True now"):
        plain.predict(rows())
    # A fit from the beginning has the background that it is asked for.
    again = volume.set_params(noise=True, warm_start=False).fit(rows())
    assert again.noise_box_.shape == (2, 3)


def test_variables_that_name_features_along_a_dimension_are_put_in_their_order():
    rng = np.random.default_rng(0)
    data = xr.Dataset({name: (("x", "z"), rng.normal(size=(80, 3))) for name in "TP"}, coords={"z": [1, 2, 3]})
    errors = xr.Dataset({name: (("x", "z"), np.full((80, 3), size)) for name, size in (("P", 0.2), ("T", 0.1))})
    features = {"T": "z", "P": "z"}
    ours = dem.GaussianMixture(1, random_state=0).fit(data, features=features, noise_covariance=errors)
    plain = np.tile([0.1, 0.1, 0.1, 0.2, 0.2, 0.2], (80, 1))
    theirs = dem.GaussianMixture(1, random_state=0).fit(data, features=features, noise_covariance=plain)
    np.testing.assert_array_equal(ours.covariances_, theirs.covariances_)


def test_limits_by_the_names_of_features():
    table = pd.DataFrame(rows(), columns=list("ugr"))
    table.loc[::7, "g"] = np.nan
    wanted = dem.GaussianMixture(2, covariance_type="diag", random_state=0).fit(table, upper=[np.inf, -1.0, np.inf])
    for upper in (pd.Series({"g": -1.0, "u": np.inf, "r": np.inf}), xr.Dataset({"g": -1.0, "u": np.inf, "r": np.inf})):
        found = dem.GaussianMixture(2, covariance_type="diag", random_state=0).fit(table, upper=upper)
        np.testing.assert_array_equal(found.means_, wanted.means_)


def test_labels_that_are_nan_are_not_known():
    known = np.where(np.arange(300) % 5, -1, np.arange(300) % 2)
    gaps = pd.Series(known).where(known >= 0)
    expected = dem.GaussianMixture(2, random_state=0).fit(rows(), labels=known)
    for labels in (
        gaps,
        gaps.astype("Int64"),
        gaps.astype("Int64").astype(object),
        gaps.to_numpy(),
        [None if one < 0 else int(one) for one in known],
    ):
        found = dem.GaussianMixture(2, random_state=0).fit(rows(), labels=labels)
        np.testing.assert_array_equal(found.means_, expected.means_)
    with pytest.raises(DataError, match=r"labels is 2.0 in row 10; .* from 0 to 1, or -1 \(NaN\)"):
        dem.GaussianMixture(2).fit(rows(), labels=gaps.where(gaps.index != 10, 2))


def test_what_is_said_of_words_for_labels_and_of_rows_without_values():
    words = np.array(["a", "b", "?"] * 100)
    with pytest.raises(DataError, match="number the names first, -1 where none is known"):
        dem.GaussianMixture(2).fit(rows(), labels=words)
    with pytest.raises(
        OptionError, match=re.escape("init_params='k-means||' has none: give another, such as 'kmeans'")
    ):
        dem.GaussianMixture(2, init_params="k-means||", sample_rows=100).fit(rows(), labels=np.zeros(300, dtype=int))
    empty = np.where(np.arange(3) == 1, np.nan, rows())
    with pytest.raises(DataError, match="no row of NumPy array counts: all have the weight zero, or gaps"):
        dem.GaussianMixture(2, missing="skip", scale=True).fit(empty)
