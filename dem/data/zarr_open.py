"""From a zarr array, or several variables of a group, to rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zarr

from dem.data.checks import check_dtype, check_table
from dem.data.grid import feature_axis
from dem.data.zarr import ZarrPart, ZarrRows
from dem.data.zarr_store import coordinates_of, dimension_names, open_arrays
from dem.errors import DataError


def open_zarr(
    source: Any,
    variable: str | Sequence[str] | None = None,
    feature_dim: str | int | None = None,
    *,
    allow_missing: bool = False,
) -> ZarrRows:
    """Open a zarr array, or several of a group, for reading.

    Parameters
    ----------
    source : str, path-like, zarr.Array or zarr.Group
        Path or URL of an array or of a group, or one that is open.
    variable : str or sequence of str, optional
        The array's name within the group; may be left out if the group holds one array only. Several names are the
        features, which lie on one grid.
    feature_dim : str or int, optional
        Name or number of the dimension that holds the features of a single array.
    allow_missing : bool, optional
        Whether chunks that are missing count as their fill value.

    Raises
    ------
    DataError
        If there is nothing, or nothing suitable.
    """
    name, arrays = open_arrays(source, variable)
    if variable is not None and not isinstance(variable, str):
        if feature_dim is not None:
            message = (
                f"the features of {name} are its variables {', '.join(variable)}; leave feature_dim (--feature-dim) "
                "out, or name one variable"
            )
            raise DataError(message)
        return _stacked(name, arrays, allow_missing=allow_missing)
    array = next(iter(arrays.values()))
    check_dtype(name, array.dtype)
    if array.ndim < 2:
        check_table(name, array.shape, array.dtype, "dask.array.from_zarr(path).reshape(-1, 1)")
    names = dimension_names(array)
    feature = feature_axis(name, array.ndim, names, feature_dim)
    grid = tuple(axis for axis in range(array.ndim) if axis != feature)
    grid_names = None if names is None else tuple(names[axis] for axis in grid)
    rows = ZarrRows(
        name, [ZarrPart.of(array, name, (*grid, feature), has_features=True)], grid_names, allow_missing=allow_missing
    )
    labels = coordinates_of(array, feature)
    if labels is not None and labels.dtype.kind == "U":
        rows.feature_names = tuple(labels.tolist())
    elif labels is not None:
        rows.feature_coordinates = labels
    rows.feature_dim = None if names is None else names[feature]
    return rows


def _stacked(name: str, arrays: dict[str, zarr.Array[Any]], *, allow_missing: bool) -> ZarrRows:
    """Return rows whose features are variables on one grid."""
    (main, first), *_ = arrays.items()
    names = dimension_names(first)
    parts = []
    for key, array in arrays.items():
        check_dtype(f"{name}/{key}", array.dtype)
        mine = dimension_names(array)
        axes = tuple(range(array.ndim))
        if names is not None and mine is not None and sorted(names) == sorted(mine):
            axes = tuple(mine.index(dim) for dim in names)
        elif mine != names and None not in (mine, names):
            axes = ()
        part = ZarrPart.of(array, f"{name}/{key}", axes, has_features=False)
        if not axes or part.along(array.shape) != first.shape:
            message = (
                f"variable {key!r} of {name} has the shape {array.shape}{_dims_text(mine)}, but {main!r} has "
                f"{first.shape}{_dims_text(names)}; variables that are features lie on one grid"
            )
            raise DataError(message)
        parts.append(part)
    rows = ZarrRows(name, parts, names, allow_missing=allow_missing)
    rows.feature_names = tuple(arrays)
    return rows


def _dims_text(names: tuple[str, ...] | None) -> str:
    return "" if names is None else f" ({', '.join(names)})"
