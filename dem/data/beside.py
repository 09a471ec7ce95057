"""Columns that stand in the data itself, by their names there, and whether a column lies on the grid of the rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Rows
from dem.data.checks import WordsError, frame_columns
from dem.data.labels import coordinate_text, order_of, same
from dem.data.profiles import Features
from dem.data.sources import SourceOptions, source_kind
from dem.errors import DataError

_FRAMES = ("pandas", "dask.dataframe")
# What may have a column for each feature.
_OF_FEATURES = ("noise_covariance", "lower", "upper", "trials")
_NAMES_SHOWN = 20


def found_beside(
    data: Any, given: Mapping[str, Any], features: Features | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return `given` with the columns of data that it names in place of the names, and these.

    A name that the data does not have may be a path, and is left as it is if there is anything. Several may be named in
    a list, in the order of the features, such as their errors; of a Dataset or a zarr group also in a mapping of
    variables to their dimensions, as features are. A list of as many as there are `features` has their dimensions.

    Raises
    ------
    DataError
        If there is nothing of that name in the data, nor a path.
    """
    columns: dict[str, Any] = dict(given)
    names: list[str] = []
    for option, value in given.items():
        own = [value] if isinstance(value, str) else list(value) if _are_names(value) else []
        is_table = source_kind(data) in (*_FRAMES, "parquet")
        if isinstance(value, dict) and (not own or option not in _OF_FEATURES or is_table or not names_in(data)):
            message = (
                f"{option} cannot be {value!r}; a dict of variables and their dimensions goes with "
                f"{', '.join(_OF_FEATURES)} and names variables of a Dataset or a zarr group; columns of a table are "
                "named in a list, in the order of the features, and numbers by features in a pandas Series"
            )
            raise DataError(message)
        if own and all(_has(data, name) for name in own):
            dims: Features | None = value if isinstance(value, dict) else None
            if dims is None and features is not None and len(own) == len(features):
                dims = dict(zip(own, features.values(), strict=True))
            try:
                columns[option] = _column(data, value) if isinstance(value, str) else _columns(data, own, dims)
            except WordsError as error:
                message = f"{option}: {str(error).partition(';')[0]}"
                raise DataError(message) from error
            names += own
        elif own:
            _check_path(data, option, own, is_list=not isinstance(value, str))
    return columns, names


def _check_path(data: Any, option: str, own: Sequence[str], *, is_list: bool) -> None:
    """Refuse names that data with names does not have; one alone may be a path or URL."""
    there = names_in(data)
    if not there or (is_list and option not in _OF_FEATURES):
        return
    lacking = next((name for name in own if not _has(data, name)), own[0])
    if not is_list and ("://" in lacking or os.path.exists(lacking)):  # noqa: PTH110 - an empty name too
        return
    listed = ", ".join(there[:_NAMES_SHOWN]) + (", …" if len(there) > _NAMES_SHOWN else "")
    path = "" if is_list else ", nor is there anything at that path"
    message = f"{option}: the data has nothing of the name {lacking!r}{path}; it has {listed}"
    raise DataError(message)


def names_in(data: Any) -> list[str]:
    """Return the names of what data consists of, as far as it has any."""
    kind = source_kind(data)
    if kind == "xarray":
        return [str(name) for name in (*getattr(data, "data_vars", ()), *getattr(data, "coords", ()))]
    if kind in _FRAMES:
        return list(frame_columns(data) or ())
    if kind == "parquet":
        from dem.data.parquet import column_names  # noqa: PLC0415

        return list(column_names(os.fspath(data)))
    if kind == "zarr":
        from dem.data.zarr_open import array_names  # noqa: PLC0415

        return array_names(data)
    return []


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple | dict) and all(isinstance(one, str) for one in value)


def without(data: Any, source: SourceOptions, names: Sequence[str]) -> tuple[Any, SourceOptions]:
    """Return data, and how it is opened, so that its columns of these names are no features.

    They are taken out of a Dataset or a DataFrame; parquet is opened without them, unless `source` asks for some.
    """
    kind = source_kind(data)
    if names and kind == "xarray" and hasattr(data, "data_vars"):
        return data.drop_vars(names, errors="ignore"), source
    if names and kind in _FRAMES:
        return data.drop(columns=list(dict.fromkeys(names)), errors="ignore"), source
    if names and kind == "parquet" and source.get("columns") is None:
        from dem.data.parquet import column_names  # noqa: PLC0415

        return data, {**source, "columns": [one for one in column_names(os.fspath(data)) if one not in names]}
    return data, source


