"""A uniform random sample of the rows, small enough for memory, in one read of the data, and starts on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.data.joined import JoinedRows
from dem.engine.base import Engine, Work
from dem.errors import DataError
from dem.families.base import Array, total_weight
from dem.namespaces import to_host
from dem.statistics import Additive

#: start methods that look at the sample alone
SAMPLE_METHODS = ("kmeans", "k-means++", "random", "random_from_data")
#: size of the sample as float64 when the user does not say otherwise
SAMPLE_BYTES = 32 * 2**20
# Rows are drawn stratum by stratum, so that drawing needs little memory also where the sample is a large share of them.
STRATUM_ROWS = 1_000_000
# Of all rows: components of less than some rounding errors of 1 count as empty.
LEAST_WEIGHT = 1e-9
# NumPy's hypergeometric numbers, which say how many each stratum gives, end here.
MOST_IN_STRATA = 999_999_999


@dataclass(frozen=True, eq=False)
class RowSample:
    """A uniform sample of the rows, in the order of the data.

    Attributes
    ----------
    chunk : Chunk
        The rows, float64, with all that is known of them.
    complete : bool
        Whether these are all the rows that count.
    total_weight : float
        For how many rows all the data counts.
    filled : bool
        Whether means of the columns stand in the place of values that are missing.
    found : tuple
        What other works have found on the same read.
    """

    chunk: Chunk
    complete: bool
    total_weight: float
    filled: bool = False
    found: tuple[Any, ...] = ()

    @property
    def rows(self) -> Array:
        """The numbers, shape (n, n_features)."""
        return self.chunk.rows


@dataclass(frozen=True, eq=False)
class Pieces(Additive):
    """Rows taken from some chunks, and the weight of all rows there; ``+`` puts the chunks side by side."""

    chunks: tuple[Chunk, ...]
    total_weight: float

    def joined(self) -> Chunk:
        """Return the rows in the order of the data: it must not depend on how it is cut into chunks."""
        positions = np.concatenate([np.asarray(chunk.index, dtype=np.int64) for chunk in self.chunks])
        known = self.chunks[0].columns
        columns: dict[str, Any] = {
            field: np.concatenate([chunk.columns[field] for chunk in self.chunks]) for field in known
        }
        whole = Chunk(np.concatenate([chunk.rows for chunk in self.chunks]), positions, **columns)
        in_order = not np.any(positions[1:] < positions[:-1])
        return whole if in_order else whole.take(np.argsort(positions, kind="stable"))


@dataclass(frozen=True, eq=False)
class TakeRows:
    """Work that takes the rows at sorted global positions, or all rows where `wanted` is None."""

    wanted: NDArray[np.int64] | None
    takes_device: ClassVar[bool] = True

    def __call__(self, chunk: Chunk) -> Pieces:
        """Return the chunk's share of the sample."""
        if self.wanted is None:
            part = chunk
        elif isinstance(chunk.index, range):
            wanted = self.wanted[slice(*np.searchsorted(self.wanted, [chunk.index.start, chunk.index.stop]))]
            part = chunk.take(wanted - chunk.index.start)
        else:
            place = np.minimum(np.searchsorted(self.wanted, chunk.index), len(self.wanted) - 1)
            part = chunk.take(self.wanted[place] == chunk.index)
        part = replace(part, rows=np.array(to_host(part.rows), dtype=np.float64), found=None)
        return Pieces((part,), total_weight(chunk))


