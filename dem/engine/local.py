"""The engine of one process: a thread per core."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from dem.data.base import Batch, Rows
from dem.engine.base import Work, checked, run_batch, with_found
from dem.statistics import tree_sum


class LocalEngine:
    """Runs the batches on threads of this process.

    The threads stay from sweep to sweep, and with them the workspaces of the kernels; they end with the engine.

    Parameters
    ----------
    n_threads : int, optional
        Number of threads; as many as the process may use cores when left out.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        self.n_threads = n_threads or available_cores()
        self._pool: ThreadPoolExecutor | None = None
        self._stop = threading.Event()
        self._batches: WeakKeyDictionary[Rows, Sequence[Batch]] = WeakKeyDictionary()

    def sweep(self, rows: Rows, works: Sequence[Work]) -> list[Any]:
        """Read `rows` once and apply every work to every chunk; see `Engine.sweep`."""
        batches = rows.batches()
        if self.n_threads == 1 or len(batches) == 1:
            return checked(rows, tree_sum([run_batch(batch, with_found(works)) for batch in batches]))
        pending = self._begin(rows, batches, works)
        try:
            return pending.result()
        except BaseException:  # an interrupt too must not leave threads at work
            self.close()
            raise

    def submit(self, rows: Rows, works: Sequence[Work], batches: slice) -> Summed:
        """Begin a sweep over some batches; see `Engine.submit`."""
        if rows not in self._batches:
            self._batches[rows] = rows.batches()
        return self._begin(rows, self._batches[rows][batches], works)

    def _begin(self, rows: Rows, batches: Sequence[Batch], works: Sequence[Work]) -> Summed:
        if self._pool is None:
            self._pool, self._stop = ThreadPoolExecutor(self.n_threads, thread_name_prefix="dem"), threading.Event()
        parts = [self._pool.submit(run_batch, batch, with_found(works), stop=self._stop) for batch in batches]
        return Summed(rows, parts)

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        self._batches.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@dataclass(frozen=True)
class Summed:
    """The batches of a sweep, under way on threads."""

    rows: Rows
    parts: Sequence[Future[list[Any]]]

    def result(self) -> list[Any]:
        """Wait for all of them and add them in their order."""
        return checked(self.rows, tree_sum([part.result() for part in self.parts]))


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
