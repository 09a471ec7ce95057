"""One side of `conversation`: the E-step and the M-step as one fused loop compiled by numba, full covariances.

Whether compiled code would pay inside dem: rows go one by one through all components, the log-sum-exp and the
statistics, with nothing in memory but a row's densities. One thread per core, each with statistics of its own.
Arguments: file of float64 rows (C order), n, d, K, covariance. Each line asks for a number of iterations.
"""

from __future__ import annotations

import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from conversation import serve

CORES = len(os.sched_getaffinity(0))


@numba.njit(nogil=True, fastmath=True)
def e_step(rows, weights, sums):
    """Add γ zᵀ of all rows to `sums` (K, p), with W (K, p) and z = [1, x, x_i x_j (i ≤ j)]; return Σ log p."""
    n_components, width = weights.shape
    n_features = rows.shape[1]
    z, density, total = np.empty(width), np.empty(n_components), 0.0
    z[0] = 1.0
    for row in range(len(rows)):
        place = 1 + n_features
        for i in range(n_features):
            z[1 + i] = rows[row, i]
            for j in range(i, n_features):
                z[place] = rows[row, i] * rows[row, j]
                place += 1
        largest = -math.inf
        for k in range(n_components):
            value = 0.0
            for p in range(width):
                value += weights[k, p] * z[p]
            density[k] = value
            largest = max(largest, value)
        norm = 0.0
        for k in range(n_components):
            density[k] = math.exp(density[k] - largest)
            norm += density[k]
        total += largest + math.log(norm)
        for k in range(n_components):
            gamma = density[k] / norm
            for p in range(width):
                sums[k, p] += gamma * z[p]
    return total


def wide_weights(shares: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    n_features = means.shape[1]
    upper = np.triu_indices(n_features)
    found = []
    for share, mean, covariance in zip(shares, means, covariances, strict=True):
        precision = np.linalg.inv(covariance)
        constant = math.log(share) - 0.5 * (n_features * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1])
        quadratic = np.where(upper[0] == upper[1], -0.5, -1.0) * precision[upper]
        found.append(np.hstack([constant - 0.5 * mean @ precision @ mean, precision @ mean, quadratic]))
    return np.array(found)


def m_step(sums: np.ndarray, n_features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = sums[:, 0]
    means = sums[:, 1 : 1 + n_features] / counts[:, None]
    covariances = np.empty((len(sums), n_features, n_features))
    upper = np.triu_indices(n_features)
    for k, row in enumerate(sums[:, 1 + n_features :] / counts[:, None]):
        covariances[k][upper] = row
        covariances[k].T[upper] = row
        covariances[k] -= np.outer(means[k], means[k])
        covariances[k].flat[:: n_features + 1] += 1e-6
    return counts / counts.sum(), means, covariances


def main() -> None:
    path, n_rows, n_features, n_components = sys.argv[1], *map(int, sys.argv[2:5])
    rows = np.fromfile(path, dtype=np.float64).reshape(n_rows, n_features)
    variance = rows[:10000].var(axis=0)
    state = [
        np.full(n_components, 1.0 / n_components),
        rows[:n_components].copy(),
        np.array([np.diag(variance)] * n_components),
    ]
    pool = ThreadPoolExecutor(CORES)
    parts = np.array_split(rows, CORES)

    def iteration() -> None:
        weights = wide_weights(*state)
        sums = np.zeros((CORES, *weights.shape))
        list(pool.map(e_step, parts, [weights] * CORES, sums))
        state[:] = m_step(sums.sum(axis=0), n_features)

    def answer(question: str) -> dict:
        began = time.perf_counter()
        for _ in range(int(question)):
            iteration()
        return {"seconds": time.perf_counter() - began}

    e_step(
        rows[:10], wide_weights(*state), np.zeros((n_components, 1 + n_features + n_features * (n_features + 1) // 2))
    )
    serve(answer, start_free=True, version=numba.__version__)


if __name__ == "__main__":
    main()
