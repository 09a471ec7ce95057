"""Seconds per EM iteration beside scikit-learn and oneDAL, on components that overlap and on components that do not.

    .venv/bin/python benchmarks/passes.py                     # about seven minutes
    .venv/bin/python benchmarks/passes.py --scale 0.1

All sides alternate, because machines are noisy: in each repeat the peak of the matrix product is measured, then one
iteration of scikit-learn, some of oneDAL (`daal4py.em_gmm` of scikit-learn-intelex, the extra `bench`; left out where
it is missing), a few of dem. Medians of the repeats; ratios are what counts. Writes benchmarks/results/passes.json
after each shape, and first denormals.json.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import (
    KINDS,
    SHAPES,
    announce,
    centres_of,
    dem_passes,
    flops,
    gemm_peak,
    label,
    median,
    mixture_rows,
    save,
    seconds_text,
    start_of,
    table,
    timed,
    truth,
)
from peers import Peer, build_armadillo
from sklearn.mixture import GaussianMixture as Sklearn

# By d and K: seconds of oneDAL per second of dem in float64 and float32, and the share of the matrix product's peak in
# float64, that are aimed at.
ONEDAL_TARGETS = {
    (2, 8): (1.5, 1.5),
    (8, 16): (3.0, 2.5),
    (32, 32): (2.2, 1.0),
    (128, 16): (1.5, 1.0),
    (32, 64): (2.0, 3.0),
    (64, 512): (1.7, 2.5),
}
PEAK_TARGETS = {(8, 16): 0.35, (32, 32): 0.7, (128, 16): 0.65, (32, 64): 0.6, (64, 512): 0.65}
# Seconds of dem in float64 per second in float32, for the last four shapes.
FLOAT32_GAIN = 1.5
ONEDAL_ITERATIONS = 3
# Seconds that Armadillo may take for a shape after it has read the rows.
ARMADILLO_LIMIT = 12.0


class IterationDone(Exception):  # noqa: N818
    """One iteration of scikit-learn is over."""


class SklearnSide(Sklearn):
    """scikit-learn's mixture, stopped where the second E-step would begin: one whole iteration, M-step included."""

    def _e_step(self, *arguments: object, **options: object) -> tuple:
        if self.began_ is not None:
            raise IterationDone(time.perf_counter() - self.began_)
        self.began_ = time.perf_counter()
        return super()._e_step(*arguments, **options)

    def seconds(self, rows: np.ndarray) -> tuple[float, float]:
        """Return the seconds of one iteration, and those of them that the operating system took."""
        self.began_ = None
        kernel = os.times().system
        try:
            self.fit(rows)
        except IterationDone as done:
            return done.args[0], os.times().system - kernel
        message = "scikit-learn has stopped calling _e_step"
        raise RuntimeError(message)


def sklearn_side(rows: np.ndarray, n_components: int, covariance: str, start: dict) -> SklearnSide:
    """Return scikit-learn's mixture with a start in the rows' own type, else it would compute in float64."""
    start = {name: value.astype(rows.dtype) for name, value in start.items()}
    start["weights_init"] /= start["weights_init"].sum()
    return SklearnSide(n_components, covariance_type=covariance, tol=0.0, max_iter=2, **start)


