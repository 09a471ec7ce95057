"""Applies a function of rows to data; the result is of the same kind as the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dem.data.base import Chunk, RowMap, Rows
from dem.data.joined import JoinedRows
from dem.data.sources import SourceOptions, open_rows, source_kind
from dem.engine.local import LocalEngine
from dem.namespaces import takes_device
from dem.native import permitted


def map_rows(
    data: Any,
    function: RowMap,
    *,
    dtype: DTypeLike,
    n_columns: int | None,
    rows: Rows | None = None,
    loops: bool = False,
    **source: Unpack[SourceOptions],
) -> Any:
    """Apply a function to the rows of data of any kind.

    Parameters
    ----------
    data, **source
        As for `open_rows`.
    function : callable
        Picklable; maps a `Chunk` of n rows to results (n,) or (n, n_columns), of a `dtype`.
    rows : Rows, optional
        The data as `open_rows` opened it, which may have cost a read, with what is given of each row.
    loops : bool
        Whether compiled loops may be used.

    Returns
    -------
    ndarray, dask.array.Array or xarray.DataArray
        An array for arrays, lists, pandas and sparse rows; a lazy Dask array for Dask, zarr and parquet; a DataArray on
        the same grid and with the same coordinates for xarray, lazy unless the data is in memory. There the feature
        dimension is gone, or replaced by the dimension "component" where there are several results per row.
    """
    function = _WithLoops(function) if loops else function
    kind = source_kind(data)
    if kind == "xarray":
        from dem.data.xarray import map_xarray  # noqa: PLC0415

        how = source.get("feature_dim"), source.get("features")
        return map_xarray(data, function, np.dtype(dtype), n_columns, *how, _compute_rows, rows)
    rows = rows or open_rows(data, **source)
    if kind in ("zarr", "parquet", "dask.array", "dask.dataframe"):
        from dem.data.dask import map_blocks  # noqa: PLC0415

        lazy: Any
        lazy, beside = (rows.rows, rows.beside) if isinstance(rows, JoinedRows) else (rows, None)
        if hasattr(lazy, "array"):  # sparse rows have none that is lazy
            return map_blocks(lazy.array, function, np.dtype(dtype), n_columns, beside)
    results = _compute_rows(rows, function, np.dtype(dtype), n_columns)
    return results.reshape(*rows.grid, *results.shape[1:])


@dataclass(frozen=True, eq=False)
class _WithLoops:
    """A function that may use compiled loops, wherever it is called."""

    function: RowMap

    @property
    def takes_device(self) -> bool:
        """Whether the function computes where the rows lie."""
        return takes_device(self.function)

    def __call__(self, chunk: Chunk) -> NDArray[Any]:
        with permitted(True):
            return self.function(chunk)


@dataclass(frozen=True, eq=False)
class _Fill:
    """Work that writes the results of a chunk where they belong."""

    function: RowMap
    results: NDArray[Any]

    @property
    def takes_device(self) -> bool:
        """Whether the function computes where the rows lie."""
        return takes_device(self.function)

    def __call__(self, chunk: Chunk) -> int:
        place = slice(chunk.index.start, chunk.index.stop) if isinstance(chunk.index, range) else chunk.index
        self.results[place] = self.function(chunk)
        return len(chunk)


def _compute_rows(rows: Rows, function: RowMap, dtype: np.dtype[Any], columns: int | None) -> NDArray[Any]:
    """Return the results for all rows in memory, computed by threads."""
    results = np.empty((rows.n_rows,) if columns is None else (rows.n_rows, columns), dtype)
    with LocalEngine() as engine:
        engine.sweep(rows, [_Fill(function, results)])
    return results
