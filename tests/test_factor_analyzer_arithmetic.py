"""Components of factor analysers below their estimator: the digits that they keep, their memory and their time."""

from __future__ import annotations

import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from cases import chunk_of

from dem.engine.base import single_threaded_blas
from dem.families.factor_analyzer import FactorAnalyzerComponent, FactorParameters
from dem.families.factor_analyzer.moments import FactorMoments
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters


def test_cells_of_many_features_find_the_components_that_count():
    """Above `truncation.MOST_FEATURES` a sketch tells them how features vary together."""
    rng = np.random.default_rng(0)
    labels = np.arange(1200) % 24
    rows = rng.normal(size=(24, 600))[labels] + rng.normal(size=(1200, 2)) @ rng.normal(size=(2, 600))
    rows += rng.normal(size=rows.shape)
    family = Mixture(FactorAnalyzerComponent(2).adapted_to(rows), top_components=8)
    parameters = family.start(rows, np.eye(24)[labels])
    truncated = family.truncated(parameters)
    assert truncated.candidates.lists.shape[1] == 8
    part, whole = (family.e_step(one, chunk_of(rows)).log_likelihood for one in (truncated, parameters))
    assert part == pytest.approx(whole, rel=1e-12)


def test_small_noise_loses_no_digits():
    """Rows made of a part along the loadings and one across have densities that are known whatever the noise."""
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    along, across = basis[:, :2], basis[:, 2:]
    strengths, deviation = np.array([2.0, 1.0]), 2.0**-26
    u, e = rng.normal(size=(50, 2)), rng.normal(size=(50, 4))
    component = FactorAnalyzerComponent(2, reg_covar=0.0)
    parameters = FactorParameters.plain(
        np.zeros((1, 6)), (along * strengths)[np.newaxis], np.full((1, 6), deviation**2)
    )
    rows = (u * strengths) @ along.T + deviation * e @ across.T
    ratio = (strengths / deviation) ** 2
    squares = np.sum(e**2, axis=1) + u**2 @ (ratio / (1.0 + ratio))
    constant = -3.0 * np.log(2.0 * np.pi) - 6.0 * np.log(deviation) - 0.5 * np.log1p(ratio).sum()
    family = Mixture(component)
    found = family.log_likelihood(MixtureParameters(np.ones(1), parameters), chunk_of(rows))
    np.testing.assert_allclose(found, constant - 0.5 * squares, rtol=0, atol=1e-5)


def test_joined_regressions_keep_the_digits_of_small_residuals():
    rng = np.random.default_rng(4)
    z, slope = rng.normal(size=(900, 2)) + 3.0, rng.normal(size=(5, 2))
    noise = 1e-7 * rng.normal(size=(900, 5))
    x = z @ slope.T + noise

    def moments(which):
        mean, centre = x[which].mean(axis=0), z[which].mean(axis=0)
        spread = (z[which] - centre).T @ (z[which] - centre)
        turn = np.linalg.solve(spread, (z[which] - centre).T @ (noise[which] - noise[which].mean(axis=0))).T
        left = noise[which] - noise[which].mean(axis=0) - (z[which] - centre) @ turn.T
        n = np.array([float(len(mean[np.newaxis] * np.ones((len(x[which]), 1))))])
        parts = (mean, centre, spread, slope + turn, np.sum(left**2, axis=0))
        return FactorMoments(n, *(part[np.newaxis] for part in parts))

    nothing = 0.0 * moments(slice(0, 10))
    joined, whole = nothing + moments(slice(0, 300)) + moments(slice(300, 900)), moments(slice(None))
    for name in ("counts", "means", "factor_means", "spread", "slopes"):
        np.testing.assert_allclose(getattr(joined, name), getattr(whole, name), rtol=1e-12)
    np.testing.assert_allclose(joined.residuals, whole.residuals, rtol=1e-6)
    np.testing.assert_allclose((3.0 * whole).residuals, 3.0 * whole.residuals)


def problem(n_features, n_rows=1500):
    """Return a mixture of four components with eight factors each, its parameters and rows."""
    rng = np.random.default_rng(0)
    labels = np.arange(n_rows) % 4
    factors = rng.normal(size=(n_rows, 8))
    rows = labels[:, np.newaxis] + factors @ rng.normal(size=(8, n_features)) + rng.normal(size=(n_rows, n_features))
    family = Mixture(FactorAnalyzerComponent(8).adapted_to(rows))
    return family, family.start(rows, np.eye(4)[labels]), rows


def peak_of_an_iteration(n_features):
    family, parameters, rows = problem(n_features, 600)
    with single_threaded_blas():
        tracemalloc.start()
        statistics = family.e_step(parameters, chunk_of(rows))
        rebased = family.rebased(statistics, parameters)
        parameters = family.m_step(rebased + rebased, parameters)
        family.to_user(parameters)
        family.unconstrain(parameters)
        family.component_status(parameters, 600)
        replace(family, top_components=2).truncated(parameters)
        family.reseeded(parameters, np.array([1]), chunk_of(rows[:1]))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_memory_is_linear_in_features():
    """No matrix of features times features: for 2,000 features those of four components take 128 MB."""
    peaks = {}
    for d in (1000, 2000):
        with ThreadPoolExecutor(1) as fresh:  # kernels keep their workspace for the next in the same thread
            peaks[d] = fresh.submit(peak_of_an_iteration, d).result()
    assert peaks[1000] < 4 * 1000**2 * 8
    assert peaks[2000] < 2.2 * peaks[1000]
    assert peaks[2000] < 0.5 * 4 * 2000**2 * 8


@pytest.mark.slow
def test_time_is_linear_in_features():
    times = {}
    with single_threaded_blas():
        for d in (400, 1600):
            family, parameters, rows = problem(d)
            best = np.inf
            for _ in range(4):
                begun = time.process_time()
                family.m_step(family.e_step(parameters, chunk_of(rows)), parameters)
                best = min(best, time.process_time() - begun)
            times[d] = best
    assert times[1600] < 9.0 * times[400]  # 16 times, were it quadratic
