"""A uniform random sample of the rows, small enough for memory, in one read of the data, and starts on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.engine.base import Engine
from dem.families.base import Array
from dem.statistics import Additive

#: start methods that look at the sample alone
SAMPLE_METHODS = ("kmeans", "k-means++", "random", "random_from_data")
#: size of the sample as float64 when the user does not say otherwise
SAMPLE_BYTES = 32 * 2**20
# Rows are drawn stratum by stratum, so that drawing needs little memory also where the sample is a large share of them.
STRATUM_ROWS = 1_000_000
# NumPy's hypergeometric numbers, which say how many each stratum gives, end here.
MOST_IN_STRATA = 999_999_999


@dataclass(frozen=True, eq=False)
class RowSample:
    """A uniform sample of the rows, in the order of the data.

    Attributes
    ----------
    rows : ndarray of shape (n, n_features), float64
    complete : bool
        Whether these are all the rows.
    """

    rows: Array
    complete: bool


@dataclass(frozen=True, eq=False)
class Pieces(Additive):
    """Rows taken from some chunks, and where they stand; ``+`` puts the chunks side by side."""

    indices: tuple[NDArray[np.int64], ...]
    rows: tuple[Array, ...]

    def joined(self) -> tuple[NDArray[np.int64], Array]:
        """Return positions and rows in the order of the data: they must not depend on how it is cut into chunks."""
        positions, rows = np.concatenate(self.indices), np.concatenate(self.rows)
        if np.any(positions[1:] < positions[:-1]):
            order = np.argsort(positions, kind="stable")
            return positions[order], rows[order]
        return positions, rows


@dataclass(frozen=True, eq=False)
class TakeRows:
    """Work that takes the rows at sorted global positions, or all rows where `wanted` is None."""

    wanted: NDArray[np.int64] | None

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
        return Pieces((np.asarray(part.index, dtype=np.int64),), (np.array(part.rows, dtype=np.float64),))


def row_sample(rows: Rows, engine: Engine, n_wanted: int | None, seed: np.random.SeedSequence) -> RowSample:
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

    Returns
    -------
    RowSample
        All rows, in order, if there are no more than wanted.
    """
    if n_wanted is None:
        n_wanted = max(SAMPLE_BYTES // (8 * rows.n_features), 1)
    complete = rows.n_rows <= n_wanted
    wanted = None if complete else draw_positions(rows.n_rows, n_wanted, np.random.default_rng(seed))
    pieces: Pieces = engine.sweep(rows, [TakeRows(wanted)])[0]
    return RowSample(pieces.joined()[1], complete)


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


def start_responsibilities(method: str, sample: Array, n_components: int, random_state: RandomState) -> Array:
    """Return responsibilities of the sample's rows from which EM starts: scikit-learn's, for the same `random_state`.

    Parameters
    ----------
    method : {'kmeans', 'k-means++', 'random', 'random_from_data'}
        As `init_params` of `sklearn.mixture.GaussianMixture`.
    sample : ndarray of shape (n, n_features)
    n_components : int
    random_state : numpy.random.RandomState
        Consumed exactly as scikit-learn does.

    Returns
    -------
    ndarray of shape (n, n_components)
    """
    # Imported late: workers that only draw a sample need not load scikit-learn.
    from sklearn.cluster import KMeans, kmeans_plusplus  # noqa: PLC0415

    n_rows = len(sample)
    if method == "random":
        responsibilities = random_state.uniform(size=(n_rows, n_components))
        return np.asarray(responsibilities / responsibilities.sum(axis=1, keepdims=True))
    responsibilities = np.zeros((n_rows, n_components))
    if method == "kmeans":
        labels = KMeans(n_clusters=n_components, n_init=1, random_state=random_state).fit(sample).labels_
        responsibilities[np.arange(n_rows), labels] = 1.0
        return responsibilities
    if method == "k-means++":
        _, chosen = kmeans_plusplus(sample, n_components, random_state=random_state)
    else:
        chosen = random_state.choice(n_rows, size=n_components, replace=False)
    responsibilities[chosen, np.arange(n_components)] = 1.0
    return responsibilities
