"""Rows with what is known of each besides its numbers: its columns go with every batch, and are read with it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Batch, Chunk, Rows
from dem.data.column_values import KEPT_CHUNKS, HeldValues
from dem.data.found import Found, LeftOut, Unreadable
from dem.data.limits import Values, censored
from dem.data.rules import (
    Rule,
    as_they_are,
    errors_where_measured,
    refuse_unknown_trials,
    weights_where_rows_count,
    with_trials,
)
from dem.data.sources import open_rows
from dem.namespaces import on_host
from dem.sparse import rows_with_gaps

# Labels that are read at once to find the largest.
LABELS_READ = 2**20


@dataclass(frozen=True, eq=False)
class Column:
    """A field of a `Chunk`: what messages call it, its values, and what they must be."""

    field: str
    name: str
    values: Values
    rule: Rule = as_they_are

    def at(self, index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Return the values of rows, which have been judged."""
        return self.rule(self.name, self.values.at(index), index)

    @property
    def width(self) -> int:
        """Numbers of each row."""
        return self.values.width

    @property
    def carried_bytes(self) -> int:
        """Bytes in memory here that travel with batches."""
        return self.values.carried_bytes

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the largest piece that is read or computed, of which a process keeps some."""
        return self.values.chunk_bytes

    def opened(self) -> Self:
        """Return the column for one reader, who asks for rows one chunk after another."""
        return replace(self, values=self.values.opened())

    def cut(self, index: range | NDArray[np.int64]) -> Self:
        """Return the column of a batch, as it travels with it."""
        return replace(self, values=self.values.cut(index))


@dataclass(frozen=True, eq=False)
class Beside:
    """All that goes with rows.

    Attributes
    ----------
    columns : sequence of Column
        Of a field of `Chunk`; or ``'trials'``, which become columns of the rows, behind their features.
    skips_gaps : bool
        Whether rows with NaN are left out.
    most_limits : float, optional
        How many values of a row may have limits, where there are any.
    """

    columns: Sequence[Column]
    skips_gaps: bool = False
    most_limits: float | None = None

    def __call__(self, chunk: Chunk) -> Chunk:
        """Return the rows of a chunk that count, with their columns: those of a weight, and gaps if not skipped."""
        columns: dict[str, Any] = {column.field: column.at(chunk.index) for column in self.columns}
        trials = columns.pop("trials", None)
        found, chunk = chunk.found, replace(chunk, **columns)
        if trials is not None or chunk.noise is not None or self.most_limits is not None:
            chunk = on_host(chunk)
        if trials is not None:
            chunk = replace(chunk, rows=with_trials(chunk.rows, trials))
        if (weights := chunk.weights) is not None:
            if self.skips_gaps:
                weights = weights_where_rows_count(weights, chunk.rows, chunk.index)
            if not weights.all():
                chunk = replace(chunk, weights=weights).take(weights > 0.0)
        if trials is not None:
            refuse_unknown_trials(chunk.rows, chunk.index)
        if chunk.noise is not None:
            chunk = replace(chunk, noise=errors_where_measured(chunk.noise, chunk.rows, chunk.index))
        if self.most_limits is not None:
            chunk = censored(chunk, self.most_limits)
        if self.skips_gaps and (gaps := rows_with_gaps(chunk.rows)).any():
            chunk = chunk.take(~gaps)
        return replace(chunk, found=found)

    def opened(self) -> Self:
        """Return it for one reader."""
        return replace(self, columns=[one.opened() for one in self.columns])

    def cut(self, index: range | NDArray[np.int64]) -> Self:
        """Return what goes with some rows, as it travels with them."""
        return replace(self, columns=[one.cut(index) for one in self.columns])


@dataclass(frozen=True, eq=False)
class ChangedBatch(Batch):
    """A batch whose chunks are those of another, changed; all else is as there."""

    batch: Batch

    @abstractmethod
    def changed(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Change the chunks of the batch, which come in order."""

    def __iter__(self) -> Iterator[Chunk]:
        """Read the chunks of the batch and change them."""
        return self.changed(self.batch)

    def independent_reads(self) -> Sequence[Callable[[], Chunk]] | None:
        """Return those of the batch."""
        return self.batch.independent_reads()

    def made_of(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Change what the reads of the batch bring."""
        return self.changed(self.batch.made_of(chunks))

    @property
    def reads_ahead(self) -> bool:  # type: ignore[override]
        """As of the batch."""
        return self.batch.reads_ahead

    @property
    def span(self) -> range | None:
        """Its rows, with those that do not count."""
        return self.batch.span

    @property
    def n_rows(self) -> int:
        """Number of rows, with those that do not count."""
        return self.batch.n_rows

    @property
    def pending(self) -> Mapping[Hashable, Any]:
        """As of the batch."""
        return self.batch.pending

    def with_values(self, values: Mapping[Hashable, Any]) -> Self:
        """Return the batch with its pending values put in."""
        return replace(self, batch=self.batch.with_values(values))


@dataclass(frozen=True, eq=False)
class JoinedBatch(ChangedBatch):
    """A batch whose chunks have columns; rows that do not count are left out."""

    beside: Beside

    def changed(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Read what goes with the rows."""
        beside = self.beside.opened()
        for chunk in chunks:
            joint = beside(chunk)
            del chunk  # else it would be held while the next one is read, beside the rows of it that count
            yield joint
            del joint

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with its own part of the columns."""
        return type(self), (self.batch, self.beside.cut(self.batch.index))


class JoinedRows(Rows):
    """Rows with what goes with them."""

    def __init__(self, rows: Rows, beside: Beside) -> None:
        self.rows, self.beside = rows, beside
        self.name, self.n_rows, self.n_features = rows.name, rows.n_rows, rows.n_features
        self.feature_names, self.grid_names, self.feature_dim = rows.feature_names, rows.grid_names, rows.feature_dim
        self.feature_coordinates, self.features = rows.feature_coordinates, rows.features
        self.categories = rows.categories
        self.skips_bad, self.allows_missing = rows.skips_bad, rows.allows_missing
        self.package_bytes, self.is_sparse, self.waits = rows.package_bytes, rows.is_sparse, rows.waits
        own = {column.field for column in beside.columns}
        #: what is known of each row, by the fields of columns
        self.known: frozenset[str] = getattr(rows, "known", frozenset()) | own
        self.dtype = np.dtype(np.float64) if "trials" in own else rows.dtype

    @property
    def n_columns(self) -> int:
        """The features, and the trials of each."""
        return self.n_features * (2 if "trials" in self.known else 1)

    def batches(self) -> list[Batch]:
        """Return the batches of the rows, with their columns."""
        return [JoinedBatch(batch, self.beside) for batch in self.rows.batches()]

    def divided(self, n_batches: int) -> Rows:
        """Return the same rows in at least `n_batches` batches; see `Rows.divided`."""
        finer = copy.copy(self)
        finer.rows = self.rows.divided(n_batches)
        return finer

    def sliced(self, n_bytes: int) -> Rows:
        """Return the same rows, read in slices; see `Rows.sliced`."""
        finer = copy.copy(self)
        finer.rows = self.rows.sliced(n_bytes)
        return finer

    @property
    def n_batches(self) -> int:
        """As of the rows."""
        return self.rows.n_batches

    @property
    def read_bytes(self) -> int:
        """Of the rows and their columns."""
        width = sum(column.width for column in self.beside.columns)
        return self.rows.read_bytes + 8 * width * min(self.read_rows, self.n_rows)

    @property
    def decoding_bytes(self) -> int:
        """Of the rows; and once more those that count, where others are left out."""
        return self.rows.decoding_bytes + self.read_bytes

    @property
    def carried_bytes(self) -> int:
        """Of the rows, and of columns in memory."""
        held = (column.carried_bytes for column in self.beside.columns)
        return self.rows.carried_bytes + sum(held)

    @property
    def kept_bytes(self) -> int:
        """Chunks of columns that are larger than those of the rows; see `column_values`."""
        largest = max((column.chunk_bytes for column in self.beside.columns), default=0)
        return KEPT_CHUNKS * largest

    @property
    def grid(self) -> tuple[int, ...]:
        """As of the rows."""
        return self.rows.grid

    def coordinates(self, dim: str) -> NDArray[Any] | None:
        """As of the rows."""
        return self.rows.coordinates(dim)

    def stored_coordinates(self) -> dict[str, tuple[NDArray[Any], Mapping[str, Any]]]:
        """As of the rows."""
        return self.rows.stored_coordinates()

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """As of the rows."""
        return self.rows.grid_chunks

    @property
    def read_rows(self) -> int:
        """As of the rows."""
        return self.rows.read_rows

    @property
    def stored_chunks(self) -> tuple[int, int] | None:
        """As of the rows."""
        return self.rows.stored_chunks

    @property
    def unreadable(self) -> Unreadable | None:
        """As of the rows."""
        return self.rows.unreadable

    @property
    def n_left_out(self) -> int:
        """As of the rows."""
        return self.rows.n_left_out

    def check_found(self, found: Found) -> Sequence[LeftOut]:
        """Judge what of the rows is missing, or cannot be read."""
        return self.rows.check_found(found)


def joined(
    rows: Rows, columns: Sequence[Column], *, skips_gaps: bool = False, most_limits: float | None = None
) -> Rows:
    """Return rows with columns; themselves where there are none."""
    if not columns and not skips_gaps:
        return rows
    return JoinedRows(rows, Beside(columns, skips_gaps, most_limits))


def highest_label(rows: Rows) -> int | None:
    """Return the largest label that rows have, of sets that of their last column; None if they have no labels."""
    for column in rows.beside.columns if isinstance(rows, JoinedRows) else ():
        if column.field == "labels":
            starts = range(0, rows.n_rows, LABELS_READ)
            parts = [column.at(range(start, min(start + LABELS_READ, rows.n_rows))) for start in starts]
            return max(int(part.max()) if part.ndim == 1 else part.shape[1] - 1 for part in parts)
    return None


def table_of(chunk: Chunk) -> Rows:
    """Return a table of the rows of a chunk, with all that is known of them."""
    index = range(len(chunk))
    columns = [Column(field, field, HeldValues(values, index)) for field, values in chunk.columns.items()]
    return joined(open_rows(chunk.rows), columns)


def followed(first: Chunk, second: Chunk) -> Chunk:
    """Return the rows of two chunks one behind the other; what one of them does not tell counts as not known."""
    both = (first, second)
    columns: dict[str, Any] = {}
    for field in {**first.columns, **second.columns}:
        known = [chunk.columns[field] for chunk in both if field in chunk.columns]
        like = max(known, key=np.ndim)
        columns[field] = np.concatenate([_as_known(field, chunk, like) for chunk in both])
    return Chunk(np.concatenate([chunk.rows for chunk in both]), range(len(first) + len(second)), **columns)


# What stands for nothing known of a row.
_NOTHING = {"weights": 1.0, "labels": -1, "starts": False, "noise": 0.0, "limits": np.nan, "unread": False, "groups": 0}


def _as_known(field: str, chunk: Chunk, like: NDArray[Any]) -> NDArray[Any]:
    """Return a column of a chunk, or what stands for nothing known of its rows, in the form of another chunk's."""
    nothing = _NOTHING[field]
    n = len(chunk)
    values: NDArray[Any] | None = chunk.columns.get(field)
    if values is None:
        shape = (n,) if field == "labels" else (n, *like.shape[1:])
        values = np.full(shape, nothing, np.int64 if field == "labels" else like.dtype)
    if values.ndim == like.ndim:
        return values
    if field == "labels":  # of single components, among sets of them
        return np.asarray((values[:, np.newaxis] == np.arange(like.shape[1])) | (values < 0)[:, np.newaxis])
    return np.asarray(values[:, :, np.newaxis] * np.eye(like.shape[1]))  # variances, among covariances
