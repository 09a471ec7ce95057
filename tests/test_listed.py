"""Truncated E-steps where each row has a list of components of its own, learnt anew during the fit."""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
from agreement import assert_close, assert_same_bits, sweep_models
from cases import chunk_of
from sources import CutRows

import dem
from dem.beside_chunks import KEPT, BesideChunks
from dem.engine import LocalEngine, connect
from dem.families import cells, listed, mixture
from dem.families.gaussian import COVARIANCE_TYPES, search
from dem.families.listed import RowLists, fingerprint
from dem.families.mixture import Mixture

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

K, C = 20, 4
NAMES = ("weights_", "means_", "covariances_", "lower_bounds_")


@pytest.fixture(params=["off", "always"])
def native(request, monkeypatch):
    """With compiled loops and without."""
    monkeypatch.setenv("DEM_NATIVE", request.param)


@pytest.fixture
def few(monkeypatch):
    """Lists for mixtures of few components too, as large ones have them."""
    monkeypatch.setenv("DEM_NATIVE", "always")
    monkeypatch.setattr(mixture, "FEWEST_COMPONENTS", 2)


@pytest.fixture
def narrow(monkeypatch):
    """Cells of few components, of which few are looked at."""
    monkeypatch.setattr(cells, "MEMBERS", 2)
    monkeypatch.setattr(cells, "NEAREST", 1)
    monkeypatch.setattr(listed, "FIRST_LOOK", 6)
    monkeypatch.setattr(listed, "LOOK_PER_STEP", 1)


def crowd(n_rows=1500, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(K, 3)) * 3.0
    return centres[rng.integers(0, K, n_rows)] + rng.normal(size=(n_rows, 3))


def model(rows, kind="diag", **options):
    family = Mixture(COVARIANCE_TYPES[kind](**options).adapted_to(rows), top_components=C)
    responsibilities = np.random.default_rng(1).dirichlet(np.full(K, 0.05), len(rows))
    return family, family.listed(family.start(rows, responsibilities))


def estimator(**options):
    options = {
        "covariance_type": "diag",
        "random_state": 0,
        "max_iter": 8,
        "tol": 0.0,
        "init_params": "random_from_data",
    } | options
    return dem.GaussianMixture(K, top_components=C, **options)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["diag", "spherical"])
@pytest.mark.usefixtures("native")
def test_the_e_step_is_that_of_the_likeliest_components_of_each_row(kind, dtype):
    rows = crowd(400).astype(dtype)
    rows[:40] = rows[:40] * 1e-3 + 200.0  # a tight clump far out
    family, parameters = model(rows, kind, reg_covar=0.0)
    if kind == "diag":  # whose component has a frame of its own
        values = family.to_user(parameters)
        values["means"][3], values["covariances"][3], values["precisions_cholesky"][3] = 200.0, 1e-6, 1e3
        parameters = family.listed(family.from_user(values))
    weights = np.random.default_rng(2).uniform(0.5, 2.0, len(rows))
    user = family.to_user(parameters)
    deviations = np.sqrt(user["covariances"]).reshape(K, -1)
    joint = (
        np.log(user["weights"])
        + np.array(
            [
                scipy.stats.norm.logpdf(rows.astype(float), mean, s).sum(axis=1)
                for mean, s in zip(user["means"], deviations, strict=True)
            ]
        ).T
    )
    joint[joint < np.sort(joint, axis=1)[:, [-C]]] = -np.inf
    total = np.logaddexp.reduce(joint, axis=1)
    shares = np.exp(joint - total[:, np.newaxis]) * weights[:, np.newaxis]
    ours = family.e_step(parameters, replace(chunk_of(rows), weights=weights))
    assert ours.log_likelihood == pytest.approx(weights @ total, rel=1e-10)
    np.testing.assert_allclose(ours.counts, shares.sum(axis=0), rtol=1e-6, atol=1e-9)
    after = family.to_user(family.m_step(ours, parameters))
    there = ours.counts > 1e-3
    means = (shares.T @ rows.astype(float))[there] / shares.sum(axis=0)[there, np.newaxis]
    np.testing.assert_allclose(after["means"][there], means, rtol=1e-6, atol=1e-7)
    squares = (rows.astype(float) - after["means"][there, np.newaxis]) ** 2
    variances = np.einsum("nk,knj->kj", shares[:, there], squares) / shares.sum(axis=0)[there, np.newaxis]
    found = after["covariances"][there]
    np.testing.assert_allclose(found, variances if kind == "diag" else variances.mean(axis=1), rtol=1e-5)


