"""Draws of missing values belong to rows: they depend on the seed and the position of a row alone."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
import scipy.stats
import zarr
from cases import CASES

import dem
from dem.row_draws import RowDraws, philox


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_the_streams_are_philox(seed):
    rows = np.array([0, 1, 5, 2**40 + 3], dtype=np.int64)
    for first, stop in ((0, 9), (3, 4), (6, 6), (5, 13)):
        for row, ours in zip(rows, philox(seed, rows, first, stop), strict=True):
            theirs = np.random.Philox(key=[seed, 0], counter=[0, row, 0, 0]).random_raw(stop)[first:]
            np.testing.assert_array_equal(ours, theirs)


def test_draws_have_their_distributions():
    def draws():
        return RowDraws(3, range(20_000))

    kinds = {
        "uniform": (draws().random((20_000, 1)), scipy.stats.uniform()),
        "normal": (draws().standard_normal((20_000, 1)), scipy.stats.norm()),
        "gamma": (
            draws().gamma(np.full((20_000, 1), 0.7), np.full((20_000, 1), 2.5)),
            scipy.stats.gamma(0.7, scale=2.5),
        ),
        "beta": (draws().beta(np.full((20_000, 1), 0.7), np.full((20_000, 1), 2.5)), scipy.stats.beta(0.7, 2.5)),
        "von mises": (
            draws().vonmises(np.full((20_000, 1), 3.0), np.full((20_000, 1), 2.5)) % (2 * np.pi),
            scipy.stats.vonmises(2.5, loc=3.0),
        ),
        "exponential": (draws().exponential(np.full((20_000, 1), 2.5)), scipy.stats.expon(scale=2.5)),
    }
    for found, law in kinds.values():
        assert scipy.stats.kstest(found[:, 0], law.cdf).pvalue > 0.001
    discrete = {
        "poisson": (draws().poisson(np.full((20_000, 1), 3.0)), scipy.stats.poisson(3.0)),
        "binomial": (draws().binomial(5, np.full((20_000, 1), 0.3)), scipy.stats.binom(5, 0.3)),
        "geometric": (draws().geometric(np.full((20_000, 1), 0.4)), scipy.stats.geom(0.4)),
    }
    for found, law in discrete.values():
        assert found.dtype == np.int64
        values = np.arange(12)
        shares = (found == values).mean(axis=0)
        np.testing.assert_allclose(shares, law.pmf(values), atol=0.015)
    pairs = draws().random((20_000, 6))
    assert np.abs(np.corrcoef(pairs.T) - np.eye(6)).max() < 0.03
    assert np.abs(np.corrcoef(pairs[1:, 0], pairs[:-1, 0])[0, 1]) < 0.03


def holed(case, n=400):
    rows = np.asarray(case.data(), dtype=np.float64)[:n]
    rows[np.random.default_rng(1).random(rows.shape) < 0.3] = np.nan
    return rows


@pytest.mark.parametrize("case", [case for case in CASES if case.estimator()._component().marginalises], ids=str)
def test_chunks_do_not_matter(case, tmp_path):
    rows = holed(case)
    fitted = case.estimator(max_iter=2, missing="marginalise")
    fitted.tol = 1e6
    fitted.fit(rows)
    whole = fitted.impute(rows, draw=True, random_state=5)
    for chunk in (37, 150):
        lazy = fitted.impute(dask.array.from_array(rows, (chunk, rows.shape[1])), draw=True, random_state=5)
        np.testing.assert_allclose(lazy.compute(), whole, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fitted.impute(rows[:50], draw=True, random_state=5), whole[:50], rtol=1e-9, atol=1e-9)
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(60, rows.shape[1]))
    fitted.impute_to(str(tmp_path / "x.zarr"), str(tmp_path / "y.zarr"), draw=True, random_state=5)
    np.testing.assert_allclose(zarr.open_array(tmp_path / "y.zarr")[...], whole, rtol=1e-9, atol=1e-9)
    assert not np.array_equal(fitted.impute(rows, draw=True, random_state=6), whole)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_chunks_do_not_matter_with_limits_and_errors(covariance):
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(400, 3)) + 3.0 * rng.integers(0, 2, (400, 1))
    fitted = dem.GaussianMixture(2, covariance_type=covariance, random_state=0).fit(rows)
    gaps = rows.copy()
    gaps[::3, 0], gaps[1::3, 2] = np.nan, np.nan
    upper = np.full(rows.shape, np.inf)
    upper[::6, 0] = 1.0  # the other half lacks the value, with no limit
    given = {"upper": upper}
    if covariance != "diag":
        given["noise_covariance"] = rng.uniform(0.1, 0.5, rows.shape)
    whole = fitted.impute(gaps, draw=True, random_state=1, **given)
    lazy = fitted.impute(dask.array.from_array(gaps, (17, 3)), draw=True, random_state=1, **given)
    np.testing.assert_allclose(lazy.compute(), whole, rtol=1e-9, atol=1e-9)
    if covariance == "diag":
        assert (whole[::6, 0] <= 1.0).all()
