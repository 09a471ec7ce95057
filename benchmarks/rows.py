"""What rows as they really are cost: a pass over them, against a pass over plain rows, in turns.

    .venv/bin/python benchmarks/rows.py                   # some minutes
    .venv/bin/python benchmarks/rows.py --parts weights   # a part of it

Processor time of short fits from the same start, which take turns so that whatever else the machine does falls on
both; the median of the ratios of neighbours, and their quartiles. Each part is put into benchmarks/results/rows.json as
soon as it is there, and the others stay.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from common import announce, centres_of, load, mixture_rows, save, start_of, table

import dem

#: rows, features, components, type of covariance
SHAPES = [(200_000, 2, 8, "full"), (100_000, 8, 16, "full"), (20_000, 32, 32, "full"), (50_000, 32, 64, "diag")]
ITERATIONS = 10


def ratio(plain: Callable[[], object], other: Callable[[], object], repeats: int) -> dict:
    """Return how many times as long the other takes: median and quartiles over neighbours in time."""
    plain()
    other()
    ratios = []
    for number in range(repeats):
        seconds = {}
        for fit in (plain, other) if number % 2 else (other, plain):
            before = time.process_time()
            fit()
            seconds[fit] = time.process_time() - before
        ratios.append(seconds[other] / seconds[plain])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"low": low, "median": middle, "high": high, "repeats": repeats}


def problems(scale: float) -> Iterator[tuple[str, np.ndarray, dict]]:
    """Yield a name, rows and the options of a fit for each shape."""
    for n_rows, n_features, n_components, kind in SHAPES:
        centres = centres_of("overlapping", n_features, n_components)
        n_wanted = max(int(scale * n_rows), 20 * n_components)
        rows = mixture_rows(n_wanted, n_features, n_components, centres=centres)
        options = {
            "n_components": n_components,
            "covariance_type": kind,
            "max_iter": ITERATIONS,
            "tol": 0.0,
            **start_of(rows, n_components, kind),
        }
        yield f"{len(rows):,} x {n_features}, K = {n_components} {kind}", rows, options


def costs(
    what: str, other: Callable[[np.ndarray, dict], Callable[[], object]], scale: float, repeats: int
) -> list[dict]:
    """Return what other fits cost, which `other` makes of rows and options."""
    found = []
    for name, rows, options in problems(scale):
        plain = partial(dem.GaussianMixture(**options).fit, rows)
        found.append({"what": what, "rows": name, **ratio(plain, other(rows, options), repeats)})
    return found


def weighted(rows: np.ndarray, options: dict) -> Callable[[], object]:
    """Return a fit with random weights, none of them 0."""
    values = np.random.default_rng(0).uniform(0.5, 2.0, len(rows))
    return partial(dem.GaussianMixture(**options).fit, rows, sample_weight=values)


def marginalising(rows: np.ndarray, options: dict) -> Callable[[], object]:
    """Return a fit that would marginalise gaps, of which there are none."""
    return partial(dem.GaussianMixture(missing="marginalise", **options).fit, rows)


def student_t(rows: np.ndarray, options: dict) -> Callable[[], object]:
    """Return a fit of t components, each with its own degrees of freedom."""
    return partial(dem.StudentTMixture(**options).fit, rows)


PARTS = {
    "weights": partial(costs, "weights", weighted),
    "marginalise": partial(costs, 'complete rows, `missing="marginalise"`', marginalising),
    "student_t": partial(costs, "`StudentTMixture`", student_t),
}


def cost_table(result: dict) -> str:
    """Return the table of docs/rows.md."""
    lines = [one for part in PARTS for one in result["parts"].get(part, [])]
    cells = [
        (one["what"], one["rows"], f"{one['median']:.2f}", f"{one['low']:.2f} to {one['high']:.2f}") for one in lines
    ]
    return table(("what", "rows", "times a plain pass", "half of the pairs"), cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows")
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    before = load("rows") or {"parts": {}}
    result = {**announce("rows as they really are"), "parts": before["parts"]}
    for part in options.parts:
        result["parts"][part] = PARTS[part](options.scale, options.repeats)
        save("rows", result)
    print(cost_table(result))


if __name__ == "__main__":
    main()
