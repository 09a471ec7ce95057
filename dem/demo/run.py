"""The steps of the demonstration, without any printing."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem import plot
from dem.demo.memory import peak_memory
from dem.demo.photographs import FEATURES, Photographs, load_photographs, write_store
from dem.engine import connect
from dem.errors import EngineError, OptionError
from dem.events import Callback


@dataclass(frozen=True)
class Demo:
    """What the demonstration does.

    Attributes
    ----------
    out : str
        Folder for the model and the pictures; data and labels lie there while they are needed.
    n_components : int
        Components of the mixture.
    workers : int
        Processes.
    memory_limit : int
        Bytes that each process may use.
    size : int
        Bytes of data to be written, at least one copy of the photographs.
    seed : int
        Of jitter and start.
    keep : bool
        Whether data and labels stay.
    """

    out: str = "demo-output"
    n_components: int = 12
    workers: int = 2
    memory_limit: int = 400 * 10**6
    size: int = 2_400_000_000
    seed: int = 0
    keep: bool = False


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

    Parameters
    ----------
    demo : Demo
        What to do.
    callbacks : sequence of Callback
        Told of the fit's progress.
    say : callable, optional
        Told in words what comes next.
    connect : callable, optional
        Instead of `dem.engine.connect`.

    Returns
    -------
    DemoReport
        What was seen.

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
    clock = _Clock(report.seconds)
    with (
        tempfile.TemporaryDirectory(prefix="store-", dir=out) as folder,
        connect(workers=demo.workers, memory_limit=f"{demo.memory_limit} B") as engine,
    ):
        clock.lap("start")
        store, labels = str(Path(folder) / "pixels.zarr"), str(Path(folder) / "labels.zarr")
        processes = _peaks(engine).keys()
        n_copies = max(1, round(demo.size / (len(photographs.panorama.reshape(-1, 3)) * len(FEATURES) * 8)))
        say(f"writing {n_copies} copies of the photographs, jittered, to {store}")
        write_store(store, photographs, n_copies, demo.seed)
        report.n_rows = n_copies * len(photographs.images) * photographs.rows_per_image
        report.data_bytes = report.n_rows * len(FEATURES) * 8
        clock.lap("write")
        say("fitting the mixture")
        mixture = dem.GaussianMixture(demo.n_components, random_state=demo.seed, callbacks=list(callbacks), **SETTINGS)
        mixture.fit(store)
        clock.lap("fit")
        say(f"writing the labels of all rows to {labels}")
        mixture.predict_to(store, labels)
        clock.lap("predict")
        report.worker_peaks = list(check_peaks(engine, processes, demo.memory_limit))
        if demo.keep:
            for path in (store, labels):
                _replace(Path(path), out / Path(path).name, report)
    say("drawing")
    mixture.set_params(callbacks=None)
    mixture.save(str(out / "model.zarr"), overwrite=True)
    report.written.append(str(out / "model.zarr"))
    _draw(mixture, photographs, out, report)
    clock.lap("draw")
    report.converged, report.n_iter = bool(mixture.converged_), int(mixture.n_iter_)
    report.log_likelihood_per_row = float(mixture.lower_bound_)
    report.weights, report.means = mixture.weights_.tolist(), mixture.means_.tolist()
    return report


#: of the mixture; the sample for the start is small because it passes through the workers' memory
SETTINGS: dict[str, Any] = {"tol": 1e-3, "max_iter": 20, "sample_rows": 200_000}


class _Clock:
    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Note the time since the last lap."""
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now


def _photographs() -> Photographs:
    try:
        import matplotlib as mpl  # noqa: PLC0415

        del mpl
        return load_photographs()
    except ImportError as error:
        message = "the demo needs matplotlib and pillow; install them with: pip install 'dask-em[plot]'"
        raise OptionError(message) from error


def _peaks(engine: Any) -> dict[int, int]:
    """Return the peak memory of each worker process by its id."""
    return dict(engine.client.run(peak_memory).values())


def check_peaks(engine: Any, processes: Any, limit: int) -> list[int]:
    """Return the peak of each worker; raise EngineError if one used too much or was restarted."""
    peaks = _peaks(engine)
    if set(peaks) != set(processes):
        message = f"a worker was restarted; it must have used more than its {limit / 1e6:.0f} MB of memory"
        raise EngineError(message)
    for peak in peaks.values():
        if peak > limit:
            message = f"a worker used {peak / 1e6:.0f} MB of memory; {limit / 1e6:.0f} MB are allowed"
            raise EngineError(message)
    return list(peaks.values())


def _replace(source: Path, target: Path, report: DemoReport) -> None:
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)
    report.written.append(str(target))


def _draw(mixture: Any, photographs: Photographs, out: Path, report: DemoReport) -> None:
    labels: NDArray[Any] = np.concatenate(
        [
            mixture.predict(photographs.rows(number)).reshape(image.shape[:2])
            for number, image in enumerate(photographs.images)
        ],
        axis=1,
    )
    picture, curve = str(out / "segmentation.png"), str(out / "convergence.png")
    plot.segmentation(
        photographs.panorama,
        labels,
        picture,
        colours=mixture.means_[:, :3],
        title=f"{mixture.n_components} Gaussian components of colour and position, each in its mean colour",
    )
    plot.convergence(mixture.history_, curve, tol=mixture.tol)
    report.written += [picture, curve]
