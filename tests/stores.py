"""Small zarr stores in all layouts, and what takes parts of them away, at once or during a fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr

import dem
from dem.events import IterationEnded

RNG = np.random.default_rng(0)
# Three groups of rows; chunks that are taken as zeros would pass for a fourth.
TABLE = RNG.permutation(np.concatenate([RNG.normal(centre, 1.0, (40, 2)) for centre in (4.0, 12.0, 20.0)]))
LAYOUTS = {
    "v3": {"zarr_format": 3, "chunks": (10, 2)},
    "v2": {"zarr_format": 2, "chunks": (10, 2)},
    "shards": {"zarr_format": 3, "chunks": (5, 2), "shards": (10, 2)},
}
FILES = {"v3": "c/{}/0", "v2": "{}.0", "shards": "c/{}/0"}


def store(path, layout="v3", table=TABLE, **more):
    array = zarr.create_array(path, shape=table.shape, dtype=table.dtype, **LAYOUTS[layout], **more)
    array[...] = table
    return array


def remove(path, layout, *numbers):
    for number in numbers:
        (Path(path) / FILES[layout].format(number)).unlink()


def mixture(**options):
    return dem.GaussianMixture(3, tol=0.0, max_iter=8, random_state=0, reg_covar=1e-3, **options)


class After:
    """Callback that does something once, after an iteration."""

    def __init__(self, iteration, action):
        self.iteration, self.action, self.done = iteration, action, False

    def __call__(self, event):
        if isinstance(event, IterationEnded) and event.iteration == self.iteration and not self.done:
            self.done = True
            self.action()


def fitted():
    return mixture().fit(TABLE)
