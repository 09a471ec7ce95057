"""Seconds per EM iteration beside scikit-learn, and beside its peers, in one run.

    .venv/bin/python benchmarks/passes.py                     # about six minutes
    .venv/bin/python benchmarks/passes.py --peers "" --scale 0.1

All sides alternate, because machines are noisy: in each repeat the peak of the matrix product is measured, then one
iteration of scikit-learn, a few of dem, one of each peer. Medians of the repeats; ratios are what counts. Writes
benchmarks/results/passes.json.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path

import numpy as np
import peers
from common import announce, dem_passes, flops, gemm_peak, median, mixture_rows, save, seconds_text, start_of, table
from sklearn.mixture import GaussianMixture as Sklearn

# n, d, K, covariance, target for float64 as seconds of scikit-learn per second of dem
SHAPES = [
    (1_000_000, 2, 8, "full", 30.0),
    (1_000_000, 8, 16, "full", 30.0),
    (500_000, 32, 32, "full", 14.0),
    (100_000, 128, 16, "full", 2.5),
    (1_000_000, 32, 64, "diag", 10.0),
    (200_000, 64, 512, "diag", 6.0),
]
# Seconds of dem in float64 per second in float32, for the last four shapes.
FLOAT32_GAIN = 1.5
PEAK_TARGET = 0.6  # from d = 32 on


class IterationDone(Exception):  # noqa: N818
    """One iteration of scikit-learn is over."""


class SklearnSide(Sklearn):
    """scikit-learn's mixture, stopped where the second E-step would begin: one whole iteration, M-step included."""

    def _e_step(self, *arguments: object, **options: object) -> tuple:
        if self.began_ is not None:
            raise IterationDone(time.perf_counter() - self.began_)
        self.began_ = time.perf_counter()
        return super()._e_step(*arguments, **options)

    def seconds(self, rows: np.ndarray) -> float:
        """Return the seconds of one iteration."""
        self.began_ = None
        try:
            self.fit(rows)
        except IterationDone as done:
            return done.args[0]
        message = "scikit-learn has stopped calling _e_step"
        raise RuntimeError(message)


def sklearn_side(rows: np.ndarray, n_components: int, covariance: str, start: dict) -> SklearnSide:
    """Return scikit-learn's mixture with a start in the rows' own type, else it would compute in float64."""
    start = {name: value.astype(rows.dtype) for name, value in start.items()}
    start["weights_init"] /= start["weights_init"].sum()
    return SklearnSide(n_components, covariance_type=covariance, tol=0.0, max_iter=2, **start)


def compare(shape: tuple[int, int, int, str], dtype: type, repeats: int, rivals: list[peers.Peer]) -> dict:
    """Time all sides alternately on one shape."""
    n_rows, n_features, n_components, covariance = shape
    rows = mixture_rows(n_rows, n_features, n_components, dtype)
    start = start_of(rows, n_components, covariance)
    theirs = sklearn_side(rows, n_components, covariance, start)
    timings: dict[str, list[float]] = {"peak": [], "sklearn": [], "dem": []}
    with tempfile.TemporaryDirectory() as scratch:
        if rivals:
            path = Path(scratch) / "rows.f8"
            rows.tofile(path)
            for rival in rivals:
                rival.start(path, shape)
        for _ in range(repeats):
            timings["peak"].append(gemm_peak(dtype))
            timings["sklearn"].append(theirs.seconds(rows))
            gc.collect()
            passes = dem_passes(rows, n_components, 3, covariance_type=covariance, **start)
            timings["dem"].append(median(passes))
            for rival in rivals:
                rival.measure(repeats)
        found = {rival.name: rival.stop() for rival in rivals}
    seconds = {name: median(values) for name, values in timings.items()}
    return {
        "n": n_rows,
        "d": n_features,
        "K": n_components,
        "covariance": covariance,
        "dtype": np.dtype(dtype).name,
        "dem_seconds": seconds["dem"],
        "sklearn_seconds": seconds["sklearn"],
        "ratio": seconds["sklearn"] / seconds["dem"],
        "gemm_peak": seconds["peak"],
        "peak_fraction": flops(*shape) / seconds["dem"] / seconds["peak"],
        "rows_K_per_second": n_rows * n_components / seconds["dem"],
        "all": timings,
        "peers": found,
    }


