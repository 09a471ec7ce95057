"""Labels, responsibilities and log-densities of rows in memory, beside scikit-learn with the same parameters.

    .venv/bin/python benchmarks/predicting.py        # about four minutes

float64, the shapes of passes.py on components that overlap and that do not, both sides alternating, and an EM iteration
over the same rows, which none of the methods should take longer than. Writes
benchmarks/results/predicting.json after each shape.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from common import (
    KINDS,
    announce,
    centres_of,
    dem_passes,
    median,
    mixture_rows,
    save,
    seconds_text,
    table,
    timed,
    truth,
)
from passes import SHAPES
from sklearn.mixture import GaussianMixture as Sklearn

import dem

METHODS = ("predict", "predict_proba", "score_samples")


def both_sides(centres: np.ndarray, covariance: str) -> tuple[dem.GaussianMixture, Sklearn]:
    """Return both libraries' mixtures with the parameters of which the rows are drawn, as a fit leaves them."""
    start, n_components = truth(centres, covariance), len(centres)
    few = mixture_rows(10 * n_components, centres.shape[1], n_components, centres=centres)
    options = {"covariance_type": covariance, "max_iter": 1, "tol": 1e9}
    ours = dem.GaussianMixture(n_components, **options, **start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.fit(few)
    ours.weights_, ours.means_ = start["weights_init"], start["means_init"]
    for name in ("covariances_", "precisions_", "precisions_cholesky_"):
        setattr(ours, name, start["precisions_init"].copy())
    theirs = Sklearn(n_components, covariance_type=covariance)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        setattr(theirs, name, getattr(ours, name))
    return ours, theirs


def compare(shape: tuple[int, int, int, str], kind: str, repeats: int) -> dict:
    """Time all methods of both sides alternately."""
    n_rows, n_features, n_components, covariance = shape
    centres = centres_of(kind, n_features, n_components)
    rows = mixture_rows(n_rows, n_features, n_components, centres=centres)
    ours, theirs = both_sides(centres, covariance)
    timings: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    iterations: list[float] = []
    for _ in range(repeats):
        iterations += dem_passes(rows, n_components, 3, covariance_type=covariance, **truth(centres, covariance))
        for method in METHODS:
            pair = [timed(lambda side=side, method=method: getattr(side, method)(rows)) for side in (ours, theirs)]
            timings[method].append((pair[0], pair[1]))
    return {
        "shape": list(shape),
        "kind": kind,
        "agree": float(np.mean(ours.predict(rows[:50_000]) == theirs.predict(rows[:50_000]))),
        "iteration": median(iterations),
        "dem": {method: median(pair[0] for pair in pairs) for method, pairs in timings.items()},
        "sklearn": {method: median(pair[1] for pair in pairs) for method, pairs in timings.items()},
        "ratio": {method: median(pair[1] / pair[0] for pair in pairs) for method, pairs in timings.items()},
    }


def summary(result: dict) -> str:
    """Return the table: seconds of dem, and in brackets those of scikit-learn per second of dem."""
    cells = []
    for row in result["rows"]:
        n_rows, n_features, n_components, covariance = row["shape"]
        times = [f"{seconds_text(row['dem'][method])} (**{row['ratio'][method]:.1f}×**)" for method in METHODS]
        iteration = [seconds_text(row["iteration"])] if "iteration" in row else []
        shape = f"{n_rows:.0e}, {n_features}, {n_components} {covariance}".replace("e+0", "e")
        cells.append([shape, row["kind"], *iteration, *times])
    columns = ["an EM iteration"] * ("iteration" in result["rows"][0])
    return table(["n, d, K", "components", *columns, *METHODS], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, for a quick look")
    parser.add_argument("--features", type=int, nargs="*", help="shapes with so many features alone; writes nothing")
    options = parser.parse_args()
    result = {"machine": announce("Labels, responsibilities, log-densities"), "rows": []}
    for n_rows, *rest, _ in SHAPES:
        if options.features and rest[0] not in options.features:
            continue
        for kind in KINDS:
            rows = n_rows // 10 if kind == "far apart" else n_rows
            shape = (max(int(rows * options.scale), 10_000), *rest)
            result["rows"].append(compare(shape, kind, options.repeats))
            print(result["rows"][-1]["shape"], kind, result["rows"][-1]["ratio"], flush=True)
        if not options.features:
            save("predicting", result)
    print("\n" + summary(result))


if __name__ == "__main__":
    main()
