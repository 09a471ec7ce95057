"""Fits whose numbers are kept in data/recorded_fits.json: `python tests/record_fits.py` records this environment anew.

Recorded once, with the code of commit 3ed5493; test_recorded_fits.py compares. To record anew means to say that the
numbers of dem are to change: the commit should tell why.
"""

from __future__ import annotations

import json
import platform
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import scipy
import sklearn
import threadpoolctl
import zarr
from distributed import Client

import dem
from dem.errors import ComponentWarning

RECORDED = Path(__file__).parent / "data" / "recorded_fits.json"
N_CHUNKS = 20

_CENTRES = np.array([[0.0, 0.0, 1.0], [2.0, 1.0, -1.0], [-1.0, 2.5, 0.0]])
_NOISE = np.array([[1.0, 0.3, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 0.6]])
_PROBABILITIES = np.array([[0.8, 0.7, 0.2, 0.3], [0.2, 0.3, 0.8, 0.6], [0.5, 0.1, 0.1, 0.9]])


def _labels(rng: np.random.Generator, n_rows: int) -> np.ndarray:
    return rng.choice(3, size=n_rows, p=[0.5, 0.3, 0.2])


def overlapping(n_rows: int = 2000, scale: float = 1.0) -> np.ndarray:
    """Three components whose rows mix."""
    rng = np.random.default_rng(10)
    return (_CENTRES[_labels(rng, n_rows)] + rng.normal(size=(n_rows, 3)) @ _NOISE) * scale


def tight(n_rows: int = 2000) -> np.ndarray:
    """Components far narrower than their distances, which get frames of their own."""
    rng = np.random.default_rng(11)
    centres = np.array([[0.0, 0.0, 0.0], [3e4, 0.0, 1e4], [-2e4, 5e4, 3.0]])
    widths = np.array([1.0, 1e-2, 3.0])
    labels = _labels(rng, n_rows)
    return centres[labels] + (rng.normal(size=(n_rows, 3)) @ _NOISE) * widths[labels, None]


def far_rows(n_rows: int = 2000) -> np.ndarray:
    """Overlapping components and a few rows far from all of them."""
    rows = overlapping(n_rows)
    rows[::199] *= 300.0
    return rows


def wide(n_rows: int = 24_000) -> np.ndarray:
    """Enough rows for several blocks in a chunk."""
    rng = np.random.default_rng(12)
    return rng.normal(size=(5, 8))[rng.integers(5, size=n_rows)] * 3.0 + rng.normal(size=(n_rows, 8))


def counts(n_trials: int, n_rows: int = 2000) -> np.ndarray:
    """Three components with four counts of successes each."""
    rng = np.random.default_rng(13)
    return rng.binomial(n_trials, _PROBABILITIES[_labels(rng, n_rows)])


DATA: dict[str, Callable[[], np.ndarray]] = {
    "overlapping": overlapping,
    "overlapping-f4": lambda: overlapping().astype(np.float32),
    "tight": tight,
    "tight-f4": lambda: tight().astype(np.float32),
    "far": far_rows,
    "far-f4": lambda: far_rows().astype(np.float32),
    "wide": wide,
    "wide-f4": lambda: wide().astype(np.float32),
    "binary": lambda: counts(1),
    "counts": lambda: counts(9),
}
WAYS: dict[str, dict[str, Any]] = {
    "batch": {},
    "squarem": {"accelerate": "squarem"},
    "incremental": {"algorithm": "incremental", "max_iter": 4},
    "stepwise": {"algorithm": "stepwise", "max_iter": 4},
}
GAUSSIAN = ("weights_", "means_", "covariances_", "precisions_cholesky_")
BINOMIAL = ("weights_", "probabilities_")
KMEANS = ("cluster_centers_", "inertia_")


