"""What a pass costs on this machine: chunks are read and E-steps made for a second or two."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from dem.data.base import Batch, Chunk, Rows
from dem.data.found import Found
from dem.data.joined import table_of
from dem.engine.base import single_threaded_blas
from dem.engine.local import LocalEngine, available_cores
from dem.engine.reading import reads_in_flight
from dem.errors import DataError
from dem.families.base import Support, has_gaps
from dem.families.gaussian.frame import Frame
from dem.families.kmeans import Clusters
from dem.initialise.gaps import observed_means
from dem.initialise.kmeans_parallel import nearest_centres
from dem.initialise.sample import RowSample
from dem.sparse import dense_rows
from dem.tree import n_bytes
from dem.units import human_bytes, human_count
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


@dataclass
class Measured:
    """What a row costs, in seconds with all threads at once, and an E-step on a chunk, in bytes.

    Attributes
    ----------
    read_rows : int
        Rows of the largest read.
    parameter_bytes, workspace_bytes, statistics_bytes : int
        Of the model, of an E-step beside the rows and the model, per thread, and of what remains of a chunk.
    reading, arithmetic : float
        Wall time of each alone; NaN where it could not be measured.
    busy : float
        Of the processor while reading; what is left of all threads' wall time was spent waiting for the store.
    on : str
        What was read and computed with.
    problems : list of str
        What was found to be wrong with the data.
    """

    read_rows: int
    parameter_bytes: int
    workspace_bytes: int
    statistics_bytes: int
    reading: float = math.nan
    busy: float = math.nan
    arithmetic: float = math.nan
    on: str = ""
    problems: list[str] = field(default_factory=list)


def measure(rows: Rows, estimator: Any, n_threads: int, seconds: float, free: int) -> Measured:
    """Read and compute, both for so many seconds, in `free` bytes of memory at most.

    What cannot be measured becomes a problem, and random rows stand in.
    """
    n_threads = min(n_threads, available_cores())
    parameters = _model_bytes(estimator, getattr(estimator, estimator._entry.size), rows.n_features)
    found = Measured(rows.read_rows, parameters, parameters, parameters)
    chunks: list[Chunk] = []
    read_bytes = rows.read_rows * rows.n_features * rows.dtype.itemsize
    in_flight = reads_in_flight(rows, n_threads)
    n_reading = n_threads if in_flight is None else in_flight.most
    if 2 * n_reading * read_bytes > free:
        why = f"reads of {human_bytes(read_bytes)} do not fit into the free memory, {human_bytes(free)}"
    else:
        try:
            chunks = _read(found, rows, n_reading, seconds)
        except DataError as error:
            why = "they could not be read"  # the error is one of the problems
            found.problems.append(str(error))
    tried = _model_bytes(estimator, _trial_size(estimator, rows.n_features), rows.n_features)
    if 4 * tried > free:
        found.on = f"nothing: the parameters of a single component take {human_bytes(tried)}"
        return found
    if chunks:
        try:
            _compute(found, estimator, chunks, n_threads, seconds)
        except DataError as error:
            found.problems.append(str(error))
            why = "the rows that were read are no data for this model"
        else:
            return found
    chunk = _synthetic_chunk(estimator, rows)
    found.on = f"{human_count(len(chunk))} random rows instead of the data ({why})"
    _compute(found, estimator, [chunk], n_threads, seconds)
    return found


def _read(measured: Measured, rows: Rows, n_threads: int, seconds: float) -> list[Chunk]:
    """Read chunks that are spread over the data, on threads, until the time is over; return one of each thread."""
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

    batches = rows.batches()
    begun, busy = time.perf_counter(), time.process_time()
    counts = _on_threads(read, [_spread(part) for i in range(n_threads) if (part := batches[i::n_threads])])
    took, busy = time.perf_counter() - begun, time.process_time() - busy
    n_rows, n_bytes, found = zip(*counts, strict=True)
    rows.check_found(sum(found, start=Found()))
    measured.read_rows = max(map(len, kept))
    measured.reading, measured.busy = took / sum(n_rows), busy / sum(n_rows)
    measured.on = f"{human_bytes(sum(n_bytes))} of the data, read at {human_bytes(sum(n_bytes) / took)}/s"
    return kept


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


def _compute(measured: Measured, estimator: Any, chunks: Sequence[Chunk], n_threads: int, seconds: float) -> None:
    """Make E-steps of a trial model on chunks in memory until the time is over; see `_trial_model`.

    A model too large to try (`TRIAL_BYTES`) is tried with fewer components; costs are taken to be in proportion.

    Raises
    ------
    DataError
        If the rows are not what the model takes.
    """
    support = Support(gaps=estimator.missing == "marginalise")
    if any(len(support.places_outside(chunk.rows)[0]) for chunk in chunks):
        message = "the rows that were read hold NaN or infinite values: drop or fill them first, or give missing="
        raise DataError(message)
    largest = max(chunks, key=len)
    if not len(largest) or (
        has_gaps(largest.rows) and np.isnan(largest.rows).all(axis=0).any()
    ):  # also where all rows are skipped
        message = "the rows that were read lack all values of a feature"
        raise DataError(message)
    n_components = getattr(estimator, estimator._entry.size)
    n_tried = _trial_size(estimator, largest.rows.shape[1])
    if n_tried < n_components:
        estimator = clone(estimator).set_params(**{estimator._entry.size: n_tried})
        if getattr(estimator, "top_components", None) is not None:
            estimator.top_components = min(estimator.top_components, n_tried)
        chunks = [replace(chunk, labels=None) for chunk in chunks]  # they number more components
        largest = max(chunks, key=len)
    with single_threaded_blas():
        some = dense_rows(largest.rows, len(largest))
        family, parameters = _trial_model(estimator, np.asarray(largest.rows[:some]))

        def e_step(n: int) -> Any:
            return family.e_step(parameters, largest.take(slice(n)))

        n = _rows_within(e_step, len(largest), seconds / 4)
        workspace, statistics = _memory_of(lambda: e_step(n))
        deadline = time.perf_counter() + seconds

        def repeat(chunk: Chunk) -> float:
            n_rows, begun = 0, time.perf_counter()
            while n_rows == 0 or time.perf_counter() < deadline:
                family.e_step(parameters, chunk)
                n_rows += len(chunk)
            return n_rows / (time.perf_counter() - begun)

        rates = _on_threads(repeat, [chunks[i % len(chunks)].take(slice(n)) for i in range(n_threads)])
    if n_tried < n_components:
        measured.on += f"; E-steps with {n_tried:,} of {n_components:,} components, scaled in proportion"
    measured.arithmetic = n_components / n_tried / sum(rates)
    measured.workspace_bytes = workspace * n_components // n_tried
    measured.statistics_bytes = statistics * n_components // n_tried


def _model_bytes(estimator: Any, n_components: int, n_features: int) -> int:
    """Return what the parameters of a model with so many components take."""
    numbers = n_components * n_features
    if hasattr(estimator, "covariance_type"):
        numbers += 2 * math.prod(shape_of_covariances(estimator.covariance_type, n_components, n_features))
    return 8 * numbers


def _trial_size(estimator: Any, n_features: int) -> int:
    """Return how many components a trial model has: all of them, or a fraction whose memory is bounded."""

    def needs(n: int) -> int:
        """Return the bytes of the sample, its distances and responsibilities, and some copies of the parameters."""
        n_rows = max(LEAST_ROWS, ROWS_PER_COMPONENT * n)
        return 24 * n_rows * (n + n_features) + 4 * _model_bytes(estimator, n, n_features)

    n = int(getattr(estimator, estimator._entry.size))
    while n > 1 and needs(n) > TRIAL_BYTES:
        n = -(-n // 2)
    return n


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

    def measured(_: None) -> tuple[int, int]:
        tracemalloc.start(1)
        try:
            before = tracemalloc.get_traced_memory()[0]
            result = work()
            return tracemalloc.get_traced_memory()[1] - before, n_bytes(result)
        finally:
            tracemalloc.stop()

    (found,) = _on_threads(measured, [None])
    return found[0], found[1]


def _on_threads(work: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    contexts = [copy_context() for _ in parts]  # which say whether compiled loops may be used
    with ThreadPoolExecutor(len(parts), thread_name_prefix="dem-measure") as pool:
        return list(pool.map(lambda context, part: context.run(work, part), contexts, parts))


def _trial_model(estimator: Any, table: NDArray[Any]) -> tuple[Any, Any]:
    """Return a family and parameters whose E-steps cost what those of a fit do, made from a few rows in one step.

    Each component takes the rows that are nearest to one of them, and a tenth of its weight from all, so that the
    components overlap as they do in the middle of a fit.
    """
    rng = np.random.default_rng(0)
    n_components = getattr(estimator, estimator._entry.size)
    most = max(LEAST_ROWS, ROWS_PER_COMPONENT * n_components)
    table = np.asarray(table, dtype=np.float64)
    if has_gaps(table):
        table = np.where(np.isnan(table), observed_means(table), table)
    sample = table[rng.permutation(len(table))[:most]]
    centres = sample[rng.integers(len(sample), size=n_components)]
    if not estimator._entry.is_mixture:
        clusters = Clusters(Frame.of(sample, isotropic=True))
        return clusters, clusters.from_user({"cluster_centers": centres})
    support = estimator._support()
    if support.outside(sample).any():
        message = f"the rows hold values that are not {support.description}"
        raise DataError(message)
    family = family_for(estimator, sample)
    scale = sample.std(axis=0) + np.finfo(np.float64).tiny
    nearest = nearest_centres(sample / scale, centres / scale, np.zeros(len(scale)))
    responsibilities = np.full((len(sample), n_components), 0.1 / n_components)
    responsibilities[np.arange(len(sample)), nearest] += 0.9
    return family, family.truncated(family.start(sample, responsibilities))


def family_for(estimator: Any, table: NDArray[Any]) -> Any:
    """Return what a mixture estimator fits to rows in memory, float64, in their frame of reference."""
    chunk = Chunk(table, range(len(table)))
    return estimator._family_for(table_of(chunk), LocalEngine(1), RowSample(chunk, True, float(len(table))))


def _synthetic_chunk(estimator: Any, rows: Rows) -> Chunk:
    """Return a chunk of random rows with the features and the dtype of the data, that the model takes."""
    rng = np.random.default_rng(0)
    n = max(1, min(rows.read_rows, SYNTHETIC_BYTES // (8 * rows.n_features)))
    table: NDArray[Any] = rng.normal(size=(n, rows.n_features))
    if estimator._support().outside(table).any():
        table = rng.integers(0, 2, size=table.shape)  # what counts and coins take
    elif rows.dtype.kind != "f":
        table = np.clip(np.rint(40 * table), 0 if rows.dtype.kind in "bu" else -127, 127)
    return Chunk(table.astype(rows.dtype), range(n))
