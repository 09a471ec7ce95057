"""Seconds of the truncated E-step beside the dense one; `python -m benchmarks.truncated`.

512 components, 200,000 rows in memory, one thread, double precision, cut into chunks of several sizes: the truncated
E-step has a cost per cell and chunk. The best of two passes. What truncation loses is the mean log-likelihood per row
with all components less that with the candidates, at the same parameters.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from dem.engine.base import single_threaded_blas
from dem.families.gaussian import GaussianComponent
from dem.families.mixture import Mixture

N_COMPONENTS, N_ROWS, PASSES, SPREAD = 512, 200_000, 2, 2.0
CASES = (("diag", 64), ("full", 16))
CHUNK_ROWS = (6_250, 50_000, 200_000)


def one_pass(family: Mixture[Any, Any], parameters: Any, table: np.ndarray, chunk_rows: int) -> tuple[float, float]:
    """Return the seconds of one pass, and the log-likelihood per row."""
    began = time.perf_counter()
    chunks = [SimpleNamespace(rows=table[start : start + chunk_rows]) for start in range(0, N_ROWS, chunk_rows)]
    total = sum(family.e_step(parameters, chunk).log_likelihood for chunk in chunks)
    return time.perf_counter() - began, total / N_ROWS


def main() -> None:
    """Print one line per case, number of candidates and size of the chunks."""
    print("covariance   d    C  chunk rows   s/pass  dense/this  prepare s  lost nats/row")
    for covariance, d in CASES:
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(N_COMPONENTS, d)) * SPREAD * (d / 8) ** -0.5
        labels = rng.integers(0, N_COMPONENTS, N_ROWS)
        table = centres[labels] + rng.normal(size=(N_ROWS, d))
        component = GaussianComponent(covariance).adapted_to(table[:10_000])
        start = Mixture(component).start(table[:32_768], np.eye(N_COMPONENTS)[labels[:32_768]])
        dense: dict[int, tuple[float, float]] = {}
        for top in (None, 8, 16, 32):
            family = Mixture(component, top_components=top)
            began = time.perf_counter()
            parameters = family.truncated(start)
            prepare = time.perf_counter() - began
            for chunk_rows in CHUNK_ROWS:
                seconds, value = min(one_pass(family, parameters, table, chunk_rows) for _ in range(PASSES))
                reference = dense.setdefault(chunk_rows, (seconds, value))
                figures = f"{seconds:8.2f} {reference[0] / seconds:11.2f} {prepare:10.2f} {reference[1] - value:14.2e}"
                print(f"{covariance:10s} {d:3d} {top or 'all'!s:>4s} {chunk_rows:11,d} {figures}", flush=True)


if __name__ == "__main__":
    with single_threaded_blas():
        main()