def label(row: dict) -> str:
    """Return what tables call a shape."""
    return f"{row['n']:.0e}".replace("e+0", "e") + f", {row['d']}, {row['K']} {row['covariance']}"


def summary(rows: list[dict]) -> str:
    """Return the table of dem beside scikit-learn, with the targets."""
    targets = {(d, k): target for _, d, k, _, target in SHAPES}
    slower = {(row["d"], row["K"]): row["dem_seconds"] for row in rows if row["dtype"] == "float64"}
    cells = []
    for row in rows:
        where = (row["d"], row["K"])
        target = targets[where]
        fraction = f"{row['peak_fraction']:.0%}"
        if row["d"] >= 32 and row["dtype"] == "float64":
            fraction += f" ({PEAK_TARGET:.0%})"
        single = row["dtype"] == "float32"
        gain = f"{slower[where] / row['dem_seconds']:.2f}×" if single and where in slower else "–"
        if single and row["d"] >= 32:
            gain += f" ({FLOAT32_GAIN:g}×)"
        cells.append(
            [
                label(row),
                row["dtype"],
                seconds_text(row["sklearn_seconds"]),
                seconds_text(row["dem_seconds"]),
                f"**{row['ratio']:.1f}×**",
                "–" if single else f"{target:g}×",
                gain,
                fraction,
            ]
        )
    header = [
        "n, d, K",
        "dtype",
        "scikit-learn s",
        "dem s",
        "ratio",
        "target",
        "dem f64 / f32 (target)",
        "of GEMM peak (target)",
    ]
    return table(header, cells)


def peer_summary(rows: list[dict], missing: dict[str, str]) -> str:
    """Return the table of dem beside the other peers, in seconds per iteration and, in brackets, as ratios."""
    names = [name for name in peers.COVARIANCES if any(name in row["peers"] for row in rows)]

    def cell(row: dict, name: str) -> str:
        found = row["peers"].get(name)
        if found is None:
            return "–"
        if found["seconds"] is None:
            return found["note"] or "–"
        note = f", {found['note']}" if found["note"] else ""
        return f"{seconds_text(found['seconds'])} ({found['seconds'] / row['dem_seconds']:.0f}×{note})"

    chosen = [row for row in rows if row["peers"]]
    cells = [[label(row), seconds_text(row["dem_seconds"]), *(cell(row, name) for name in names)] for row in chosen]
    notes = "".join(f"\n\n{name} was left out: {reason}." for name, reason in missing.items())
    return table(["n, d, K", "dem s", *(f"{name} s" for name in names)], cells) + notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, for a quick look")
    parser.add_argument("--dtypes", default="float64,float32")
    parser.add_argument("--peers", default=",".join(peers.COVARIANCES), help="comma-separated, or nothing")
    parser.add_argument(
        "--limit", type=float, default=20.0, help="seconds for each peer on each shape; Spark has twice as many"
    )
    options = parser.parse_args()
    result = {"machine": announce("EM iterations beside scikit-learn and other libraries"), "passes": []}
    chosen = [name for name in options.peers.split(",") if name]
    missing = peers.install() if chosen else {}
    for n_rows, n_features, n_components, covariance, _ in SHAPES:
        shape = (max(int(n_rows * options.scale), 10 * n_components), n_features, n_components, covariance)
        for name in options.dtypes.split(","):
            rivals = [
                peers.Peer(peer, options.limit * (2 if peer == "spark" else 1))
                for peer in chosen
                if name == "float64"
                and peer not in missing
                and covariance in peers.COVARIANCES[peer]
                and (peer != "numba" or n_features <= peers.NUMBA_FEATURES)
            ]
            row = compare(shape, np.dtype(name).type, options.repeats, rivals)
            result["passes"].append(row)
            others = ", ".join(
                f"{peer} {seconds_text(found['seconds'])} {found['note']}".strip()
                for peer, found in row["peers"].items()
            )
            print(
                f"{label(row)} {name}: scikit-learn {row['sklearn_seconds']:.3f} s, dem {row['dem_seconds']:.4f} s, "
                f"{row['ratio']:.1f}x, {row['peak_fraction']:.0%} of {row['gemm_peak'] / 1e9:.0f} GF/s; {others}",
                flush=True,
            )
    result["missing"] = missing
    print("\n" + summary(result["passes"]) + "\n\n" + peer_summary(result["passes"], missing))
    save("passes", result)


if __name__ == "__main__":
    main()
