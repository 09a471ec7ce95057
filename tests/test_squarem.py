"""SQUAREM: monotone, the fixed point of EM, no reads of its own, and far fewer where EM is slow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zarr
from agreement import assert_same_bits
from cases import ANY_CASE, CASES, FAMILIES, KERNELS, chunk_of
from click.testing import CliRunner
from sources import CutRows

import dem
from dem.cli import dem as command
from dem.em import squarem
from dem.em.algorithm import Batch, Settings, Start, Status
from dem.em.loop import run
from dem.em.squarem import Squarem
from dem.engine import LocalEngine
from dem.errors import OptionError
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.mixture import Mixture


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vectors_hold_all_of_the_parameters(case):
    family, parameters = case.estimator(max_iter=300).fit(case.data())._model()
    vector = family.unconstrain(parameters)
    again = family.constrain(vector, parameters)
    for name, value in family.to_user(parameters).items():
        np.testing.assert_allclose(family.to_user(again)[name], value, rtol=1e-9, atol=1e-10, err_msg=name)
    # Any numbers are valid parameters.
    anywhere = family.constrain(vector + 3.0 * np.random.default_rng(0).normal() * vector, parameters)
    user = family.to_user(anywhere)
    assert case.weights(user).sum() == pytest.approx(1.0)
    assert user["weights"].min() > 0.0
    assert case.admits(user)
    assert np.isfinite(family.log_likelihood(anywhere, chunk_of(case.data()))).all()


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_fixed_point_of_em_in_monotone_steps(case):
    rows = case.data()[:1200]
    options = {"tol": 1e-12, "max_iter": 2000, "init_params": "random_from_data"}
    plain = case.estimator(**options).fit(rows)
    counted = CutRows(rows, [400, 1000])
    fast = case.estimator(accelerate="squarem", **options).fit(counted)
    assert counted.reads == fast.n_iter_ + 1  # the sample; nothing is read for the checks
    assert np.diff(fast.lower_bounds_).min() >= -1e-9
    if abs(fast.lower_bound_ - plain.lower_bound_) > 1e-4:  # another of several maxima: compare with EM from there
        plain = case.estimator(warm_start=True, **options)
        for name in (*case.fitted, "converged_", "lower_bound_", "n_features_in_"):
            setattr(plain, name, getattr(fast, name))
        plain.fit(rows)
    assert fast.lower_bound_ == pytest.approx(plain.lower_bound_, rel=1e-8)
    assert fast.converged_
    assert fast.n_iter_ <= plain.n_iter_ + 3 or plain.n_iter_ < 10


def slow_problem():
    """Two Gaussian components with a common variance whose means are one standard deviation apart."""
    rng = np.random.default_rng(1)
    table = np.where(rng.random(2000) < 0.4, 0.0, 1.0)[:, np.newaxis] + rng.normal(size=(2000, 1))
    low = table < np.median(table)
    family = Mixture(COVARIANCE_TYPES["tied"](reg_covar=0.0).adapted_to(table))
    start = family.start(table, np.hstack([low, ~low]) * 0.8 + 0.1)
    return family, Start(family, start), CutRows(table, [])


@pytest.mark.slow
def test_thirty_times_fewer_steps_where_em_is_slow():
    family, start, rows = slow_problem()
    engine = LocalEngine(1)
    (fast,) = run([start], Squarem(), rows, engine, Settings(1e-14, 1000))
    assert fast.status is Status.CONVERGED
    limit = fast.log_likelihood
    needed = int(np.argmax(np.array(fast.log_likelihoods) > limit - 1e-8)) + 1
    # EM is not there after 30 times as many.
    (plain,) = run([start], Batch(), rows, engine, Settings(0.0, 30 * needed))
    assert plain.log_likelihood < limit - 1e-8
    # And it is where EM goes: EM from the end moves nowhere.
    (after,) = run([Start(family, fast.parameters)], Batch(), rows, engine, Settings(0.0, 200))
    assert after.log_likelihood == pytest.approx(limit, abs=1e-11)
    assert (family.unconstrain(after.parameters) - family.unconstrain(fast.parameters)).largest < 1e-4


def test_a_trial_that_is_less_likely_is_refused(monkeypatch):
    _, start, rows = slow_problem()
    honest = squarem._extrapolated

    def too_far(model, state):
        planned = honest(model, state)
        if not planned.on_trial:
            return planned
        _, v1, v2 = state.path
        backwards = v2 + 2.0 * (v1 - model.unconstrain(planned.trial))
        return replace(planned, trial=model.constrain(backwards, state.parameters))

    monkeypatch.setattr(squarem, "_extrapolated", too_far)
    engine = LocalEngine(1)
    (refused,) = run([start], Squarem(), rows, engine, Settings(0.0, 60))
    (plain,) = run([start], Batch(), rows, engine, Settings(0.0, 60))
    # The refused reads are lost, and the others are EM's, in the same order.
    kept = np.array(refused.log_likelihoods)
    steps = kept[np.append(True, np.diff(kept) > 0)]
    assert 40 <= len(steps) < 55
    np.testing.assert_allclose(steps, plain.log_likelihoods[: len(steps)], rtol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_that_ends_before_a_trial_was_judged_keeps_the_step_before(case, monkeypatch):
    def anywhere(model, state):
        trial = model.constrain(state.path[2] + 5.0 * state.path[2], state.parameters)
        return replace(state, trial=trial, on_trial=True)

    monkeypatch.setattr(squarem, "_extrapolated", anywhere)
    rows = case.data()
    options = {"accelerate": "squarem", "tol": 0.0, "init_params": "random_from_data"}
    for max_iter in range(1, 9):
        model = case.estimator(max_iter=max_iter, **options).fit(rows)
        assert model.score(rows) >= model.lower_bound_ - 1e-9


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::dem.errors.ComponentWarning")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_the_same_bits_on_a_cluster(case, request):
    options = {"accelerate": "squarem", "tol": 0.0, "max_iter": 8, "init_params": "random_from_data"}
    here = case.estimator(**options).fit(CutRows(case.data(), [1000, 2000]))
    request.getfixturevalue("client")
    there = case.estimator(**options).fit(CutRows(case.data(), [1000, 2000]))
    assert_same_bits(there, here, case.parameters)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::dem.errors.ComponentWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_auto_means_batch_with_squarem(case):
    options = {"tol": 1e-8, "max_iter": 500, "init_params": "random_from_data", "n_init": 2}
    fast = case.estimator(accelerate="squarem", **options).fit(case.data())
    auto = case.estimator(algorithm="auto", **options).fit(case.data())
    assert_same_bits(auto, fast, (*case.parameters, "lower_bounds_"))
    assert auto.lower_bounds_ != case.estimator(**options).fit(case.data()).lower_bounds_


def test_an_unknown_acceleration():
    with pytest.raises(OptionError, match=r"'accelerate' .* must be a str among \{'squarem'\} or None"):
        dem.GaussianMixture(accelerate="anderson").fit(np.eye(3))


def test_on_the_command_line(tmp_path):
    zarr.create_array(tmp_path / "rows.zarr", data=ANY_CASE.data(), chunks=(1000, 3))
    arguments = ["fit", str(tmp_path / "rows.zarr"), "-k", "3", "--seed", "0", "--out", str(tmp_path / "model.zarr")]
    result = CliRunner().invoke(command, [*arguments, "--accelerate", "squarem", "--tol", "1e-9", "--quiet"])
    assert result.exit_code == 0, result.output
    model = dem.load(str(tmp_path / "model.zarr"))
    assert model.accelerate == "squarem"
    assert model.converged_
