"""What tells data from other data without reading all of it: shape, type, chunks, and the content of a few of them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Batch, Chunk, Rows
from dem.data.checks import rows_text
from dem.data.found import Found, LeftOut
from dem.sparse import SparseRows

# Of how many batches the first chunk is read: they lie evenly, the first and the last among them.
N_SAMPLED = 4


@dataclass(frozen=True)
class FirstChunk(Batch):
    """The first chunk of a batch."""

    batch: Batch

    def __iter__(self) -> Iterator[Chunk]:
        """Read it."""
        yield from itertools.islice(iter(self.batch), 1)

    @property
    def span(self) -> range | None:
        """Not told: only the chunk knows."""
        return None

    @property
    def reads_ahead(self) -> bool:  # type: ignore[override]
        """As of the batch: who waits for a thread that reads can give up a read that hangs."""
        return self.batch.reads_ahead

    @property
    def pending(self) -> Mapping[Hashable, Any]:
        """As of the batch."""
        return self.batch.pending

    def with_values(self, values: Mapping[Hashable, Any]) -> Self:
        """Return the batch with its pending values put in."""
        return replace(self, batch=self.batch.with_values(values))


class FirstChunks(Rows):
    """The first chunks of a few batches of rows, enough to recognise them by: of those at `places`, if given."""

    def __init__(self, rows: Rows, places: NDArray[np.intp] | None = None) -> None:
        self.name, self.n_rows, self.n_features, self.dtype = rows.name, rows.n_rows, rows.n_features, rows.dtype
        self.feature_names = rows.feature_names
        batches = rows.batches()
        places = spread(len(batches)) if places is None else places
        self._batches = [FirstChunk(batches[place]) for place in places]
        self._unreadable = rows.unreadable

    def batches(self) -> Sequence[Batch]:
        """Return the few."""
        return self._batches

    def check_found(self, found: Found) -> Sequence[LeftOut]:
        """Raise `MissingDataError` if something could be read in the fit that goes on and cannot now."""
        if self._unreadable is not None and self._unreadable.complete:
            self._unreadable.judge(found, all_read=False)
        return ()


def spread(n: int) -> NDArray[np.intp]:
    """Return a few of n numbers, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(N_SAMPLED, n)).round().astype(np.intp))


def digest_of(array: NDArray[Any] | SparseRows) -> str:
    """Return a digest of an array: its numbers, shape and dtype."""
    if isinstance(array, SparseRows):
        parts = (array.data, array.columns, array.matrix.indptr)
        array = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    kind = f"{array.shape} {array.dtype.str} "
    return hashlib.sha256(kind.encode() + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def digests(chunk: Chunk) -> tuple[tuple[str, str], ...]:
    """Work: where the rows of a chunk are, and digests of them and of all that is known of them."""
    first, last = (int(chunk.index[0]), int(chunk.index[-1])) if len(chunk) else (0, -1)
    found = {"values": chunk.rows, **chunk.columns}
    place = rows_text(first, last + 1)
    return tuple((f"digest of the {name} of {place}", digest_of(array)) for name, array in found.items())


def shape_of(rows: Rows) -> dict[str, Any]:
    """Return what tells rows apart before anything is read."""
    batches = rows.batches()
    counts = np.array([batch.n_rows for batch in batches], dtype=np.int64)
    return {
        "number of rows": rows.n_rows,
        "number of features": rows.n_features,
        "dtype of the data": rows.dtype.str,
        "division into chunks": f"{rows.grid_chunks}, in {len(batches)} batches ({digest_of(counts)})",
    }
