"""Families of the exponential kind against scipy.stats, closed forms, and values at the edges."""

from __future__ import annotations

import warnings

import dask.array
import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from cases import chunk_of

import dem
from dem.errors import DataError, OptionError
from dem.families.base import Support
from dem.families.binomial import BinomialComponent
from dem.families.exponential import ExponentialComponent
from dem.families.geometric import GeometricComponent
from dem.families.multinomial import MultinomialComponent
from dem.families.poisson import PoissonComponent
from dem.families.trials import TrialsComponent
from dem.sparse import SparseRows

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
    found = getattr(model, f"{KINDS[kind][0].parameters[0]}_")[0]
    np.testing.assert_allclose(found, from_mean(rows.mean(axis=0)), 1e-14)


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
    assert np.isfinite(getattr(model, f"{KINDS[kind][0].parameters[0]}_")).all()
    assert np.isfinite(model.score_samples(rows)).all()
    assert set(model.predict(rows[:300])).isdisjoint(model.predict(rows[300:][rows[300:].any(axis=1)]))


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_waiting_times_of_any_size(scale):
    rows = scale * np.random.default_rng(9).gamma(2.0, size=(300, 1))
    found = dem.ExponentialMixture(1).fit(rows).score_samples(rows)
    np.testing.assert_allclose(found, scipy.stats.expon.logpdf(rows[:, 0], scale=rows.mean()), rtol=1e-12)


@pytest.mark.parametrize("kind", ["poisson", "geometric"])
def test_large_counts(kind):
    rng = np.random.default_rng(0)
    rows = rng.poisson(np.repeat([1e6, 3e6], 500)[:, np.newaxis], size=(1000, 2))
    if kind == "geometric":
        rows = rng.geometric(np.repeat([1e-3, 1e-6], 500)[:, np.newaxis], size=(1000, 2)) - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = MIXTURES[kind][0](2, random_state=0, tol=1e-9, max_iter=200).fit(rows)
    means = KINDS[kind][0].mean_parameters(getattr(model, f"{KINDS[kind][0].parameters[0]}_"))
    expected = np.array([rows[:500].mean(axis=0), rows[500:].mean(axis=0)])
    rtol = 1e-9 if kind == "poisson" else 0.1
    np.testing.assert_allclose(np.sort(means, axis=0), np.sort(expected, axis=0), rtol)


#: component, parameters, a row, and its log-density by mpmath at 80 digits
HUGE = {
    "poisson": (PoissonComponent(), [1e9 + 3e4, 1e14], [1e9, 1e14], -11.730562451963706 - 17.037034184162994),
    "far": (PoissonComponent(), [1e14, 3.0], [2.0, 1e12], -99999999999936.22 - 25532408827278.17),
    "binomial": (BinomialComponent((10**9, 3)), [0.3, 0.25], [3e8, 2.0], -10.500247577859037 - 1.9616585060234524),
    "rare": (BinomialComponent(10**14), [5e-14, 1 - 2.0**-50], [5.0, 1e14], -1.740302180611519 - 0.08881784197001256),
    "trials": (
        TrialsComponent(),
        [5e-14, 0.25, 1.0, 1.0],
        [5.0, 2.0, 1e14, 3.0],
        -1.740302180611519 - 1.9616585060234524,
    ),
    "multinomial": (MultinomialComponent(), [2e9, 3e9 + 1e5, 5e9], [2e9, 3e9, 5e9], -24.277082011631453),
    "rare multinomial": (MultinomialComponent(), [4.0, 1e14, 1.0], [5.0, 1e14, 0.0], -2.856019937182568),
}


@pytest.mark.parametrize("kind", HUGE)
def test_densities_of_huge_counts_keep_their_digits(kind):
    component, parameters, row, expected = HUGE[kind]
    parameters, rows = np.array([parameters]), np.array([row, np.ones(len(row))])
    of_all = component.kernel(parameters, rows.dtype)
    kernels = [(of_all, rows)]
    if component.takes_sparse:
        sparse = scipy.sparse.csr_array(rows)
        kernels.append((of_all, SparseRows(sparse.data, sparse.indices, sparse.indptr, len(row))))
    if kind == "poisson":  # what is missing says nothing
        gaps = np.hstack([rows, np.full((2, 1), np.nan)])
        kernels += [(kernel, gaps) for _, kernel in component.marginals(np.append(parameters, [[7.0]], axis=1), gaps)]
    if kind == "trials":
        kernels += [(kernel, rows) for _, kernel in component.marginals(parameters, rows)]
    for kernel, read in kernels:
        np.testing.assert_allclose(kernel.block(chunk_of(read)).log_density()[0, 0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        ("bernoulli", 2.0, r"holds 1 values that are not whole numbers from 0 to 1 \(bernoulli\); the first is 2"),
        ("poisson", -1.0, r"holds 1 values that are not whole numbers of at least 0 \(poisson\); the first is -1"),
        ("poisson", 0.5, r"holds 1 values that are not whole numbers of at least 0 \(poisson\); the first is 0.5"),
        ("poisson", np.nan, "NaN"),
        ("exponential", -0.5, r"holds 1 values that are not numbers of at least 0 \(exponential\); the first is -0.5"),
        ("exponential", np.inf, "inf"),
        ("geometric", 1.5, r"holds 1 values that are not whole numbers of at least 0 \(geometric\); the first is 1.5"),
    ],
)
def test_values_outside_the_support_are_refused_by_row_and_column(kind, value, what):
    rows = np.tile(KINDS[kind][2], (20, 1)).astype(float)
    rows[13, 1] = value
    with pytest.raises(DataError, match=what) as caught:
        MIXTURES[kind][0](2, random_state=0).fit(rows)
    assert "row 13" in str(caught.value)
    assert "column 1" in str(caught.value)
    fitted = MIXTURES[kind][0](1).fit(np.tile(KINDS[kind][2], (20, 1)))
    what = what.replace("holds 1 values", "contains values").replace("the first is", "the first of .* is")
    with pytest.raises(DataError, match=rf"{what}.* in row 13, column 1"):
        fitted.predict(dask.array.from_array(rows, chunks=(5, -1))).compute()


def test_a_refused_value_is_not_rounded_until_it_looks_right():
    rows = np.array([[4.0], [3.0000000001], [10000003.5]])
    with pytest.raises(DataError, match=r"the first is 3\.0000000001 in row 1"):
        dem.PoissonMixture(1).fit(rows)
    with pytest.raises(DataError, match=r"first is 10000002 in row 0, column 0; the highest there is 10000001$"):
        dem.BinomialMixture(1, [10000001]).fit([[10000002], [1]])


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
