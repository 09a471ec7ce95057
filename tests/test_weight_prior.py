"""A Dirichlet prior of the weights: closed form, monotone with every algorithm, weighed against all rows."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import dirichlet

import dem
from dem.errors import OptionError
from tests.cases import chunk_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ALPHA = 4.0


def rows_of(n=300):
    rng = np.random.default_rng(5)
    return np.concatenate([rng.normal(size=(n, 2)), rng.normal(4.0, 1.0, size=(n // 3, 2))])


def options(**more):
    return {"n_components": 3, "random_state": 0, "reg_covar": 0.0, "weight_concentration": ALPHA, **more}


def test_weights_and_objective_are_those_of_the_formula():
    rows = rows_of()
    fitted = dem.GaussianMixture(**options(max_iter=3, tol=0.0, algorithm="batch")).fit(rows)
    before = dem.GaussianMixture(**options(max_iter=2, tol=0.0)).fit(rows)
    counts = before.predict_proba(rows).sum(axis=0)
    assert_allclose(fitted.weights_, (counts + ALPHA - 1.0) / (len(rows) + 3 * (ALPHA - 1.0)), rtol=1e-12)
    # The objective is the log-posterior, but for what no weights change; scores are the likelihood alone.
    more = dirichlet.logpdf(before.weights_, np.full(3, ALPHA)) - dirichlet.logpdf(np.full(3, 1 / 3), np.full(3, ALPHA))
    more -= 3 * (ALPHA - 1.0) * np.log(3.0)
    assert fitted.lower_bound_ == pytest.approx(before.score(rows) + more / len(rows), rel=1e-12)
    assert fitted.bic(rows) == pytest.approx(-2 * len(rows) * fitted.score(rows) + 17 * np.log(len(rows)), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["batch", "auto", "incremental", "stepwise"])
def test_every_algorithm_ends_at_the_same_maximum(algorithm):
    rows = rows_of()
    table = rows[np.random.default_rng(1).permutation(len(rows))]
    weights = np.full(len(table), 2.0)
    model = dem.GaussianMixture(**options(n_components=2, algorithm=algorithm, tol=1e-9, max_iter=300))
    fitted = model.fit(table, None, weights)
    counts = 2.0 * fitted.predict_proba(table).sum(axis=0)
    assert_allclose(fitted.weights_, (counts + ALPHA - 1.0) / (2 * len(table) + 2 * (ALPHA - 1.0)), rtol=1e-3)
    logs = (ALPHA - 1.0) * np.log(fitted.weights_).sum() / weights.sum()
    assert fitted.lower_bound_ == pytest.approx(fitted.score(table) + logs, rel=1e-7)
    bounds = fitted.lower_bounds_[2 if algorithm == "stepwise" else 0 :]
    assert np.diff(bounds).min(initial=0.0) > -1e-11


def test_parameters_imply_their_statistics_for_the_rows_there_are():
    rows = rows_of()
    family, parameters = dem.GaussianMixture(**options(max_iter=5)).fit(rows)._model()
    n = float(len(rows))
    again = family.m_step(n * family.implied(parameters, n), parameters)
    assert_allclose(again.weights, parameters.weights, rtol=1e-12)
    statistics = family.rebased(family.e_step(parameters, chunk_of(rows)), parameters)
    fitted = family.m_step(statistics, parameters)
    assert_allclose(n * family.implied(fitted, n).counts, statistics.counts, rtol=1e-10)


def test_a_stream_sets_all_rows_that_it_has_seen_against_the_prior():
    rows = rows_of(3000)
    table = rows[np.random.default_rng(1).permutation(len(rows))]
    gm = dem.GaussianMixture(**options(weight_concentration=1 + 2000.0, step_power=1.0)).fit(table[:2000])
    before = gm.weights_
    # The prior must not be counted again with each call.
    for place in range(2000, 2200, 2):
        gm.partial_fit(table[place : place + 2])
    assert gm.n_samples_seen_ == 2200
    assert_allclose(gm.weights_, before, atol=0.02)
    # Rows of weight 2 are two rows.
    one = (
        dem.GaussianMixture(**options()).fit(table[:2000]).partial_fit(table[2000:2400], sample_weight=np.full(400, 2))
    )
    assert one.n_samples_seen_ == 2800


def test_no_component_becomes_empty_and_bad_values_are_refused():
    rows = np.random.default_rng(0).normal(size=(40, 1))
    fitted = dem.GaussianMixture(**options(n_components=8, init_params="random", max_iter=20, reg_covar=1e-3)).fit(rows)
    assert fitted.weights_.min() >= (ALPHA - 1.0) / (40 + 8 * (ALPHA - 1.0)) * (1 - 1e-12)
    with pytest.raises(OptionError, match=r"weight_concentration must be at least 1, not 0\.5.*negative weight"):
        dem.GaussianMixture(weight_concentration=0.5).fit(rows)
    with pytest.raises(OptionError, match="needs weights that are fitted"):
        dem.PoissonMixture(weight_concentration=2.0, fit_weights=False).fit(np.abs(rows).round())
