"""Laws of incremental EM: free energy never falls, batch EM's fixed points, the same bits everywhere."""

from __future__ import annotations

import copy
import functools
import os
import random
import signal
import threading
import time
from dataclasses import fields

import numpy as np
import pytest
from agreement import assert_close, assert_same_bits
from cases import ANY_CASE, CASES, KERNELS, chunk_of
from distributed import Client
from sources import CutBatch, CutRows

from dem.em.algorithm import Settings, Start
from dem.em.e_step import N_BLOCKS, Blocks, EStep
from dem.em.incremental import Incremental
from dem.em.loop import run
from dem.engine import LocalEngine, connect
from dem.events import IterationEnded
from dem.families.mixture_parameters import RebasedStatistics

EDGES = list(range(100, 3000, 100))
TEN = list(range(300, 3000, 300))
# Fits of a few passes from single rows are no good ones.
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::dem.errors.ComponentWarning"
)


def start_of(case, max_iter=1):
    """Return the family, parameters and rows of a fit that has hardly begun."""
    rows = CutRows(case.data(), EDGES)
    family, parameters = case.estimator(init_params="random_from_data", max_iter=max_iter).fit(rows)._model()
    return family, parameters, rows


def watched(family):
    """Return a mixture that notes, in `seen`, free energies of sums of statistics before and after their M-steps."""

    class Watched(type(family)):
        def m_step(self, statistics, parameters):
            after = super().m_step(statistics, parameters)
            if isinstance(statistics, RebasedStatistics):
                self.seen.extend(self.free_energy(statistics, each) for each in (parameters, after))
            return after

    one = Watched(**{field.name: getattr(family, field.name) for field in fields(family)})
    object.__setattr__(one, "seen", [])
    return one


def watched_fit(case, engine, max_in_flight, laps=3):
    family, parameters, rows = start_of(case)
    family = watched(family)
    # An exact pass, some that move on after each block, and an exact one, which the last of all is.
    algorithm = Incremental(max_in_flight)
    (one,) = run([Start(family, parameters)], algorithm, rows, engine, Settings(0.0, laps + 1))
    return one, np.array(family.seen), family, rows


@pytest.mark.parametrize("max_in_flight", [1, 4, 30])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_free_energy_never_falls(case, max_in_flight):
    one, seen, family, rows = watched_fit(case, LocalEngine(1), max_in_flight)
    assert len(seen) > 2 * 60  # of three laps of 30 blocks most have moved the parameters
    assert np.diff(seen).min() > -1e-11 * abs(seen[0])
    assert seen[-1] > seen[0]
    # Each lap ends at a free energy that the log-likelihood, which the last read tells, is above.
    assert np.diff(one.log_likelihoods).min() > -1e-11
    total = family.objective(LocalEngine(1).sweep(rows, [EStep(family, one.parameters)])[0], one.parameters)
    assert seen[-1] <= total + 1e-12 * abs(total)


class Faults(LocalEngine):
    """Threads on which blocks straggle, overtake one another, and are done twice or again after a failure."""

    def submit(self, rows, works, batches):
        rng = random.Random(f"{batches}")

        def straggle(work, chunk):
            time.sleep(rng.choice([0.0, 0.0, 0.004]))
            return work(chunk)

        late = [functools.partial(straggle, work) for work in works]
        lost = super().submit(rows, late, batches) if rng.random() < 0.3 else None
        second = super().submit(rows, late, batches)
        if lost is not None and rng.random() < 0.5:
            lost.result()
        return second


