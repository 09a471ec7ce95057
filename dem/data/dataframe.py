"""Rows of pandas and Dask DataFrames."""

from __future__ import annotations

from typing import Any

import numpy as np

from dem.data.base import Rows
from dem.data.checks import check_dtype, reason
from dem.data.dask import DaskRows
from dem.data.numpy import ArrayRows
from dem.errors import DataError


def open_dataframe(frame: Any) -> Rows:
    """Open a DataFrame whose columns are all numeric.

    Parameters
    ----------
    frame : pandas.DataFrame or dask.dataframe.DataFrame
        The lengths of a Dask DataFrame's partitions are computed at once.

    Raises
    ------
    DataError
        Naming a column that holds no numbers.
    """
    kind = type(frame).__name__
    if frame.ndim != 2:
        article = "an" if kind[0] in "AEIOU" else "a"
        message = f"{article} {kind} has one dimension; use to_frame() to make it a column"
        raise DataError(message)
    name = f"{type(frame).__module__.split('.')[0]} {kind}"
    columns = list(frame.columns)
    # pandas' own nullable types have the NumPy type behind them.
    plain = [getattr(dtype, "numpy_dtype", dtype) for dtype in frame.dtypes]
    for column, dtype in zip(columns, plain, strict=True):
        check_dtype(f"column {column!r} of {name}", dtype)
    if any(mine is not dtype for mine, dtype in zip(plain, frame.dtypes, strict=True)):
        frame = frame.astype("float64")  # what is missing becomes NaN
    elif len(set(plain)) > 1:  # pandas would make objects of numbers and booleans
        frame = frame.astype(np.result_type(*plain))
    names = tuple(columns) if columns and all(isinstance(column, str) for column in columns) else None
    if hasattr(frame, "to_dask_array"):
        try:
            array = frame.to_dask_array(lengths=True)
        except Exception as error:  # whatever the user's graph raises
            message = f"the partitions of {name} cannot be computed ({reason(error)})"
            raise DataError(message) from error
        return DaskRows(array, name, names)
    return ArrayRows(frame.to_numpy(), name, names)
