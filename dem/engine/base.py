"""What every engine does: one read of the data, each work applied to each chunk, sums in a fixed order."""

from __future__ import annotations

import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, Self, TypeVar

import threadpoolctl

from dem.data.base import Batch, Chunk, Rows
from dem.data.found import Found
from dem.data.retries import Retries, counted, give_up, given_up
from dem.engine.cache import ChunkCache
from dem.engine.reading import TICK, Reads, stalled
from dem.errors import DataWarning, EngineError, EngineWarning, OptionError
from dem.events import BatchEnded, ChunksLeftOut, ReadsRetried, WorkersAwaited, WritingResumed
from dem.namespaces import is_on_device, on_host, takes_device
from dem.native import is_permitted, permitted
from dem.shared_setting import shared_setting
from dem.statistics import add_models
from dem.units import human_seconds

T = TypeVar("T")

#: the setting that says how long to wait where nothing comes of the data, and for how long unless it is set
STALL = ("dem.stall-timeout", "1 hour")

#: What is done with one chunk: a picklable callable without side effects on its arguments.
Work = Callable[[Chunk], Any]


#: Who is told how far a read has come, and that workers are awaited: on the driver, by whoever waits for a result.
ReadEvent = WorkersAwaited | BatchEnded | ReadsRetried | ChunksLeftOut | WritingResumed
Told = Callable[[ReadEvent], None]

#: Who is given the totals of each batch as it ends, with its number, on the driver; the last of them is a `Found`.
Each = Callable[[int, list[Any]], None]


def warn_of_waiting(event: ReadEvent) -> None:
    """Tell by a warning that workers are awaited."""
    if isinstance(event, WorkersAwaited) and event.n_workers == 0:
        message = (
            f"waiting for workers of the cluster: none has been ready for {human_seconds(event.seconds)}; given up "
            f"after {human_seconds(event.timeout)} (dask's setting dem.worker-timeout)"
        )
        warnings.warn(message, EngineWarning, stacklevel=2)


@dataclass(frozen=True, eq=False)
class ByBatch:
    """A work that differs from batch to batch, as where a second array is cut to their spans.

    Attributes
    ----------
    works : sequence of callables
        One for each of ``rows.batches()``. Each travels with its batch alone.
    """

    works: Sequence[Work]

    def map(self, change: Callable[[Work], Work]) -> ByBatch:
        """Return the work with each of its works changed."""
        return ByBatch([change(work) for work in self.works])


@dataclass(frozen=True)
class Room:
    """The memory of a process in which batches are worked on.

    Attributes
    ----------
    holder : str
        What messages call it.
    limit : int or None
        Bytes that it may take, of this process those that are left to it; None where nobody has said.
    n_threads : int
        Batches that are worked on at the same time.
    is_here : bool
        Whether it is this process: what that takes now is not counted any more.
    """

    holder: str
    limit: int | None
    n_threads: int
    is_here: bool = False


class Pending(Protocol):
    """A sweep over some batches that has begun."""

    def result(self, each: Each | None = None) -> list[Any]:
        """Wait for it and return the totals, as `Engine.sweep` does; meanwhile give `each` those of every batch."""


class Engine(ABC):
    """Where the work runs. As a context manager it gives back at the end what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sweep(self, rows: Rows, works: Sequence[Work | ByBatch], *, by_batch: bool = False) -> list[Any]:
        """Read `rows` once and apply every work to every chunk.

        Parameters
        ----------
        rows : Rows
            The data.
        works : sequence of callables
            Each maps a `Chunk` to something `Additive` (or anything with an associative ``+``).
        by_batch : bool
            Whether to leave the totals of the batches as they are.

        Returns
        -------
        list
            One total per work; if `by_batch`, such a list for each of ``rows.batches()``. The additions run in the
            order of the data over a fixed tree, so that the bits depend neither on the engine nor on the number of
            its workers.
        """
        return self.submit(rows, works, by_batch=by_batch).result()

    @abstractmethod
    def submit(
        self, rows: Rows, works: Sequence[Work | ByBatch], batches: slice = slice(None), *, by_batch: bool = False
    ) -> Pending:
        """Begin a sweep over some consecutive batches of `rows` and return at once, so that several can be under way.

        Parameters
        ----------
        rows, works, by_batch
            As in `sweep`.
        batches : slice
            Which of ``rows.batches()``. The bits of the totals depend on them alone.
        """

    #: bytes that a worker needs for the work itself, which a cache leaves alone; None where each batch is read once
    needed: int | None = None
    #: reads that each process may have in flight where several are; None where nobody has judged what there is room for
    most_in_flight: int | None = None
    #: whether compiled loops may be used, everywhere alike; None for whether the thread that submits may
    loops: bool | None = None

    def uses_loops(self) -> bool:
        """Tell whether what is submitted now may use compiled loops."""
        return is_permitted() if self.loops is None else self.loops

    def rooms(self) -> list[Room]:
        """Return the memory of each process that works, as far as they are there now and it is known."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Give back what the engine holds."""


def checked(rows: Rows, totals: Sequence[Any], told: Told, *, by_batch: bool) -> list[Any]:
    """Return totals without what `run_batch` tells of the reads, if `rows` does not object to that; tell of retries."""
    parts = totals if by_batch else [totals]
    found = sum((part[-1] for part in parts), start=Found())
    if found.n_retries:
        told(ReadsRetried(found.n_retries, found.why))
    if left_out := rows.check_found(found):
        several = "" if len(left_out) == 1 else f", the first of {len(left_out)},"
        message = f"{left_out[0]}{several} cannot be read ({left_out[0].why}): such rows are left out"
        warnings.warn(message, DataWarning, stacklevel=2)
        told(ChunksLeftOut(tuple({"name": one.name, "where": one.where, "why": one.why} for one in left_out)))
    wanted = [list(part[:-1]) for part in parts]
    return wanted if by_batch else wanted[0]


