"""What the machinery costs: sweeps over chunks that need neither reading nor arithmetic.

    .venv/bin/python benchmarks/scheduling.py

Chunks are made in the task and the work returns at once, so that only batches, tasks, parameters and sums are timed; on
threads and on a local cluster of two processes. Beside it, the time that reading the same number of 16 MB chunks would
take at 1.2 GB/s per core: the machinery must stay below a tenth of that. Writes benchmarks/results/scheduling.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import numpy as np

from dem.data.base import Batch, Chunk, Rows, batch_bounds
from dem.em.loop import EStep
from dem.engine import LocalEngine, connect
from dem.families.gaussian import GaussianComponent
from dem.families.mixture import Mixture, MixtureStatistics

RESULTS = Path(__file__).parent / "results"
READ_SECONDS = 16e6 / 1.2e9 / 2  # of one 16 MB chunk on two cores


class Imagined(Rows):
    """Chunks of one row that are made where they are asked for."""

    def __init__(self, n_chunks: int) -> None:
        self.name, self.feature_names = "imagined", None
        self.n_rows, self.n_features, self.dtype = n_chunks, 1, np.dtype(float)

    def batches(self) -> list[Batch]:
        return [ImaginedBatch(*bounds) for bounds in batch_bounds(self.n_rows)]


class ImaginedBatch(Batch):
    """Some of the chunks."""

    reads_ahead = False

    def __init__(self, first: int, stop: int) -> None:
        self.first, self.stop = first, stop

    def __iter__(self):
        row = np.zeros((1, 1))
        for number in range(self.first, self.stop):
            yield Chunk(row, range(number, number + 1))


class Idle(EStep):
    """An E-step that carries its parameters along and returns statistics of the right size at no cost."""

    def __call__(self, chunk: Chunk) -> MixtureStatistics:  # noqa: ARG002
        global _zero  # noqa: PLW0603 - one per worker, so that making it is not timed
        if "_zero" not in globals():
            kernel = self.family.component.kernel(self.parameters.components)
            _zero = MixtureStatistics(1.0, 0.0, np.zeros(len(self.parameters.weights)), kernel.statistics())
        return _zero


def mixture(n_components: int, n_features: int) -> tuple[Mixture, object]:
    """Return a Gaussian mixture with full covariances."""
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(4 * n_features, n_features))
    family = Mixture(GaussianComponent("full"))
    return family, family.start(sample, rng.dirichlet(np.ones(n_components), size=len(sample)))


def seconds_of(engine, rows: Rows, works: list, repeats: int) -> float:
    engine.sweep(rows, works)  # the first one places the batches
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        engine.sweep(rows, works)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=int, default=1_000_000, help="largest number of chunks")
    options = parser.parse_args()
    result = []
    family, parameters = mixture(2, 1)
    print("| chunks | batches | threads s | 2 processes s | reading 16 MB chunks s | share | driver MB |")
    print("|---|---|---|---|---|---|---|")
    with connect(workers=2) as cluster:
        for n_chunks in (n for n in (64, 375, 1000, 10_000, 100_000, 1_000_000) if n <= options.most):
            rows = Imagined(n_chunks)
            row = {
                "chunks": n_chunks,
                "batches": len(rows.batches()),
                "threads_seconds": seconds_of(LocalEngine(2), rows, [Idle(family, parameters)], options.repeats),
                "processes_seconds": seconds_of(cluster, rows, [Idle(family, parameters)], options.repeats),
                "reading_seconds": n_chunks * READ_SECONDS,
                "driver_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            }
            row["share"] = row["processes_seconds"] / row["reading_seconds"]
            result.append(row)
            print(
                f"| {n_chunks} | {row['batches']} | {row['threads_seconds']:.3f} | {row['processes_seconds']:.3f} "
                f"| {row['reading_seconds']:.1f} | {row['share']:.1%} | {row['driver_megabytes']:.0f} |",
                flush=True,
            )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scheduling.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
