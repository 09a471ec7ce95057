"""Seconds per pass of the truncated E-step beside the dense one; `python -m benchmarks.truncated`.

512 components, 200,000 rows in memory, all threads of this process, double precision; the median of three passes. The rows
are drawn from 512 clumps. The first column that is not time tells what truncation loses: the mean log-likelihood per
row with all components less that with the candidates, at the same parameters.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from dem.data import open_rows
from dem.em.together import EStep
from dem.engine import LocalEngine
from dem.families.gaussian import GaussianComponent
from dem.families.mixture import Mixture

N_COMPONENTS, N_ROWS, PASSES = 512, 200_000, 3
CASES = (("diag", 64), ("full", 16))


def main() -> None:
    """Print one line per case and number of candidates."""
    print("covariance  d   spread   C   s/pass  dense/this  prepare s  lost nats/row")
    for (covariance, d), spread in ((case, spread) for case in CASES for spread in (1.0, 3.0)):
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(N_COMPONENTS, d)) * spread * (d / 8) ** -0.5
        labels = rng.integers(0, N_COMPONENTS, N_ROWS)
        table = centres[labels] + rng.normal(size=(N_ROWS, d))
        component = GaussianComponent(covariance).adapted_to(table[:10_000])
        sample = table[:32_768]
        start = Mixture(component).start(sample, np.eye(N_COMPONENTS)[labels[: len(sample)]])
        rows, engine = open_rows(table), LocalEngine()
        dense = reached = 0.0
        for top in (None, 8, 16, 32):
            family = Mixture(component, top_components=top)
            began = time.perf_counter()
            parameters = family.truncated(start)
            prepare = time.perf_counter() - began
            seconds = []
            for _ in range(PASSES):
                began = time.perf_counter()
                (total,) = engine.sweep(rows, [EStep(family, parameters)])
                seconds.append(time.perf_counter() - began)
            value, median = total.log_likelihood / N_ROWS, statistics.median(seconds)
            if top is None:
                dense, reached = median, value
            figures = f"{median:8.2f} {dense / median:11.2f} {prepare:10.2f} {reached - value:14.2e}"
            print(f"{covariance:10s} {d:3d} {spread:7g} {top or 'all'!s:>4s} {figures}", flush=True)


if __name__ == "__main__":
    main()
