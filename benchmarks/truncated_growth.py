"""Processor time per row of the truncated E-step as the number of components grows, and what truncated fits lose.

    .venv/bin/python benchmarks/truncated_growth.py        # about ten minutes

Diagonal covariances in 64 dimensions, 32 candidates for each row, one chunk of 16 MB of float64, one thread, all
numbers of components alternately: the E-step with the lists at hand, and with lists that are looked for. Lost: the
log-likelihood per row (nats, of all components) of a fit to convergence with all components, less that of one with the
candidates, both from the same start, on overlapping rows (near a curved sheet), scattered (unit Gaussians, 8 σ apart on
average) and separated ones (40 σ). Writes benchmarks/results/truncated_growth.json.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from common import announce, save, table
from truncated import CHUNK_BYTES, InChunks, draw, start_of

from dem.beside_chunks import KEPT
from dem.data.base import Chunk
from dem.em.algorithm import Batch, Settings, Start
from dem.em.loop import run
from dem.engine import LocalEngine
from dem.engine.base import single_threaded_blas
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.native import permitted

FEATURES, CANDIDATES = 64, 32
KINDS = ("overlapping", "scattered", "separated")
TOL, MOST_PASSES = 1e-5, 200


def rows_of(kind: str, n_rows: int, k: int) -> np.ndarray:
    """Draw rows, the same for the same arguments."""
    if kind != "separated":
        return draw("sheet" if kind == "overlapping" else "clusters", n_rows, FEATURES, k)
    rng = np.random.default_rng(0)
    centres = 5.0 * rng.normal(size=(k, FEATURES)) * np.sqrt(32.0 / FEATURES)
    return centres[rng.integers(k, size=n_rows)] + rng.normal(size=(n_rows, FEATURES))


class Side:
    """A mixture of k components at a chunk of rows."""

    def __init__(self, kind: str, k: int) -> None:
        n_rows = CHUNK_BYTES // (8 * FEATURES)
        rows = rows_of(kind, max(n_rows, k), k)
        family, start = start_of(rows[np.random.default_rng(1).permutation(len(rows))], k, "diag")
        self.family = replace(family, top_components=CANDIDATES)
        self.chunk = Chunk(rows[:n_rows], range(n_rows))
        self.parameters = self.family.truncated(start, n_rows)
        statistics = self.family.e_step(self.parameters, self.chunk)
        # One iteration on, with the same lists.
        moved = self.family.m_step(statistics, self.parameters)
        self.parameters = replace(moved, candidates=self.parameters.candidates)

    def seconds(self) -> float:
        """Return the processor seconds of an E-step per row."""
        began = time.thread_time()
        self.family.e_step(self.parameters, self.chunk)
        return (time.thread_time() - began) / len(self.chunk)

    def seconds_looking(self) -> float:
        """Return the same where the lists are lost."""
        KEPT.forget(self.parameters.candidates.owner.tobytes())
        return self.seconds()


def grown(kind: str, sizes: list[int], repeats: int) -> dict:
    """Return the microseconds per row with each number of components."""
    with single_threaded_blas():
        sides = {k: Side(kind, k) for k in sizes}
        looking = {k: side.seconds_looking() for k, side in sides.items()}
        found = {k: [] for k in sizes}
        for _ in range(repeats):
            for k, side in sides.items():
                found[k].append(side.seconds())
    first = found[sizes[0]]
    return {
        "kind": kind,
        "microseconds": {str(k): 1e6 * float(np.median(values)) for k, values in found.items()},
        "looking": {str(k): 1e6 * seconds for k, seconds in looking.items()},
        "ratio": {str(k): float(np.median(np.divide(values, first))) for k, values in found.items()},
    }


def fitted(family: Mixture, start: MixtureParameters, rows: InChunks) -> tuple[MixtureParameters, int]:
    """Return where a fit ends, and after how many iterations."""
    (one,) = run([Start(family, start)], Batch(), rows, LocalEngine(), Settings(tol=TOL, max_iter=MOST_PASSES))
    return replace(one.parameters, candidates=None), one.n_iter


def lost(kind: str, k: int, rows_per_component: int) -> dict:
    """Return what a fit loses, and how many iterations both took."""
    data = rows_of(kind, rows_per_component * k, k)
    rows, whole = InChunks(data), Chunk(data, range(len(data)))
    family, start = start_of(data, k, "diag")
    few = replace(family, top_components=CANDIDATES)
    with single_threaded_blas():
        truncated = few.truncated(start, len(data))
    sides = fitted(family, start, rows), fitted(few, truncated, rows)
    reached = [float(family.log_likelihood(parameters, whole).mean()) for parameters, _ in sides]
    return {"kind": kind, "K": k, "lost": reached[0] - reached[1], "iterations": [n for _, n in sides]}


def summary(result: dict) -> str:
    """Return the tables."""
    cells = [
        [row["kind"], k, f"{row['microseconds'][k]:.2f}", f"{row['ratio'][k]:.2f}", f"{row['looking'][k]:.0f}"]
        for row in result["rows"]
        for k in row["microseconds"]
    ]
    losses = [
        [row["kind"], str(row["K"]), f"{row['lost']:.1g}", *map(str, row["iterations"])] for row in result["lost"]
    ]
    grown_table = table(["rows", "K", "µs a row", "to the first", "looking for lists"], cells)
    return grown_table + "\n\n" + table(["rows", "K", "lost", "iterations, all", "iterations, 32"], losses)


def measure(result: dict, options: argparse.Namespace) -> None:
    """Add what is measured to the result, and show it."""
    for kind in KINDS:
        result["rows"].append(grown(kind, options.sizes, options.repeats))
        print(result["rows"][-1], flush=True)
        for k in options.losses:
            result["lost"].append(lost(kind, k, options.rows_per_component))
            print(result["lost"][-1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--losses", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--rows-per-component", type=int, default=40)
    options = parser.parse_args()
    result = {"machine": announce("Truncated E-steps of many components"), "rows": [], "lost": []}
    with permitted(True):  # engines that are given rows without a judgement of what pays
        measure(result, options)
    print("\n" + summary(result))
    save("truncated_growth", result)


if __name__ == "__main__":
    main()
