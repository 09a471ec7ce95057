"""Where rows come from and where results go."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from dem.data.base import Batch, Chunk, Rows

__all__ = ["Batch", "Chunk", "Rows", "map_rows", "open_rows"]


def open_rows(data: Any, *, variable: str | None = None, feature_dim: str | None = None) -> Rows:
    """Open data of any kind."""
    from dem.data import numpy as numpy_rows  # noqa: PLC0415
    from dem.data import zarr as zarr_rows  # noqa: PLC0415

    if isinstance(data, Rows):
        return data
    if isinstance(data, str | os.PathLike):
        return zarr_rows.open_zarr(data, variable)
    module = type(data).__module__.split(".")[0]
    if module == "zarr":
        return zarr_rows.ZarrRows(data, str(data.store_path))
    return numpy_rows.ArrayRows(np.asarray(data))


def map_rows(
    data: Any,
    function: Callable[[Any], Any],
    *,
    dtype: Any,
    columns: int | None,
    variable: str | None = None,
    feature_dim: str | None = None,
) -> Any:
    """Apply a function of rows."""
    return function(np.asarray(data))
