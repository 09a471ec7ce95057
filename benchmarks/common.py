"""What the benchmarks share: data, starts, clocks, the machine, the peak of its matrix product, files of results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import threadpoolctl

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"
IMAGES = DOCS / "images"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_PACKAGES = ("numpy", "scipy", "scikit-learn", "dask", "distributed", "zarr")
_BLAS_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


# The machine ----------------------------------------------------------------------------------------------------


def machine() -> dict:
    """Describe the machine, its load and the libraries; what a reader needs to judge seconds."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": CORES,
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": versions,
        "blas": [
            {key: pool.get(key) for key in ("internal_api", "version", "architecture", "num_threads", "prefix")}
            for pool in threadpoolctl.threadpool_info()
        ],
        "blas_settings": {name: os.environ[name] for name in _BLAS_SETTINGS if name in os.environ},
    }


def announce(title: str) -> dict:
    """Print title and machine, warn about what spoils figures, and return the description of the machine."""
    described = machine()
    print(f"\n## {title}\n\n{described['processor']}, {CORES} cores, load {described['load_at_start'][0]}")
    print("threadpool_info:", json.dumps(described["blas"]))
    if described["blas_settings"]:
        print(f"WARNING: {described['blas_settings']} set: BLAS does not use the best kernel of this processor")
    if described["load_at_start"][0] > 0.35 * CORES:
        print("WARNING: the machine is busy; compare ratios only")
    print(flush=True)
    return described


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def gemm_peak(dtype: type = np.float64, size: int = 1024, repeats: int = 3) -> float:
    """Return the flops per second of square matrix products: one Python thread per core, BLAS at one thread."""
    from dem.engine.base import single_threaded_blas  # noqa: PLC0415 - peers use this module without dem

    def work(seed: int) -> None:
        a, b, c = operands[seed]
        for _ in range(repeats):
            np.matmul(a, b, out=c)

    rng = np.random.default_rng(0)
    operands = [[rng.normal(size=(size, size)).astype(dtype) for _ in range(3)] for _ in range(CORES)]
    with single_threaded_blas(), ThreadPoolExecutor(CORES) as pool:
        list(pool.map(work, range(CORES)))  # warm
        began = time.perf_counter()
        list(pool.map(work, range(CORES)))
        seconds = time.perf_counter() - began
    return CORES * repeats * 2.0 * size**3 / seconds


# Data and starts ------------------------------------------------------------------------------------------------


# How far apart the components lie of which rows are drawn, in standard deviations σ: it decides which numbers `exp`
# meets and which arithmetic is accurate.
KINDS = {
    "overlapping": "half of all pairs of centres are nearer than 3 σ",
    "separated": "the nearest two centres are 45 σ apart, so that the density of any other component underflows to 0",
    "far apart": "the nearest two centres are 2,000 σ apart, on a tenth of the rows",
}
# n, d, K, covariance, target for float64 as seconds of scikit-learn per second of dem, on components that overlap
SHAPES = [
    (1_000_000, 2, 8, "full", 40.0),
    (1_000_000, 8, 16, "full", 50.0),
    (500_000, 32, 32, "full", 18.0),
    (100_000, 128, 16, "full", 5.0),
    (1_000_000, 32, 64, "diag", 25.0),
    (200_000, 64, 512, "diag", 15.0),
]


def centres_of(kind: str, n_features: int, n_components: int) -> np.ndarray:
    """Return centres of unit Gaussians, as near to one another as `KINDS` says."""
    centres = np.random.default_rng(1).normal(size=(n_components, n_features))
    norms = (centres**2).sum(axis=1)
    squared = norms[:, np.newaxis] + norms - 2.0 * centres @ centres.T
    distances = np.sqrt(squared[np.triu_indices(n_components, 1)])
    wanted = {"overlapping": 3.0 / np.median(distances), "separated": 45.0 / distances.min()}
    return centres * (wanted | {"far apart": 2000.0 / distances.min()})[kind]


