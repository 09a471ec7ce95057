"""k-means as a family: EM in the limit of small equal spheres, where each row belongs wholly to its nearest centre."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from dem.families import nearest_device
from dem.families.base import OK, Array, Model, RowBlock, Support, total_weight, weighted_sum
from dem.families.expectation import blocks
from dem.families.gaussian.frame import Frame
from dem.families.nearest import PIECE_ROWS, assigned, nearest
from dem.families.status import EMPTY
from dem.families.unconstrained import Vector
from dem.families.workspace import Workspace, largest_row
from dem.namespaces import here, is_on_device, to_host
from dem.statistics import Additive

BLOCK_ROWS = 4096
# What the mean of a cluster may change by though its rows are the same, in units of the frame.
ROUNDING = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Farthest(Additive):
    """The rows that are farthest from their centres, at most `most`, the farthest first; ``+`` joins.

    Attributes
    ----------
    most : int
        How many clusters have no rows here, and may have none elsewhere: no more than in any part.
    distances : ndarray of shape (m,)
        Squared.
    labels : ndarray of shape (m,)
    rows : ndarray of shape (m, n_features)
        In the frame.
    weights : ndarray of shape (m,)
    """

    most: int
    distances: Array
    labels: NDArray[np.int64]
    rows: Array
    weights: Array

    @property
    def full(self) -> bool:
        """Whether there are as many rows as ever needed."""
        return len(self.distances) == self.most

    def __add__(self, other: Self) -> Self:
        distances = np.concatenate([self.distances, other.distances])
        most = min(self.most, other.most)
        # A stable sort: of equals the first, whatever the blocks.
        order = np.argsort(-distances, kind="stable")[:most]
        labels, rows = np.concatenate([self.labels, other.labels]), np.concatenate([self.rows, other.rows])
        weights = np.concatenate([self.weights, other.weights])
        return type(self)(most, distances[order], labels[order], rows[order], weights[order])


@dataclass(frozen=True, eq=False)
class ClusterStatistics(Additive):
    """What k-means needs of the rows; all in the frame.

    Attributes
    ----------
    n_rows : float
    inertia : float
        Σ squared distance to the nearest centre.
    counts : ndarray of shape (n_clusters,)
    offsets : ndarray of shape (n_clusters, n_features)
        Σ (row − its centre).
    farthest : Farthest
        Where clusters without rows go.
    """

    n_rows: float
    inertia: float
    counts: Array
    offsets: Array
    farthest: Farthest


@dataclass(frozen=True, eq=False)
class Clusters(Model[Array, ClusterStatistics]):
    """The family of k-means; its parameters are the centres (n_clusters, n_features) in the frame.

    Parameters
    ----------
    frame : Frame
        Origin, and one scale for all features (in `units`), in which distances are computed.
    units : ndarray of shape (n_features,), optional
        In which users are told of distances; theirs when left out.
    """

    frame: Frame
    units: Array | None = None
    support: ClassVar[Support] = Support()
    criterion = "inertia"
    takes_device = True

    def e_step(self, centres: Array, chunk: RowBlock) -> ClusterStatistics:
        """Give each row of a chunk to its nearest centre."""
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite shows in the total
            if len(chunk.rows) <= PIECE_ROWS or is_on_device(chunk.rows):
                return self._piece(centres, chunk)
            return functools.reduce(operator.add, (self._piece(centres, one) for _, one in blocks(chunk, PIECE_ROWS)))

    def _piece(self, centres: Array, chunk: RowBlock) -> ClusterStatistics:
        workspace = Workspace()  # named, for it must outlive its arrays
        given = chunk.rows, chunk.weights, centres, self.frame.origin, 1.0 / self.frame.scale
        on_device = is_on_device(chunk.rows)
        found = nearest_device.assigned(*given) if on_device else assigned(*given, workspace)
        if found is None:
            return self._by_numpy(centres, chunk)
        far, most = np.empty(0, np.int64), int(np.count_nonzero(found.counts == 0.0))
        if most and on_device:
            far = nearest_device.farthest(found, most)
        elif most:
            far = np.sort(np.argpartition(found.distances, -min(most, len(chunk.rows)))[-most:])
            far = far[np.argsort(-found.distances[far], kind="stable")]
        rows = self._rows(chunk.take(far)) if most else np.empty((0, centres.shape[1]))
        weights = np.ones(len(far)) if chunk.weights is None else chunk.weights[far]
        chosen = here(found.labels).asarray(far)
        distances, labels = (to_host(values.take(chosen)) for values in (found.distances, found.labels))
        farthest = Farthest(most, distances, labels, rows, weights)
        return ClusterStatistics(total_weight(chunk), found.total, found.counts, found.offsets, farthest)

    def _by_numpy(self, centres: Array, chunk: RowBlock) -> ClusterStatistics:
        counts, offsets, total = np.zeros(len(centres)), np.zeros_like(centres), 0.0
        nothing = np.empty(0)
        farthest = Farthest(len(centres), nothing, np.empty(0, np.int64), np.empty((0, centres.shape[1])), nothing)
        for _, block in blocks(chunk, BLOCK_ROWS):
            rows = self._rows(block)
            labels = self._nearest(centres, rows)
            weights = np.ones(len(rows)) if block.weights is None else block.weights
            members = csc_array((weights, labels, np.arange(len(rows) + 1)), shape=(len(centres), len(rows)))
            differences = rows - centres[labels]
            distances = np.einsum("ij,ij->i", differences, differences)
            counts += np.bincount(labels, block.weights, minlength=len(centres))
            offsets += members @ differences
            total += weighted_sum(distances, block.weights)
            if not farthest.full or distances.max() > farthest.distances[-1]:
                far = np.sort(np.argpartition(distances, -min(len(centres), len(rows)))[-len(centres) :])
                farthest = farthest + Farthest(len(centres), distances[far], labels[far], rows[far], weights[far])
        return ClusterStatistics(total_weight(chunk), total, counts, offsets, farthest)

    def status_of(self, statistics: ClusterStatistics) -> tuple[str, ...]:
        """Return which clusters have no rows, after an E-step."""
        return tuple(OK if count > 0.0 else EMPTY for count in statistics.counts)

    def size(self, parameters: Array) -> int:
        """Return the number of clusters."""
        return len(parameters)

    def m_step(self, statistics: ClusterStatistics, centres: Array) -> Array:
        """Return the means of the clusters; one without rows moves to a row that is farthest from its centre.

        As in scikit-learn, such a row leaves the cluster that it was in.
        """
        counts, offsets = statistics.counts.copy(), statistics.offsets.copy()
        empty = np.flatnonzero(counts == 0.0)
        farthest = statistics.farthest
        moves = [(k, i) for i, k in enumerate(empty) if i < len(farthest.rows) and farthest.distances[0] > 0.0]
        for _, i in moves:
            counts[farthest.labels[i]] -= farthest.weights[i]
            offsets[farthest.labels[i]] -= farthest.weights[i] * (farthest.rows[i] - centres[farthest.labels[i]])
        there = counts > 0.0
        means = centres + np.where(there[:, np.newaxis], offsets / np.where(there, counts, 1.0)[:, np.newaxis], 0.0)
        for k, i in moves:
            means[k] = farthest.rows[i]
        return np.asarray(means)

    def objective(self, statistics: ClusterStatistics, parameters: Array) -> float:  # noqa: ARG002
        """Return minus the inertia, in squared `units`."""
        return -statistics.inertia * self.unit

    def settled(self, before: Array, after: Array, gain: float, tol: float) -> bool:  # noqa: ARG002
        """Tell whether the squares of all movements add up to no more than `tol`, or are rounding."""
        moved = np.abs(after - before)
        return bool(np.sum(moved**2) <= tol or np.all(moved <= ROUNDING * (1.0 + np.abs(before))))

    @property
    def unit(self) -> float:
        """The square of the scale of the frame, in `units`."""
        return self._scale**2

    def unconstrain(self, parameters: Array) -> Vector:
        """Return the centres, which are free as they are."""
        return Vector(parameters, np.empty(0))

    def constrain(self, vector: Vector, parameters: Array) -> Array:  # noqa: ARG002
        """Return the centres."""
        return vector.own

    def labels(self, parameters: Array, chunk: RowBlock) -> NDArray[np.int64]:
        """Return the nearest centre of each row, shape (n,)."""
        search = nearest_device.nearest if is_on_device(chunk.rows) else nearest
        found = search(chunk.rows, parameters, self.frame.origin, 1.0 / self.frame.scale)
        if found is not None:
            return found
        result = np.empty(len(chunk.rows), dtype=np.int64)
        for where, block in blocks(chunk, BLOCK_ROWS):
            result[where] = self._nearest(parameters, self._rows(block))
        return result

    def distances(self, parameters: Array, chunk: RowBlock) -> Array:
        """Return the distance of each row to each centre in `units`, shape (n, n_clusters)."""
        result = np.empty((len(chunk.rows), len(parameters)))
        for where, block in blocks(chunk, BLOCK_ROWS):
            inner = self._rows(block)
            for k, centre in enumerate(parameters):
                result[where, k] = np.linalg.norm(inner - centre, axis=1)
        result *= self._scale
        return result

    def to_user(self, parameters: Array) -> dict[str, Array]:
        """Return ``cluster_centers`` in the user's units."""
        return {"cluster_centers": parameters * self.frame.scale + self.frame.origin}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> Array:
        """Return parameters from what `to_user` gave."""
        return np.asarray((values["cluster_centers"] - self.frame.origin) / self.frame.scale)

    @property
    def _scale(self) -> float:
        return float(self.frame.scale[0] if self.units is None else self.frame.scale[0] / self.units[0])

    def _rows(self, chunk: RowBlock) -> Array:
        """Return rows in the frame, shape (n, n_features)."""
        return np.ascontiguousarray(self.frame.apply(np.asarray(to_host(chunk.rows))).T, dtype=np.float64)

    def _nearest(self, centres: Array, rows: Array) -> NDArray[np.int64]:
        """Return the nearest centre of each row: where ‖row‖² does not matter, that of the largest c·x − ½‖c‖²."""
        workspace = Workspace()  # named, for it must outlive its array
        closeness = workspace.array("closeness", (len(centres), len(rows)), centres.dtype)
        np.matmul(centres, rows.T, out=closeness)
        closeness -= 0.5 * np.einsum("ij,ij->i", centres, centres)[:, np.newaxis]
        return largest_row(closeness)
