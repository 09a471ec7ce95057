"""Fits that are ended at any moment and begun again: the same bits as those that never were."""

from __future__ import annotations

import itertools
import os
import shutil
import time

import numpy as np
import pytest
from agreement import assert_same_bits
from cases import KERNELS, gaussian_rows
from sklearn.base import clone
from sources import CutRows

import dem
from dem.data.snapshots import Snapshots
from dem.em.checkpoint import Checkpoint, Every
from dem.errors import DataWarning, OptionError, StoreError
from dem.events import BatchEnded, FitResumed, FitStarted, IterationEnded

EDGES = list(range(200, 3000, 200))
WAYS = {
    "batch": {},
    "squarem": {"accelerate": "squarem"},
    "incremental": {"algorithm": "incremental", "max_in_flight": 1},
    "stepwise": {"algorithm": "stepwise", "max_in_flight": 1},
    "several starts": {"n_init": 3, "init_params": "random", "sample_rows": 400},
    "k-means||": {"init_params": "k-means||", "sample_rows": 400},
}


class Gone(Exception):  # noqa: N818
    """What ends a fit."""


class GoneAfter:
    """A callback that ends the fit with the event of a number."""

    def __init__(self, n_events):
        self.left, self.events = n_events, []

    def __call__(self, event):
        self.events.append(event)
        self.left -= 1
        if self.left < 0:
            raise Gone


def rows():
    return CutRows(gaussian_rows(), EDGES)


def interrupted(make, fit, step):
    """Fit until it is done, ended after ever more events; return the estimator and how often it was ended."""
    n_ends = 0
    while True:
        try:
            return fit(make(callbacks=[GoneAfter(step * (n_ends + 1))])), n_ends
        except Gone:
            n_ends += 1


def history(estimator):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in estimator.history_]


@pytest.mark.filterwarnings("ignore:the rows of .* look sorted")
@pytest.mark.parametrize("way", WAYS)
def test_a_fit_that_is_ended_again_and_again_comes_to_the_same_bits(way, tmp_path):
    def make(**more):
        return dem.GaussianMixture(3, random_state=0, tol=1e-6, max_iter=60, **WAYS[way], **more)

    whole = make().fit(rows())
    path = tmp_path / "checkpoint"
    again, n_ends = interrupted(make, lambda one: one.fit(rows(), checkpoint=path, checkpoint_every=1), 11)
    assert n_ends > 3
    assert_same_bits(whole, again, ("weights_", "means_", "covariances_", "lower_bounds_", "n_iter_"))
    assert history(whole) == history(again)


@pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")
@pytest.mark.parametrize("case", KERNELS, ids=str)
@pytest.mark.parametrize("way", ["batch", "incremental"])
def test_every_family_goes_on_to_the_same_bits(case, way, tmp_path):
    def make(**more):
        return case.estimator(max_iter=12, **WAYS[way], **more)

    data = CutRows(case.data(), EDGES)
    whole = make().fit(data)
    again, n_ends = interrupted(make, lambda one: one.fit(data, checkpoint=tmp_path / "kept"), 24)
    assert n_ends > 1
    assert_same_bits(whole, again, (*case.parameters, "lower_bounds_"))


@pytest.mark.parametrize("estimator", [dem.GaussianMixture(3, tol=1e-6), dem.KMeans(3)], ids=["mixture", "k-means"])
def test_labels_of_a_fit_that_goes_on(estimator, tmp_path):
    make = clone(estimator).set_params(random_state=0).set_params
    labels, n_ends = interrupted(make, lambda one: one.fit_predict(rows(), checkpoint=tmp_path / "kept"), 20)
    assert n_ends > 1
    np.testing.assert_array_equal(labels, make(callbacks=None).fit(rows()).predict(rows()))


