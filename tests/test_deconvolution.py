"""Rows with errors of their own: extreme deconvolution, from Python and of any kind of data."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from cases import CASES, gaussian_rows
from sklearn.base import clone
from sources import CutRows

import dem
from dem.data.base import Chunk
from dem.errors import DataError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

START = {
    "weights_init": np.array([0.5, 0.5]),
    "means_init": np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 3.0]]),
    "precisions_init": np.array([np.eye(3), 0.5 * np.eye(3)]),
}
TRUE = np.array(
    [[[1.0, 0.3, 0.0], [0.3, 0.5, 0.0], [0.0, 0.0, 0.4]], [[2.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.8]]]
)


def noisy(n_rows=400, kind="full", size=0.6):
    """Rows of two components seen with errors, and the covariances of these."""
    rng = np.random.default_rng(3)
    labels = (np.arange(n_rows) % 3 == 0).astype(int)
    factors = np.linalg.cholesky(TRUE)[labels]
    rows = START["means_init"][labels] + np.einsum("nij,nj->ni", factors, rng.normal(size=(n_rows, 3)))
    errors = size * rng.normal(size=(n_rows, 3, 3))
    if kind == "diag":
        errors *= np.eye(3)
    noise = errors @ errors.swapaxes(1, 2)
    rows += np.einsum("nij,nj->ni", errors, rng.normal(size=(n_rows, 3)))
    return rows, np.ascontiguousarray(np.diagonal(noise, axis1=1, axis2=2)) if kind == "diag" else noise


def bovy(rows, noise, counts, n_iter, *, start=START, tied=False):
    """EM as Bovy, Hogg and Roweis (2011) write it, row by row; a NaN is left out by a projection R."""
    weights, means = start["weights_init"], start["means_init"]
    covariances = np.linalg.inv(start["precisions_init"])
    n, k, d = len(rows), len(weights), rows.shape[1]
    likelihoods = []
    for _ in range(n_iter):
        joint, b, big_b = np.empty((n, k)), np.empty((n, k, d)), np.empty((n, k, d, d))
        for i, j in np.ndindex(n, k):
            seen = ~np.isnan(rows[i])
            project = np.eye(d)[seen]
            total = project @ (covariances[j] + noise[i]) @ project.T
            away = rows[i][seen] - project @ means[j]
            gain = covariances[j] @ project.T @ np.linalg.inv(total)
            joint[i, j] = np.log(weights[j]) - 0.5 * (away @ np.linalg.solve(total, away))
            joint[i, j] -= 0.5 * np.linalg.slogdet(2 * np.pi * total)[1]
            b[i, j] = means[j] + gain @ away
            big_b[i, j] = covariances[j] - gain @ project @ covariances[j]
        total = np.logaddexp.reduce(joint, axis=1)
        share = counts[:, np.newaxis] * np.exp(joint - total[:, np.newaxis])
        likelihoods.append(counts @ total / counts.sum())
        sums = share.sum(axis=0)
        weights, means = sums / sums.sum(), np.einsum("ij,ijd->jd", share, b) / sums[:, np.newaxis]
        away = b - means
        spread = np.einsum("ij,ijd,ije->jde", share, away, away) + np.einsum("ij,ijde->jde", share, big_b)
        covariances = spread / sums[:, np.newaxis, np.newaxis]
        if tied:
            covariances = np.broadcast_to(spread.sum(axis=0) / sums.sum(), spread.shape)
    return weights, means, covariances, likelihoods


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["full", "diag"])
def test_em_is_that_of_bovy_hogg_and_roweis(kind, weighted):
    rows, noise = noisy(150, kind)
    counts = np.arange(150) % 3 + 0.5 if weighted else np.ones(150)
    dense = noise if kind == "full" else noise[:, :, np.newaxis] * np.eye(3)
    weights, means, covariances, likelihoods = bovy(rows, dense, counts, 6)
    ours = dem.GaussianMixture(2, reg_covar=0, max_iter=6, tol=0, **START)
    ours.fit(rows, sample_weight=counts if weighted else None, noise_covariance=noise)
    np.testing.assert_allclose(ours.weights_, weights, atol=1e-12)
    np.testing.assert_allclose(ours.means_, means, atol=1e-12)
    np.testing.assert_allclose(ours.covariances_, covariances, atol=1e-12)
    np.testing.assert_allclose(ours.lower_bounds_, likelihoods, rtol=1e-12)


@pytest.mark.parametrize("far", [0.0, 1e5])
def test_tied_covariances(far):
    """Also where components lie so far out that each has a frame of its own."""
    rows, noise = noisy(150)
    shift = np.array([[0.0, 0.0, 0.0], [far, far, far]])
    rows = rows + shift[(np.arange(150) % 3 == 0).astype(int)]
    start = {**START, "means_init": START["means_init"] + shift, "precisions_init": np.array([np.eye(3)] * 2)}
    weights, means, covariances, likelihoods = bovy(rows, noise, np.ones(150), 5, start=start, tied=True)
    start["precisions_init"] = np.eye(3)
    ours = dem.GaussianMixture(2, covariance_type="tied", reg_covar=0, max_iter=5, tol=0, **start)
    ours.fit(rows, noise_covariance=noise)
    np.testing.assert_allclose(ours.weights_, weights, atol=1e-12)
    np.testing.assert_allclose(ours.means_, means, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(ours.covariances_, covariances[0], atol=1e-9)
    np.testing.assert_allclose(ours.lower_bounds_, likelihoods, rtol=1e-9)


def test_what_is_not_observed_is_projected_away():
    rows, noise = noisy(150)
    rows[np.arange(0, 150, 4), np.arange(0, 150, 4) % 3] = np.nan
    rows[7, 1:] = rows[31] = np.nan
    for errors in (noise, np.zeros_like(noise)):
        weights, means, covariances, likelihoods = bovy(rows, errors, np.ones(150), 1)
        model = dem.GaussianMixture(2, reg_covar=0, missing="marginalise", **START)
        family = model._family(model._component().adapted_to(rows[~np.isnan(rows).any(axis=1)]))
        start = family.from_user(model._initial_values(3))
        statistics = family.e_step(start, Chunk(rows, range(150), noise=errors))
        assert statistics.log_likelihood / 150 == pytest.approx(likelihoods[0], rel=1e-12)
        for one in (statistics, family.rebased(statistics, start)):
            found = family.to_user(family.m_step(one, start))
            np.testing.assert_allclose(found["weights"], weights, atol=1e-12)
            np.testing.assert_allclose(found["means"], means, atol=1e-12)
            np.testing.assert_allclose(found["covariances"], covariances, atol=1e-12)


@pytest.mark.parametrize("width", [1.0, 1e-5])
def test_errors_of_zero_change_nothing(width):
    rows = gaussian_rows(width=width)  # narrow components have frames of their own
    options = {"n_components": 3, "reg_covar": 1e-6 * width**2, "random_state": 0, "tol": 0, "max_iter": 10}
    plain = dem.GaussianMixture(**options).fit(rows)
    for noise in (np.zeros((3000, 3)), np.zeros((3000, 3, 3))):
        ours = dem.GaussianMixture(**options).fit(rows, noise_covariance=noise)
        np.testing.assert_allclose(ours.means_, plain.means_, rtol=1e-10, atol=1e-10 * width)
        np.testing.assert_allclose(ours.covariances_, plain.covariances_, rtol=1e-9, atol=1e-10 * width**2)
        np.testing.assert_allclose(ours.score_samples(rows, noise_covariance=noise), plain.score_samples(rows))


@pytest.mark.parametrize(
    "algorithm",
    ["batch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("incremental", "stepwise", "auto"))],
)
def test_the_density_without_errors_is_found(algorithm):
    rows, noise = noisy(6000, size=0.8)
    fits = dem.GaussianMixture(2, random_state=0, tol=1e-5, algorithm=algorithm)
    fits.fit(CutRows(rows, range(0, 6000, 500)), noise_covariance=noise)
    order = np.argsort(fits.means_[:, 0])
    np.testing.assert_allclose(fits.means_[order], START["means_init"], atol=0.15)
    np.testing.assert_allclose(fits.covariances_[order], TRUE, atol=0.25)
    np.testing.assert_allclose(fits.weights_[order], [2 / 3, 1 / 3], atol=0.02)
    blind = dem.GaussianMixture(2, random_state=0).fit(rows)
    assert np.trace(blind.covariances_[np.argmin(blind.means_[:, 0])]) > 1.5 * np.trace(TRUE[0])
    if algorithm != "stepwise":
        assert np.diff(fits.lower_bounds_).min() > -1e-5


def test_rows_are_judged_with_their_errors(tmp_path):
    rows, noise = noisy(300)
    model = dem.GaussianMixture(2, random_state=0).fit(rows, noise_covariance=noise)
    totals = model.covariances_ + noise[:, np.newaxis]
    away = rows[:, np.newaxis] - model.means_
    joint = np.log(model.weights_) - 0.5 * np.einsum("nkd,nkde,nke->nk", away, np.linalg.inv(totals), away)
    joint -= 0.5 * np.linalg.slogdet(2 * np.pi * totals)[1]
    density = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(model.score_samples(rows, noise_covariance=noise), density, rtol=1e-12)
    assert model.score(rows, noise_covariance=noise) == pytest.approx(density.mean(), rel=1e-12)
    assert model.bic(rows, noise_covariance=noise) == pytest.approx(-600 * density.mean() + 19 * np.log(300))
    shares = np.exp(joint - density[:, np.newaxis])
    np.testing.assert_allclose(model.predict_proba(rows, noise_covariance=noise), shares, atol=1e-12)
    np.testing.assert_array_equal(model.predict(rows, noise_covariance=noise), joint.argmax(axis=1))
    model.predict_to(rows, str(tmp_path / "out.zarr"), kind="log_density", noise_covariance=noise)
    np.testing.assert_allclose(zarr.open_array(tmp_path / "out.zarr")[:], density, rtol=1e-12)
    cube = xr.DataArray(rows.reshape(20, 15, 3), dims=("y", "x", "v"), coords={"y": np.arange(20)}).chunk(y=7)
    mapped = model.score_samples(cube, feature_dim="v", noise_covariance=noise)
    assert mapped.dims == ("y", "x")
    np.testing.assert_allclose(mapped.values.ravel(), density, rtol=1e-12)


@pytest.mark.slow
def test_any_kind_of_errors_on_threads_and_a_cluster(cluster, tmp_path):
    from distributed import Client

    rows, noise = noisy(900)
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(100, 3))
    zarr.create_array(tmp_path / "noise.zarr", data=noise, chunks=(370, 3, 3))
    whole = str(tmp_path / "rows.zarr")
    kinds = [noise, da.from_array(noise, chunks=(200, 3, 3)), str(tmp_path / "noise.zarr")]
    fitted = dem.GaussianMixture(2, random_state=0, max_iter=4)
    here = [clone(fitted).fit(whole, noise_covariance=given) for given in kinds]
    with Client(cluster):
        there = [clone(fitted).fit(whole, noise_covariance=given) for given in kinds]
    for one in [*here[1:], *there]:
        np.testing.assert_array_equal(one.covariances_, here[0].covariances_)
    cut = clone(fitted).fit(CutRows(rows, [0, 17, 500]), noise_covariance=noise)
    np.testing.assert_allclose(cut.covariances_, here[0].covariances_, rtol=1e-8)


def test_errors_go_with_labels_truncation_and_select():
    rows, noise = noisy(600)
    labels = np.where(np.arange(600) % 2, (np.arange(600) % 3 == 0).astype(int), -1)
    fitted = dem.GaussianMixture(2, random_state=0).fit(rows, labels=labels, noise_covariance=noise)
    np.testing.assert_allclose(fitted.means_, START["means_init"], atol=0.4)
    few = dem.GaussianMixture(2, random_state=0, top_components=2).fit(rows, noise_covariance=noise)
    fewer = dem.GaussianMixture(2, random_state=0, top_components=1).fit(rows, noise_covariance=noise)
    assert fewer.lower_bound_ < few.lower_bound_
    chosen = dem.select(rows, n_components=range(1, 4), random_state=0, noise_covariance=noise)
    assert chosen.best_estimator_.n_components == 2
    assert min(row["bic"] for row in chosen.table) == pytest.approx(
        chosen.best_estimator_.bic(rows, noise_covariance=noise)
    )


def spoiled(place, value):
    noise = noisy(50)[1]
    noise[place] = value
    return noise


@pytest.mark.parametrize(
    ("noise", "says"),
    [
        (np.zeros((7, 3)), r"noise_covariance has the shape \(7, 3\)"),
        (np.zeros(50), r"noise_covariance has the shape \(n_rows\), but there are 3 features"),
        (np.zeros((50, 2)), r"give variances, \(n_rows, 3\), or covariances, \(n_rows, 3, 3\)"),
        (-np.ones((50, 3)), r"is -1\.0 in row 0, column 0; the variances of errors must not be negative"),
        (spoiled((3, 1, 1), np.nan), "is nan in row 3, column 1; the variances of errors must be finite where"),
        (spoiled((3, 1, 2), np.nan), "is nan in row 3, column 1, 2; the variances of errors must be finite"),
        (spoiled((3, 1, 1), np.inf), "is inf in row 3, column 1, 1; the variances of errors must be finite"),
        (spoiled((3, 1, 2), 9.0), "in row 3, column 1, 2; the covariances of errors must be symmetric"),
        (spoiled((4,), np.ones((3, 3)) - np.eye(3) * 1e-3), "in row 4; .* must be positive semi-definite"),
    ],
)
def test_bad_errors_are_named(noise, says):
    with pytest.raises(DataError, match=says):
        dem.GaussianMixture(2, random_state=0).fit(noisy(50)[0], noise_covariance=noise)


@pytest.mark.parametrize("case", [case for case in CASES if "noise" not in case.family().component.knows], ids=str)
def test_other_models_refuse_errors(case):
    rows = case.data()
    with pytest.raises(OptionError, match="noise_covariance goes with Gaussian mixtures of full or tied"):
        case.estimator().fit(rows, noise_covariance=np.zeros(rows.shape))


def test_what_errors_do_not_go_with():
    rows, noise = noisy(50)
    with pytest.raises(OptionError, match="noise_covariance goes with Gaussian mixtures of full"):
        dem.KMeans(2).fit(rows, noise_covariance=noise)
    with pytest.raises(OptionError, match="noise_covariance goes with Gaussian mixtures of full"):
        dem.select(rows, n_components=2, covariance_type=["full", "diag"], noise_covariance=noise)


def test_errors_and_missing_values():
    rows, noise = noisy(150)
    rows[np.arange(0, 150, 4), np.arange(0, 150, 4) % 3] = np.nan
    ours = dem.GaussianMixture(2, reg_covar=0, max_iter=4, tol=0, missing="marginalise", **START)
    ours.fit(rows, noise_covariance=noise)
    weights, means, covariances, likelihoods = bovy(rows, noise, np.ones(150), 4)
    np.testing.assert_allclose(ours.weights_, weights, atol=1e-12)
    np.testing.assert_allclose(ours.means_, means, atol=1e-12)
    np.testing.assert_allclose(ours.covariances_, covariances, atol=1e-12)
    np.testing.assert_allclose(ours.lower_bounds_, likelihoods, rtol=1e-12)
    exact = clone(ours).fit(rows, noise_covariance=np.zeros_like(noise))
    plain = clone(ours).fit(rows)  # by patterns of missing values
    np.testing.assert_allclose(exact.covariances_, plain.covariances_, rtol=1e-10)
    with pytest.raises(DataError, match="NaN"):
        clone(ours).set_params(missing="error", sample_rows=20).fit(rows, noise_covariance=noise)
    skipped = clone(ours).set_params(missing="skip").fit(rows, noise_covariance=noise)
    assert skipped.n_samples_seen_ == 112


@pytest.mark.parametrize("kind", ["diag", "full"])
@pytest.mark.parametrize("limited", [False, True])
def test_what_was_not_measured_has_no_error(kind, limited, tmp_path):
    rows, noise = noisy(200, kind)
    rows[::4, 1] = np.nan
    bare = noise.copy()
    bare[::4, 1], noise[::4, 1] = np.nan, 0.0
    if kind == "full":
        bare[::4, :, 1], noise[::4, :, 1] = np.nan, 0.0
    given = {"upper": [np.inf, 0.0, np.inf]} if limited else {}
    options = {"missing": "error" if limited else "marginalise", "random_state": 0, "max_iter": 3, "tol": 0.0}
    expected = dem.GaussianMixture(2, **options).fit(rows, noise_covariance=noise, **given)
    zarr.save(str(tmp_path / "noise.zarr"), bare)
    for errors in (bare, str(tmp_path / "noise.zarr")):
        found = dem.GaussianMixture(2, **options).fit(rows, noise_covariance=errors, **given)
        np.testing.assert_array_equal(found.covariances_, expected.covariances_)
        np.testing.assert_array_equal(
            found.predict_proba(rows, noise_covariance=errors, **given),
            expected.predict_proba(rows, noise_covariance=noise, **given),
        )
