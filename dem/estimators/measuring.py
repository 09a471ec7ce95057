"""What a pass costs on this machine: chunks are read and E-steps made for a second or two."""

from __future__ import annotations

import math
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from dem.data.base import Batch, Chunk, Rows
from dem.data.missing import Found
from dem.engine.base import single_threaded_blas
from dem.errors import DataError
from dem.families.gaussian.frame import Frame
from dem.families.kmeans import Clusters
from dem.tree import n_bytes
from dem.validation import shape_of_covariances

# Rows that the trial model is made from, for each component and at least.
ROWS_PER_COMPONENT = 5
LEAST_ROWS = 4096
# Memory that a trial model and what it is made from may take; with more components it is made of fewer.
TRIAL_BYTES = 2**27
# Decoded bytes of the rows that stand in for data that cannot be read.
SYNTHETIC_BYTES = 8 * 2**20
# Rows of the first E-step that is timed; four times as many follow as long as there is time.
FIRST_ROWS = 512


@dataclass(frozen=True)
class Reading:
    """How fast rows were read.

    Attributes
    ----------
    n_rows, n_bytes : int
        What was read, decoded.
    seconds : float
        Wall time, with all threads at once.
    busy : float
        Seconds of the processor; what is left of all threads' wall time was spent waiting for the store.
    chunks : list of Chunk
        One of each thread.
    """

    n_rows: int
    n_bytes: int
    seconds: float
    busy: float
    chunks: list[Chunk]


@dataclass(frozen=True)
class Arithmetic:
    """What E-steps cost.

    Attributes
    ----------
    rows_per_second : float
        With all threads at once.
    workspace_bytes : int
        Memory of an E-step on one chunk beside the rows, per thread.
    statistics_bytes : int
        Of what remains of a chunk.
    n_components : int
        Components of the model that was measured; where they are fewer than the estimator's, the other figures were
        scaled in proportion.
    """

    rows_per_second: float
    workspace_bytes: int
    statistics_bytes: int
    n_components: int


def read_for(rows: Rows, n_threads: int, seconds: float) -> Reading:
    """Read chunks that are spread over the data, one thread for each core, until the time is over.

    Raises
    ------
    DataError
        If what is read cannot be, or is missing.
    """
    batches = rows.batches()
    deadline = time.perf_counter() + seconds
    kept: list[Chunk] = []

    def read(which: Sequence[Batch]) -> tuple[int, int, Found]:
        n_rows, n_bytes, found = 0, 0, Found()
        for chunk in _in_turns(which):
            if not n_rows:
                kept.append(chunk)
            n_rows, n_bytes, found = n_rows + len(chunk), n_bytes + chunk.rows.nbytes, found + (chunk.found or Found())
            if time.perf_counter() > deadline:
                break
        return n_rows, n_bytes, found

    begun, busy = time.perf_counter(), time.process_time()
    parts = [part for part in (batches[i::n_threads] for i in range(n_threads)) if part]
    counts = _on_threads(read, [_spread(part) for part in parts])
    took, busy = time.perf_counter() - begun, time.process_time() - busy
    n_rows, n_bytes, found = zip(*counts, strict=True)
    rows.check_found(sum(found, start=Found()))
    return Reading(sum(n_rows), sum(n_bytes), took, busy, kept)


