"""Results of rows, streamed chunk by chunk into a zarr array that appears when it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray

from dem import store
from dem.data.base import Chunk, Rows

RowFunction = Callable[[NDArray[Any]], NDArray[Any]]


class Sweeps(Protocol):
    """The part of an engine that writing needs."""

    def sweep(self, rows: Rows, works: Sequence[Callable[[Chunk], Any]]) -> list[Any]:
        """Apply every work to every chunk in one read."""


@dataclass(frozen=True, eq=False)
class WriteChunk:
    """Work that writes a function of a chunk's rows to their places in a zarr array."""

    function: RowFunction
    path: str

    def __call__(self, chunk: Chunk) -> int:
        """Return the number of rows written."""
        result = self.function(chunk.rows)
        target = zarr.open_array(self.path, mode="r+")
        if isinstance(chunk.index, range):
            target[chunk.index.start : chunk.index.stop] = result
        else:
            target.oindex[np.asarray(chunk.index)] = result  # type: ignore[index]
        return len(chunk)


def write_rows(
    rows: Rows,
    function: RowFunction,
    path: str | os.PathLike[str],
    *,
    dtype: Any,
    columns: int | None,
    overwrite: bool = False,
    engine: Sweeps,
) -> None:
    """Write a function of all rows as a zarr array, shape (n_rows,) or (n_rows, columns).

    Parameters
    ----------
    rows : Rows
        The data; read once. They must be read in consecutive pieces that no two tasks share.
    function : callable
        Maps rows (n, n_features) to (n,) or (n, columns).
    path : str or path-like
        Directory or URL; the array appears there when it is whole.
    dtype : dtype
        Of the result.
    columns : int or None
        Columns of the result; None for one number per row.
    overwrite : bool
        Whether something at `path` may be replaced.
    engine : Engine
        Where the function runs.
    """
    shape = (rows.n_rows,) if columns is None else (rows.n_rows, columns)
    with store.destination(path, overwrite=overwrite) as temporary:
        zarr.create_array(temporary, shape=shape, chunks=(rows.chunk_rows, *shape[1:]), dtype=dtype)
        engine.sweep(rows, [WriteChunk(function, temporary)])
