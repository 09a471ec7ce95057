"""Several models on one read: what is shared, which starts racing drops, and why."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cases import CASES, gaussian_rows
from sources import CutRows

import dem
from dem.em.algorithm import Batch, Settings, Start, Status
from dem.em.loop import run
from dem.em.racing import dominated, highest, merged
from dem.engine import LocalEngine
from dem.errors import FitError
from dem.events import FitEnded
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.mixture import Mixture

IDS = {"ids": str}


def blobs(seed: int, spread: float = 4.0, n_rows: int = 4000) -> np.ndarray:
    """Rows of five Gaussian components in two features."""
    rng = np.random.default_rng(seed)
    means = spread * rng.normal(size=(5, 2))
    return means[rng.integers(5, size=n_rows)] + rng.normal(size=(n_rows, 2))


def starts_of(family, rows, n_components, seeds):
    found = []
    for seed in seeds:
        responsibilities = np.random.default_rng(seed).dirichlet(np.full(n_components, 0.05), size=len(rows))
        found.append(family.start(rows, responsibilities))
    return found


def fit(family, starts, rows, settings):
    """Run batch EM from several starts of one family that compete."""
    return run([Start(family, start) for start in starts], Batch(), rows, LocalEngine(1), settings)


def permuted(case, family, parameters, order):
    values = family.to_user(parameters)
    moved = {name: v[list(order)] for name, v in values.items() if name not in case.shared}
    return family.from_user(values | moved)


def test_a_grid_of_models_shares_its_reads_and_ends_as_each_alone():
    table = gaussian_rows()
    grid = []
    for k, covariance_type in itertools.product((1, 2, 4), ("full", "diag", "tied", "spherical")):
        family = Mixture(COVARIANCE_TYPES[covariance_type]().adapted_to(table))
        grid.append(Start(family, starts_of(family, table, k, [k])[0], (k, covariance_type)))
    settings = Settings(tol=1e-4, max_iter=300)
    rows = CutRows(table, [1000, 2000])
    fits = run(grid, Batch(), rows, LocalEngine(1), settings)
    assert rows.reads == max(one.n_iter for one in fits) < sum(one.n_iter for one in fits) / 2
    for start, one in zip(grid, fits, strict=True):
        alone = run([start], Batch(), rows, LocalEngine(1), settings)[0]
        assert one.status is alone.status is Status.CONVERGED
        np.testing.assert_allclose(one.log_likelihoods, alone.log_likelihoods, rtol=1e-12)


@pytest.mark.parametrize("case", CASES, **IDS)
def test_a_start_that_becomes_another_up_to_order_is_dropped(case):
    table = case.data()
    family, _ = case.estimator().fit(table)._model()
    start = starts_of(family, table, 3, [1])[0]
    twin = permuted(case, family, start, (2, 0, 1))
    events = []
    settings = Settings(tol=1e-6, max_iter=300, callbacks=[events.append], racing=True)
    fits = fit(family, [start, twin], CutRows(table, [1500]), settings)
    assert [one.status for one in fits] in ([Status.CONVERGED, Status.MERGED], [Status.MERGED, Status.CONVERGED])
    kept = next(number for number, one in enumerate(fits) if one.status is Status.CONVERGED)
    assert fits[1 - kept].n_iter == 1
    ended = next(event for event in events if isinstance(event, FitEnded) and event.model == 1 - kept)
    assert ended.status == f"dropped: it has become the same model as another start (model {kept})"


@pytest.mark.parametrize("case", CASES, **IDS)
def test_different_models_do_not_merge(case):
    table = case.data()
    family, parameters = case.estimator().fit(table)._model()
    assert merged(family, (parameters, 0.0), (permuted(case, family, parameters, (1, 2, 0)), 0.0))
    assert not merged(family, (parameters, 0.0), (parameters, 1e-4))
    vector = family.unconstrain(parameters)
    moved = family.constrain(vector + 0.1 * vector, parameters)
    assert not merged(family, (parameters, 0.0), (moved, 0.0))


def test_the_bound_of_dominated_starts():
    gains = [0.5**i for i in range(5)]  # they add up to 2 in the end
    values = [0.0, *np.cumsum(gains)]
    assert highest(values) == pytest.approx(values[-1] + 10.0 * gains[-1])
    assert dominated(values, 3.0)
    assert not dominated(values, 2.5)
    assert highest(values[:4]) is None  # too early to tell
    assert highest([0.0, 1.0, 1.5, 1.6, 1.8]) is None  # a gain that grows
    assert highest([0.0, 1.0, 1.5, 1.5, 1.5]) is None  # no gain to speak of


@pytest.mark.slow
def test_dominated_and_late_starts_are_dropped_with_a_reason():
    table = blobs(2, spread=8.0, n_rows=1500)
    family = Mixture(COVARIANCE_TYPES["full"]().adapted_to(table))
    rng = np.random.default_rng(0)
    starts = []
    for _ in range(8):
        responsibilities = np.zeros((len(table), 5))
        responsibilities[rng.choice(len(table), 5, replace=False), range(5)] = 1.0
        starts.append(family.start(table, responsibilities + 1e-3))
    fits = fit(family, starts, CutRows(table, [1000]), Settings(tol=1e-8, max_iter=500, racing=True))
    best = max(fits, key=lambda one: one.log_likelihood)
    assert best.status is Status.CONVERGED
    dropped = [one for one in fits if one.status is Status.DOMINATED]
    assert dropped
    assert all("will hardly catch up" in one.reason for one in dropped)
    assert max(one.n_iter for one in fits) <= 1.2 * best.n_iter + 1
    # Here the rule was right: run to their ends alone, none of them wins.
    for one in dropped:
        alone = fit(family, [one.parameters], CutRows(table, []), Settings(tol=1e-8, max_iter=500))[0]
        assert alone.log_likelihood < best.log_likelihood


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ten_racing_starts_cost_hardly_more_reads_than_one():
    options = {"init_params": "random_from_data", "sample_rows": 1000, "tol": 1e-5, "max_iter": 300, "racing": True}
    one, ten = 0, 0
    for seed in range(6):
        reads = {}
        for n_init in (1, 10):
            rows = CutRows(blobs(seed, spread=2.5), [2000])
            model = dem.GaussianMixture(5, n_init=n_init, random_state=seed, **options).fit(rows)
            reads[n_init] = rows.reads
            assert rows.reads - 1 <= 1.2 * model.n_iter_ + 1
        one, ten = one + reads[1], ten + reads[10]
    assert ten <= 1.2 * one


def test_a_model_that_fails_does_not_stop_the_others():
    table = np.repeat(gaussian_rows(300), 2, axis=0)
    family = Mixture(COVARIANCE_TYPES["full"](reg_covar=0.0).adapted_to(table))
    good = starts_of(family, table, 2, [0])[0]
    nowhere = family.from_user({**family.to_user(good), "weights": np.array([np.nan, 1.0])})
    settings = Settings(max_iter=200)
    fits = fit(family, [nowhere, good], CutRows(table, [100]), settings)
    assert fits[0].status is Status.FAILED
    assert fits[0].reason.startswith("failed: the log-likelihood is nan")
    assert fits[1].status is Status.CONVERGED
    with pytest.raises(FitError, match="log-likelihood is nan"):
        fit(family, [nowhere, nowhere], CutRows(table, [100]), settings)


def test_the_best_few_starts_of_the_sample_are_polished_together():
    options = {"init_params": "random_from_data", "sample_rows": 1000, "tol": 1e-4, "max_iter": 300, "random_state": 0}
    rows = CutRows(blobs(0, spread=2.5), [2000])
    model = dem.GaussianMixture(5, n_init=8, **options).fit(rows)
    polished = [record for record in model.history_ if record["phase"] == "data" and record["iteration"] == 1]
    assert len(polished) == 3
    best = max(one["log_likelihood"] for one in model.history_ if one["phase"] == "data")
    assert model.lower_bound_ == best
