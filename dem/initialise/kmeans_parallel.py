"""k-means‖: seeds of k-means++ quality from a few reads of all chunks.

Bahmani, Moseley, Vattani, Kumar and Vassilvitskii (2012). Scalable k-means++. PVLDB 5(7).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.engine.base import Engine, Work
from dem.events import Callback, Preparing, notify
from dem.families.base import Array, total_weight
from dem.families.expectation import blocks
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters, MixtureStatistics
from dem.families.nearest import PIECE_ROWS, assigned, nearest
from dem.families.workspace import Workspace
from dem.initialise.sample import Pieces
from dem.sparse import dense_rows

ROUNDS = 5
# Candidates per round, as a multiple of the number of components (the paper's ℓ).
OVERSAMPLING = 2.0
# Rows that are taken together at most and at least, and distances that are held at once, as far as these allow.
BLOCK_ROWS, FEWEST_ROWS, BLOCK_DISTANCES = 4096, 64, 2**22


@dataclass(frozen=True, eq=False)
class Candidates(Pieces):
    """Rows drawn as candidates, and Σ distance² of all rows to the candidates so far."""

    cost: float


@dataclass(frozen=True, eq=False)
class DrawCandidates:
    """Work that draws each row with probability ℓ·distance²/cost, by a hash of its position."""

    centres: Array
    origin: Array
    units: Array | float
    per_cost: float
    seed: int

    def __call__(self, chunk: Chunk) -> Candidates:
        """Return the chunk's candidates and cost."""
        none = chunk.take(slice(0))
        drawn, cost = [replace(none, rows=np.asarray(none.rows))], 0.0
        for block, distance in self._distances(chunk):
            if block.weights is not None:
                distance *= block.weights
            cost += float(distance.sum())
            index = np.asarray(block.index, dtype=np.int64)
            drawn.append(self._relative(block.take(uniform_hash(index, self.seed) < self.per_cost * distance)))
        return Candidates(tuple(drawn), total_weight(chunk), cost)

    def _distances(self, chunk: Chunk) -> Iterator[tuple[Chunk, Array]]:
        """Yield blocks of rows and their squared distances to the nearest centre."""
        inverse = 1.0 / np.asarray(self.units)
        for _, piece in blocks(chunk, PIECE_ROWS):
            workspace = Workspace()  # named, for it must outlive its arrays
            with np.errstate(over="ignore", invalid="ignore"):
                found = assigned(piece.rows, None, self.centres, self.origin, inverse, workspace)
            if found is not None:
                yield piece, found.distances
                continue
            for _, block in blocks(piece, dense_rows(piece.rows, block_rows(len(self.centres)))):
                yield block, squared_distances(self._relative(block).rows, self.centres).min(axis=1)

    def _relative(self, block: Chunk) -> Chunk:
        rows = np.asarray(block.rows, dtype=np.float64) - self.origin
        return replace(block, rows=rows / self.units)


@dataclass(frozen=True, eq=False)
class CountNearest:
    """Work that counts the rows nearest to each candidate."""

    centres: Array
    origin: Array
    units: Array | float

    def __call__(self, chunk: Chunk) -> Array:
        """Return counts, shape (n_candidates,)."""
        found = nearest_centres(chunk.rows, self.centres, self.origin, self.units)
        return np.bincount(found, chunk.weights, minlength=len(self.centres)).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Within:
    """Work that gives another work the rows within a box, (2, n_features)."""

    work: Work
    box: Array

    def __call__(self, chunk: Chunk) -> Any:
        """Return what the work makes of them."""
        return self.work(chunk.take(((chunk.rows >= self.box[0]) & (chunk.rows <= self.box[1])).all(axis=1)))


@dataclass(frozen=True, eq=False)
class HardEStep:
    """Work that collects a mixture's statistics with each row given wholly to its nearest centre."""

    family: Mixture[Any, Any]
    parameters: MixtureParameters[Any]
    centres: Array
    origin: Array
    units: Array | float

    def __call__(self, chunk: Chunk) -> MixtureStatistics[Any]:
        """Return the statistics of the chunk."""
        kernel = self.family.component.kernel(self.parameters.components, chunk.rows.dtype)
        counts = np.zeros(self.family.size(self.parameters))
        for _, part in blocks(chunk, kernel.block_rows):
            block = kernel.block(part)
            responsibilities = np.zeros_like(block.log_density())
            found = nearest_centres(part.rows, self.centres, self.origin, self.units)
            responsibilities[found, np.arange(len(part))] = 1.0 if part.weights is None else part.weights
            counts += responsibilities.sum(axis=1)
            block.accumulate(responsibilities)
        return MixtureStatistics(total_weight(chunk), 0.0, counts, kernel.statistics())


