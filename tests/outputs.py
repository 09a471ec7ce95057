"""What outputs are made of in the tests of those that are ended before they are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr

import dem

N_CHUNKS, HEIGHT = 48, 400


def make_inputs(folder):
    """A model, rows, and rows with gaps on a grid that has coordinates."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(N_CHUNKS * HEIGHT, 3)) + 4.0 * rng.integers(0, 2, size=(N_CHUNKS * HEIGHT, 1))
    dem.GaussianMixture(2, random_state=0).fit(rows[:1000]).save(str(folder / "model.zarr"))
    zarr.create_array(folder / "rows.zarr", data=rows, chunks=(HEIGHT, 3))
    rows[::7, 1] = np.nan
    group = zarr.create_group(folder / "gaps.zarr")
    array = group.create_array(
        "x", shape=(N_CHUNKS, HEIGHT, 3), chunks=(1, HEIGHT, 3), dtype="f8", dimension_names=("time", "y", "band")
    )
    array[...] = rows.reshape(N_CHUNKS, HEIGHT, 3)
    group.create_array("time", data=np.arange(N_CHUNKS) * 0.5, dimension_names=("time",))
    return folder


def files(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}