def onedal_seconds(rows: np.ndarray, covariance: str, start: dict) -> float | None:
    """Return the seconds of an iteration of oneDAL, from two runs; None where it is missing or gives up."""
    if find_spec("daal4py") is None:
        return None
    em_gmm = import_module("daal4py").em_gmm
    means = start["means_init"].astype(rows.dtype)
    covariances = np.linalg.inv(start["precisions_init"]) if covariance == "full" else 1.0 / start["precisions_init"]
    covariances = [np.atleast_2d(np.ascontiguousarray(one)).astype(rows.dtype) for one in covariances]
    weights = start["weights_init"].astype(rows.dtype)[np.newaxis]

    def run(iterations: int) -> float:
        algorithm = em_gmm(
            len(means),
            fptype="float" if rows.dtype == np.float32 else "double",
            maxIterations=iterations,
            accuracyThreshold=0.0,
            covarianceStorage="full" if covariance == "full" else "diagonal",
            regularizationFactor=1e-6,
        )
        return timed(lambda: algorithm.compute(rows, weights, means, covariances))

    try:
        run(1)  # warm
        return (run(1 + ONEDAL_ITERATIONS) - run(1)) / ONEDAL_ITERATIONS
    except RuntimeError as error:  # few rows make a covariance "ill-conditioned"
        print(f"oneDAL: {str(error).splitlines()[0]}")
        return None


def compare(shape: tuple[int, int, int, str], kind: str, dtype: type, repeats: int) -> dict:
    """Time both sides alternately on one shape and one kind of rows."""
    n_rows, n_features, n_components, covariance = shape
    centres = centres_of(kind, n_features, n_components)
    rows = mixture_rows(n_rows, n_features, n_components, dtype, centres=centres)
    start = truth(centres, covariance)
    theirs = sklearn_side(rows, n_components, covariance, start)
    timings: dict[str, list[float]] = {
        "peak": [],
        "sklearn": [],
        "kernel": [],
        "onedal": [],
        "armadillo": [],
        "dem": [],
    }
    with_armadillo = kind == "overlapping" and dtype is np.float64
    armadillo = Peer("armadillo", ARMADILLO_LIMIT)
    if with_armadillo:
        with tempfile.TemporaryDirectory() as scratch:
            rows.tofile(Path(scratch) / "rows.f8")
            armadillo.start(Path(scratch) / "rows.f8", shape)
    for _ in range(repeats):
        timings["peak"].append(gemm_peak(dtype))
        wall, kernel = theirs.seconds(rows)
        timings["sklearn"].append(wall)
        timings["kernel"].append(kernel / wall)
        onedal = onedal_seconds(rows, covariance, start) if kind != "far apart" else None
        timings["onedal"] += [] if onedal is None else [onedal]
        armadillo.measure(repeats)
        gc.collect()
        iterations = 16 if n_features <= 8 else 4  # the first of short ones, as oneDAL's, is not like the others
        timings["dem"].append(
            median(dem_passes(rows, n_components, iterations, covariance_type=covariance, **start)[1:])
        )
    timings["armadillo"] = armadillo.stop()["all"]
    seconds = {name: median(values) for name, values in timings.items() if values}
    onedal = (
        {"onedal_seconds": seconds["onedal"], "onedal_ratio": paired(timings["onedal"], timings["dem"])}
        if timings["onedal"]
        else {}
    )
    return {
        "n": n_rows,
        "d": n_features,
        "K": n_components,
        "covariance": covariance,
        "kind": kind,
        "dtype": np.dtype(dtype).name,
        "dem_seconds": seconds["dem"],
        "sklearn_seconds": seconds["sklearn"],
        "kernel_share": seconds["kernel"],
        "ratio": paired(timings["sklearn"], timings["dem"]),
        **onedal,
        **({"armadillo_ratio": seconds["armadillo"] / seconds["dem"]} if timings["armadillo"] else {}),
        "gemm_peak": seconds["peak"],
        "peak_fraction": flops(*shape) / seconds["dem"] / seconds["peak"],
        "all": timings,
    }


def paired(first: list[float], second: list[float]) -> float:
    """Return the median of the ratios of what was measured in turn."""
    return median(a / b for a, b in zip(first, second, strict=True))


class Counting(Sklearn):
    """scikit-learn's mixture that notes in each E-step which shares of its exponentials are denormal and 0."""

    def _estimate_weighted_log_prob(self, *arguments: object, **options: object) -> np.ndarray:
        found = super()._estimate_weighted_log_prob(*arguments, **options)
        differences = found - found.max(axis=1, keepdims=True)
        zero = differences < -745.13
        self.shares_.append({"denormal": float(((differences < -708.4) & ~zero).mean()), "zero": float(zero.mean())})
        return found


