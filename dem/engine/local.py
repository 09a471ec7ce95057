"""The engine of one process, a thread per core, and the choice between it and a cluster."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psutil

from dem.beside_chunks import KEPT
from dem.data.base import Batch, Rows
from dem.data.retries import Retries
from dem.engine.base import ByBatch, Each, Engine, Room, Told, Work, checked, longest_wait, run_batch, warn_of_waiting
from dem.engine.reading import Reading, Reads, reads_in_flight
from dem.errors import OptionError
from dem.events import BatchEnded
from dem.statistics import TreeSum

if TYPE_CHECKING:
    from distributed import Client

# Seconds between two looks at what has come of a sweep; to wake for each batch costs more than a small one.
TICK = 0.1

# Where a container sees its limit of memory, and what it has taken, in either version of control groups.
_CONTROL_GROUPS = {
    Path("/sys/fs/cgroup"): ("memory.max", "memory.current"),
    Path("/sys/fs/cgroup/memory"): ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}

_told: ContextVar[Told] = ContextVar("told", default=warn_of_waiting)


class LocalEngine(Engine):
    """Runs the batches on threads of this process.

    The threads stay from sweep to sweep, and with them the workspaces of the kernels; they end with the engine.

    Parameters
    ----------
    n_threads : int, optional
        Number of threads; as many as the process may use cores when left out.
    told : callable
        Called with `BatchEnded`.
    """

    def __init__(self, n_threads: int | None = None, told: Told = warn_of_waiting) -> None:
        self.n_threads = n_threads or available_cores()
        self.told = told
        self._pool: ThreadPoolExecutor | None = None
        self._stop = threading.Event()
        self._reading = Reading(self.n_threads)
        self._batches: WeakKeyDictionary[Rows, tuple[int, Sequence[Batch]]] = WeakKeyDictionary()

    def sweep(self, rows: Rows, works: Sequence[Work | ByBatch], *, by_batch: bool = False) -> list[Any]:
        """Read `rows` once and apply every work to every chunk; see `Engine.sweep`."""
        begun = self._begun(rows, list(enumerate(rows.batches())), works, by_batch=by_batch)
        try:
            if self.n_threads > 1 and len(begun.batches) > 1:
                self._begin(begun)
            return begun.result()
        except BaseException:  # an interrupt too must not leave threads at work
            self.close()
            raise

    def submit(
        self, rows: Rows, works: Sequence[Work | ByBatch], batches: slice = slice(None), *, by_batch: bool = False
    ) -> Begun:
        """Begin a sweep over some batches; see `Engine.submit`."""
        n_left_out, known = self._batches.get(rows, (-1, []))
        if n_left_out != rows.n_left_out:
            known = rows.batches()
            self._batches[rows] = rows.n_left_out, known
        begun = self._begun(rows, list(enumerate(known))[batches], works, by_batch=by_batch)
        self._begin(begun)
        return begun

    def _begun(
        self, rows: Rows, batches: Sequence[tuple[int, Batch]], works: Sequence[Work | ByBatch], *, by_batch: bool
    ) -> Begun:
        begun = Begun(rows, batches, works, self.told, by_batch=by_batch, loops=self.uses_loops())
        KEPT.limit = KEPT.n_bytes + free_memory() // 4
        in_flight = reads_in_flight(rows, self.n_threads, self.most_in_flight)
        if in_flight is not None:
            begun.reads = [self._reading.add(batch, begun.retries.anew(), in_flight) for _, batch in batches]
        return begun

    def _begin(self, begun: Begun) -> None:
        if self._pool is None:
            self._pool, self._stop = ThreadPoolExecutor(self.n_threads, thread_name_prefix="dem"), threading.Event()
        begun.begin(self._pool, self._stop)

    def rooms(self) -> list[Room]:
        """Return what is free for this process."""
        return [Room("this process", free_memory(), self.n_threads, is_here=True)]

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        self._batches.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._reading.close()


class Begun:
    """A sweep over numbered batches, whose totals are added as they become ready."""

    def __init__(
        self,
        rows: Rows,
        batches: Sequence[tuple[int, Batch]],
        works: Sequence[Work | ByBatch],
        told: Told,
        *,
        by_batch: bool,
        loops: bool,
    ) -> None:
        self.batches, self._loops = batches, loops
        self.retries = Retries.configured()
        #: of each batch, where several are in flight
        self.reads: Sequence[Reads | None] = [None] * len(batches)
        self._rows, self._works, self._told = rows, works, told
        self._parts: list[list[Any]] | None = [[] for _ in batches] if by_batch else None
        self._sum: TreeSum[Any] = TreeSum(len(batches))
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._futures: list[Future[None]] = []
        self._ended: deque[tuple[BatchEnded, int, list[Any]]] = deque()

    def begin(self, pool: ThreadPoolExecutor, stop: threading.Event) -> None:
        """Give the batches to threads, which leave off when they are told to stop."""
        self._futures = [pool.submit(self._run, place, stop) for place in range(len(self.batches))]

    def result(self, each: Each | None = None) -> list[Any]:
        """Wait for all batches, telling of them; see `Pending.result`. An error is that of the first that has one.

        What was not given to threads is done here and now.
        """
        for place in () if self._futures else range(len(self.batches)):
            self._run(place)
            self._tell(each)
        left = set(self._futures)
        while left:
            ended, left = wait(left, timeout=TICK, return_when=FIRST_EXCEPTION)
            self._tell(each)
            if any(future.cancelled() or future.exception() is not None for future in ended):
                for future in self._futures:
                    future.result()
        totals = self._sum.result if self._parts is None else self._parts
        return checked(self._rows, totals, self._told, by_batch=self._parts is not None)

    def _tell(self, each: Each | None) -> None:
        while self._ended:
            event, number, part = self._ended.popleft()
            self._told(event)
            if each is not None:
                each(number, part)

    def _run(self, place: int, stop: threading.Event | None = None) -> None:
        """Take a batch through all works, and add what it gives."""
        number, batch = self.batches[place]
        works = [work.works[number] if isinstance(work, ByBatch) else work for work in self._works]
        how: dict[str, Any] = {"stop": stop, "reads": self.reads[place], "loops": self._loops}
        part = run_batch(batch, works, retries=self.retries.anew(), **how)
        with self._lock:
            if self._parts is None:
                self._sum.add(place, part)
            else:
                self._parts[place] = part
            event = BatchEnded(batch.n_rows, self._rows.n_rows, time.monotonic() - self._began)
            self._ended.append((event, number, part))


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """Return the bytes that this process may still take: those free on this machine, or in its control group (Linux).

    What only caches files counts as free.
    """
    free = int(psutil.virtual_memory().available)
    for folder, names in _CONTROL_GROUPS.items():
        try:
            limit, used = (int((folder / name).read_text(encoding="ascii")) for name in names)
            known = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):  # there is none, or it has no limit ("max")
            continue
        free = min(free, max(limit - used + int(known.get("inactive_file", 0)), 0))
    return free


@contextmanager
def telling(told: Told) -> Iterator[None]:
    """Let the engines that `current_engine` returns meanwhile tell of themselves, unless they are given another one."""
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


def current_told() -> Told:
    """Return who is told by engines that nobody else listens to: see `telling`."""
    return _told.get()


def current_engine(told: Told | None = None) -> Engine:
    """Return the engine of the active `distributed.Client` if there is one, else threads of this process.

    Parameters
    ----------
    told : callable, optional
        Called with `BatchEnded`, and with `WorkersAwaited` while a cluster has no worker that is ready.
    """
    told = told or current_told()
    # Without `distributed` imported there can be no active client, and its import takes half a second.
    client = _active_client() if "distributed" in sys.modules else None
    if client is None or client.status != "running":
        return LocalEngine(told=told)
    from dem.engine.cluster import ClusterEngine  # noqa: PLC0415

    return ClusterEngine(client, told)


def _active_client() -> Client | None:
    from distributed import get_client, get_worker  # noqa: PLC0415

    try:
        get_worker()
    except ValueError:
        with suppress(ValueError):  # there is none
            return get_client()
    return None  # inside a task, where waiting for other tasks could block the cluster


@contextmanager
def connect(
    scheduler: str | None = None,
    workers: int | None = None,
    memory_limit: str | None = None,
    worker_timeout: str | None = None,
    security: str | None = None,
) -> Iterator[Engine]:
    """Open the engine that the options ask for and close it at the end.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running Dask scheduler.
    workers : int, optional
        Number of worker processes to start on this machine.
    memory_limit : str, optional
        Memory of each started worker, for instance ``"2GB"``.
    worker_timeout : str, optional
        How long to go on without any worker, for instance ``"90s"``; as dask's setting ``dem.worker-timeout``, or five
        minutes, when left out.
    security : str, optional
        A folder of certificates with which all connections are encrypted, and strangers turned away, as
        ``deploy/hosts/tls.sh`` makes it (or ``ca.pem``, ``cert.pem``, ``key.pem``); ``"temporary"`` makes some for the
        processes that are started. What is started listens on loopback only, with or without them.

    Yields
    ------
    Engine
        While it is open, `current_engine` returns an engine on the same cluster. With neither option it is
        `LocalEngine`.

    Raises
    ------
    OptionError
        If both `scheduler` and `workers` are given, `workers` is below 1, a size or a time is none, or certificates are
        missing.
    EngineError
        If the scheduler does not answer within 10 seconds or its workers run other versions.
    """
    if scheduler is not None and workers is not None:
        message = "give either a scheduler's address or a number of workers to start, not both"
        raise OptionError(message)
    if workers is not None and workers < 1:
        message = f"the number of workers must be at least 1, not {workers}"
        raise OptionError(message)
    if memory_limit is not None:
        from dask.utils import parse_bytes  # noqa: PLC0415

        try:
            parse_bytes(memory_limit)
        except ValueError as error:
            message = f"the memory limit must be a number of bytes such as '2GB', not {memory_limit!r}"
            raise OptionError(message) from error
    if scheduler is None and workers is None:
        if security is not None:
            message = "security is for a cluster; give a scheduler's address or a number of workers too"
            raise OptionError(message)
        yield LocalEngine()
        return
    import dask  # noqa: PLC0415

    from dem.engine.client import open_client  # noqa: PLC0415
    from dem.engine.cluster import ClusterEngine  # noqa: PLC0415

    with dask.config.set({} if worker_timeout is None else {"dem.worker-timeout": worker_timeout}):
        longest_wait()  # judges it, before anything is started
        with open_client(scheduler, workers, memory_limit, security) as client:
            yield ClusterEngine(client)
