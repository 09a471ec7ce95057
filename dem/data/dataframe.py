"""Rows of pandas and Dask DataFrames."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.base import tokenize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from dem.data.base import Rows
from dem.data.checks import check_dtype, frame_columns, frame_name, plain_dtype, reason
from dem.data.dask import DaskRows
from dem.data.dask_graph import Nodes
from dem.data.numpy import ArrayRows
from dem.data.sparse import open_csr
from dem.errors import DataError


def open_dataframe(frame: Any) -> Rows:
    """Open a pandas or Dask DataFrame whose columns are all numeric; raises `DataError` that names one that is not.

    The lengths of a Dask DataFrame's partitions are computed at once.
    """
    kind = type(frame).__name__
    if frame.ndim != 2:
        article = "an" if kind[0] in "AEIOU" else "a"
        message = f"{article} {kind} has one dimension; use to_frame() to make it a column"
        raise DataError(message)
    name = frame_name(frame)
    columns = list(frame.columns)
    plain = [plain_dtype(dtype) for dtype in frame.dtypes]
    for column, dtype in zip(columns, plain, strict=True):
        check_dtype(f"column {column!r} of {name}", dtype)
    names = frame_columns(frame)
    if all(getattr(dtype, "fill_value", None) == 0 for dtype in frame.dtypes):  # sparse columns alone have one
        return open_csr(frame.sparse.to_coo(), name, names)
    if any(mine is not dtype for mine, dtype in zip(plain, frame.dtypes, strict=True)):
        frame = frame.astype("float64")  # what is missing becomes NaN
    elif len(set(plain)) > 1:  # pandas would make objects of numbers and booleans
        frame = frame.astype(np.result_type(*plain))
    if hasattr(frame, "to_dask_array"):
        return DaskRows(_array_of(frame, name), name, names)
    return ArrayRows(frame.to_numpy(), name, names)


def _array_of(frame: Any, name: str) -> dask.array.Array:
    """Return the Dask array of a Dask DataFrame, a block of unknown length for each of its partitions.

    Where few columns are wanted, Dask's optimiser reads several files as one partition. What it does after that is left
    out: the blocks are the partitions of the frame as the user sees it, so that labels can be joined to it.
    """
    try:
        plan = frame.expr.simplify().lower_completely().fuse()
        keys = list(flatten(plan.__dask_keys__()))
        graph = plan.__dask_graph__()
    except Exception as error:  # whatever Dask meets while it looks at the user's files
        message = f"{name} cannot be planned ({reason(error)})"
        raise DataError(message) from error
    values = f"dem-frame-{tokenize(frame)}"
    layer: Nodes = {(values, i, 0): Task((values, i, 0), _values, TaskRef(key)) for i, key in enumerate(keys)}
    n_columns = len(frame.columns)
    meta = np.empty((0, n_columns), frame.dtypes.iloc[0] if n_columns else float)
    return dask.array.Array(
        HighLevelGraph({"frame": graph, values: layer}, {"frame": set(), values: {"frame"}}),
        values,
        ((np.nan,) * len(keys), (n_columns,)),
        meta=meta,
    )


def _values(partition: Any) -> Any:
    return partition.to_numpy()