def test_k_means_and_a_search_go_on_to_the_same_bits(tmp_path):
    def clusters(**more):
        return dem.KMeans(3, random_state=0, sample_rows=400, n_init=3, init="random", **more)

    again, n_ends = interrupted(clusters, lambda one: one.fit(rows(), checkpoint=tmp_path / "clusters"), 9)
    assert n_ends > 2
    whole = clusters().fit(rows())
    assert_same_bits(whole, again, ("cluster_centers_", "inertia_", "n_iter_"))
    assert history(whole) == history(again)

    def search(callbacks=None, **more):
        options = {"n_components": range(1, 4), "covariance_type": ("full", "diag"), "sample_rows": 400}
        return dem.select(rows(), **options, random_state=0, callbacks=callbacks, **more)

    whole = search()
    for n_ends in itertools.count():
        try:
            again = search([GoneAfter(9 * (n_ends + 1))], checkpoint=tmp_path / "search")
            break
        except Gone:
            continue
    assert n_ends > 3
    assert again.table == whole.table
    for mine, theirs in zip(whole.estimators, again.estimators, strict=True):
        assert_same_bits(mine, theirs, ("weights_", "means_", "covariances_", "lower_bounds_"))
        assert history(mine) == history(theirs)


def test_numbers_drawn_without_a_seed_are_drawn_again(tmp_path):
    def fit(seed, callbacks=None, path=None):
        numbers = None if seed is None else np.random.RandomState(seed)
        options = {"init_params": "random", "n_init": 3, "sample_rows": 400, "max_iter": 300}
        one = dem.GaussianMixture(3, random_state=numbers, callbacks=callbacks, **options)
        assert one.fit(rows(), checkpoint=path).random_state is numbers
        return one

    whole = fit(5)
    with pytest.raises(Gone):
        fit(5, [GoneAfter(25)], tmp_path / "kept")
    np.testing.assert_array_equal(fit(7, path=tmp_path / "kept").means_, whole.means_)
    with pytest.raises(Gone):
        fit(None, [GoneAfter(25)], tmp_path / "none")
    first = fit(None, path=tmp_path / "none")
    np.testing.assert_array_equal(fit(None, path=tmp_path / "none").means_, first.means_)


def test_what_is_done_is_not_done_again(tmp_path):
    data, path = rows(), tmp_path / "kept"
    make = {"init_params": "k-means||", "sample_rows": 400, "random_state": 0}
    with pytest.raises(Gone):
        dem.GaussianMixture(3, callbacks=[Until(IterationEnded, "data", 3)], **make).fit(data, checkpoint=path)
    told = GoneAfter(10**9)
    fitted = dem.GaussianMixture(3, callbacks=[told], **make).fit(data, checkpoint=path)
    (resumed,) = [e for e in told.events if isinstance(e, FitResumed) and e.phase == "data"]
    # The pass that was ended by its own last event is made again; it is not known to have ended.
    assert [event.iteration for event in resumed.past] == [1, 2]
    again = [e.iteration for e in told.events if isinstance(e, IterationEnded) and e.phase == "data"]
    assert again == list(range(3, fitted.n_iter_ + 1))
    assert sum(event.n_rows for event in told.events if isinstance(event, BatchEnded)) == len(again) * data.n_rows
    assert not [e for e in told.events if isinstance(e, IterationEnded) and e.phase == "sample"]
    # The same line once more: nothing is left to do.
    told = GoneAfter(10**9)
    same = dem.GaussianMixture(3, callbacks=[told], **make).fit(data, checkpoint=path)
    assert_same_bits(fitted, same, ("means_", "lower_bounds_"))
    # All that is read are the few chunks by which the data is recognised.
    assert not [event for event in told.events if getattr(event, "n_rows", 0) and not isinstance(event, FitStarted)]


class Until:
    """A callback that ends the fit with the n-th event of a kind and phase."""

    def __init__(self, kind, phase, number):
        self.kind, self.phase, self.left = kind, phase, number

    def __call__(self, event):
        if isinstance(event, self.kind) and getattr(event, "phase", self.phase) == self.phase:
            self.left -= 1
            if not self.left:
                raise Gone