def mixture_rows(
    n_rows: int,
    n_features: int,
    n_components: int,
    dtype: type = np.float64,
    seed: int = 0,
    centres: np.ndarray | None = None,
) -> np.ndarray:
    """Draw rows of unit Gaussians about given centres, else about some that are 3 σ √(2 d) apart on average."""
    rng = np.random.default_rng(seed)
    if centres is None:
        centres = 3.0 * rng.normal(size=(n_components, n_features))
    rows = rng.standard_normal((n_rows, n_features), dtype=dtype)
    rows += centres.astype(dtype)[rng.integers(n_components, size=n_rows)]
    return rows


def truth(centres: np.ndarray, covariance_type: str) -> dict:
    """Return the mixture of which rows are drawn as a start, so that each iteration is like the last of a fit."""
    ones = np.ones_like(centres)
    return {
        "weights_init": np.full(len(centres), 1.0 / len(centres)),
        "means_init": centres,
        "precisions_init": {"full": ones[:, np.newaxis] * np.eye(ones.shape[1]), "diag": ones}[covariance_type],
    }


def start_of(rows: np.ndarray, n_components: int, covariance_type: str) -> dict:
    """Return a whole start: equal weights, rows as means, the features' variances everywhere."""
    precision = 1.0 / rows[:10000].var(axis=0, dtype=np.float64)
    precisions = {
        "full": np.array([np.diag(precision)] * n_components),
        "diag": np.array([precision] * n_components),
    }[covariance_type]
    return {
        "weights_init": np.full(n_components, 1.0 / n_components),
        "means_init": rows[:n_components].astype(np.float64),
        "precisions_init": precisions,
    }


def width(n_features: int, covariance_type: str) -> int:
    """Return p, the numbers of one row in z: [1, x, x_i x_j (i ≤ j)], or [1, x, x²]."""
    return 1 + n_features + (n_features * (n_features + 1) // 2 if covariance_type == "full" else n_features)


def flops(n_rows: int, n_features: int, n_components: int, covariance_type: str) -> float:
    """Return the flops that an EM iteration needs: 4 n K p, two products of width p per row and component."""
    return 4.0 * n_rows * n_components * width(n_features, covariance_type)


# Clocks ---------------------------------------------------------------------------------------------------------


@dataclass
class Stopwatch:
    """A callback that notes the wall time of each iteration, M-step included, or the time of another clock."""

    seconds: list[float]
    began: float = 0.0
    clock: Callable[[], float] = time.perf_counter

    def __call__(self, event: object) -> None:
        now = self.clock()
        kind = type(event).__name__
        if kind == "IterationEnded":
            self.seconds.append(now - self.began)
        if kind in {"IterationEnded", "FitStarted"}:
            self.began = self.clock()


def dem_passes(rows: object, n_components: int, iterations: int = 1, **options: object) -> list[float]:
    """Return the seconds of each EM iteration of dem, M-step included."""
    import dem  # noqa: PLC0415 - peers use this module without dem

    watch = Stopwatch([])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = dem.GaussianMixture(
            n_components, max_iter=iterations, tol=0.0, random_state=0, callbacks=[watch], **options
        )
        model.fit(rows)
    return watch.seconds


def label(row: dict) -> str:
    """Return what tables call a shape."""
    return f"{row['n']:.0e}".replace("e+0", "e") + f", {row['d']}, {row['K']} {row['covariance']}"


def timed(function: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


# Results --------------------------------------------------------------------------------------------------------


def save(name: str, result: dict) -> None:
    """Write benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(_short(result), indent=1) + "\n")
    print(f"\nwritten: {path.relative_to(HERE.parent)}", flush=True)


def load(name: str) -> dict | None:
    """Return what `save` wrote, None if there is nothing."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _short(value: object) -> object:
    """Round to five digits, so that files stay small and readable."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return value


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    lines += ["| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def seconds_text(value: float | None) -> str:
    """Return seconds with three digits."""
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def peak_megabytes() -> float:
    """Return the peak resident memory of this process."""
    try:
        # Not ru_maxrss: a process inherits that from the one that started it.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource  # noqa: PLC0415 - not on Windows

        unit = 1.0 if sys.platform == "darwin" else 1024.0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