@pytest.mark.parametrize("max_in_flight", [None, 12])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_stragglers_and_duplicates_change_no_bit(case, max_in_flight):
    engine = Faults(6)
    faulty, seen, family, _ = watched_fit(case, engine, max_in_flight, laps=2)
    engine.close()
    expected, same, *_ = watched_fit(case, LocalEngine(1), max_in_flight, laps=2)
    np.testing.assert_array_equal(seen, same)
    assert np.diff(seen).min() > -1e-11 * abs(seen[0])
    names = case_names(case)
    assert_same_bits(User(family, faulty.parameters), User(family, expected.parameters), names)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_would_lower_the_free_energy_is_refused(case, monkeypatch):
    """However old the parameters of an E-step are, and whatever is delivered twice or out of turn."""
    family, old, rows = start_of(case)
    family = watched(family)
    algorithm, blocks = Incremental(1), Blocks.of(rows, LocalEngine(1), N_BLOCKS)
    state = algorithm.init(family, old, rows, len(blocks))

    def visits(plan):
        return blocks.visit(plan, [family], lambda: {0: algorithm.point(state)})

    state, plan = algorithm.plan(state, len(blocks), confirm=False)
    stale = list(visits(plan))
    assert [visit.block for visit in stale] == list(range(len(blocks)))
    for visit in stale:
        state = algorithm.update(family, state, visit.block, visit.points[0], visit.statistics[0])
    state, _ = algorithm.end_pass(family, state)
    reached = []
    for _ in range(2):
        state, plan = algorithm.plan(state, len(blocks), confirm=False)
        for visit in visits(plan):
            state = algorithm.update(family, state, visit.block, visit.points[0], visit.statistics[0])
        state, iterate = algorithm.end_pass(family, state)
        reached.append(iterate.objective)
    family.seen.clear()
    for block in [*range(len(blocks)), *range(9, -1, -1)]:
        state = algorithm.update(family, state, block, old, stale[block].statistics[0])
    state, iterate = algorithm.end_pass(family, state)
    assert len(family.seen) < len(blocks)  # most were refused
    assert np.diff([*reached, *family.seen, iterate.objective]).min() > -1e-11 * abs(reached[0])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_free_energy_of_one_e_step_is_the_log_likelihood(case):
    family, parameters, rows = start_of(case, max_iter=3)
    statistics = LocalEngine(1).sweep(rows, [EStep(family, parameters)])[0]
    rebased = family.rebased(statistics, parameters)
    objective = family.objective(statistics, parameters)
    assert family.free_energy(rebased, parameters) == pytest.approx(objective, rel=1e-13)
    after = family.m_step(statistics, parameters)
    assert_close(User(family, family.m_step(rebased, parameters)), User(family, after), case_names(case), rtol=1e-12)
    # Jensen: under other parameters it is a lower bound of their log-likelihood, and above the one before.
    there = family.objective(LocalEngine(1).sweep(rows, [EStep(family, after)])[0], after)
    rounding = 1e-12 * abs(there)
    assert objective - rounding <= family.free_energy(rebased, after) <= there + rounding


class User:
    """Parameters under the names of fitted attributes."""

    def __init__(self, family, parameters):
        vars(self).update({f"{name}_": value for name, value in family.to_user(parameters).items()})


