"""What tells some rows of a table apart: entries of its index, or of columns that its user names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.checks import reason
from dem.data.sources import source_kind
from dem.errors import DataError

Ids = dict[str, NDArray[Any]]


def ids_of(data: Any, index: NDArray[np.int64], columns: Sequence[str], lengths: Sequence[int] | None) -> Ids:
    """Return the index of rows of a table, unless it only counts the rows, and some of its columns.

    Of parquet and Dask these alone are read, and of Dask the partitions that hold them.

    Parameters
    ----------
    data : object
        A DataFrame of pandas or Dask, or the path of parquet, whose index is the one that a DataFrame was written with.
        Other data has no index.
    index : ndarray of shape (n,)
        Which rows.
    columns : sequence of str
        Their names.
    lengths : sequence of int, optional
        Rows of each partition of a Dask DataFrame.

    Raises
    ------
    DataError
        If there is no such column, or columns of data that has none are named.
    """
    kind = source_kind(data)
    if kind == "parquet":
        return _of_parquet(os.fspath(data), index, columns)
    if kind in ("pandas", "dask.dataframe"):
        there = [str(name) for name in getattr(data, "columns", ())]
        _check("the DataFrame", there, columns)
        if kind == "dask.dataframe":
            data, place = _near(data, index, lengths or ())
        else:
            place = index
        names = [name for name in data.columns if str(name) in columns] if columns else []
        return {**_index(data.index[place], index), **{str(name): data[name].to_numpy()[place] for name in names}}
    if columns:
        message = "ids names columns of a DataFrame or of parquet; this data has none"
        raise DataError(message)
    return {}


def _near(frame: Any, index: NDArray[np.int64], lengths: Sequence[int]) -> tuple[Any, NDArray[np.int64]]:
    """Return a pandas DataFrame of the partitions that hold some rows, and where these are in it."""
    import pandas as pd  # noqa: PLC0415 - comes with Dask's DataFrames

    ends = np.cumsum(lengths)
    held = np.searchsorted(ends, index, "right")
    numbers = np.unique(held)
    parts = [frame.partitions[int(number)].compute() for number in numbers]
    before = np.concatenate([[0], np.cumsum([len(part) for part in parts])])[np.searchsorted(numbers, held)]
    return pd.concat(parts), before + index - (ends - np.asarray(lengths))[held]


def _index(taken: Any, index: NDArray[np.int64]) -> Ids:
    """Return entries of an index of pandas, unless they are the numbers of the rows."""
    if taken.nlevels == 1 and taken.name is None and taken.dtype.kind == "i" and (taken == index).all():
        return {}
    names = [name if isinstance(name, str) and name != "index" else "id" for name in taken.names]
    if len(set(names)) < len(names):
        names = [f"id{level}" for level in range(taken.nlevels)]
    return {name: np.asarray(taken.get_level_values(level)) for level, name in enumerate(names)}


def _of_parquet(path: str, index: NDArray[np.int64], columns: Sequence[str]) -> Ids:
    from dem.data.parquet import open_dataset  # noqa: PLC0415 - an optional package

    dataset = open_dataset(path)
    _check(path, dataset.schema.names, columns)
    own = [name for name in (dataset.schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)]
    if not own and not columns:
        return {}
    wanted = list(dict.fromkeys([*own, *columns]))
    try:
        table = dataset.take(index, columns=wanted)
    except Exception as error:  # whatever the file, or its service, makes pyarrow raise
        message = f"{path} cannot be read ({reason(error)})"
        raise DataError(message) from error
    found = {name: column.to_numpy() for name, column in zip(wanted, table.columns, strict=True)}
    unnamed = [name for name in own if name.startswith("__index_level_")]
    if len(unnamed) == len(own) == 1 and np.array_equal(found[own[0]], index):
        del found[own[0]]
    words = {name: "id" if len(unnamed) == 1 else f"id{level}" for level, name in enumerate(unnamed)}
    return {words.get(name, name): values for name, values in found.items()}


def _check(name: str, there: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in there:
            listing = ", ".join(there[:20]) + (", …" if len(there) > 20 else "")
            message = f"ids: {name} has no column {column!r}; it has {listing}"
            raise DataError(message)
