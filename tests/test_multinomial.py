"""Multinomial mixtures against SciPy, EM written anew, and what made their samples."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from case import WEIGHTS
from cases_exponential import WORDS, documents

import dem
from dem.errors import DataError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
START = {"weights_init": np.full(3, 1 / 3), "probabilities_init": 0.6 * WORDS + 0.4 / 6}


def test_em_from_the_same_start():
    rows = documents(400)
    rows[5] = 0  # a row without counts belongs to the components by their weights
    weights, probabilities = START["weights_init"], START["probabilities_init"]
    for _ in range(4):
        logs = [scipy.stats.multinomial.logpmf(rows, rows.sum(axis=1), p / p.sum()) for p in probabilities]
        joint = np.log(weights) + np.transpose(logs)
        log_likelihood = np.logaddexp.reduce(joint, axis=1)
        gamma = np.exp(joint - log_likelihood[:, np.newaxis])
        often = gamma.T @ rows
        weights, probabilities = gamma.mean(axis=0), often / often.sum(axis=1, keepdims=True)
    for data in (rows, scipy.sparse.csr_array(rows)):
        ours = dem.MultinomialMixture(3, tol=0.0, max_iter=4, random_state=0, **START).fit(data)
        np.testing.assert_allclose(ours.weights_, weights, rtol=1e-10)
        np.testing.assert_allclose(ours.probabilities_, probabilities, rtol=1e-10)
        np.testing.assert_allclose(ours.row_totals_, often.sum(axis=1) / (400 * weights), rtol=1e-10)
        assert ours.lower_bound_ == pytest.approx(log_likelihood.mean(), rel=1e-12)
    assert ours._n_parameters() == 2 + 3 * 5


def test_columns_and_rows_without_counts():
    rows = np.array([[4, 0, 0, 1], [5, 1, 0, 0], [0, 3, 0, 6], [0, 2, 0, 9], [0, 0, 0, 0]])
    with pytest.warns(dem.errors.DataWarning, match="column 2 of NumPy array is constant"):
        fitted = dem.MultinomialMixture(2, random_state=0).fit(rows)
    assert (fitted.probabilities_[:, 2] == 0.0).all()
    assert np.isfinite(fitted.score_samples([[0, 0, 3, 0], [0, 0, 0, 0]])).all()
    assert fitted.score_samples([[0, 0, 0, 0]])[0] == pytest.approx(0.0, abs=1e-12)


def test_a_given_start_leaves_nothing_to_chance():
    # The mean totals, of which no density tells, weigh in the first step of stepwise EM.
    rows = documents(400)
    weights = np.arange(400) % 3
    options = {"algorithm": "stepwise", "random_state": 0, **START}
    start = dem.MultinomialMixture(3, max_iter=0, **options).fit(rows, sample_weight=weights)
    np.testing.assert_allclose(start.row_totals_, weights @ rows.sum(axis=1) / weights.sum(), rtol=1e-14)
    fits = [
        dem.MultinomialMixture(3, max_iter=1, init_params=init, **options).fit(rows) for init in ("random", "kmeans")
    ]
    np.testing.assert_array_equal(fits[0].probabilities_, fits[1].probabilities_)


def test_its_own_sample_gives_its_parameters_back():
    made = dem.MultinomialMixture(3, max_iter=0, random_state=0, **START).fit(documents())
    made.weights_, made.probabilities_, made.row_totals_ = WEIGHTS, WORDS, np.array([10.0, 30.0, 50.0])
    rows, labels = made.sample(20_000)
    found = dem.MultinomialMixture(3, random_state=0, tol=1e-6, n_init=3).fit(rows)
    order = np.argsort(-found.weights_)
    np.testing.assert_allclose(found.probabilities_[order], WORDS, atol=0.01)
    np.testing.assert_allclose(found.row_totals_[order], [10.0, 30.0, 50.0], rtol=0.05)
    assert np.mean(found.predict(rows) == order[labels]) > 0.9


def test_what_is_wrong():
    rows = documents(50).astype(float)
    rows[7, 2] = -1.0
    with pytest.raises(DataError, match=r"not whole numbers of at least 0.*; the first is -1 in row 7, column 2"):
        dem.MultinomialMixture(2).fit(rows)
    for options, said in (
        ({"probabilities_init": np.full((2, 6), 0.2)}, "each row of probabilities_init must sum to 1"),
        ({"missing": "marginalise"}, "marginalise"),
    ):
        with pytest.raises(OptionError, match=said):
            dem.MultinomialMixture(2, **options).fit(documents(50))
    prior = {"rows": 2, "probabilities": np.full(6, 1 / 6)}
    held = dem.MultinomialMixture(2, prior=prior, random_state=0, tol=1e-9).fit(documents(50))
    assert held.probabilities_.min() > 0.0