@pytest.mark.usefixtures("native")
def test_the_free_energy_never_falls_while_lists_are_learnt_anew():
    rows = crowd()
    family, parameters = model(rows, reg_covar=0.0)
    source, engine, values, anchors = CutRows(rows, [700]), LocalEngine(1), [], set()
    for _ in range(9):
        (statistics,) = sweep_models(engine, source, [(family, parameters)])
        values.append(statistics.log_likelihood)
        anchors.add(parameters.candidates.anchor)
        if parameters.candidates.age == 0:  # the best lists there are
            (best,) = sweep_models(engine, source, [(family, family.listed(replace(parameters, candidates=None)))])
            assert values[-1] == pytest.approx(best.log_likelihood, rel=1e-13)
        assert values[-1] <= family.log_likelihood(parameters, chunk_of(rows)).sum()
        parameters = family.m_step(statistics, parameters)
    assert min(np.diff(values)) > -1e-11 * abs(values[-1])
    assert len(anchors) == 4  # after 1, 2, 4, … M-steps
    anew = family.listed(replace(parameters, candidates=None))
    (now,) = sweep_models(engine, source, [(family, anew)])
    (kept,) = sweep_models(engine, source, [(family, parameters)])
    assert now.log_likelihood >= kept.log_likelihood


@pytest.mark.usefixtures("native", "narrow")
@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_the_free_energy_never_falls_where_few_cells_are_looked_at(kind):
    rows = crowd(4000)
    family, parameters = model(rows, kind, reg_covar=0.0)
    source, engine, values, looked_at = CutRows(rows, [700]), LocalEngine(1), [], []
    for _ in range(17):
        (statistics,) = sweep_models(engine, source, [(family, parameters)])
        values.append(statistics.log_likelihood)
        anchor = parameters.candidates.anchor
        if not looked_at or looked_at[-1] is not anchor:
            looked_at.append(anchor)
        parameters = family.m_step(statistics, parameters)
    assert min(np.diff(values)) > -1e-11 * abs(values[-1])
    assert len(looked_at) == 5
    assert looked_at[0].n_nearest < looked_at[-1].n_nearest
    for one, other in pairwise(looked_at):
        assert one.cells.centres is other.cells.centres
        for before, after in zip(one.cells.members(K), other.cells.members(K), strict=True):
            assert set(before) <= set(after)
    # So few that the likeliest are missed now and then, or this would show nothing.
    (best,) = sweep_models(engine, source, [(family, whole(family.listed(replace(parameters, candidates=None))))])
    (ours,) = sweep_models(engine, source, [(family, family.listed(replace(parameters, candidates=None)))])
    assert best.log_likelihood > ours.log_likelihood


def whole(parameters):
    """Lists for which all components are looked at."""
    anchor = parameters.candidates.anchor
    anchor = replace(anchor, n_nearest=len(anchor.cells.centres))
    return replace(parameters, candidates=replace(parameters.candidates, anchor=anchor))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("algorithm", ["batch", "incremental", "stepwise", "auto"])
def test_fits_are_those_of_numpy_and_do_not_depend_on_the_chunks(algorithm, monkeypatch):
    whole = estimator(algorithm=algorithm).fit(CutRows(crowd(), [500, 1000]))
    assert isinstance(whole, dem.GaussianMixture)
    if algorithm in ("batch", "auto"):
        assert min(np.diff(whole.lower_bounds_)) > -1e-9
        assert_close(estimator(algorithm=algorithm).fit(CutRows(crowd(), [7, 900], 2)), whole, NAMES, rtol=1e-8)
    monkeypatch.setattr(mixture.native, "pays", lambda _: False)
    assert_close(estimator(algorithm=algorithm).fit(CutRows(crowd(), [500, 1000])), whole, NAMES, rtol=1e-8)


