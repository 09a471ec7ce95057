"""Families with two parameters of each feature, and directions, against scipy.stats; values at and beyond the edges."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from cases import chunk_of

import dem
from dem.errors import DataError, OptionError
from dem.families import bessel
from dem.families.beta import BetaComponent
from dem.families.gamma import GammaComponent
from dem.families.von_mises import VonMisesComponent
from dem.families.von_mises_fisher import VonMisesFisherComponent

MEANS = np.array([[0.5, 2.0, 3.0], [4.0, 1.0, 0.1]])
SHARES = np.array([[0.5, 0.1, 0.3], [0.4, 0.9, 0.6]])
ANGLES = np.array([[0.5, -2.0, 3.0], [-0.4, 1.0, 1.7]])
SHAPES = np.array([[0.3, 5.0, 1.0], [70.0, 2e4, 2.5]])


@dataclass(frozen=True)
class Kind:
    """A family and what others say of it."""

    component: Any
    #: of two components and three features
    parameters: np.ndarray
    #: a frozen law of scipy.stats, from the parameters of one component
    law: Any
    mixture: Any
    #: what scipy fits to one column, in the order of the parameters
    fit: Any
    #: a value outside the support, and what is said of it
    outside: tuple[float, str]


def gamma_fit(column):
    shape, _, scale = scipy.stats.gamma.fit(column, floc=0.0)
    return shape * scale, shape


def beta_fit(column):
    a, b, *_ = scipy.stats.beta.fit(column, floc=0.0, fscale=1.0)
    return a / (a + b), a + b


def von_mises_fit(column):
    concentration, mean, _ = scipy.stats.vonmises.fit(column, fscale=1.0)
    return mean, concentration


KINDS = {
    "gamma": Kind(
        GammaComponent(),
        np.hstack([MEANS, SHAPES]),
        lambda means, shapes: scipy.stats.gamma(shapes, scale=means / shapes),
        dem.GammaMixture,
        gamma_fit,
        (0.0, r"1 values that are not numbers above 0 \(gamma\); the first is 0"),
    ),
    "beta": Kind(
        BetaComponent(),
        np.hstack([SHARES, SHAPES + 0.5]),
        lambda means, sizes: scipy.stats.beta(means * sizes, (1.0 - means) * sizes),
        dem.BetaMixture,
        beta_fit,
        (1.0, r"1 values that are not numbers between 0 and 1, without these \(beta\); the first is 1"),
    ),
    "von mises": Kind(
        VonMisesComponent(),
        np.hstack([ANGLES, SHAPES]),
        lambda means, concentrations: scipy.stats.vonmises(concentrations, loc=means),
        dem.VonMisesMixture,
        von_mises_fit,
        (np.inf, "0 NaN and 1 infinite"),
    ),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def drawn(kind, n_rows):
    """Return rows of each component by scipy, shape (2, n_rows, 3)."""
    rng = np.random.default_rng(0)
    return np.stack([kind.law(*np.split(own, 2)).rvs((n_rows, 3), random_state=rng) for own in kind.parameters])


@EVERY_KIND
def test_log_density_is_that_of_scipy(kind):
    rows = np.concatenate(drawn(kind, 20))
    expected = [kind.law(*np.split(own, 2)).logpdf(rows).sum(axis=1) for own in kind.parameters]
    found = kind.component.kernel(kind.parameters, rows.dtype).block(chunk_of(rows)).log_density()
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-9)


@EVERY_KIND
def test_density_of_what_is_observed(kind):
    rows = np.concatenate(drawn(kind, 20))
    gaps = np.where(np.random.default_rng(1).random(rows.shape) < 0.5, np.nan, rows)
    expected = [np.nansum(kind.law(*np.split(own, 2)).logpdf(gaps), axis=1) for own in kind.parameters]
    ((_, kernel),) = kind.component.marginals(kind.parameters, gaps)
    np.testing.assert_allclose(kernel.block(chunk_of(gaps)).log_density(), expected, rtol=1e-11, atol=1e-9)


@EVERY_KIND
def test_parameters_means_and_draws_belong_together(kind):
    component, parameters = kind.component, kind.parameters
    again = component.from_mean_parameters(component.mean_parameters(parameters))
    np.testing.assert_allclose(again, parameters, rtol=1e-9)
    np.testing.assert_allclose(component.constrained(component.unconstrained(parameters)), parameters, rtol=1e-12)
    rows = component.sample(parameters, np.repeat([0, 1], 20_000), np.random.default_rng(0))
    assert not component.support.outside(rows).any()
    statistics = component.sufficient_statistics(rows).reshape(2, 20_000, -1)
    error = statistics.std(axis=1) / np.sqrt(20_000)
    away = np.abs(statistics.mean(axis=1) - component.mean_parameters(parameters))
    np.testing.assert_array_less(away, 5 * error + 1e-9)


@EVERY_KIND
def test_one_component_is_the_fit_of_scipy(kind):
    rows = drawn(kind, 500)[0]
    expected = np.transpose([kind.fit(column) for column in rows.T])
    model = kind.mixture(1).fit(rows)
    for name, values in zip(kind.component.parameters, expected, strict=True):
        np.testing.assert_allclose(getattr(model, f"{name}_")[0], values, rtol=1e-6)


@EVERY_KIND
def test_values_outside_the_support_are_refused_by_row_and_column(kind):
    rows = drawn(kind, 20)[0]
    value, message = kind.outside
    rows[13, 1] = value
    with pytest.raises(DataError, match=message) as caught:
        kind.mixture(2, random_state=0).fit(rows)
    assert "row 13" in str(caught.value)
    assert "column 1" in str(caught.value)


@pytest.mark.slow
@EVERY_KIND
@pytest.mark.parametrize("algorithm", ["batch", "incremental", "auto"])
def test_constant_columns_stay_finite_and_monotone(kind, algorithm):
    """The likelihood of a component that is one value has no bound; the parameters have."""
    rows = np.concatenate(drawn(kind, 150))
    rows[:150, 1] = rows[0, 1]
    with warnings.catch_warnings():  # of a falling likelihood too
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Best performing")
        warnings.filterwarnings("ignore", message="column|component .* collapsed|.* rows of|.* distinct rows")
        model = kind.mixture(2, random_state=0, tol=0.0, max_iter=30, algorithm=algorithm).fit(rows)
    assert model.component_status_.count("collapsed") == 1
    assert np.isfinite(model.score_samples(rows)).all()
    assert all(np.isfinite(getattr(model, f"{name}_")).all() for name in kind.component.parameters)


def test_whole_turns_do_not_matter():
    rows = drawn(KINDS["von mises"], 200)[0]
    turned = rows + 2.0 * np.pi * np.random.default_rng(0).integers(-3, 4, rows.shape)
    ours, theirs = (dem.VonMisesMixture(1).fit(one) for one in (turned, rows))
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-12)
    np.testing.assert_allclose(ours.score_samples(turned), theirs.score_samples(rows), rtol=1e-9, atol=1e-9)


#: log(I_ν(x) x^−ν) and I_ν+1(x) / I_ν(x), by mpmath 1.3 with 60 digits
BESSEL = [
    (0.0, 1e-3, 2.4999998437500175e-7, 0.00049999993750001043),
    (0.0, 34.9, 32.208452631677203, 0.98556764529992147),
    (0.0, 1e6, 999992.17330631281, 0.999999499999875),
    (0.5, 5.0, 2.4715781534008564, 0.80009080398201938),
    (49.0, 60.0, -162.78595451345313, 0.46945262838174381),
    (511.0, 1e-2, -3034.0203562186128, 9.7656249990704931e-6),
    (2047.0, 3e3, -14068.478453745708, 0.52816386153771128),
]


@pytest.mark.parametrize(("order", "x", "log_scaled", "ratio"), BESSEL)
def test_bessel_functions_are_those_of_mpmath(order, x, log_scaled, ratio):
    (ours,), (found,) = bessel.log_scaled(order, np.array([x])), bessel.ratio(order, np.array([x]))
    assert ours == pytest.approx(log_scaled, rel=1e-14, abs=1e-14)
    assert found == pytest.approx(ratio, rel=1e-14)
    (again,) = bessel.argument_of(order, np.array([ratio]), 1e10)
    assert again == pytest.approx(x, rel=1e-14 * max(10.0, x / (order + 0.5)))


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 4, 50, 2000])
@pytest.mark.parametrize("concentration", [0.0, 0.3, 40.0, 3e4])
def test_directions(dimensions, concentration):
    """Density, fit and draws of directions against scipy's, or the angle to the mean where scipy has no numbers."""
    rng = np.random.default_rng(3)
    mean = rng.normal(size=dimensions)
    mean /= np.linalg.norm(mean)
    component, parameters = VonMisesFisherComponent(), np.append(mean, concentration)[np.newaxis]
    rows = component.sample(parameters, np.zeros(4000, dtype=int), rng)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-14)
    along = rows @ mean
    assert abs(along.mean() - bessel.ratio(0.5 * dimensions - 1.0, np.array(concentration))) < 5 * along.std() / 63.0
    found = component.kernel(parameters, rows.dtype).block(chunk_of(rows[:50])).log_density()[0]
    if concentration > 0.0 and dimensions <= 50:
        law = scipy.stats.vonmises_fisher(mean, concentration)
        np.testing.assert_allclose(found, law.logpdf(rows[:50]), rtol=1e-9, atol=1e-9)
        direction, size = scipy.stats.vonmises_fisher.fit(rows)
        model = dem.VonMisesFisherMixture(1).fit(rows)
        np.testing.assert_allclose(model.means_[0], direction, atol=1e-7)
        np.testing.assert_allclose(model.concentrations_[0], size, rtol=1e-6)
    # Of the density ∫ exp(log p) over the sphere is 1: that of the angle to the mean, by the midpoint rule.
    angles = (np.arange(40_000) + 0.5) * np.pi / 40_000
    log_surface = np.log(2.0) + 0.5 * (dimensions - 1) * np.log(np.pi) - scipy.special.gammaln(0.5 * (dimensions - 1))
    log_density = found[0] - concentration * along[0] + concentration * np.cos(angles)
    log_terms = log_density + (dimensions - 2) * np.log(np.sin(angles)) + log_surface
    assert np.pi * np.exp(log_terms).mean() == pytest.approx(1.0, rel=1e-8)


