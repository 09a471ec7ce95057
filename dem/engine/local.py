"""The engine of one process: a thread per core."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dem.data.base import Rows
from dem.engine.base import Work, run_batch
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

    def sweep(self, rows: Rows, works: Sequence[Work]) -> list[Any]:
        """Read `rows` once and apply every work to every chunk; see `Engine.sweep`."""
        batches = rows.batches()
        if self.n_threads == 1 or len(batches) == 1:
            return tree_sum([run_batch(batch, works) for batch in batches])
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.n_threads, thread_name_prefix="dem")
        stop = threading.Event()
        futures = [self._pool.submit(run_batch, batch, works, stop=stop) for batch in batches]
        try:
            return tree_sum([future.result() for future in futures])
        except BaseException:  # an interrupt too must not leave threads at work
            stop.set()
            self.close()
            raise

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
