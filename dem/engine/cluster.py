"""The engine of a Dask cluster: batches that live on its workers, works that go where they are, sums in a tree."""

from __future__ import annotations

import functools
import itertools
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.utils
from distributed import Client, Future, Reschedule, get_worker
from distributed import wait as all_done
from distributed.protocol.pickle import dumps, loads

from dem import native
from dem.beside_chunks import KEPT
from dem.data.base import Batch, Rows
from dem.data.retries import Retries
from dem.engine.base import ByBatch, Each, Engine, Room, Told, Work, checked, run_batch, warn_of_waiting
from dem.engine.cache import ChunkCache
from dem.engine.reading import InFlight, Reading, reads_in_flight
from dem.engine.workers import Workers, WorkersChanged
from dem.errors import EngineError
from dem.events import BatchEnded
from dem.statistics import TREE_ARITY, tree_sum

# Share of the memory limit up to which it goes where Dask neither spills nor pauses.
CACHE_UP_TO = 0.92


class ClusterEngine(Engine):
    """Runs the batches as tasks of a Dask cluster.

    Batches live on the workers as results of their own tasks, so that a batch goes back to the worker that had
    it; a lost worker's batches are made anew elsewhere. Decoded chunks stay with their batches from pass to pass, as
    far as the workers' memory allows (``dask.config.set({"dem.cache": "auto"})``, or bytes, or 0). While no worker is
    ready the engine waits (``dask.config.set({"dem.worker-timeout": "5 minutes"})``); it gives up a sweep of which
    nothing has come for ``"dem.stall-timeout"``, an hour unless set.

    Parameters
    ----------
    client : distributed.Client
        The connection to the cluster; it stays open when the engine is closed.
    told : callable
        Called with `BatchEnded`, and with `WorkersAwaited` while no worker is ready.

    Raises
    ------
    EngineError
        If the workers run other versions than this process.
    """

    def __init__(self, client: Client, told: Told = warn_of_waiting) -> None:
        self.client = client
        self.workers = Workers(client, told)
        self.told = told
        self._under_way: weakref.WeakSet[Summed] = weakref.WeakSet()
        self._held: weakref.WeakKeyDictionary[Rows, _Held] = weakref.WeakKeyDictionary()
        self._cache = dask.config.get("dem.cache", "auto")
        self._retries = Retries.configured()

    def submit(
        self, rows: Rows, works: Sequence[Work | ByBatch], batches: slice = slice(None), *, by_batch: bool = False
    ) -> Summed:
        """Begin a sweep over some batches; see `Engine.submit`."""
        with self.workers.errors_in_one_line(rows):
            held = self._spread_evenly(rows)
            these, n_rows = held.futures[batches], held.n_rows[batches]
            in_flight = reads_in_flight(rows, max(held.cores.values(), default=1), self.most_in_flight)
            parts = self._parts(these, works, range(len(held.futures))[batches], in_flight)
            total = parts if by_batch else [self._sum(parts)]
        numbers = range(len(held.futures))[batches]
        told = {part: (number, n) for part, number, n in zip(parts, numbers, n_rows, strict=True)}
        begun = Summed(self, rows, total, told, by_batch=by_batch)
        self._under_way.add(begun)
        return begun

    def _parts(
        self,
        held: Sequence[Future[Any]],
        works: Sequence[Work | ByBatch],
        numbers: Sequence[int],
        in_flight: InFlight | None,
    ) -> list[Future[Any]]:
        """Return the totals to be of each of some batches, which have numbers."""
        # Parameters travel once per worker, as the result of a task: that survives the loss of any worker.
        shared = [None if isinstance(work, ByBatch) else work for work in works]
        shared_works = self.client.submit(_loaded, dumps(shared), key=_key("works"), pure=False)
        own = [dumps([work.works[number] for work in works if isinstance(work, ByBatch)]) for number in numbers]
        keys = [_key("batch") for _ in held]
        how = {
            "cache": self._cache,
            "needed": self.needed,
            "in_flight": in_flight,
            "attempts": self._retries.attempts,
            "seconds": self._retries.seconds,
            "loops": self.uses_loops(),
        }
        return self.client.map(_run, held, [shared_works] * len(held), own, **how, key=keys, pure=False)

    def _sum(self, level: list[Future[Any]]) -> Future[Any]:
        while len(level) > 1:
            level = [
                self.client.submit(tree_sum, level[i : i + TREE_ARITY], key=_key("sum"), pure=False)
                for i in range(0, len(level), TREE_ARITY)
            ]
        return level[0]

    def tell(self) -> None:
        """Tell of batches that have ended since the last time."""
        for begun in list(self._under_way):
            begun.tell()

    def rooms(self) -> list[Room]:
        """Return the memory of the workers; wait for the first one."""
        with self.workers.errors_in_one_line():
            there = self.workers.cores()
            found = self.workers.wait(lambda: self.workers.scheduler.identity(n_workers=-1))["workers"]
        known = {address: found[address] for address in there if address in found}
        return [Room(f"worker {one}", its["memory_limit"] or None, its["nthreads"]) for one, its in known.items()]

    def close(self) -> None:
        """Forget the batches; the client stays open."""
        self._held.clear()
        self._under_way.clear()

    def _spread_evenly(self, rows: Rows) -> _Held:
        """Return the batches, spread evenly over the workers that are there now; wait for the first one."""
        while True:
            cores = self.workers.cores()
            held = self._held.setdefault(rows, _Held([], [], {}))
            if held.n_left_out != rows.n_left_out:  # batches that know what cannot be read do not try to
                held = self._held[rows] = _Held([], [], {}, rows.n_left_out)
            if held.cores == cores:
                return held
            try:
                self._spread(rows.batches(), held, cores)
            except WorkersChanged:
                continue

    def _spread(self, batches: Sequence[Batch], held: _Held, cores: Mapping[str, int]) -> None:
        """Bring batches to workers so that each core has as many, and leave where they are as many as possible.

        Asked to run them anywhere, the scheduler would give more to a worker that happens to be less busy, and there
        they would stay. So each is bound to a worker of its own, until it lies there: once lost with all workers, a
        batch that is bound, however loosely, would not be made anew on those that come after.
        """
        places: list[str | None] = [None] * len(batches)
        if held.futures:
            keys = [future.key for future in held.futures]
            lying = self.workers.wait(lambda: self.workers.scheduler.who_has(keys=keys))
            places = [next(iter(lying.get(key, ())), None) for key in keys]
        pairs = zip(places, even_places(places, cores), strict=True)
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            held.futures = [
                held.futures[number] if worker == place else self._hold(batches[number], worker)
                for number, (place, worker) in enumerate(pairs)
            ]
        self.workers.wait(lambda: all_done(held.futures), there=cores)
        free = {future.key: None for future in held.futures if future.status == "finished"}
        self.workers.wait(lambda: self.workers.scheduler.set_restrictions(worker=free))
        held.n_rows, held.cores = [batch.n_rows for batch in batches], cores

    def _hold(self, batch: Batch, worker: str) -> Future[Any]:
        # Futures are only seen as such outside of objects, so they travel beside the batch.
        keys, values = list(batch.pending), list(batch.pending.values())
        return self.client.submit(
            _complete,
            dumps(batch.with_values({})),
            keys,
            values,
            key=_key("rows"),
            pure=False,
            workers=[worker],
            allow_other_workers=True,
        )


