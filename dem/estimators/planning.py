"""`plan`: what a fit will need and how long it will take, from the shape of the data and a second of measuring."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Unpack

import psutil
from sklearn.base import clone

from dem.data.base import Rows
from dem.data.sources import WeightedOptions
from dem.engine.base import Room
from dem.engine.local import available_cores, free_memory
from dem.errors import OptionError
from dem.estimators import inputs, memory
from dem.estimators.forecast import Plan, foreseen
from dem.estimators.gaussian import GaussianMixture
from dem.estimators.loops import are_wanted
from dem.estimators.measuring import measure
from dem.estimators.options import check_options
from dem.native import is_compiled, permitted

# Passes until the log-likelihood per row is within 1e-3, and within 1e-6, of its limit: the smallest and the largest
# median of four problems in benchmarks/results/reads.json (docs/algorithms.md), for data larger than the sample and,
# where not even that was counted, for data in memory. A test compares them.
PASSES = {
    "batch": ((1.5, 42.5), (37.5, 236.0)),
    "squarem": ((1.5, 20.5), (14.5, 58.5)),
    "incremental": ((1.5, 15.5), (24.0, 138.5)),
    "stepwise": ((7.5, 42.0), (51.5, 170.5)),
}
PASSES_IN_MEMORY = {
    "batch": ((10.0, 86.0), (115.5, 292.0)),
    "squarem": ((5.5, 40.0), (44.0, 74.5)),
    "incremental": ((7.0, 59.0), (72.0, 172.5)),
    "stepwise": ((7.5, 42.0), (51.5, 170.5)),
}
# Seconds of the scheduler for each task.
TASK_SECONDS = 1.3e-3


def plan(
    X: Any,
    estimator: Any = None,
    *,
    workers: int | None = None,
    memory_limit: str | int | None = None,
    seconds: float = 1.0,
    **given: Unpack[WeightedOptions],
) -> Plan:
    """Tell what `estimator.fit(X)` will need: memory, seconds per pass, passes; and what will not work.

    A few chunks are read and E-steps made on them. Where the chunks cannot be read, random rows of the same shape stand
    in for them, and the plan says so.

    Parameters
    ----------
    X, **given
        Data as for `GaussianMixture.fit`, with what goes with its rows (``sample_weight``, ``noise_covariance``, …):
        that is read and computed with too.
    estimator : GaussianMixture, BernoulliMixture, BinomialMixture or KMeans, optional
        The model with its options; it need not be fitted. One Gaussian when left out.
    workers : int, optional
        Number of worker processes of one thread each; those that this machine has no cores for are taken to be as fast
        as its cores. Threads of this process when left out.
    memory_limit : str or int, optional
        Memory of each worker, such as ``"2GB"``.
    seconds : float
        How long to read, and how long to compute.

    Returns
    -------
    Plan
        Print it.

    Raises
    ------
    DataError
        If the data cannot be opened.
    OptionError
        If an option has an unknown or impossible value.

    Examples
    --------
    >>> import numpy as np, dem
    >>> found = dem.plan(np.random.default_rng(0).normal(size=(5000, 3)), dem.GaussianMixture(4), seconds=0.01)
    >>> found.n_rows, found.data_bytes, found.problems
    (5000, 120000, [])
    """
    estimator = clone(estimator) if estimator is not None else GaussianMixture()
    check_options(estimator)
    limit = _limit(workers, memory_limit)
    rows = inputs.rows_of(estimator, X, reset=True, minimum=1, **given)
    estimator._check_features(rows.n_features)
    free = free_memory()
    n_components, n_threads = getattr(estimator, estimator._entry.size), workers or available_cores()
    here = min(n_threads, available_cores())
    room = Room("each worker", limit, 1) if workers else Room("this process", free, n_threads, is_here=True)
    loops = are_wanted([estimator], rows)
    read, _, room, need, _, loops = memory.in_slices(partial(_need, estimator, workers), rows, [room], loops=loops)
    to_compile = loops and not is_compiled()  # which would take longer than all else
    with permitted(loops and not to_compile):
        measured = measure(rows, estimator, here, seconds, free)
    if to_compile:
        measured.on += (
            "; arithmetic by NumPy, since loops are not yet compiled on this machine: with them it takes less"
        )
    if n_threads > here:
        measured.on += f"; for {n_threads:,} cores as fast as the {here} here, and a store that keeps up"
    read_bytes = measured.read_rows * rows.n_features * rows.dtype.itemsize
    n_tasks, chunks = len(rows.batches()), rows.stored_chunks
    share = rows.n_rows * here / n_threads
    reading, arithmetic, busy = share * measured.reading, share * measured.arithmetic, share * measured.busy / here
    overhead = n_tasks * TASK_SECONDS if workers else 0.0

    def pass_seconds(read: float) -> float:
        """Tell how long a pass takes that reads a share: waiting for the store hides behind the arithmetic."""
        hidden = arithmetic if math.isnan(reading) else max(read * reading, arithmetic + read * busy)
        return math.nan if math.isnan(arithmetic) else max(hidden, overhead)

    cache = min(_cache(workers, limit, sum(need.values())), rows.n_bytes)
    passes, exact = _passes(estimator, rows)
    found = Plan(
        name=rows.name,
        n_rows=rows.n_rows,
        n_features=rows.n_features,
        data_bytes=rows.n_bytes,
        n_chunks=chunks and chunks[0],
        chunk_bytes=chunks and chunks[1],
        n_reads=-(-rows.n_rows // measured.read_rows),
        read_bytes=read_bytes,
        n_tasks=n_tasks,
        n_workers=workers or 0,
        n_threads=n_threads,
        memory_limit=limit if workers else free,
        memory=need,
        cache_bytes=cache,
        driver_bytes=memory.start_bytes(estimator, rows),
        measured_on=measured.on,
        reading_seconds=reading,
        arithmetic_seconds=arithmetic,
        pass_seconds=pass_seconds(1.0),
        next_pass_seconds=pass_seconds(1.0 - cache / rows.n_bytes),
        passes=passes,
        exact_passes=exact,
        max_iter=estimator.max_iter,
        problems=measured.problems,
    )
    shared = workers is not None and memory_limit is None
    remedy = memory.remedy(estimator, room, need, read)
    found.problems.extend(foreseen(found, estimator, n_components, free, remedy, shared=shared))
    return found


def _limit(workers: int | None, memory_limit: str | int | None) -> int | None:
    """Return the memory of each worker in bytes; Dask's own rule where none is given."""
    if workers is None:
        if memory_limit is not None:
            message = "memory_limit is that of workers; give their number too"
            raise OptionError(message)
        return None
    if isinstance(workers, bool) or workers < 1:
        message = f"workers must be at least 1, not {workers!r}"
        raise OptionError(message)
    if memory_limit is None:
        return int(psutil.virtual_memory().total / max(workers, available_cores()))
    from dask.utils import parse_bytes  # noqa: PLC0415

    try:
        limit = int(parse_bytes(memory_limit))
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        message = f"the memory limit must be a number of bytes such as '2GB', not {memory_limit!r}"
        raise OptionError(message)
    return limit


def _need(estimator: Any, workers: int | None, room: Room, rows: Rows, most_in_flight: int | None) -> dict[str, int]:
    return memory.need_of_fit([estimator], rows, room, workers, most_in_flight=most_in_flight)


def _cache(workers: int | None, limit: int | None, need: int) -> int:
    """Return how many bytes of decoded chunks the workers keep; threads keep none."""
    if workers is None or limit is None:
        return 0
    from dem.engine.cluster import CACHE_UP_TO  # noqa: PLC0415 - imports Dask's cluster

    return workers * max(0, int(CACHE_UP_TO * limit) - need)


def _passes(estimator: Any, rows: Rows) -> tuple[tuple[float, float], tuple[float, float]] | tuple[None, None]:
    """Return how many passes to expect; None for what nothing was counted of: k-means, an algorithm of one's own."""
    if not estimator._entry.is_mixture:
        return None, None
    in_memory = rows.n_rows == memory.sample_rows(estimator, rows)
    return (PASSES_IN_MEMORY if in_memory else PASSES).get(estimator._algorithm().name, (None, None))