def test_incremental_em_goes_on_within_a_pass(tmp_path):
    path, options = tmp_path / "kept", {"algorithm": "incremental", "max_in_flight": 1, "random_state": 0}
    seen = []

    def stop(event):
        seen.append(event)
        blocks = sum(isinstance(event, BatchEnded) for event in seen)
        if blocks == 4 + 15 + 2 * 15 + 7:  # a few to know the data by, the sample, two passes, and seven blocks
            raise Gone

    with pytest.raises(Gone):
        dem.GaussianMixture(3, callbacks=[stop], **options).fit(rows(), checkpoint=path, checkpoint_every="0s")
    told = GoneAfter(10**9)
    dem.GaussianMixture(3, callbacks=[told], **options).fit(rows(), checkpoint=path)
    first = next(place for place, event in enumerate(told.events) if isinstance(event, IterationEnded))
    assert sum(isinstance(event, BatchEnded) for event in told.events[:first]) == 4 + 15 - 6


# What a checkpoint is of --------------------------------------------------------------------------------------------


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def fit(path, data=None, callbacks=None, sample_weight=None, **options):
    given = {"n_components": 3, "random_state": 0, "init_params": "random", "tol": 1e-6, "max_iter": 500}
    one = dem.GaussianMixture(**{**given, "callbacks": callbacks, **options})
    return one.fit(rows() if data is None else data, None, sample_weight, checkpoint=path)


def test_another_fit_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "kept"
    fit(path)
    for options, said in [
        ({"n_components": 4}, r"n_components was 3, and is 4 now"),
        ({"tol": 1e-4}, r"tol was 1e-06, and is 0\.0001 now"),
        ({"random_state": 1}, r"random_state was 0, and is 1 now"),
        ({"means_init": np.zeros((3, 3))}, r"means_init was None, and is an array \(3, 3\) \(\w+\) now"),
    ]:
        with pytest.raises(StoreError, match=rf"^the checkpoint .*kept is of another fit: {said}; give another path"):
            fit(path, **options)
    other = gaussian_rows().copy()
    other[-1] += 1.0
    with pytest.raises(StoreError, match=r"digest of the values of rows 2800 to 2999 was \w+, and is \w+ now"):
        fit(path, CutRows(other, EDGES))
    with pytest.raises(StoreError, match=r"number of rows was 3000, and is 2999 now"):
        fit(path, CutRows(gaussian_rows()[:-1], EDGES))
    with pytest.raises(StoreError, match=r"division into chunks was .*, and is .* now"):
        fit(path, CutRows(gaussian_rows(), EDGES[1:]))
    with pytest.raises(StoreError, match=r"digest of the weights of rows 0 to 199 was not given, and is \w+ now"):
        fit(path, sample_weight=np.ones(3000))
    with pytest.raises(StoreError, match=r"model was gaussian, and is kmeans now"):
        dem.KMeans(3, random_state=0).fit(rows(), checkpoint=path)
    # Options that change nothing of the numbers may differ.
    fit(path, verbose=0, callbacks=[print])


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds something \(notes.txt\) but no job.npz of a checkpoint; give another"):
        fit(tmp_path)
    assert names(tmp_path) == ["notes.txt"]
    with pytest.raises(StoreError, match=r"notes.txt would be a folder, but a file is there; give another path"):
        fit(tmp_path / "notes.txt")
    with pytest.raises(OptionError, match="checkpoint_every goes with checkpoint"):
        dem.GaussianMixture(2).fit(rows(), checkpoint_every=1)
    with pytest.raises(OptionError, match="must be a number of passes such as 1, or a time such as '5min', not 'now'"):
        dem.GaussianMixture(2).fit(rows(), checkpoint=tmp_path / "a", checkpoint_every="now")