def _has(data: Any, name: str) -> bool:
    kind = source_kind(data)
    if kind == "xarray":
        return name in getattr(data, "coords", ()) or name in getattr(data, "data_vars", ())
    if kind in _FRAMES:
        return name in (frame_columns(data) or ())
    if kind == "parquet":
        from dem.data.parquet import column_names  # noqa: PLC0415

        return name in column_names(os.fspath(data))
    if kind == "zarr":
        from dem.data.sources import holds_variables  # noqa: PLC0415

        return holds_variables(data, [name])
    return False


def _column(data: Any, name: str) -> Any:
    kind = source_kind(data)
    if kind == "parquet":
        from dem.data.parquet import ParquetRows  # noqa: PLC0415

        return ParquetRows(os.fspath(data), [name]).array[:, 0]
    if kind == "zarr":
        from dem.data.zarr_open import open_arrays  # noqa: PLC0415

        return open_arrays(data, name)[1][name]
    return data[name]


def _columns(data: Any, names: Sequence[str], dims: Features | None) -> Any:
    kind = source_kind(data)
    if kind in _FRAMES:
        return data[list(names)]
    if kind == "parquet":
        from dem.data.parquet import ParquetRows  # noqa: PLC0415

        return ParquetRows(os.fspath(data), names).array
    if kind == "zarr":
        from dem.data.zarr_open import open_zarr  # noqa: PLC0415

        return open_zarr(data, None if dims else names, features=dims)
    if not hasattr(data, "data_vars"):
        message = f"several columns ({', '.join(names)}) cannot be named of a DataArray; give an array"
        raise DataError(message)
    from dem.data.xarray import with_features_last  # noqa: PLC0415 - an optional package

    return with_features_last(data if dims else data[list(names)], None, dims)[0]


def on_grid(name: str, column: Rows, rows: Rows) -> Any:
    """Return rows that are columns of others as a Dask array along the dimensions of these, lazily."""
    array, dims = column.array, column.grid_names  # type: ignore[attr-defined]
    _check_entries(name, np.array(column.feature_names or ()), rows)
    if dims is None or rows.grid_names is None:
        return array
    _check_grid(name, dims, column.grid, rows, "store it along these")
    found = {dim: column.coordinates(dim) for dim in dims}
    _check_coordinates(name, {dim: values for dim, values in found.items() if values is not None}, rows)
    return array.transpose([*(dims.index(dim) for dim in rows.grid_names), array.ndim - 1])


def along(name: str, column: Any, rows: Rows) -> Any:
    """Return a DataArray along the dimensions of the rows; refuse what lies on other coordinates."""
    dims = tuple(map(str, column.dims))
    coordinates = {dim: _values(column.coords[dim]) for dim in dims if dim in column.coords}
    _check_grid(name, dims, column.shape, rows, f"{name}.broadcast_like({_on_grid(rows)})")
    _check_coordinates(name, coordinates, rows)
    if rows.grid_names is not None and set(rows.grid_names) <= set(dims):
        return column.transpose(*rows.grid_names, ...)
    return column


def _on_grid(rows: Rows) -> str:
    """Word what of the data lies on the dimensions of the rows alone."""
    variable, dim = next(iter(rows.features.items())) if rows.features else (None, rows.feature_dim)
    which = "one variable of the data" if variable is None and dim is None else "data"
    if variable is not None:
        which += f"[{variable!r}]"
    return which if dim is None else f"{which}.isel({dim}=0, drop=True)"


def in_order(name: str, column: Any, rows: Rows) -> Any:
    """Return a column with an entry for each feature in the order of these, where it is a table that names them.

    Names of which none is that of a feature, such as ``var_u``, tell nothing: the order is taken as it is.

    Raises
    ------
    DataError
        If the names are those of other features.
    """
    kind = source_kind(column)
    if kind == "xarray" and rows.features and set(rows.features) <= set(getattr(column, "data_vars", ())):
        from dem.data.xarray import with_features_last  # noqa: PLC0415 - an optional package

        return with_features_last(column, None, rows.features)[0]
    if kind == "xarray":
        column = column.to_array() if hasattr(column, "data_vars") else column
        for dim in map(str, column.dims):
            if dim in column.coords and dim not in (rows.grid_names or ()):
                order = _feature_order(name, dim, _values(column.coords[dim]), rows)
                column = column if order is None else column.isel({dim: order})
    elif kind in _FRAMES and getattr(column, "ndim", 0) == 2 and (names := frame_columns(column)):
        order = _feature_order(name, "column", np.array(names), rows)
        column = column if order is None else column[[names[place] for place in order]]
    elif kind == "pandas" and hasattr(column, "index") and column.index.dtype.kind not in "biuf":
        order = _feature_order(name, "entry", np.array([str(label) for label in column.index]), rows)
        column = column if order is None else column.iloc[order]
    return column


