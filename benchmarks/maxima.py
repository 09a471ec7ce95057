"""Whether SQUAREM ends in the maximum where batch EM ends.

    .venv/bin/python benchmarks/maxima.py               # about five minutes
    .venv/bin/python benchmarks/maxima.py --problems 10

Counts on the small problems of `starts.py`, from one start each, both ways until nothing moves any more. Writes
benchmarks/results/maxima.json.
"""

from __future__ import annotations

import argparse
import warnings

from common import announce, save, table
from starts import problem

import dem

# Nats per row: two maxima, not one reached less closely.
APART = 1e-4


def ends(number: int) -> tuple[float, float]:
    """Return the log-likelihoods per row where batch EM and SQUAREM end."""
    rows, options = problem(number)
    options |= {"tol": 1e-10, "max_iter": 20_000, "random_state": 0}
    plain, fast = (
        dem.GaussianMixture(**options, accelerate=accelerate).fit(rows).lower_bound_ for accelerate in (None, "squarem")
    )
    return plain, fast


def summary(result: dict) -> str:
    """Return the table of docs/numerics.md."""
    differences = [fast - plain for plain, fast in result["ends"]]
    better = [difference for difference in differences if difference > APART]
    worse = [-difference for difference in differences if difference < -APART]
    rows = [
        ["the same maximum", len(differences) - len(better) - len(worse), ""],
        ["SQUAREM ends higher", len(better), f"{max(better):.2g}" if better else ""],
        ["SQUAREM ends lower", len(worse), f"{max(worse):.2g}" if worse else ""],
    ]
    return table([f"of {len(differences)} small problems", "fits", "by at most (nats per row)"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=250)
    options = parser.parse_args()
    described = announce("the maxima of SQUAREM and of batch EM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [ends(number) for number in range(options.problems)]
    result = {"machine": described, "ends": found}
    save("maxima", result)
    print(summary(result))


if __name__ == "__main__":
    main()
