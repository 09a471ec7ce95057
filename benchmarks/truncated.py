"""Seconds per iteration with a few candidates for each row (`top_components`) beside all components, in one run.

    .venv/bin/python benchmarks/truncated.py        # about six minutes

64 MB of float64 in chunks of 16 MB, in memory; both sides alternate, one thread per core, M-step included. The rows lie
near a curved sheet of three dimensions, which K components tile, or come from K unit Gaussians at random places (8 σ
apart on average), among which nothing but the distance tells who is whose neighbour. Lost: the log-likelihood per row
(nats, of all components) after ten iterations with all components, less that after ten with the candidates, both from
where five with all have led. Writes benchmarks/results/truncated.json.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from common import Stopwatch, announce, median, save, seconds_text, table, timed

from dem.data.base import Chunk, Rows
from dem.data.numpy import HeldBatch
from dem.em.algorithm import Batch, Settings, Start
from dem.em.loop import run
from dem.engine import LocalEngine
from dem.engine.base import single_threaded_blas
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.native import permitted

CHUNK_BYTES = 16 * 2**20
SHAPES = [(d, k, covariance) for d, covariance in ((16, "diag"), (64, "diag"), (16, "full")) for k in (128, 512, 1024)]
CANDIDATES = (8, 32, 64)
KINDS = ("sheet", "clusters")


class InChunks(Rows):
    """An array in memory in chunks of 16 MB."""

    feature_names = None
    name = "rows"

    def __init__(self, array: np.ndarray) -> None:
        self.n_rows, self.n_features = array.shape
        self.dtype = array.dtype
        step = CHUNK_BYTES // (8 * self.n_features)
        starts = range(0, self.n_rows, step)
        self.chunks = [Chunk(array[i : i + step], range(i, min(i + step, self.n_rows))) for i in starts]

    def batches(self) -> list[HeldBatch]:
        """Return a batch for each chunk."""
        return [HeldBatch([chunk]) for chunk in self.chunks]


def draw(kind: str, n_rows: int, d: int, k: int) -> np.ndarray:
    """Draw rows, the same for the same arguments."""
    rng = np.random.default_rng(0)
    if kind == "clusters":
        centres = rng.normal(size=(k, d)) * np.sqrt(32.0 / d)
        return centres[rng.integers(k, size=n_rows)] + rng.normal(size=(n_rows, d))
    places = rng.uniform(-1.0, 1.0, size=(n_rows, 3))
    curved = np.sin(places @ rng.normal(size=(3, 24), scale=1.5))
    return curved @ rng.normal(size=(24, d)) + 0.3 * rng.normal(size=(n_rows, d))


def start_of(rows: np.ndarray, k: int, covariance: str) -> tuple[Mixture, MixtureParameters]:
    """Return a family and a start: rows as means, a tenth of the features' variances."""
    component = COVARIANCE_TYPES[covariance](reg_covar=1e-3).adapted_to(rows)
    variances = np.tile(rows.var(axis=0) / 10.0, (k, 1))
    values = {"weights": np.full(k, 1.0 / k), "means": rows[:k]}
    if covariance == "full":
        eye = np.eye(rows.shape[1])
        values |= {"covariances": variances[:, None] * eye, "precisions_cholesky": variances[:, None] ** -0.5 * eye}
    else:
        values |= {"covariances": variances, "precisions_cholesky": variances**-0.5}
    family = Mixture(component)
    return family, family.from_user(values)


def iterate(family: Mixture, start: MixtureParameters, rows: Rows, n: int) -> tuple[MixtureParameters, list[float]]:
    """Return the parameters after n iterations, and the seconds of each."""
    watch = Stopwatch([])
    settings = Settings(tol=0.0, max_iter=n, callbacks=[watch])
    (one,) = run([Start(family, start)], Batch(), rows, LocalEngine(), settings)
    return one.parameters, watch.seconds


def truncated(family: Mixture, start: MixtureParameters, candidates: int, n_rows: int) -> MixtureParameters:
    """Return the start with the candidates that a fit to so many rows has."""
    with single_threaded_blas():
        return replace(family, top_components=candidates).truncated(start, n_rows)


def lost(kind: str, shape: tuple[int, int, str], rows_per_component: int) -> dict[str, float]:
    """Return what a fit loses with each number of candidates."""
    d, k, covariance = shape
    table = draw(kind, rows_per_component * k, d, k)
    rows = InChunks(table)
    family, start = start_of(table, k, covariance)
    start = iterate(family, start, rows, 5)[0]
    reached = {}
    for candidates in (k, *CANDIDATES):
        parameters = iterate(family, truncated(family, start, candidates, len(table)), rows, 10)[0]
        reached[candidates] = family.log_likelihood(parameters, Chunk(table, range(len(table)))).mean()
    return {str(candidates): float(reached[k] - reached[candidates]) for candidates in CANDIDATES}


def seconds(shape: tuple[int, int, str], n_chunks: int, repeats: int) -> dict:
    """Time iterations with all components and with each number of candidates alternately."""
    d, k, covariance = shape
    table = draw("sheet", n_chunks * CHUNK_BYTES // (8 * d), d, k)
    rows = InChunks(table)
    family, start = start_of(table[: 40 * k], k, covariance)
    start = iterate(family, start, InChunks(table[: 40 * k]), 3)[0]
    sides, prepare = {"all": start}, {}
    for candidates in CANDIDATES:
        prepare[str(candidates)] = timed(
            lambda c=candidates: sides.update({str(c): truncated(family, start, c, rows.n_rows)})
        )
        iterate(family, sides[str(candidates)], rows, 1)  # lists of rows are looked for once
    timings: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, parameters in sides.items():
            timings[side].append(iterate(family, parameters, rows, 1)[1][0])
    return {
        "n": rows.n_rows,
        "seconds": {side: median(values) for side, values in timings.items()},
        "ratio": {side: float(np.median(np.divide(timings["all"], timings[side]))) for side in prepare},
        "prepare": prepare,
    }


def summary(result: dict) -> str:
    """Return the table."""
    cells = []
    for row in result["rows"]:
        d, k, covariance = row["shape"]
        for c in map(str, CANDIDATES):
            times = [
                seconds_text(row["seconds"]["all"]),
                seconds_text(row["seconds"][c]),
                f"**{row['ratio'][c]:.1f}×**",
            ]
            losses = [f"{row['lost'][kind][c]:.1g}" for kind in KINDS]
            cells.append([f"{row['n']:.0e}, {d}, {k} {covariance}".replace("e+0", "e"), c, *times, *losses])
    return table(["n, d, K", "C", "all s", "C s", "gain", *(f"lost, {kind}" for kind in KINDS)], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--rows-per-component", type=int, default=40, help="in the fits that show what is lost")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="only the first of them")
    options = parser.parse_args()
    result = {"machine": announce("Truncated E-steps"), "rows": []}
    for shape in SHAPES[: options.shapes]:
        row = {"shape": list(shape), **seconds(shape, options.chunks, options.repeats)}
        row["lost"] = {kind: lost(kind, shape, options.rows_per_component) for kind in KINDS}
        result["rows"].append(row)
        print(row["shape"], row["ratio"], row["lost"], flush=True)
    print("\n" + summary(result))
    save("truncated", result)


if __name__ == "__main__":
    with permitted(True):  # engines that are given rows without a judgement of what pays
        main()
