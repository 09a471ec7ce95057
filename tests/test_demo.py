"""The demonstration in a small size, and its parts."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import dem
from dem.cli import dem as command
from dem.demo import Demo, DemoReport, run_demo
from dem.demo import run as steps
from dem.demo.photographs import Photographs, write_store
from dem.demo.run import peak_memory
from dem.errors import EngineError

pytest.importorskip("matplotlib")
SMALL = ("--size", "20MB", "--components", "4", "--workers", "1", "--memory-limit", "400MB")


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    return Photographs(tuple(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(2)))


def test_rows_hold_colour_and_position(small):
    rows = small.rows(1).reshape(6, 8, 5)
    assert np.array_equal(rows[..., :3], small.images[1] / 255.0)
    assert rows[4, 3].tolist()[3:] == [(8 + 3) / 6, 4 / 6]


def test_jitter_is_repeatable_new_in_each_copy_and_below_a_pixel(small):
    first, again, other = small.rows(2, seed=0), small.rows(2, seed=0), small.rows(4, seed=0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    shift = np.abs(first[:, 3:] - small.rows(2)[:, 3:]) * 6
    assert 0 < shift.max() <= 0.5


def test_jittered_colours_are_interpolated():
    ramp = np.zeros((5, 50, 3), dtype=np.uint8)
    ramp[:] = np.arange(50)[np.newaxis, :, np.newaxis]
    rows = Photographs((ramp,)).rows(1, seed=0).reshape(5, 50, 5)[:, 1:-1]
    assert np.allclose(rows[..., 0] * 255, rows[..., 3] * 5), "the colour is the position"


def test_the_store_begins_with_the_photographs(small, tmp_path):
    path = str(tmp_path / "store.zarr")
    write_store(path, small, 3, seed=1)
    array = zarr.open_array(path, mode="r")
    assert array.shape == (2 * 3 * 48, 5)
    assert array.chunks == (48, 5)
    expected = [small.rows(number, None if number < 2 else 1) for number in range(6)]
    assert np.array_equal(array[...], np.concatenate(expected))


@pytest.mark.slow
def test_peak_memory_sees_what_was_freed():
    code = (
        "import numpy; from dem.demo.run import peak_memory\n"
        "before = peak_memory()[1]; numpy.ones(25_000_000); print(peak_memory()[1] - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 180e6 < int(grown) < 260e6
    assert peak_memory()[1] > 20e6


class FakeEngine:
    def __init__(self, peaks):
        self.client = self
        self.peaks = peaks

    def run(self, _):
        return {f"tcp://{pid}": (pid, peak) for pid, peak in self.peaks.items()}


def test_too_much_memory_fails_loudly():
    with pytest.raises(EngineError, match="a worker used 300 MB of memory; 256 MB are allowed"):
        steps.check_peaks(FakeEngine({1: 100_000_000, 2: 300_000_000}), [1, 2], 256_000_000)
    with pytest.raises(EngineError, match="a worker was restarted"):
        steps.check_peaks(FakeEngine({1: 1, 3: 1}), [1, 2], 256_000_000)
    assert steps.check_peaks(FakeEngine({1: 5, 2: 6}), [1, 2], 256_000_000) == [5, 6]


def test_demo_in_small(tmp_path):
    """One run: files, JSON, memory, and that the data are gone."""
    out = tmp_path / "demo"
    result = CliRunner().invoke(command, ["demo", "--out", str(out), *SMALL, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert sorted(path.name for path in out.iterdir()) == [
        "convergence.png",
        "model.zarr",
        "segmentation.png",
    ]
    assert found["n_rows"] == 2 * 427 * 640
    assert 50e6 < found["worker_peaks"][0] < found["memory_allowed"] == 400e6
    assert np.shape(found["means"]) == (4, 5)
    assert np.allclose(dem.load(str(out / "model.zarr")).means_, found["means"])


@pytest.mark.slow
def test_demo_prints_sizes_and_can_keep_the_data(tmp_path):
    result = CliRunner().invoke(command, ["demo", "--out", str(tmp_path), *SMALL, "--keep"])
    assert result.exit_code == 0, result.output
    for words in ("mean colour", "memory allowed", "peak memory", "segmentation.png", "21.9 MB"):
        assert words in result.stdout
    rows, labels = (zarr.open_array(tmp_path / name, mode="r") for name in ("pixels.zarr", "labels.zarr"))
    model = dem.load(str(tmp_path / "model.zarr"))
    assert np.array_equal(labels[:1000], model.predict(rows[:1000]))


@pytest.mark.slow
def test_demo_beyond_its_memory_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "peak_memory", _huge)
    with pytest.raises(EngineError, match="a worker used 9000 MB of memory; 400 MB are allowed"):
        run_demo(Demo(out=str(tmp_path), n_components=1, workers=1, memory_limit=400_000_000, size=1))
    assert list(tmp_path.iterdir()) == [], "the data are removed all the same"


def _huge():
    return 1, 9_000_000_000


def test_report_is_plain():
    json.dumps(DemoReport().figures())
