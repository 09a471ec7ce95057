"""How often each algorithm reads the data until it is close to its own limit.

    .venv/bin/python benchmarks/reads.py                  # about thirty minutes
    .venv/bin/python benchmarks/reads.py --parts squarem  # a part of it

Counts, which are the same on every machine: reads until the log-likelihood per row of the parameters is within 1e-3,
1e-4 and 1e-6 of the limit that this very fit reaches, medians over the seeds; where ten starts end; EM steps that
SQUAREM saves. All starts come from a sample or from all rows in memory, which takes one more read that is not counted.
Each part is put into benchmarks/results/reads.json as soon as it is there, and the others stay.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from common import load, save
from sources import InPieces

import dem
from dem.data.base import Chunk
from dem.em.e_step import N_BLOCKS
from dem.events import IterationEnded

DISTANCES = (1e-3, 1e-4, 1e-6)
MOST = 1000
MOST_EM_STEPS = 20_000
TO_THE_END = {"tol": 1e-9, "max_iter": MOST}

# What the algorithms are called in tables, and the options of dem that they mean.
FROM_ONE_START = {
    "batch": {},
    "SQUAREM": {"accelerate": "squarem"},
    "incremental, one block at a time": {"algorithm": "incremental", "max_in_flight": 1},
    "incremental, 4 of 40 blocks in flight": {"algorithm": "incremental"},
    "stepwise, then incremental": {"algorithm": "stepwise"},
}
FROM_A_SAMPLE = {
    "10 starts on a sample, then batch": {},
    "10 starts on a sample, then SQUAREM": {"accelerate": "squarem"},
    "10 starts on a sample, then incremental": {"algorithm": "incremental"},
}
SQUAREM_PROBLEMS = [
    ("tied", 0.5),
    ("tied", 0.7),
    ("tied", 1.0),
    ("full", 1.0),
    ("full", 1.5),
    ("full", 2.0),
    ("full", 3.0),
]
PARTS = ["counts", "starts", "squarem"]
ALGORITHMS = [*FROM_ONE_START, *FROM_A_SAMPLE]


# The data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Rows and the mixture that is fitted to them."""

    name: str
    text: str
    rows: Callable[[int], np.ndarray]
    n_components: int
    sample_share: float = 0.1


def photographs(seed: int) -> np.ndarray:  # noqa: ARG001 - real data are what they are
    """Colours of every tenth pixel of scikit-learn's two photographs, line after line."""
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 - not into the memory of the workers

    return np.concatenate([image.reshape(-1, 3)[::10] / 255.0 for image in load_sample_images().images])


def digits(seed: int) -> np.ndarray:  # noqa: ARG001
    """Eight principal components of scikit-learn's handwritten digits, in the order of the collection."""
    from sklearn.datasets import load_digits  # noqa: PLC0415
    from sklearn.decomposition import PCA  # noqa: PLC0415

    return PCA(8, svd_solver="full").fit_transform(load_digits().data)


