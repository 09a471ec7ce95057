"""Processor seconds of an EM iteration of the peers of `families.py`: functions of rows (n, d) in memory.

An iteration takes what a fit of some iterations takes longer than one of fewer. Of scipy.stats it is the E-step alone
of who writes the mixture with it: log-densities of all components, and `logsumexp`.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special
from threadpoolctl import threadpool_limits

K = 8
# Iterations of the shorter and of the longer fit.
FEW, MANY = 2, 6
Seconds = Callable[[np.ndarray], float]


def processor_seconds(work: Callable[[], Any]) -> float:
    """Return what a call takes of all cores, with BLAS at one thread: those that wait for others would count too."""
    with threadpool_limits(1):
        began = time.process_time()
        work()
        return time.process_time() - began


def of_iterations(fit: Callable[[np.ndarray, int], Any]) -> Seconds:
    """Return what times an iteration of a fit of rows by a number of iterations."""

    def seconds(rows: np.ndarray) -> float:
        few, many = (processor_seconds(lambda n=n: fit(rows, n)) for n in (FEW, MANY))
        return (many - few) / (MANY - FEW)

    return seconds


def scipy_stats(
    log_density: Callable[..., np.ndarray], parameters: Callable[[np.random.Generator, int], Iterable[Iterable]]
) -> Seconds:
    """Return what times an E-step with densities from scipy.stats, given parameters of each component."""

    def seconds(rows: np.ndarray) -> float:
        own = list(parameters(np.random.default_rng(1), rows.shape[1]))

        def e_step() -> None:
            joint = np.stack([log_density(rows, *one) for one in own], axis=1)
            np.exp(joint - special.logsumexp(joint, axis=1, keepdims=True))

        return processor_seconds(e_step)

    return seconds


def stepmix(measurement: Any) -> Seconds:
    """Return what times an iteration of StepMix."""

    def fit(rows: np.ndarray, n: int) -> None:
        from stepmix.stepmix import StepMix  # noqa: PLC0415 - a peer

        options = {"max_iter": n, "abs_tol": 0.0, "rel_tol": 0.0, "random_state": 0, "progress_bar": 0}
        StepMix(n_components=K, measurement=measurement, **options).fit(rows)

    return of_iterations(fit)


def scikit_learn(make: Callable[..., Any], **options: Any) -> Seconds:
    """Return what times an iteration of an estimator of scikit-learn."""
    return of_iterations(lambda rows, n: make(max_iter=n, tol=0.0, random_state=0, **options).fit(rows))


def of_each_share(seconds: Seconds) -> Seconds:
    """Return what takes the time of a model of one component on a K-th of the rows, K times."""
    return lambda rows: sum(seconds(rows[k::K]) for k in range(K))


def flexmix(model: str, formula: str = "rows ~ 1") -> Seconds:
    """Return what times an iteration of R's flexmix."""
    return _in_r(
        "flexmix",
        f"""flexmix({formula}, k = {K}, cluster = labels, model = {model},
                    control = list(iter.max = n, minprior = 0, tolerance = 1e-300))""",
    )


def mclust(model: str) -> Seconds:
    """Return what times an iteration of R's mclust."""
    control = "emControl(itmax = c(n, n), tol = c(0, 0))"
    return _in_r("mclust", f'me(modelName = "{model}", data = rows, z = unmap(labels), control = {control})')


def _in_r(package: str, call: str) -> Seconds:
    """Return what times an iteration of a call of R, which knows the rows, x and y in them, labels and n iterations."""
    script = f"""
    suppressMessages(library({package}))
    given <- commandArgs(TRUE)
    rows <- matrix(readBin(given[1], "double", file.size(given[1]) / 8), ncol = as.integer(given[2]))
    y <- rows[, ncol(rows)]
    x <- rows[, -ncol(rows), drop = FALSE]
    set.seed(1)
    labels <- sample({K}, nrow(rows), TRUE)
    taken <- sapply(c({FEW}, {MANY}), function(n) sum(system.time({call})[c("user.self", "sys.self")]))
    cat((taken[2] - taken[1]) / {MANY - FEW})
    """

    def seconds(rows: np.ndarray) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows"
            np.ascontiguousarray(rows.T).tofile(path)
            command = ["Rscript", "-e", script, path, str(rows.shape[1])]
            return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    return seconds
