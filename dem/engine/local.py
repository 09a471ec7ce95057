"""The engine of one process: a thread per core."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any
from weakref import WeakKeyDictionary

from dem.data.base import Batch, Rows
from dem.engine.base import ByBatch, Engine, Told, Work, checked, run_batch, warn_of_waiting, with_found
from dem.events import BatchEnded
from dem.statistics import TreeSum

# Seconds between two looks at what has come of a sweep; to wake for each batch costs more than a small one.
TICK = 0.1


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
        self._batches: WeakKeyDictionary[Rows, Sequence[Batch]] = WeakKeyDictionary()

    def sweep(self, rows: Rows, works: Sequence[Work | ByBatch], *, by_batch: bool = False) -> list[Any]:
        """Read `rows` once and apply every work to every chunk; see `Engine.sweep`."""
        begun = Begun(rows, list(enumerate(rows.batches())), works, self.told, by_batch=by_batch)
        try:
            if self.n_threads == 1 or len(begun.batches) == 1:
                begun.run()
            else:
                self._begin(begun)
            return begun.result()
        except BaseException:  # an interrupt too must not leave threads at work
            self.close()
            raise

    def submit(
        self, rows: Rows, works: Sequence[Work | ByBatch], batches: slice = slice(None), *, by_batch: bool = False
    ) -> Begun:
        """Begin a sweep over some batches; see `Engine.submit`."""
        if rows not in self._batches:
            self._batches[rows] = rows.batches()
        begun = Begun(rows, list(enumerate(self._batches[rows]))[batches], works, self.told, by_batch=by_batch)
        self._begin(begun)
        return begun

    def _begin(self, begun: Begun) -> None:
        if self._pool is None:
            self._pool, self._stop = ThreadPoolExecutor(self.n_threads, thread_name_prefix="dem"), threading.Event()
        begun.begin(self._pool, self._stop)

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        self._batches.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


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
    ) -> None:
        self.batches = batches
        self._rows, self._works, self._told = rows, with_found(works), told
        self._parts: list[list[Any]] | None = [[] for _ in batches] if by_batch else None
        self._sum: TreeSum[Any] = TreeSum(len(batches))
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._futures: list[Future[None]] = []
        self._ended: deque[BatchEnded] = deque()

    def begin(self, pool: ThreadPoolExecutor, stop: threading.Event) -> None:
        """Give the batches to threads, which leave off when they are told to stop."""
        self._futures = [pool.submit(self._run, place, stop) for place in range(len(self.batches))]

    def run(self) -> None:
        """Take the batches through all works in this thread."""
        for place in range(len(self.batches)):
            self._run(place)
            self._tell()

    def result(self) -> list[Any]:
        """Wait for all batches, telling of them; see `Pending.result`. An error is that of the first that has one."""
        left = set(self._futures)
        while left:
            ended, left = wait(left, timeout=TICK, return_when=FIRST_EXCEPTION)
            self._tell()
            if any(future.cancelled() or future.exception() is not None for future in ended):
                for future in self._futures:
                    future.result()
        if self._parts is not None:
            return checked(self._rows, self._parts, by_batch=True)
        return checked(self._rows, self._sum.result, by_batch=False)

    def _tell(self) -> None:
        while self._ended:
            self._told(self._ended.popleft())

    def _run(self, place: int, stop: threading.Event | None = None) -> None:
        """Take a batch through all works, and add what it gives."""
        number, batch = self.batches[place]
        works = [work.works[number] if isinstance(work, ByBatch) else work for work in self._works]
        part = run_batch(batch, works, stop=stop)
        with self._lock:
            if self._parts is None:
                self._sum.add(place, part)
            else:
                self._parts[place] = part
            self._ended.append(BatchEnded(batch.n_rows, self._rows.n_rows, time.monotonic() - self._began))


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
