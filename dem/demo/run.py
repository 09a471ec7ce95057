"""The steps of the demonstration, without any printing."""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dem.demo.photographs import FEATURES, Photographs, load_photographs, write_store
from dem.engine import connect
from dem.errors import EngineError, OptionError
from dem.events import Callback


@dataclass(frozen=True)
class Demo:
    """What the demonstration does."""

    out: str = "demo-output"  # folder for the model and the pictures; data and labels lie there while they are needed
    n_components: int = 12
    workers: int = 2  # processes
    memory_limit: int = 400 * 10**6  # bytes that each process may use
    size: int = 2_400_000_000  # bytes of data to be written, at least one copy of the photographs
    seed: int = 0  # of jitter and start
    keep: bool = False  # whether data and labels stay


@dataclass
class DemoReport:
    """What the demonstration saw; see `Demo`."""

    n_rows: int = 0
    data_bytes: int = 0
    memory_allowed: int = 0
    #: peak resident memory of each worker process, bytes
    worker_peaks: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    converged: bool = False
    n_iter: int = 0
    log_likelihood_per_row: float = float("nan")
    weights: list[float] = field(default_factory=list)
    means: list[list[float]] = field(default_factory=list)
    features: tuple[str, ...] = FEATURES
    written: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def run_demo(
    demo: Demo,
    callbacks: Sequence[Callback] = (),
    say: Callable[[str], None] = lambda _: None,
    connect: Callable[..., AbstractContextManager[Any]] = connect,
) -> DemoReport:
    """Write data larger than the workers' memory, fit a mixture to them, segment the photographs.

    The callbacks are told of the fit's progress, `say` in words what comes next; `connect` stands for that of
    `dem.engine`.

    Raises
    ------
    EngineError
        If a worker used more memory than it was allowed.
    """
    import dem  # noqa: PLC0415

    photographs = _photographs()
    out = Path(demo.out)
    out.mkdir(parents=True, exist_ok=True)
    report = DemoReport(memory_allowed=demo.workers * demo.memory_limit)
    begun = time.perf_counter()

    def note_time(step: str) -> None:
        report.seconds[step] = time.perf_counter() - begun - sum(report.seconds.values())

    with (
        tempfile.TemporaryDirectory(prefix="store-", dir=out) as folder,
        connect(workers=demo.workers, memory_limit=f"{demo.memory_limit} B") as engine,
    ):
        note_time("start")
        store, labels = str(Path(folder) / "pixels.zarr"), str(Path(folder) / "labels.zarr")
        processes = _peaks(engine).keys()
        n_copies = max(1, round(demo.size / (len(photographs.panorama.reshape(-1, 3)) * len(FEATURES) * 8)))
        say(f"writing {n_copies} copies of the photographs, jittered, to {store}")
        write_store(store, photographs, n_copies, demo.seed)
        report.n_rows = n_copies * len(photographs.images) * photographs.rows_per_image
        report.data_bytes = report.n_rows * len(FEATURES) * 8
        note_time("write")
        say("fitting the mixture")
        mixture = dem.GaussianMixture(demo.n_components, random_state=demo.seed, callbacks=list(callbacks), **SETTINGS)
        mixture.fit(store)
        note_time("fit")
        say(f"writing the labels of all rows to {labels}")
        mixture.predict_to(store, labels)
        note_time("predict")
        report.worker_peaks = check_peaks(engine, processes, demo.memory_limit)
        if demo.keep:
            for path in (store, labels):
                _replace(Path(path), out / Path(path).name, report)
    say("drawing")
    mixture.set_params(callbacks=None)
    mixture.save(str(out / "model.zarr"), overwrite=True)
    report.written.append(str(out / "model.zarr"))
    _draw(mixture, photographs, out, report)
    note_time("draw")
    report.converged, report.n_iter = bool(mixture.converged_), int(mixture.n_iter_)
    report.log_likelihood_per_row = float(mixture.lower_bound_)
    report.weights, report.means = mixture.weights_.tolist(), mixture.means_.tolist()
    return report


#: of the mixture; the sample for the start is small because it passes through the workers' memory
SETTINGS: dict[str, Any] = {"tol": 1e-3, "max_iter": 20, "sample_rows": 200_000}


def _photographs() -> Photographs:
    try:
        import matplotlib as mpl  # noqa: PLC0415

        del mpl
        return load_photographs()
    except ImportError as error:
        message = "the demo needs matplotlib and pillow; install them with: pip install 'dask-em[plot]'"
        raise OptionError(message) from error


def peak_memory() -> tuple[int, int]:
    """Return the id of this process and the most memory (resident set, bytes) it has held so far.

    Runs on workers. Linux' `VmHWM` is preferred: after a fork and exec `getrusage` still reports the peak of
    the process that forked.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+)", status.read_text(errors="replace"))):
        return os.getpid(), int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return os.getpid(), peak if sys.platform == "darwin" else peak * 1024


def _peaks(engine: Any) -> dict[int, int]:
    """Return the peak memory of each worker process by its id."""
    return dict(engine.client.run(peak_memory).values())


def check_peaks(engine: Any, processes: Any, limit: int) -> list[int]:
    """Return the peak of each worker; raise EngineError if one used too much or was restarted."""
    peaks = _peaks(engine)
    if set(peaks) != set(processes):
        message = f"a worker was restarted; it must have used more than its {limit / 1e6:.0f} MB of memory"
        raise EngineError(message)
    if (most := max(peaks.values())) > limit:
        message = f"a worker used {most / 1e6:.0f} MB of memory; {limit / 1e6:.0f} MB are allowed"
        raise EngineError(message)
    return list(peaks.values())


def _replace(source: Path, target: Path, report: DemoReport) -> None:
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)
    report.written.append(str(target))


def _draw(mixture: Any, photographs: Photographs, out: Path, report: DemoReport) -> None:
    from dem import plot  # noqa: PLC0415 - with matplotlib, which workers do without

    parts = [
        mixture.predict(photographs.rows(k)).reshape(image.shape[:2]) for k, image in enumerate(photographs.images)
    ]
    picture, curve = str(out / "segmentation.png"), str(out / "convergence.png")
    plot.segmentation(
        photographs.panorama,
        np.concatenate(parts, axis=1),
        picture,
        colours=mixture.means_[:, :3],
        title=f"{mixture.n_components} Gaussian components of colour and position, each in its mean colour",
    )
    plot.convergence(mixture.history_, curve, tol=mixture.tol)
    report.written += [picture, curve]
