"""Laws of every fit: monotone, recovers what made the data, labels agree with posteriors, models survive pickling."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from agreement import assert_close, assert_same_bits
from cases import CASES, Fits
from sklearn.base import clone
from sources import CutRows

from dem.errors import DataError, LikelihoodWarning


@pytest.fixture(scope="module")
def fitted():
    return Fits(lambda case: case.estimator(n_init=3).fit(case.data()))


@pytest.mark.filterwarnings("ignore::dem.errors.ComponentWarning")
@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data", "k-means||"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_log_likelihood_never_falls(case, init):
    # A fall beyond the tolerance is a LikelihoodWarning, and warnings are errors here.
    fitted = case.estimator(init_params=init, max_iter=500).fit(case.data())
    gains = np.diff(fitted.lower_bounds_)
    assert len(gains) > 0
    assert gains.min() > -1e-5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_recovers_what_made_the_data(case, fitted):
    model = fitted[case.name]
    found, truth = getattr(model, case.located), case.truth[case.located]
    orders = [list(order) for order in itertools.permutations(range(3))]
    best = min(orders, key=lambda order: np.abs(found[order] - truth).max())
    np.testing.assert_allclose(found[best], truth, atol=case.within)
    np.testing.assert_allclose(model.weights_[best], case.truth["weights_"], atol=0.05)
    if case.background:
        assert model.noise_weight_ == pytest.approx(case.shares[-1], abs=0.02)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_posteriors_labels_and_densities_agree(case, fitted):
    model, rows = fitted[case.name], case.data()
    posterior = model.predict_proba(rows)
    np.testing.assert_allclose(posterior.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(case.labels(posterior.argmax(axis=1)), model.predict(rows))
    assert model.score(rows) == pytest.approx(model.score_samples(rows).mean(), rel=1e-12)
    # One more iteration from the fitted parameters reports exactly what they are worth.
    again = clone(model).set_params(warm_start=True, max_iter=1, tol=1e9, n_init=1)
    for name in (*case.fitted, "converged_", "lower_bound_", "n_features_in_"):
        setattr(again, name, getattr(model, name))
    assert again.fit(rows).lower_bound_ == pytest.approx(case.objective(model), rel=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_criteria(case, fitted):
    model, rows = fitted[case.name], case.data()
    n, log_likelihood = len(rows), model.score_samples(rows).sum()
    free = case.n_parameters
    assert model.aic(rows) == pytest.approx(-2 * log_likelihood + 2 * free, rel=1e-12)
    assert model.bic(rows) == pytest.approx(-2 * log_likelihood + free * np.log(n), rel=1e-12)
    posterior = model.predict_proba(rows)
    entropy = -np.sum(posterior * np.log(np.maximum(posterior, 1e-300)))
    assert model.icl(rows) == pytest.approx(model.bic(rows) + 2 * entropy, rel=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sampling_and_fitting_come_back(case, fitted):
    model = fitted[case.name]
    rows, labels = model.sample(20000)
    assert rows.shape == (20000, model.n_features_in_)
    np.testing.assert_allclose(np.bincount(labels[labels >= 0]) / 20000, model.weights_, atol=0.02)
    values = {name.removesuffix("_"): getattr(model, name) for name in case.parameters}
    for k, expected in enumerate(case.row_means(values)):
        mine = case.statistics(rows[labels == k])
        deviations = np.abs(mine.mean(axis=0) - expected)
        assert (deviations < 5 * mine.std(axis=0) / np.sqrt(len(mine))).all(), "five standard errors"
    drawn, fitted_to = model.score_samples(rows), model.score_samples(case.data())
    error = np.hypot(drawn.std() / np.sqrt(len(drawn)), fitted_to.std() / np.sqrt(len(fitted_to)))
    assert abs(drawn.mean() - fitted_to.mean()) < 5 * error


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pickle_and_clone(case, fitted):
    model, rows = fitted[case.name], case.data()
    copy = pickle.loads(pickle.dumps(model))
    assert_same_bits(copy, model, case.parameters)
    np.testing.assert_array_equal(copy.predict_proba(rows), model.predict_proba(rows))
    assert clone(model).get_params() == model.get_params()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_warm_start_goes_on_where_it_stopped(case):
    rows = case.data()
    whole = case.estimator(max_iter=9, tol=0.0)
    halves = case.estimator(max_iter=4, tol=0.0, warm_start=True)
    with pytest.warns(UserWarning, match="did not converge"):
        whole.fit(rows)
    with pytest.warns(UserWarning, match="did not converge"):
        halves.fit(rows)
    with pytest.warns(UserWarning, match="did not converge"):
        halves.set_params(max_iter=5).fit(rows)
    assert_close(halves, whole, case.parameters, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_polishing_a_start_from_a_sample(case):
    rows = CutRows(case.data(), [1000, 2000])
    fitted = case.estimator(sample_rows=500, n_init=3, max_iter=300).fit(rows)
    iterations = [record["iteration"] for record in fitted.history_ if record["phase"] == "data"]
    # One is for the sample, one for the box of a background or for categories; the best few starts share the others.
    reads = rows.reads - 1 - case.n_looks
    assert max(iterations) == reads
    assert fitted.n_iter_ <= reads <= 1.2 * fitted.n_iter_ + 1
    assert {record["model"] for record in fitted.history_ if record["phase"] == "sample"} == {0, 1, 2}
    assert fitted.lower_bound_ == pytest.approx(case.estimator(n_init=3).fit(case.data()).lower_bound_, abs=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_broken_m_step_is_reported(case, monkeypatch):
    kind = type(case.family())
    honest, first = kind.m_step, []

    def back_to_the_start(self, statistics, parameters):
        first.append(parameters)
        return first[0] if len(first) == 3 else honest(self, statistics, parameters)

    monkeypatch.setattr(kind, "m_step", back_to_the_start)
    with pytest.warns(LikelihoodWarning, match="fell from .* to .* in iteration"):
        case.estimator(max_iter=5, tol=1e-9, init_params="random").fit(case.data())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_outside_the_support_are_named(case):
    support = case.estimator()._support()
    below = support.lowest - 1.0 if np.isfinite(support.lowest) else np.nan
    for bad in (below, np.inf):
        rows = case.data().astype(float)
        rows[2500, 1] = bad
        cut = CutRows(rows, [1000, 2000])
        with pytest.raises(DataError, match="row 2500, column 1") as error:
            case.estimator(sample_rows=50).fit(cut)
        assert support.description in str(error.value) or "NaN" in str(error.value)
        with pytest.raises(DataError, match="row 2500, column 1"):
            case.estimator().fit(case.data()).score(cut)
