"""Checkpoints that somebody else wrote, that were copied into one another, or that killed processes left."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import zarr
from agreement import assert_same_bits
from cases import gaussian_rows
from click.testing import CliRunner
from sklearn.exceptions import ConvergenceWarning
from sources import CutRows

import dem
from dem.cli import dem as dem_command
from dem.data.snapshots import Snapshots
from dem.errors import DataWarning, OptionError, StoreError


def rows():
    return CutRows(gaussian_rows(), range(200, 3000, 200))


def fit(path, **options):
    given = {"n_components": 3, "random_state": 0, "init_params": "random", "tol": 1e-6, "max_iter": 500}
    return dem.GaussianMixture(**{**given, **options}).fit(rows(), checkpoint=path)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def latest(path):
    return max(name.removesuffix(".npz") for name in names(path) if name.startswith("data-"))


def test_a_checkpoint_that_holds_something_else_is_a_damaged_one(tmp_path):
    path = tmp_path / "kept"
    whole = fit(path)
    one, _, standing, *more = Snapshots(path).read(latest(path))
    forged = [
        7,
        replace(standing, n_passes=10**9),
        replace(standing, n_passes=-1),
        replace(standing, n_passes="x"),
        replace(standing, fits=("a",)),
        replace(standing, fits=(replace(standing.fits[0], parameters=None),)),
        replace(standing, past=(3,)),
        replace(standing, rest=((10**9,), 1)),
    ]
    for value in forged:
        state = latest(path)
        Snapshots(path).write(state, (one, state, value, *more))
        with pytest.warns(DataWarning, match=rf"the snapshot {state} in .*kept is damaged: it holds something else"):
            assert_same_bits(fit(path), whole, ("means_", "lower_bounds_"))
    for other in (1, ("x",), ("x", 5)):
        Snapshots(path).write("job", other)
        with pytest.raises(StoreError, match=r"the snapshot job.npz in .*kept is damaged: it holds something else"):
            fit(path)


@pytest.mark.reliability(
    fault="two checkpoints are copied into one folder",
    sees="the snapshot data-… in … is of another fit or place",
    lost="what was written over",
    recovery="at once: the fit goes on from what is its own",
)
def test_snapshots_of_another_fit_are_not_taken_for_those_of_this(tmp_path):
    """As they come together when two folders are copied into one."""
    whole = fit(tmp_path / "kept")
    with pytest.warns(ConvergenceWarning):
        fit(tmp_path / "other", n_components=4, max_iter=10, tol=0.0)
    for name in names(tmp_path / "other"):
        if name != "job.npz":
            shutil.copy(tmp_path / "other" / name, tmp_path / "kept" / name)
    with pytest.warns(DataWarning, match=r"in .*kept is of another fit or place; ") as caught:
        assert_same_bits(fit(tmp_path / "kept"), whole, ("means_", "lower_bounds_"))
    assert len(caught) > 1


@pytest.mark.parametrize("path", ["", 5, "a\0b"])
def test_what_is_no_path(path):
    with pytest.raises(OptionError, match="checkpoint must be a path or URL, not "):
        fit(path)


def test_what_killed_processes_left_goes_when_the_fit_goes_on(tmp_path):
    fit(tmp_path / "kept")
    (tmp_path / "kept" / ".data-000000001.npz.7.part").write_bytes(b"half")
    fit(tmp_path / "kept")
    assert not [name for name in names(tmp_path / "kept") if name.endswith(".part")]


def test_a_removal_that_is_cut_short_keeps_no_later_fit_away(tmp_path, monkeypatch):
    whole = fit(tmp_path / "kept")
    n_left = [2]
    real = Snapshots.remove

    def remove(self, name):
        if not n_left[0]:
            raise KeyboardInterrupt
        n_left[0] -= 1
        real(self, name)

    monkeypatch.setattr(Snapshots, "remove", remove)
    with pytest.raises(KeyboardInterrupt):
        whole.save(str(tmp_path / "model.zarr"))
    monkeypatch.undo()
    assert_same_bits(fit(tmp_path / "kept"), whole, ("means_", "lower_bounds_"))


def test_the_checkpoint_goes_from_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    whole = fit("kept")
    monkeypatch.chdir(tmp_path / "elsewhere")
    whole.save("model.zarr")
    assert names(tmp_path) == ["elsewhere"]


def test_a_file_of_holes_takes_no_memory(tmp_path):
    fit(tmp_path / "kept")
    with (tmp_path / "kept" / "job.npz").open("r+b") as file:
        file.truncate(2**32)
    with pytest.raises(
        StoreError, match=r"job\.npz in .* is damaged \(ValueError: of its 4294967296 bytes \d+ are stor"
    ):
        fit(tmp_path / "kept")


@pytest.mark.parametrize("place", ["x.zarr", "x.zarr/kept", "model.zarr", "model.zarr/kept", "."])
@pytest.mark.parametrize("command", ["fit", "select"])
def test_a_checkpoint_within_what_is_read_or_written(command, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zarr.create_array("x.zarr", data=gaussian_rows(), chunks=(500, 3))
    told = CliRunner().invoke(dem_command, [command, "x.zarr", "-k", "2", "--out", "model.zarr", "--checkpoint", place])
    assert told.exit_code == 1
    assert "would lie in one another; give --checkpoint a path of its own" in told.stderr
    assert names(tmp_path) == ["x.zarr"]