def drawn(centres: np.ndarray, n_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of Gaussians with random covariances, and their components."""
    n_components, n_features = centres.shape
    spreads = np.eye(n_features) + 0.3 * rng.normal(size=(n_components, n_features, n_features))
    labels = rng.integers(n_components, size=n_rows)
    noise = rng.normal(size=(n_rows, n_features))
    return centres[labels] + np.einsum("nij,nj->ni", spreads[labels], noise), labels


def in_order(seed: int) -> np.ndarray:
    """Eight Gaussians in three dimensions, one after the other."""
    rng = np.random.default_rng([1, seed])
    rows, labels = drawn(3.0 * rng.normal(size=(8, 3)), 40_000, rng)
    return rows[np.argsort(labels, kind="stable")]


def overlapping(seed: int) -> np.ndarray:
    """Three Gaussians in two dimensions that overlap so much that EM is slow."""
    rng = np.random.default_rng([2, seed])
    return drawn(np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 2.0]]), 20_000, rng)[0]


PROBLEMS = (
    Problem("photographs", "54,656 colours of pixels, real, d = 3, K = 8", photographs, 8),
    Problem("digits", "1,797 images of digits, real, d = 8, K = 10", digits, 10, 1 / 3),
    Problem("sorted", "40,000 rows in the order of their components, d = 3, K = 8", in_order, 8),
    Problem("slow", "20,000 rows of overlapping components, d = 2, K = 3", overlapping, 3),
)


# Reads ----------------------------------------------------------------------------------------------------------


class Trace:
    """A callback that keeps the parameters after every read of the data."""

    def __init__(self) -> None:
        self.steps: list[list[IterationEnded]] = []

    def __call__(self, event: object) -> None:
        """Take note."""
        if isinstance(event, IterationEnded) and event.phase == "data":
            if event.iteration > len(self.steps):
                self.steps.append([])
            self.steps[event.iteration - 1].append(event)


def fit(store: object, n_components: int, seed: int, **options: object) -> tuple[dem.GaussianMixture, Trace]:
    """Fit with a trace; that a fit may stop at max_iter, or that rows look sorted, is known."""
    trace = Trace()
    model = dem.GaussianMixture(n_components, random_state=seed, callbacks=[trace], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(store)
    return model, trace


def limit_of(model: dem.GaussianMixture, rows: np.ndarray) -> float:
    """Return the log-likelihood per row where EM ends if it goes on from a fitted model."""
    start = {"weights_init": model.weights_, "means_init": model.means_, "precisions_init": model.precisions_}
    options = {"tol": 1e-13, "max_iter": MOST, "accelerate": "squarem", "sample_rows": len(rows)}
    return fit(rows, model.n_components, 0, **start, **options)[0].lower_bound_


def reads_until(trace: Trace, rows: np.ndarray, limit: float) -> dict[str, float]:
    """Return the number of reads until the parameters are within each distance of the limit; inf if never."""
    chunk = Chunk(rows, range(len(rows)))
    needed = {}
    distances = list(DISTANCES)
    for number, events in enumerate(trace.steps, start=1):
        reached = max(float(event.family.log_likelihood(event.parameters, chunk).mean()) for event in events)
        while distances and reached >= limit - distances[0]:
            needed[str(distances.pop(0))] = number
        if not distances:
            break
    return needed | {str(distance): math.inf for distance in distances}


def measure(problem: Problem, seed: int, algorithms: list[str]) -> dict[str, dict]:
    """Run algorithms from the same seed on one problem."""
    rows = problem.rows(seed)
    sample = {"n_init": 10, "sample_rows": int(problem.sample_share * len(rows))}
    results = {}
    for name in algorithms:
        options = FROM_ONE_START[name] if name in FROM_ONE_START else sample | FROM_A_SAMPLE[name]
        model, trace = fit(InPieces(rows, N_BLOCKS), problem.n_components, seed, **TO_THE_END, **options)
        limit = max(limit_of(model, rows), model.lower_bound_)
        results[name] = {"limit": limit, "reads": reads_until(trace, rows, limit)}
    return results


def ten_starts(problem: Problem, seed: int) -> dict[str, float]:
    """Return the limit of the best of ten starts on all rows."""
    rows = problem.rows(seed)
    options = {"tol": 1e-6, "max_iter": MOST, "sample_rows": len(rows)}
    model, _ = fit(rows, problem.n_components, seed, n_init=10, **options)
    return {"limit": limit_of(model, rows)}


# SQUAREM --------------------------------------------------------------------------------------------------------


def two_gaussians(separation: float, seed: int) -> np.ndarray:
    """Draw 2,000 numbers of two Gaussians of variance 1."""
    rng = np.random.default_rng([3, seed])
    return (rng.normal(size=2000) + separation * (rng.random(2000) < 0.4))[:, np.newaxis]


def squarem_saves(separation: float, covariance: str, seed: int) -> dict[str, float]:
    """Count the EM steps (E-steps, refused ones too) until 1e-8 from the limit, without and with SQUAREM."""
    rows = two_gaussians(separation, seed)
    reached = {}
    for name, accelerate, most in (("SQUAREM", "squarem", 5000), ("EM", None, MOST_EM_STEPS)):
        options = {"covariance_type": covariance, "tol": 1e-14, "max_iter": most, "accelerate": accelerate}
        _, trace = fit(rows, 2, seed, **options)
        # The log-likelihoods that events tell are those of the parameters before.
        reached[name] = [events[0].log_likelihood for events in trace.steps]
    limit = max(map(max, reached.values()))
    return {
        name: next((number for number, value in enumerate(values, 1) if value >= limit - 1e-8), math.inf)
        for name, values in reached.items()
    }


# All of it --------------------------------------------------------------------------------------------------------


def squarem_problems(seeds: int) -> list[dict]:
    """Run two Gaussians of different separation and covariance without and with SQUAREM."""
    results = []
    for covariance, separation in SQUAREM_PROBLEMS:
        counts = [squarem_saves(separation, covariance, seed) for seed in range(seeds)]
        results.append({"covariance": covariance, "separation": separation, "counts": counts})
        print(covariance, separation, counts, flush=True)
    return results


def counted(problems: list[str], seeds: int, algorithms: list[str]) -> None:
    """Count reads on all problems; keep what is known of other problems and algorithms."""
    for problem in (problem for problem in PROBLEMS if problem.name in problems):
        began = time.perf_counter()
        new = [measure(problem, seed, algorithms) for seed in range(seeds)]
        runs = (load("reads") or {}).get("runs", {})
        old = runs.get(problem.name, [{}] * seeds)
        both = [known | found for known, found in zip(old, new, strict=True)]
        keep("runs", runs | {problem.name: [{name: run[name] for name in ALGORITHMS if name in run} for run in both]})
        print(f"{problem.name}: {time.perf_counter() - began:.0f} s", flush=True)


def keep(part: str, result: object) -> None:
    """Put one part into benchmarks/results/reads.json at once; the others stay."""
    save("reads", (load("reads") or {}) | {part: result})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--problems", nargs="*", default=[problem.name for problem in PROBLEMS])
    parser.add_argument("--algorithms", nargs="*", choices=ALGORITHMS, default=ALGORITHMS, help="of those counted")
    options = parser.parse_args()
    print("\n## Reads of the data\n")
    if "counts" in options.parts:
        counted(options.problems, options.seeds, options.algorithms)
    if "starts" in options.parts:
        for problem in (problem for problem in PROBLEMS if problem.name in options.problems):
            found = [ten_starts(problem, seed) for seed in range(options.seeds)]
            keep("starts", (load("reads") or {}).get("starts", {}) | {problem.name: found})
    if "squarem" in options.parts:
        keep("squarem", squarem_problems(options.seeds))


if __name__ == "__main__":
    main()
