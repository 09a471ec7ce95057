"""Several models that share the products of one kernel get the statistics that each would get alone."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import sweep_models
from cases import CASES, gaussian_rows
from sources import CutRows

import dem
from dem.em.algorithm import Settings, Start
from dem.em.e_step import MOST_COMPONENTS, EStep, ESteps, _grouped
from dem.em.incremental import Incremental
from dem.em.loop import run
from dem.engine import LocalEngine
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.mixture import Mixture
from dem.tree import leaves


def gaussian(kind, rows, sizes, dtype=None):
    family = Mixture(COVARIANCE_TYPES[kind](dtype=dtype).adapted_to(rows))
    rng = np.random.default_rng(3)
    return [(family, family.start(rows, rng.dirichlet(np.ones(size), len(rows)))) for size in sizes]


class Counting(LocalEngine):
    works = 0

    def sweep(self, rows, works):
        self.works = len(works)
        return super().sweep(rows, works)


def assert_same(ours, alone):
    for one, other in zip(ours, alone, strict=True):
        assert one.n_rows == other.n_rows
        assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-12)
        np.testing.assert_allclose(one.counts, other.counts, rtol=1e-11)
        for (_, mine), (_, theirs) in zip(leaves(one.components), leaves(other.components), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_model_gets_what_it_would_get_alone(case):
    rows, family, rng = case.data(), case.family(), np.random.default_rng(3)
    models = [(family, family.start(rows, rng.dirichlet(np.ones(size), len(rows)))) for size in (1, 3, 2)]
    engine = Counting(1)
    source = CutRows(rows, [700, 1900])
    ours = sweep_models(engine, source, models)
    assert engine.works == len(groups(models))
    assert_same(ours, engine.sweep(source, [EStep(*model) for model in models]))


def groups(models):
    return [group for group, _ in _grouped({number: EStep(*model) for number, model in enumerate(models)}, {})]


def test_what_goes_together():
    rows = gaussian_rows()
    full, diag = gaussian("full", rows, [2, 2]), gaussian("diag", rows, [2])
    elsewhere = gaussian("full", rows + 1000.0, [2])
    equal_frame = gaussian("full", rows, [3])
    single = gaussian("full", rows, [2], "float32")
    assert groups([*full, *diag, *elsewhere, *equal_frame, *single]) == [[0, 1, 4], [2], [3], [5]]
    tied = gaussian("tied", rows, [2, 2])
    assert groups([*tied, *full]) == [[0], [1], [2, 3]]
    large = gaussian("diag", rows, [MOST_COMPONENTS - 1, 2, 1])
    assert groups(large) == [[0, 2], [1]]


def test_a_fit_uses_it(monkeypatch):
    calls = []
    honest = ESteps.__call__
    monkeypatch.setattr(ESteps, "__call__", lambda self, chunk: calls.append(self.sizes) or honest(self, chunk))
    dem.GaussianMixture(3, n_init=4, random_state=0).fit(gaussian_rows())
    assert (3, 3, 3, 3) in calls


def test_blocks_at_the_same_parameters_share_what_was_joined_for_them(monkeypatch):
    rows, calls = CutRows(gaussian_rows(), list(range(300, 3000, 300))), []
    honest = Mixture.joined
    monkeypatch.setattr(Mixture, "joined", lambda *arguments: calls.append(None) or honest(*arguments))
    models = gaussian("full", rows.table, [3, 3])
    starts = [Start(*model) for model in models]
    run(starts, Incremental(), rows, LocalEngine(1), Settings(0.0, 1))
    assert len(calls) == 1  # all ten blocks of an exact pass
