"""Truncated E-steps: a few candidate components for each row, chosen once per fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from agreement import assert_close, assert_same_bits, sweep_models
from cases import CASES, chunk_of
from click.testing import CliRunner
from sources import CutRows

import dem
from dem.cli import dem as command
from dem.em.algorithm import Batch, Settings, Start
from dem.em.e_step import EStep
from dem.em.incremental import Incremental
from dem.em.loop import run
from dem.em.stepwise import Stepwise
from dem.engine import LocalEngine
from dem.errors import OptionError
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.mixture import Mixture
from dem.tree import leaves

pytestmark = pytest.mark.slow

GAUSSIAN = {case.name.removeprefix("gaussian-"): case for case in CASES[:4]}
N_COMPONENTS = 12


def crowd(n_rows=2000, spread=3.0, seed=0):
    """Rows of overlapping clumps, more than any row needs."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(N_COMPONENTS, 3)) * spread
    return centres[rng.integers(0, N_COMPONENTS, n_rows)] + rng.normal(size=(n_rows, 3))


def model(case, top_components, rows=None):
    rows = case.data()[:2000] if rows is None else rows
    family = case.family(rows, top_components=top_components)
    nearest = np.random.default_rng(2).choice(len(rows), N_COMPONENTS, replace=False)
    nearest[0] = 0  # in the clump far out where there is one: component 0 then has its own frame
    distances = ((rows[:, np.newaxis] - rows[nearest]) ** 2).sum(axis=2)
    responsibilities = np.exp(-0.5 * (distances - distances.min(axis=1, keepdims=True)))
    responsibilities /= responsibilities.sum(axis=1, keepdims=True)
    return family, family.truncated(family.start(rows, responsibilities)), rows


def expected(family, parameters, rows):
    """Truncated log-likelihood and counts, from the densities of all components."""
    kernel = family.component.kernel(parameters.components, rows.dtype)
    dense = parameters.log_weights[:, 0] + np.array(
        [kernel.block(chunk_of(row[np.newaxis])).log_density()[:, 0].copy() for row in rows]
    )
    candidates = parameters.candidates
    allowed = np.zeros(dense.shape, dtype=bool)
    np.put_along_axis(allowed, candidates.lists[candidates.cells(rows)], True, axis=1)
    dense[~allowed] = -np.inf
    total = np.logaddexp.reduce(dense, axis=1)
    responsibilities = np.exp(dense - total[:, np.newaxis])
    return total.sum(), responsibilities


@pytest.mark.parametrize("case", [case for case in CASES if not case.prior_rows], ids=str)
def test_the_e_step_is_that_of_the_candidates(case):
    check_the_e_step(case, case.data()[:600])


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_the_e_step_where_one_component_has_a_frame_of_its_own(kind):
    """One tight clump far out makes the wide product cancel there; tied components all have the same form."""
    rows = crowd(600)
    rows[:60] = rows[:60] * 1e-3 + (1e4 if kind == "tied" else 200.0)
    family, parameters = check_the_e_step(GAUSSIAN[kind], rows)
    if kind != "tied":
        chosen = family.component.kernel(parameters.components, rows.dtype).plan
        assert 0 in chosen.own
        assert len(chosen.wide) > 0


