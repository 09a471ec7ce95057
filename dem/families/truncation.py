"""Which components are computed for which rows: cells of the feature space, each with a few candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock
from dem.families.grouping import rows_of_keys
from dem.families.workspace import Workspace

# Rows drawn from each component to learn which others compete for its rows, and from how many components at a time.
DRAWS = 64
DRAWN_TOGETHER = 64
# Candidates for each component of a cell: fewer leave neighbours of the cell out (4 in the place of 8 lose 6 to 5,000
# times as much where components tile a sheet), more make it small.
CANDIDATES_PER_MEMBER = 8
# Features up to which a matrix tells how these vary together, and how many vectors do of more.
MOST_FEATURES, AXES = 512, 64
# Rows at a time whose discriminants stay in the cache.
BLOCK_ROWS = 512


@dataclass(frozen=True, eq=False)
class Draws:
    """Rows that come from no source."""

    rows: Array
    weights: None = None
    labels: None = None
    noise: None = None
    limits: None = None

    def take(self, which: slice | NDArray[Any]) -> Self:
        """Return some of the rows."""
        return type(self)(self.rows[which])


@dataclass(frozen=True, eq=False)
class Candidates:
    """A partition of the feature space into cells, and the components that count in each.

    A row lies in the cell of the component whose linear discriminant is the largest. Many components share a cell, so
    that the rows of a chunk that lie there make a product large enough to be fast. (Discriminants of the cells would be
    cheaper still, but they send rows far from their components, and the list there lacks these.)

    Cells and lists stay as they are while EM runs, so that every row x_n keeps its candidates K_n. The truncated free
    energy F(θ) = Σ_n log Σ_{k ∈ K_n} π_k p_k(x_n) is the maximum of F(q, θ) over all q with q_n = 0 outside K_n, which
    the E-step attains; the M-step maximises F(q, ·) for this q. So F never falls; and it is at most the log-likelihood.
    Nothing is promised from one choice of candidates to the next: that starts a new fit.

    Attributes
    ----------
    origin, scale : ndarray of shape (n_features,)
        Applied to rows before the discriminants.
    slopes : ndarray of shape (n_features, n_components)
    offsets : ndarray of shape (n_components,)
    cell_of : ndarray of int, shape (n_components,)
        The cell of each component.
    lists : ndarray of int, shape (n_cells, n_candidates)
        Numbers of the components that count in each cell, increasing; those of the cell are among them.
    """

    origin: Array
    scale: Array
    slopes: Array
    offsets: Array
    cell_of: NDArray[np.intp]
    lists: NDArray[np.intp]

    @classmethod
    def learnt(
        cls,
        draw: Callable[[NDArray[np.int64], np.random.Generator], NDArray[Any]],
        posterior: Callable[[RowBlock], Array],
        weights: Array,
        n_candidates: int,
    ) -> Self:
        """Return cells, each with the components that take most of the responsibility for rows drawn from the mixture.

        `draw` draws one row for each of some numbers of components, `posterior` gives the responsibilities of rows.
        """

        def draws() -> Iterator[tuple[NDArray[np.int64], Array]]:
            rng = np.random.default_rng(0)  # the same candidates wherever the same parameters are truncated
            for start in range(0, len(weights), DRAWN_TOGETHER):
                labels = np.arange(start, min(start + DRAWN_TOGETHER, len(weights))).repeat(DRAWS)
                yield labels, np.asarray(draw(labels, rng), dtype=np.float64)

        means, scatter = _moments(rows for _, rows in draws())
        variances = scatter.variances if isinstance(scatter, _Sketch) else np.diagonal(scatter)
        scale = np.where(variances > 0.0, np.sqrt(variances), 1.0)
        origin = means.mean(axis=0)
        centres = ((means - origin) / scale).T
        n_features, n_draws = len(origin), DRAWS * len(weights)
        # With fewer draws than features the covariance within the components is known by its diagonal alone.
        known = n_draws / (n_draws + n_features)
        if isinstance(scatter, _Sketch):
            white, slopes = scatter.solve(centres, scale, known)
        else:
            covariance = scatter / np.outer(scale, scale) * known
            np.fill_diagonal(covariance, 1.0)
            lower = np.linalg.cholesky(covariance)
            white = scipy.linalg.solve_triangular(lower, centres, lower=True)
            slopes = scipy.linalg.solve_triangular(lower, white, lower=True, trans="T")
        offsets = np.log(np.maximum(weights, np.finfo(np.float64).tiny)) - 0.5 * np.sum(white**2, axis=0)
        # Two components share a cell already where there are half as many for each: a cell of one has too few rows.
        most = max(n_candidates // CANDIDATES_PER_MEMBER, min(2 * n_candidates // CANDIDATES_PER_MEMBER, 2), 1)
        cell_of = cells_of_neighbours(white.T, most)
        partition = cls(origin, scale, slopes, offsets, cell_of, np.empty((cell_of.max() + 1, 0), dtype=np.intp))
        share = np.zeros((len(partition.lists), len(weights)))
        for labels, rows in draws():
            in_cell = partition.cells(rows) == np.arange(len(share))[:, np.newaxis]
            share += (in_cell * weights[labels]) @ posterior(Draws(rows))
        share[cell_of, np.arange(len(weights))] = np.inf  # every component counts in its own cell
        lists = np.sort(np.argsort(-share, axis=1, kind="stable")[:, :n_candidates], axis=1)
        return cls(origin, scale, slopes, offsets, cell_of, lists)

    def rows_of_cells(self, rows: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Yield each cell that has rows, and their numbers."""
        cells = self.cells(rows)
        for which in rows_of_keys(cells):
            yield int(cells[which[0]]), which

    def cells(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the cell of each row, shape (n,).

        Single precision decides where its rounding is sure not to matter, which is almost everywhere; double precision
        the rest, so that a row has the same cell in whichever chunk it comes.
        """
        nearest = np.empty(len(rows), dtype=np.intp)
        weights = np.vstack([self.slopes, self.offsets])
        single = weights.astype(np.float32)
        # Of a sum of products, relative to the lengths of the vectors; twice, since two sums are compared.
        rounding = 2.0 * (len(weights) + 3.0) * float(np.finfo(np.float32).eps)
        rounding *= np.sqrt(np.sum(weights**2, axis=0).max())
        inverse = 1.0 / self.scale
        workspace = Workspace()
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            n = len(block)
            x = workspace.array("x", (n, len(weights)), np.dtype(np.float64))
            x[:, -1] = 1.0
            with np.errstate(invalid="ignore", over="ignore"):
                np.subtract(block, self.origin, out=x[:, :-1])
                x[:, :-1] *= inverse
                x_single = workspace.array("x", x.shape, single.dtype)
                x_single[...] = x
                scores = np.matmul(x_single, single, out=workspace.array("scores", (n, single.shape[1]), single.dtype))
                best = scores.argmax(axis=1)
                everyone = np.arange(n)
                lead = scores[everyone, best]
                scores[everyone, best] = -np.inf
                lead -= scores.max(axis=1)
                # Also what has overflowed and is no number.
                doubtful = ~(lead >= rounding * np.sqrt(np.einsum("ij,ij->i", x, x)))
                if doubtful.any():
                    best[doubtful] = (x[doubtful] @ weights).argmax(axis=1)
            nearest[start : start + n] = best
        # Small integers are sorted several times as fast.
        return self.cell_of.astype(np.min_scalar_type(len(self.lists)))[nearest]


@dataclass(frozen=True, eq=False)
class _Sketch:
    """A covariance of many features, by its diagonal and its products with a few random vectors.

    Attributes
    ----------
    variances : ndarray of shape (n_features,)
    vectors, products : ndarray of shape (n_features, AXES)
    """

    variances: Array
    vectors: Array
    products: Array

    def solve(self, centres: Array, scale: Array, known: float) -> tuple[Array, Array]:
        """Return C^−½ and C⁻¹ times vectors (n_features, m), for the covariance C of features in units of `scale`.

        C is the Nyström approximation (Gittens and Mahoney 2016) times `known`, and on the diagonal what that leaves
        of 1.
        """
        values, turn = np.linalg.eigh(self.vectors.T @ self.products)
        kept = values > 1e-10 * values[-1]
        axes = self.products @ (turn[:, kept] / np.sqrt(values[kept])) * np.sqrt(known) / scale[:, np.newaxis]
        rest = np.sqrt(np.maximum(1.0 - np.sum(axes**2, axis=1), 1.0 - known))[:, np.newaxis]
        # C = rest (I + basis lengths² basisᵀ) rest
        basis, lengths, _ = np.linalg.svd(axes / rest, full_matrices=False)
        shrunk = basis * (1.0 - 1.0 / np.sqrt(1.0 + lengths**2))
        white = centres / rest
        white = white - shrunk @ (basis.T @ white)
        return white, (white - shrunk @ (basis.T @ white)) / rest


def _moments(parts: Iterator[Array]) -> tuple[Array, Array | _Sketch]:
    """Return the means of the rows of each component, and the covariance of all rows about these.

    Of more than `MOST_FEATURES` it is a sketch.
    """
    means, n_rows = [], 0
    scatter: Any = 0.0
    variances: Any = 0.0
    vectors: Array | None = None
    for rows in parts:
        groups = rows.reshape(-1, DRAWS, rows.shape[1])
        centres = groups.mean(axis=1)
        centred = (groups - centres[:, np.newaxis]).reshape(rows.shape)
        means.append(centres)
        n_rows += len(rows)
        if rows.shape[1] <= MOST_FEATURES:
            scatter = scatter + centred.T @ centred
            continue
        if vectors is None:
            vectors = np.random.default_rng(0).standard_normal((rows.shape[1], AXES))
        scatter, variances = scatter + centred.T @ (centred @ vectors), variances + np.sum(centred**2, axis=0)
    found = np.concatenate(means)
    if vectors is not None:
        return found, _Sketch(variances / n_rows, vectors, scatter / n_rows)
    return found, np.asarray(scatter / n_rows)


def places_of_neighbours(points: Array) -> NDArray[np.intp]:
    """Return the place of each point in an order in which neighbours do not stand far apart."""
    order = np.argsort(cells_of_neighbours(points, 1), kind="stable")
    places = np.empty(len(points), dtype=np.intp)
    places[order] = np.arange(len(points))
    return places


def cells_of_neighbours(points: Array, most: int) -> NDArray[np.intp]:
    """Return the cell of each point: halves along the longest axis, again and again, down to `most` points."""
    cell_of = np.zeros(len(points), dtype=np.intp)
    n_cells, waiting = 0, [np.arange(len(points))]
    while waiting:
        members = waiting.pop()
        if len(members) <= most:
            cell_of[members] = n_cells
            n_cells += 1
            continue
        centred = points[members] - points[members].mean(axis=0)
        axis = np.linalg.svd(centred, full_matrices=False)[2][0]
        order = members[np.argsort(centred @ axis, kind="stable")]
        middle = most * (-(-len(members) // most) // 2)
        waiting += [order[:middle], order[middle:]]
    return cell_of
