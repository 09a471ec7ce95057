"""Families of the exponential kind against scipy.stats, closed forms, and values at the edges."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
from cases import chunk_of

import dem
from dem.errors import DataError, OptionError
from dem.families.base import Support
from dem.families.binomial import BinomialComponent
from dem.families.exponential import ExponentialComponent
from dem.families.geometric import GeometricComponent
from dem.families.poisson import PoissonComponent

COUNTS = np.array([[0, 3, 2], [7, 1, 0], [2, 2, 9], [1, 0, 12]])
RATES = np.array([[0.5, 2.0, 3.0], [4.0, 1.0, 0.1]])
PROBABILITIES = np.array([[0.1, 0.5, 0.9], [0.3, 0.7, 0.999]])
#: component, parameters, rows, and the reference of scipy.stats
KINDS = {
    "binomial": (BinomialComponent(12), PROBABILITIES, COUNTS, lambda p: scipy.stats.binom(12, p).logpmf),
    "bernoulli": (BinomialComponent(1), PROBABILITIES, COUNTS % 2, lambda p: scipy.stats.bernoulli(p).logpmf),
    "poisson": (PoissonComponent(), RATES, COUNTS, lambda rate: scipy.stats.poisson(rate).logpmf),
    "exponential": (ExponentialComponent(), RATES, 0.3 * COUNTS, lambda rate: scipy.stats.expon(0, 1 / rate).logpdf),
    "geometric": (GeometricComponent(), PROBABILITIES, COUNTS, lambda p: scipy.stats.geom(p, loc=-1).logpmf),
}
#: how to make the estimator, and the one parameter whose mean a row has, by the mean
MIXTURES = {
    "bernoulli": (dem.BernoulliMixture, lambda mean: mean),
    "poisson": (dem.PoissonMixture, lambda mean: mean),
    "exponential": (dem.ExponentialMixture, lambda mean: 1.0 / mean),
    "geometric": (dem.GeometricMixture, lambda mean: 1.0 / (1.0 + mean)),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EVERY_MIXTURE = pytest.mark.parametrize("kind", MIXTURES)


def log_density(component, parameters, rows):
    return component.kernel(parameters, rows.dtype).block(chunk_of(rows)).log_density()


@EVERY_KIND
def test_log_density_is_that_of_scipy(kind):
    component, parameters, rows, reference = KINDS[kind]
    expected = [reference(own)(rows).sum(axis=1) for own in parameters]
    np.testing.assert_allclose(log_density(component, parameters, rows), expected, rtol=1e-13, atol=1e-13)
    if kind != "bernoulli":
        many, few = np.full((1, 3), 10**6), np.array([[1e-7, 0.5, 0.9]])
        component = BinomialComponent(10**7) if kind == "binomial" else component
        parameters = {"poisson": few * 1e6, "exponential": few}.get(kind, few)
        reference = (lambda p: scipy.stats.binom(10**7, p).logpmf) if kind == "binomial" else reference
        expected = reference(parameters)(many).sum()
        np.testing.assert_allclose(log_density(component, parameters, many), [[expected]], rtol=1e-12, atol=1e-7)


@EVERY_KIND
def test_parameters_and_means_are_each_other_s_inverse(kind):
    component, parameters, *_ = KINDS[kind]
    again = component.from_mean_parameters(component.mean_parameters(parameters))
    np.testing.assert_allclose(again, parameters, rtol=1e-12)
    np.testing.assert_allclose(component.constrained(component.unconstrained(parameters)), parameters, rtol=1e-12)
    drawn = component.sample(parameters, np.repeat([0, 1], 20_000), np.random.default_rng(0)).reshape(2, -1, 3)
    assert not component.support.outside(drawn).any()
    spread = drawn.std(axis=1) / np.sqrt(20_000)
    np.testing.assert_array_less(np.abs(drawn.mean(axis=1) - component.mean_parameters(parameters)), 5 * spread + 1e-9)


@EVERY_MIXTURE
def test_one_component_is_the_closed_form(kind):
    make, from_mean = MIXTURES[kind]
    rows = KINDS[kind][2]
    model = make(1).fit(rows)
    np.testing.assert_allclose(getattr(model, f"{KINDS[kind][0].parameter}_")[0], from_mean(rows.mean(axis=0)), 1e-14)


@EVERY_MIXTURE
@pytest.mark.parametrize("algorithm", ["batch", "incremental", "stepwise", "auto"])
def test_values_at_the_edge_stay_finite_and_monotone(kind, algorithm):
    """A component whose rows are all 0 has a rate of 0, a probability of 1, or a density that grows without bound."""
    rows = np.random.default_rng(0).poisson(6.0, size=(600, 3)).clip(0, 1 if kind == "bernoulli" else None) * 1.0
    rows[:300] = 0.0
    with warnings.catch_warnings():  # of a falling likelihood too
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Best performing")
        warnings.filterwarnings("ignore", message="column|the rows of|.* distinct rows|component .* collapsed")
        model = MIXTURES[kind][0](2, random_state=0, tol=0.0, max_iter=20, algorithm=algorithm).fit(rows)
    assert np.isfinite(model.lower_bound_)
    assert np.isfinite(getattr(model, f"{KINDS[kind][0].parameter}_")).all()
    assert np.isfinite(model.score_samples(rows)).all()
    assert set(model.predict(rows[:300])).isdisjoint(model.predict(rows[300:][rows[300:].any(axis=1)]))


@pytest.mark.parametrize("kind", ["poisson", "geometric"])
def test_large_counts(kind):
    rng = np.random.default_rng(0)
    rows = rng.poisson(np.repeat([1e6, 3e6], 500)[:, np.newaxis], size=(1000, 2))
    if kind == "geometric":
        rows = rng.geometric(np.repeat([1e-3, 1e-6], 500)[:, np.newaxis], size=(1000, 2)) - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = MIXTURES[kind][0](2, random_state=0, tol=1e-9, max_iter=200).fit(rows)
    means = KINDS[kind][0].mean_parameters(getattr(model, f"{KINDS[kind][0].parameter}_"))
    expected = np.array([rows[:500].mean(axis=0), rows[500:].mean(axis=0)])
    rtol = 1e-9 if kind == "poisson" else 0.1
    np.testing.assert_allclose(np.sort(means, axis=0), np.sort(expected, axis=0), rtol)


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        ("bernoulli", 2.0, "holds 1 values that are not whole numbers from 0 to 1; the first is 2"),
        ("poisson", -1.0, "holds 1 values that are not whole numbers of at least 0; the first is -1"),
        ("poisson", 0.5, "holds 1 values that are not whole numbers of at least 0; the first is 0.5"),
        ("poisson", np.nan, "NaN"),
        ("exponential", -0.5, "holds 1 values that are not numbers of at least 0; the first is -0.5"),
        ("exponential", np.inf, "inf"),
        ("geometric", 1.5, "holds 1 values that are not whole numbers of at least 0; the first is 1.5"),
    ],
)
def test_values_outside_the_support_are_refused_by_row_and_column(kind, value, what):
    rows = np.tile(KINDS[kind][2], (20, 1)).astype(float)
    rows[13, 1] = value
    with pytest.raises(DataError, match=what) as caught:
        MIXTURES[kind][0](2, random_state=0).fit(rows)
    assert "row 13" in str(caught.value)
    assert "column 1" in str(caught.value)


def test_support():
    rows = np.array([-np.inf, -1.0, 0.0, 0.5, 1.0, 3.0, np.inf, np.nan])
    assert Support().outside(rows).tolist() == [True, *[False] * 5, True, True]
    assert (~Support("", 0.0, 1.0, whole=True).outside(rows)).nonzero()[0].tolist() == [2, 4]
    assert not Support("", 0.0, whole=True).outside(np.array([True, False])).any()


def test_starts_must_lie_within_the_bounds():
    for make, name, value, message in (
        (dem.PoissonMixture, "rates_init", -1.0, "rates_init must be at least 0, but range from -1 to -1"),
        (dem.GeometricMixture, "probabilities_init", 1.5, "probabilities_init must lie between 0 and 1, but range"),
    ):
        with pytest.raises(OptionError, match=message):
            make(2, **{name: np.full((2, 3), value)}).fit(COUNTS)
