"""Fits by incremental EM: fewer reads, the memo, warm starts, several starts, and what goes wrong."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from agreement import assert_same_bits, numbers
from cases import ANY_CASE, CASES, FAMILIES, chunk_of
from sources import CountingBatch, CountingRows, CutRows

import dem
from dem.em import block_table
from dem.em.block_table import BlockTable
from dem.errors import DataError, LikelihoodWarning, OptionError
from dem.events import FitEnded, FitStarted, IterationEnded
from dem.families.mixture import Mixture
from dem.statistics import CentralMoments, tree_sum

EDGES = list(range(100, 3000, 100))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_iteration_is_one_read(case):
    CountingBatch.read = 0
    fitted = case.estimator(algorithm="incremental", tol=1e-7).fit(CountingRows(case.data(), EDGES))
    assert CountingBatch.read / 3000 == fitted.n_iter_ + 1  # and one for the sample
    assert fitted.converged_
    # The last read is exact.
    before = case.estimator(algorithm="incremental", tol=0.0, max_iter=fitted.n_iter_ - 1)
    warned = before.fit(CutRows(case.data(), EDGES))
    assert fitted.lower_bound_ >= warned.lower_bound_ - 1e-7
    assert fitted.lower_bound_ == pytest.approx(case.objective(fitted), abs=1e-6)


# The memo ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2**30, 0])
def test_memo_in_memory_or_on_disk(limit, monkeypatch, tmp_path):
    monkeypatch.setattr(block_table, "MEMORY_BYTES", limit)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    case = ANY_CASE
    family, parameters = case.estimator().fit(case.data())._model()
    remembered = len(numbers(family.rebased(family.e_step(parameters, chunk_of(case.data())), parameters)))

    def listen(event):
        if isinstance(event, FitStarted):
            assert event.memo_bytes == 30 * 8 * remembered
        if isinstance(event, IterationEnded):
            assert bool(list(tmp_path.glob("dem-blocks-*"))) is (limit == 0)

    options = {"algorithm": "incremental", "tol": 0.0, "max_iter": 3}
    fitted = case.estimator(**options, callbacks=[listen]).fit(CutRows(case.data(), EDGES))
    assert not list(tmp_path.glob("dem-blocks-*"))
    monkeypatch.setattr(block_table, "MEMORY_BYTES", 2**30)
    assert_same_bits(case.estimator(**options).fit(CutRows(case.data(), EDGES)), fitted, case.parameters)


def test_memo_adds_as_a_sweep_does_and_forgets_what_was_replaced():
    rng = np.random.default_rng(0)
    parts = [CentralMoments(rng.random(2), rng.normal(size=(2, 3)), rng.random((2, 3))) for _ in range(300)]
    remembered = BlockTable.room_for(parts[0], 257)
    for block in range(257):
        remembered[block] = parts[-1]
    remembered.total()
    for block in (5, 256, *range(257)):
        remembered[block] = parts[block]
        remembered.total()
    expected = tree_sum([[part] for part in parts[:257]])[0]
    np.testing.assert_array_equal(numbers(remembered.total()), numbers(expected))


def test_central_moments_lose_nothing_far_from_the_origin():
    rows = np.random.default_rng(0).normal(size=(300, 2)) + 1e8
    groups = np.array_split(rows, 7)
    parts = [
        CentralMoments(np.array([float(len(g))]), g.mean(0)[None], ((g - g.mean(0)) ** 2).sum(0)[None]) for g in groups
    ]
    nothing = CentralMoments(np.zeros(1), np.zeros((1, 2)), np.zeros((1, 2)))
    total = sum(parts, start=nothing)
    np.testing.assert_allclose(total.scatter[0] / 300, rows.var(axis=0), rtol=1e-7)
    np.testing.assert_allclose((0.5 * total).scatter, 0.5 * total.scatter)
    with pytest.raises(TypeError):
        total - parts[0]


# What goes wrong --------------------------------------------------------------------------------------------


def test_a_broken_m_step_is_reported(monkeypatch):
    honest = Mixture.rebased

    def wrong(self, statistics, parameters):
        rebased = honest(self, statistics, parameters)
        rebased.components.scatter[:] *= 1.5
        return rebased

    monkeypatch.setattr(Mixture, "rebased", wrong)
    with pytest.warns(LikelihoodWarning, match="fell from .* to .* in iteration"):
        ANY_CASE.estimator(algorithm="incremental", max_iter=5, tol=1e-9).fit(ANY_CASE.data())


@pytest.mark.parametrize("algorithm", ["incremental", "stepwise"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_named(case, algorithm):
    table = case.data().astype(float)
    table[2500, 1] = np.nan
    with pytest.raises(DataError, match="row 2500, column 1"):
        case.estimator(algorithm=algorithm, sample_rows=20).fit(CutRows(table, EDGES))


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["incremental", "stepwise"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_warm_start_and_a_saved_model_go_on(case, algorithm, tmp_path):
    rows = CutRows(case.data(), EDGES)
    options = {"algorithm": algorithm, "tol": 1e-8, "max_iter": 300}
    first = case.estimator(**options).fit(rows)
    path = str(tmp_path / "model.zarr")
    first.save(path)
    loaded = dem.load(path).set_params(warm_start=True).fit(rows)
    again = copy.deepcopy(first).set_params(warm_start=True).fit(rows)
    assert_same_bits(loaded, again, case.parameters)
    assert again.n_iter_ <= (1 if algorithm == "incremental" else 12)
    assert again.lower_bound_ >= first.lower_bound_ - 1e-7


@pytest.mark.slow
def test_several_starts():
    fitted = ANY_CASE.estimator(algorithm="incremental", n_init=3, init_params="random").fit(ANY_CASE.data())
    assert {record["model"] for record in fitted.history_} == {0, 1, 2}
    best = max(record["log_likelihood"] for record in fitted.history_)
    assert fitted.lower_bound_ == pytest.approx(best, abs=1e-6)


def test_only_the_best_start_of_the_sample_is_polished():
    ended = []
    case, rows = ANY_CASE, CutRows(ANY_CASE.data(), EDGES)
    options = {
        "algorithm": "incremental",
        "n_init": 4,
        "init_params": "random_from_data",
        "sample_rows": 500,
        "tol": 1.0,
    }
    fitted = case.estimator(**options, callbacks=[ended.append]).fit(rows)
    ended = [event for event in ended if isinstance(event, FitEnded)]
    assert [event.model for event in ended if event.phase == "data"] == [0]
    assert len([event for event in ended if event.phase == "sample"]) == 4
    assert ended[-1].status == "converged"
    assert fitted.converged_


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"algorithm": "sgd"}, "'auto', 'batch', 'incremental', 'stepwise'"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"step_power": 0.5}, "step_power"),
        (
            {"algorithm": "stepwise", "accelerate": "squarem"},
            "accelerate='squarem' goes with algorithm='batch' or 'auto', not with 'stepwise'",
        ),
    ],
)
def test_options(options, says):
    with pytest.raises(OptionError) as error:
        ANY_CASE.estimator(**options).fit(ANY_CASE.data())
    for word in says.split(", "):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("algorithm", ["auto", "batch", "incremental", "stepwise"])
@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_a_part_of_a_start_that_is_given_keeps_the_search_on_the_sample(case, algorithm):
    phases = []
    options = {"n_init": 4, "init_params": "random_from_data", "sample_rows": 300, "algorithm": algorithm}
    model = case.estimator(weights_init=np.full(3, 1 / 3), tol=1e-3, callbacks=[phases.append], **options)
    model.fit(CutRows(case.data(), EDGES))
    started = [(event.phase, event.n_models) for event in phases if isinstance(event, FitStarted)]
    assert started[0] == ("sample", 4)
    assert started[1][1] == 1 if algorithm in ("incremental", "stepwise") else started[1][1] <= 3
