"""What goes on with a fit beside its parameters: counts, what cannot be read; and blocks that were in flight."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr
from agreement import assert_close, assert_same_bits
from cases import gaussian_rows
from faulty_stores import FailingStore
from sources import CutRows
from zarr.storage import LocalStore

import dem
import dem.data.retries
from dem.data.snapshots import Snapshots
from dem.errors import DataError, DataWarning
from dem.events import BatchEnded, IterationEnded, ReadsRetried

EDGES = list(range(200, 3000, 200))
FITTED = ("weights_", "means_", "covariances_", "lower_bounds_")


class Gone(Exception):  # noqa: N818
    """What ends a fit."""


class EndsAfter:
    """A callback that ends the fit with the n-th event of a kind, and keeps all events."""

    def __init__(self, kind, number):
        self.kind, self.left, self.events = kind, number, []

    def __call__(self, event):
        self.events.append(event)
        self.left -= isinstance(event, self.kind)
        if self.left == 0:
            raise Gone


def mixture(**options):
    return dem.GaussianMixture(3, **{"random_state": 0, "tol": 1e-6, "init_params": "random", **options})


@pytest.mark.reliability(
    fault="chunks that could not be read, and were left out, come back while a fit with a checkpoint is down",
    sees="nothing: they stay left out; `bad_chunks_` and `n_samples_seen_` are those of the whole fit",
    lost="the rows of these chunks",
    recovery="the same line",
)
@pytest.mark.filterwarnings("ignore:.*such rows are left out")
def test_what_was_left_out_stays_out(tmp_path):
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=gaussian_rows(), chunks=(200, 3))
    chunk = path / "c" / "7" / "0"
    good = chunk.read_bytes()
    chunk.write_bytes(good[:100])
    whole = mixture().fit(path, on_bad_chunk="skip")
    with pytest.raises(Gone):
        mixture(callbacks=[EndsAfter(IterationEnded, 5)]).fit(path, on_bad_chunk="skip", checkpoint=tmp_path / "kept")
    chunk.write_bytes(good)
    again = mixture().fit(path, on_bad_chunk="skip", checkpoint=tmp_path / "kept")
    assert_same_bits(again, whole, (*FITTED, "n_samples_seen_", "bad_chunks_"))
    assert again.n_samples_seen_ == 2800
    assert [one["where"] for one in again.bad_chunks_] == ["rows 1400 to 1599"]
    # In a fit that begins anew they count.
    assert mixture().fit(path, on_bad_chunk="skip").n_samples_seen_ == 3000
    # What could be read before may not be lost later, in the fit that goes on either.
    (path / "c" / "3" / "0").write_bytes(good[:100])
    with pytest.raises(Gone):
        mixture(callbacks=[EndsAfter(IterationEnded, 5)]).fit(path, on_bad_chunk="skip", checkpoint=tmp_path / "other")
    (path / "c" / "9" / "0").write_bytes(good[:100])
    with pytest.raises(DataError, match=r"chunk c/9/0 .* could be read before and cannot now"):
        mixture().fit(path, on_bad_chunk="skip", checkpoint=tmp_path / "other")


def test_retries_are_counted_on(tmp_path, monkeypatch):
    monkeypatch.setattr(dem.data.retries, "_FIRST_PAUSE", 0.001)
    zarr.create_array(tmp_path / "x.zarr", data=gaussian_rows(), chunks=(200, 3))
    data = zarr.open_array(FailingStore(LocalStore(tmp_path / "x.zarr"), times=2), mode="r")
    told = EndsAfter(IterationEnded, 4)
    with pytest.raises(Gone):
        mixture(callbacks=[told]).fit(data, checkpoint=tmp_path / "kept")
    again = EndsAfter(ReadsRetried, 10**9)
    fitted = mixture(callbacks=[again]).fit(data, checkpoint=tmp_path / "kept")
    # Each of the 15 chunks fails twice, all of them in the first of the two processes.
    assert sum(event.n for event in told.events if isinstance(event, ReadsRetried)) == 30
    assert not [event for event in again.events if isinstance(event, ReadsRetried)]
    assert fitted.n_retries_ == 30


def test_reads_of_a_search_are_counted_on(tmp_path):
    def search(*callbacks, **more):
        options = {"n_components": [2, 3], "random_state": 0, "sample_rows": 400, "callbacks": list(callbacks)}
        return dem.select(CutRows(gaussian_rows(), EDGES), **options, **more)

    whole = search()
    for n_events in (2, 5, 6):
        with pytest.raises(Gone):
            search(EndsAfter(IterationEnded, n_events), checkpoint=tmp_path / "kept")
    again = search(checkpoint=tmp_path / "kept")
    # A pass that was ended is read again, and counts once: as in the fit that was never ended.
    assert again.reads == whole.reads
    assert again.table == whole.table


def test_counts_that_are_damaged_are_told(tmp_path):
    data = CutRows(gaussian_rows(), EDGES)
    whole = mixture().fit(data)
    with pytest.raises(Gone):
        mixture(callbacks=[EndsAfter(IterationEnded, 9)]).fit(data, checkpoint=tmp_path / "kept")
    kept = Snapshots(tmp_path / "kept")
    latest = max(name.removesuffix(".npz") for name in kept.names() if name.startswith("data-"))
    *state, _ = kept.read(latest)
    for counts in ([], [7], [("x", ())]):
        again = shutil.copytree(tmp_path / "kept", tmp_path / f"kept {len(counts)} {counts}")
        Snapshots(again).write(latest, (*state, counts))
        with pytest.warns(DataWarning, match=rf"the snapshot {latest}.npz in .*kept.* is damaged"):
            assert_same_bits(mixture().fit(data, checkpoint=again), whole, FITTED)


@pytest.mark.slow
@pytest.mark.parametrize("max_in_flight", [2, 5])
@pytest.mark.parametrize("n_batches", [4 + 15 + 3, 4 + 15 + 15 + 7, 4 + 15 + 3 * 15 + 11])
def test_blocks_in_flight_are_read_again(tmp_path, max_in_flight, n_batches):
    """Ended amid a pass: the free energy never falls (a fall is a warning, an error here), the limit is the same."""

    def make(**more):
        return mixture(algorithm="incremental", max_in_flight=max_in_flight, tol=1e-9, max_iter=500, **more)

    whole = make().fit(CutRows(gaussian_rows(), EDGES))
    with pytest.raises(Gone):
        make(callbacks=[EndsAfter(BatchEnded, n_batches)]).fit(
            CutRows(gaussian_rows(), EDGES), checkpoint=tmp_path, checkpoint_every="0s"
        )
    told = EndsAfter(BatchEnded, 10**9)
    again = make(callbacks=[told]).fit(CutRows(gaussian_rows(), EDGES), checkpoint=tmp_path)
    assert any(type(event).__name__ == "FitResumed" for event in told.events)
    assert again.converged_
    bounds = np.array([record["log_likelihood"] for record in again.history_ if record["phase"] == "data"])
    assert (np.diff(bounds) > -1e-12 * (1 + np.abs(bounds[1:]))).all()
    assert again.lower_bound_ == pytest.approx(whole.lower_bound_, abs=1e-7)
    assert_close(again, whole, ("weights_", "means_"), rtol=1e-3)