def row_sample(
    rows: Rows,
    engine: Engine,
    n_wanted: int | None,
    seed: np.random.SeedSequence,
    works: Sequence[Work] = (),
    *,
    besides: float = 0.0,
) -> RowSample:
    """Draw a uniform sample of the rows without replacement.

    Parameters
    ----------
    rows : Rows
        The data; read once.
    engine : Engine
        Where the reading runs.
    n_wanted : int or None
        Size of the sample in rows; None for as many as take `SAMPLE_BYTES`.
    seed : numpy.random.SeedSequence
        Determines the sample, together with the number of rows: neither chunks nor workers matter.
    works : sequence of Work
        What else is done on this read, of all rows.
    besides : float
        Weight of other rows that a start is found from too.

    Returns
    -------
    RowSample
        All rows, in order, if there are no more than wanted.
    """
    if n_wanted is None:
        n_wanted = max(SAMPLE_BYTES // (8 * rows.n_features), 1)
    complete = rows.n_rows <= n_wanted
    wanted = None if complete else draw_positions(rows.n_rows, n_wanted, np.random.default_rng(seed))
    totals = engine.sweep(rows, [TakeRows(wanted), *works])
    pieces: Pieces = totals[0]
    weight = pieces.total_weight + besides
    if weight == 0.0 and isinstance(rows, JoinedRows):
        message = f"no row of {rows.name} counts: all have the weight zero, or gaps that are skipped"
        raise DataError(message)
    if weight < LEAST_WEIGHT and isinstance(rows, JoinedRows):
        message = f"the weights of {rows.name} add up to {weight:g}: lost in rounding, scale them up"
        raise DataError(message)
    return RowSample(pieces.joined(), complete, pieces.total_weight, found=tuple(totals[1:]))


def draw_positions(n_rows: int, n_wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `n_wanted` of `n_rows` positions without replacement, uniformly; sorted."""
    if n_rows > MOST_IN_STRATA:  # so many that few are drawn, which takes memory for these alone
        return np.sort(rng.choice(n_rows, size=n_wanted, replace=False, shuffle=False))
    starts = np.arange(0, n_rows, STRATUM_ROWS)
    sizes = np.minimum(STRATUM_ROWS, n_rows - starts)
    counts = rng.multivariate_hypergeometric(sizes, n_wanted, method="marginals") if len(sizes) > 1 else [n_wanted]
    drawn = [
        start + np.sort(rng.choice(size, size=count, replace=False))
        for start, size, count in zip(starts, sizes, counts, strict=True)
        if count
    ]
    return np.concatenate(drawn).astype(np.int64)


def in_units(chunk: Chunk, units: Array | None) -> Chunk:
    """Return the rows of a sample with their features in certain units."""
    return chunk if units is None else replace(chunk, rows=chunk.rows / units)


def start_responsibilities(
    method: str, sample: Chunk, n_components: int, random_state: RandomState, *, spread: bool = False
) -> Array:
    """Return responsibilities of the sample's rows from which EM starts.

    Parameters
    ----------
    method : {'kmeans', 'k-means++', 'random', 'random_from_data'}
        As `init_params` of `sklearn.mixture.GaussianMixture`.
    sample : Chunk
        n rows; what is known of their components stands, in numbers of components that fit it best.
    n_components : int
    random_state : numpy.random.RandomState
        Consumed exactly as scikit-learn does.
    spread : bool
        Whether all rows go to the nearest of the single rows that 'k-means++' and 'random_from_data' draw; else these
        alone make the components.

    Returns
    -------
    ndarray of shape (n, n_components)
        Without the weights of the rows.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # squares of rows that are equal, or nearly so, and very large
        found = _responsibilities(method, sample, n_components, random_state, spread=spread)
    return found if sample.labels is None else as_known(found, sample.labels)


def _responsibilities(
    method: str, sample: Chunk, n_components: int, random_state: RandomState, *, spread: bool
) -> Array:
    # Imported late: workers that only draw a sample need not load scikit-learn.
    from sklearn.cluster import KMeans, kmeans_plusplus  # noqa: PLC0415
    from sklearn.metrics import pairwise_distances_argmin  # noqa: PLC0415

    n_rows, rows, weights = len(sample), sample.rows, sample.weights
    if method == "random":
        responsibilities = random_state.uniform(size=(n_rows, n_components))
        return np.asarray(responsibilities / responsibilities.sum(axis=1, keepdims=True))
    responsibilities = np.zeros((n_rows, n_components))
    if method == "kmeans":
        labels = (
            KMeans(n_clusters=n_components, n_init=1, random_state=random_state)
            .fit(rows, sample_weight=weights)
            .labels_
        )
        responsibilities[np.arange(n_rows), labels] = 1.0
        return responsibilities
    if method == "k-means++":
        _, chosen = kmeans_plusplus(rows, n_components, sample_weight=weights, random_state=random_state)
    else:
        share = None if weights is None else weights / weights.sum()
        chosen = random_state.choice(n_rows, size=n_components, replace=False, p=share)
    if spread:
        return np.asarray(np.eye(n_components)[pairwise_distances_argmin(rows, rows[chosen])])
    responsibilities[chosen, np.arange(n_components)] = 1.0
    return responsibilities


def as_known(found: Array, labels: NDArray[Any]) -> Array:
    """Return responsibilities that agree with what is known, their components numbered so that they agree the most."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - as scikit-learn above

    n_components = found.shape[1]
    if labels.ndim == 2:
        allowed = labels
    else:
        allowed = (labels[:, np.newaxis] == np.arange(n_components)) | (labels[:, np.newaxis] < 0)
    known = np.asarray(~allowed.all(axis=1))
    shared = (allowed[known] / allowed[known].sum(axis=1, keepdims=True)).T @ found[known]
    _, order = linear_sum_assignment(-shared)
    found = np.where(allowed, found[:, order], 0.0)
    total = found.sum(axis=1, keepdims=True)
    share = allowed / allowed.sum(axis=1, keepdims=True)
    return np.where(
        known[:, np.newaxis], np.where(total > 0.0, found / np.where(total > 0.0, total, 1.0), share), found
    )
