"""Model selection: a table of criteria from shared reads, held-out rows, and the chosen model."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import dask.array as da
import numpy as np
import pytest
import sklearn.mixture
import zarr
from agreement import assert_close
from cases import CASES, gaussian_rows
from sources import CutRows

import dem
from dem.data.base import Chunk
from dem.em.predict import LogLikelihood
from dem.engine import LocalEngine
from dem.errors import DataError, DataWarning, FitError, OptionError
from dem.estimators.callbacks import History
from dem.estimators.holdout import Holdout, HoldoutEngine, OnPart

NAMES = ("weights_", "means_", "covariances_")


@pytest.fixture(scope="module")
def chosen():
    rows = CutRows(gaussian_rows(), [1000, 2000])
    result = dem.select(
        rows, n_components=range(1, 5), covariance_type=("full", "diag"), random_state=0, tol=1e-5, max_iter=500
    )
    return rows, result


def test_the_grid_is_fitted_on_shared_reads(chosen):
    rows, result = chosen
    assert [(row["n_components"], row["covariance_type"]) for row in result.table] == [
        (k, kind) for kind in ("full", "diag") for k in range(1, 5)
    ]
    assert result.reads == rows.reads == max(row["reads"] for row in result.table)
    assert all(row["reads"] == row["n_iter"] + 2 and row["status"] == "converged" for row in result.table)
    assert (result.best_estimator_.n_components, result.best_estimator_.covariance_type) == (3, "full")
    assert result.table[result.best_index]["bic"] == min(row["bic"] for row in result.table)


def test_a_selection_is_shown_as_a_line_and_in_notebooks_as_a_table(chosen):
    _, result = chosen
    line = "chosen by bic: 3 components, covariance full"
    assert repr(result) == f"Selection(8 models; {line}; {result.reads} reads of all data)"
    page = ET.fromstring(result._repr_html_())
    rows = page.findall("./tbody/tr")
    assert [row[0].text for row in rows] == list("1234" * 2)
    assert [f"{one['bic']:.1f}" for one in result.table] == [row[4].text for row in rows]
    assert [i for i, row in enumerate(rows) if "bold" in row[0].get("style")] == [result.best_index]
    assert page.find("caption").text.startswith(line)


def test_the_table_of_a_notebook_escapes_why_a_model_failed():
    row = {"n_components": 1, "bic": 1.0, "status": "converged"}
    failed = {"n_components": 2, "bic": math.nan, "status": "failed: <covariance> & more"}
    page = ET.fromstring(dem.Selection([row, failed], "bic", 0, [], 3)._repr_html_())
    assert [one.get("title") for one in page.findall("./tbody/tr")] == ["converged", "failed: <covariance> & more"]
    assert page.findall("./tbody/tr")[1][-1].text == "failed"


def test_each_model_is_what_its_own_fit_gives(chosen):
    _, result = chosen
    for row, estimator in zip(result.table, result.estimators, strict=True):
        alone = dem.GaussianMixture(
            row["n_components"], covariance_type=row["covariance_type"], random_state=0, tol=1e-5, max_iter=500
        ).fit(CutRows(gaussian_rows(), [1000, 2000]))
        assert_close(estimator, alone, NAMES, rtol=1e-10)
        np.testing.assert_allclose(estimator.lower_bounds_, alone.lower_bounds_, rtol=1e-12)
        assert len(estimator.history_) == len(alone.history_)


def test_the_criteria_are_those_of_scikit_learn(chosen):
    _, result = chosen
    table = gaussian_rows()
    for row, estimator in zip(result.table, result.estimators, strict=True):
        theirs = sklearn.mixture.GaussianMixture(row["n_components"], covariance_type=row["covariance_type"])
        for name in (*NAMES, "precisions_cholesky_"):
            setattr(theirs, name, getattr(estimator, name))
        assert row["bic"] == pytest.approx(theirs.bic(table), rel=1e-10)
        assert row["aic"] == pytest.approx(theirs.aic(table), rel=1e-10)
        assert row["icl"] == pytest.approx(estimator.icl(table), rel=1e-10)
        assert row["n_parameters"] == theirs._n_parameters()
        assert row["log_likelihood"] == pytest.approx(theirs.score(table), rel=1e-10)
        assert row["held_out"] is None


def test_held_out_rows_have_no_part_in_the_fit():
    table = gaussian_rows()
    held = Holdout(0.2).holds(range(len(table)))
    assert 0.15 < held.mean() < 0.25
    options = {"n_components": (2, 3), "random_state": 0, "tol": 1e-6, "holdout": 0.2, "max_iter": 500}
    result = dem.select(table, criterion="held_out", **options)
    assert result.best_estimator_.n_components == 3
    for row, estimator in zip(result.table, result.estimators, strict=True):
        alone = dem.GaussianMixture(row["n_components"], random_state=0, tol=1e-6, max_iter=500).fit(table[~held])
        assert_close(estimator, alone, NAMES, rtol=1e-9)
        assert estimator.n_samples_seen_ == np.count_nonzero(~held)
        assert row["held_out"] == pytest.approx(estimator.score(table[held]), rel=1e-12)
        assert row["bic"] == pytest.approx(estimator.bic(table[~held]), rel=1e-12)
    # The same rows, however they are cut: the table does not change.
    again = dem.select(CutRows(table, [1, 17, 1500]), criterion="held_out", **options)
    for one, other in zip(result.table, again.table, strict=True):
        assert one["held_out"] == pytest.approx(other["held_out"], rel=1e-10)
    assert again.reads == max(row["n_iter"] for row in again.table) + 2


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_sweep_over_some_batches_holds_out_the_same_rows(share):
    rows = CutRows(gaussian_rows(), [1000, 2000])
    holdout = Holdout(share)
    work = LogLikelihood(*dem.GaussianMixture(2, random_state=0).fit(rows)._model())
    engine = HoldoutEngine(LocalEngine(1), holdout)
    total = engine.submit(rows, [work], slice(1, 3)).result()[0]
    engine.close()
    assert total.n_rows == np.count_nonzero(~holdout.holds(range(1000, 3000)))


def test_a_chunk_without_rows_of_a_part_counts_nothing():
    model = dem.GaussianMixture(2, random_state=0).fit(gaussian_rows())
    work = OnPart(LogLikelihood(*model._model()), Holdout(0.0), held_out=True)
    assert work(Chunk(gaussian_rows(10), range(10))).n_rows == 0.0


def test_starts_are_compared_on_the_sample_and_the_best_few_polished():
    rows = CutRows(gaussian_rows(6000), [3000])
    options = {"n_components": (2, 3, 4), "n_init": 4, "sample_rows": 500, "random_state": 0, "tol": 1e-5}
    result = dem.select(rows, max_iter=500, **options)
    assert result.best_estimator_.n_components == 3
    phases = {record["phase"] for record in result.best_estimator_.history_}
    assert phases == {"sample", "data"}
    assert rows.reads == result.reads == max(row["reads"] for row in result.table)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_family(case):
    rows = CutRows(case.data(), [1000, 2000])
    result = dem.select(
        rows, n_components=(2, 3), criterion="icl", estimator=case.estimator(tol=1e-4, max_iter=500), holdout=0.1
    )
    assert rows.reads == result.reads == max(row["reads"] for row in result.table)
    kept = case.data()[~Holdout(0.1).holds(range(3000))]
    for row, estimator in zip(result.table, result.estimators, strict=True):
        alone = case.estimator(tol=1e-4, max_iter=500, n_components=row["n_components"]).fit(kept)
        assert_close(estimator, alone, case.parameters, rtol=1e-9)
        for criterion in ("bic", "aic", "icl"):
            assert row[criterion] == pytest.approx(getattr(estimator, criterion)(kept), rel=1e-12)
    assert result.table[result.best_index]["icl"] == min(row["icl"] for row in result.table)
    assert list(result.to_pandas().columns) == list(result.table[0])
    assert ("covariance_type" in result.table[0]) == ("covariance_type" in result.best_estimator_.get_params())


@pytest.mark.filterwarnings("ignore::dem.errors.DataWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_model_that_fails_is_a_row_with_a_reason():
    rows = np.repeat(np.random.default_rng(0).normal(size=(4, 2)), 5, axis=0)
    result = dem.select(rows, n_components=(1, 4), reg_covar=0.0, random_state=0)
    assert result.best_estimator_.n_components == 1
    failed = result.table[1]
    assert failed["status"].startswith("failed: Fitting the mixture model failed because some components")
    assert math.isnan(failed["bic"])
    with pytest.raises(FitError, match="ill-defined"):
        dem.select(rows, n_components=4, reg_covar=0.0, random_state=0)


def test_the_chosen_model_can_be_saved(chosen, tmp_path):
    _, result = chosen
    result.best_estimator_.save(str(tmp_path / "model.zarr"))
    assert_close(dem.load(str(tmp_path / "model.zarr")), result.best_estimator_, NAMES, rtol=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "mdl"}, "criterion must be one of bic, aic, icl, held_out, stability, lower_bound, not 'mdl'"),
        ({"holdout": 1.0}, "holdout must be a share of the rows, at least 0 and less than 1, not 1.0"),
        ({"criterion": "held_out"}, "needs held-out rows"),
        ({"holdout": 0.01}, "holdout=0.01 of the 30 rows of .* is less than one row"),
        ({"estimator": dem.KMeans()}, r"estimator must be a mixture such as dem.BernoulliMixture\(\), not KMeans\(\)"),
        ({"estimator": dem.BernoulliMixture}, "estimator must be a mixture"),
        ({"top_components": 2}, "top_components does not go with select"),
        ({"n_components": []}, "needs at least one value"),
        ({"n_components": [0]}, "'n_components' parameter of GaussianMixture must be"),
        ({"covariance_type": "round"}, "'covariance_type' parameter of GaussianMixture must be"),
        ({"tolerance": 1.0}, "GaussianMixture has no option 'tolerance'; it has"),
        ({"means_init": [[0.0, 0.0, 0.0]]}, "means_init does not go with select"),
        ({"estimator": dem.BernoulliMixture(), "covariance_type": "full"}, "covariance_type is for Gaussian mixtures"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        dem.select(gaussian_rows(30), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm", ["incremental", *(pytest.param(one, marks=pytest.mark.slow) for one in ("stepwise", "auto"))]
)
def test_the_models_of_a_grid_share_each_pass_of_any_algorithm(algorithm):
    rows = CutRows(gaussian_rows(), list(range(100, 3000, 100)))
    options = {"algorithm": algorithm, "tol": 1e-6, "max_iter": 200, "random_state": 0, "n_init": 2}
    chosen = dem.select(rows, n_components=(1, 3), covariance_type=("full", "tied"), **options)
    assert chosen.best_estimator_.n_components == 3
    assert chosen.reads == 2 + max(record["iteration"] for one in chosen.estimators for record in one.history_)
    assert all(row["status"] == "converged" for row in chosen.table)
    for one in chosen.estimators:
        alone = dem.GaussianMixture(one.n_components, covariance_type=one.covariance_type, **options).fit(rows)
        assert one.n_iter_ == alone.n_iter_
        assert_close(one, alone, NAMES, rtol=1e-9)


def test_bad_data():
    with pytest.raises(DataError, match="has 3 rows, too few for 8 components"):
        dem.select(np.eye(3))
    with pytest.raises(DataError, match=r"[0-3] rows of .* are left for the fit, too few for 4 components"):
        dem.select(gaussian_rows(500), n_components=4, holdout=0.999)
    rows = gaussian_rows()
    rows[1500, 1] = np.nan
    with pytest.raises(DataError, match="row 1500"):
        dem.select(rows, n_components=2, sample_rows=None)


def test_the_same_bits_on_a_cluster(request):
    options = {"n_components": (2, 3), "holdout": 0.1, "random_state": 0}
    here = dem.select(CutRows(gaussian_rows(), [1000, 2000]), **options)
    request.getfixturevalue("client")
    there = dem.select(CutRows(gaussian_rows(), [1000, 2000]), **options)
    assert there.table == here.table


def test_the_callbacks_that_are_given_are_told():
    told = History()
    dem.select(np.random.default_rng(0).normal(size=(300, 2)), n_components=[1, 2], random_state=0, callbacks=[told])
    assert told.records


@pytest.mark.parametrize("kind", ["array", "zarr", "dask"])
def test_labels_leave_out_models_that_lack_their_components(kind, tmp_path):
    rows, labels = gaussian_rows(), np.where(np.arange(3000) % 50 == 0, np.arange(3000) // 50 % 3, -1)
    zarr.create_array(tmp_path / "labels.zarr", data=labels, chunks=(700,))
    kinds = {"array": labels, "zarr": str(tmp_path / "labels.zarr"), "dask": da.from_array(labels, chunks=900)}
    with pytest.warns(DataWarning, match="labels of .* name component 2: n_components=1, 2 is left out"):
        found = dem.select(rows, n_components=range(1, 5), labels=kinds[kind], random_state=0, tol=1e-2)
    assert [row["n_components"] for row in found.table] == [3, 4]
    alone = dem.GaussianMixture(3, random_state=0, tol=1e-2).fit(rows, labels=labels)
    assert_close(found.estimators[0], alone, ("weights_", "means_"))


@pytest.mark.filterwarnings("ignore:of the chosen model component 1 is empty")
def test_labels_of_a_background_in_a_search():
    rows = np.concatenate([gaussian_rows(500), np.random.default_rng(0).uniform(-20, 20, (50, 3))])
    labels = np.where(np.arange(550) < 520, -1, 3)
    options = {"noise": True, "random_state": 0, "tol": 1e-2}
    found = dem.select(rows, n_components=3, covariance_type=["full", "diag"], labels=labels, **options)
    alone = dem.GaussianMixture(3, **options).fit(rows, labels=labels)
    assert_close(found.estimators[0], alone, ("weights_", "means_"))
    with pytest.warns(DataWarning, match="n_components=2, 3 is left out"):
        dem.select(rows, n_components=(2, 3, 4), labels=labels, **options)
    with pytest.raises(DataError, match="name component 3: n_components=2, 3 is too few; search among more than 3"):
        dem.select(rows, n_components=(2, 3), labels=labels, **options)
