"""Messages about a DataFrame call it one and name its column, whoever finds the trouble."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import dem
from dem.errors import DataError, DataWarning

NAN = r"^pandas DataFrame (holds|contains) .*NaN.*row 7.*column 1 \('x'\)"


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(np.random.default_rng(0).normal(size=(100, 2)), columns=["u", "x"])


@pytest.fixture(scope="module")
def holed(frame):
    return frame.assign(x=frame["x"].where(frame.index != 7))


@pytest.fixture(scope="module")
def fitted(frame):
    return dem.GaussianMixture(2, random_state=0).fit(frame)


@pytest.mark.parametrize(
    "learn",
    [
        lambda table: dem.GaussianMixture(2).fit(table),
        lambda table: dem.GaussianMixture(2, init_params="k-means||").fit(table),
        lambda table: dem.GaussianMixture(2).partial_fit(table),
        lambda table: dem.KMeans(2).fit(table),
        lambda table: dem.select(table, n_components=2),
    ],
    ids=["fit", "k-means||", "partial_fit", "KMeans", "select"],
)
def test_nan_in_a_fit(holed, learn):
    with pytest.raises(DataError, match=NAN):
        learn(holed)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score"])
def test_nan_in_use(fitted, holed, method):
    with pytest.raises(DataError, match=NAN):
        getattr(fitted, method)(holed)


def test_nan_in_a_stream_of_labels_and_in_lazy_labels(fitted, holed, tmp_path):
    with pytest.raises(DataError, match=NAN):
        fitted.predict_to(holed, str(tmp_path / "labels.zarr"))
    lazy = fitted.predict(dd.from_pandas(holed, npartitions=3))
    with pytest.raises(DataError, match=r"^dask DataFrame contains NaN .*column 1 \('x'\)"):
        lazy.compute()


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (["a"] * 100, r"column 't' of pandas DataFrame holds values .*'a'"),
        (pd.Timestamp("2020-01-01"), "column 't' of pandas DataFrame holds dates"),
    ],
    ids=["text", "dates"],
)
def test_what_scikit_learn_cannot_convert(frame, values, what):
    with pytest.raises(DataError, match=what):
        dem.GaussianMixture(2).fit(frame.assign(t=values))


@pytest.mark.filterwarnings("ignore:in some direction reg_covar")
def test_other_trouble(frame):
    with pytest.raises(DataError, match=r"^Found pandas DataFrame with 1 sample"):
        dem.GaussianMixture(2).fit(frame[:1])
    with pytest.raises(DataError, match=r"n_samples = 100 in pandas DataFrame$"):
        dem.GaussianMixture(200).fit(frame)
    with pytest.warns(DataWarning, match="^column x of pandas DataFrame is constant"):
        dem.GaussianMixture(1).fit(frame.assign(x=1.0))


def test_the_models_of_a_selection_know_the_columns(frame):
    chosen = dem.select(frame, n_components=[1, 2], random_state=0)
    assert [list(one.feature_names_in_) for one in chosen.estimators] == [["u", "x"]] * 2