def case_names(case):
    return tuple(name for name in case.parameters if name != "precisions_")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_statistics_from_different_parameters_add(case):
    """Blocks at different parameters, added, have the moments of all rows under their responsibilities."""
    family, parameters, rows = start_of(case)
    later = family.m_step(LocalEngine(1).sweep(rows, [EStep(family, parameters)])[0], parameters)
    first, second = (rows.table[:1700], rows.table[1700:])
    parts = []
    for table, used in ((first, parameters), (second, later)):
        parts.append(family.rebased(family.e_step(used, chunk_of(table)), used))
    joint = np.vstack([family.posterior(parameters, chunk_of(first)), family.posterior(later, chunk_of(second))])
    fitted = family.m_step(parts[0] + parts[1], parameters)
    table = rows.table.astype(float)
    shares = joint * np.vstack(
        [
            np.broadcast_to(case.row_weights(family, used, part), (len(part), case.size))
            for part, used in ((first, parameters), (second, later))
        ]
    )
    sums = shares.T @ case.statistics(table) + case.prior_rows * case.statistics(table).mean(axis=0)
    means = (sums / (shares.sum(axis=0) + case.prior_rows)[:, np.newaxis])[:3]
    user = family.to_user(fitted)
    np.testing.assert_allclose(case.weights(user), case.weights_of(joint.sum(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(case.row_means(user), means, rtol=0, atol=1e-11)
    # And the other way round: parameters imply the statistics that they come from.
    n_rows = float(len(table))
    again = family.m_step(n_rows * family.implied(fitted, n_rows), parameters)
    assert_close(User(family, again), User(family, fitted), case_names(case), rtol=1e-11)


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["incremental", "stepwise"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_fixed_point_as_batch(case, algorithm):
    options = {"tol": 0.0, "max_iter": case.n_iterations}
    batch = case.estimator(**options).fit(case.data())
    fitted = case.estimator(algorithm=algorithm, **options).fit(CutRows(case.data(), TEN))
    assert_close(fitted, batch, case.parameters, rtol=case.stands_within)
    assert fitted.lower_bound_ == pytest.approx(batch.lower_bound_, rel=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_order_of_the_blocks_does_not_matter_in_the_end(case):
    table = case.data()
    begun = case.estimator(max_iter=1).fit(CutRows(table, EDGES))
    begun.weights_ = np.array([0.6, 0.1, 0.3])
    options = {"algorithm": "incremental", "tol": 0.0, "max_iter": case.n_iterations, "warm_start": True}
    orders = [slice(None), slice(None, None, -1), np.argsort(table[:, 0], kind="stable")]
    fits = [copy.deepcopy(begun).set_params(**options).fit(CutRows(table[order], TEN)) for order in orders]
    assert np.abs(begun.weights_ - fits[0].weights_).max() > 1e-6
    assert_close(fits[1], fits[0], case.parameters, rtol=case.stands_within)
    assert_close(fits[2], fits[0], case.parameters, rtol=case.stands_within)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "max_in_flight"), [("incremental", None), ("stepwise", None)])
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_same_bits_on_threads_and_processes(case, algorithm, max_in_flight, cluster, monkeypatch):
    def fit():
        model = case.estimator(algorithm=algorithm, max_in_flight=max_in_flight, max_iter=2, tol=0.0)
        return model.fit(CutRows(case.data(), range(150, 3000, 150)))

    with Client(cluster):
        fits = [fit()]
    for n_threads in (1, 3):
        monkeypatch.setattr("dem.estimators.base.current_engine", lambda _, n=n_threads: LocalEngine(n))
        fits.append(fit())
    for other in fits[1:]:
        assert_same_bits(other, fits[0], (*case.parameters, "lower_bounds_"))


@pytest.mark.slow
@pytest.mark.parametrize(("n_workers", "cases"), [(1, KERNELS[1::2]), (3, KERNELS[::2])], ids=["1", "3"])
def test_same_bits_on_any_number_of_worker_processes(n_workers, cases):
    options = {"algorithm": "incremental", "max_iter": 3, "tol": 0.0}
    expected = [case.estimator(**options).fit(CutRows(case.data(), EDGES)) for case in cases]
    with connect(workers=n_workers):
        fitted = [case.estimator(**options).fit(CutRows(case.data(), EDGES)) for case in cases]
    for case, one, other in zip(cases, fitted, expected, strict=True):
        assert_same_bits(one, other, (*case.parameters, "lower_bounds_"))


class SlowBatch(CutBatch):
    def __iter__(self):
        for chunk in super().__iter__():
            time.sleep(0.01)
            yield chunk


class SlowRows(CutRows):
    def batches(self):
        batches = super().batches()
        for batch in batches:
            batch.__class__ = SlowBatch
        return batches


@pytest.mark.slow
def test_a_killed_worker_does_not_change_the_bits():
    case, options = ANY_CASE, {"algorithm": "incremental", "max_iter": 3, "tol": 0.0, "max_in_flight": 4}
    expected = case.estimator(**options).fit(CutRows(case.data(), EDGES))
    killed = []
    with connect(workers=2) as engine:
        workers = list(engine.client.run(os.getpid).values())

        def kill_in_mid_lap(event):
            if isinstance(event, IterationEnded) and event.iteration == 1 and not killed:
                killed.append(workers[0])
                threading.Timer(0.1, os.kill, (workers[0], signal.SIGKILL)).start()

        fitted = case.estimator(**options, callbacks=[kill_in_mid_lap]).fit(SlowRows(case.data(), EDGES))
        assert killed
        assert killed[0] not in engine.client.run(os.getpid).values()
    assert_same_bits(fitted, expected, (*case.parameters, "lower_bounds_"))