def block_rows(n_centres: int) -> int:
    """Return how many rows are taken together."""
    return min(max(BLOCK_DISTANCES // n_centres, FEWEST_ROWS), BLOCK_ROWS)


def work_bytes(n_clusters: int) -> int:
    """Return what a thread takes of the distances to all candidates, of which there are this many as a rule."""
    n_candidates = 1 + int(ROUNDS * OVERSAMPLING * n_clusters)
    return 8 * n_candidates * block_rows(n_candidates)


def squared_distances(rows: Array, centres: Array) -> Array:
    """Return ‖row − centre‖², shape (n, n_centres), never negative."""
    with np.errstate(over="ignore", invalid="ignore"):
        distances = rows @ (-2.0 * centres.T)
        distances += np.einsum("ij,ij->i", rows, rows)[:, np.newaxis]
        distances += np.einsum("ij,ij->i", centres, centres)
    return np.maximum(distances, 0.0, out=distances)


def nearest_centres(rows: NDArray[Any], centres: Array, origin: Array, units: Array | float = 1.0) -> NDArray[np.int64]:
    """Return the number of each row's nearest centre; centres are relative to `origin`, in `units`."""
    known = nearest(rows, centres, origin, 1.0 / np.asarray(units))
    if known is not None:
        return known
    step = dense_rows(rows, block_rows(len(centres)))
    found = []
    for start in range(0, max(len(rows), 1), step):
        relative: Array = (np.asarray(rows[start : start + step], dtype=np.float64) - origin) / units
        found.append(squared_distances(relative, centres).argmin(axis=1))
    return np.concatenate(found)


def uniform_hash(index: NDArray[np.int64], seed: int) -> Array:
    """Return one number in [0, 1) for each row position, the same on every machine and for every chunking.

    splitmix64 (Steele, Lea and Flood 2014) of position and seed.
    """
    mixed = index.astype(np.uint64) + np.uint64(1)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def kmeans_parallel(
    rows: Rows,
    engine: Engine,
    sample: Array,
    n_clusters: int,
    random_state: RandomState,
    callbacks: Sequence[Callback] = (),
    units: Array | None = None,
    within: Array | None = None,
) -> tuple[Array, Array]:
    """Choose cluster centres by k-means‖ over all chunks.

    Parameters
    ----------
    rows : Rows
        The data; read `ROUNDS` + 2 times.
    engine : Engine
        Where the reading runs.
    sample : ndarray of shape (n, n_features)
        Rows of the data; the first centre is one of them, and their mean is the origin of all distances.
    n_clusters : int
        Number of centres.
    random_state : numpy.random.RandomState
        Source of the seeds.
    callbacks : sequence of Callback
        Told of each read.
    units : ndarray of shape (n_features,), optional
        In which distances are measured; those of the rows when left out.
    within : ndarray of shape (2, n_features), optional
        The box of the rows that count; all when left out.

    Returns
    -------
    centres : ndarray of shape (n_clusters, n_features)
        Relative to `origin`, in `units`.
    origin : ndarray of shape (n_features,)
    """
    from sklearn.cluster import KMeans  # noqa: PLC0415 - as in `sample`
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

    unit = 1.0 if units is None else units
    origin = sample.mean(axis=0)
    sample = (sample - origin) / unit
    centres = sample[random_state.randint(len(sample))][np.newaxis]
    seeds = random_state.randint(2**31 - 1, size=ROUNDS + 1)
    notify(callbacks, Preparing("k-means‖, distances to the first centre"))
    cost = _sum(engine, rows, DrawCandidates(centres, origin, unit, 0.0, int(seeds[0])), within).cost
    for number, seed in enumerate(seeds[1:], 1):
        if cost <= OVERSAMPLING * n_clusters / np.finfo(np.float64).max:  # nothing, or squares that underflow
            break
        notify(callbacks, Preparing(f"k-means‖, round {number} of {ROUNDS}"))
        per_cost = OVERSAMPLING * n_clusters / cost
        draw = DrawCandidates(centres, origin, unit, per_cost, int(seed))
        found: Candidates = _sum(engine, rows, draw, within)
        centres = np.concatenate([centres, found.joined().rows])
        cost = found.cost
    if len(centres) <= n_clusters:  # (nearly) only duplicates: fill up from the sample
        extra = random_state.choice(len(sample), size=n_clusters - len(centres))
        return np.concatenate([centres, sample[extra]]), origin
    notify(callbacks, Preparing("k-means‖, rows nearest to each candidate"))
    counts = _sum(engine, rows, CountNearest(centres, origin, unit), within)
    chosen = KMeans(n_clusters=n_clusters, n_init=1, random_state=random_state)
    with warnings.catch_warnings():  # of duplicates among the candidates; those of the rows are told elsewhere
        warnings.simplefilter("ignore", ConvergenceWarning)
        chosen.fit(centres, sample_weight=counts)
    return np.asarray(chosen.cluster_centers_), origin


def _sum(engine: Engine, rows: Rows, work: Work, within: Array | None) -> Any:
    """Return what a work sums over the rows within a box, or all."""
    return engine.sweep(rows, [work if within is None else Within(work, within)])[0]


def kmeans_parallel_start(
    family: Mixture[Any, Any],
    rows: Rows,
    engine: Engine,
    sample: Array,
    n_components: int,
    random_state: RandomState,
    callbacks: Sequence[Callback] = (),
    units: Array | None = None,
    within: Array | None = None,
) -> MixtureParameters[Any]:
    """Return the parameters of a mixture whose components are the clusters of `kmeans_parallel`."""
    centres, origin = kmeans_parallel(rows, engine, sample, n_components, random_state, callbacks, units, within)
    # Any parameters do: with hard assignments the M-step depends on them only as a frame of reference.
    alike = np.full((len(sample), n_components), 1.0 / n_components)
    parameters = family.start(sample, alike)
    notify(callbacks, Preparing("k-means‖, statistics of its clusters"))
    hard = HardEStep(family, parameters, centres, origin, 1.0 if units is None else units)
    statistics = _sum(engine, rows, hard, within)
    return family.begun(family.m_step(statistics, parameters))
