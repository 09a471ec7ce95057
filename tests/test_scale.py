"""`scale=True`: the fit of rows in units of their standard deviations, told in the units of the user."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.cluster
import zarr
from cases import gaussian_rows
from sources import CutRows

import dem
from dem.errors import DataError, DataWarning, OptionError
from dem.initialise.moments import feature_moments

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SCALES = np.array([1e-3, 1.0, 500.0])


def wide_rows(n_rows=600):
    """Rows whose features have very different units, far from the origin."""
    return gaussian_rows(n_rows) * SCALES + [0.0, 1e4, -7.0]


def standardised(rows, weights=None):
    mean = np.average(rows, axis=0, weights=weights)
    deviation = np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=weights))
    return (rows - mean) / deviation, mean, deviation


def in_users_units(covariances, kind, deviation):
    if kind in ("full", "tied"):
        return covariances * deviation[:, np.newaxis] * deviation
    return covariances if kind == "spherical" else covariances * deviation**2


WEIGHTS = pytest.mark.parametrize(
    "weights",
    [
        pytest.param(None, marks=pytest.mark.slow, id="alike"),
        pytest.param(np.random.default_rng(3).random(600), id="weights"),
    ],
)


@WEIGHTS
@pytest.mark.parametrize("init", ["kmeans", pytest.param("k-means++", marks=pytest.mark.slow), "k-means||"])
@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_a_scaled_fit_is_that_of_scaled_rows(kind, init, weights):
    rows = wide_rows()
    if kind == "tied" and init == "k-means++":
        rows -= np.average(rows, axis=0, weights=weights)  # scikit-learn's start has moments about the origin
    inner, mean, deviation = standardised(rows, weights)
    options = {"covariance_type": kind, "reg_covar": 0.05, "random_state": 0, "init_params": init, "max_iter": 15}
    ours = dem.GaussianMixture(3, scale=True, **options).fit(rows, sample_weight=weights)
    theirs = dem.GaussianMixture(3, **options).fit(inner, sample_weight=weights)
    np.testing.assert_allclose(ours.feature_means_, mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ours.feature_scales_, deviation, rtol=1e-10)
    np.testing.assert_allclose((ours.means_ - mean) / deviation, theirs.means_, rtol=1e-6, atol=1e-8)
    expected = in_users_units(theirs.covariances_, kind, deviation)
    np.testing.assert_allclose(ours.covariances_, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    jacobian = np.log(deviation).sum()
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_ - jacobian, abs=1e-8)
    np.testing.assert_allclose(ours.score_samples(rows), theirs.score_samples(inner) - jacobian, atol=1e-6)
    np.testing.assert_array_equal(ours.predict(rows), theirs.predict(inner))
    drawn = (ours.sample(4000)[0] - mean) / deviation
    np.testing.assert_allclose(drawn.std(axis=0), theirs.sample(4000)[0].std(axis=0), rtol=0.1)


def test_mixtures_of_t_distributions_scale_too():
    rows = wide_rows()
    inner, mean, deviation = standardised(rows)
    options = {"covariance_type": "diag", "reg_covar": 0.05, "random_state": 0, "max_iter": 15}
    ours = dem.StudentTMixture(3, scale=True, **options).fit(rows)
    theirs = dem.StudentTMixture(3, **options).fit(inner)
    np.testing.assert_allclose((ours.means_ - mean) / deviation, theirs.means_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        ours.score_samples(rows), theirs.score_samples(inner) - np.log(deviation).sum(), atol=1e-6
    )


@WEIGHTS
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_k_means_is_that_of_scaled_rows(init, weights):
    rows = wide_rows()
    inner, mean, deviation = standardised(rows, weights)
    ours = dem.KMeans(3, init=init, n_init=1, scale=True, random_state=0).fit(rows, sample_weight=weights)
    theirs = sklearn.cluster.KMeans(3, init=(ours.cluster_centers_ - mean) / deviation, n_init=1, tol=1e-12)
    theirs.fit(inner, sample_weight=weights)
    np.testing.assert_allclose((ours.cluster_centers_ - mean) / deviation, theirs.cluster_centers_, atol=0.02)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-3)
    assert ours.score(rows, sample_weight=weights) == pytest.approx(-ours.inertia_, rel=1e-9)
    distances = np.linalg.norm(inner[:, None] - (ours.cluster_centers_ - mean) / deviation, axis=2)
    np.testing.assert_allclose(ours.transform(rows), distances, atol=1e-9)
    np.testing.assert_array_equal(ours.predict(rows), distances.argmin(axis=1))


def test_k_means_in_units_starts_as_on_scaled_rows():
    rows = wide_rows()
    inner, mean, deviation = standardised(rows)
    ours, theirs = (dem.KMeans(5, init="k-means||", random_state=0, scale=scale) for scale in (True, False))
    ours.fit(rows), theirs.fit(inner)
    np.testing.assert_allclose((ours.cluster_centers_ - mean) / deviation, theirs.cluster_centers_, atol=1e-7)
    assert ours.n_iter_ == theirs.n_iter_


@pytest.mark.parametrize(
    "make",
    [
        lambda: dem.GaussianMixture(3, covariance_type="spherical", scale=True, random_state=0),
        lambda: dem.GaussianMixture(3, scale=True, random_state=0),
        lambda: dem.KMeans(3, scale=True, random_state=0),
    ],
)
def test_scales_are_in_the_file(tmp_path, make):
    rows = wide_rows()
    model = make().fit(rows)
    model.save(str(tmp_path / "m.zarr"))
    loaded = dem.load(str(tmp_path / "m.zarr"))
    np.testing.assert_array_equal(loaded.feature_scales_, model.feature_scales_)
    np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))
    assert loaded.score(rows) == pytest.approx(model.score(rows), rel=1e-12)
    if hasattr(model, "warm_start"):
        model.set_params(warm_start=True).fit(rows)
        np.testing.assert_array_equal(loaded.set_params(warm_start=True).fit(rows).means_, model.means_)
    model.set_params(scale=False, **({"warm_start": False} if hasattr(model, "warm_start") else {})).fit(rows)
    assert not hasattr(model, "feature_scales_")


def test_moments_do_not_depend_on_cuts_and_leave_gaps_out():
    rng = np.random.default_rng(5)
    rows, weights = 1e8 + wide_rows(1000), rng.random(1000)
    rows[rng.random(rows.shape) < 0.3] = np.nan
    rows[100:200, 0] = np.nan  # a whole chunk
    found = []
    for edges in ([0], [0, 100, 200, 777]):
        chunks = [chunk for batch in CutRows(rows, edges).batches() for chunk in batch]
        parts = [feature_moments(chunk) for chunk in chunks]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        found.append(total)
    there = np.isfinite(rows)
    for j in range(3):
        column = rows[there[:, j], j]
        for total in found:
            assert total.counts[j] == there[:, j].sum()
            np.testing.assert_allclose(total.means[j, 0], column.mean(), rtol=1e-14)
            np.testing.assert_allclose(total.scatter[j, 0] / total.counts[j], column.var(), rtol=1e-7)
    weighted = feature_moments(dem.data.Chunk(rows, range(1000), weights=weights))
    np.testing.assert_allclose(weighted.counts, (weights[:, None] * there).sum(axis=0))


def test_select_measures_once(tmp_path):
    rows = wide_rows()
    options = {"covariance_type": "diag", "scale": True, "random_state": 0, "init_params": "random_from_data"}
    here = dem.GaussianMixture(3, **options, max_iter=20).fit(rows)
    chosen = dem.select(rows, n_components=[2, 3], **options, max_iter=20)
    np.testing.assert_array_equal(chosen.best_estimator_.feature_scales_, here.feature_scales_)
    assert chosen.table[1]["log_likelihood"] == pytest.approx(here.score(rows), abs=1e-3)


@pytest.mark.slow
def test_a_cluster_measures_to_the_same_bits(cluster, tmp_path):
    from distributed import Client

    zarr.create_array(tmp_path / "x.zarr", data=wide_rows(), chunks=(100, 3))
    model = dem.GaussianMixture(3, covariance_type="diag", scale=True, random_state=0, max_iter=3)
    with Client(cluster):
        there = model.fit(str(tmp_path / "x.zarr")).means_
    np.testing.assert_array_equal(model.fit(str(tmp_path / "x.zarr")).means_, there)


@pytest.mark.filterwarnings("ignore:in some direction reg_covar")
def test_what_cannot_be_scaled():
    with pytest.raises(OptionError, match="scale=True needs all the data before the first step"):
        dem.GaussianMixture(2, scale=True).partial_fit(wide_rows(100))
    fitted = dem.GaussianMixture(2, scale=True, random_state=0).fit(wide_rows(500))
    fitted.partial_fit(wide_rows(100))
    with pytest.raises(DataError, match=r"NumPy array holds 1 NaN"):
        dem.GaussianMixture(2, scale=True).fit(np.where(np.arange(30).reshape(10, 3) == 4, np.nan, 1.0))
    constant = np.column_stack([wide_rows(200), np.full(200, 7.0)])
    with pytest.warns(DataWarning, match="column 3 of NumPy array is constant"):
        assert dem.GaussianMixture(2, scale=True, random_state=0).fit(constant).feature_scales_[3] == 1.0