def denormals(shape: tuple[int, int, int, str]) -> dict:
    """Count denormal exponentials in the first iterations on 20,000 of the rows of earlier tables, from their start."""
    n_rows, n_features, n_components, covariance = shape
    rows = mixture_rows(n_rows, n_features, n_components)[:20_000]
    counting = Counting(
        n_components, covariance_type=covariance, tol=0.0, max_iter=5, **start_of(rows, n_components, covariance)
    )
    counting.shares_ = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counting.fit(rows)
    return {"n": n_rows, "d": n_features, "K": n_components, "covariance": covariance, "shares": counting.shares_[:5]}


def exponentials() -> dict[str, float]:
    """Return the nanoseconds of `exp` per number, by what comes out; the least of many, so that load does not count."""
    numbers, out = np.empty(2**15), np.empty(2**15)
    found = {}
    for name, argument in (("normal", -50.0), ("denormal", -725.0), ("zero", -2000.0)):
        numbers[:] = argument
        found[name] = 1e9 * min(timed(lambda: np.exp(numbers, out=out)) for _ in range(200)) / len(numbers)
    return found


def target_of(row: dict) -> float:
    """Return the target of a shape, in seconds of scikit-learn per second of dem in float64."""
    return next(target for _, d, k, _, target in SHAPES if (d, k) == (row["d"], row["K"]))


def summary(rows: list[dict]) -> str:
    """Return the table of dem beside scikit-learn, with the targets."""
    slower = {(row["d"], row["K"], row["kind"]): row["dem_seconds"] for row in rows if row["dtype"] == "float64"}
    cells = []
    for row in rows:
        single, where = row["dtype"] == "float32", (row["d"], row["K"], row["kind"])
        fraction, shape = f"{row['peak_fraction']:.0%}", (row["d"], row["K"])
        if shape in PEAK_TARGETS and not single:
            fraction += f" ({PEAK_TARGETS[shape]:.0%})"
        onedal = (
            f"**{row['onedal_ratio']:.1f}×** ({ONEDAL_TARGETS[shape][single]:g}×)" if "onedal_ratio" in row else "–"
        )
        gain = f"{slower[where] / row['dem_seconds']:.2f}×" if single and where in slower else "–"
        if single and row["d"] >= 32:
            gain += f" ({FLOAT32_GAIN:g}×)"
        cells.append(
            [
                label(row),
                row["kind"],
                row["dtype"],
                seconds_text(row["sklearn_seconds"])
                + (f" ({row['kernel_share']:.0%})" if "kernel_share" in row else ""),
                seconds_text(row["dem_seconds"]),
                f"**{row['ratio']:.1f}×**",
                f"{target_of(row):g}×" if row["kind"] == "overlapping" and not single else "–",
                seconds_text(row.get("onedal_seconds")),
                onedal,
                f"{row['armadillo_ratio']:.0f}×" if "armadillo_ratio" in row else "–",
                gain,
                fraction,
            ]
        )
    header = [
        "n, d, K",
        "components",
        "dtype",
        "scikit-learn s (of it the kernel)",
        "dem s",
        "ratio",
        "target",
        "oneDAL s",
        "ratio (target)",
        "Armadillo",
        "dem f64 / f32 (target)",
        "of GEMM peak (target)",
    ]
    kinds = "\n".join(f"- **{kind}**: {text}." for kind, text in KINDS.items())
    return f"{kinds}\n\n{table(header, cells)}"


