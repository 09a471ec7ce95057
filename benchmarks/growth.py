"""How the cost of an EM iteration grows: with n, d, K, the number of chunks and the workers.

    .venv/bin/python benchmarks/growth.py

Beside each measurement stands the prediction of a model whose constants are measured on their own, not fitted to the
curves: flops at the peak of the matrix product, element-wise work on responsibilities and on z, chunks and tasks.
Writes benchmarks/results/growth.json; `report.py` draws the plots.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from common import CORES, announce, flops, gemm_peak, median, mixture_rows, save, table, timed, width
from sources import Imagined, Model

import dem
from dem.data.base import Chunk, batch_bounds
from dem.engine import LocalEngine, connect
from dem.native import permitted

TASK_SECONDS = 1.2e-3  # of the scheduler for each task (shared/DASK.md: 1–1.3 ms)
SWEEPS = {
    "n": [(n, 16, 16, "full") for n in (10_000, 30_000, 100_000, 300_000, 1_000_000)],
    "d": [(100_000, d, 16, "full") for d in (2, 4, 8, 16, 32, 64, 128)],
    "K": [(100_000, 16, k, "full") for k in (1, 4, 16, 64, 256)],
}
CHUNKS = (16, 100, 1000, 10_000)
CHUNKED_ROWS, CHUNKED_FEATURES, CHUNKED_COMPONENTS = 400_000, 8, 16


@dataclass(frozen=True)
class Costs:
    """Constants of the model, on all cores together but `chunk` and `task`.

    Attributes
    ----------
    flop : float
        Seconds per flop of a large matrix product.
    element : float
        Seconds of the log-sum-exp per row and component.
    product : float
        Seconds per number of z that is built.
    chunk : float
        Seconds of one thread that an E-step needs for any chunk, however small.
    task : float
        Seconds of the scheduler per task.
    """

    flop: float
    element: float
    product: float
    chunk: float
    task: float = TASK_SECONDS

    def seconds(
        self, shape: tuple[int, int, int, str], n_chunks: int = 0, n_tasks: int = 0, cores: int = CORES
    ) -> float:
        """Predict the seconds of an iteration."""
        n_rows, n_features, n_components, covariance = shape
        arithmetic = flops(*shape) * self.flop
        arithmetic += n_rows * n_components * self.element + n_rows * width(n_features, covariance) * self.product
        return arithmetic * CORES / cores + n_chunks * self.chunk / cores + n_tasks * self.task


def calibrate() -> Costs:
    """Measure the constants of the model."""
    rng = np.random.default_rng(0)
    repeats, n_components, n_rows = 60, 16, 4096

    def log_sum_exp(joint: np.ndarray) -> None:
        for _ in range(repeats):
            joint -= joint.max(axis=0)
            np.exp(joint, out=joint)
            total = joint.sum(axis=0)
            joint /= total
            np.log(total, out=total)

    def build(z: np.ndarray) -> None:
        for _ in range(repeats):
            np.multiply(z[0], z, out=z)

    def everywhere(work, size: int) -> float:
        blocks = [rng.random((size, n_rows)) for _ in range(CORES)]
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(work, blocks))
            seconds = median(timed(lambda: list(pool.map(work, blocks))) for _ in range(5))
        return seconds / (CORES * repeats * size * n_rows)

    rows = mixture_rows(1000, CHUNKED_FEATURES, CHUNKED_COMPONENTS)
    model = Model(rows, CHUNKED_COMPONENTS)
    tiny = Chunk(rows[:1], range(1))
    chunk = median(timed(lambda: model.family.e_step(model.parameters, tiny)) for _ in range(300))
    return Costs(1.0 / gemm_peak(), everywhere(log_sum_exp, n_components), everywhere(build, 64), chunk)


def by_shape(costs: Costs, repeats: int) -> dict[str, list[dict]]:
    """Vary n, d and K on threads."""
    found: dict[str, list[dict]] = {}
    for axis, shapes in SWEEPS.items():
        found[axis] = []
        for shape in shapes:
            n_rows, n_features, n_components, covariance = shape
            rows = mixture_rows(n_rows, n_features, n_components)
            model, opened = Model(rows[:20000], n_components, covariance), dem.open_rows(rows)
            model.iteration(opened, LocalEngine())
            seconds = median(model.iteration(opened, LocalEngine()) for _ in range(repeats))
            value = {"n": n_rows, "d": n_features, "K": n_components}[axis]
            predicted = costs.seconds(shape, sum(1 for batch in opened.batches() for _ in batch))
            found[axis].append({"value": value, "shape": shape, "seconds": seconds, "predicted": predicted})
            print(f"{axis} = {value}: {seconds:.4f} s, predicted {predicted:.4f} s", flush=True)
    return found


def by_chunks(costs: Costs, repeats: int) -> list[dict]:
    """Vary the number of chunks of the same rows, on threads and on processes."""
    shape = (CHUNKED_ROWS, CHUNKED_FEATURES, CHUNKED_COMPONENTS, "full")
    found = []
    with connect(workers=CORES) as cluster:
        for n_chunks in CHUNKS:
            rows = Imagined(n_chunks, CHUNKED_ROWS // n_chunks, CHUNKED_FEATURES)
            model = Model(rows.rows[:1000], CHUNKED_COMPONENTS)
            row = {"value": n_chunks, "batches": len(batch_bounds(n_chunks))}
            for where, engine in (("threads", LocalEngine()), ("processes", cluster)):
                model.iteration(rows, engine)
                row[f"{where}_seconds"] = median(model.iteration(rows, engine) for _ in range(repeats))
                tasks = row["batches"] * 17 / 16 if where == "processes" else 0
                row[f"{where}_predicted"] = costs.seconds(shape, n_chunks, tasks)
            found.append(row)
            print(
                f"{n_chunks} chunks: threads {row['threads_seconds']:.3f} s, predicted {row['threads_predicted']:.3f}, "
                f"processes {row['processes_seconds']:.3f} s, predicted {row['processes_predicted']:.3f}",
                flush=True,
            )
    return found


def by_workers(costs: Costs, repeats: int) -> list[dict]:
    """Go from one to two workers."""
    n_chunks, chunk_rows, n_features, n_components = 200, 4000, 32, 16
    rows = Imagined(n_chunks, chunk_rows, n_features)
    shape = (rows.n_rows, n_features, n_components, "full")
    found = []
    for workers in (1, 2):
        row = {"value": workers}
        model = Model(rows.rows[:4000], n_components)
        engine = LocalEngine(workers)
        model.iteration(rows, engine)
        row["threads_seconds"] = median(model.iteration(rows, engine) for _ in range(repeats))
        with connect(workers=workers) as cluster:
            model.iteration(rows, cluster)
            row["processes_seconds"] = median(model.iteration(rows, cluster) for _ in range(repeats))
        row["predicted"] = costs.seconds(shape, n_chunks, cores=workers)
        found.append(row)
        print(f"{workers} workers: {row}", flush=True)
    return found


def summary(result: dict) -> str:
    """Return a table of how far the model is from the measurements."""
    cells = []
    for axis, rows in result["shapes"].items():
        ratios = [f"{row['seconds'] / row['predicted']:.2f}" for row in rows]
        cells.append([axis, ", ".join(f"{row['value']:,}" for row in rows), ", ".join(ratios)])
    for where in ("threads", "processes"):
        ratios = [f"{row[f'{where}_seconds'] / row[f'{where}_predicted']:.2f}" for row in result["chunks"]]
        cells.append(
            [f"chunks, {where}", ", ".join(f"{row['value']:,}" for row in result["chunks"]), ", ".join(ratios)]
        )
    for where in ("threads", "processes"):
        one, two = (row[f"{where}_seconds"] for row in result["workers"])
        cells.append([f"workers, {where}", "1, 2", f"speed-up {one / two:.2f}"])
    return table(["varied", "values", "measured / predicted"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    result = {"machine": announce("How the cost grows")}
    costs = calibrate()
    print("costs:", {name: f"{value:.3g}" for name, value in asdict(costs).items()}, flush=True)
    result |= {
        "costs": asdict(costs),
        "shapes": by_shape(costs, options.repeats),
        "chunks": by_chunks(costs, options.repeats),
        "workers": by_workers(costs, options.repeats),
    }
    print("\n" + summary(result))
    save("growth", result)


if __name__ == "__main__":
    with permitted(True):  # engines that are given rows without a judgement of what pays
        main()
