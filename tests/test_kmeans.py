"""k-means: scikit-learn's clusters from the same start, out of core, on every kind of data and engine."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn.cluster
import zarr
from agreement import assert_same_bits
from cases import gaussian_rows
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from sources import CutRows

import dem
from dem.errors import ComponentWarning, DataError, DataWarning, OptionError, StoreError
from dem.events import IterationEnded


def blobs(seed=0, n_rows=3000, n_blobs=6, offset=0.0):
    rng = np.random.default_rng(seed)
    centres = 5.0 * rng.normal(size=(n_blobs, 3))
    return offset + centres[rng.integers(n_blobs, size=n_rows)] + rng.normal(size=(n_rows, 3))


# scikit-learn expects its own k-means to fail it too.
DRAWS = "a start is drawn from the rows: weighted rows are drawn otherwise than repeated ones"


@parametrize_with_checks(
    [dem.KMeans(n_clusters=3)],
    expected_failed_checks=lambda _: {
        f"check_sample_weight_equivalence_on_{kind}_data": DRAWS for kind in ("dense", "sparse")
    },
)
def test_check_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("tol", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("seed", range(4))
def test_scikit_learns_clusters_from_the_same_start(tol, seed):
    rows = blobs(seed, offset=100.0)
    start = rows[np.random.default_rng(seed).choice(len(rows), 8, replace=False)]
    theirs = sklearn.cluster.KMeans(8, init=start, n_init=1, tol=tol, algorithm="lloyd").fit(rows)
    counted = CutRows(rows, [7, 1000, 2500])
    ours = dem.KMeans(8, init=start, tol=tol).fit(counted)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-10)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-10)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_array_equal(ours.predict(rows), theirs.predict(rows))
    np.testing.assert_allclose(ours.transform(rows), theirs.transform(rows), rtol=1e-7)
    assert ours.score(rows) == pytest.approx(theirs.score(rows), rel=1e-10)
    assert counted.reads == ours.n_iter_ + 3  # the sample, the inertia and the labels


def test_clusters_without_rows_move_as_in_scikit_learn():
    rows = blobs(1)
    start = np.concatenate([rows[:4], [[500.0, 0.0, 0.0]]])
    theirs = sklearn.cluster.KMeans(5, init=start, n_init=1, max_iter=30).fit(rows)
    ours = dem.KMeans(5, init=start, max_iter=30).fit(CutRows(rows, [1000]))
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-10)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-10)
    assert len(np.unique(ours.labels_)) == 5


@pytest.mark.parametrize("init", ["k-means||", "k-means++", "random"])
def test_reference_values(init, faithful):
    iris = dem.KMeans(3, init=init, n_init=5, random_state=0, tol=0.0).fit(load_iris().data)
    assert iris.inertia_ == pytest.approx(78.8514414, abs=5e-8)
    assert dem.KMeans(2, init=init, random_state=0, tol=0.0).fit(faithful).inertia_ == pytest.approx(8901.768721)


def test_starts_share_reads_and_are_compared_on_the_sample():
    counted = CutRows(blobs(2, 6000), [3000])
    model = dem.KMeans(6, init="k-means++", n_init=10, random_state=0, sample_rows=500).fit(counted)
    assert counted.reads <= 1.2 * model.n_iter_ + 4
    best = sklearn.cluster.KMeans(6, n_init=20, random_state=0).fit(counted.table)
    assert model.inertia_ == pytest.approx(best.inertia_, rel=1e-3)


@pytest.mark.slow
def test_chunks_do_not_matter_and_engines_give_the_same_bits(request):
    rows = blobs(3)
    options = {"n_clusters": 6, "random_state": 0}
    here = dem.KMeans(**options).fit(CutRows(rows, [1000, 2000]))
    otherwise = dem.KMeans(**options).fit(CutRows(rows, [1, 50, 2999]))
    np.testing.assert_allclose(otherwise.cluster_centers_, here.cluster_centers_, rtol=1e-10)
    request.getfixturevalue("client")
    there = dem.KMeans(**options).fit(CutRows(rows, [1000, 2000]))
    np.testing.assert_array_equal(there.cluster_centers_, here.cluster_centers_)
    assert there.inertia_ == here.inertia_


def test_labels_of_zarr_are_lazy(tmp_path):
    rows = blobs(4)
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(500, 3))
    path = str(tmp_path / "rows.zarr")
    model = dem.KMeans(6, random_state=0).fit(path)
    assert type(model.labels_).__module__.startswith("dask")
    np.testing.assert_array_equal(model.labels_.compute(), model.predict(rows))
    np.testing.assert_array_equal(model.fit_predict(rows), model.predict(rows))


def test_far_from_the_origin():
    rows = blobs(5)
    start = rows[:6]
    near, far = dem.KMeans(6, init=start).fit(rows), dem.KMeans(6, init=start + 2.0**30).fit(rows + 2.0**30)
    np.testing.assert_allclose(far.cluster_centers_ - 2.0**30, near.cluster_centers_, atol=1e-6)
    assert far.inertia_ == pytest.approx(near.inertia_, rel=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "kmeans"}, "'init' parameter of KMeans must be"),
        ({"n_clusters": 0}, "'n_clusters' parameter of KMeans must be"),
        ({"init": [[0.0, 0.0]]}, r"init must have shape \(8, 3\), not \(1, 2\)"),
        ({"n_init": 0}, "'n_init' parameter of KMeans must be"),
        ({"callbacks": [1]}, "callbacks must be callables"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        dem.KMeans(**options).fit(blobs())


def test_bad_data():
    with pytest.raises(DataError, match="should be >= n_clusters=8"):
        dem.KMeans().fit(np.eye(3))
    rows = blobs()
    rows[2000, 1] = np.inf
    with pytest.raises(DataError, match="row 2000"):
        dem.KMeans(random_state=0).fit(CutRows(rows, [1000]))
    with pytest.raises(DataError, match="row 2000"):  # which is not in the sample
        dem.KMeans(3, init="random", n_init=1, sample_rows=10, random_state=0).fit(CutRows(rows, [1000]))
    model = dem.KMeans(3, random_state=0).fit(blobs())
    with pytest.raises(DataError, match="row 2000"):
        model.score(rows)
    with pytest.raises(DataError, match="NaN or inf"):
        model.predict(rows)


def test_too_few_iterations_are_a_warning():
    with pytest.warns(UserWarning, match="did not converge within 1 iteration;"):
        dem.KMeans(8, max_iter=1, tol=0.0, random_state=0).fit(blobs())


# Model files ------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    rows = pd.DataFrame(blobs(6), columns=["u", "v", "w"])
    model = dem.KMeans(6, init=rows.to_numpy()[:6], random_state=0).fit(rows)
    model.save(tmp_path / "model.zarr")
    return tmp_path / "model.zarr", model, rows


def test_round_trip(saved):
    path, model, rows = saved
    back = dem.load(path)
    assert type(back) is dem.KMeans
    assert_same_bits(back, model, ("cluster_centers_", "inertia_", "n_iter_", "n_features_in_", "feature_names_in_"))
    assert (back.history_, back.converged_) == (model.history_, True)
    options, saved_options = back.get_params(), model.get_params()
    np.testing.assert_array_equal(options.pop("init"), saved_options.pop("init"))
    assert options == saved_options
    assert not hasattr(back, "labels_"), "as many as the rows"
    np.testing.assert_array_equal(back.predict(rows), model.labels_)
    np.testing.assert_array_equal(back.transform(rows), model.transform(rows))
    assert back.score(rows) == model.score(rows)
    assert back.get_feature_names_out().tolist() == [f"kmeans{k}" for k in range(6)]
    assert zarr.open_group(path, mode="r").attrs["family"] == "kmeans"


def test_one_line_for_files_that_are_no_good(saved):
    path, model, _ = saved
    with pytest.raises(StoreError, match="exists already"):
        model.save(path)
    attributes = zarr.open_group(path, mode="r+").attrs
    attributes["options"] = {**attributes["options"], "n_clusters": 5}
    with pytest.raises(StoreError, match=r"damaged.*with n_clusters 5 and 3 features, cluster_centers are"):
        dem.load(path)
    model.save(path, overwrite=True)
    attributes = zarr.open_group(path, mode="r+").attrs
    attributes["family"] = "bernoulli"
    with pytest.raises(StoreError, match="damaged"):
        dem.load(path)
    attributes["family"] = "k-medians"
    with pytest.raises(StoreError, match=r"knows .*bernoulli, .*, kmeans, .*poisson"):
        dem.load(path)
    model.save(path, overwrite=True)
    (chunk,) = [file for file in (path / "cluster_centers" / "c").rglob("*") if file.is_file()]
    chunk.unlink()
    with pytest.raises(StoreError, match="damaged: its array 'cluster_centers'"):
        dem.load(path)


def test_what_is_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        dem.KMeans().save(tmp_path / "model.zarr")


def test_history_is_in_the_users_units():
    rows = 1000.0 * blobs(7)
    model = dem.KMeans(6, random_state=0, tol=0.0).fit(CutRows(rows, [1000]))
    assert [record["iteration"] for record in model.history_] == list(range(1, model.n_iter_ + 1))
    assert -model.history_[-1]["log_likelihood"] * len(rows) == pytest.approx(model.inertia_, rel=1e-12)
    assert all(record["gain"] >= 0.0 for record in model.history_)


def test_an_interrupted_fit_holds_the_last_centres():
    def interrupt(event):
        if isinstance(event, IterationEnded) and event.iteration == 3:
            raise KeyboardInterrupt

    rows, model = blobs(8), dem.KMeans(6, init="random", n_init=1, random_state=0)
    model.fit(rows[:100])
    with pytest.raises(KeyboardInterrupt):
        model.set_params(callbacks=[interrupt]).fit(rows)
    with pytest.warns(UserWarning, match="did not converge"):
        expected = dem.KMeans(6, init="random", n_init=1, random_state=0, max_iter=3).fit(rows)
    np.testing.assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
    assert (model.n_iter_, model.converged_, len(model.history_)) == (3, False, 3)
    assert model.inertia_ > expected.inertia_
    assert not hasattr(model, "labels_")


@pytest.mark.parametrize(
    "estimator", [dem.KMeans(2, random_state=0), dem.GaussianMixture(2, random_state=0)], ids=["k-means", "mixture"]
)
def test_interrupted_before_the_first_iteration_it_is_what_it_was(estimator):
    def interrupt(event):
        raise KeyboardInterrupt

    rows = blobs(8)
    before = clone(estimator).fit(rows)
    expected = before.predict(rows)
    with pytest.raises(KeyboardInterrupt):
        before.set_params(callbacks=[interrupt]).fit(rows[:, :2])
    np.testing.assert_array_equal(before.predict(rows), expected)


@pytest.mark.parametrize(("kind", "expected"), [("labels", "predict"), ("distances", "transform")])
def test_streams(tmp_path, kind, expected):
    rows = blobs(9)
    model = dem.KMeans(6, random_state=0).fit(rows)
    model.predict_to(rows, tmp_path / "out.zarr", kind=kind)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr", mode="r")[...], getattr(model, expected)(rows))
    with pytest.raises(OptionError, match="kind must be one of labels, distances, not 'proba'"):
        model.predict_to(rows, tmp_path / "other.zarr", kind="proba")
    rows[2000, 1] = np.nan
    with pytest.raises(DataError, match="row 2000"):
        model.predict_to(CutRows(rows, [1000]), tmp_path / "other.zarr", kind=kind)


def test_a_model_of_a_store_can_be_pickled(tmp_path):
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=gaussian_rows(), chunks=(500, 3))
    model = dem.KMeans(4, random_state=0).fit(path)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(np.asarray(again.labels_), np.asarray(model.labels_))


def test_values_whose_squares_overflow_are_named():
    with pytest.raises(DataError, match="whose squares overflow; divide the data by their scale first"):
        dem.KMeans(2, random_state=0).fit(gaussian_rows(50) * 1e200)


def test_fewer_distinct_rows_than_clusters_are_said():
    rows = np.repeat([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]], 4, axis=0)
    said = pytest.warns(DataWarning, match="only 3 distinct rows for 5 clusters; decrease n_clusters")
    with said, pytest.warns(ComponentWarning, match="clusters 3, 4 are empty"):
        dem.KMeans(5, random_state=0).fit(rows)


def test_given_centres_are_one_start():
    rows = np.array([[0.0], [1.0], [10.0], [11.0]])
    with pytest.warns(RuntimeWarning, match="init gives the centres, so there is one start, not n_init=4"):
        fitted = dem.KMeans(2, init=[[0.0], [10.0]], n_init=4).fit(rows)
    assert np.sort(fitted.cluster_centers_.ravel()).tolist() == [0.5, 10.5]
    dem.KMeans(2, init=[[0.0], [10.0]]).fit(rows)


def test_a_callable_chooses_the_centres(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], 20, axis=0)
    calls = []

    def init(X, n_clusters, random_state):
        calls.append((X.shape, n_clusters))
        return X[random_state.permutation(len(X))[:n_clusters]]

    fitted = dem.KMeans(3, init=init, random_state=0).fit(rows)
    assert calls == [((60, 2), 3)] * 10
    theirs = sklearn.cluster.KMeans(3, init=init, random_state=0).fit(rows)
    assert fitted.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)
    fitted.save(str(tmp_path / "model.zarr"))
    np.testing.assert_array_equal(dem.load(str(tmp_path / "model.zarr")).predict(rows), fitted.predict(rows))
    with pytest.raises(OptionError, match=r"what init returns must have shape \(3, 2\), not \(2, 2\)"):
        dem.KMeans(3, init=lambda X, n_clusters, random_state: X[: n_clusters - 1] + random_state.rand()).fit(rows)