@dataclass
class _Held:
    """The batches of a table as results of tasks, their lengths, the cores that they are spread over.

    `n_left_out` is what they know of parts that cannot be read; see `Rows.n_left_out`.
    """

    futures: list[Future[Any]]
    n_rows: list[int]
    cores: Mapping[str, int]
    n_left_out: int = 0


class Summed:
    """A sweep under way on the cluster.

    Parameters
    ----------
    totals : list of Future
        What is wanted: the sum, or the totals of each batch.
    parts : dict
        The totals of each batch, as futures that are let go once they are told of, its number, and that of its rows.
    """

    def __init__(
        self,
        engine: ClusterEngine,
        rows: Rows,
        totals: list[Future[Any]],
        parts: dict[Future[Any], tuple[int, int]],
        *,
        by_batch: bool,
    ) -> None:
        self._engine, self._rows, self._totals, self._parts, self._by_batch = engine, rows, totals, parts, by_batch
        self._began = self._moved = time.monotonic()
        self._each: Each | None = None

    def result(self, each: Each | None = None) -> list[Any]:
        """Wait for it; see `Pending.result`."""
        workers, client = self._engine.workers, self._engine.client
        self._each = each
        self._moved = time.monotonic()
        with workers.errors_in_one_line(self._rows):
            found = workers.wait(lambda: client.gather(self._totals, asynchronous=True), tick=self._tick)
            self.tell(all_of_them=True)
        found = found if self._by_batch else found[0]
        return checked(self._rows, found, self._engine.told, by_batch=self._by_batch)

    def _tick(self) -> None:
        """Tell how far all sweeps are; give up where this one stands still."""
        n_left = len(self._parts)
        self._engine.tell()
        if len(self._parts) < n_left or self._engine.workers.alone:
            self._moved = time.monotonic()
        self._engine.workers.check_progress(self._moved, len(self._parts), self._rows)

    def tell(self, *, all_of_them: bool = False) -> None:
        """Tell of batches that have ended since the last time."""
        seconds = time.monotonic() - self._began
        ended = [part for part in self._parts if all_of_them or part.status == "finished"]
        totals: list[Any] = [None] * len(ended)
        if self._each is not None and ended:
            client = self._engine.client
            totals = self._engine.workers.wait(lambda: client.gather(ended, asynchronous=True))
        for part, total in zip(ended, totals, strict=True):
            number, n_rows = self._parts.pop(part)
            self._engine.told(BatchEnded(n_rows, self._rows.n_rows, seconds))
            if self._each is not None:
                self._each(number, total)


