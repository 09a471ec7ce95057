"""Reads of a store on another machine: several are in flight, of the batch in work and of those behind it.

A store that takes 50 ms to answer gives each reader twenty chunks a second, however fast its link. So a process asks
for as many chunks as it computes with while one is on its way (J. D. C. Little, Operations Research 9, 1961), within
the memory that `in_flight_bytes` states. Each batch takes its chunks in their order, whenever they come: the number in
flight changes no bits.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import NamedTuple

import dask

from dem.data.base import Batch, Chunk, Rows
from dem.data.checks import rows_text
from dem.data.retries import Retries, counted, timed
from dem.errors import EngineError, OptionError
from dem.units import human_seconds

#: the setting that says how many reads a process has in flight
SETTING = "dem.reads-in-flight"
# Unless that says it: bytes that they take in a process, stored and decoded, and how many they are at most.
_MOST_BYTES, _MOST_READS = 2**28, 32
# Reads, and chunks computed with, of which the pace is the median.
_REMEMBERED = 32
# Seconds between two looks whether a read that hangs is still wanted.
TICK = 0.1


class InFlight(NamedTuple):
    """How many reads a process has in flight: so many, or what they are found to ask for up to that."""

    most: int
    is_fixed: bool


def reads_in_flight(rows: Rows, n_threads: int, most: int | None = None) -> InFlight | None:
    """Return how many reads of rows a process has in flight at most; None where each thread reads one chunk ahead.

    Parameters
    ----------
    rows : Rows
    n_threads : int
        Threads that compute.
    most : int, optional
        What there is room for, where that was judged.

    Raises
    ------
    OptionError
        If the setting is no number.
    """
    given = dask.config.get(SETTING, "auto")
    if given != "auto" and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        message = f"{SETTING} must be 'auto' or a whole number from 1 on, not {given!r}"
        raise OptionError(message)
    if rows.waits is None or (given == "auto" and not rows.waits):
        return None
    if given != "auto":
        return InFlight(given, is_fixed=True)
    fitting = _MOST_BYTES // max(in_flight_bytes(rows), 1)
    return InFlight(max(min(fitting, _MOST_READS, most or _MOST_READS), n_threads), is_fixed=False)


def in_flight_bytes(rows: Rows) -> int:
    """Return what a read takes that is in flight, or has come and is not in work yet."""
    return rows.read_bytes + rows.decoding_bytes


class Pace:
    """How long reads wait and are decoded, and chunks are computed with: what tells how many reads to have in flight.

    Parameters
    ----------
    n_threads : int
        Threads that compute.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._waits: deque[float] = deque(maxlen=_REMEMBERED)
        self._decodes: deque[float] = deque(maxlen=_REMEMBERED)
        self._works: deque[float] = deque(maxlen=_REMEMBERED)

    def read(self, seconds: float, waited: float) -> None:
        """Note a read that took so long, and of that waited for the store."""
        self._waits.append(waited)
        self._decodes.append(max(seconds - waited, 0.0))

    def worked(self, seconds: float) -> None:
        """Note a chunk that was computed with for so long."""
        self._works.append(seconds)

    def wanted(self) -> float:
        """Return how many reads keep the threads busy; infinite as long as too little is known.

        While a read waits and is decoded, all threads together take as many chunks as they decode and compute with, and
        as many more lie ready as there are threads.
        """
        if min(len(self._waits), len(self._works)) < 2 * self.n_threads:
            return math.inf
        wait, decode, work = (statistics.median(list(one)) for one in (self._waits, self._decodes, self._works))
        return self.n_threads + math.ceil((wait + decode) * self.n_threads / max(decode + work, 1e-6))


