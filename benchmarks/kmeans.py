"""Seconds per pass of Lloyd's algorithm of dem, scikit-learn, oneDAL and Faiss, in turns in one run.

    .venv/bin/python benchmarks/kmeans.py                         # about ten minutes
    .venv/bin/python benchmarks/kmeans.py --shapes 0 1 --clock cpu  # two of them, judged by processor seconds

Everybody gets the same rows and rows as centres, and all cores. A pass is what a fit of a few iterations more takes
longer. oneDAL is `sklearnex.cluster.KMeans` (scikit-learn-intelex), Faiss is `faiss.Kmeans` on all rows, which has
single precision alone; both are in the extra `bench`, and what is not installed is left out. The inertia where each
ends tells that they did the same. Writes benchmarks/results/kmeans.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from importlib import import_module

import numpy as np
from common import CORES, announce, centres_of, median, mixture_rows, save, seconds_text, table
from sklearn.cluster import KMeans

import dem

#: rows, features, centres, iterations whose time is taken; and how often dem is to be as fast as oneDAL, scikit-learn
SHAPES = [
    (1_000_000, 8, 16, 10),
    (1_000_000, 32, 256, 4),
    (100_000, 128, 1024, 4),
    (100_000, 32, 4096, 2),
    (50_000, 32, 16384, 2),
    (100_000, 128, 4096, 2),
    (50_000, 128, 16384, 2),
]
TARGETS = {"oneDAL": 1.0, "scikit-learn": 1.2}
TARGETED = 3
FIRST = 1

Fit = Callable[[np.ndarray, np.ndarray, int], float]


def with_dem(rows: np.ndarray, start: np.ndarray, iterations: int) -> float:
    return dem.KMeans(len(start), init=start, max_iter=iterations, tol=0.0).fit(rows).inertia_


def with_scikit_learn(rows: np.ndarray, start: np.ndarray, iterations: int) -> float:
    return KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0.0, algorithm="lloyd").fit(rows).inertia_


def with_onedal(rows: np.ndarray, start: np.ndarray, iterations: int) -> float:
    kmeans = import_module("sklearnex.cluster").KMeans
    options = {"init": start, "n_init": 1, "max_iter": iterations, "tol": 0.0, "algorithm": "lloyd"}
    return kmeans(len(start), **options).fit(rows).inertia_


def with_faiss(rows: np.ndarray, start: np.ndarray, iterations: int) -> float:
    faiss = import_module("faiss")
    faiss.omp_set_num_threads(CORES)
    every = {"max_points_per_centroid": len(rows), "min_points_per_centroid": 1}
    kmeans = faiss.Kmeans(rows.shape[1], len(start), niter=iterations, seed=1, **every)
    kmeans.train(rows, init_centroids=start)
    return float(kmeans.obj[-1])


SIDES: dict[str, tuple[str, Fit]] = {
    "dem": ("dem", with_dem),
    "scikit-learn": ("sklearn", with_scikit_learn),
    "oneDAL": ("sklearnex", with_onedal),
    "Faiss": ("faiss", with_faiss),
}


def installed() -> dict[str, Fit]:
    """Return the sides that can be imported."""
    found = {}
    for name, (module, fit) in SIDES.items():
        try:
            import_module(module)
        except ImportError as error:
            print(f"without {name}: {error}")
        else:
            found[name] = fit
    return found


def seconds_of(fit: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of a call by the clock, and of all processors."""
    before = time.perf_counter(), time.process_time()
    fit()
    return {"wall": time.perf_counter() - before[0], "cpu": time.process_time() - before[1]}


def measured(shape: tuple[int, int, int, int], dtype: type, scale: float, repeats: int, sides: dict[str, Fit]) -> dict:
    """Return the seconds of a pass of each side, medians of `repeats`, and the inertia at its end."""
    n, d, k, iterations = shape
    n = max(int(scale * n), 2 * k)
    rows = mixture_rows(n, d, k, dtype, centres=centres_of("overlapping", d, k))
    start = np.ascontiguousarray(rows[np.random.default_rng(2).choice(n, k, replace=False)])
    sides = {name: fit for name, fit in sides.items() if name != "Faiss" or dtype == np.float32}
    inertia = {name: fit(rows, start, FIRST + 1) for name, fit in sides.items()}  # loads, compiles
    times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in sorted(sides, reverse=bool(number % 2)):
            few = seconds_of(lambda fit=sides[name]: fit(rows, start, FIRST))
            many = seconds_of(lambda fit=sides[name]: fit(rows, start, FIRST + iterations))
            times[name].append({clock: (many[clock] - few[clock]) / iterations for clock in few})
    passes = {
        name: {clock: median(one[clock] for one in own) for clock in ("wall", "cpu")} for name, own in times.items()
    }
    return {
        "number": SHAPES.index(shape),
        "shape": [n, d, k],
        "dtype": np.dtype(dtype).name,
        "seconds": passes,
        "inertia": inertia,
    }


def ratio(row: dict, name: str, clock: str) -> float | None:
    """Return how many times as long a side takes as dem."""
    seconds = row["seconds"]
    return seconds[name][clock] / seconds["dem"][clock] if name in seconds else None


def summary(result: dict) -> str:
    """Return the table."""
    clock = result["clock"]
    lines = []
    for row in result["rows"]:
        n, d, k = row["shape"]
        cells = [f"{n:.0e}, {d}, {k}".replace("e+0", "e"), row["dtype"], seconds_text(row["seconds"]["dem"][clock])]
        for name in list(SIDES)[1:]:
            times = ratio(row, name, clock)
            target = f" ({TARGETS[name]:g}×)" if name in TARGETS and row["number"] < TARGETED else ""
            own = row["seconds"].get(name, {}).get(clock)
            cells.append("–" if times is None else f"{seconds_text(own)}: **{times:.2f}×**{target}")
        lines.append(cells)
    return table(["n, d, K", "dtype", "dem s", *(f"{name} s: / dem (target)" for name in list(SIDES)[1:])], lines)


def missed(result: dict) -> str:
    """Say where the targets are missed."""
    found = []
    for row in (one for one in result["rows"] if one["number"] < TARGETED):
        for name, target in TARGETS.items():
            times = ratio(row, name, result["clock"])
            if times is not None and times < target:
                _, d, k = row["shape"]
                found.append(f"d = {d}, K = {k} {row['dtype']} {times:.2f}× {name} ({target:g}×)")
    return "; ".join(found) or "nowhere"


def main() -> None:
    every = list(range(len(SHAPES)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shapes", type=int, nargs="+", choices=every, default=every, help="numbers of shapes")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    result = {"machine": announce("k-means"), "clock": options.clock, "rows": []}
    sides = {name: fit for name, fit in installed().items() if name in options.sides}
    for number in options.shapes:
        for dtype in (np.float64, np.float32):
            row = measured(SHAPES[number], dtype, options.scale, options.repeats, sides)
            result["rows"].append(row)
            print(row, flush=True)
    print("\n" + summary(result))
    save("kmeans", result)


if __name__ == "__main__":
    main()