def run_batch(
    batch: Batch,
    works: Sequence[Work],
    *,
    retries: Retries | None = None,
    stop: threading.Event | None = None,
    cache: ChunkCache | None = None,
    reads: Reads | None = None,
    loops: bool = False,
) -> list[Any]:
    """Apply all works to all chunks of one batch; return the totals from first to last, and what the reads met.

    With `reads` those of the batch are in flight already, and its `retries` are theirs. Compiled `loops` are used if
    they may be.
    """
    totals: list[Any] | None = None
    retries = (reads.retries if reads is not None else retries) or Retries.configured()
    retries.stops += [stop] if stop is not None else []
    try:
        with single_threaded_blas(), counted(retries), permitted(loops):
            for chunk in _chunks(batch, cache, reads):
                if stop is not None and stop.is_set():
                    break
                parts = [*_applied(works, chunk), chunk.found or Found()]
                totals = parts if totals is None else add_models([totals, parts])
    finally:
        if reads is not None:
            reads.forget()
    if totals is None:
        message = "a batch without chunks"
        raise RuntimeError(message)
    if retries.n:
        totals[-1] += Found(n_retries=retries.n, why=retries.why)
    return totals


def _applied(works: Sequence[Work], chunk: Chunk) -> Iterator[Any]:
    """Apply works to a chunk; on a device those that say `takes_device`, all others to its rows in this memory."""
    host = None
    for work in works:
        if is_on_device(chunk.rows) and not takes_device(work):
            host = on_host(chunk) if host is None else host
            yield work(host)
        else:
            yield work(chunk)


def _chunks(batch: Batch, cache: ChunkCache | None, reads: Reads | None) -> Iterable[Chunk]:
    """Return the chunks of a batch, which are read meanwhile where that takes time."""
    if not batch.reads_ahead:
        return batch
    if cache is not None and (kept := cache.kept(batch)) is not None:
        return kept
    taken = None if reads is None else reads.taken(longest_wait(*STALL))
    made = batch if taken is None else batch.made_of(taken)
    chunks = made if cache is None else cache.keeping(batch, made)
    return chunks if made is taken else read_ahead(chunks, batch.span)


def read_ahead(chunks: Iterable[T], span: range | None = None) -> Iterator[T]:
    """Yield the items of `chunks`, the next one already being read by a thread of its own.

    Raises
    ------
    EngineError
        Naming the rows, their `span`, if one does not come for ``dem.stall-timeout``. The thread is left to itself.
    """
    end, patience = object(), longest_wait(*STALL)
    reader, hangs = ThreadPoolExecutor(1, thread_name_prefix="dem-read"), False
    iterator = iter(chunks)
    context = copy_context()  # in which failed reads are counted
    ahead: Future[Any] | None = None

    def read() -> Any:
        return context.run(next, iterator, end)

    try:
        ahead = reader.submit(read)
        while (item := _awaited(ahead, patience, span)) is not end:
            ahead = reader.submit(read)
            yield item
    except BaseException:  # an interrupt, or a consumer that stops, must not wait until a store answers
        give_up()
        hangs = ahead is not None and not ahead.done()
        raise
    finally:
        reader.shutdown(wait=not hangs)


def _awaited(ahead: Future[T], patience: float, span: range | None) -> T:
    """Wait for what is read ahead, while anybody waits for it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return ahead.result(TICK)
        except TimeoutError:
            if ahead.done():
                return ahead.result()  # which may be such an error of the store's own
        late = time.monotonic() > deadline
        if late or given_up():
            raise EngineError(stalled(span, patience) if late else "stopped")


def longest_wait(name: str = "dem.worker-timeout", unless_set: str = "5 minutes") -> float:
    """Return the seconds after which a fit is given up: without a worker, or without any progress.

    Raises
    ------
    OptionError
        If the setting is no time.
    """
    import dask  # noqa: PLC0415 - help does without
    from dask.utils import parse_timedelta  # noqa: PLC0415

    given = dask.config.get(name, unless_set)
    what = "the time to wait for workers" if name == "dem.worker-timeout" else name
    try:
        seconds = float(parse_timedelta(given))
    except (TypeError, ValueError, KeyError) as error:
        message = f"{what} must be a number of seconds or such as '5 minutes', not {given!r}"
        raise OptionError(message) from error
    if not seconds >= 0:
        message = f"{what} must not be negative, but is {given!r}"
        raise OptionError(message)
    return seconds


@cache
def _blas_libraries() -> threadpoolctl.ThreadpoolController:
    """Return the BLAS libraries of this process; looking for them takes milliseconds, so it is done once."""
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextmanager
def _single_threaded_blas() -> Iterator[None]:
    _take_control()
    limiter = _blas_libraries().limit(limits=1)
    try:
        yield
    finally:
        _take_control()
        limiter.restore_original_limits()


#: Keeps BLAS at one thread while any thread of this process is inside: one thread per core does the work already; more
#: would over-subscribe the cores and change bits.
single_threaded_blas = shared_setting(_single_threaded_blas)


def _take_control() -> None:
    """Make this the thread that may set limits.

    threadpoolctl (3.6 and later) lets only the first thread that ever set a limit set another and silently ignores all
    others. Here it is the lock of the shared setting that sees to one at a time.
    """
    for library in _blas_libraries().lib_controllers:
        clear = getattr(library, "clear_controlling_thread", None)
        if clear is not None:
            clear(force=True)
