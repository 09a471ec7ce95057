"""What several starts cost and give: beside scikit-learn, beside each start alone, and with racing.

    .venv/bin/python benchmarks/starts.py               # about five minutes
    .venv/bin/python benchmarks/starts.py --problems 8

Counts, which are the same on every machine but for rounding. Small problems of overlapping Gaussians, all covariance
types and all starts of scikit-learn's: how often the result of five starts is worse than
scikit-learn's with the same random state, or than one of these starts alone. Then what they read: five starts on one
read, and five starts on a sample of a third of the rows, of which three are polished on all of them. Writes
benchmarks/results/starts.json.
"""

from __future__ import annotations

import argparse
import itertools
import warnings

import numpy as np
import sklearn.mixture
from common import announce, median, save, table
from sources import InPieces

import dem

N_INIT = 5
# Rounding, and nothing else.
CLOSE = 1e-6
TYPES = ("full", "tied", "diag", "spherical")
STARTS = ("random", "random_from_data", "kmeans", "k-means++")
ENDS = ((1e-3, 100), (1e-4, 300), (1e-6, 1000))


def problem(number: int) -> tuple[np.ndarray, dict]:
    """Return a few rows of overlapping Gaussians, and options that both libraries take."""
    rng = np.random.default_rng([11, number])
    n_features, n_components, n_rows = (int(rng.integers(*bounds)) for bounds in ((1, 4), (2, 6), (60, 300)))
    centres = rng.uniform(0.5, 3.0) * rng.normal(size=(n_components, n_features))
    rows = centres[rng.integers(n_components, size=n_rows)] + rng.normal(size=(n_rows, n_features))
    tol, max_iter = ENDS[number % 3]
    kinds = {"covariance_type": TYPES[number % 4], "init_params": STARTS[number // 4 % 4]}
    return rows, {"n_components": n_components, "tol": tol, "max_iter": max_iter, **kinds}


def fitted(rows: np.ndarray, **options: object) -> dict[str, float]:
    """Return what a fit reaches, and its reads of all the data beside those of the start that wins."""
    model = dem.GaussianMixture(**options).fit(InPieces(rows, 3))
    reads = max(one["iteration"] for one in model.history_ if one["phase"] == "data")
    return {"reached": model.lower_bound_, "reads": reads, "winner": model.n_iter_}


def compared(number: int, seed: int) -> dict[str, object]:
    """Fit one problem in every way; return the reads, and how much worse each way is than another (nats per row)."""
    rows, options = problem(number)
    several = {**options, "n_init": N_INIT, "random_state": seed}
    random_state = np.random.RandomState(seed)  # from which scikit-learn draws one start after the other
    alone = [fitted(rows, **options, random_state=random_state)["reached"] for _ in range(N_INIT)]
    others = {
        "scikit-learn": sklearn.mixture.GaussianMixture(**several).fit(rows).lower_bound_,
        "the best of its starts alone": max(alone),
        "the first of its starts alone": alone[0],
    }
    found: dict[str, object] = {"problem": number, "seed": seed}
    for way, own in {"on one read": {}, "polished": {"sample_rows": len(rows) // 3}}.items():
        calm, racing = (fitted(rows, **several, **own, racing=racing) for racing in (False, True))
        found[way] = {
            "reads": calm["reads"],
            "of winner": calm["reads"] / calm["winner"],
            "losses": {name: other - calm["reached"] for name, other in others.items()},
        }
        found[f"{way}, racing"] = {
            "reads": racing["reads"],
            "of winner": racing["reads"] / racing["winner"],
            "losses": {name: other - racing["reached"] for name, other in others.items()}
            | {"without racing": calm["reached"] - racing["reached"]},
        }
    return found


WAYS = {
    "on one read": "five starts",
    "on one read, racing": "racing",
    "polished": "five on a sample, three polished",
    "polished, racing": "racing",
}


def summary(result: dict) -> str:
    """Return the table of docs/algorithms.md."""
    runs = result["runs"]

    def worse(way: str, other: str) -> str:
        if other not in runs[0][way]["losses"]:
            return ""
        losses = [run[way]["losses"][other] for run in runs]
        found = [loss for loss in losses if loss > CLOSE]
        return f"{len(found)}, by {max(found):.2g} at most" if found else "0"

    def reads(way: str) -> str:
        ratios = [run[way]["of winner"] for run in runs]
        return f"{median(ratios):.2f} / {np.quantile(ratios, 0.9):.2f}"

    def total(way: str) -> str:
        if not way.endswith("racing"):
            return ""
        ours, theirs = (sum(run[name]["reads"] for run in runs) for name in (way, way.removesuffix(", racing")))
        return f"{ours / theirs:.2f}"

    others = ("scikit-learn", "the best of its starts alone", "the first of its starts alone", "without racing")
    rows = [[f"worse than {other} (nats per row)", *(worse(way, other) for way in WAYS)] for other in others]
    rows += [
        ["reads, of the winner's: median / of nine in ten at most", *(reads(way) for way in WAYS)],
        ["reads of all fits, of those without racing", *(total(way) for way in WAYS)],
    ]
    return table([f"of {len(runs)} fits", *WAYS.values()], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    described = announce("several starts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = [compared(*pair) for pair in itertools.product(range(options.problems), range(options.seeds))]
    result = {"machine": described, "problems": options.problems, "seeds": options.seeds, "runs": runs}
    save("starts", result)
    print(summary(result))


if __name__ == "__main__":
    main()
