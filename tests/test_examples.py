"""The examples run as they stand, from another folder, and say what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zarr

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(tmp_path):
    """Run an example in an empty folder and return what it printed."""
    tools, work = tmp_path / "bin", tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    dem = tools / "dem"
    dem.write_text(f'#!/bin/sh\nexec {sys.executable} -m dem "$@"\n')
    dem.chmod(0o755)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}

    def run_in_work(*command):
        done = subprocess.run(command, cwd=work, env=env, check=False, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run_in_work.folder = work
    return run_in_work


def test_every_example_is_tested():
    text = Path(__file__).read_text()
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".sh"}}
    assert names
    assert all(f'"{name}"' in text for name in names)


def test_zarr_from_the_shell(run):
    run(EXAMPLES / "zarr_from_the_shell.sh")
    labels = zarr.open_array(run.folder / "labels.zarr", mode="r")
    proba = zarr.open_array(run.folder / "proba.zarr", mode="r")
    assert labels.shape == (200_000,)
    assert proba.shape == (200_000, 3)
    assert (proba[:].argmax(axis=1) == labels[:]).all()


def test_xarray_ocean(run):
    printed = run(sys.executable, EXAMPLES / "xarray_ocean.py", "section.png")
    assert "<xarray.DataArray 'mass' (time: 24, depth: 6, lat: 31, lon: 36)>" in printed
    assert printed.count("water mass") == 4
    assert "dask.array" in printed
    assert (run.folder / "section.png").stat().st_size > 5000


def test_ocean_profiles(run):
    pytest.importorskip("gsw", reason="the atlas of TEOS-10")
    printed = run(sys.executable, EXAMPLES / "ocean_profiles.py", "map.png")
    assert "<xarray.DataArray 'kind' (lat: 45, lon: 90)>" in printed
    n_profiles, n_gaps = map(int, re.search(r"(\d+) profiles of 54 numbers, (\d+) places are land", printed).groups())
    assert n_profiles + n_gaps == 45 * 90
    shares = [float(share) for share in re.findall(r"kind \d: +([\d.]+)% of the area", printed)]
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert (run.folder / "map.png").stat().st_size > 5000


def test_sky_catalogue(run):
    printed = run(sys.executable, EXAMPLES / "sky_catalogue.py")
    found = re.findall(r"population (\d): +([\d.]+)%, u_g +([\d.]+) ± ([\d.]+)", printed)
    truth = [(60, 1.2, 0.25), (30, 2.6, 0.2), (10, 0.2, 0.12)]
    for number, (share, mean, width) in enumerate(truth):  # spectra number the populations
        k, *numbers = found[number]
        assert int(k) == number
        assert [float(one) for one in numbers[:1]] == pytest.approx([share], abs=2)
        assert [float(one) for one in numbers[1:]] == pytest.approx([mean, width], abs=0.03)
    assert float(found[3][1]) < 1.0
    lowest = printed[printed.index("log_density") :].splitlines()[1:6]
    assert len(lowest) == 5
    assert all(max(abs(float(colour)) for colour in line.split()[1:4]) > 10 for line in lowest)


def test_dask_pipeline(run):
    printed = run(sys.executable, EXAMPLES / "dask_pipeline.py")
    weights = [float(number) for number in re.search(r"weights: \[(.*)\]", printed)[1].split()]
    assert weights == pytest.approx([0.2, 0.3, 0.5], abs=0.01)
    counts = [int(number) for number in re.search(r"rows per component: \[(.*)\]", printed)[1].split(",")]
    assert sum(counts) == 300_000


def test_speakers(run):
    printed = run(sys.executable, EXAMPLES / "speakers.py")
    assert "200 speakers on one read" in printed
    assert float(re.search(r"identified: ([\d.]+)%", printed)[1]) >= 95.0
    assert float(re.search(r"verified: ([\d.]+)%", printed)[1]) >= 90.0
    few, whole = re.search(r"per frame: ([\d.]+) from 5 components, ([\d.]+) from all", printed).groups()
    assert abs(float(few) - float(whole)) < 0.01
    assert "AdaptedMixtures(200 groups; means)" in printed


def test_health_survey(run):
    printed = run(sys.executable, EXAMPLES / "health_survey.py")
    assert re.search(r"retired +0\.00 +0\.00 +0\.64", printed)
    assert re.search(r"class size +0\.4\d +0\.3\d +0\.(19|20|21)", printed)
    right = float(re.search(r"([\d.]+)% of 100,000 people", printed)[1])
    assert right > 90
    filled = printed.partition("filled in:")[2]
    assert "NaN" not in filled
    assert "NaN" in printed


def test_genes_and_cells(run):
    printed = run(sys.executable, "-W", "error", EXAMPLES / "genes_and_cells.py")
    assert "6000 cells x 1500 genes, " in printed
    (index,) = re.findall(r"adjusted Rand index (\d\.\d+)", printed)
    assert float(index) > 0.98
    assert re.findall(r"type of (\d+)% of the cells: (\d+) of 30 markers", printed)[0][0] in {"44", "45", "46"}
    assert min(int(n) for n in re.findall(r": (\d+) of 30 markers", printed)) > 25
    (scatter,) = re.findall(r"r about (\d+\.\d)", printed)
    assert 0.5 < float(scatter) < 2.5
