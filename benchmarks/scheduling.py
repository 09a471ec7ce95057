"""What the machinery costs: sweeps over chunks that need neither reading nor arithmetic.

    .venv/bin/python benchmarks/scheduling.py

Chunks are made in the task and the work returns at once, so that only batches, tasks, parameters and sums are timed; on
threads and on a local cluster of two processes. Beside it, the time that reading the same number of 16 MB chunks would
take at 1.2 GB/s per core. Then parameters of 100 MB (K = 512, d = 110 full: covariances and factors of 50 MB each):
what travels, and what a sweep takes longer than with small ones. Writes benchmarks/results/scheduling.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import announce, median, peak_megabytes, save, table, timed
from sources import Carried, Idle, Imagined, full_mixture

from dem.engine import LocalEngine, connect

READ_SECONDS = 16e6 / 1.2e9 / 2  # of one 16 MB chunk on two cores
COUNTS = (64, 375, 1000, 10_000, 100_000, 1_000_000)


def loopback_bytes() -> int:
    """Return the bytes that went over the loopback device so far (those of other programs too)."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))
    except (OSError, StopIteration):
        return 0


def sweeps(engine, rows: Imagined, works: list, repeats: int) -> dict:
    """Return median seconds and bytes of a sweep; the first one, which places the batches, apart."""
    first = timed(lambda: engine.sweep(rows, works))
    seconds, sent, cpu = [], [], []
    for _ in range(repeats):
        before, busy = loopback_bytes(), time.process_time()
        seconds.append(timed(lambda: engine.sweep(rows, works)))
        sent.append(loopback_bytes() - before)
        cpu.append(time.process_time() - busy)
    return {"first": first, "seconds": median(seconds), "bytes": median(sent), "driver_cpu": median(cpu)}


def many_chunks(cluster, repeats: int, most: int) -> list[dict]:
    """Time sweeps over more and more chunks."""
    family, parameters = full_mixture(2, 1)
    found = []
    for n_chunks in (n for n in COUNTS if n <= most):
        rows = Imagined(n_chunks)
        threads = sweeps(LocalEngine(2), rows, [Idle(family, parameters)], repeats)
        processes = sweeps(cluster, rows, [Idle(family, parameters)], repeats)
        row = {
            "chunks": n_chunks,
            "batches": len(rows.batches()),
            "threads_seconds": threads["seconds"],
            "processes_seconds": processes["seconds"],
            "processes_first": processes["first"],
            "driver_cpu": processes["driver_cpu"],
            "reading_seconds": n_chunks * READ_SECONDS,
            "driver_megabytes": peak_megabytes(),
        }
        row["share"] = row["processes_seconds"] / row["reading_seconds"]
        found.append(row)
        print(
            f"{n_chunks} chunks in {row['batches']}: threads {row['threads_seconds']:.3f} s, processes "
            f"{row['processes_seconds']:.3f} s ({row['share']:.1%} of reading), {row['driver_megabytes']:.0f} MB",
            flush=True,
        )
    return found


def large_parameters(cluster, repeats: int, n_chunks: int, shape: tuple[int, int]) -> dict:
    """Time sweeps with small and with large parameters, alternately."""
    rows = Imagined(n_chunks)
    small, large = (Carried(full_mixture(*of)[1]) for of in ((2, 1), shape))
    timings: dict[str, list[dict]] = {"small": [], "large": []}
    for _ in range(repeats):
        for name, work in (("small", small), ("large", large)):
            timings[name].append(sweeps(cluster, rows, [work], 1))
    workers = len(cluster.client.scheduler_info()["workers"])
    size = sum(array.nbytes for array in vars(large.parameters.components).values())
    sent = {name: median(one["bytes"] for one in found) for name, found in timings.items()}
    return {
        "K": shape[0],
        "d": shape[1],
        "parameter_bytes": size,
        "chunks": n_chunks,
        "batches": len(rows.batches()),
        "workers": workers,
        "seconds": {name: median(one["seconds"] for one in found) for name, found in timings.items()},
        "bytes": sent,
        "times_sent": (sent["large"] - sent["small"]) / size,
    }


def summary(result: dict) -> str:
    """Return both tables."""
    cells = [
        [
            f"{row['chunks']:,}",
            f"{row['batches']:,}",
            f"{row['threads_seconds']:.3f}",
            f"{row['processes_seconds']:.3f}",
            f"{row['reading_seconds']:.1f}",
            f"{row['share']:.1%}",
            f"{row['driver_megabytes']:.0f}",
        ]
        for row in result["chunks"]
    ]
    header = ["chunks", "batches", "2 threads s", "2 processes s", "reading them s", "share", "driver and scheduler MB"]
    big = result["parameters"]
    seconds = big["seconds"]
    text = (
        f"Parameters of {big['parameter_bytes'] / 1e6:.0f} MB (K = {big['K']}, d = {big['d']} full), {big['batches']} "
        f"tasks, {big['workers']} workers: {seconds['large']:.2f} s a sweep, {seconds['small']:.2f} s with small ones. "
        f"They crossed the network {big['times_sent']:.1f} times in a sweep (driver to scheduler, scheduler to one "
        f"worker, worker to worker), not {big['batches']} times."
    )
    return table(header, cells) + "\n\n" + text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=int, default=1_000_000, help="largest number of chunks")
    options = parser.parse_args()
    result = {"machine": announce("Scheduling")}
    with connect(workers=2) as cluster:
        result["chunks"] = many_chunks(cluster, options.repeats, options.most)
        result["parameters"] = large_parameters(cluster, options.repeats, 1000, (512, 110))
    print("\n" + summary(result))
    save("scheduling", result)


if __name__ == "__main__":
    main()
