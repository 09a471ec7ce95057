"""Latent class analysis against EM written anew in NumPy, Bernoulli mixtures, and what made its samples."""

from __future__ import annotations

import numpy as np
import pytest
from case import WEIGHTS
from cases_exponential import CLASSES, classes
from sources import CutRows

import dem
from dem.errors import DataError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
COUNTS = [2, 2, 3, 2, 3]
START = {
    "weights_init": np.full(3, 1 / 3),
    "probabilities_init": 0.7 * CLASSES + 0.3 * (np.arange(3) < np.array(COUNTS)[:, None]) / np.array(COUNTS)[:, None],
}


def reference(rows, n_iterations):
    """EM from the formulas, with gaps left out of every sum."""
    weights, probabilities = START["weights_init"], START["probabilities_init"]
    observed = ~np.isnan(rows)
    ones = (np.where(observed, rows, -1)[:, :, np.newaxis] == np.arange(3)).astype(float)
    for _ in range(n_iterations):
        logs = np.log(np.where(probabilities > 0.0, probabilities, 1.0))
        joint = np.log(weights) + np.einsum("njc,kjc->nk", ones, logs)
        log_likelihood = np.logaddexp.reduce(joint, axis=1)
        gamma = np.exp(joint - log_likelihood[:, np.newaxis])
        often = np.einsum("nk,njc->kjc", gamma, ones)
        weights, probabilities = gamma.mean(axis=0), often / often.sum(axis=2, keepdims=True)
    return weights, probabilities, log_likelihood.mean()


def test_em_from_the_same_start():
    rows = classes(500)
    weights, probabilities, log_likelihood = reference(rows, 6)
    for n_categories in (None, COUNTS):
        ours = dem.CategoricalMixture(3, n_categories=n_categories, tol=0.0, max_iter=6, **START).fit(rows)
        np.testing.assert_allclose(ours.weights_, weights, rtol=1e-12)
        np.testing.assert_allclose(ours.probabilities_, probabilities, rtol=1e-10, atol=1e-13)
        assert ours.lower_bound_ == pytest.approx(log_likelihood, rel=1e-12)
        assert ours.n_categories_ == COUNTS
    assert ours._n_parameters() == 2 + 3 * 7


@pytest.mark.slow
def test_gaps_end_where_what_is_observed_is_likeliest():
    rows = classes(500).astype(float)
    rows[np.random.default_rng(0).random(rows.shape) < 0.25] = np.nan
    weights, probabilities, log_likelihood = reference(rows, 400)
    ours = dem.CategoricalMixture(3, tol=1e-14, max_iter=2000, missing="marginalise", **START).fit(rows)
    np.testing.assert_allclose(ours.weights_, weights, atol=1e-5)
    np.testing.assert_allclose(ours.probabilities_, probabilities, atol=1e-5)
    assert ours.score(rows) == pytest.approx(log_likelihood, rel=1e-9)


def test_two_categories_are_bernoullis():
    rows = (classes() > 0).astype(int)
    ours = dem.CategoricalMixture(3, random_state=0, tol=1e-6, max_iter=300).fit(rows)
    theirs = dem.BernoulliMixture(3, random_state=0, tol=1e-6, max_iter=300).fit(rows)
    np.testing.assert_allclose(ours.probabilities_[:, :, 1], theirs.probabilities_, atol=1e-9)


def test_categories_are_found_in_all_rows_and_kept(tmp_path):
    rows = classes(4000)
    rows[3777, 1] = 4  # in no sample of 500 rows
    fitted = dem.CategoricalMixture(3, random_state=0, sample_rows=500).fit(CutRows(rows, [1000, 2500]))
    assert fitted.n_categories_ == [2, 5, 3, 2, 3]
    assert fitted.probabilities_[:, 1, 2:4].max() == 0.0
    fitted.save(str(tmp_path / "model"))
    again = dem.load(str(tmp_path / "model"))
    assert again.n_categories_ == fitted.n_categories_
    np.testing.assert_array_equal(again.predict_proba(rows), fitted.predict_proba(rows))
    rows[2, 3] = 2
    for asked in (fitted.predict, fitted.score_samples, again.set_params(warm_start=True).fit):
        with pytest.raises(DataError, match=r"not numbers of categories.* in row 2.*column 3; the highest there is 1"):
            asked(rows)
    anew = fitted.set_params(warm_start=False).fit(rows)
    assert anew.n_categories_ == [2, 5, 3, 3, 3]


@pytest.mark.slow
def test_its_own_sample_gives_its_parameters_back():
    made = dem.CategoricalMixture(3, max_iter=0, random_state=0, **START).fit(classes())
    made.weights_, made.probabilities_ = WEIGHTS, CLASSES
    rows, labels = made.sample(20_000)
    found = dem.CategoricalMixture(3, random_state=0, tol=1e-7, n_init=3).fit(rows)
    order = np.argsort(-found.weights_)
    np.testing.assert_allclose(found.probabilities_[order], CLASSES, atol=0.03)
    assert np.mean(found.predict(rows) == order[labels]) > 0.85


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_categories": [2, 2]}, "n_categories tells of 2 columns, but there are 5"),
        ({"n_categories": [2, 2, 3, 2, 0]}, "n_categories must be"),
        ({"n_categories": 2.5}, "n_categories"),
        ({"n_categories": 3, "probabilities_init": np.full((2, 5, 3), 0.3)}, "must sum to 1"),
        ({"n_categories": 3, "probabilities_init": np.full((2, 5, 2), 0.5)}, "shape"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(OptionError, match=said):
        dem.CategoricalMixture(2, **options).fit(classes(50))


def test_what_is_no_category():
    with pytest.raises(DataError, match="column 0 has the value 100000, too large for the number of a category"):
        dem.CategoricalMixture(2).fit(100_000 * classes(50))
    with pytest.raises(OptionError, match="partial_fit needs to know n_categories"):
        dem.CategoricalMixture(2).partial_fit(classes(50))
