"""Seconds per EM pass beside scikit-learn in the same run, and one pass over a store larger than memory.

    make bench                                  # everything: about ten minutes, 7 GB of disk
    make bench ARGS="--repeats 3 --store-gb 0"  # the table alone

Writes benchmarks/results/passes.json and prints Markdown. Ratios are what counts: machines are noisy, so both sides
run alternately, and the median of the repeats is shown.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import threadpoolctl
import zarr
from sklearn.mixture import GaussianMixture as Peer

import dem
from dem.data.base import Batch, Chunk, Rows, batch_bounds
from dem.em.events import FitStarted, IterationEnded
from dem.engine import LocalEngine

RESULTS = Path(__file__).parent / "results"
# n, d, K, covariance type
SHAPES = [
    (1_000_000, 2, 8, "full"),
    (1_000_000, 8, 16, "full"),
    (500_000, 32, 32, "full"),
    (100_000, 128, 16, "full"),
    (1_000_000, 32, 64, "diag"),
]


@dataclass
class Stopwatch:
    """A callback that notes the wall time of each iteration, M-step included."""

    seconds: list[float]
    began: float = 0.0

    def __call__(self, event) -> None:
        now = time.perf_counter()
        if isinstance(event, IterationEnded):
            self.seconds.append(now - self.began)
        if isinstance(event, IterationEnded | FitStarted):
            self.began = time.perf_counter()


def mixture_rows(n_rows: int, n_features: int, n_components: int, seed: int = 0) -> np.ndarray:
    """Draw rows of overlapping unit Gaussians."""
    rng = np.random.default_rng(seed)
    centres = 3.0 * rng.normal(size=(n_components, n_features))
    rows = rng.normal(size=(n_rows, n_features))
    rows += centres[rng.integers(n_components, size=n_rows)]
    return rows


def start_of(rows: np.ndarray, n_components: int, covariance_type: str) -> dict:
    """Return a whole start: equal weights, rows as means, the features' variances everywhere."""
    precision = 1.0 / rows[:10000].var(axis=0)
    precisions = {
        "full": np.array([np.diag(precision)] * n_components),
        "diag": np.array([precision] * n_components),
    }[covariance_type]
    return {
        "weights_init": np.full(n_components, 1.0 / n_components),
        "means_init": rows[:n_components].astype(np.float64),
        "precisions_init": precisions,
    }


def peer_pass(peer: Peer, rows: np.ndarray) -> float:
    """Return the seconds of one E-step and one M-step of scikit-learn."""
    began = time.perf_counter()
    _, log_responsibilities = peer._e_step(rows)  # noqa: SLF001
    peer._m_step(rows, log_responsibilities)  # noqa: SLF001
    return time.perf_counter() - began


def compare(n_rows: int, n_features: int, n_components: int, covariance_type: str, repeats: int) -> dict:
    """Time both libraries alternately on one shape."""
    rows = mixture_rows(n_rows, n_features, n_components)
    start = start_of(rows, n_components, covariance_type)
    options = {"covariance_type": covariance_type, "tol": 0.0, "random_state": 0, **start}
    peer = Peer(n_components, **options)
    peer._check_parameters(rows)  # noqa: SLF001
    peer._initialize(rows, None)  # noqa: SLF001
    ours, theirs = [], []
    for _ in range(repeats):
        theirs.append(peer_pass(peer, rows))
        watch = Stopwatch([])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dem.GaussianMixture(n_components, max_iter=1, callbacks=[watch], **options).fit(rows)
        ours += watch.seconds
    seconds, peer_seconds = statistics.median(ours), statistics.median(theirs)
    return {
        "n": n_rows,
        "d": n_features,
        "K": n_components,
        "covariance": covariance_type,
        "dem_seconds": seconds,
        "sklearn_seconds": peer_seconds,
        "ratio": peer_seconds / seconds,
        "dem_rows_K_per_second": n_rows * n_components / seconds,
        "sklearn_rows_K_per_second": n_rows * n_components / peer_seconds,
        "dem_all": ours,
        "sklearn_all": theirs,
    }


def write_store(path: Path, gigabytes: float, n_features: int, n_components: int) -> zarr.Array:
    """Write a store of float64 in 16 MB chunks with zarr's default codec."""
    chunk_rows = 16_000_000 // (8 * n_features)
    n_chunks = max(1, round(gigabytes * 1e9 / (8 * n_features * chunk_rows)))
    stored = zarr.create_array(
        path, shape=(n_chunks * chunk_rows, n_features), chunks=(chunk_rows, n_features), dtype="f8"
    )
    base = mixture_rows(chunk_rows, n_features, n_components)

    def write(number: int) -> None:
        # Rolled, so that chunks differ, and cheap to make; rounding leaves the codec something to do.
        stored[number * chunk_rows : (number + 1) * chunk_rows] = np.roll(base, 131 * number, axis=0).round(3)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(n_chunks)))
    return stored


