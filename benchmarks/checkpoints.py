"""What it takes to save how far a fit is after every pass, on this disk, as a share of a pass of ten seconds.

    .venv/bin/python benchmarks/checkpoints.py

Saves are those of the fit itself, to the disk and back in its memory (`fsync`). Writes
benchmarks/results/checkpoints.json; `report.py` makes the table of docs/reliability.md of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import announce, median, save, table

import dem
from dem.data.snapshots import Snapshots

PASS_SECONDS = 10.0
SHAPES = [(2, 8, "batch"), (32, 32, "batch"), (128, 16, "batch"), (64, 512, "batch"), (32, 32, "incremental")]
N_ROWS, PASSES = 20_000, 12


def saves(n_features: int, n_components: int, algorithm: str) -> tuple[list[float], int]:
    """Return the seconds of each save of a fit, and the bytes of the last."""
    rows = np.random.default_rng(0).normal(size=(N_ROWS, n_features))
    kind = "diag" if n_components > 100 else "full"
    seconds: list[float] = []
    real = Snapshots.write

    def timed(self: Snapshots, name: str, value: object) -> None:
        began = time.perf_counter()
        real(self, name, value)
        if name.startswith("data-"):
            seconds.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory(dir=".") as folder:
        Snapshots.write = timed  # type: ignore[method-assign]
        try:
            one = dem.GaussianMixture(
                n_components,
                covariance_type=kind,
                algorithm=algorithm,
                init_params="random_from_data",
                random_state=0,
                tol=0.0,
                max_iter=PASSES,
            )
            one.fit(rows, checkpoint=folder + "/kept", checkpoint_every=1)
        finally:
            Snapshots.write = real  # type: ignore[method-assign]
        size = max(path.stat().st_size for path in Path(folder, "kept").glob("data-*.npz"))
    return seconds, size


def cost_table(result: dict) -> str:
    """Return the table for the documentation."""
    header = ["features", "components", "covariances", "algorithm", "size", "seconds", "share of a pass of 10 s"]
    lines = [
        [
            row["n_features"],
            row["n_components"],
            row["kind"],
            row["algorithm"],
            f"{row['bytes'] / 1e6:.3g} MB",
            f"{row['seconds']:.4f}",
            f"{100.0 * row['seconds'] / PASS_SECONDS:.2g} %",
        ]
        for row in result["rows"]
    ]
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes")
    options = parser.parse_args()
    result = {"machine": announce("checkpoints"), "rows": []}
    for n_features, n_components, algorithm in SHAPES[: options.shapes]:
        seconds, size = saves(n_features, n_components, algorithm)
        kind = "diag" if n_components > 100 else "full"
        row = {"n_features": n_features, "n_components": n_components, "kind": kind, "algorithm": algorithm}
        result["rows"].append({**row, "bytes": size, "seconds": median(seconds)})
    save("checkpoints", result)
    print(cost_table(result))


if __name__ == "__main__":
    main()
