"""A disk that fills up while results are written: what was there before still is, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import zarr

import dem

# Runs where it may mount a disk of 200 kB, which holds the old result and not the new one.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import dem
from dem.errors import StoreError

what, data, model, workers = sys.argv[1:]
gm = dem.load(model)
kept = Path("full/kept.zarr")


def write(rows, overwrite):
    if what == "save":
        gm.set_params(means_init=np.random.default_rng(0).normal(size=(rows // 2, 2)))
        gm.save(str(kept), overwrite=overwrite)
    elif what == "sample_to":
        gm.sample_to(rows, str(kept), random_state=0, chunk_rows=1000, overwrite=overwrite)
    elif what == "impute_to":
        gm.set_params(missing="marginalise").impute_to(f"{data}/{rows}.zarr", str(kept), overwrite=overwrite)
    else:
        gm.predict_to(f"{data}/{rows}.zarr", str(kept), kind="proba", overwrite=overwrite)


def files():
    return {str(path): path.read_bytes() for path in Path("full").rglob("*") if path.is_file()}


def check():
    write(1000, False)
    before = files()
    try:
        write(50_000, True)
    except StoreError as error:
        print(error)
    after = files()
    print("unchanged" if after == before else f"changed: {sorted(after.keys() ^ before.keys())}")


if __name__ == "__main__":
    if workers == "1":
        from dem.engine import connect

        with connect(workers=1):
            check()
    else:
        check()
"""


@pytest.mark.reliability(
    fault="the disk fills up while `predict_to`, `impute_to`, `sample_to` or `save` replace what they wrote before",
    sees="cannot write kept.zarr: No space left on device",
    lost="nothing: the earlier result is still there, and nothing of the new one",
    recovery="once there is space, the same line",
)
@pytest.mark.parametrize(
    ("what", "workers"),
    [
        ("predict_to", 0),
        pytest.param("sample_to", 0, marks=pytest.mark.slow),
        pytest.param("impute_to", 0, marks=pytest.mark.slow),
        pytest.param("save", 0, marks=pytest.mark.slow),
        pytest.param("predict_to", 1, marks=pytest.mark.slow),
        pytest.param("sample_to", 1, marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_up_leaves_the_earlier_result(tmp_path, what, workers):
    rng = np.random.default_rng(0)
    dem.GaussianMixture(2, random_state=0).fit(rng.normal(size=(100, 2))).save(str(tmp_path / "model.zarr"))
    for n in (1000, 50_000):
        rows = rng.normal(size=(n, 2))
        rows[::7, 0] = np.nan if what == "impute_to" else 0.0
        zarr.create_array(tmp_path / f"{n}.zarr", data=rows, chunks=(1000, 2))
    (tmp_path / "full").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = f"{what} {tmp_path} {tmp_path}/model.zarr {workers}"
    script = f"mount -t tmpfs -o size=200k tmpfs full && exec {sys.executable} script.py {arguments}"
    process = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if process.returncode == 1 and "unshare" in process.stderr:
        pytest.skip(f"this machine does not let users mount a small disk: {process.stderr}")
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == ["cannot write full/kept.zarr: No space left on device", "unchanged"]