@pytest.mark.usefixtures("few", "narrow")
def test_lists_that_are_lost_are_found_again_to_the_same_bits(monkeypatch):
    rows = CutRows(crowd(), [300, 800])
    made, find = [], search.find
    monkeypatch.setattr(search, "find", lambda *arguments: made.append(1) or find(*arguments))
    kept = estimator().fit(rows)
    n_made = len(made)
    monkeypatch.setattr(BesideChunks, "get", lambda *arguments: arguments[3]())
    assert_same_bits(estimator().fit(rows), kept, NAMES)
    assert len(made) - n_made == 2 * n_made  # four anchors in eight passes


@pytest.mark.slow
@pytest.mark.usefixtures("few", "narrow")
def test_the_same_bits_on_two_processes():
    rows = CutRows(crowd(), [500, 1000])
    with connect(workers=2):
        on_cluster = estimator().fit(rows)
    assert_same_bits(estimator().fit(rows), on_cluster, NAMES)


@pytest.mark.usefixtures("few", "narrow")
@pytest.mark.parametrize("algorithm", ["batch", "auto"])
def test_a_fit_that_is_ended_and_goes_on_comes_to_the_same_bits(algorithm, tmp_path):
    rows, seen = CutRows(crowd(), [500, 1000]), []

    def stop(event):
        if type(event).__name__ == "IterationEnded" and event.iteration == 5 and not seen:
            seen.append(event)
            raise KeyboardInterrupt

    whole = estimator(algorithm=algorithm).fit(rows)
    with pytest.raises(KeyboardInterrupt):
        estimator(algorithm=algorithm, callbacks=[stop]).fit(rows, checkpoint=tmp_path / "kept", checkpoint_every=1)
    again = estimator(algorithm=algorithm, callbacks=[stop]).fit(rows, checkpoint=tmp_path / "kept")
    assert_same_bits(again, whole, NAMES)