class Resident(Rows):
    """As many rows as the store, but all of them the same chunk in memory: arithmetic without reading."""

    def __init__(self, chunk: np.ndarray, n_chunks: int) -> None:
        self.name, self.feature_names = "resident", None
        self.chunk, self.n_chunks = chunk, n_chunks
        self.n_rows, self.n_features, self.dtype = len(chunk) * n_chunks, chunk.shape[1], chunk.dtype

    def batches(self) -> list[Batch]:
        return [ResidentBatch(self.chunk, stop - first) for first, stop in batch_bounds(self.n_chunks)]


class ResidentBatch(Batch):
    """A chunk in memory, several times."""

    reads_ahead = False

    def __init__(self, chunk: np.ndarray, n_chunks: int) -> None:
        self.chunk, self.n_chunks = chunk, n_chunks

    def __iter__(self):
        for _ in range(self.n_chunks):
            yield Chunk(self.chunk, range(len(self.chunk)))


def nothing(chunk: Chunk) -> int:
    """Work that only reads."""
    return len(chunk)


def out_of_core(gigabytes: float, repeats: int, folder: str | None) -> dict:
    """Time reading, arithmetic and both together for a store of float64, d = 32, K = 16 full."""
    n_features, n_components = 32, 16
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        stored = write_store(Path(scratch) / "rows.zarr", gigabytes, n_features, n_components)
        rows = dem.open_rows(stored)
        first = stored[: stored.chunks[0]]
        resident = Resident(first, stored.nchunks)
        options = {"tol": 0.0, "random_state": 0, "max_iter": 1, **start_of(first, n_components, "full")}
        timings = {"reading": [], "arithmetic": [], "pass": []}
        for _ in range(repeats):
            began = time.perf_counter()
            LocalEngine().sweep(rows, [nothing])
            timings["reading"].append(time.perf_counter() - began)
            for name, data in (("arithmetic", resident), ("pass", rows)):
                watch = Stopwatch([])
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    dem.GaussianMixture(n_components, callbacks=[watch], sample_rows=20000, **options).fit(data)
                timings[name] += watch.seconds
        medians = {name: statistics.median(values) for name, values in timings.items()}
        stored_bytes = sum(file.stat().st_size for file in Path(scratch).rglob("*") if file.is_file())
    return {
        "rows": rows.n_rows,
        "d": n_features,
        "K": n_components,
        "gigabytes": rows.n_bytes / 1e9,
        "stored_gigabytes": stored_bytes / 1e9,
        "seconds": medians,
        "reading_fraction": medians["reading"] / (medians["reading"] + medians["arithmetic"]),
        "pass_over_larger_part": medians["pass"] / max(medians["reading"], medians["arithmetic"]),
        "gigabytes_per_second": rows.n_bytes / 1e9 / medians["pass"],
        "all": timings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--store-gb", type=float, default=6.0, help="size of the out-of-core store; 0 skips it")
    parser.add_argument("--scratch", help="folder for the store (default: the system's temporary folder)")
    options = parser.parse_args()

    blas = [
        f"{pool.get('internal_api')} {pool.get('version')} {pool.get('architecture')}, {pool['num_threads']} threads"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    ]
    print("BLAS:", "; ".join(blas))
    result = {"python": sys.version, "machine": platform.platform(), "blas": threadpoolctl.threadpool_info()}

    print("\n| n, d, K, covariance | scikit-learn s | dem s | ratio | dem rows·K/s |\n|---|---|---|---|---|")
    result["passes"] = []
    for shape in SHAPES:
        row = compare(*shape, options.repeats)
        result["passes"].append(row)
        print(
            f"| {row['n']:.0e}, {row['d']}, {row['K']}, {row['covariance']} | {row['sklearn_seconds']:.3f} "
            f"| {row['dem_seconds']:.3f} | {row['ratio']:.1f} | {row['dem_rows_K_per_second']:.2e} |",
            flush=True,
        )

    if options.store_gb > 0:
        store = out_of_core(options.store_gb, max(options.repeats // 2, 1), options.scratch)
        result["out_of_core"] = store
        seconds = store["seconds"]
        print(
            f"\nOut of core, {store['gigabytes']:.1f} GB ({store['stored_gigabytes']:.1f} GB stored), "
            f"d = {store['d']}, K = {store['K']} full: {seconds['pass']:.1f} s a pass "
            f"({store['gigabytes_per_second']:.2f} GB/s); reading alone {seconds['reading']:.1f} s, arithmetic alone "
            f"{seconds['arithmetic']:.1f} s: {store['reading_fraction']:.0%} of the work is reading"
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "passes.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {RESULTS / 'passes.json'}")


if __name__ == "__main__":
    main()
