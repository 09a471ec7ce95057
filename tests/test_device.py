"""Rows on a device: the numbers are those of NumPy and scikit-learn, and only sums and results come to the host."""

from __future__ import annotations

from types import SimpleNamespace

import dask.array
import numpy as np
import pytest
import sklearn.cluster
import sklearn.mixture
import strict_device as device
import zarr

import dem
from dem.data.base import Chunk
from dem.data.numpy import ArrayRows
from dem.errors import DataError
from dem.families import nearest_device
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.gaussian import device as arithmetic
from dem.families.gaussian.frame import Frame
from dem.families.kmeans import Clusters
from dem.families.mixture import Mixture
from dem.namespaces import here, is_on_device, on_host, to_host

WITH_OWN_SUMS = ("full", "diag", "spherical")


@pytest.fixture(autouse=True)
def nothing_moved():
    device.moved["bytes"] = 0


def drawn(n=1500, d=5, k=4, seed=0, dtype=np.float64, spread=3.0):
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(k, d))
    return (centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(dtype), centres


def model_of(rows, centres, covariance, deviations=1.0):
    """Return a mixture and parameters near what has made the rows."""
    k, d = centres.shape
    component = COVARIANCE_TYPES[covariance]().adapted_to(rows)
    variances = np.broadcast_to(np.square(deviations), k) * np.linspace(0.8, 1.3, k)
    values = {"weights": np.linspace(1.0, 2.0, k) / np.linspace(1.0, 2.0, k).sum(), "means": centres}
    shapes = {"spherical": 1.0, "diag": np.linspace(0.9, 1.1, d), "full": np.eye(d) + 0.2 * np.tri(d) @ np.tri(d).T / d}
    covariances = np.multiply.outer(variances, shapes[covariance])
    roots = covariances**-0.5
    if covariance == "full":  # upper triangles U with U Uᵀ = precision
        roots = np.linalg.inv(np.linalg.cholesky(covariances)).swapaxes(1, 2)
    family = Mixture(component)
    return family, family.from_user(values | {"covariances": covariances, "precisions_cholesky": roots})


def largest_difference(one, other):
    """Return the largest difference of statistics, each relative to its size; NaN if there is any."""
    fields = ("first", "second")
    pairs = [(one.counts, other.counts), (one.log_likelihood, other.log_likelihood)]
    pairs += [(getattr(one.components, name), getattr(other.components, name)) for name in fields]
    return np.max([np.abs(np.subtract(a, b)).max() / np.abs(b).max() for a, b in pairs])


def summed_over_features(statistics):
    """Put the mean over the features in the place of second moments: a variance of all features needs no more."""
    second = statistics.components.second
    second[:] = second.mean(axis=1, keepdims=True)
    return statistics


# What nothing else may do -----------------------------------------------------------------------------------------


def test_namespaces_are_told_by_the_array():
    rows = np.ones((3, 2))
    on_device = device.asarray(rows)
    assert here(rows) is np
    assert here([1.0]) is np
    assert here(on_device) is device
    assert is_on_device(on_device)
    assert not is_on_device(rows)
    assert not is_on_device("x.zarr")
    assert to_host(rows) is rows
    assert np.array_equal(to_host(on_device), rows)
    chunk = Chunk(on_device, range(3))
    assert isinstance(on_host(chunk).rows, np.ndarray)
    with pytest.raises(TypeError):
        np.asarray(on_device)
    with pytest.raises(TypeError):
        on_device + rows


def test_arrays_of_packages_without_numpys_functions_are_refused_in_one_line():
    class Tensor:
        __cuda_array_interface__ = property(lambda _: {})
        shape, dtype, ndim = (3, 2), np.dtype(float), 2

        def __len__(self):
            return 3

        def __array__(self, *_, **__):
            msg = "can't convert cuda:0 device type tensor to numpy"
            raise TypeError(msg)

    with pytest.raises(DataError, match="can't convert cuda:0") as caught:
        dem.GaussianMixture(2).fit(Tensor())
    assert "\n" not in str(caught.value)


# One E-step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", WITH_OWN_SUMS)
@pytest.mark.parametrize("block_bytes", [2**29, 20_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_statistics_of_a_chunk_are_those_of_numpy(covariance, block_bytes, weighted, monkeypatch):
    monkeypatch.setattr(arithmetic, "BLOCK_BYTES", block_bytes)
    rows, centres = drawn()
    family, parameters = model_of(rows, centres, covariance)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(rows)) if weighted else None
    expected = family.e_step(parameters, Chunk(rows, range(len(rows)), weights=weights))
    found = family.e_step(parameters, Chunk(device.asarray(rows), range(len(rows)), weights=weights))
    if covariance == "spherical":
        expected, found = summed_over_features(expected), summed_over_features(found)
    assert largest_difference(found, expected) < 1e-12
    assert device.moved["bytes"] < 0.05 * rows.nbytes


@pytest.mark.parametrize("covariance", WITH_OWN_SUMS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_tight_components_far_out_keep_their_own_frames(covariance, dtype):
    """The wide product would lose them: their deviations are 1e-6 of their distance."""
    rng = np.random.default_rng(3)
    centres, deviations = np.array([[0.0, 0.0], [1.0, 1.0], [-1.0, 2.0]]), np.array([1e-6, 0.3, 0.3])
    labels = rng.integers(3, size=2000)
    rows = (centres[labels] + deviations[labels, None] * rng.normal(size=(2000, 2))).astype(dtype)
    family, parameters = model_of(rows, centres, covariance, deviations)
    kernel = family.arithmetic(parameters, Chunk(rows, range(len(rows))))
    assert len(kernel.plan.own)
    assert len(kernel.plan.wide)
    expected = family.e_step(parameters, Chunk(rows, range(len(rows))))
    found = family.e_step(parameters, Chunk(device.asarray(rows), range(len(rows))))
    if covariance == "spherical":
        expected, found = summed_over_features(expected), summed_over_features(found)
    assert largest_difference(found, expected) < 1e-11
    assert device.moved["bytes"] < 0.05 * rows.nbytes


@pytest.mark.parametrize("covariance", WITH_OWN_SUMS)
def test_several_models_share_the_products(covariance):
    rows, centres = drawn()
    (family, one), (_, other) = model_of(rows, centres, covariance), model_of(rows, centres[:3] + 0.5, covariance)
    joined = family.joined([one, other])
    expected = family.e_steps(joined, [4, 3], Chunk(rows, range(len(rows))))
    found = family.e_steps(joined, [4, 3], Chunk(device.asarray(rows), range(len(rows))))
    for mine, theirs in zip(found, expected, strict=True):
        if covariance == "spherical":
            mine, theirs = summed_over_features(mine), summed_over_features(theirs)
        assert largest_difference(mine, theirs) < 1e-12


@pytest.mark.parametrize("covariance", WITH_OWN_SUMS)
def test_single_precision_is_as_good_as_on_the_host(covariance):
    """Against double precision: the error of a log-density is stated to be 5e-4 at most."""
    rows, centres = drawn(n=20_000, dtype=np.float32)
    family, parameters = model_of(rows, centres, covariance)
    assert family.arithmetic(parameters, Chunk(rows, range(len(rows)))).plan.dtype == np.float32
    exact = family.e_step(parameters, Chunk(rows.astype(np.float64), range(len(rows))))
    found = family.e_step(parameters, Chunk(device.asarray(rows), range(len(rows))))
    if covariance == "spherical":
        exact, found = summed_over_features(exact), summed_over_features(found)
    assert largest_difference(found, exact) < 1e-5
    densities = family.log_likelihood(parameters, Chunk(device.asarray(rows), range(len(rows))))
    assert (
        np.abs(densities - family.log_likelihood(parameters, Chunk(rows.astype(float), range(len(rows))))).max() < 5e-4
    )


@pytest.mark.parametrize(("covariance", "d"), [(one, 5) for one in WITH_OWN_SUMS] + [("full", 70)])
def test_rows_far_out_come_a_second_time_in_double_precision(covariance, d):
    rows, centres = drawn(n=800, d=d, dtype=np.float32)
    family, parameters = model_of(rows, centres, covariance, 1.0 if d == 5 else 0.25)  # whose own frames overflow too
    assert family.arithmetic(parameters, Chunk(rows, range(len(rows)))).plan.dtype == np.float32
    rows[[3, 700]] = [[3e38] * d, [4e4] * d]  # the square of the first is more than single precision holds
    expected = family.e_step(parameters, Chunk(rows.astype(np.float64), range(len(rows))))
    found = family.e_step(parameters, Chunk(device.asarray(rows), range(len(rows))))
    if covariance == "spherical":
        expected, found = summed_over_features(expected), summed_over_features(found)
    assert np.isfinite(found.log_likelihood)
    assert largest_difference(found, expected) < 1e-6
    far = Chunk(device.asarray(rows), range(len(rows)))
    near = Chunk(rows.astype(np.float64), range(len(rows)))
    for name in ("log_likelihood", "posterior", "labels"):
        np.testing.assert_allclose(
            getattr(family, name)(parameters, far), getattr(family, name)(parameters, near), 1e-3, 1e-3
        )


def test_a_row_far_from_one_of_several_models_is_far():
    """Single precision is trusted where all models do."""
    kernel = SimpleNamespace(trusted_above=-50.0)
    largest = [device.asarray(np.float32(row)) for row in ([-1.0, -90.0, 0.0, np.nan], [-3.0, -2.0, -70.0, 0.0])]
    assert to_host(arithmetic._far(kernel, device, largest)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("covariance", WITH_OWN_SUMS)
def test_chunks_of_which_no_row_counts(covariance):
    rows, centres = drawn()
    family, parameters = model_of(rows, centres, covariance)
    nothing = Chunk(device.asarray(rows[:0]), range(0))
    assert family.e_step(parameters, nothing).counts.tolist() == [0.0] * 4
    clusters = Clusters(Frame.of(rows, isotropic=True))
    assert clusters.e_step(centres, nothing).counts.tolist() == [0.0] * 4


# Fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", WITH_OWN_SUMS)
def test_a_fit_is_that_of_scikit_learn(covariance):
    rows, centres = drawn()
    options = {"covariance_type": covariance, "means_init": centres + 0.3, "max_iter": 7, "tol": 0.0}
    start = {"weights_init": np.full(4, 0.25)}
    shape = {"full": np.tile(np.eye(5), (4, 1, 1)), "diag": np.ones((4, 5)), "spherical": np.ones(4)}
    options |= start | {"precisions_init": shape[covariance]}
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        expected = sklearn.mixture.GaussianMixture(4, **options).fit(rows)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        found = dem.GaussianMixture(4, **options).fit(device.asarray(rows))
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)
    on_device = device.asarray(rows)
    np.testing.assert_allclose(found.score_samples(on_device), expected.score_samples(rows), rtol=1e-10)
    np.testing.assert_allclose(found.predict_proba(on_device), expected.predict_proba(rows), rtol=1e-8, atol=1e-12)
    assert np.array_equal(found.predict(on_device), expected.predict(rows))
    assert found.score(on_device) == pytest.approx(expected.score(rows), rel=1e-12)


def test_a_fit_moves_the_sample_and_sums_alone():
    """Ten passes over 1.6 MB, of which a fiftieth is the sample; the same bits twice."""
    rows, _ = drawn(n=20_000, d=10)
    options = {"random_state": 0, "max_iter": 10, "tol": 0.0, "sample_rows": 400}
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        one = dem.GaussianMixture(4, **options).fit(device.asarray(rows))
    assert device.moved["bytes"] < 0.05 * rows.nbytes
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        other = dem.GaussianMixture(4, **options).fit(device.asarray(rows))
    assert np.array_equal(one.covariances_, other.covariances_)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        host = dem.GaussianMixture(4, **options).fit(rows)
    np.testing.assert_allclose(one.means_, host.means_, rtol=0.0, atol=1e-10)
    device.moved["bytes"] = 0
    one.predict(device.asarray(rows))
    assert device.moved["bytes"] < 1.01 * 8 * len(rows)


def test_blocks_of_a_dask_array_stay_on_the_device(tmp_path):
    rows, centres = drawn(n=4000)
    lazy = dask.array.from_array(rows, chunks=(900, 5)).map_blocks(device.asarray, dtype=float, meta=np.empty((0, 0)))
    options = {"means_init": centres, "random_state": 0, "sample_rows": 50}
    found, expected = dem.GaussianMixture(4, **options).fit(lazy), dem.GaussianMixture(4, **options).fit(rows)
    assert device.moved["bytes"] < 0.3 * rows.nbytes  # of all passes
    np.testing.assert_allclose(found.means_, expected.means_, rtol=0.0, atol=1e-10)
    labels = found.predict(lazy)
    assert isinstance(labels, dask.array.Array)
    assert np.array_equal(labels.compute(), expected.predict(rows))
    found.predict_to(lazy, str(tmp_path / "proba.zarr"), kind="proba")
    stored = zarr.open_array(str(tmp_path / "proba.zarr"), mode="r")[...]
    np.testing.assert_allclose(stored, expected.predict_proba(rows), rtol=0.0, atol=1e-10)


@pytest.mark.slow  # two processes
def test_processes_give_the_bits_of_threads(cluster):
    from distributed import Client

    rows, centres = drawn(n=4000)
    lazy = dask.array.from_array(rows, chunks=(900, 5)).map_blocks(device.asarray, dtype=float, meta=np.empty((0, 0)))
    options = {"means_init": centres, "random_state": 0, "sample_rows": 50}
    expected = dem.GaussianMixture(4, **options).fit(lazy)
    with Client(cluster):
        for given in (lazy, lazy.persist()):
            found = dem.GaussianMixture(4, **options).fit(given)
            assert np.array_equal(found.covariances_, expected.covariances_)
            assert np.array_equal(found.predict(given).compute(), expected.predict(rows))


def test_what_no_device_computes_comes_to_the_host_and_is_the_same():
    rows, _ = drawn()
    gaps = np.where(np.random.default_rng(2).random(rows.shape) < 0.05, np.nan, rows)
    labels = np.where(np.arange(len(rows)) < 20, 1, -1)
    short = {"random_state": 0, "max_iter": 200, "tol": 0.1}
    cases = [
        (dem.GaussianMixture(4, missing="marginalise", **short), gaps, {}),
        (dem.GaussianMixture(4, missing="skip", **short), gaps, {}),
        (dem.GaussianMixture(4, **short), rows, {"labels": labels}),
        (dem.GaussianMixture(4, **short), rows, {"noise_covariance": np.full(rows.shape, 0.1)}),
        (dem.GaussianMixture(4, covariance_type="tied", **short), rows, {}),
        (dem.GaussianMixture(4, top_components=2, **short), rows, {}),
        (dem.GaussianMixture(4, noise=True, **short), rows, {}),
        (dem.BayesianGaussianMixture(4, **short), rows, {}),
        (dem.StudentTMixture(4, **short), rows, {}),
    ]
    for model, given, known in cases:
        expected = model.fit(given, **known).means_
        np.testing.assert_allclose(model.fit(device.asarray(given), **known).means_, expected, rtol=0.0, atol=1e-9)
        assert np.array_equal(model.predict(device.asarray(given)), model.predict(given))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_told_with_its_place(bad):
    rows, _ = drawn()
    rows[700, 2] = bad
    fitted = dem.GaussianMixture(2, random_state=0).fit(drawn()[0])
    with pytest.raises(DataError, match=r"CuPy array .*row 700, column 2"):
        dem.GaussianMixture(2, random_state=0).fit(device.asarray(rows))
    with pytest.raises(DataError, match=r"CuPy array .*row 700, column 2"):
        fitted.predict(device.asarray(rows))
    with pytest.raises(DataError, match=r"CuPy array .*row 700, column 2"):
        fitted.score(device.asarray(rows))
    with pytest.raises(DataError, match="has 2 features, but GaussianMixture is expecting 5"):
        fitted.predict(device.asarray(rows[:, :2]))


def test_chunks_of_a_device_are_large():
    """128 features in single precision: 512 MB are four chunks, not the hundred that a processor's cores ask for."""
    table = device.ndarray(np.broadcast_to(np.float32(0.0), (10**6, 128)))
    assert [len(batch.span) for batch in ArrayRows(table).batches()] == [2**18, 2**18, 2**18, 10**6 - 3 * 2**18]


# k-means ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
def test_k_means_is_that_of_scikit_learn(dtype, weighted, monkeypatch):
    monkeypatch.setattr(nearest_device, "BLOCK_BYTES", 100_000)
    rows, centres = drawn(n=20_000, dtype=dtype)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(rows)) if weighted else None
    options = {"init": centres + 0.5, "n_init": 1, "tol": 1e-12}
    expected = sklearn.cluster.KMeans(4, **options).fit(rows.astype(np.float64), sample_weight=weights)
    device.moved["bytes"] = 0
    found = dem.KMeans(4, sample_rows=100, **options).fit(device.asarray(rows), sample_weight=weights)
    assert device.moved["bytes"] < 0.05 * rows.nbytes + 8 * len(rows)  # the labels
    np.testing.assert_allclose(found.cluster_centers_, expected.cluster_centers_, rtol=0.0, atol=1e-10)
    assert found.inertia_ == pytest.approx(expected.inertia_, rel=1e-10)
    assert np.array_equal(found.labels_, expected.labels_)
    on_device = device.asarray(rows)
    np.testing.assert_allclose(found.transform(on_device), expected.transform(rows), rtol=1e-6, atol=1e-6)


def test_rows_that_single_precision_cannot_tell_go_to_the_nearest_centre():
    """Centres nearer to one another than single precision tells, and rows between them."""
    rng = np.random.default_rng(4)
    centres = 3.0 + 1e-6 * rng.normal(size=(6, 4))
    rows = (3.0 + 1e-5 * rng.normal(size=(3000, 4))).astype(np.float32)
    nothing, scale = np.zeros(4), np.ones(4)
    exact = ((rows.astype(np.longdouble)[:, None] - centres) ** 2).sum(axis=2)
    found = nearest_device.nearest(device.asarray(rows), centres, nothing, scale)
    ordered = np.sort(exact, axis=1)
    clear = ordered[:, 1] - ordered[:, 0] > 1e-13
    assert clear.mean() > 0.9
    assert np.array_equal(found[clear], exact.argmin(axis=1)[clear])


def test_clusters_without_rows_move_to_the_rows_that_are_farthest():
    rows, centres = drawn()
    clusters = Clusters(Frame.of(rows, isotropic=True))
    parameters = clusters.from_user({"cluster_centers": np.vstack([centres, centres[:2] + 1e3])})
    found = clusters.e_step(parameters, Chunk(device.asarray(rows), range(len(rows))))
    expected = clusters.e_step(parameters, Chunk(rows, range(len(rows))))
    assert np.array_equal(found.farthest.rows, expected.farthest.rows[:2])
    assert found.farthest.most == 2
    np.testing.assert_allclose(clusters.m_step(found, parameters), clusters.m_step(expected, parameters), atol=1e-12)


# CuPy itself ------------------------------------------------------------------------------------------------------


def test_cupy_itself():
    reason = "needs a CUDA device and CuPy"
    cupy = pytest.importorskip("cupy", reason=reason)
    functions = {name for name, one in vars(device).items() if callable(one) and not name.startswith("_")}
    assert functions <= vars(cupy).keys()  # of the stand-in, as far as it can be compared without a device
    assert {name for name in vars(device.ndarray) if not name.startswith("_")} <= {*dir(cupy.ndarray)}
    if not cupy.is_available():
        pytest.skip(reason)
    rows, centres = drawn(n=50_000, d=8)
    for dtype, close in ((np.float64, 1e-10), (np.float32, 1e-3)):
        given = cupy.asarray(rows.astype(dtype))
        for covariance in WITH_OWN_SUMS:
            options = {"covariance_type": covariance, "means_init": centres, "random_state": 0}
            expected = dem.GaussianMixture(4, **options).fit(rows)
            found, again = (dem.GaussianMixture(4, **options).fit(given) for _ in range(2))
            assert np.array_equal(found.covariances_, again.covariances_)
            np.testing.assert_allclose(found.covariances_, expected.covariances_, rtol=0.0, atol=close)
            np.testing.assert_allclose(found.predict_proba(given), expected.predict_proba(rows), rtol=0.0, atol=close)
        options = {"init": centres, "n_init": 1}
        expected = dem.KMeans(4, **options).fit(rows.astype(dtype))
        lazy = dask.array.from_array(rows.astype(dtype), chunks=(9000, -1)).map_blocks(cupy.asarray)
        found = dem.KMeans(4, **options).fit(lazy)
        np.testing.assert_allclose(found.cluster_centers_, expected.cluster_centers_, rtol=0.0, atol=1e-9)