def test_rows_of_another_length_are_refused_with_theirs():
    rows = np.random.default_rng(0).normal(size=(40, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    model = dem.VonMisesFisherMixture(2, random_state=0).fit(rows.astype(np.float32))
    rows[13] *= 1.5
    message = "holds 1 rows that are not of length 1 .*; the first, in row 13, has 1.5"
    with pytest.raises(DataError, match=message):
        dem.VonMisesFisherMixture(2, random_state=0).fit(rows)
    with pytest.raises(DataError, match="rows that are not of length 1"):
        model.predict(rows)
    with pytest.raises(OptionError, match="means_init must be rows of length 1, but that of component 1 is 2"):
        dem.VonMisesFisherMixture(2, means_init=np.diag([1.0, 2.0, 1.0])[:2]).fit(rows)
    with pytest.raises(OptionError, match="angles are for VonMisesMixture"):
        dem.VonMisesFisherMixture(2).fit(np.ones((9, 1)))


@pytest.mark.filterwarnings("ignore::dem.errors.ComponentWarning")
def test_shares_so_small_that_the_concentration_is_bounded():
    """Then the M-step is the best a and b with the largest sum: those of a gamma distribution, but for the bound."""
    column = np.random.default_rng(0).gamma(2.5, 1e-40, (400, 1))
    model = dem.BetaMixture(1).fit(column)
    assert model.concentrations_[0, 0] == pytest.approx(1e10, rel=1e-9)

    def loss(log_a):
        return -scipy.stats.beta(np.exp(log_a), 1e10).logpdf(column).sum()

    best = scipy.optimize.minimize_scalar(loss, bounds=(-12.0, 3.0), method="bounded", options={"xatol": 1e-9})
    assert np.log(model.a_[0, 0]) == pytest.approx(best.x, abs=1e-5)