def _feature_order(name: str, dim: str, found: NDArray[Any], rows: Rows) -> NDArray[np.int64] | None:
    """Return where each feature of the rows is among labels; None where these tell nothing."""
    wanted = rows.feature_coordinates if rows.feature_names is None else np.array(rows.feature_names)
    if wanted is None or len(found) != len(wanted):  # the shapes tell of other lengths
        return None
    order = order_of(found, wanted)
    is_text = found.dtype.kind == wanted.dtype.kind == "U"
    if order is None and (dim == rows.feature_dim or (is_text and np.isin(found, wanted).any())):
        equal = same(found, wanted)
        place = int(np.argmin(equal))
        message = (
            f"entry {place} along {dim} is {found[place]} of {name}, but the feature there is {wanted[place]} of "
            f"{rows.name}; give one for each feature, by the same names"
        )
        raise DataError(message)
    if order is None and is_text:
        _check_entries(name, found, rows)
    return order


def _check_entries(name: str, found: NDArray[Any], rows: Rows) -> None:
    """Refuse entries of variables, such as ``TEMP_ERR[depth=50]``, at other coordinates than those of the features."""
    for label, wanted in zip(found.tolist(), rows.feature_names or (), strict=False):
        entries = [one.rpartition("[")[2].rpartition("=")[2] for one in (label, wanted) if one.endswith("]")]
        if len(entries) == 2 and entries[0] != entries[1]:
            message = (
                f"{name} has {label}, but the feature there is {wanted} of {rows.name}; give variables in the order of "
                "the features, with the same coordinates"
            )
            raise DataError(message)


def check_stored(name: str, array: Any, rows: Rows) -> None:
    """Refuse a zarr array whose dimensions or coordinates are not those of the rows, as far as both name them."""
    from dem.data.zarr_open import coordinates_of, dimension_names  # noqa: PLC0415

    dims = dimension_names(array)
    if dims is None:
        return
    _check_grid(name, dims, array.shape, rows, "store it along these, in this order", ordered=True)
    found = {dim: coordinates_of(array, axis) for axis, dim in enumerate(dims) if dim in (rows.grid_names or ())}
    _check_coordinates(name, {dim: values for dim, values in found.items() if values is not None}, rows)
    for axis, dim in enumerate(dims):
        labels = coordinates_of(array, axis) if dim == rows.feature_dim else None
        order = None if labels is None else _feature_order(name, dim, labels, rows)
        if order is not None and (order != np.arange(len(order))).any():
            message = f"{name} has the features of {rows.name} in another order along {dim}; store it in the same"
            raise DataError(message)


def _check_grid(
    name: str, dims: tuple[str, ...], shape: tuple[int, ...], rows: Rows, advice: str, *, ordered: bool = False
) -> None:
    """Compare dimensions by their names; one alone may number the rows of a grid as they are stacked."""
    wanted = rows.grid_names
    if wanted is None or (shape == (rows.n_rows,) and len(wanted) > 1):
        return
    if dims[: len(wanted)] == wanted or (not ordered and set(wanted) <= set(dims)):
        return
    message = (
        f"{name} has the dimensions ({', '.join(dims)}), but the rows of {rows.name} lie on ({', '.join(wanted)}); "
        f"{advice}"
    )
    raise DataError(message)


def _check_coordinates(name: str, found: Mapping[str, NDArray[Any]], rows: Rows) -> None:
    for dim, values in found.items():
        ours = rows.coordinates(dim)
        if ours is None or len(ours) != len(values):  # the shapes tell of other lengths
            continue
        equal = same(values, ours)
        if not equal.all():
            place = int(np.argmin(equal))
            message = (
                f"entry {place} along {dim} is {coordinate_text(dim, values[place])} of {name}, but "
                f"{coordinate_text(dim, ours[place])} of {rows.name}; bring both to the same coordinates "
                "(xarray.align, reindex_like)"
            )
            raise DataError(message)


def _values(coordinate: Any) -> NDArray[Any]:
    """Return coordinate values as `Rows.coordinates` has them."""
    values: NDArray[Any] = np.asarray(coordinate.values)
    return values if values.dtype.kind in "biufMm" else np.array([str(value) for value in values])
