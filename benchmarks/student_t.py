"""What an E-step of t components costs beside that of Gaussian ones with the same shapes, in turns in the same run.

`python -m benchmarks.student_t` prints seconds per pass over rows in memory on one thread, and the ratio.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import threadpoolctl

from dem.data.base import Chunk
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.mixture import Mixture
from dem.families.student_t import StudentTComponent

SHAPES = [(5, 16), (10, 16), (20, 16), (20, 64), (50, 10)]
ROWS, TURNS = 200_000, 7


@dataclass(frozen=True)
class Cost:
    """Seconds of an E-step over all rows, processor time, the least of several."""

    n_features: int
    n_components: int
    dtype: str
    gaussian: float
    student_t: float


def cost(n_features: int, n_components: int, dtype: str) -> Cost:
    """Measure E-steps at the same centres and matrices."""
    rng = np.random.default_rng(0)
    centres = 4.0 * rng.normal(size=(n_components, n_features))
    labels = rng.integers(n_components, size=ROWS)
    rows = centres[labels] + rng.normal(size=(ROWS, n_features))
    chunk = Chunk(rows.astype(dtype), range(ROWS))
    gaussian = COVARIANCE_TYPES["full"]().adapted_to(rows)
    memberships = np.eye(n_components)[labels[:20_000]]
    models = [Mixture(component) for component in (gaussian, StudentTComponent(gaussian))]
    steps = [(model, model.start(chunk.rows[:20_000], memberships)) for model in models]
    seconds = np.empty((TURNS, 2))
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        for turn in seconds:
            for place, (family, parameters) in enumerate(steps):
                begun = time.thread_time()
                family.e_step(parameters, chunk)
                turn[place] = time.thread_time() - begun
    return Cost(n_features, n_components, dtype, *np.min(seconds, axis=0))


def main() -> None:
    """Print a table."""
    print("features  components  dtype    Gaussian        t    ratio")
    for n_features, n_components in SHAPES:
        for dtype in ("float64", "float32"):
            one = cost(n_features, n_components, dtype)
            print(
                f"{n_features:8}  {n_components:10}  {dtype}  {one.gaussian:8.3f} s  {one.student_t:6.3f} s"
                f"  {one.student_t / one.gaussian:6.2f}"
            )


if __name__ == "__main__":
    main()
