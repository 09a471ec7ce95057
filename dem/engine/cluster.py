"""The engine of a Dask cluster: batches that live on its workers, works that go where they are, sums in a tree."""

from __future__ import annotations

import functools
import itertools
import uuid
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.utils
import psutil
from distributed import Client, Future, get_worker
from distributed import wait as all_done

from dem.data.base import Batch, Rows
from dem.engine.base import Told, Work, checked, run_batch, warn_of_waiting, with_found
from dem.engine.cache import ChunkCache
from dem.engine.workers import Workers, WorkersChanged
from dem.statistics import TREE_ARITY, tree_sum

# Memory of a worker that the cache leaves alone: chunks in work, workspaces of the kernels, statistics.
CACHE_RESERVE = 160 * 2**20


class ClusterEngine:
    """Runs the batches as tasks of a Dask cluster.

    Batches live on the workers as results of their own tasks, so that a batch goes back to the worker that had
    it; a lost worker's batches are made anew elsewhere. Decoded chunks stay with their batches from pass to pass, as
    far as the workers' memory allows (``dask.config.set({"dem.cache": "auto"})``, or bytes, or 0). While no worker is
    ready the engine waits (``dask.config.set({"dem.worker-timeout": "5 minutes"})``).

    Parameters
    ----------
    client : distributed.Client
        The connection to the cluster; it stays open when the engine is closed.
    told : callable
        Called with `WorkersAwaited` while no worker is ready.

    Raises
    ------
    EngineError
        If the workers run other versions than this process.
    """

    def __init__(self, client: Client, told: Told = warn_of_waiting) -> None:
        self.client = client
        self.workers = Workers(client, told)
        self._held: weakref.WeakKeyDictionary[Rows, _Held] = weakref.WeakKeyDictionary()
        self._cache = dask.config.get("dem.cache", "auto")

    def sweep(self, rows: Rows, works: Sequence[Work]) -> list[Any]:
        """Read `rows` once and apply every work to every chunk; see `Engine.sweep`."""
        return self.submit(rows, works, slice(None)).result()

    def submit(self, rows: Rows, works: Sequence[Work], batches: slice) -> Summed:
        """Begin a sweep over some batches; see `Engine.submit`."""
        with self.workers.errors_in_one_line(rows):
            total = self._total(self._batch_futures(rows)[batches], with_found(works))
            return Summed(total, self.workers, rows)

    def _total(self, held: Sequence[Future[Any]], works: Sequence[Work]) -> Future[Any]:
        # Parameters travel once per worker, as the result of a task: that survives the loss of any worker.
        shared_works = self.client.submit(_identity, list(works), key=_key("works"), pure=False)
        keys = [_key("batch") for _ in held]
        level = self.client.map(_run, held, [shared_works] * len(held), cache=self._cache, key=keys, pure=False)
        while len(level) > 1:
            level = [
                self.client.submit(tree_sum, level[i : i + TREE_ARITY], key=_key("sum"), pure=False)
                for i in range(0, len(level), TREE_ARITY)
            ]
        return level[0]

    def close(self) -> None:
        """Forget the batches; the client stays open."""
        self._held.clear()

    def _batch_futures(self, rows: Rows) -> list[Future[Any]]:
        """Return the batches, spread evenly over the workers that are there now; wait for the first one."""
        while True:
            cores = self.workers.cores()
            held = self._held.setdefault(rows, _Held([], {}))
            if held.cores == cores:
                return held.futures
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
        held.cores = cores

    def _hold(self, batch: Batch, worker: str) -> Future[Any]:
        # Futures are only seen as such outside of objects, so they travel beside the batch.
        keys, values = list(batch.pending), list(batch.pending.values())
        return self.client.submit(
            _complete,
            batch.with_values({}),
            keys,
            values,
            key=_key("rows"),
            pure=False,
            workers=[worker],
            allow_other_workers=True,
        )


@dataclass
class _Held:
    """The batches of a table as results of tasks, and the cores that they are spread over."""

    futures: list[Future[Any]]
    cores: Mapping[str, int]


@dataclass(frozen=True)
class Summed:
    """The sum of a sweep over `rows`, under way on the cluster."""

    total: Future[Any]
    workers: Workers
    rows: Rows

    def result(self) -> list[Any]:
        """Wait for it."""
        with self.workers.errors_in_one_line(self.rows):
            totals = self.workers.wait(lambda: self.total.client.gather(self.total, asynchronous=True))
        return checked(self.rows, totals)


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


def _identity(value: Any) -> Any:
    return value


def _complete(batch: Batch, keys: list[Any], values: list[Any]) -> Batch:
    return batch.with_values(dict(zip(keys, values, strict=True)))


def _run(batch: Batch, works: list[Work], cache: str | int) -> list[Any]:
    return run_batch(batch, works, cache=_worker_cache(cache))


@functools.cache
def _worker_cache(limit: str | int) -> ChunkCache:
    """Return the cache of this worker process.

    Parameters
    ----------
    limit : {'auto'}, str or int
        Bytes, also as a text such as ``'2 GB'``. Automatic: what the worker's memory limit leaves, up to where Dask
        would pause the worker, above what the process takes now and a reserve for the chunks in work.
    """
    if limit != "auto":
        return ChunkCache(dask.utils.parse_bytes(limit))
    manager = get_worker().memory_manager
    if not manager.memory_limit:
        return ChunkCache(0)
    ceiling = (manager.memory_pause_fraction or 0.92) * manager.memory_limit
    return ChunkCache(int(ceiling) - psutil.Process().memory_info().rss - CACHE_RESERVE)


def _key(kind: str) -> str:
    return f"dem-{kind}-{uuid.uuid4().hex}"
