"""Data and works that isolate one cost: arithmetic without reading, reading without arithmetic, machinery alone.

A module of its own, so that worker processes can import it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import zarr
from common import Stopwatch, mixture_rows, start_of

from dem.data.base import Batch, Chunk, Rows, batch_bounds
from dem.em import algorithm
from dem.em.algorithm import Settings, Start
from dem.em.loop import run
from dem.engine import Engine
from dem.families.base import EStep
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters, MixtureStatistics

_LOCK = threading.Lock()


@cache
def _first_chunk(path: str) -> np.ndarray:
    stored = zarr.open_array(path, mode="r")
    return stored[: stored.chunks[0]]


@dataclass(frozen=True, eq=False)
class Repeated(Batch):
    """The first chunk of a store, kept in memory, several times."""

    path: str
    n_chunks: int
    reads_ahead: bool = False

    @property
    def span(self) -> None:
        """Not that of rows of their own."""

    @property
    def n_rows(self) -> int:
        with _LOCK:
            return self.n_chunks * len(_first_chunk(self.path))

    def __iter__(self) -> Iterator[Chunk]:
        with _LOCK:
            rows = _first_chunk(self.path)
        for _ in range(self.n_chunks):
            yield Chunk(rows, range(len(rows)))


def cached_bytes() -> int:
    """Return the bytes of decoded chunks that this worker keeps."""
    from dem.engine.cluster import _cache_of  # noqa: PLC0415

    return _cache_of("auto").n_bytes


class Resident(Rows):
    """As many rows as a store has, without reading them."""

    feature_names = None

    def __init__(self, path: str) -> None:
        stored = zarr.open_array(path, mode="r")
        self.name, self.path, self.n_chunks = "resident", path, stored.nchunks
        self.n_rows, self.n_features = stored.shape
        self.dtype = stored.dtype

    def batches(self) -> list[Batch]:
        return [Repeated(self.path, stop - first) for first, stop in batch_bounds(self.n_chunks)]


@dataclass(frozen=True, eq=False)
class Sliced(Batch):
    """Equal slices of a few rows in memory, over and over: chunks of any size at no cost."""

    rows: np.ndarray
    chunk_rows: int
    first: int
    stop: int
    reads_ahead: bool = False

    @property
    def span(self) -> range:
        """Its rows."""
        return range(self.first * self.chunk_rows, self.stop * self.chunk_rows)

    def __iter__(self) -> Iterator[Chunk]:
        places = max(len(self.rows) // self.chunk_rows, 1)
        for number in range(self.first, self.stop):
            start = number % places * self.chunk_rows
            rows = self.rows[start : start + self.chunk_rows]
            yield Chunk(rows, range(number * self.chunk_rows, number * self.chunk_rows + len(rows)))


class Imagined(Rows):
    """Any number of chunks that are made where they are asked for."""

    feature_names = None

    def __init__(self, n_chunks: int, chunk_rows: int = 1, n_features: int = 1) -> None:
        self.name, self.n_chunks, self.chunk_rows = "imagined", n_chunks, chunk_rows
        self.n_rows, self.n_features, self.dtype = n_chunks * chunk_rows, n_features, np.dtype(float)
        # A few thousand rows on which all chunks draw, small enough to travel with each batch.
        self.rows = mixture_rows(max(chunk_rows, min(self.n_rows, 1000)), n_features, 2)

    def batches(self) -> list[Batch]:
        return [Sliced(self.rows, self.chunk_rows, *bounds) for bounds in batch_bounds(self.n_chunks)]


@dataclass(frozen=True, eq=False)
class Piece(Batch):
    """Consecutive rows in memory."""

    rows: np.ndarray
    first: int
    reads_ahead: bool = False

    @property
    def span(self) -> range:
        """Its rows."""
        return range(self.first, self.first + len(self.rows))

    def __iter__(self) -> Iterator[Chunk]:
        yield Chunk(self.rows, self.span)


class InPieces(Rows):
    """Rows in memory in as many batches as a large store has; dem would take so few rows as one."""

    feature_names = None

    def __init__(self, rows: np.ndarray, n_pieces: int) -> None:
        self.name, self.rows, self.n_pieces = "rows in pieces", rows, n_pieces
        self.n_rows, self.n_features = rows.shape
        self.dtype = rows.dtype

    def batches(self) -> list[Batch]:
        edges = [self.n_rows * i // self.n_pieces for i in range(self.n_pieces + 1)]
        return [Piece(self.rows[a:b], a) for a, b in itertools.pairwise(edges)]


def nothing(chunk: Chunk) -> int:
    """Work that only reads."""
    return len(chunk)


@dataclass(frozen=True, eq=False)
class Carried:
    """Work that carries parameters along and looks at nothing; its result is as small as can be."""

    parameters: object

    def __call__(self, chunk: Chunk) -> int:
        return len(chunk)


class Idle(EStep):
    """An E-step that returns statistics of the right size at no cost."""

    def __call__(self, chunk: Chunk) -> MixtureStatistics:  # noqa: ARG002
        shape = self.parameters.components.means.shape
        if shape not in _ZEROS:  # one per process, so that making it is not timed
            _ZEROS[shape] = 0.0 * super().__call__(Chunk(np.zeros((1, shape[1])), range(1)))
        return _ZEROS[shape]


_ZEROS: dict[tuple[int, ...], MixtureStatistics] = {}


class Model:
    """A Gaussian mixture whose EM iterations run on any rows and any engine, without a new start each time."""

    def __init__(self, sample: np.ndarray, n_components: int, covariance: str = "full") -> None:
        start = start_of(sample, n_components, covariance)
        self.family = Mixture(COVARIANCE_TYPES[covariance]().adapted_to(sample))
        values = {"weights": start["weights_init"], "means": start["means_init"]}
        covariances = self.family.component.from_precisions(start["precisions_init"])
        values |= dict(zip(("covariances", "precisions_cholesky"), covariances, strict=True))
        self.parameters = self.family.from_user(values)

    def iteration(self, rows: Rows, engine: Engine) -> float:
        """Return the seconds of one iteration, M-step included."""
        watch = Stopwatch([])
        start = Start(self.family, self.parameters)
        self.parameters = run([start], algorithm.Batch(), rows, engine, Settings(0.0, 1, [watch]))[0].parameters
        return watch.seconds[0]


def full_mixture(n_components: int, n_features: int) -> tuple[Mixture, MixtureParameters]:
    """Return a Gaussian mixture with full covariances and parameters for it."""
    rng = np.random.default_rng(0)
    family = Mixture(COVARIANCE_TYPES["full"]())
    covariances = np.array([np.eye(n_features)] * n_components)
    values = {
        "weights": np.full(n_components, 1.0 / n_components),
        "means": rng.normal(size=(n_components, n_features)),
        "covariances": covariances,
        "precisions_cholesky": covariances,
    }
    return family, family.from_user(values)
