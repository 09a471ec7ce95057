"""Applies a function of rows to data; the result is of the same kind as the data."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dem.data.base import Batch, Chunk, Rows
from dem.data.missing import Found
from dem.data.sources import SourceOptions, open_rows, source_kind

#: maps a chunk of n rows to results (n,) or (n, columns)
RowMap = Callable[[Chunk], NDArray[Any]]


def map_rows(
    data: Any,
    function: RowMap,
    *,
    dtype: DTypeLike,
    n_columns: int | None,
    rows: Rows | None = None,
    **source: Unpack[SourceOptions],
) -> Any:
    """Apply a function to the rows of data of any kind.

    Parameters
    ----------
    data : anything that `open_rows` takes
        The rows.
    function : callable
        Picklable; maps a `Chunk` of n rows to results (n,) or (n, columns).
    dtype : dtype
        Of the results.
    n_columns : int or None
        Number of results per row; None for one number per row.
    rows : Rows, optional
        The data as `open_rows` opened it, which may have cost a read.
    **source
        As for `open_rows`.

    Returns
    -------
    ndarray, dask.array.Array or xarray.DataArray
        An array for arrays, lists and pandas; a lazy Dask array for Dask, zarr and parquet; a DataArray on the same
        grid and with the same coordinates for xarray, lazy unless the data is in memory. There the feature dimension
        is gone, or replaced by the dimension "component" where there are several results per row.
    """
    kind = source_kind(data)
    if kind == "xarray":
        from dem.data.xarray import map_xarray  # noqa: PLC0415

        return map_xarray(data, function, np.dtype(dtype), n_columns, source.get("feature_dim"))
    rows = rows or open_rows(data, **source)
    if kind in ("zarr", "parquet", "dask.array", "dask.dataframe"):
        from dem.data.dask import map_blocks  # noqa: PLC0415

        return map_blocks(rows.array, function, np.dtype(dtype), n_columns)  # type: ignore[attr-defined]
    return compute_rows(rows, function, np.dtype(dtype), n_columns)


def compute_rows(rows: Rows, function: RowMap, dtype: np.dtype[Any], columns: int | None) -> NDArray[Any]:
    """Return the results for all rows in memory, computed by threads chunk by chunk."""
    results = np.empty((rows.n_rows,) if columns is None else (rows.n_rows, columns), dtype)

    def fill(batch: Batch) -> Found:
        found = Found()
        for chunk in batch:
            index = chunk.index
            place = slice(index.start, index.stop) if isinstance(index, range) else index
            results[place] = function(chunk)
            found += chunk.found or Found()
        return found

    batches = rows.batches()
    if len(batches) == 1:
        rows.check_found(fill(batches[0]))
        return results
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores, thread_name_prefix="dem-map") as pool:
        try:
            for future in [pool.submit(fill, batch) for batch in batches]:
                rows.check_found(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results