class Reading:
    """The reads of a process: those in flight, and those that have come and wait to be taken.

    Parameters
    ----------
    n_threads : int
        Threads that compute.
    """

    def __init__(self, n_threads: int) -> None:
        self.pace = Pace(n_threads)
        self.n_in_flight = self._n_running = 0
        self._in_flight = InFlight(1, is_fixed=True)
        self._batches: list[Reads] = []  # in the order in which they will be taken
        self._changed = threading.Condition(threading.RLock())
        self._pool: ThreadPoolExecutor | None = None

    def add(self, batch: Batch, retries: Retries, in_flight: InFlight) -> Reads:
        """Let the chunks of a batch be read, behind those of the batches before; so many are in flight from now on."""
        reads = Reads(self, batch, retries)
        with self._changed:
            self._in_flight = in_flight
            self._batches.append(reads)
        return reads

    @property
    def limit(self) -> int:
        """How many reads to have in flight."""
        most, is_fixed = self._in_flight
        return most if is_fixed else int(min(self.pace.wanted(), most))

    def has_more(self, reads: Reads) -> bool:
        """Tell whether there are chunks of a batch that were not taken."""
        with self._changed:
            return bool(reads.requested or reads.n_left)

    def wait_for(self, reads: Reads, seconds: float) -> Future[Chunk] | None:
        """Return the next read of a batch that is in work; None if it could not be requested in that time."""
        with self._changed:
            reads.in_work = True
            self._request()
            if not reads.requested:
                self._changed.wait(seconds)
            return reads.requested[0] if reads.requested else None

    def taken(self, reads: Reads) -> None:
        """Note that the chunk of the first read of a batch goes to work, and request what there is room for."""
        with self._changed:
            reads.requested.popleft()
            self.n_in_flight -= 1
            self._request()

    def forget(self, reads: Reads) -> None:
        """Let go of a batch, and of what was read of it and not taken."""
        with self._changed:
            if reads in self._batches:
                self._batches.remove(reads)
                for future in reads.requested:
                    future.cancel()
                self.n_in_flight -= len(reads.requested)
                reads.requested.clear()
                self._request()

    def close(self) -> None:
        """End the threads; those that read, of a store that may never answer, are left to themselves."""
        with self._changed:
            for reads in self._batches:
                reads.retries.stops[0].set()
                reads.requested.clear()
            self._batches.clear()
            self.n_in_flight = 0
            pool, self._pool = self._pool, None
            any_left = self._n_running > 0
            self._changed.notify_all()
        if pool is not None:
            pool.shutdown(wait=not any_left, cancel_futures=True)

    def _request(self) -> None:
        limit = self.limit
        while self.n_in_flight < limit and (reads := self._next()) is not None:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._in_flight.most, thread_name_prefix="dem-read")
            reads.requested.append(self._pool.submit(self._read, *reads.next_read()))
            self.n_in_flight += 1
        self._changed.notify_all()

    def _next(self) -> Reads | None:
        """Return the batch whose turn it is: of those in work that for which least is under way; then in order."""
        in_work = [reads for reads in self._batches if reads.in_work and reads.n_left]
        if in_work:
            return min(in_work, key=lambda reads: (len(reads.requested), reads.n_read))
        return next((reads for reads in self._batches if reads.n_left), None)

    def _read(self, context: Context, read: Callable[[], Chunk]) -> Chunk:
        return context.run(self._timed, read)

    def _timed(self, read: Callable[[], Chunk]) -> Chunk:
        began = time.monotonic()
        with self._changed:
            self._n_running += 1
        try:
            with timed() as waited:
                chunk = read()
        finally:
            with self._changed:
                self._n_running -= 1
        self.pace.read(time.monotonic() - began, waited.seconds)
        return chunk


class Reads:
    """The reads of a batch; see `Batch.made_of`. Its state is changed, and looked at, under the lock of `Reading`."""

    def __init__(self, reading: Reading, batch: Batch, retries: Retries) -> None:
        self.requested: deque[Future[Chunk]] = deque()
        self.retries, self.in_work, self.n_read = retries, False, 0
        self._reading, self._batch = reading, batch
        self._left: deque[Callable[[], Chunk]] | None = None
        self._since = 0.0

    @property
    def n_left(self) -> int:
        """How many are not requested yet."""
        if self._left is None:  # not before: all the reads of all batches are many
            self._left = deque(self._batch.independent_reads() or ())
        return len(self._left)

    def next_read(self) -> tuple[Context, Callable[[], Chunk]]:
        """Return the next that is to be requested, and the context in which its failures are counted."""
        assert self._left is not None  # noqa: S101 - only those are asked that have any left
        self.n_read += 1
        with counted(self.retries):
            return copy_context(), self._left.popleft()

    def forget(self) -> None:
        """Let go of what was read and not taken."""
        self._reading.forget(self)

    def taken(self, patience: float) -> Iterator[Chunk]:
        """Yield the chunks in order.

        Raises
        ------
        EngineError
            Naming the rows, if one does not come for so many seconds.
        """
        reading = self._reading
        try:
            while reading.has_more(self):
                yield self._awaited(patience)
                reading.pace.worked(time.monotonic() - self._since)
        except BaseException:  # an interrupt, or a consumer that stops, must not wait until a store answers
            self.retries.stops[0].set()
            raise
        finally:
            reading.forget(self)

    def _awaited(self, patience: float) -> Chunk:
        """Wait for the next chunk, while anybody waits for it."""
        deadline = time.monotonic() + patience
        while True:
            future = self._reading.wait_for(self, TICK)
            if future is not None:
                try:
                    chunk = future.result(TICK)
                except TimeoutError as error:
                    if future.done() and future.exception() is error:  # the store's own
                        raise
                else:
                    self._reading.taken(self)
                    self._since = time.monotonic()
                    return chunk
            late = time.monotonic() > deadline
            if late or self.retries.stopped:
                message = stalled(self._batch.span, patience)
                raise EngineError(message if late else "stopped")


def stalled(span: range | None, patience: float) -> str:
    """Word that nothing has come of rows for so many seconds."""
    return (
        f"nothing has come of {rows_text(span.start, span.stop) if span else 'the data'} for "
        f"{human_seconds(patience)}: a store or a disk does not answer; see to it, or wait longer (dask's setting "
        "dem.stall-timeout)"
    )
