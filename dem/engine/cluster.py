"""The engine of a Dask cluster; the only module that imports `dask.distributed`."""

from __future__ import annotations

import asyncio
import functools
import itertools
import queue
import sys
import threading
import uuid
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import dask
import dask.utils
import psutil
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker
from distributed.client import ClosedClientError
from distributed.comm.addressing import normalize_address
from distributed.comm.core import CommClosedError
from distributed.core import rpc
from distributed.security import Security

from dem.data.base import Batch, Rows
from dem.engine.base import Work, run_batch
from dem.engine.cache import ChunkCache
from dem.errors import EngineError
from dem.statistics import TREE_ARITY, tree_sum

#: seconds to wait for a scheduler, and for its first worker
TIMEOUT = 10
# Settings of the workers that dem starts. A paused worker would make the fit wait for ever: what dem holds is bounded,
# so that pausing frees nothing. Dask's way of giving memory back at once makes every chunk and every block pay for it
# again, page by page: reading takes 1.5 to 2 times, E-steps 1.6 times, labels 3 times as long.
WORKER_SETTINGS = {
    "distributed.worker.memory.pause": False,
    # Spilling would write out the batches, which are tiny, and drop their decoded chunks.
    "distributed.worker.memory.spill": False,
    # A batch that is stolen leaves its decoded chunks behind; the batches are spread evenly from the start.
    "distributed.scheduler.work-stealing": False,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 64 * 2**20,
}
# Memory of a worker that the cache leaves alone: chunks in work, workspaces of the kernels, statistics.
CACHE_RESERVE = 160 * 2**20
# Packages whose versions decide whether tasks of this process run on a worker, and to the same bits.
_PACKAGES = ("dask-em", "dask", "distributed", "numpy", "scipy", "zarr")


class ClusterEngine:
    """Runs the batches as tasks of a Dask cluster.

    Batches live on the workers as results of their own tasks, so that a batch goes back to the worker that had
    it; a lost worker's batches are made anew elsewhere. Decoded chunks stay with their batches from pass to pass, as
    far as the workers' memory allows (``dask.config.set({"dem.cache": "auto"})``, or bytes, or 0).

    Parameters
    ----------
    client : distributed.Client
        The connection to the cluster; it stays open when the engine is closed.

    Raises
    ------
    EngineError
        If the workers run other versions than this process.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._batches: weakref.WeakKeyDictionary[Rows, list[Future[Any]]] = weakref.WeakKeyDictionary()
        self._cache = dask.config.get("dem.cache", "auto")
        check_versions(client)
        self._address = client.scheduler_info()["address"]

    def sweep(self, rows: Rows, works: Sequence[Work]) -> list[Any]:
        """Read `rows` once and apply every work to every chunk; see `Engine.sweep`."""
        return self.submit(rows, works, slice(None)).result()

    def submit(self, rows: Rows, works: Sequence[Work], batches: slice) -> Summed:
        """Begin a sweep over some batches; see `Engine.submit`."""
        with _errors_in_one_line(self._address):
            return Summed(self._total(self._batch_futures(rows)[batches], works), self._address)

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
        self._batches.clear()

    def _batch_futures(self, rows: Rows) -> list[Future[Any]]:
        if rows not in self._batches:
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
                # One after the other to each core: the scheduler would give all to a worker that happens to be idle,
                # and there they would stay.
                cores = [worker for worker, number in sorted(self.client.nthreads().items()) for _ in range(number)]
                self._batches[rows] = [
                    self._hold(batch, worker) for batch, worker in zip(rows.batches(), itertools.cycle(cores))
                ]
        return self._batches[rows]

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


@dataclass(frozen=True)
class Summed:
    """The sum of a sweep, under way on the cluster."""

    total: Future[Any]
    address: str

    def result(self) -> list[Any]:
        """Wait for it."""
        with _errors_in_one_line(self.address):
            # Not `Future.result`, which prints a traceback of its own when Ctrl-C comes as it begins to wait.
            client = self.total.client
            answer = client.gather(self.total, asynchronous=True)
            return list(asyncio.run_coroutine_threadsafe(answer, client.loop.asyncio_loop).result())


@contextmanager
def _errors_in_one_line(address: str) -> Iterator[None]:
    """Say what became of the cluster at `address` when its tasks cannot be sent or do not come back."""
    try:
        yield
    except KilledWorker as error:
        message = (
            f"workers died {error.allowed_failures + 1} times over the same chunks, probably for lack of memory; "
            "give them more (--memory-limit, memory_limit), or store the data in smaller chunks"
        )
        raise EngineError(message) from error
    except (CancelledError, ClosedClientError, CommClosedError) as error:
        message = f"the cluster at {address} went away ({_first_line(error)}); start it and the fit again"
        raise EngineError(message) from error


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


def _versions() -> dict[str, str]:
    """Return the versions of this process that matter to its tasks."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def check_versions(client: Client) -> None:
    """Compare the versions of all workers with this process.

    Raises
    ------
    EngineError
        Naming the worker, the package and both versions.
    """
    here = _versions()
    try:
        answers = client.run(_versions)
    except ModuleNotFoundError as error:
        message = f"a worker of {client.scheduler_info()['address']} cannot import dem ({error}); install dask-em there"
        raise EngineError(message) from error
    for worker, there in answers.items():
        for package, wanted in here.items():
            if there[package] != wanted:
                message = (
                    f"worker {worker} has {package} {there[package]}, this process {wanted}; "
                    "install the same versions on all machines"
                )
                raise EngineError(message)