def test_saving_the_model_removes_the_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "kept"
    first = fit(path)
    (path / "notes.txt").write_text("mine")
    first.save(str(tmp_path / "model.zarr"))
    assert names(path) == ["notes.txt"]
    (path / "notes.txt").unlink()
    # Another fit has taken the place meanwhile.
    second = fit(path)
    shutil.rmtree(path)
    fit(path, n_components=2)
    kept = names(path)
    second.save(str(tmp_path / "second.zarr"))
    assert names(path) == kept


def test_two_processes_do_not_share_a_checkpoint(tmp_path):
    def begin_another(event):
        if isinstance(event, IterationEnded):
            with pytest.raises(StoreError, match="is in use by another process"):
                fit(tmp_path / "kept")

    fit(tmp_path / "kept", callbacks=[begin_another], max_iter=100)


@pytest.mark.reliability(
    fault="the latest checkpoint is damaged",
    sees="a warning that names it",
    lost="what came after the one before",
    recovery="one pass more",
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    path = tmp_path / "kept"
    whole = fit(None)
    for n_damaged in (1, 2):
        with pytest.raises(Gone):
            fit(path, callbacks=[Until(IterationEnded, "data", 9)])
        states = sorted(path.glob("data-*.npz"))
        assert len(states) == 2
        for state in states[-n_damaged:]:
            state.write_bytes(state.read_bytes()[:-100])
        with pytest.warns(DataWarning, match=r"data-\d+.npz in .*kept is damaged .*goes on from the one before"):
            assert_same_bits(fit(path), whole, ("means_", "covariances_", "lower_bounds_"))
        shutil.rmtree(path)
    fit(path)
    (path / "job.npz").write_bytes(b"nothing")
    with pytest.raises(StoreError, match=r"the snapshot job.npz in .*kept is damaged"):
        fit(path)


@pytest.mark.reliability(
    fault="a checkpoint cannot be written: the disk is full, the store is away",
    sees="a warning",
    lost="nothing: the fit goes on, and tries again",
    recovery="none: the fit goes on",
)
def test_a_fit_goes_on_where_its_checkpoint_cannot(tmp_path, monkeypatch):
    whole, real = fit(None), os.fsync
    calls = itertools.count()

    def full(file):
        if next(calls) > 4:
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(
        DataWarning, match=r"cannot write the checkpoint .*kept: No space left on device; the fit goes on"
    ):
        assert_same_bits(fit(tmp_path / "kept"), whole, ("means_", "lower_bounds_"))
    monkeypatch.undo()
    assert not list((tmp_path / "kept").glob(".*"))
    assert_same_bits(fit(tmp_path / "kept"), whole, ("means_", "lower_bounds_"))


@pytest.mark.slow
def test_checkpoints_on_s3(bucket):
    whole, path = fit(None), f"{bucket}/kept"
    with pytest.raises(Gone):
        fit(path, callbacks=[Until(IterationEnded, "data", 5)])
    told = GoneAfter(10**9)
    again = fit(path, callbacks=[told])
    assert [event for event in told.events if isinstance(event, FitResumed) and event.phase == "data"]
    assert_same_bits(again, whole, ("means_", "lower_bounds_"))
    names = Snapshots(path).names()
    assert len([name for name in names if name.startswith("data-")]) == 2
    import fsspec

    store = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    again.save(f"{bucket}/model.zarr")
    assert not store.find(path.removeprefix("s3://"))


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    kept = Checkpoint(Snapshots(tmp_path))
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    kept = Checkpoint(Snapshots(tmp_path))
    real = Snapshots.write

    def write(self, name, value):
        clock[0] += 0.1
        real(self, name, value)

    monkeypatch.setattr(Snapshots, "write", write)
    assert kept.due(1)
    kept.save("data", 1)
    clock[0] += 4.9
    assert not kept.due(2)
    clock[0] += 0.2
    assert kept.due(3)
    for every, passes, due in [(Every(passes=3), 3, True), (Every(passes=3), 4, False), (Every(passes=1), None, False)]:
        kept.every = every
        assert kept.due(passes) == due
