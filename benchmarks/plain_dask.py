"""EM for a Gaussian mixture as a good Dask user writes it; what dem's out-of-core pass is measured against.

Blocks of a Dask array over zarr, an E-step per block with NumPy and SciPy's log-sum-exp, sums by Dask, an M-step in
NumPy. Arguments: zarr path, K, "threads" or "processes". Each line asks for one iteration (see `conversation`).
"""

import sys
import time

import dask
import dask.array as da
import numpy as np
import zarr
from common import peak_megabytes, start_of
from conversation import serve
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

# --- the script -------------------------------------------------------------------------------------------------


def e_step(x, log_weights, means, factors):
    """Return Σγ, Σγx, Σγxxᵀ of one block."""
    log_density = np.empty((len(x), len(means)))
    for k, (mean, factor) in enumerate(zip(means, factors, strict=True)):
        y = (x - mean) @ factor
        log_density[:, k] = -0.5 * (np.square(y).sum(axis=1) + x.shape[1] * np.log(2 * np.pi))
        log_density[:, k] += np.log(np.diag(factor)).sum() + log_weights[k]
    norm = logsumexp(log_density, axis=1)
    gamma = np.exp(log_density - norm[:, None])
    second = np.array([(x * gamma[:, k, None]).T @ x for k in range(len(means))])
    return gamma.sum(axis=0), gamma.T @ x, second, norm.sum()


def add(parts):
    """Add the statistics of several blocks."""
    return tuple(sum(some) for some in zip(*parts, strict=True))


def iteration(x, weights, means, factors):
    """Return the parameters after one EM iteration over the Dask array x."""
    blocks = [b[0] for b in x.to_delayed()]
    parameters = dask.delayed((np.log(weights), means, factors))
    level = [dask.delayed(lambda rows, given: e_step(rows, *given))(block, parameters) for block in blocks]
    while len(level) > 1:
        level = [dask.delayed(add)(level[i : i + 8]) for i in range(0, len(level), 8)]
    counts, first, second, _ = level[0].compute()
    means = first / counts[:, None]
    covariances = second / counts[:, None, None] - means[:, :, None] * means[:, None, :] + 1e-6 * np.eye(x.shape[1])
    identity = np.eye(x.shape[1])
    factors = [solve_triangular(np.linalg.cholesky(c), identity, lower=True).T for c in covariances]
    return counts / counts.sum(), means, np.array(factors)


# --- asked for one iteration at a time ----------------------------------------------------------------------------


def main() -> None:
    path, n_components, where = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    client = None
    if where == "processes":
        from distributed import Client  # noqa: PLC0415

        client = Client(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    else:
        dask.config.set(scheduler="threads", num_workers=2)
    x = da.from_zarr(path)
    start = start_of(zarr.open_array(path, mode="r")[:20000], n_components, "full")
    state = [start["weights_init"], start["means_init"], np.sqrt(start["precisions_init"])]

    def answer(_: str) -> dict:
        began = time.perf_counter()
        state[:] = iteration(x, *state)
        seconds = time.perf_counter() - began
        workers = list(client.run(peak_megabytes).values()) if client else []
        return {"seconds": seconds, "driver_megabytes": peak_megabytes(), "worker_megabytes": workers}

    serve(answer)
    if client:
        client.close()


if __name__ == "__main__":
    main()