@contextmanager
def open_client(
    scheduler: str | None = None, workers: int | None = None, memory_limit: str | None = None
) -> Iterator[Client]:
    """Connect to a scheduler, or start a local cluster of processes with one thread each, and close it at the end.

    Parameters
    ----------
    scheduler : str, optional
        Address such as ``tcp://10.0.0.1:8786``.
    workers : int, optional
        Number of worker processes to start on this machine, bound to loopback.
    memory_limit : str, optional
        Memory of each started worker, for instance ``"2GB"``.

    Yields
    ------
    distributed.Client
        The active client.

    Raises
    ------
    EngineError
        If nothing answers at `scheduler` within 10 seconds, or it has no workers.
    """
    if scheduler is not None:
        with _connected(scheduler) as client:
            yield client
        return
    # In force as long as the cluster is: workers that are restarted look them up anew.
    with (
        dask.config.set(WORKER_SETTINGS),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=memory_limit or "auto",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    _probe(scheduler)
    with Client(scheduler, timeout=TIMEOUT) as client:
        try:
            client.wait_for_workers(1, timeout=TIMEOUT)
        except TimeoutError as error:
            message = f"the scheduler at {scheduler} has no workers after {TIMEOUT} s; start one with `dask worker`"
            raise EngineError(message) from error
        yield client


def _probe(scheduler: str) -> None:
    """Make sure that a scheduler answers.

    What listens there may be no scheduler at all, and then neither a timeout nor the kind of error is certain: the
    attempt is left to a thread of its own. A `Client` that failed would try for long to close itself.
    """
    answer: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    async def identify() -> None:
        security = Security().get_connection_args("client")
        async with rpc(normalize_address(scheduler), timeout=TIMEOUT, connection_args=security) as remote:
            await asyncio.wait_for(remote.identity(), TIMEOUT)

    def attempt() -> None:
        try:
            asyncio.run(identify())
        except Exception as error:  # noqa: BLE001 - TLS without certificates is a TypeError, a web server a MemoryError
            answer.put(error)
        else:
            answer.put(None)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        error = answer.get(timeout=TIMEOUT + 2)
    except queue.Empty:
        message = f"no scheduler answers at {scheduler} within {TIMEOUT} s; something else may be listening there"
        raise EngineError(message) from None
    if error is not None:
        message = f"no scheduler answers at {scheduler} ({_first_line(error)}); is `dask scheduler` running there?"
        raise EngineError(message) from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
