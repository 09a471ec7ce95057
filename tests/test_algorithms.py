"""The contract of the algorithms: a state that can be stored in mid-fit, models that share passes, several works."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from agreement import numbers
from cases import FAMILIES, gaussian_rows
from sources import CutRows

import dem
from dem.em.algorithm import Batch, Settings, Start, Status
from dem.em.checkpoint import NO_CHECKPOINT
from dem.em.e_step import Blocks
from dem.em.incremental import Incremental
from dem.em.loop import run
from dem.em.squarem import Squarem
from dem.em.stepwise import Stepwise
from dem.engine import LocalEngine
from dem.engine.base import single_threaded_blas
from dem.errors import NonFiniteError
from dem.families.base import EStep, Model
from dem.families.unconstrained import Vector
from dem.statistics import Additive
from dem.tree import flatten, unflatten

EDGES = list(range(250, 3000, 250))
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ALGORITHMS = [Batch(), Squarem(), Incremental(), Incremental(1), Stepwise(), Stepwise(n_seen=500.0)]


def passes(algorithm, model, state, blocks, n):
    """Make n passes; return the state and what each has come to."""
    found = []
    with single_threaded_blas():
        for number in range(n):
            state, plan = algorithm.plan(state, len(blocks), confirm=number == 3)
            for visit in blocks.visit(plan, [model], lambda: {0: algorithm.point(state)}):  # noqa: B023 - the latest
                state = algorithm.update(model, state, visit.block, visit.points[0], visit.statistics[0])
            state, iterate = algorithm.end_pass(model, state)
            found.append(iterate.objective / iterate.n_rows)
    return state, found


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda one: f"{one.name}-{getattr(one, 'max_in_flight', None)}")
@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_a_state_that_was_stored_goes_on_to_the_same_bits(case, algorithm):
    rows = CutRows(case.data(), EDGES)
    model, start = case.estimator(init_params="random_from_data", max_iter=1, tol=10.0).fit(rows)._model()
    blocks = Blocks.of(rows, LocalEngine(1), algorithm.n_blocks)
    going_on = False
    for n_before in (1, 3):
        state, _ = passes(algorithm, model, algorithm.init(model, start, rows, len(blocks)), blocks, n_before)
        stored = {name: array.copy() for name, array in flatten(state).items()}
        there, expected = passes(algorithm, model, state, blocks, 5)
        blank = algorithm.init(model, start, rows, len(blocks))
        here, found = passes(algorithm, model, unflatten(blank, stored), blocks, 5)
        assert found == expected
        np.testing.assert_array_equal(numbers(here), numbers(there))
        going_on |= len(set(found)) > 1
    assert going_on


class Counting(LocalEngine):
    submitted = 0

    def submit(self, *arguments, **options):
        self.submitted += 1
        return super().submit(*arguments, **options)


@pytest.mark.parametrize("algorithm", [Incremental(), Stepwise()], ids=lambda one: one.name)
def test_starts_share_each_pass_and_end_as_each_alone(algorithm):
    rows, state, engine = CutRows(gaussian_rows(), EDGES), np.random.RandomState(1), Counting(2)
    estimator = dem.GaussianMixture(3, n_init=3, init_params="random_from_data")
    family, starts = estimator._starts(rows, engine, estimator._sample(rows, engine, state), state, NO_CHECKPOINT)
    settings = Settings(1e-5, 60)
    fits = run([Start(family, start) for start in starts], algorithm, rows, engine, settings)
    assert engine.submitted == (len(EDGES) + 1) * max(one.n_iter for one in fits)
    assert len({one.n_iter for one in fits}) > 1
    for start, one in zip(starts, fits, strict=True):
        (alone,) = run([Start(family, start)], algorithm, rows, engine, settings)
        assert one.n_iter == alone.n_iter
        np.testing.assert_allclose(one.log_likelihoods, alone.log_likelihoods, rtol=1e-11)
    engine.close()


@dataclass(frozen=True, eq=False)
class Total(Additive):
    n_rows: float
    total: np.ndarray


@dataclass(frozen=True, eq=False)
class Spread:
    """Work: Σ |x − centre|, a sum that needs the centre."""

    centre: np.ndarray

    def __call__(self, chunk):
        return Total(float(len(chunk.rows)), np.abs(chunk.rows - self.centre).sum(axis=0))


class CentreAndSpread(Model):
    """The mean, and the mean distance from it: two works in one iteration, the second with what the first has found."""

    criterion = "closeness"

    def e_step(self, parameters, chunk):
        return Total(float(len(chunk.rows)), chunk.rows.sum(axis=0))

    def reads(self, parameters):
        first = yield EStep(self, parameters)
        second = yield Spread(first.total / first.n_rows)
        return Total(first.n_rows, np.stack([first.total, second.total]))

    def m_step(self, statistics, parameters):
        return statistics.total / statistics.n_rows

    def objective(self, statistics, parameters):
        return -float(np.abs(statistics.total / statistics.n_rows - parameters).sum()) * statistics.n_rows

    def size(self, parameters):
        return 1

    def unconstrain(self, parameters):
        return Vector(parameters, np.empty(0))

    def constrain(self, vector, parameters):
        return vector.own


@pytest.mark.parametrize("n_others", [0, 2])
def test_a_model_may_ask_for_two_works_in_one_iteration(n_others):
    table = gaussian_rows()
    rows = CutRows(table, EDGES)
    family, start = dem.GaussianMixture(2, max_iter=1, tol=10.0, random_state=0).fit(table)._model()
    starts = [Start(CentreAndSpread(), np.zeros((2, 3)), "two"), *[Start(family, start, "mixture")] * n_others]
    fits = run(starts, Batch(), rows, LocalEngine(2), Settings(tol=1e-9, max_iter=3))
    mean = table.mean(axis=0)
    np.testing.assert_allclose(fits[0].parameters, [mean, np.abs(table - mean).mean(axis=0)], rtol=1e-12)
    assert fits[0].status is Status.CONVERGED
    assert fits[0].n_iter == 3
    assert rows.reads == 6
    for one in fits[1:]:
        (alone,) = run([Start(family, start)], Batch(), rows, LocalEngine(1), Settings(tol=1e-9, max_iter=3))
        np.testing.assert_allclose(one.log_likelihoods, alone.log_likelihoods, rtol=1e-13)


def test_an_objective_that_is_no_number_names_the_iteration():
    table = gaussian_rows()
    table[7, 1] = np.nan
    family, start = dem.GaussianMixture(2, max_iter=1, tol=10.0, random_state=0).fit(gaussian_rows())._model()
    for algorithm in ALGORITHMS:
        with pytest.raises(NonFiniteError, match="the log-likelihood is nan in iteration 1; check the data"):
            run([Start(family, start)], algorithm, CutRows(table, EDGES), LocalEngine(1), Settings())


@pytest.mark.parametrize("n_seen", [0.0, 3000.0])
def test_every_m_step_sees_totals(monkeypatch, n_seen):
    """A prior weighs as much as so many rows: an M-step on averages would give it the weight of all of them."""
    family, start = dem.GaussianMixture(2, max_iter=1, tol=10.0, random_state=0).fit(gaussian_rows())._model()
    given = []
    honest = type(family).m_step
    monkeypatch.setattr(
        type(family), "m_step", lambda *arguments: given.append(arguments[1].counts.sum()) or honest(*arguments)
    )
    for algorithm in (Batch(), Squarem(), Stepwise(n_seen=n_seen)):
        run([Start(family, start)], algorithm, CutRows(gaussian_rows(), EDGES), LocalEngine(1), Settings(max_iter=3))
    np.testing.assert_allclose(given, 3000.0, rtol=1e-9)
