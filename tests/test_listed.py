"""Truncated E-steps where each row has a list of components of its own, learnt anew during the fit."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from agreement import assert_close, assert_same_bits, sweep_models
from cases import chunk_of
from sources import CutRows

import dem
from dem.beside_chunks import KEPT, BesideChunks
from dem.engine import LocalEngine, connect
from dem.families import mixture
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.listed import RowLists, fingerprint, largest
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


@pytest.mark.usefixtures("few")
def test_lists_that_are_lost_are_found_again_to_the_same_bits(monkeypatch):
    rows = CutRows(crowd(), [300, 800])
    made = []
    monkeypatch.setattr(mixture, "largest", lambda *arguments: made.append(1) or largest(*arguments))
    kept = estimator().fit(rows)
    n_made = len(made)
    monkeypatch.setattr(BesideChunks, "get", lambda *arguments: arguments[3]())
    assert_same_bits(estimator().fit(rows), kept, NAMES)
    assert len(made) - n_made == 2 * n_made  # four anchors in eight passes


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_the_same_bits_on_two_processes():
    rows = CutRows(crowd(), [500, 1000])
    with connect(workers=2):
        on_cluster = estimator().fit(rows)
    assert_same_bits(estimator().fit(rows), on_cluster, NAMES)


@pytest.mark.usefixtures("few")
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


@pytest.mark.usefixtures("native")
def test_the_largest_of_each_column():
    joint = np.round(np.random.default_rng(0).normal(size=(300, 50)), 1)  # with equals
    joint[:, 7], joint[:, 8] = np.nan, -np.inf
    joint[4:9, 9] = np.nan
    expected = np.argsort(-joint, axis=0, kind="stable")[:6].T
    for order in (joint, np.asfortranarray(joint)):
        np.testing.assert_array_equal(largest(order, 6, np.dtype(np.uint16)), expected)
    assert sorted(largest(joint[:6], 6, np.dtype(np.uint32))[3]) == list(range(6))


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
