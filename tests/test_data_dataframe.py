"""Rows of Dask DataFrames that were read from parquet: Dask reads other partitions once few columns are wanted."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from reassembly import reassemble

import dem
from dem.data import open_rows
from dem.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A catalogue of five files of several row groups."""
    folder = tmp_path_factory.mktemp("catalogue")
    rng = np.random.default_rng(0)
    for i in range(5):
        frame = pd.DataFrame(rng.normal(size=(90 + 7 * i, 7)), columns=list("ugrizya"))
        frame.loc[::9, "u"] = np.nan
        frame = frame.assign(flag=rng.integers(0, 3, len(frame)), name="galaxy")
        frame.to_parquet(folder / f"part.{i}.parquet", row_group_size=40)
    return folder


SELECTIONS = {
    "columns": lambda frame: frame[["g", "r"]],
    "columns with gaps dropped": lambda frame: frame[["u", "g"]].dropna(),
    "gaps dropped before": lambda frame: frame.dropna(subset=["u"])[["u", "g"]],
    "filtered by another column": lambda frame: frame[frame["flag"] == 1][["g", "r"]],
    "filtered after": lambda frame: frame[["g", "r"]][frame["g"] > 0],
    "query": lambda frame: frame.query("g > 0 and flag < 2")[["g", "r"]],
    "computed": lambda frame: frame.assign(colour=frame["g"] - frame["r"])[["colour", "r"]],
    "others dropped": lambda frame: frame.drop(columns=["name", "u"]),
    "standardised": lambda frame: (frame[["g", "r"]] - frame[["g", "r"]].mean()) / frame[["g", "r"]].std(),
    "some partitions": lambda frame: frame[["g", "r"]].partitions[1:3],
    "other partitions": lambda frame: frame[["g", "r"]].repartition(npartitions=2),
    "mixed types": lambda frame: frame[["flag", "r"]],
}


@pytest.mark.parametrize("options", [{"split_row_groups": True}, {"filesystem": "arrow"}], ids=str)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_any_selection_of_a_parquet_frame(folder, selection, options):
    frame = SELECTIONS[selection](dd.read_parquet(folder, **options))
    expected = frame.compute()
    rows = open_rows(frame)
    assert rows.n_rows == len(expected)
    assert rows.feature_names == tuple(expected.columns)
    np.testing.assert_allclose(reassemble(rows), expected.to_numpy(), rtol=1e-12)


def test_a_fit_to_columns_of_parquet(folder):
    frame = dd.read_parquet(folder)[["u", "g", "r"]].dropna()
    held = pd.read_parquet(folder)[["u", "g", "r"]].dropna()
    model = dem.GaussianMixture(2, random_state=0).fit(frame)
    expected = dem.GaussianMixture(2, random_state=0).fit(held.to_numpy())
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-10)
    np.testing.assert_array_equal(model.predict(frame).compute(), expected.predict(held.to_numpy()))


WHOLE = {
    "gaps dropped": lambda frame: frame.dropna(subset=["u", "g", "r"]),
    "filtered": lambda frame: frame[frame["flag"] == 1].dropna(),
    "as read": lambda frame: frame.fillna({"u": 0.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("selection", WHOLE)
def test_results_can_be_joined_to_the_frame(folder, selection):
    frame = WHOLE[selection](dd.read_parquet(folder, split_row_groups=True))
    columns = ["u", "g", "r"]
    model = dem.GaussianMixture(2, random_state=0).fit(frame[columns])
    labels, likelihoods = model.predict(frame[columns]), model.score_samples(frame[columns])
    assert labels.chunks == likelihoods.chunks == (tuple(frame.map_partitions(len).compute()),)
    assert model.predict_proba(frame[columns]).chunks[0] == labels.chunks[0]
    joined = frame.assign(kind=labels, likelihood=likelihoods).compute()
    held = frame.compute()
    np.testing.assert_array_equal(joined["kind"], model.predict(held[columns]))
    np.testing.assert_allclose(joined["likelihood"], model.score_samples(held[columns]), rtol=1e-12)


def test_a_frame_that_was_optimised_first_can_be_cut_down_after_the_join(folder):
    frame = dd.read_parquet(folder)[["u", "g", "r", "flag"]].dropna().optimize()
    model = dem.GaussianMixture(2, random_state=0).fit(frame[["u", "g", "r"]])
    joined = frame.assign(kind=model.predict(frame[["u", "g", "r"]]))
    held = frame.compute()
    sizes = np.bincount(model.predict(held[["u", "g", "r"]]))
    assert joined.groupby("kind").size().compute().sort_index().tolist() == sizes.tolist()


def test_files_that_are_gone_give_one_line(tmp_path):
    pd.DataFrame({"g": [1.0, 2.0], "r": [1.0, 3.0]}).to_parquet(tmp_path / "part.parquet")
    frame = dd.read_parquet(tmp_path)[["g", "r"]]
    (tmp_path / "part.parquet").unlink()
    with pytest.raises(DataError, match=r"of dask DataFrame cannot be computed .*part\.parquet"):
        open_rows(frame)