def test_which_mixtures_have_lists(monkeypatch):
    rows = crowd()
    family, parameters = model(rows)
    plain = replace(parameters, candidates=None)

    def has_lists(family, n_rows=1000):
        return isinstance(family.truncated(plain, n_rows).candidates, RowLists)

    monkeypatch.setenv("DEM_NATIVE", "always")
    assert not has_lists(family)  # few components
    monkeypatch.setattr(mixture, "FEWEST_COMPONENTS", 2)
    assert has_lists(family)
    assert not has_lists(family, 2**30 // C + 1)
    monkeypatch.setenv("DEM_NATIVE", "off")
    assert not has_lists(family)


@pytest.mark.usefixtures("native", "narrow")
@pytest.mark.parametrize("n_nearest", [1, 4, 100])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_likeliest_members_of_the_nearest_cells(n_nearest, dtype, monkeypatch):
    monkeypatch.setattr(search, "BLOCK_ROWS", 150)
    rows = (crowd(400) + 1e4).astype(dtype)
    family, parameters = model(rows)
    values = family.to_user(parameters)
    values["means"][5], values["covariances"][5], values["precisions_cholesky"][5] = rows[3], 1e-8, 1e4
    for name in ("means", "covariances", "precisions_cholesky"):
        values[name][11] = values[name][2]  # two that are the same
    values["weights"][11] = values["weights"][2]
    parameters = family.from_user(values)
    anchor = family.listed(parameters).candidates.anchor
    found = np.empty((len(rows), C), dtype=np.uint16)
    family.component.find_likeliest(
        anchor.components, parameters.log_weights, chunk_of(rows), anchor.cells, n_nearest, found
    )
    deviations = np.sqrt(values["covariances"])
    joint = scipy.stats.norm.logpdf(rows[:, np.newaxis].astype(float), values["means"], deviations).sum(axis=2)
    joint += np.log(values["weights"])
    frame = family.component.frame
    apart = scipy.spatial.distance.cdist(
        (rows - frame.origin) / frame.scale, anchor.cells.centres, "seuclidean", V=anchor.cells.spreads.mean(axis=0)
    )
    near = np.argsort(apart, axis=1)[:, :n_nearest]
    members = anchor.cells.members(K)
    for i, cells_of_row in enumerate(near):
        looked_at = sorted(set(np.concatenate([members[cell] for cell in cells_of_row])))
        expected = sorted(looked_at, key=lambda k: (-joint[i, k], k))[:C]
        assert found[i].tolist() == expected
    if n_nearest == 100:
        np.testing.assert_array_equal(found, np.argsort(-joint, axis=1, kind="stable")[:, :C])


@pytest.mark.usefixtures("native", "narrow")
def test_lists_of_rows_that_are_no_numbers_are_whole():
    rows = crowd(50)
    family, parameters = model(rows)
    rows[7, 1], rows[8] = np.nan, np.inf
    anchor = parameters.candidates.anchor
    found = np.empty((len(rows), C), dtype=np.uint16)
    logs = parameters.log_weights
    family.component.find_likeliest(anchor.components, logs, chunk_of(rows), anchor.cells, 2, found)
    assert all(len(set(row)) == C and row.max() < K for row in found)


def test_broad_components_are_members_wherever_they_count():
    rng = np.random.default_rng(0)
    means, deviations = rng.normal(size=(200, 4)) * 10.0, np.full((200, 4), 0.1)
    deviations[17] = 30.0
    constants = -np.log(deviations).sum(axis=1)
    moments = cells.Moments(means, deviations**2, deviations**-2, constants)
    learnt = cells.Cells.learnt(moments, 1)
    members = learnt.members(200)
    assert len(members) == 7
    assert all(17 in one for one in members)
    assert set(np.concatenate(members)) == set(range(200))
    assert learnt.holding(200, 200) == 7
    assert 1 <= learnt.holding(50, 200) < 4


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
@pytest.mark.usefixtures("native")
def test_rows_that_are_not_finite_show_in_the_log_likelihood(value):
    rows = crowd(300)
    family, parameters = model(rows)
    rows[77, 1] = value
    assert not np.isfinite(family.e_step(parameters, chunk_of(rows)).log_likelihood)


@pytest.mark.usefixtures("native")
def test_a_fingerprint_tells_rows_apart():
    rows = crowd(64)
    for other in (
        rows[::-1],
        np.roll(rows, 1, axis=1),
        rows.astype(np.float32),
        rows[:, ::-1],
        rows[:63],
        rows + 1e-15,
    ):
        assert fingerprint(other) != fingerprint(rows)
    assert fingerprint(np.asfortranarray(rows)) == fingerprint(rows.copy())
    a, b = rows[:32], rows[32:]
    assert fingerprint(np.concatenate([a, b, b, a])) != fingerprint(np.concatenate([b, a, a, b]))
    coins = np.random.default_rng(0).integers(2, size=(5000, 30, 3)).astype(np.float64)
    assert len({fingerprint(one) for one in coins}) == 5000


def test_what_lies_beside_chunks_keeps_to_its_room():
    kept, array = BesideChunks(100), np.zeros(60, dtype=np.uint8)
    assert kept.get((b"a", b"1"), b"x", lambda: array) is array
    assert kept.get((b"a", b"1"), b"x", array.copy) is array
    kept.get((b"b", b"2"), b"x", lambda: array)  # no room
    assert kept.n_bytes == 60
    newer = array[:50]
    assert kept.get((b"a", b"1"), b"y", lambda: newer) is newer  # in the place of what was
    assert kept.n_bytes == 50
    for _ in range(30):  # of the other fit nothing is asked any more
        kept.get((b"b", b"2"), b"x", lambda: array)
    assert kept.n_bytes == 60
    kept.forget(b"b")
    assert kept.n_bytes == 0


@pytest.mark.usefixtures("few")
def test_lists_go_with_their_fit():
    estimator(max_iter=3).fit(crowd())
    gc.collect()
    assert KEPT.n_bytes == 0
