"""What a fit, or results, need of memory in each process that works: computed from shapes alone, before any reading."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import dask

from dem import native
from dem.data.base import READ_BYTES, READ_ROWS, Rows
from dem.em.algorithm import Batch
from dem.em.incremental import in_flight
from dem.em.progress import needed_for
from dem.engine import Engine
from dem.engine.base import Room
from dem.engine.reading import in_flight_bytes, reads_in_flight
from dem.errors import EngineError, EngineWarning, OptionError
from dem.estimators.loops import LOOPS_BYTES, are_wanted
from dem.estimators.starts import POLISHED
from dem.events import Callback, MemoryNeeded, notify
from dem.families.exponential_kernel import ExponentialKernel
from dem.families.gaussian import search
from dem.families.gaussian.covariance import block_rows
from dem.families.gaussian.full_kernel import WIDE_FEATURES
from dem.families.kmeans import BLOCK_ROWS
from dem.families.listed import FEWEST_COMPONENTS
from dem.families.nearest import PIECE_ROWS
from dem.initialise import kmeans_parallel
from dem.initialise.sample import SAMPLE_BYTES
from dem.statistics import TREE_ARITY
from dem.units import human_bytes
from dem.validation import form_of_covariances, shape_of_covariances

# What a worker process takes beside its work: Python, Dask, NumPy, parts of SciPy, zarr and dem; and what its allocator
# holds back (`WORKER_SETTINGS`).
WORKER_BYTES = 190 * 10**6
# What allocators take beyond what is asked of them, as a share: pieces that are freed and cannot be given back. With it
# a need lies as far above the peaks that were measured (benchmarks/memory.py) as Dask's thresholds for spilling and
# pausing, 0.7 and 0.8, lie below 1.2 times a need of that limit.
RESERVE = 0.2
# Share of the memory limit at which Dask ends a worker.
ENDS_AT = 0.95
# Sets of statistics that a kernel derives from parameters, in every process, and those that a thread sums and returns.
DERIVED, SUMMED = 5, 3
# Samples that a worker holds at once while parts of one are put together, sent and received.
SAMPLED = 4


def sample_rows(estimator: Any, rows: Rows) -> int:
    """Return how many rows the sample has."""
    return min(estimator.sample_rows or max(SAMPLE_BYTES // (8 * rows.n_features), 1), rows.n_rows)


def start_bytes(estimator: Any, rows: Rows) -> int:
    """Return what the sample and the start need here: the sample, copies of it, its responsibilities, parameters."""
    responsibilities = estimator.n_components if estimator._entry.is_mixture else 0
    numbers = sample_rows(estimator, rows) * (3 * rows.n_features + responsibilities)
    return 8 * numbers + 3 * parameter_bytes(estimator, rows.n_features)


def parameter_bytes(estimator: Any, n_features: int) -> int:
    """Return what the parameters of a model take, its covariances twice."""
    return _numbers(estimator, n_features, 2) * 8


def statistics_bytes(estimator: Any, n_features: int) -> int:
    """Return what the statistics of a model take."""
    return _numbers(estimator, n_features, 1) * 8


def work_bytes(estimator: Any, n_features: int, *, most_rows: float = math.inf, is_sparse: bool = False) -> int:
    """Return what an E-step takes of each block of rows: densities, responsibilities, rows as it computes with them.

    Of covariances it is the mean of that where all components share one product and that where each has a frame of its
    own, which is told by their parameters.
    """
    if parts := getattr(estimator, "_parts", ()):
        return sum(work_bytes(part.estimator, len(part.names)) for part in parts)
    size, d = getattr(estimator, estimator._entry.size), n_features
    if hasattr(estimator, "covariance_type"):
        products = (
            d * (d + 1) // 2 if form_of_covariances(estimator.covariance_type) == "full" and d <= WIDE_FEATURES else d
        )
        shared = 8 * (1 + 2 * d + products + 2 * size)
        return int(sum(n * block_rows(n) for n in (shared, shared + 8 * d * size))) // 2
    if hasattr(estimator, "n_factors"):
        numbers = 8 * (1 + 5 * d + size * (estimator.n_factors + 3))
        return int(numbers * block_rows(numbers))
    if is_sparse:  # a product of sparse rows is as large as the statistics
        return int(8 * (2 * size * ExponentialKernel.block_rows + 3 * size * d))
    if estimator._entry.is_mixture:
        component = estimator._component()
        if hasattr(component, "block_bytes"):
            return int(component.block_bytes(size, d))
        n_statistics = len(component.owners(d))
        return int(8 * min(ExponentialKernel.block_rows, most_rows) * (d + n_statistics + size))
    # Compiled loops hold the centres three times, and labels and distances of more rows than NumPy's blocks have.
    return int(max(8 * BLOCK_ROWS * (4 * d + size), 24 * size * d + 16 * min(PIECE_ROWS, most_rows)))


def _work_bytes_on(estimator: Any, rows: Rows) -> int:
    return work_bytes(estimator, rows.n_features, most_rows=max(rows.read_rows, 1), is_sparse=rows.is_sparse)


def _numbers(estimator: Any, n_features: int, n_covariances: int) -> int:
    size = getattr(estimator, estimator._entry.size)
    if hasattr(estimator, "covariance_type"):
        shape = shape_of_covariances(estimator.covariance_type, size, n_features)
        return int(size * (n_features + 2)) + n_covariances * math.prod(shape)
    names = [name for name in estimator._parameter_names if name != "weights"]
    return int(2 * size + sum(math.prod(estimator._shape(name, size, n_features)) for name in names))


def need_of_fit(
    estimators: Sequence[Any],
    rows: Rows,
    room: Room,
    n_workers: int | None,
    times: int = 1,
    most_in_flight: int | None = None,
) -> dict[str, int]:
    """Return what one process needs for a fit, in bytes, by what it is for.

    Parameters
    ----------
    estimators : sequence of estimators
        Those that are fitted together, on one read.
    rows : Rows
        The data, as they will be read.
    room : Room
        The process: of its threads as many work as there are batches.
    n_workers : int or None
        Processes that share the data; None where the threads of this one do the work, whose own size then counts
        already, and the start comes to it.
    times : int
        How many fits there are of each.
    most_in_flight : int, optional
        How many reads are in flight at most, where their number is found out.
    """
    first, n_batches = estimators[0], rows.n_batches
    n_threads, complete = min(room.n_threads, n_batches), sample_rows(first, rows) == rows.n_rows
    algorithm: Any = first._algorithm() if first._entry.is_mixture else Batch()
    n_blocks = min(n_batches, algorithm.n_blocks or 1)
    under_way = in_flight(getattr(algorithm, "max_in_flight", None), n_blocks)
    most = math.inf if complete else POLISHED if algorithm.n_blocks is None else 1
    sums = [times * min(_starts(one), most) * statistics_bytes(one, rows.n_features) for one in estimators]
    waiting = min(n_batches, (TREE_ARITY + 1) * max(math.ceil(math.log(n_batches, TREE_ARITY)), 1))
    width = rows.read_bytes / max(min(rows.read_rows, rows.n_rows), 1) + 8 * rows.n_features + 8
    width -= rows.dtype.itemsize * rows.n_features  # as float64, with their places
    sample = SAMPLED * sample_rows(first, rows) * width if n_workers else 0
    work = max(_work_bytes_on(one, rows) for one in estimators)
    start = getattr(first, first._entry.start)
    if isinstance(start, str) and start == "k-means||":
        work = max(work, *(kmeans_parallel.work_bytes(getattr(one, one._entry.size)) for one in estimators))
    work += _copied_bytes(first, rows) + max(_listed_bytes(one, rows) for one in estimators)
    waits = (waiting + under_way) * sum(sums)
    need = {
        **_of_reading(rows, n_threads, n_workers, most_in_flight),
        "E-step": int(n_threads * (work + SUMMED * sum(sums)) + DERIVED * under_way * sum(sums)),
        **({"statistics": int(waits)} if waits >= sample else {"sample": int(sample)}),  # not at the same time
    }
    if n_workers is None:
        need["sample and start"] = sum(start_bytes(one, rows) for one in estimators)
    return _with_reserve(need)


def need_of_results(
    estimator: Any,
    rows: Rows,
    room: Room,
    n_workers: int | None,
    row_bytes: int,
    most_in_flight: int | None = None,
) -> dict[str, int]:
    """Return what one process needs to compute and write results of so many bytes for each row."""
    n_threads = min(room.n_threads, rows.n_batches)
    slab = min(max(rows.read_rows, 1), max(READ_ROWS, 2 * math.prod(rows.grid_chunks)), rows.n_rows)
    work = _work_bytes_on(estimator, rows) + _copied_bytes(estimator, rows)
    work += DERIVED * statistics_bytes(estimator, rows.n_features)
    need = {
        **_of_reading(rows, n_threads, n_workers, most_in_flight),
        "E-step": n_threads * work,
        "results": 3 * n_threads * slab * max(row_bytes, 8),
    }
    return _with_reserve(need)


def _copied_bytes(estimator: Any, rows: Rows) -> int:
    """Return what a chunk takes whose rows are put in groups: by values they lack (as measured), or by region."""
    n_groupings = 18 * (estimator.missing == "marginalise") + (getattr(estimator, "top_components", None) is not None)
    return int(n_groupings * rows.read_bytes * 8 // rows.dtype.itemsize)


def _listed_bytes(estimator: Any, rows: Rows) -> int:
    """Return what lists of components take of the chunk in work: theirs, and the search for them.

    Lists that are kept from pass to pass are not needed: they take a share of what is left; see `dem.beside_chunks`.
    """
    candidates = getattr(estimator, "top_components", None)
    if candidates is None or estimator.n_components < FEWEST_COMPONENTS or native.offered() == "NumPy":
        return 0
    if getattr(estimator, "covariance_type", "") not in ("diag", "spherical"):
        return 0
    n_rows = max(rows.read_rows, 1)
    lists = n_rows * (2 * candidates + 24)  # with the order, places and densities of rows
    return int(lists + search.block_bytes(n_rows, rows.n_features, estimator.n_components, candidates))


def _of_reading(rows: Rows, n_threads: int, n_workers: int | None, most_in_flight: int | None) -> dict[str, int]:
    """Return what a process holds of the data: the chunk in work, the next ones and what those are decoded from."""
    need = {} if n_workers is None else {"Python and packages": WORKER_BYTES + rows.package_bytes}
    n_reads = -(-rows.n_rows // max(rows.read_rows, 1))
    in_flight = reads_in_flight(rows, n_threads, most_in_flight)
    if in_flight is not None:  # one in work, and one made of it, where something goes with the rows
        held = 2 * n_threads * rows.read_bytes + min(in_flight.most, n_reads) * in_flight_bytes(rows)
    else:
        ahead = n_reads > rows.n_batches  # some batch has more than one read
        held = n_threads * ((1 + ahead) * rows.read_bytes + rows.decoding_bytes)
    need["chunks"] = held + rows.kept_bytes
    if n_workers and rows.carried_bytes:
        need["data in memory"] = 3 * rows.carried_bytes // n_workers
    return need


def _with_reserve(need: dict[str, int]) -> dict[str, int]:
    return {**need, "reserve": int(RESERVE * (sum(need.values()) - need["E-step"]))}


def _starts(estimator: Any) -> int:
    """Return how many starts there are; 'auto' of k-means is 10 where these are drawn."""
    return 10 if estimator.n_init == "auto" else int(estimator.n_init)


class Fitting(NamedTuple):
    """Rows as they fit into memory, if they do, with how many reads in flight at most, and whether loops do too."""

    rows: Rows
    most_in_flight: int | None
    room: Room
    need: dict[str, int]
    fits: bool
    loops: bool


def in_slices(
    need_in: Callable[[Room, Rows, int | None], dict[str, int]], rows: Rows, rooms: Sequence[Room], *, loops: bool
) -> Fitting:
    """Return rows, with fewer reads in flight or in slices where they would not fit otherwise, and what is needed.

    Parameters
    ----------
    need_in : callable
        Returns what is needed in a process to read rows with so many reads in flight at most.
    rows : Rows
    rooms : sequence of Room
        The processes; what is returned is of that in which it is tightest.
    loops : bool
        Whether compiled loops are wanted: they are used where nothing else has to give way to them.
    """
    for n_bytes in (None, READ_BYTES, 1):
        sliced = rows if n_bytes is None else rows.sliced(n_bytes)
        for most in _fewer_and_fewer(sliced, max(room.n_threads for room in rooms)):
            needs = [(room, need_in(room, sliced, most)) for room in rooms]
            for more in ({"compiled loops": LOOPS_BYTES}, {}) if loops else ({},):
                all_needs = [(room, need | more) for room, need in needs]
                room, need = max(all_needs, key=lambda pair: sum(pair[1].values()) / (pair[0].limit or math.inf))
                fits = room.limit is None or sum(need.values()) <= ENDS_AT * room.limit
                found = Fitting(sliced, most, room, need, fits, bool(more))
                if fits:
                    return found
    return found


def _fewer_and_fewer(rows: Rows, n_threads: int) -> list[int | None]:
    """Return the numbers of reads in flight to try: halves down to one for each thread, unless the number is given."""
    in_flight = reads_in_flight(rows, n_threads)
    if in_flight is None or in_flight.is_fixed:
        return [None]
    n_halves = int(math.log2(max(in_flight.most / n_threads, 1))) + 1
    return [max(in_flight.most >> i, n_threads) for i in range(n_halves + 1)]


def fitting(
    estimators: Sequence[Any],
    rows: Rows,
    engine: Engine,
    callbacks: Sequence[Callback] = (),
    row_bytes: int | None = None,
    times: int = 1,
) -> Rows:
    """Compare what a fit, made so many `times`, or results of `row_bytes`, need with the memory there is, and tell.

    Returns
    -------
    Rows
        The same, to be read in slices where they would not fit otherwise.

    Raises
    ------
    EngineError
        If they do not fit at all, with the numbers, and what to do. ``dask.config.set({"dem.memory-check": "warn"})``
        makes a warning of it.
    OptionError
        If options of a fit do not go with so many features.
    """
    engine.loops = wanted = are_wanted(estimators, rows)
    if not (rooms := engine.rooms()):
        return rows
    n_workers = None if rooms[0].is_here else len(rooms)
    if row_bytes is None:
        for one in estimators:  # before their memory: that may be absurd for the same reason
            one._check_features(rows.n_features)

    def need_in(room: Room, rows: Rows, most_in_flight: int | None) -> dict[str, int]:
        if row_bytes is not None:
            return need_of_results(estimators[0], rows, room, n_workers, row_bytes, most_in_flight)
        return need_of_fit(estimators, rows, room, n_workers, times, most_in_flight)

    rows, engine.most_in_flight, room, need, fits, engine.loops = in_slices(need_in, rows, rooms, loops=wanted)
    whose = room.holder if len(rooms) == 1 else f"each of {len(rooms)} workers"
    told = MemoryNeeded(whose, need, room.limit)
    if not fits:
        _refuse(told, room, remedy(estimators[0], room, need, rows), rows.name)
    engine.needed = told.n_bytes if row_bytes is None else None
    notify(callbacks, told)
    return rows


def _refuse(told: MemoryNeeded, room: Room, what_to_do: str, name: str) -> None:
    """Say that it does not fit, what the most is for, and what lessens that."""
    how = dask.config.get("dem.memory-check", "raise")
    if how not in ("raise", "warn"):
        message = f"dask's setting dem.memory-check must be 'raise' or 'warn', not {how!r}"
        raise OptionError(message)
    has = "are free here" if room.is_here else f"is the memory limit of {room.holder}"
    message = (
        f"{told.holder} needs up to {human_bytes(told.n_bytes)} for {name}, and {human_bytes(room.limit or 0)} "
        f"{has} ({needed_for(told)}): {what_to_do}"
    )
    if how == "raise":
        raise EngineError(message)
    warnings.warn(message, EngineWarning, stacklevel=2)


def remedy(estimator: Any, room: Room, need: Mapping[str, int], rows: Rows) -> str:
    """Say what lessens a need: its largest part first."""
    total, n_threads = sum(need.values()), min(room.n_threads, rows.n_batches)
    spare = ENDS_AT * (room.limit or 0) - (total - (1 + RESERVE) * need["chunks"])
    fits = rows.read_bytes * spare / ((1 + RESERVE) * need["chunks"] or 1)
    largest = max(need, key=lambda what: need[what] * (what not in ("Python and packages", "reserve")))
    ways = []
    if largest == "chunks" and fits > 2**20:
        ways.append(
            f"store the data in chunks of at most {human_bytes(fits, math.floor)} (dask's `rechunk`, or shards)"
        )
    elif largest in ("E-step", "statistics"):
        shapes = form_of_covariances(getattr(estimator, "covariance_type", "")) in ("full", "tied")
        ways.append(f"take {'diag covariances or ' * shapes}fewer components")
    elif largest in ("sample", "sample and start"):
        ways.append("take fewer rows for the sample (sample_rows, --sample-rows)")
    if n_threads > 1 and largest in ("chunks", "E-step", "results") and not room.is_here:
        ways.append(f"give each process fewer threads than {n_threads}")
    ways.append(
        f"give {'this process' if room.is_here else 'a worker'} at least {human_bytes(total / ENDS_AT, math.ceil)}"
    )
    return ", or ".join(ways)