def missed(rows: list[dict]) -> str:
    """Say on which shapes and rows the targets beside scikit-learn, in float64, and beside oneDAL are missed."""
    found = [
        f"d = {row['d']}, K = {row['K']} {row['kind']} {row['ratio']:.1f}× ({target_of(row):g}×)"
        for row in rows
        if row["dtype"] == "float64" and row["kind"] == "overlapping" and row["ratio"] < target_of(row)
    ]
    for row in rows:
        target = ONEDAL_TARGETS[row["d"], row["K"]][row["dtype"] == "float32"]
        if row["kind"] != "far apart" and row.get("onedal_ratio", target) < target:
            found.append(
                f"d = {row['d']}, K = {row['K']} {row['kind']} in {row['dtype']} beside oneDAL "
                f"{row['onedal_ratio']:.1f}× ({target:g}×)"
            )
    return "; ".join(found) or "nowhere"


def lost(rows: list[dict]) -> str:
    """Say where scikit-learn was faster."""
    found = [
        f"d = {row['d']}, K = {row['K']} {row['covariance']} {row['kind']} in {row['dtype']} ({row['ratio']:.1f}×)"
        for row in rows
        if row["ratio"] < 1.0
    ]
    return "; ".join(found) or "nowhere"


def peak_share(rows: list[dict]) -> str:
    """Say between which shares of the peak the float64 shapes with d ≥ 32 lie."""
    found = [
        row["peak_fraction"]
        for row in rows
        if row["d"] >= 32 and row["dtype"] == "float64" and row["kind"] != "far apart"
    ]
    return f"{min(found):.0%} to {max(found):.0%}"


def denormal_text(result: dict) -> str:
    """Return which part of scikit-learn's exponentials on the rows of earlier tables was denormal, and its cost."""
    costs = ", ".join(f"{cost:.1f} ns where the result is {name}" for name, cost in result["exp"].items())
    cells = [
        [label(row), *(f"{share['denormal']:.1%} / {share['zero']:.0%}" for share in row["shares"])]
        for row in result["rows"]
    ]
    header = ["denormal / zero", *(f"iteration {number}" for number in range(1, len(cells[0])))]
    return f"`numpy.exp` takes {costs}.\n\n{table(header, cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, for a quick look")
    parser.add_argument("--dtypes", default="float64,float32")
    parser.add_argument("--parts", nargs="*", choices=["denormals", "passes"], default=["denormals", "passes"])
    options = parser.parse_args()
    described = announce("EM iterations beside scikit-learn")
    if "denormals" in options.parts:
        found = {"exp": exponentials(), "rows": [denormals(tuple(shape)) for *shape, _ in SHAPES]}
        save("denormals", found)
        print(denormal_text(found))
    if "passes" not in options.parts:
        return
    print(*build_armadillo().values())
    result = {"machine": described, "passes": []}

    def sized(n_rows: int, n_features: int, n_components: int, covariance: str) -> tuple[int, int, int, str]:
        return max(int(n_rows * options.scale), 40 * n_components), n_features, n_components, covariance

    for n_rows, *rest, _ in SHAPES:
        for kind in KINDS:
            shape = sized(n_rows // 10 if kind == "far apart" else n_rows, *rest)
            for name in options.dtypes.split(",")[: 1 if kind == "far apart" else None]:
                row = compare(shape, kind, np.dtype(name).type, options.repeats)
                result["passes"].append(row)
                print(
                    f"{label(row)} {kind} {name}: scikit-learn {row['sklearn_seconds']:.3f} s "
                    f"({row['kernel_share']:.0%} of it the kernel), "
                    f"oneDAL {seconds_text(row.get('onedal_seconds'))} s, "
                    f"dem {row['dem_seconds']:.4f} s, {row['ratio']:.1f}x and {row.get('onedal_ratio', np.nan):.1f}x, "
                    f"{row['peak_fraction']:.0%} of {row['gemm_peak'] / 1e9:.0f} GF/s",
                    flush=True,
                )
        save("passes", result)
    print("\n" + summary(result["passes"]))


if __name__ == "__main__":
    main()
