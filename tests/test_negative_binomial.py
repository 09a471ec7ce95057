"""Mixtures of negative binomial counts against SciPy, EM written anew, Poisson, and what made their samples."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from case import WEIGHTS
from cases_exponential import COUNTS, scattered_counts
from scipy.special import digamma

import dem
from dem.data.base import Chunk
from dem.errors import DataError, DataWarning, OptionError
from dem.families.factorials import excess
from dem.families.negative_binomial import MOST, NegativeBinomialComponent, deficit, rising, solve
from dem.families.tabulated import LARGE

SIZES = np.array([2.0, 3.0, 1.0, 4.0])
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
START = {"weights_init": np.full(3, 1 / 3), "means_init": COUNTS * 1.3 + 0.5, "sizes_init": np.full((3, 4), 3.0)}


def densities(rows, means, sizes):
    """Return log p of each row and component, (n, K)."""
    logs = [scipy.stats.nbinom(r, r / (r + m)).logpmf(rows).sum(axis=1) for m, r in zip(means, sizes, strict=True)]
    return np.transpose(logs)


def reference(rows, fit_size, n_iterations):
    """EM from the formulas: E[l | x] = r (ψ(x + r) − ψ(r)), and r log(1 + μ/r) = its mean by bracketing."""
    weights, means, sizes = START["weights_init"], START["means_init"], START["sizes_init"]
    for _ in range(n_iterations):
        joint = np.log(weights) + densities(rows, means, sizes)
        gamma = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, np.newaxis])
        counts, x = gamma.sum(axis=0), rows[:, np.newaxis]
        tables = np.einsum("nk,nkj->kj", gamma, sizes * (digamma(x + sizes) - digamma(sizes)))
        weights, means = counts / len(rows), gamma.T @ rows / counts[:, np.newaxis]
        if fit_size == "fixed":
            continue
        groups = [range(3)] if fit_size == "shared" else [[0], [1], [2]]
        for group in map(list, groups):
            for j in range(4):
                of_group = counts[group], means[group, j], tables[group, j]

                def off(r, n, mean, table):
                    return np.sum(n * r * np.log1p(mean / r) - table)

                sizes = sizes.copy()
                sizes[group, j] = scipy.optimize.brentq(off, 1e-4, 1e5, of_group, xtol=1e-13, rtol=1e-14)
    return weights, means, sizes


@pytest.mark.parametrize("fit_size", ["free", "shared", "fixed"])
def test_em_from_the_same_start(fit_size):
    rows = scattered_counts(600)
    ours = dem.NegativeBinomialMixture(3, fit_size=fit_size, tol=0.0, max_iter=5, **START).fit(rows)
    for found, expected in zip((ours.weights_, ours.means_, ours.sizes_), reference(rows, fit_size, 5), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert ours._n_parameters() == 2 + 12 + {"free": 12, "shared": 4, "fixed": 0}[fit_size]


def test_densities_are_scipys_with_large_counts_and_gaps():
    rows = scattered_counts(200).astype(float)
    rows[::7, 0] += LARGE - 2.0  # some in the table, some beyond
    rows[3, 1] = 1e7
    gaps = np.random.default_rng(0).random(rows.shape) < 0.2
    rows[gaps] = np.nan
    model = dem.NegativeBinomialMixture(3, max_iter=0, missing="marginalise", **START).fit(scattered_counts())
    each = scipy.stats.nbinom(model.sizes_, model.sizes_ / (model.sizes_ + model.means_))
    logs = np.where(gaps[:, np.newaxis], 0.0, each.logpmf(np.where(gaps, 0.0, rows)[:, np.newaxis])).sum(axis=2)
    expected = np.logaddexp.reduce(np.log(model.weights_) + logs, axis=1)
    np.testing.assert_allclose(model.score_samples(rows), expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("fit_size", ["free", "shared"])
def test_free_energy_never_falls_where_r_grows(fit_size):
    rows = np.random.default_rng(0).poisson(COUNTS[np.random.default_rng(1).choice(3, 500, p=WEIGHTS)])
    for options in ({"max_iter": 50}, {"algorithm": "incremental", "max_iter": 5}, {"algorithm": "auto"}):
        options = {"fit_size": fit_size, "tol": 1e-7, "random_state": 0, **options}
        fitted = dem.NegativeBinomialMixture(3, **options).fit(rows)
        assert np.isfinite(fitted.sizes_).all()
        assert np.diff(fitted.lower_bounds_).min() > -1e-12


def test_in_the_limit_it_is_poissons():
    rows = np.random.default_rng(0).poisson(COUNTS[0], size=(300, 4))
    means = {"means_init": rows.mean(axis=0, keepdims=True), "weights_init": [1.0]}
    options = {"sizes_init": np.full((1, 4), MOST), "max_iter": 3, "tol": 0.0}
    ours = dem.NegativeBinomialMixture(fit_size="fixed", **means, **options).fit(rows)
    theirs = dem.PoissonMixture(max_iter=1).fit(rows)
    np.testing.assert_allclose(ours.score_samples(rows), theirs.score_samples(rows), atol=1e-3)
    # Counts of at most 1 say nothing against Poisson: r goes up to the bound, and no further.
    free = dem.NegativeBinomialMixture(max_iter=2, tol=0.0).fit(np.array([[0], [1], [1], [0]]))
    assert free.sizes_[0, 0] == pytest.approx(MOST)
    with pytest.warns(DataWarning, match="column 0 of NumPy array is constant"):
        empty = dem.NegativeBinomialMixture(max_iter=3, tol=0.0).fit(np.array([[0, 1], [0, 5], [0, 9]]))
    assert empty.means_[0, 0] == 0.0
    assert np.isfinite(empty.score_samples([[0, 3]])).all()


@pytest.mark.slow
def test_its_own_sample_gives_its_parameters_back():
    made = dem.NegativeBinomialMixture(3, max_iter=0, random_state=0, **START).fit(scattered_counts())
    made.weights_, made.means_, made.sizes_ = WEIGHTS, COUNTS, np.broadcast_to(SIZES, (3, 4)).copy()
    rows, labels = made.sample(20_000)
    found = dem.NegativeBinomialMixture(3, algorithm="auto", random_state=0, tol=1e-8).fit(rows)
    order = np.argsort(found.means_[:, 0])
    np.testing.assert_allclose(found.means_[order], COUNTS, rtol=0.06)
    np.testing.assert_allclose(found.sizes_[order], made.sizes_, rtol=0.25)
    assert np.mean(found.predict(rows) == order[labels]) > 0.85


def test_functions_keep_their_digits():
    for r in (1e-6, 0.3, 49.9, 50.1, 1e6):
        steps = np.arange(300.0)
        sums = np.cumsum(np.log1p(steps / r)), np.cumsum(steps / (r + steps))
        for found, expected in zip((rising, deficit), sums, strict=True):
            np.testing.assert_allclose(found(steps + 1.0, np.array(r)), expected, rtol=1e-9, atol=1e-13)
    u = np.array([1e-9, 1e-3, 0.00999, 0.0101, 3.0, 1e6])
    expected = [scipy.integrate.quad(lambda v: v / (1 + v), 0, one, epsabs=0.0, limit=500)[0] for one in u]
    np.testing.assert_allclose(excess(u), expected, rtol=1e-9)
    means, sizes = np.array([[3.0, 50.0, 0.1, 7.0]]), np.array([0.5, 20.0, 1e3, 3e5])
    found = solve(means, (sizes * excess(means / sizes))[0], np.ones((1, 4)), np.ones(4))
    np.testing.assert_allclose(found, sizes, rtol=1e-9)


def test_m_step_is_a_maximum():
    rows = scattered_counts(100).astype(float)
    component = NegativeBinomialComponent()
    at = np.hstack([COUNTS, np.full((3, 4), 3.0)])
    kernel = component.kernel(at, rows.dtype)
    gamma = np.random.default_rng(0).dirichlet(np.ones(3), 100).T
    block = kernel.block(Chunk(rows, range(100)))
    block.log_density()
    block.accumulate(gamma)
    statistics, counts = kernel.statistics(), gamma.sum(axis=1)
    best = component.m_step(statistics, counts, at)
    most = component.expected_log_density(statistics, counts, best)
    for position in np.ndindex(best.shape):
        for factor in (0.999, 1.001):
            moved = best.copy()
            moved[position] *= factor
            assert component.expected_log_density(statistics, counts, moved) < most


def test_bad_input():
    rows = scattered_counts(50).astype(float)
    rows[7, 2] = 1.5
    with pytest.raises(
        DataError, match=r"not whole numbers of at least 0 \(negative_binomial\); the first is 1.5 in row 7, column 2"
    ):
        dem.NegativeBinomialMixture(2).fit(rows)
    for options, said in (
        ({"fit_size": "fixed"}, "give size or sizes_init"),
        ({"size": 0.0}, "size"),
        ({"sizes_init": np.ones((1, 3))}, "shape"),
        ({"fit_size": "shared", "sizes_init": [[1.0] * 4, [2.0] * 4]}, "the same for all components"),
    ):
        with pytest.raises(OptionError, match=said):
            dem.NegativeBinomialMixture(2, **options).fit(scattered_counts(50))


@pytest.mark.parametrize(
    ("x", "mean", "size", "expected"),
    [  # mpmath at 60 digits
        (4096.0, 1e3, 30.0, -57.092227973595568),
        (1e8, 1e8, 1000.0, -15.885829970971534),
        (1e12, 1e14, 0.3, -30.472562007840938),
    ],
)
def test_densities_of_huge_counts_keep_their_digits(x, mean, size, expected):
    component = NegativeBinomialComponent()
    found = component.log_densities(np.array([[mean, size]]), np.array([0]), np.array([x]))
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.filterwarnings("ignore::dem.errors.DataWarning", "ignore::dem.errors.ComponentWarning")
def test_components_without_rows_warn_in_words_of_dem_alone():
    model = dem.NegativeBinomialMixture(3, random_state=0).fit(np.full((60, 2), 4.0))
    np.testing.assert_allclose(model.weights_ @ model.means_, 4.0)
