"""What missing values cost: passes of Gaussian mixtures by the number of sets of missing features, on one thread.

    python -m benchmarks.missing [--rows 200000] [--features 12] [--components 16]

Each line is the processor time of an E-step over all rows, in chunks, and relative to that of an ordinary one on the
complete rows in the same run; the least of several turns, taken in rotation.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace

import numpy as np

import dem
from dem.data.base import Chunk
from dem.engine.base import single_threaded_blas

PATTERNS = (1, 8, 128, 1024)


def rows_with(patterns: int, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the rows, all of which lack one of so many sets of features."""
    d = rows.shape[1]
    sets = np.unique(rng.random((20 * patterns, d)) < 0.3, axis=0)
    sets = rng.permutation(sets[sets.any(axis=1) & ~sets.all(axis=1)])[:patterns]
    gaps = rows.copy()
    gaps[sets[rng.integers(len(sets), size=len(rows))]] = np.nan
    return gaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rows", 200_000), ("features", 12), ("components", 16), ("chunks", 2), ("turns", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = 4.0 * rng.normal(size=(given.components, given.features))
    rows = centres[rng.integers(given.components, size=given.rows)]
    rows += rng.normal(size=rows.shape) @ rng.normal(size=(given.features, given.features)) / 3.0
    for kind in ("full", "tied", "diag"):
        options = {"covariance_type": kind, "init_params": "random_from_data", "max_iter": 2, "random_state": 0}
        warnings.simplefilter("ignore")  # a fit that has not converged will do
        model = dem.GaussianMixture(given.components, **options).fit(rows)
        family, parameters = model._model()  # noqa: SLF001 - its E-step alone is measured
        marginalising = replace(family, marginalises=True)
        cases = {"complete": (family, rows), "complete, marginalise": (marginalising, rows)}
        for patterns in PATTERNS:
            cases[f"{patterns} patterns"] = (marginalising, rows_with(patterns, rows, rng))
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(given.turns):
            for name, (mixture, table) in cases.items():
                at = replace(parameters)  # nothing is kept from the pass before
                began = time.thread_time()
                with single_threaded_blas():
                    for part in np.array_split(np.arange(given.rows), given.chunks):
                        mixture.e_step(at, Chunk(table[part[0] : part[-1] + 1], range(part[0], part[-1] + 1)))
                seconds[name].append(time.thread_time() - began)
        plain = min(seconds["complete"])
        for name, taken in seconds.items():
            print(f"{kind:<6} {name:<22} {min(taken):8.3f} s  {min(taken) / plain:6.2f}")


if __name__ == "__main__":
    main()