def even_places(places: Sequence[str | None], cores: Mapping[str, int]) -> list[str]:
    """Give each batch a worker, so that every core has the same number of batches, up to one.

    Parameters
    ----------
    places : sequence of str or None
        Where the batches are now; as many as possible stay there.
    cores : mapping of str to int
        The workers and how many cores each has.

    Examples
    --------
    >>> even_places([None, None, None], {"a": 1, "b": 1})
    ['a', 'b', 'a']
    >>> even_places(["a", "gone", "a", "a"], {"a": 1, "b": 1})
    ['a', 'b', 'a', 'b']
    """
    seats = [worker for worker, number in sorted(cores.items()) for _ in range(number)]
    order = list(itertools.islice(itertools.cycle(seats), len(places)))
    free = Counter(order)
    kept: list[str | None] = []
    for place in places:
        if place is not None and free[place] > 0:
            free[place] -= 1
            kept.append(place)
        else:
            kept.append(None)
    vacant = []
    for worker in order:
        if free[worker] > 0:
            free[worker] -= 1
            vacant.append(worker)
    seat = iter(vacant)
    return [place or next(seat) for place in kept]


def _loaded(packed: bytes) -> Any:
    """Return what was packed by `dumps`, within a task: what cannot be had where Dask unpacks it ends the worker.

    Raises
    ------
    EngineError
        Naming the worker.
    """
    try:
        return loads(packed)
    except Exception as error:
        message = (
            f"worker {get_worker().address} cannot make use of what it is sent ({type(error).__name__}: {error}); "
            "install there what data and model are made of, as in this process"
        )
        raise EngineError(message) from error


def _complete(batch: bytes, keys: list[Any], values: list[Any]) -> Batch:
    found: Batch = _loaded(batch)
    return found.with_values(dict(zip(keys, values, strict=True)))


def _run(
    batch: Batch,
    shared: list[Work | None],
    own: bytes,
    cache: str | int,
    needed: int | None,
    in_flight: InFlight | None,
    attempts: int,
    seconds: float,
    loops: bool,
) -> list[Any]:
    """Take a batch through all works: those that all batches share, with its own in their places."""
    others = iter(_loaded(own))
    works = [work or next(others) for work in shared]
    retries, released = Retries(attempts, seconds), _Released()
    retries.stops.append(released)
    kept, reads = _worker_cache(cache, needed), None
    if in_flight is not None and kept.kept(batch) is None:
        reads = _worker_reading().add(batch, retries, in_flight)
    try:
        found = run_batch(batch, works, retries=retries, cache=kept, reads=reads, loops=loops)
    except Exception:
        if released.is_set():  # should it be wanted again, it begins anew
            raise Reschedule from None
        raise
    if loops and (why := native.failure()):  # others would go on with another arithmetic
        message = (
            f"worker {get_worker().address} cannot use compiled loops ({why}); mend that and start it again, or "
            f"set {native.SETTING}=off in all processes"
        )
        raise EngineError(message)
    return found


class _Released(threading.Event):
    """Set once nobody waits any more for the task that this thread runs: its client is gone, or has given it up."""

    def __init__(self) -> None:
        super().__init__()
        self._task = get_worker().state.tasks.get(get_worker().get_current_task())

    def is_set(self) -> bool:
        """Return whether that is so, or was."""
        if self._task is not None and self._task.state == "cancelled":
            self.set()
        return super().is_set()


@functools.cache
def _worker_reading() -> Reading:
    """Return what all tasks of this worker process read through."""
    return Reading(get_worker().state.nthreads)


def _worker_cache(limit: str | int, needed: int | None) -> ChunkCache:
    """Return the cache of this worker process.

    Parameters
    ----------
    limit : {'auto'}, str or int
        Bytes, also as a text such as ``'2 GB'``. Automatic: what the worker's memory limit leaves, up to where Dask
        would spill or pause, above what the work needs.
    needed : int, optional
        Bytes that it needs, the process included; None for a single read, of which nothing is kept.
    """
    if limit != "auto":
        KEPT.limit = int(dask.utils.parse_bytes(limit)) // 4
        return _cache_of(dask.utils.parse_bytes(limit))
    manager, cache = get_worker().memory_manager, _cache_of("auto")
    fractions = [one for one in (manager.memory_spill_fraction, manager.memory_pause_fraction) if one]
    room = int(min([CACHE_UP_TO, *fractions]) * (manager.memory_limit or 0))
    if needed is not None:
        KEPT.limit = max(room - needed, 0) // 4
    cache.limit = 0 if needed is None else max(room - needed - KEPT.n_bytes, 0)
    return cache


@functools.cache
def _cache_of(limit: str | int) -> ChunkCache:
    return ChunkCache(0 if limit == "auto" else int(limit))


def _key(kind: str) -> str:
    return f"dem-{kind}-{uuid.uuid4().hex}"