def check_the_e_step(case, rows):
    family, parameters, rows = model(case, 8, rows)
    candidates = parameters.candidates
    assert candidates.lists.shape == (N_COMPONENTS // 2, 8 + case.background)
    assert all(k in candidates.lists[candidates.cell_of[k]] for k in range(N_COMPONENTS))
    (ours,) = sweep_models(LocalEngine(1), CutRows(rows, [250]), [(family, parameters)])
    log_likelihood, responsibilities = expected(family, parameters, rows)
    assert ours.log_likelihood == pytest.approx(log_likelihood, rel=1e-9)
    np.testing.assert_allclose(ours.counts, responsibilities.sum(axis=0), rtol=1e-8, atol=1e-9)
    new = family.component.to_user(family.m_step(ours, parameters).components)
    there = ours.counts[:N_COMPONENTS] > 1e-3
    shares = (responsibilities * case.row_weights(family, parameters, rows))[:, :N_COMPONENTS][:, there]
    wanted = shares.T @ case.statistics(rows) + case.prior_rows * case.statistics(rows).mean(axis=0)
    wanted /= shares.sum(axis=0)[:, np.newaxis] + case.prior_rows
    np.testing.assert_allclose(case.row_means(new)[there], wanted, rtol=1e-6, atol=1e-7)
    return family, parameters


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_in_the_list_is_the_dense_e_step(case):
    """Every cell with all components must give the statistics of all, in every field."""
    family, parameters, rows = model(case, N_COMPONENTS - 1)
    candidates = parameters.candidates
    object.__setattr__(candidates, "lists", np.tile(np.arange(len(parameters.weights)), (len(candidates.lists), 1)))
    source, engine = CutRows(rows, [700]), LocalEngine(1)
    (ours,) = engine.sweep(source, [EStep(family, parameters)])
    dense = replace(parameters, candidates=None)
    (theirs,) = engine.sweep(source, [EStep(family, dense)])
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-11)
    for (name, mine), (_, other) in zip(leaves(ours.components), leaves(theirs.components), strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-10 * np.abs(other).max(), err_msg=name)


