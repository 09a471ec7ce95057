"""The engine of one process: a thread per core."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from dem.data.base import Batch, Rows
from dem.engine.base import ByBatch, Engine, Told, Work, checked, run_batch, warn_of_waiting, with_found
from dem.events import BatchEnded
from dem.statistics import TreeSum


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
    """A sweep over numbered batches, whose totals are added as they become ready.

    It runs on threads if it was begun there, else in the thread that asks for its result.
    """

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
        self._n_told = 0
        self._futures: list[Future[int]] = []
        self._ended: SimpleQueue[Future[int]] = SimpleQueue()

    def begin(self, pool: ThreadPoolExecutor, stop: threading.Event) -> None:
        """Give the batches to threads, which leave off when they are told to stop."""
        for place in range(len(self.batches)):
            self._futures.append(pool.submit(self._run, place, stop))
            self._futures[-1].add_done_callback(self._ended.put)

    def result(self) -> list[Any]:
        """Wait for all batches, telling of each; see `Pending.result`."""
        while self._n_told < len(self.batches):
            n_rows = self._next() if self._futures else self._run(self._n_told)
            self._n_told += 1
            self._told(BatchEnded(n_rows, self._rows.n_rows, time.monotonic() - self._began))
        if self._parts is not None:
            return checked(self._rows, self._parts, by_batch=True)
        return checked(self._rows, self._sum.result, by_batch=False)

    def _next(self) -> int:
        """Wait for the next batch that ends, wherever it is; an error is that of the first batch that has one."""
        ended = self._ended.get()
        if ended.cancelled() or ended.exception() is not None:
            for future in self._futures:
                future.result()
        return ended.result()

    def _run(self, place: int, stop: threading.Event | None = None) -> int:
        """Take a batch through all works, add what it gives, and return its number of rows."""
        number, batch = self.batches[place]
        works = [work.works[number] if isinstance(work, ByBatch) else work for work in self._works]
        part = run_batch(batch, works, stop=stop)
        with self._lock:
            if self._parts is None:
                self._sum.add(place, part)
            else:
                self._parts[place] = part
        return batch.n_rows


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
