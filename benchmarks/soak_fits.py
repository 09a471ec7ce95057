"""Which fits the soak makes, and the process that makes one after another as it is told on its standard input.

A line of JSON asks for a fit: `job`, `data`, `out`, `kept`, `options` (how the data is opened), `scheduler` (an
address, or nothing). The answer is a line with `digest`, or with `error` and whether it is one of dem's.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import traceback
import warnings
from typing import Any

import numpy as np

import dem
from dem.errors import DemError

_SMALL = {"random_state": 0, "sample_rows": 3000}
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "batch": ("GaussianMixture", {"n_components": 6, "tol": 0, "max_iter": 25, **_SMALL}),
    "k-means||": ("GaussianMixture", {"n_components": 5, "init_params": "k-means||", "n_init": 3, **_SMALL}),
    "squarem": ("GaussianMixture", {"n_components": 5, "tol": 1e-5, "accelerate": "squarem", **_SMALL}),
    "incremental": (
        "GaussianMixture",
        {"n_components": 5, "tol": 1e-4, "algorithm": "incremental", "max_in_flight": 1, **_SMALL},
    ),
    "stepwise": (
        "GaussianMixture",
        {"n_components": 5, "tol": 1e-4, "algorithm": "stepwise", "max_in_flight": 1, **_SMALL},
    ),
    "k-means": ("KMeans", {"n_clusters": 8, "max_iter": 40, **_SMALL}),
    "select": ("select", {"n_components": [1, 2, 3, 4], "tol": 1e-3, **_SMALL}),
}
_FLAGS = {"n_components": "components", "n_clusters": "components", "init_params": "init", "random_state": "seed"}


def command_line(job: str) -> list[str]:
    """Return the arguments of `dem` that ask for a job, but for the data."""
    kind, options = JOBS[job]
    line = ["--family", "kmeans"] if kind == "KMeans" else []
    for name, value in options.items():
        given = f"{value[0]}:{value[-1]}" if isinstance(value, list) else str(value)
        line += [f"--{_FLAGS.get(name, name).replace('_', '-')}", given]
    return line


def digest(model: Any) -> str:
    """Return a digest of the bits of parameters and log-likelihoods."""
    found = hashlib.sha256()
    for name in model._parameter_names:  # noqa: SLF001
        found.update(np.asarray(getattr(model, f"{name}_")).tobytes())
    found.update(np.array([record["log_likelihood"] for record in model.history_]).tobytes())
    return found.hexdigest()


def fit(job: str, data: str, out: str | None = None, kept: str | None = None, **given: Any) -> str:
    """Make a fit, save the model if there is a place for it, and return its digest."""
    kind, options = JOBS[job]
    if kind == "select":
        fitted = dem.select(data, checkpoint=kept, **options, **given).best_estimator_
    else:
        fitted = getattr(dem, kind)(**options).fit(data, checkpoint=kept, **given)
    if out is not None:
        fitted.save(out, overwrite=True)
    return digest(fitted)


def answer(task: dict[str, Any], clients: dict[str, Any]) -> dict[str, Any]:
    """Make the fit that is asked for, on the cluster that is named; return what became of it."""
    address = task["scheduler"]
    try:
        if not address:
            return {"digest": fit(task["job"], task["data"], task["out"], task["kept"], **task["options"])}
        from distributed import Client  # noqa: PLC0415 - fits on threads do without

        if address not in clients:
            try:
                clients[address] = Client(address, timeout="5s", set_as_default=False)
            except OSError as error:  # Dask's, before dem sees anything of it
                return {"error": f"no scheduler answers ({error!r})", "ours": True}
        with clients[address].as_current():
            return {"digest": fit(task["job"], task["data"], task["out"], task["kept"], **task["options"])}
    except Exception as error:  # noqa: BLE001 - whatever comes is told
        if address in clients:
            clients.pop(address).close(timeout=1)
        ours = isinstance(error, DemError)
        return {"error": str(error) or repr(error), "ours": ours, "traceback": "" if ours else traceback.format_exc()}


def main() -> None:
    """Make fits until the standard input ends."""
    warnings.simplefilter("ignore")
    clients: dict[str, Any] = {}
    for line in sys.stdin:
        found = answer(json.loads(line), clients)
        gc.collect()
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