@pytest.mark.parametrize("top_components", [3, 8], ids=["cells of one", "cells of two"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_truncated_free_energy_never_falls_and_is_a_lower_bound(case, top_components):
    family, parameters, rows = model(case, top_components)
    source, engine = CutRows(rows, [900]), LocalEngine(1)
    values = []
    for _ in range(10):
        (statistics,) = sweep_models(engine, source, [(family, parameters)])
        values.append(statistics.log_likelihood)
        assert values[-1] <= family.log_likelihood(parameters, chunk_of(rows)).sum() + 1e-9 * abs(values[-1])
        after = family.m_step(statistics, parameters)
        assert after.candidates is parameters.candidates
        parameters = after
    assert values[-1] > values[0]
    assert min(np.diff(values)) > -1e-11 * abs(values[-1])


def test_a_component_without_rows_is_a_candidate_in_its_cell():
    family, parameters, _ = model(GAUSSIAN["diag"], 8)
    weights = parameters.weights.copy()
    weights[[2, 5]] = [0.0, 1e-200]
    candidates = family.truncated(replace(parameters, weights=weights)).candidates
    assert all(k in candidates.lists[candidates.cell_of[k]] for k in range(N_COMPONENTS))


def test_rows_that_are_not_finite_show_in_the_log_likelihood():
    family, parameters, rows = model(GAUSSIAN["full"], 8)
    for value in (np.nan, np.inf):
        rows[77, 1] = value
        (statistics,) = sweep_models(LocalEngine(1), CutRows(rows, []), [(family, parameters)])
        assert not np.isfinite(statistics.log_likelihood)


def test_a_row_has_the_same_cell_in_single_precision_and_in_double():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(40, 20))
    spread = np.exp(rng.normal(size=20))  # features of different sizes, far from zero
    component = COVARIANCE_TYPES["diag"]().adapted_to(means * spread + 1e4)
    family = Mixture(component, top_components=8)
    sample = np.repeat(means, 30, axis=0) + rng.normal(size=(1200, 20))
    parameters = family.start(sample * spread + 1e4, np.repeat(np.eye(40), 30, axis=0))
    candidates = family.truncated(parameters).candidates
    assert candidates.lists.shape == (20, 8)
    centred = (sample - sample.mean(axis=0)) * spread + 1e4 - candidates.origin
    scores = centred / candidates.scale @ candidates.slopes + candidates.offsets
    first, second = np.argsort(-scores, axis=1)[:, :2].T
    # Moved along the difference of two discriminants until these are 1e-9 apart: single precision cannot tell.
    away = candidates.slopes[:, first] - candidates.slopes[:, second]
    everyone = np.arange(len(sample))
    lead = scores[everyone, first] - scores[everyone, second] - 1e-9
    rows = centred - (away * lead / np.sum(away**2, axis=0)).T * candidates.scale
    scores = rows / candidates.scale @ candidates.slopes + candidates.offsets
    cells = candidates.cells(rows + candidates.origin)
    np.testing.assert_array_equal(cells, candidates.cell_of[scores.argmax(axis=1)])
    np.testing.assert_array_equal(cells[7:19], candidates.cells((rows + candidates.origin)[7:19]))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_fits_of_all_families(case):
    options = {"top_components": 2, "max_iter": 6}
    whole = case.estimator(**options).fit(CutRows(case.data(), []))
    cut = case.estimator(**options).fit(CutRows(case.data(), [7, 1000, 2500], 2))
    assert_close(cut, whole, (*case.parameters, "lower_bounds_"))
    dense = case.estimator(max_iter=6).fit(case.data())
    assert whole.lower_bound_ < dense.lower_bound_ + 1e-12  # or equal, where the third component hardly counts
    everything = case.estimator(top_components=3, max_iter=6).fit(case.data())
    assert_same_bits(everything, dense, case.parameters)


def test_cells_of_outliers_that_overflow_single_precision():
    candidates = model(GAUSSIAN["diag"], 3)[1].candidates
    rows = 1e40 * np.random.default_rng(0).normal(size=(50, 3))
    scores = rows / candidates.scale @ candidates.slopes
    np.testing.assert_array_equal(candidates.cells(rows), candidates.cell_of[scores.argmax(axis=1)])


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_where_components_are_far_apart_a_few_are_as_good_as_all(kind):
    rows = crowd(2000, spread=60.0)
    centres = np.random.default_rng(0).normal(size=(N_COMPONENTS, 3)) * 60.0
    options = {"covariance_type": kind, "means_init": centres, "random_state": 0, "tol": 1e-9}
    dense = dem.GaussianMixture(N_COMPONENTS, **options).fit(rows)
    few = dem.GaussianMixture(N_COMPONENTS, top_components=4, **options).fit(rows)
    assert few.n_iter_ == dense.n_iter_
    assert_close(few, dense, ("weights_", "means_", "covariances_", "lower_bounds_"))


@pytest.mark.parametrize("algorithm", ["incremental", "stepwise"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_incremental_em_keeps_the_candidates(case, algorithm):
    """Its free energy is that of the candidates: it never falls, and is close below the truncated log-likelihood."""
    family, parameters, rows = model(case, 8)
    source, engine = CutRows(rows, list(range(250, 2000, 250))), LocalEngine(1)
    (batch,) = run([Start(family, parameters)], Batch(), source, engine, Settings(tol=0.0, max_iter=20))
    seen = []
    settings = Settings(tol=0.0, max_iter=5, callbacks=[lambda event: seen.append(getattr(event, "parameters", None))])
    goes_on = Incremental() if algorithm == "incremental" else Stepwise(n_seen=len(rows))
    begins, known = [Start(family, batch.parameters)], batch.log_likelihood
    (ours,) = run(begins, goes_on, source, engine, settings, previous=known)
    assert ours.parameters.candidates is parameters.candidates
    bounds = ours.log_likelihoods[1:]  # the first is no free energy in stepwise EM
    assert min(np.diff(bounds)) > -1e-11 * abs(bounds[-1])
    if algorithm == "incremental":
        assert bounds[0] > batch.log_likelihood
    latest = [one for one in seen if one is not None][3]
    (exact,) = sweep_models(engine, source, [(family, latest)])
    close = 1e-2 if case.prior_rows else 1e-3  # of components that lose their rows on the way
    assert -1e-11 < family.objective(exact, latest) / len(rows) - ours.log_likelihoods[3] < close


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("algorithm", ["batch", "incremental"])
def test_the_same_bits_on_every_engine(algorithm, dtype, cluster):
    from distributed import Client

    def fitted():
        rows = CutRows(crowd(3000).astype(dtype), [500, 1000, 1700, 2500])
        options = {"covariance_type": "diag", "random_state": 0, "max_iter": 4, "algorithm": algorithm, "tol": 0.0}
        return dem.GaussianMixture(N_COMPONENTS, top_components=8, **options).fit(rows)

    with Client(cluster):
        on_cluster = fitted()
    assert_same_bits(fitted(), on_cluster, ("weights_", "means_", "covariances_", "lower_bounds_"))


def test_a_fitted_model_counts_all_components(tmp_path):
    rows = crowd(1000)
    few = dem.GaussianMixture(N_COMPONENTS, top_components=2, random_state=0, tol=1e-2).fit(rows)
    dense = dem.GaussianMixture(
        N_COMPONENTS, weights_init=few.weights_, means_init=few.means_, precisions_init=few.precisions_, max_iter=0
    ).fit(rows)
    few.save(str(tmp_path / "model.zarr"))
    for one in (few, dem.load(str(tmp_path / "model.zarr"))):
        np.testing.assert_allclose(one.predict_proba(rows), dense.predict_proba(rows), atol=1e-9)
        np.testing.assert_array_equal(one.predict(rows), dense.predict(rows))
        assert one.score(rows) == pytest.approx(dense.score(rows), abs=1e-10)
        assert one.score(rows) > few.lower_bound_ + 1e-3
    few.partial_fit(rows)
    dense.partial_fit(rows)  # dense too
    assert few.lower_bound_ == pytest.approx(one.score(rows), abs=1e-9)


def test_close_to_dense_where_components_are_many():
    rows = crowd(4000, spread=6.0)
    options = {"covariance_type": "diag", "random_state": 0, "tol": 1e-5, "max_iter": 300}
    dense = dem.GaussianMixture(N_COMPONENTS, **options).fit(rows)
    few = dem.GaussianMixture(N_COMPONENTS, top_components=5, **options).fit(rows)
    assert few.score(rows) == pytest.approx(dense.score(rows), abs=2e-3)
    assert few.lower_bound_ == pytest.approx(few.score(rows), abs=2e-3)


def test_after_the_sample_and_with_squarem_and_warm_start():
    rows = crowd(3000)
    options = {"covariance_type": "diag", "random_state": 0, "tol": 1e-6, "max_iter": 300, "sample_rows": 1000}
    fitted = dem.GaussianMixture(N_COMPONENTS, top_components=4, accelerate="squarem", n_init=2, **options).fit(rows)
    assert fitted.converged_
    assert min(np.diff(fitted.lower_bounds_)) >= -1e-9
    fitted.set_params(warm_start=True).fit(rows)
    assert fitted.converged_
    assert fitted.lower_bound_ < fitted.score(rows) - 1e-6  # truncated again, which costs something here


def test_the_option(tmp_path):
    rows = crowd(300)
    with pytest.raises(OptionError, match=r"'top_components' .* int in the range \[1, inf\) or None"):
        dem.GaussianMixture(2, top_components=0).fit(rows)
    with pytest.raises(OptionError, match="top_components does not go with select"):
        dem.select(rows, n_components=[2], estimator=dem.GaussianMixture(top_components=1))
    import zarr

    data, out = str(tmp_path / "x.zarr"), str(tmp_path / "m.zarr")
    zarr.save(data, rows)
    arguments = ["fit", data, "-k", "4", "--top-components", "2", "--seed", "0", "--out", out, "--tol", "1e-2"]
    result = CliRunner().invoke(command, [*arguments, "--quiet"])
    assert result.exit_code == 0, result.output
    assert dem.load(out).top_components == 2