def _spread(batches: Sequence[Batch]) -> list[Batch]:
    """Return a few batches from the whole length of a sequence, so that the disk is met everywhere."""
    n = min(len(batches), 16)
    return [batches[i * len(batches) // n] for i in range(n)]


def _in_turns(batches: Sequence[Batch]) -> Iterator[Chunk]:
    """Yield the first chunk of every batch, then the second of each, and so on."""
    iterators = [iter(batch) for batch in batches]
    while iterators:
        left = []
        for iterator in iterators:
            chunk = next(iterator, None)
            if chunk is not None:
                left.append(iterator)
                yield chunk
        iterators = left


def compute_for(estimator: Any, chunks: Sequence[Chunk], n_threads: int, seconds: float) -> Arithmetic:
    """Make E-steps of a trial model on chunks in memory until the time is over; see `trial_model`.

    A model too large to try (`TRIAL_BYTES`) is tried with fewer components; costs are taken to be in proportion.
    """
    largest = max(chunks, key=len)
    n_components = getattr(estimator, estimator._entry.size)
    n_tried = trial_size(estimator, largest.rows.shape[1])
    if n_tried < n_components:
        estimator = clone(estimator).set_params(**{estimator._entry.size: n_tried})
        if getattr(estimator, "top_components", None) is not None:
            estimator.top_components = min(estimator.top_components, n_tried)
    with single_threaded_blas():
        family, parameters = trial_model(estimator, largest.rows)

        def e_step(chunk: Chunk) -> Any:
            return family.e_step(parameters, chunk)

        n = _rows_within(lambda n: e_step(largest.take(slice(n))), len(largest), seconds / 4)
        workspace, statistics_bytes = _memory_of(lambda: e_step(largest.take(slice(n))))
        deadline = time.perf_counter() + seconds

        def repeat(chunk: Chunk) -> tuple[int, float]:
            n_rows, begun = 0, time.perf_counter()
            while n_rows == 0 or time.perf_counter() < deadline:
                e_step(chunk)
                n_rows += len(chunk)
            return n_rows, time.perf_counter() - begun

        parts = [chunks[i % len(chunks)].take(slice(n)) for i in range(n_threads)]
        done = _on_threads(repeat, parts)
    rate = sum(rows / took for rows, took in done)
    return Arithmetic(
        rate * (n_tried / n_components),
        workspace * n_components // n_tried,
        statistics_bytes * n_components // n_tried,
        n_tried,
    )


def model_bytes(estimator: Any, n_components: int, n_features: int) -> int:
    """Return what the parameters of a model with so many components take."""
    numbers = n_components * n_features
    if hasattr(estimator, "covariance_type"):
        numbers += 2 * math.prod(shape_of_covariances(estimator.covariance_type, n_components, n_features))
    return 8 * numbers


def trial_size(estimator: Any, n_features: int) -> int:
    """Return how many components a trial model has: all of them, or a fraction whose memory is bounded."""
    n = getattr(estimator, estimator._entry.size)
    while n > 1 and _trial_bytes(estimator, n, n_features) > TRIAL_BYTES:
        n = -(-n // 2)
    return int(n)


def _trial_bytes(estimator: Any, n_components: int, n_features: int) -> int:
    """Return the memory of the sample, its distances and responsibilities, and of some copies of the parameters."""
    n_rows = max(LEAST_ROWS, ROWS_PER_COMPONENT * n_components)
    return 24 * n_rows * (n_components + n_features) + 4 * model_bytes(estimator, n_components, n_features)


def _rows_within(work: Callable[[int], Any], most: int, seconds: float) -> int:
    """Return with how many rows a piece of work takes about some seconds; at most `most`."""
    n = min(FIRST_ROWS, most)
    while True:
        begun = time.perf_counter()
        work(n)
        if n == most or 4 * (time.perf_counter() - begun) > seconds:
            return n
        n = min(4 * n, most)


def _memory_of(work: Callable[[], Any]) -> tuple[int, int]:
    """Return the bytes that a piece of work needs at most, in a thread of its own, and those of its result."""
    found: list[int] = []

    def measured() -> None:
        tracemalloc.start(1)
        try:
            before = tracemalloc.get_traced_memory()[0]
            result = work()
            found.extend([tracemalloc.get_traced_memory()[1] - before, n_bytes(result)])
        finally:
            tracemalloc.stop()

    thread = threading.Thread(target=measured, name="dem-measure")
    thread.start()
    thread.join()
    return found[0], found[1]


def _on_threads(work: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(parts), thread_name_prefix="dem-measure") as pool:
        return list(pool.map(work, parts))


def trial_model(estimator: Any, table: NDArray[Any]) -> tuple[Any, Any]:
    """Return a family and parameters whose E-steps cost what those of a fit do, made from a few rows in one step.

    Each component takes the rows that are nearest to one of them, and a tenth of its weight from all, so that the
    components overlap as they do in the middle of a fit.

    Raises
    ------
    DataError
        If the rows are not what the model takes.
    """
    rng = np.random.default_rng(0)
    n_components = getattr(estimator, estimator._entry.size)
    most = max(LEAST_ROWS, ROWS_PER_COMPONENT * n_components)
    sample = np.asarray(table[rng.permutation(len(table))[:most]], dtype=np.float64)
    if not estimator._entry.is_mixture:
        clusters = Clusters(Frame.of(sample, isotropic=True))
        return clusters, clusters.from_user({"cluster_centers": sample[rng.integers(len(sample), size=n_components)]})
    family = estimator._family()
    if family.support.outside(sample).any():
        message = f"the rows hold values that are not {family.support.description}"
        raise DataError(message)
    family = replace(family, component=family.component.adapted_to(sample))
    centres = sample[rng.integers(len(sample), size=n_components)]
    scale = sample.std(axis=0) + np.finfo(np.float64).tiny
    squares = np.sum((centres / scale) ** 2, axis=1) - 2.0 * (sample / scale) @ (centres / scale).T
    responsibilities = np.full((len(sample), n_components), 0.1 / n_components)
    responsibilities[np.arange(len(sample)), squares.argmin(axis=1)] += 0.9
    return family, family.truncated(family.start(sample, responsibilities))


def synthetic_chunk(estimator: Any, rows: Rows, n_rows: int) -> Chunk:
    """Return a chunk of random rows with the features and the dtype of the data, that the model takes."""
    rng = np.random.default_rng(0)
    n = max(1, min(n_rows, SYNTHETIC_BYTES // (8 * rows.n_features)))
    table: NDArray[Any] = rng.normal(size=(n, rows.n_features))
    if estimator._entry.is_mixture and estimator._family().support.outside(table).any():
        table = rng.integers(0, 2, size=table.shape)  # what counts and coins take
    elif rows.dtype.kind != "f":
        table = np.clip(np.rint(40 * table), 0 if rows.dtype.kind in "bu" else -127, 127)
    return Chunk(table.astype(rows.dtype), range(n))


def pass_seconds(reading: float, busy: float, arithmetic: float, n_threads: int) -> float:
    """Return the wall time of a pass: it reads ahead, so that waiting for the store hides behind the arithmetic.

    It is NaN if the arithmetic is.

    Parameters
    ----------
    reading, arithmetic : float
        Wall times of each alone.
    busy : float
        Processor time of the reading, which the arithmetic has to share the cores with.
    n_threads : int
        Number of cores.
    """
    if math.isnan(arithmetic):
        return arithmetic
    return arithmetic if math.isnan(reading) else max(reading, arithmetic + busy / n_threads)
