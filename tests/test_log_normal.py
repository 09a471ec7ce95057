"""Log-normal mixtures: Gaussian mixtures of the logarithms, in densities and values of the numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from cases import gaussian_rows

import dem
from dem.errors import DataError, OptionError

ROWS = np.exp(gaussian_rows(600))
TYPES = ("full", "tied", "diag", "spherical", "VEV", "EEI")


@pytest.mark.parametrize("kind", TYPES)
def test_densities_are_those_of_the_logarithms(kind):
    options = {"n_components": 3, "covariance_type": kind, "random_state": 0}
    ours, theirs = dem.LogNormalMixture(**options).fit(ROWS), dem.GaussianMixture(**options).fit(np.log(ROWS))
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-12)
    expected = theirs.score_samples(np.log(ROWS)) - np.log(ROWS).sum(axis=1)
    np.testing.assert_allclose(ours.score_samples(ROWS), expected, rtol=1e-11)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_ - np.log(ROWS).sum(axis=1).mean(), rel=1e-12)
    np.testing.assert_array_equal(ours.medians_, np.exp(ours.means_))


def test_one_component_is_the_fit_of_scipy():
    column = ROWS[:, :1]
    model = dem.LogNormalMixture(reg_covar=0.0).fit(column)
    shape, _, scale = scipy.stats.lognorm.fit(column, floc=0.0)
    assert model.medians_[0, 0] == pytest.approx(scale, rel=1e-9)
    assert np.sqrt(model.covariances_[0, 0, 0]) == pytest.approx(shape, rel=1e-9)
    law = scipy.stats.lognorm(shape, scale=scale)
    np.testing.assert_allclose(model.score_samples(column), law.logpdf(column[:, 0]), rtol=1e-8)


@pytest.mark.parametrize("factor", [1e-100, 1e100])
def test_units_do_not_matter(factor):
    options = {"n_components": 3, "random_state": 0}
    here, there = (dem.LogNormalMixture(**options).fit(rows) for rows in (ROWS, factor * ROWS))
    np.testing.assert_allclose(there.means_, here.means_ + np.log(factor), atol=1e-7)
    np.testing.assert_allclose(there.covariances_, here.covariances_, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_missing_has_the_mean_of_its_conditional_law(kind):
    options = {"covariance_type": kind, "missing": "marginalise", "random_state": 0}
    model = dem.LogNormalMixture(**options).fit(ROWS)
    gaps = ROWS[:6].copy()
    gaps[:, 1] = np.nan
    gaps[3:, 2] = np.nan
    drawn = model.impute(np.repeat(gaps, 20_000, axis=0), draw=True, random_state=0).reshape(6, 20_000, 3)
    error = drawn.std(axis=1) / np.sqrt(20_000)
    assert (np.abs(model.impute(gaps) - drawn.mean(axis=1)) < 5 * error)[np.isnan(gaps)].all()
    covariance = np.cov(np.log(ROWS).T, bias=True)
    if kind == "full":
        known, slope = [0, 2], np.linalg.solve(covariance[np.ix_([0, 2], [0, 2])], covariance[[0, 2], 1])
        means = np.log(ROWS).mean(axis=0)
        logs = means[1] + (np.log(gaps[:3])[:, known] - means[known]) @ slope
        logs += 0.5 * (covariance[1, 1] - slope @ covariance[[0, 2], 1])
        np.testing.assert_allclose(np.log(model.impute(gaps)[:3, 1]), logs, atol=1e-4)


def test_bad_input():
    rows = ROWS.copy()
    rows[13, 2] = 0.0
    with pytest.raises(
        DataError, match=r"1 values that are not numbers above 0 \(log_normal\); the first is 0 in row 13, column 2"
    ):
        dem.LogNormalMixture(2).fit(rows)
    rows[13, :2] = np.nan
    rows[13, 2] = -1.0
    with pytest.raises(DataError, match="first is -1 in row 13, column 2"):
        dem.LogNormalMixture(2, missing="marginalise", sample_rows=12, random_state=0).fit(rows)
    for option in ({"scale": True}, {"prior": "default"}):
        with pytest.raises(OptionError, match="is not for logarithms"):
            dem.LogNormalMixture(2, **option).fit(ROWS)
