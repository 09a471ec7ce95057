"""Where EM runs: threads of this process or a Dask cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from dem.engine.base import ByBatch, Engine, Told, Work, warn_of_waiting
from dem.engine.local import LocalEngine
from dem.errors import OptionError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["ByBatch", "Engine", "LocalEngine", "Work", "connect", "current_engine", "telling"]

_told: ContextVar[Told] = ContextVar("told", default=warn_of_waiting)


@contextmanager
def telling(told: Told) -> Iterator[None]:
    """Let the engines that `current_engine` returns meanwhile tell of themselves, unless they are given another one."""
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


def current_engine(told: Told | None = None) -> Engine:
    """Return the engine of the active `distributed.Client` if there is one, else threads of this process.

    Parameters
    ----------
    told : callable, optional
        Called with `BatchEnded`, and with `WorkersAwaited` while a cluster has no worker that is ready.
    """
    told = told or _told.get()
    # Without `distributed` imported there can be no active client, and its import takes half a second.
    client = _active_client() if "distributed" in sys.modules else None
    if client is None or client.status != "running":
        return LocalEngine(told=told)
    from dem.engine.cluster import ClusterEngine  # noqa: PLC0415

    return ClusterEngine(client, told)


def _active_client() -> Client | None:
    from distributed import get_client, get_worker  # noqa: PLC0415

    try:
        get_worker()
    except ValueError:
        with suppress(ValueError):  # there is none
            return get_client()
    return None  # inside a task, where waiting for other tasks could block the cluster


@contextmanager
def connect(
    scheduler: str | None = None,
    workers: int | None = None,
    memory_limit: str | None = None,
    worker_timeout: str | None = None,
) -> Iterator[Engine]:
    """Open the engine that the options ask for and close it at the end.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running Dask scheduler.
    workers : int, optional
        Number of worker processes to start on this machine.
    memory_limit : str, optional
        Memory of each started worker, for instance ``"2GB"``.
    worker_timeout : str, optional
        How long to go on without any worker, for instance ``"90s"``; as dask's setting ``dem.worker-timeout``, or five
        minutes, when left out.

    Yields
    ------
    Engine
        While it is open, `current_engine` returns an engine on the same cluster. With neither option it is
        `LocalEngine`.

    Raises
    ------
    OptionError
        If both `scheduler` and `workers` are given, `workers` is below 1, or a size or a time is none.
    EngineError
        If the scheduler does not answer within 10 seconds or its workers run other versions.
    """
    if scheduler is not None and workers is not None:
        message = "give either a scheduler's address or a number of workers to start, not both"
        raise OptionError(message)
    if workers is not None and workers < 1:
        message = f"the number of workers must be at least 1, not {workers}"
        raise OptionError(message)
    if memory_limit is not None:
        from dask.utils import parse_bytes  # noqa: PLC0415

        try:
            parse_bytes(memory_limit)
        except ValueError as error:
            message = f"the memory limit must be a number of bytes such as '2GB', not {memory_limit!r}"
            raise OptionError(message) from error
    if scheduler is None and workers is None:
        yield LocalEngine()
        return
    import dask  # noqa: PLC0415

    from dem.engine.client import open_client  # noqa: PLC0415
    from dem.engine.cluster import ClusterEngine  # noqa: PLC0415
    from dem.engine.workers import longest_wait  # noqa: PLC0415

    with dask.config.set({} if worker_timeout is None else {"dem.worker-timeout": worker_timeout}):
        longest_wait()  # judges it, before anything is started
        with open_client(scheduler, workers, memory_limit) as client:
            yield ClusterEngine(client)
