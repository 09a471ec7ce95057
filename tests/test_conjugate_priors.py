"""Conjugate priors of exponential families: closed forms, monotone with every algorithm, kept with the model."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from cases import CASES, chunk_of
from numpy.testing import assert_allclose

import dem
from dem.errors import OptionError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
WITH = [case for case in CASES if getattr(case.estimator()._component(), "has_conjugates", False)]
BY_NAME = {case.name: case for case in WITH}


def test_one_component_has_the_mode_of_the_posterior():
    """Priors of scipy whose modes are those of so many more rows."""
    rows = np.random.default_rng(0).poisson(0.4, size=(30, 2))
    poisson = dem.PoissonMixture(prior={"rows": 2.5, "rates": [3.0, 0.5]}).fit(rows)
    assert_allclose(poisson.rates_[0], (rows.sum(axis=0) + 2.5 * np.array([3.0, 0.5])) / 32.5, rtol=1e-14)
    prior = scipy.stats.gamma(2.5 * np.array([3.0, 0.5]) + 1.0, scale=1 / 2.5)
    family, parameters = poisson._model()
    other = family.from_user({"weights": [1.0], "rates": [[1.0, 2.0]]})
    difference = prior.logpdf(poisson.rates_[0]).sum() - prior.logpdf([1.0, 2.0]).sum()
    assert family.log_prior(parameters) - family.log_prior(other) == pytest.approx(difference, rel=1e-12)
    bernoulli = dem.BernoulliMixture(prior={"rows": 2.0, "probabilities": 0.5}).fit(np.minimum(rows, 1))
    assert_allclose(bernoulli.probabilities_[0], (np.minimum(rows, 1).sum(axis=0) + 1.0) / 32.0, rtol=1e-14)
    exponential = dem.ExponentialMixture(prior="default").fit(rows + 1.0)
    assert_allclose(exponential.rates_[0], 1.0 / (rows + 1.0).mean(axis=0), rtol=1e-14)  # the row is a mean one
    assert exponential.prior_rows_ == 1.0
    assert_allclose(exponential.prior_statistics_, (rows + 1.0).mean(axis=0), rtol=1e-14)
    categorical = dem.CategoricalMixture(prior={"rows": 3.0, "probabilities": [[0.5, 0.5], [0.5, 0.5]]})
    found = categorical.fit(np.minimum(rows, 1)).probabilities_[0, :, 1]
    assert_allclose(found, (np.minimum(rows, 1).sum(axis=0) + 1.5) / 33.0, rtol=1e-14)


def test_objective_is_that_of_the_formula():
    rows = np.random.default_rng(0).poisson([[1.0, 8.0]], size=(300, 2)) + np.repeat([[0], [5]], 150, axis=0)
    options = {"n_components": 2, "random_state": 0, "tol": 0.0, "prior": {"rows": 40.0, "rates": [2.0, 3.0]}}
    before, after = (dem.PoissonMixture(max_iter=n, **options).fit(rows) for n in (2, 3))
    rates, t = before.rates_, np.array([2.0, 3.0])
    more = 40.0 * np.sum(np.log(rates) * t - rates)
    assert after.lower_bound_ == pytest.approx(before.score(rows) + more / 300, rel=1e-12)
    shares = before.predict_proba(rows)
    expected = (shares.T @ rows + 40.0 * t) / (shares.sum(axis=0)[:, np.newaxis] + 40.0)
    assert_allclose(after.rates_, expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", WITH, ids=str)
def test_every_algorithm_climbs_to_the_same_maximum(case):
    rows = case.data()[:600]
    ends = []
    for algorithm in ("batch", "auto", "incremental", "stepwise"):
        model = case.estimator(prior="default", algorithm=algorithm, tol=1e-9, max_iter=200).fit(rows)
        assert np.diff(model.lower_bounds_[2 if algorithm == "stepwise" else 0 :]).min(initial=0.0) > -1e-11
        ends.append(model.lower_bound_)
    assert_allclose(ends, ends[0], rtol=1e-6)
    family, parameters = model._model()
    assert model.lower_bound_ == pytest.approx(model.score(rows) + family.log_prior(parameters) / 600, rel=1e-6)
    # Parameters imply their statistics for the rows there are.
    again = family.m_step(600.0 * family.implied(parameters, 600.0), parameters)
    for name, values in family.to_user(again).items():
        assert_allclose(values, family.to_user(parameters)[name], rtol=1e-9, atol=1e-12)
    rebased = family.rebased(family.e_step(parameters, chunk_of(rows)), parameters)
    assert family.free_energy(rebased, parameters) == pytest.approx(
        600 * model.score(rows) + family.log_prior(parameters)
    )


def test_a_prior_keeps_from_the_edge_and_stays_with_the_model(tmp_path):
    rows = np.repeat([[0, 0, 1], [1, 1, 0]], 100, axis=0)
    options = {"n_components": 2, "random_state": 0, "prior": {"rows": 2.0, "probabilities": 0.5}}
    model = dem.BernoulliMixture(**options).fit(rows)
    assert 0.005 < model.probabilities_.min() < model.probabilities_.max() < 0.995
    model.save(str(tmp_path / "model.zarr"))
    again = dem.load(str(tmp_path / "model.zarr"))
    assert again.prior_rows_ == 2.0
    np.testing.assert_array_equal(again.prior_statistics_, [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(again.score_samples(rows), model.score_samples(rows))
    ours, theirs = (one.set_params(warm_start=True).fit(rows) for one in (model, again))
    np.testing.assert_array_equal(ours.probabilities_, theirs.probabilities_)
    # Also from a stream, where the prior counts once.
    stream = dem.BernoulliMixture(**options)
    for _ in range(10):
        stream.partial_fit(rows)
    assert stream.probabilities_.min() < 0.004
    plain = dem.BernoulliMixture(2, random_state=0).fit(rows).set_params(prior="default")
    with pytest.raises(OptionError, match="fitted without a prior"):
        plain.predict(rows)


def test_a_part_of_a_mixed_table_takes_a_prior(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.poisson(np.repeat([2, 9], 60)), rng.random(120) < 0.5]).astype(float)
    priors = {"rows": 5, "rates": [3.0]}, {"rows": 4.0, "probabilities": 0.5}
    parts = {0: dem.PoissonMixture(prior=priors[0]), 1: ("bernoulli", {"prior": priors[1]})}
    one = dem.Mixture(parts, n_components=1).fit(rows)  # the modes of the posteriors
    assert_allclose(one.parameters_["0"]["rates"], [[(rows[:, 0].sum() + 15.0) / 125.0]], rtol=1e-14)
    assert_allclose(one.parameters_["1"]["probabilities"], [[(rows[:, 1].sum() + 2.0) / 124.0]], rtol=1e-14)
    both = dem.Mixture(parts, n_components=2, random_state=0, tol=1e-9, max_iter=500).fit(rows)
    assert np.diff(both.lower_bounds_).min() > -1e-12
    both.save(path := str(tmp_path / "m.zarr"))
    again = dem.load(path)
    for model in (both, again):  # whose priors play no part in what new rows move
        bare = dem.load(path).set_params(families={0: "poisson", 1: "bernoulli"})
        moved, expected = model.adapt(rows[:20], update="all"), bare.adapt(rows[:20], update="all")
        assert_allclose(moved.parameters_["0"]["rates"], expected.parameters_["0"]["rates"], rtol=1e-12)
    again.set_params(warm_start=True).fit(rows)
    assert_allclose(again.parameters_["0"]["rates"], both.parameters_["0"]["rates"], rtol=1e-4)
    with pytest.raises(OptionError, match="prior of '0' is not for a part of gaussian: parts of exponential families"):
        dem.Mixture({0: ("gaussian", {"prior": "default"}), 1: "bernoulli"}).fit(rows)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"rows": 0.0}, "prior's rows must be a number above 0, not 0.0"),
        ({"rate": 1.0}, "prior has rows and rates, all of them or none, not rate"),
        ({"rates": -1.0}, "prior's rates must be at least 0"),
        ({"rates": [1.0, 2.0, 3.0]}, r"prior's rates must have shape \(2,\), not \(3,\)"),
    ],
)
def test_bad_priors(prior, message):
    with pytest.raises(OptionError, match=message):
        dem.PoissonMixture(prior=prior).fit(np.arange(40).reshape(20, 2))
    with pytest.raises(OptionError, match="NegativeBinomialMixture has no conjugate prior"):
        dem.NegativeBinomialMixture(prior="default").fit(np.arange(40).reshape(20, 2))


def test_bad_priors_of_shares_and_of_parts():
    rows = np.random.default_rng(0).integers(0, 3, (60, 2))
    for wrong, said in (
        ([0.2, 0.3, 0.4], r"\(2, 3\), not \(3,\)"),
        ([[0.2, 0.3, 0.4]] * 2, "must sum to 1, but sum to 0.9"),
    ):
        with pytest.raises(OptionError, match=f"prior's probabilities .*{said}"):
            dem.CategoricalMixture(2, prior={"probabilities": wrong}).fit(rows)
    with pytest.raises(OptionError, match="prior's probabilities must sum to 1, but sum to 0"):
        dem.MultinomialMixture(2, prior={"probabilities": [0.0, 0.0]}).fit(rows)
    with pytest.raises(OptionError, match=r"families: '0': prior's rates must have shape \(1,\), not \(3,\)"):
        dem.Mixture({0: ("poisson", {"prior": {"rates": [1.0, 2.0, 3.0]}}), 1: "poisson"}).fit(rows)
