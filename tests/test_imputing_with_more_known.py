"""Values filled in where more is known of rows than their numbers: limits, errors, labels."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import zarr

import dem

KINDS = ["full", "tied", "diag", "spherical"]


def fitted(kind, n_features=2):
    """A mixture of two components, and the covariances of these."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(n_features, n_features)) + 2.0 * np.eye(n_features)
    rows = rng.normal(size=(300, n_features)) @ mixing + np.where(np.arange(300) % 3 == 0, 5.0, 0.0)[:, np.newaxis]
    gm = dem.GaussianMixture(2, covariance_type=kind, random_state=0).fit(rows)
    covariances = (
        gm.covariances_.reshape(2, -1, 1) * np.eye(n_features)
        if kind in ("diag", "spherical")
        else (np.broadcast_to(gm.covariances_, (2, n_features, n_features)))
    )
    return gm, covariances


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_with_a_limit_has_the_mean_of_its_interval(kind):
    gm, covariances = fitted(kind)
    rows = np.column_stack([np.linspace(-3.0, 6.0, 7), np.full(7, np.nan)])
    for lower, upper in ((-np.inf, -2.0), (1.0, 2.5), (7.0, np.inf)):
        shares, means = np.empty((7, 2)), np.empty((7, 2))
        for k in range(2):
            (a, b), (_, c) = covariances[k]
            slope, (first, second) = b / a, gm.means_[k]
            there = scipy.stats.norm(second + slope * (rows[:, 0] - first), np.sqrt(c - slope * b))
            density = gm.weights_[k] * scipy.stats.norm.pdf(rows[:, 0], first, np.sqrt(a))
            shares[:, k] = density * (there.cdf(upper) - there.cdf(lower))
            ends = (lower - there.mean()) / there.std(), (upper - there.mean()) / there.std()
            means[:, k] = scipy.stats.truncnorm.mean(*ends, there.mean(), there.std())
        wanted = np.sum(shares * means, axis=1) / shares.sum(axis=1)
        found = gm.impute(rows, lower=[-np.inf, lower], upper=[np.inf, upper])
        np.testing.assert_array_equal(found[:, 0], rows[:, 0])
        np.testing.assert_allclose(found[:, 1], wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_with_limits_are_those_of_the_model_that_keep_them(kind, tmp_path):
    gm, _ = fitted(kind)
    rows, upper = np.full((4000, 2), np.nan), [np.inf, -0.5]
    drawn = gm.impute(rows, upper=upper, draw=True, random_state=1)
    kept = gm.sample(40_000)[0]
    kept = kept[kept[:, 1] < -0.5]
    assert drawn[:, 1].max() < -0.5
    for column in (0, 1):
        assert scipy.stats.ks_2samp(drawn[:, column], kept[:, column]).pvalue > 1e-3
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(np.corrcoef(kept.T)[0, 1], abs=0.07)
    mean = gm.impute(rows[:1], upper=upper)[0]
    np.testing.assert_allclose(mean, kept.mean(axis=0), atol=4.0 * kept.std(axis=0).max() / np.sqrt(len(kept)))
    gm.impute_to(rows[:5], str(tmp_path / "filled.zarr"), upper=upper)
    np.testing.assert_allclose(zarr.open_array(str(tmp_path / "filled.zarr"))[:], np.tile(mean, (5, 1)))


@pytest.mark.parametrize("matrices", [False, True], ids=["variances", "covariances"])
@pytest.mark.parametrize("kind", ["full", "tied"])
def test_errors_count_for_what_is_filled_in(kind, matrices):
    gm, covariances = fitted(kind, 3)
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(6, 3)) * 3.0
    gaps = np.array([[2], [0], [1], [2], [0, 1], [1, 2]], dtype=object)
    errors = rng.normal(size=(6, 3, 3)) * (1.5 if matrices else 1.5 * np.eye(3))
    noise = errors @ errors.swapaxes(1, 2)
    wanted, spread = rows.copy(), np.zeros_like(rows)
    for i, lacking in enumerate(gaps):
        rows[i, lacking] = np.nan
        seen = ~np.isnan(rows[i])
        shares, means, variances = np.empty(2), np.empty((2, 3)), np.empty((2, 3))
        for k in range(2):
            total = (covariances[k] + noise[i])[np.ix_(seen, seen)]
            gain = covariances[k][:, seen] @ np.linalg.inv(total)
            shares[k] = gm.weights_[k] * scipy.stats.multivariate_normal.pdf(rows[i, seen], gm.means_[k][seen], total)
            means[k] = gm.means_[k] + gain @ (rows[i, seen] - gm.means_[k][seen])
            variances[k] = np.diagonal(covariances[k] - gain @ covariances[k][seen])
        shares /= shares.sum()
        mean = shares @ means
        wanted[i, lacking] = mean[lacking]
        spread[i, lacking] = (shares @ (variances + (means - mean) ** 2))[lacking]
    given = noise if matrices else np.diagonal(noise, axis1=1, axis2=2)
    np.testing.assert_allclose(gm.impute(rows, noise_covariance=given), wanted, rtol=1e-6)
    many = gm.impute(
        np.repeat(rows, 3000, axis=0), noise_covariance=np.repeat(given, 3000, axis=0), draw=True, random_state=0
    ).reshape(6, 3000, 3)
    deviation = np.sqrt(spread)
    assert np.all(np.abs(many.mean(axis=1) - wanted) <= 4.5 * deviation / np.sqrt(3000) + 1e-9)
    np.testing.assert_allclose(many.std(axis=1), deviation, rtol=0.06, atol=1e-9)


def test_a_limit_beside_a_gap():
    """Given the mean within the interval, what is missing is predicted as from a value: prediction is linear."""
    gm = dem.GaussianMixture(1).fit(
        np.random.default_rng(0).normal(size=(200, 3)) @ np.array([[1.0, 0.5, 0.2], [0.0, 1.0, 0.4], [0.0, 0.0, 1.0]])
    )
    rows = np.array([[0.3, np.nan, np.nan]])
    found = gm.impute(rows, lower=[-np.inf, 1.5, -np.inf])
    assert found[0, 1] > 1.5
    np.testing.assert_allclose(found, gm.impute(np.where([[False, False, True]], np.nan, found)), rtol=1e-9)
