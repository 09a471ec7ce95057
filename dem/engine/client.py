"""Connections to a cluster: to a scheduler that runs somewhere, or to processes started on this machine."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.comm.addressing import normalize_address
from distributed.core import rpc
from distributed.security import Security

from dem.engine.security import security_of
from dem.engine.workers import first_line
from dem.errors import EngineError

#: seconds to wait for a scheduler
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
    # After 15 s Dask would give up a worker that is being restarted, which a busy machine may need longer for.
    "distributed.deploy.lost-worker-timeout": "1 hour",
    # Messages that each end of a link keeps for developers: parameters are among them, up to 1 MB a pass.
    "distributed.admin.low-level-log-length": 100,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 64 * 2**20,
}


@contextmanager
def open_client(
    scheduler: str | None, workers: int | None, memory_limit: str | None, certificates: str | None
) -> Iterator[Client]:
    """Connect to a scheduler, or start processes with one thread each, on loopback; see `dem.engine.connect`."""
    security = Security() if certificates is None else security_of(certificates, scheduler)
    if scheduler is not None:
        _probe(scheduler, security)
        with Client(scheduler, timeout=TIMEOUT, security=security) as client:
            yield client
        return
    # In force as long as the cluster is: workers that are restarted look them up anew.
    with (
        dask.config.set(WORKER_SETTINGS),
        _same_environment(),
        _start(
            n_workers=workers,
            protocol="tcp://" if certificates is None else "tls://",
            security=security,
            memory_limit=memory_limit or "auto",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _same_environment() -> Iterator[None]:
    """Undo in the end what nannies set for their workers in the environment of this process: later clusters obey it."""
    names = dask.config.get("distributed.nanny.pre-spawn-environ")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(**options: Any) -> LocalCluster:
    """Start processes with one thread each, on loopback."""
    own = {"threads_per_worker": 1, "processes": True, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    try:
        return LocalCluster(**own, **options)
    except RuntimeError as error:  # of a nanny
        message = f"a worker ended as it was started ({first_line(error)}), killed or for lack of memory; start again"
        raise EngineError(message) from error


def _probe(scheduler: str, security: Security) -> None:
    """Make sure that a scheduler answers.

    What listens there may be no scheduler at all, and then neither a timeout nor the kind of error is certain: the
    attempt is left to a thread of its own. A `Client` that failed would try for long to close itself.
    """
    answer: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    async def identify() -> None:
        arguments = security.get_connection_args("client")
        async with rpc(normalize_address(scheduler), timeout=TIMEOUT, connection_args=arguments) as remote:
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
        message = f"no scheduler answers at {scheduler} ({first_line(error)}); is `dask scheduler` running there?"
        raise EngineError(message) from error
