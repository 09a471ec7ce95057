"""Nearest centres by compiled loops: what brute force finds in extended precision, and the clusters of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.cluster
from sources import CutRows

import dem
import dem.families.nearest as loops
from dem.data.base import Chunk
from dem.engine import LocalEngine
from dem.families.gaussian.frame import Frame
from dem.families.kmeans import Clusters
from dem.families.nearest import nearest
from dem.families.workspace import Workspace
from dem.initialise.kmeans_parallel import CountNearest, DrawCandidates, kmeans_parallel
from dem.native import loaded
from dem.sparse import SparseRows

pytestmark = pytest.mark.slow  # numba compiles
# Rows, features and centres: fewer and more than the tiles, whole ones and others.
SHAPES = [(1, 1, 1), (5, 2, 3), (24, 8, 8), (25, 8, 6), (97, 9, 17), (500, 16, 24), (301, 35, 130), (700, 130, 300)]


@pytest.fixture(autouse=True)
def compiled_loops(monkeypatch):
    monkeypatch.setenv("DEM_NATIVE", "always")


def problem(n_rows, n_features, n_centres, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_centres, n_features))
    rows = 3.0 + 2.0 * centres[rng.integers(n_centres, size=n_rows)] + rng.normal(size=(n_rows, n_features))
    return rows.astype(dtype), centres, np.full(n_features, 3.0), np.full(n_features, 0.5)


def assigned(*given):
    return loops.assigned(*given, Workspace())


def brute_force(rows, centres, origin, inverse):
    """Return labels, squared distances to the nearest centre, and how much farther the next is, in long double."""
    inner = (rows.astype(np.longdouble) - origin) * inverse
    distances = np.stack([((inner - centre) ** 2).sum(axis=1) for centre in centres], axis=1)
    ordered = np.sort(distances, axis=1)
    gaps = ordered[:, 1] - ordered[:, 0] if len(centres) > 1 else np.ones(len(rows))
    return distances.argmin(axis=1), ordered[:, 0], gaps


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_labels_and_sums_are_those_of_brute_force(shape, dtype):
    rows, centres, origin, inverse = problem(*shape, dtype)
    labels, distances, gaps = brute_force(rows, centres, origin, inverse)
    clear = gaps > 1e-12
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(rows))
    for given, counted in ((None, np.ones(len(rows))), (weights, weights)):
        found = assigned(rows, given, centres, origin, inverse)
        np.testing.assert_array_equal(found.labels[clear], labels[clear])
        np.testing.assert_allclose(found.distances, distances.astype(float), rtol=1e-12, atol=1e-13)
        assert found.total == pytest.approx(float(counted @ distances), rel=1e-13)
        members = found.labels == np.arange(len(centres))[:, np.newaxis]
        np.testing.assert_allclose(found.counts, members @ counted, rtol=1e-13)
        inner = (rows.astype(np.longdouble) - origin) * inverse - centres[found.labels]
        offsets = np.stack([(counted[own, np.newaxis] * inner[own]).sum(axis=0) for own in members])
        np.testing.assert_allclose(found.offsets, offsets.astype(float), rtol=1e-12, atol=1e-12 * len(rows))
    np.testing.assert_array_equal(nearest(rows, centres, origin, inverse), found.labels)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_of_equally_near_centres_the_first_is_taken(dtype):
    rows = np.random.default_rng(2).integers(-2, 3, size=(400, 9)).astype(dtype)
    centres = np.random.default_rng(3).integers(-2, 3, size=(40, 9)).astype(float)
    centres[[5, 17, 39]] = centres[3]
    labels, _, gaps = brute_force(rows, centres, np.zeros(9), np.ones(9))
    assert (gaps == 0.0).sum() > 20
    np.testing.assert_array_equal(nearest(rows, centres, np.zeros(9), 1.0), labels)


@pytest.mark.parametrize("apart", [1e-6, 1e-8, 1e-10])
def test_centres_that_single_precision_does_not_tell_apart(apart):
    rows, centres, origin, inverse = problem(2000, 20, 12, np.float32, seed=4)
    centres = np.concatenate([centres, centres + apart * np.random.default_rng(5).normal(size=centres.shape)])
    labels, _, gaps = brute_force(rows, centres, origin, inverse)
    clear = gaps > 1e-13
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(nearest(rows, centres, origin, inverse)[clear], labels[clear])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_origin_and_units_that_single_precision_does_not_have(dtype):
    rows, centres, _, _ = problem(2000, 9, 20, seed=11)
    rows, origin, inverse = (rows + 1e7).astype(dtype), np.full(9, 1e7 + 3.4), np.full(9, 0.3)
    labels, _, gaps = brute_force(rows, centres, origin, inverse)
    np.testing.assert_array_equal(nearest(rows, centres, origin, inverse)[gaps > 1e-10], labels[gaps > 1e-10])
    inverse[4] = 1e-32
    labels, _, gaps = brute_force(rows, centres, origin, inverse)
    np.testing.assert_array_equal(nearest(rows, centres, origin, inverse)[gaps > 1e-10], labels[gaps > 1e-10])


def test_centres_and_rows_beyond_single_precision():
    rows, centres, origin, inverse = problem(300, 5, 4, np.float32, seed=6)
    rows[:5] *= np.float32(1e30)
    centres[1] = 1e50
    inner, wide = (rows.astype(np.longdouble) - origin) * inverse, centres.astype(np.longdouble)
    closeness = inner @ wide.T - 0.5 * (wide**2).sum(axis=1)  # beyond 1e18 the distances of a row are all the same
    np.testing.assert_array_equal(nearest(rows, centres, origin, inverse), closeness.argmax(axis=1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_is_not_finite_shows_in_the_total(value, dtype):
    rows, centres, origin, inverse = problem(300, 10, 12, dtype)
    rows[123, 9] = value
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(assigned(rows, None, centres, origin, inverse).total)


def test_rows_of_any_type_and_layout():
    rows, centres, origin, inverse = problem(5000, 10, 12, np.int16)
    expected = assigned(rows.astype(np.float64), None, centres, origin, inverse)
    unaligned = np.frombuffer(b"x" + rows.astype(np.float64).tobytes(), np.uint8)[1:].view(np.float64)
    fixed = rows.astype(np.float64)
    fixed.setflags(write=False)
    kinds = [rows.astype(kind) for kind in (np.int64, np.float16, ">f4", ">f8", np.float32, np.longdouble)]
    kinds += [np.asfortranarray(fixed), np.repeat(fixed, 2, axis=0)[::2], unaligned.reshape(rows.shape), fixed]
    for given in kinds:
        found = assigned(given, None, centres, origin, inverse)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.offsets, expected.offsets, rtol=1e-12, atol=1e-11)
        assert found.total == pytest.approx(expected.total, rel=1e-13)


@pytest.mark.parametrize("setting", ["off", ""])
def test_numpy_does_what_is_not_for_the_loops(setting, monkeypatch):
    rows, centres, origin, inverse = problem(200, 10, 12)
    monkeypatch.setenv("DEM_NATIVE", setting)
    assert assigned(rows, None, centres, origin, inverse) is None
    assert nearest(rows, centres, origin, inverse) is None
    monkeypatch.setenv("DEM_NATIVE", "always")
    assert nearest(rows[:0], centres, origin, inverse) is None
    sparse = SparseRows(np.ones(3), np.arange(3), np.arange(4), 3)
    assert nearest(sparse, np.eye(3), np.zeros(3), 1.0) is None


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_statistics_are_those_of_numpy(dtype, monkeypatch):
    rows, centres, _, _ = problem(700, 11, 40, dtype, seed=7)
    centres[[3, 10, 30, 38]] = 1e3  # without rows: the farthest rows are for them
    clusters, weights = Clusters(Frame.of(rows, isotropic=True)), np.random.default_rng(8).uniform(size=700)
    monkeypatch.setattr("dem.families.kmeans.PIECE_ROWS", 300)
    for chunk in (Chunk(rows, range(700)), Chunk(rows, range(700), weights=weights)):
        alone, part = clusters.e_step(centres, chunk), chunk.take(slice(100))
        found = alone + clusters.e_step(centres, part)
        labels = clusters.labels(centres, chunk)
        with monkeypatch.context() as numpy_alone:
            numpy_alone.setenv("DEM_NATIVE", "off")
            expected_alone = clusters.e_step(centres, chunk)
            expected = expected_alone + clusters.e_step(centres, part)
            np.testing.assert_array_equal(labels, clusters.labels(centres, chunk))
        assert found.farthest.most == np.count_nonzero(expected.counts == 0.0) >= 4
        assert (found.n_rows, found.inertia) == pytest.approx((expected.n_rows, expected.inertia), rel=1e-13)
        np.testing.assert_allclose(found.counts, expected.counts, rtol=1e-13)
        np.testing.assert_allclose(found.offsets, expected.offsets, rtol=1e-12, atol=1e-11)
        for ours, theirs in ((found, expected), (alone, expected_alone)):
            moved, wanted = clusters.m_step(ours, centres), clusters.m_step(theirs, centres)
            np.testing.assert_allclose(moved, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fits_are_those_of_scikit_learn(dtype):
    rows = problem(6000, 6, 9, seed=9)[0].astype(dtype)
    start = np.concatenate([rows[:8], np.full((1, 6), 50.0)]).astype(dtype)  # the last has no rows
    theirs = sklearn.cluster.KMeans(9, init=start, n_init=1, tol=0.0, algorithm="lloyd").fit(rows.astype(np.float64))
    ours = dem.KMeans(9, init=start, tol=0.0).fit(CutRows(rows, [7, 2000, 4500]))
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-10)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-10)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    assert ours.score(rows) == pytest.approx(theirs.score(rows.astype(np.float64)), rel=1e-10)


def test_the_same_bits_for_any_number_of_threads():
    rows = CutRows(problem(4000, 12, 20, np.float32)[0], [100, 1000, 1700, 2600])
    clusters = Clusters(Frame.of(rows.table, isotropic=True))
    centres = clusters.from_user({"cluster_centers": rows.table[:20].astype(float)})
    sums = []
    for n_threads in (1, 3):
        with LocalEngine(n_threads) as engine:
            sums.append(engine.sweep(rows, [lambda chunk: clusters.e_step(centres, chunk)])[0])
    assert sums[0].inertia == sums[1].inertia
    np.testing.assert_array_equal(sums[0].offsets, sums[1].offsets)


def test_starts_draw_the_same_rows(monkeypatch):
    rows, centres, origin, _ = problem(5000, 7, 30)
    weights = np.random.default_rng(10).uniform(0.5, 2.0, 5000)
    chunk, units = Chunk(rows, range(5000), weights=weights), np.linspace(1.0, 2.0, 7)
    draw, count = DrawCandidates(centres, origin, units, 0.01, 3), CountNearest(centres, origin, units)
    drawn, counts = draw(chunk), count(chunk)
    start = kmeans_parallel(CutRows(rows, [2000]), LocalEngine(1), rows[:500], 10, np.random.RandomState(0))
    monkeypatch.setenv("DEM_NATIVE", "off")
    expected = draw(chunk)
    np.testing.assert_array_equal(drawn.joined().rows, expected.joined().rows)
    assert len(drawn.joined().rows) > 20
    assert drawn.cost == pytest.approx(expected.cost, rel=1e-12)
    np.testing.assert_allclose(counts, count(chunk), rtol=1e-13)
    again = kmeans_parallel(CutRows(rows, [2000]), LocalEngine(1), rows[:500], 10, np.random.RandomState(0))
    np.testing.assert_allclose(start[0], again[0], rtol=1e-10, atol=1e-12)


def test_the_loops_were_there():
    from dem.families.nearest import _compiled

    assert loaded(_compiled) is not None, "nothing above was computed by them"
