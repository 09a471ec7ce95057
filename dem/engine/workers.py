"""The workers of a cluster: which are there, whether they can run dem, and what to do while there are none."""

from __future__ import annotations

import asyncio
import math
import queue
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from distributed import Client, KilledWorker
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError

from dem import native
from dem.data.base import Rows
from dem.engine.base import STALL, Told, longest_wait
from dem.errors import EngineError
from dem.events import WorkersAwaited
from dem.units import human_bytes, human_seconds, plural

T = TypeVar("T")

# Seconds between two looks at the workers; a shorter pass has none.
LOOK = 1.0
# Seconds between two looks at what has come of a sweep.
TICK = 0.25
# Seconds that a scheduler has to answer; one that is busy may take longer, and is asked again.
PATIENCE = 10.0
#: seconds without a worker after which the user is told for the first time
TELL_AFTER = 10.0
# Packages whose versions decide whether tasks of this process run on a worker, and to the same bits.
_PACKAGES = ("dask-em", "dask", "distributed", "numpy", "scipy", "zarr")


class WorkersChanged(Exception):  # noqa: N818
    """Other workers are there than before; what was to be placed on them is to be placed anew."""


class Workers:
    """The workers of a cluster.

    All waiting for the cluster goes through here: while no worker is ready, it is told to `told` and given up after
    ``dask.config.get("dem.worker-timeout")``, five minutes unless set.

    Parameters
    ----------
    client : distributed.Client
        The connection to the cluster.
    told : callable
        Called with `WorkersAwaited` after ten seconds without a worker, then ever more rarely, and when one is back.

    Raises
    ------
    EngineError
        If a worker cannot import dem or has other versions than this process.
    OptionError
        If the timeout is no time.
    """

    def __init__(self, client: Client, told: Told) -> None:
        self.client = client
        self.told = told
        self.timeout = longest_wait()
        self._stall = longest_wait(*STALL)
        self.scheduler: Any = client.scheduler
        self.address = str(client.scheduler_info()["address"])
        self._cores: Mapping[str, int] = {}
        self._looked = -math.inf
        self._alone_since: float | None = None
        self._tell_after = TELL_AFTER
        self._checked: set[str] = set()
        with self.errors_in_one_line():
            self._look()

    def cores(self) -> Mapping[str, int]:
        """Return the number of threads of each worker that is ready, at most a second old; wait for the first one.

        Raises
        ------
        EngineError
            If none comes in time, or one cannot run dem.
        """
        if self._cores and time.monotonic() < self._looked + LOOK:
            return self._cores
        while not (cores := self._look()):
            time.sleep(LOOK)
        return cores

    def wait(
        self,
        ask: Callable[[], Awaitable[T]],
        there: Mapping[str, int] | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> T:
        """Wait for an answer of the cluster.

        Parameters
        ----------
        ask : callable
            Called on the client's event loop.
        there : mapping, optional
            The workers that the answer depends on, as from `cores`.
        tick : callable, optional
            Called several times a second meanwhile.

        Raises
        ------
        WorkersChanged
            If other workers are there than those.
        EngineError
            If there has been no worker for too long.
        """
        # Not `Future.result`, which prints a traceback of its own when Ctrl-C comes as it begins to wait.
        answer, looked = self._asked(ask), time.monotonic()
        ended = _end_of(answer)
        while not _comes(ended, min(TICK, LOOK)):
            tick()
            if time.monotonic() < looked + LOOK:
                continue
            cores, looked = self._look(), time.monotonic()
            if there is not None and cores != there:
                answer.cancel()
                raise WorkersChanged
        return answer.result()

    @property
    def alone(self) -> bool:
        """Whether no worker is ready."""
        return self._alone_since is not None

    def check_progress(self, since: float, n_left: int, rows: Rows) -> None:
        """Give up a sweep of which nothing has come for too long though there are workers.

        Parameters
        ----------
        since : float
            When the last batch ended (`time.monotonic`).
        n_left : int
            Batches that are under way.
        rows : Rows
            What is read.

        Raises
        ------
        EngineError
            Naming the workers.
        """
        if time.monotonic() - since < self._stall:
            return
        tasks = self._ask(lambda: self.scheduler.processing(workers=None)) or {}
        busy = ", ".join(sorted(worker for worker, keys in tasks.items() if keys)) or "none of the workers"
        message = (
            f"nothing has come of {rows.name} for {human_seconds(self._stall)}: {plural(n_left, 'part')} under "
            f"way, {busy} at work; see there what they wait for (a store or a disk that does not answer), or wait "
            "longer (dask's setting dem.stall-timeout)"
        )
        raise EngineError(message)

    def _look(self) -> Mapping[str, int]:
        """Ask which workers are there, and check those that are new; without any, tell so, and give up in the end."""
        cores = self._ask(lambda: _cores(self.scheduler))
        if cores is None:
            return self._cores
        self._cores, self._looked = cores, time.monotonic()
        if not cores:
            self._wait_on()
        elif self._alone_since is not None:
            if self._tell_after > TELL_AFTER:
                self.told(WorkersAwaited(self._looked - self._alone_since, self.timeout, len(cores)))
            self._alone_since, self._tell_after = None, TELL_AFTER
        new = sorted(cores.keys() - self._checked)
        if new and (answers := self._ask(lambda: self.client.run(_versions, workers=new, on_error="return"))):
            self._checked.update(compare(answers))
        return cores

    def _wait_on(self) -> None:
        """Tell how long there has been no worker; give up where that is too long."""
        if self._alone_since is None:
            self._alone_since = self._looked
        waited = self._looked - self._alone_since
        if waited >= self.timeout:
            message = (
                f"no worker of the cluster at {self.address} was ready for {human_seconds(self.timeout)}; start some, "
                "see in their logs why they ended, or wait longer (--worker-timeout, dask's setting dem.worker-timeout)"
            )
            raise EngineError(message)
        if waited >= self._tell_after:
            self._tell_after *= 2
            self.told(WorkersAwaited(waited, self.timeout))

    def _ask(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Return an answer of the cluster, or None if there is none in time."""
        answer = self._asked(ask)
        if _comes(_end_of(answer), PATIENCE):
            return answer.result()
        answer.cancel()
        return None

    def _asked(self, ask: Callable[[], Awaitable[T]]) -> Future[T]:
        """Ask on the client's event loop, where Dask's methods return what can be awaited."""
        if self.client.status in ("closing", "closed"):  # there may be no loop any more
            message = "its client was closed"
            raise ClosedClientError(message)
        loop: Any = self.client.loop
        return asyncio.run_coroutine_threadsafe(_awaited(ask), loop.asyncio_loop)

    @contextmanager
    def errors_in_one_line(self, rows: Rows | None = None) -> Iterator[None]:
        """Say what became of the cluster when its tasks cannot be sent or do not come back."""
        try:
            yield
        except KilledWorker as error:
            raise EngineError(_killed(error, rows)) from error
        except EngineError:
            raise
        except RuntimeError as error:
            if isinstance(error.__cause__, ImportError):  # Dask says so of graphs that its scheduler cannot load
                message = (
                    f"the scheduler at {self.address} cannot import what tasks need ({error.__cause__}); install "
                    f"dask-em {_versions()['dask-em']} there, as on the workers"
                )
                raise EngineError(message) from error
            raise
        except (CancelledError, ClosedClientError, OSError) as error:
            of_the_link = isinstance(error, CommClosedError) or str(error).startswith("Timed out trying to connect to")
            if isinstance(error, OSError) and not of_the_link:  # of the data
                raise
            message = f"the cluster at {self.address} went away ({first_line(error)}); start it and the fit again"
            raise EngineError(message) from error


async def _cores(scheduler: Any) -> dict[str, int]:
    """Return the threads of all workers; of none if none of them runs tasks (one that is paused does not)."""
    # One after the other: of two at once that fail, asyncio would write the second's traceback.
    every = await scheduler.ncores(workers=None)
    return every if await scheduler.ncores_running(workers=None) else {}


def _end_of(answer: Future[Any]) -> queue.SimpleQueue[Any]:
    """Return a queue into which an answer is put as it comes.

    In `concurrent.futures.wait` Ctrl-C may come where Python's own lock is let go twice, and then a traceback shows;
    this queue waits in C.
    """
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    answer.add_done_callback(ended.put)
    return ended


def _comes(ended: queue.SimpleQueue[Any], seconds: float) -> bool:
    try:
        ended.get(timeout=seconds)
    except queue.Empty:
        return False
    return True


async def _awaited(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()


def _killed(error: KilledWorker, rows: Rows | None) -> str:
    limit = error.last_worker.memory_limit
    has = f"; the last one, {error.last_worker.address}, had a memory limit of {human_bytes(limit)}" if limit else ""
    takes = ""
    if rows is not None:
        chunk = math.prod(rows.grid_chunks) * rows.n_features * rows.dtype.itemsize
        takes = f", and a chunk of {rows.name} takes up to {human_bytes(chunk)} decoded, of which a thread holds two"
    return (
        f"workers died {error.allowed_failures + 1} times over the same chunks, probably for lack of memory{has}{takes}"
        "; give them more (--memory-limit, memory_limit), or store the data in smaller chunks"
    )


def _versions() -> dict[str, str]:
    """Return the versions of this process that matter to its tasks."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    found["arithmetic"] = native.offered()
    if why := native.failure():
        found["arithmetic"] += f" ({why})"
    return found


def compare(answers: Mapping[str, Any]) -> list[str]:
    """Compare the versions of workers with those of this process; return the workers that have answered.

    Raises
    ------
    EngineError
        Naming the worker, the package and both versions.
    """
    here = _versions()
    answered = []
    for worker, there in answers.items():
        if isinstance(there, Exception):
            if "ModuleNotFoundError" in repr(there) or "ImportError" in repr(there):
                message = f"worker {worker} cannot import dem ({there}); install dask-em {here['dask-em']} there"
                raise EngineError(message) from there
            continue  # it is gone, or will be asked again
        answered.append(worker)
        for package, wanted in here.items():
            if there[package] != wanted:
                message = (
                    f"worker {worker} has {package} {there[package]}, this process {wanted}; "
                    "install the same versions on all machines"
                )
                if package == "arithmetic":
                    message += f", or set {native.SETTING} alike"
                raise EngineError(message)
    return answered


def first_line(error: BaseException) -> str:
    """Return the beginning of what an error says."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
