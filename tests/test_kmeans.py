"""k-means: scikit-learn's clusters from the same start, out of core, on every kind of data and engine."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.cluster
import zarr
from sklearn.datasets import load_iris
from sklearn.utils.estimator_checks import parametrize_with_checks
from sources import CutRows

import dem
from dem.errors import DataError, OptionError


def blobs(seed=0, n_rows=3000, n_blobs=6, offset=0.0):
    rng = np.random.default_rng(seed)
    centres = 5.0 * rng.normal(size=(n_blobs, 3))
    return offset + centres[rng.integers(n_blobs, size=n_rows)] + rng.normal(size=(n_rows, 3))


@parametrize_with_checks([dem.KMeans(n_clusters=3)])
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
    model = dem.KMeans(3, random_state=0).fit(blobs())
    with pytest.raises(DataError, match="row 2000"):
        model.score(rows)
    with pytest.raises(DataError, match="NaN or inf"):
        model.predict(rows)


def test_too_few_iterations_are_a_warning():
    with pytest.warns(UserWarning, match="did not converge within 1 iterations"):
        dem.KMeans(8, max_iter=1, tol=0.0, random_state=0).fit(blobs())
