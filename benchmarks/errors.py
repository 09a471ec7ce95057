"""What an EM iteration over rows with errors costs, beside astroML's and pygmmis' where these are installed.

    .venv/bin/pip install astroML pygmmis      # optional
    .venv/bin/python benchmarks/errors.py      # a minute

Seconds of one E- and M-step from the same parameters, one thread, the least of several; prints a table.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import threadpoolctl
from common import table

from dem.data.base import Chunk
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.mixture import Mixture


def seconds_of(step: Callable[[], object], repeats: int) -> float:
    """Return the least time of a step."""
    found = []
    for _ in range(repeats):
        before = time.perf_counter()
        step()
        found.append(time.perf_counter() - before)
    return min(found)


def ours(rows: np.ndarray, noise: np.ndarray | None, start: dict) -> Callable[[], object]:
    """Return an EM step of dem."""
    family: Mixture = Mixture(COVARIANCE_TYPES["full"]().adapted_to(rows))
    parameters = family.from_user({**start, "precisions_cholesky": start["covariances"]})  # the identity
    chunk = Chunk(rows, range(len(rows)), noise=noise)
    return lambda: family.m_step(family.e_step(parameters, chunk), parameters)


def astroml(rows: np.ndarray, noise: np.ndarray, start: dict) -> Callable[[], object]:
    """Return an EM step of astroML."""
    from astroML.density_estimation import XDGMM  # noqa: PLC0415 - optional

    peer = XDGMM(len(start["weights"]))

    def step() -> None:
        peer.mu, peer.alpha = start["means"].copy(), start["weights"].copy()
        peer.V = start["covariances"].copy()
        peer._EMstep(rows, noise)  # noqa: SLF001

    return step


def pygmmis(rows: np.ndarray, noise: np.ndarray, start: dict) -> Callable[[], object]:
    """Return an EM step of pygmmis, over all pairs of rows and components as the others."""
    import pygmmis as peer  # noqa: PLC0415 - optional

    def step() -> None:
        model = peer.GMM(K=len(start["weights"]), D=rows.shape[1])
        model.amp[:], model.mean[:] = start["weights"], start["means"]
        model.covar[:] = start["covariances"]
        peer.fit(model, rows, covar=noise, init_method="none", cutoff=None, miniter=1, maxiter=1, tol=0.0)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=5)
    parser.add_argument("--components", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    n, d, k = options.rows, options.features, options.components
    rng = np.random.default_rng(0)
    centres = 3.0 * rng.normal(size=(k, d))
    factors = 0.3 * rng.normal(size=(n, d, d))
    noise = factors @ factors.swapaxes(1, 2)
    rows = centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    rows += np.einsum("nij,nj->ni", factors, rng.normal(size=(n, d)))
    start = {
        "weights": np.full(k, 1.0 / k),
        "means": centres,
        "covariances": np.broadcast_to(np.eye(d), (k, d, d)).copy(),
    }
    variances = np.ascontiguousarray(np.diagonal(noise, axis1=1, axis2=2))
    steps: dict[str, Callable[[], object]] = {
        "dem, no errors": ours(rows, None, start),
        "dem, variances": ours(rows, variances, start),
        "dem, covariances": ours(rows, noise, start),
    }
    for name, make in (("astroML", astroml), ("pygmmis", pygmmis)):
        try:
            steps[name] = make(rows, noise, start)
        except ImportError:
            print(f"{name} is not installed")
    with threadpoolctl.threadpool_limits(1):
        seconds = {
            name: seconds_of(step, options.repeats if name.startswith("dem") else 1) for name, step in steps.items()
        }
    reference = seconds["dem, covariances"]
    cells = [
        (name, f"{one:.3f}", f"{1e9 * one / (n * k):,.0f}", f"{one / reference:.2f}") for name, one in seconds.items()
    ]
    print(f"{n:,} rows, {d} features, {k} components, one thread")
    print(table(("EM step", "s", "ns per row and component", "times dem with covariances"), cells))


if __name__ == "__main__":
    main()