class Recorded:
    """A fit of the list: `kind` tells how exactly it must come back, `names` which numbers are kept of it."""

    def __init__(self, make: Callable[[], Any], data: str, names: tuple[str, ...], kind: str, place: str) -> None:
        self.make, self.data, self.names, self.kind, self.place = make, data, names, kind, place

    def outcome(self, rows: Any) -> dict[str, list[str]]:
        """Fit and return the numbers as hexadecimal floats."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            warnings.simplefilter("ignore", ComponentWarning)
            fitted = self.make()
            if isinstance(fitted, dict):
                return _table(dem.select(rows, **fitted))
            fitted.fit(rows)
        numbers = {name: _hex(getattr(fitted, name)) for name in self.names}
        history = [record["log_likelihood"] for record in fitted.history_]
        return {**numbers, "log_likelihoods": _hex(history)}


def _table(selection: Any) -> dict[str, list[str]]:
    criteria = ("log_likelihood", "bic", "aic", "icl", "held_out", "n_iter")
    columns = {name: _hex([row[name] for row in selection.table if row[name] is not None]) for name in criteria}
    best = selection.best_estimator_
    return {**columns, **{name: _hex(getattr(best, name)) for name in GAUSSIAN[:3]}}


def _hex(numbers: Any) -> list[str]:
    return [float(number).hex() for number in np.ravel(numbers)]


def _gaussian(covariance_type: str, n_components: int = 3, **options: Any) -> Callable[[], Any]:
    options = {"max_iter": 8, "tol": 0.0, "random_state": 0, **options}
    return lambda: dem.GaussianMixture(n_components, covariance_type=covariance_type, **options)


def _fits() -> dict[str, Recorded]:
    fits: dict[str, Recorded] = {}

    def add(name: str, make: Callable[[], Any], data: str, names: tuple[str, ...], kind: str, place: str) -> None:
        fits[name] = Recorded(make, data, names, kind, place)

    for covariance_type in ("full", "tied", "diag", "spherical"):
        for way, options in WAYS.items():
            kind = "stepwise" if way == "stepwise" else "gaussian"
            # Incremental EM moves on after each of the blocks into which zarr's rows are divided.
            for data, place in (("overlapping", "zarr"), ("overlapping-f4", "dask"), ("tight", "dask")):
                make = _gaussian(covariance_type, **options)
                add(f"{covariance_type}-{way}-{data}", make, data, GAUSSIAN, kind, place)
        for data in ("tight-f4", "far", "far-f4"):
            add(f"{covariance_type}-batch-{data}", _gaussian(covariance_type), data, GAUSSIAN, "gaussian", "dask")
        for data in ("wide", "wide-f4"):
            make = _gaussian(covariance_type, 4, max_iter=3, init_params="random_from_data")
            add(f"{covariance_type}-batch-{data}", make, data, GAUSSIAN, "gaussian", "dask")
    starts = {"n_init": 3, "init_params": "random", "tol": 1e-4, "max_iter": 60}
    for covariance_type in ("full", "diag"):
        make = _gaussian(covariance_type, **starts)
        add(f"{covariance_type}-starts", make, "overlapping", GAUSSIAN, "gaussian", "zarr")
        make = _gaussian(covariance_type, **starts, sample_rows=500)
        add(f"{covariance_type}-starts-of-a-sample", make, "overlapping", GAUSSIAN, "gaussian", "dask")
    add("full-starts-racing", _gaussian("full", **starts, racing=True), "overlapping", GAUSSIAN, "gaussian", "dask")
    add("full-k-means||", _gaussian("full", init_params="k-means||"), "overlapping", GAUSSIAN, "gaussian", "dask")
    add("full-truncated", _gaussian("full", 5, top_components=2), "wide", GAUSSIAN, "gaussian", "dask")
    make = _gaussian("full", algorithm="incremental", max_iter=4, max_in_flight=5)
    add("full-incremental-in-flight", make, "overlapping", GAUSSIAN, "gaussian", "dask")
    for way in ("batch", "incremental"):
        make = _gaussian("full", **WAYS[way])
        add(f"full-{way}-cluster", make, "overlapping", GAUSSIAN, "gaussian", "cluster")

    grid = {"n_components": (1, 2, 3), "covariance_type": ("full", "diag"), "max_iter": 6, "random_state": 0}
    add("select", lambda: grid, "overlapping", (), "gaussian", "zarr")
    add("select-held-out", lambda: {**grid, "holdout": 0.2, "n_init": 2}, "overlapping", (), "gaussian", "dask")

    for init in ("k-means||", "k-means++", "random"):
        for n_init in (1, 3):
            options = {"init": init, "n_init": n_init, "max_iter": 12, "random_state": 0}
            for data in ("overlapping", "overlapping-f4", "tight"):
                make = lambda options=options: dem.KMeans(3, **options)  # noqa: E731
                add(f"kmeans-{init}-{n_init}-{data}", make, data, KMEANS, "kmeans", "dask")
    add("kmeans-wide", lambda: dem.KMeans(5, max_iter=5, random_state=0), "wide", KMEANS, "kmeans", "zarr")

    for way, options in WAYS.items():
        options = {"max_iter": 8, "tol": 0.0, "random_state": 0, **options}
        kind = "stepwise" if way == "stepwise" else "other"
        make = lambda options=options: dem.BernoulliMixture(3, **options)  # noqa: E731
        add(f"bernoulli-{way}", make, "binary", BINOMIAL, kind, "zarr")
        make = lambda options=options: dem.BinomialMixture(3, 9, **options)  # noqa: E731
        add(f"binomial-{way}", make, "counts", BINOMIAL, kind, "dask")
    return fits


FITS = _fits()


class Places:
    """The rows of each fit, in 20 chunks, as a Dask array or as zarr in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays = {name: make() for name, make in DATA.items()}

    def rows(self, recorded: Recorded) -> Any:
        """Return what the fit is given."""
        array = self.arrays[recorded.data]
        size = -(-len(array) // N_CHUNKS)
        if recorded.place == "dask":
            return da.from_array(array, chunks=(size, -1))
        path = self.folder / f"{recorded.data}.zarr"
        if not path.exists():
            zarr.create_array(path, data=array, chunks=(size, array.shape[1]))
        return str(path)


def fingerprint() -> dict[str, str]:
    """Return what the last bits depend on besides dem: versions, machine, and the kernels that are in use."""
    infos = [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]
    blas = sorted({f"{info['internal_api']} {info['version']} {info.get('architecture')}" for info in infos})
    return {
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
        "machine": f"{platform.machine()} {' '.join(platform.libc_ver())}",
        "blas": ", ".join(blas),
        "exp and log": _loops(),
    }


def _loops() -> str:
    """Return which instructions NumPy's exp and log use."""
    from numpy.lib import introspect

    functions = introspect.opt_func_info(func_name="^(exp|log)$", signature="float")
    return str({name: {kind: found["current"] for kind, found in kinds.items()} for name, kinds in functions.items()})


def main() -> None:
    """Record this environment, in place of what is recorded of it, or beside the others."""
    known = json.loads(RECORDED.read_text()) if RECORDED.exists() else []
    here = fingerprint()
    records = [record for record in known if record["fingerprint"] != here]
    with tempfile.TemporaryDirectory() as folder:
        places = Places(Path(folder))
        outcomes = {}
        for name, recorded in FITS.items():
            with _engine(recorded):
                outcomes[name] = recorded.outcome(places.rows(recorded))
    records.append({"fingerprint": here, "fits": outcomes})
    RECORDED.write_text(_text(records))


def _engine(recorded: Recorded) -> Any:
    if recorded.place != "cluster":
        return nullcontext()
    return Client(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")


def _text(records: list[dict[str, Any]]) -> str:
    """Write one line for each fit."""
    parts = []
    for record in records:
        fits = ",\n".join(f"{json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in record["fits"].items())
        parts.append(f'{{"fingerprint": {json.dumps(record["fingerprint"])}, "fits": {{\n{fits}\n}}}}')
    return "[" + ",\n".join(parts) + "]\n"


if __name__ == "__main__":
    main()
