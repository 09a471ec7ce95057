"""Rows of xarray objects of any number of dimensions: one holds the features, the others are stacked to rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, RowMap, Rows, joined_chunks
from dem.data.checks import check_dtype, feature_axis
from dem.data.dask import DaskRows, map_blocks, warn_of_column_chunks
from dem.data.joined import JoinedRows
from dem.data.labels import order_of
from dem.data.numpy import ArrayRows
from dem.data.profiles import Features, check_features, check_shared, feature_names
from dem.errors import DataError


def open_xarray(
    data: xr.DataArray | xr.Dataset, feature_dim: str | int | None = None, features: Features | None = None
) -> Rows:
    """Open a DataArray or a Dataset (whose variables are the features); raises `DataError` if it is no table."""
    array, feature = with_features_last(data, feature_dim, features)
    if array.ndim < 2:
        message = (
            f"{_name_of(data)} has no dimension but {feature!r}, which holds the features; "
            "add one with expand_dims for the rows"
        )
        raise DataError(message)
    name = _name_of(data)
    names = _feature_names(array, feature)
    dims = tuple(str(dim) for dim in array.dims[:-1])
    rows: Rows
    if array.chunks is None:
        rows = ArrayRows(array.values, name, names, dims)
    else:
        if isinstance(data, xr.DataArray) and data.ndim == 2:
            warn_of_column_chunks(name, array.data)
        rows = DaskRows(array.data, name, names, dims)
    rows.features = features
    labels = {str(dim): _labels(array, dim) for dim in array.dims[:-1]}
    rows.known_coordinates = {dim: values for dim, values in labels.items() if values is not None}
    if isinstance(data, xr.DataArray):
        rows.feature_dim = str(feature)
        rows.feature_coordinates = _labels(array, feature) if names is None else None
    return rows


def in_order(
    data: xr.DataArray | xr.Dataset, feature_dim: str | int | None, labels: NDArray[Any]
) -> xr.DataArray | xr.Dataset:
    """Return data with its features in the order of `labels`, lazily; as it is unless it has these.

    A Dataset may have other variables too, which are left out.
    """
    given: object = data  # users pass what the signature does not allow; it is refused when it is opened
    if isinstance(given, xr.Dataset):
        return given[labels.tolist()] if set(map(str, labels)) <= set(map(str, given.data_vars)) else given
    if not isinstance(given, xr.DataArray):
        return data
    feature = _feature_dim(given, feature_dim)
    found = _labels(given, feature)
    order = None if found is None else order_of(found, labels)
    if order is None or (order == np.arange(len(order))).all():
        return given
    return given.isel({feature: order})


def map_xarray(
    data: xr.DataArray | xr.Dataset,
    function: RowMap,
    dtype: np.dtype[Any],
    columns: int | None,
    feature_dim: str | int | None,
    features: Features | None,
    compute: Callable[[Rows, RowMap, np.dtype[Any], int | None], NDArray[Any]],
    with_columns: Rows | None = None,
) -> xr.DataArray:
    """Apply a function of rows; see `dem.engine.mapping.map_rows`, which says how what is in memory is computed."""
    array, feature = with_features_last(data, feature_dim, features)
    rows = opened = with_columns or open_xarray(data, feature_dim, features)
    tail = () if columns is None else (columns,)
    rows, beside = (rows.rows, rows.beside) if isinstance(rows, JoinedRows) else (rows, None)
    result: Any
    if isinstance(rows, DaskRows):
        result = map_blocks(array.data, function, dtype, columns, beside)
    else:
        result = compute(opened, function, dtype, columns).reshape(array.shape[:-1] + tail)
    dims = array.dims[:-1] + (() if columns is None else ("component",))
    kept = {key: coordinate for key, coordinate in array.coords.items() if feature not in coordinate.dims}
    # Without rename it would bear the name of the Dask task.
    return xr.DataArray(result, dims=dims, coords=kept).rename(None)


def on_features(
    data: xr.DataArray | xr.Dataset, result: xr.DataArray, feature_dim: str | int | None, features: Features | None
) -> Any:
    """Return what `map_xarray` gave, with as many columns as data has features, in the form of the data."""
    array, feature = with_features_last(data, feature_dim, features)
    result = result.rename(component=feature)
    if feature in array.coords:
        result = result.assign_coords({feature: array[feature]})
    if isinstance(data, xr.Dataset):
        return result.to_dataset(dim="feature") if features is None else _variables(data, result, features)
    return result.transpose(*data.dims)


def _variables(data: xr.Dataset, result: xr.DataArray, features: Features) -> xr.Dataset:
    """Return the entries of ``feature`` as the variables of the data that they were taken from."""
    found, first = {}, 0
    for variable, dim in features.items():
        like = data[variable]
        own = None if dim is None else like.dims[feature_axis(variable, like.ndim, like.dims, dim)]
        n = 1 if own is None else like.sizes[own]
        part = result.isel(feature=slice(first, first + n)).drop_vars("feature")
        part = part.isel(feature=0) if own is None else part.rename(feature=own)
        coordinates = {key: one for key, one in like.coords.items() if own in one.dims}
        found[variable] = part.assign_coords(coordinates).transpose(*like.dims)
        first += n
    return xr.Dataset(found)


def with_features_last(
    data: xr.DataArray | xr.Dataset, feature_dim: str | int | None, features: Features | None = None
) -> tuple[xr.DataArray, Hashable]:
    """Return a DataArray whose last dimension holds the features, lazy where the data is, and that dimension's name."""
    if features is not None:
        check_features(_name_of(data), features, {"feature_dim": feature_dim})
        return _profiles(data, features), "feature"
    if isinstance(data, xr.Dataset):
        return _stack_variables(data, feature_dim), "feature"
    given: object = data  # users pass what the signature does not allow
    if not isinstance(given, xr.DataArray):
        kind = type(given).__name__
        advice = "take one of its groups with tree['group'].to_dataset()" if kind == "DataTree" else "make one of it"
        message = f"an xarray {kind} is neither a Dataset nor a DataArray; {advice}"
        raise DataError(message)
    check_dtype(_name_of(data), data.dtype)
    feature = _feature_dim(data, feature_dim)
    return lazy(data).transpose(..., feature), feature


def _profiles(data: xr.DataArray | xr.Dataset, features: Features) -> xr.DataArray:
    """Return the entries of several variables along dimensions of theirs, one behind another along ``feature``."""
    name = _name_of(data)
    if not isinstance(data, xr.Dataset):
        message = f"features name variables of a Dataset, and {name} is none; give feature_dim"
        raise DataError(message)
    _check_no_feature_dimension(name, data)
    parts: dict[str, xr.DataArray] = {}
    names: list[str] = []
    for variable, dim in features.items():
        if variable not in data.data_vars:
            message = f"{name} has no variable {variable!r}; it has {_listed(data.data_vars)}"
            raise DataError(message)
        array = data[variable]
        check_dtype(f"variable {variable!r} of {name}", array.dtype)
        if dim is None:
            parts[variable] = lazy(array).expand_dims("feature", axis=-1)
            names.append(variable)
            continue
        axis = feature_axis(f"variable {variable!r} of {name}", array.ndim, array.dims, dim)
        own = array.dims[axis]
        names += feature_names(variable, str(own), _labels(array, own), array.shape[axis])
        bare = array.drop_vars([key for key, coordinate in array.coords.items() if own in coordinate.dims])
        parts[variable] = lazy(bare).rename({own: "feature"}).transpose(..., "feature")
    dims = {variable: part.dims[:-1] for variable, part in parts.items()}
    check_shared(name, {variable: (frozenset(found),) for variable, found in dims.items()}, dims)
    first = next(iter(dims.values()))
    whole = xr.concat(
        [part.transpose(*first, "feature") for part in parts.values()],
        "feature",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="drop",
    )
    return whole.assign_coords(feature=names)


def _check_no_feature_dimension(name: str, data: xr.Dataset) -> None:
    if "feature" in data.dims:
        message = f"{name} has a dimension 'feature' already, though its variables are the features; rename it"
        raise DataError(message)


def _stack_variables(data: xr.Dataset, feature_dim: str | int | None) -> xr.DataArray:
    name = _name_of(data)
    if feature_dim is not None:
        message = (
            f"the features of {name} are its variables; to use the dimension {feature_dim!r} select one variable, or "
            f"several with features={{'name': {feature_dim!r}, …}}"
        )
        raise DataError(message)
    if not data.data_vars:
        message = f"{name} has no variables; its variables are the features"
        raise DataError(message)
    _check_dimensions(name, data)
    for key, variable in data.data_vars.items():
        check_dtype(f"variable {key!r} of {name}", variable.dtype)
    _check_no_feature_dimension(name, data)
    whole = xr.Dataset({key: lazy(variable) for key, variable in data.data_vars.items()})
    return whole.to_dataarray("feature").transpose(..., "feature")


def _check_dimensions(name: str, data: xr.Dataset) -> None:
    """Refuse variables that lie on fewer dimensions than others: xarray would spread them over the rest, unasked."""
    lengths = {key: len(variable.dims) for key, variable in data.data_vars.items()}
    main = max(lengths, key=lambda key: lengths[key])
    dims = set(data[main].dims)
    others = [key for key, variable in data.data_vars.items() if set(variable.dims) != dims]
    if others:
        chosen = [key for key in data.data_vars if key not in others]
        message = (
            f"variable {others[0]!r} of {name} has the dimensions {_listed(data[others[0]].dims)}, but {main!r} has "
            f"{_listed(data[main].dims)}; select the features, such as ds[{_listed(chosen, repr)}], or give all the "
            f"same dimensions with ds[{others[0]!r}].broadcast_like(ds[{main!r}])"
        )
        raise DataError(message)


def _listed(names: Iterable[Hashable], word: Callable[[object], str] = str) -> str:
    names = list(names)
    return f"[{', '.join(map(word, names[:5]))}{', …' if len(names) > 5 else ''}]"


def lazy(array: xr.DataArray) -> xr.DataArray:
    """Return an array that is in memory or made of Dask chunks; what lies in a file is not read yet."""
    if array.chunks is not None or array.variable._in_memory:  # noqa: SLF001 - xarray has no public way to ask
        return array
    preferred = array.encoding.get("preferred_chunks") or array.encoding.get("chunks") or {}
    if not isinstance(preferred, dict):
        preferred = dict(zip(array.dims, preferred, strict=True))
    # Whole chunks of the file, several together where they are small.
    chunks = tuple(preferred.get(dim, 1) for dim in array.dims)
    chunks = joined_chunks(array.shape, chunks, READ_BYTES // array.dtype.itemsize)
    return array.chunk(dict(zip(array.dims, chunks, strict=True)))


def _feature_dim(array: xr.DataArray, feature_dim: Hashable | None) -> Hashable:
    """Return the dimension of the features; its name may be anything that can be hashed, such as a number."""
    return array.dims[feature_axis(_name_of(array), array.ndim, array.dims, feature_dim)]


def _feature_names(array: xr.DataArray, feature: Hashable) -> tuple[str, ...] | None:
    if feature not in array.coords:
        return None
    names = array.coords[feature].values.tolist()
    return tuple(names) if all(isinstance(name, str) for name in names) else None


def _labels(array: xr.DataArray, feature: Hashable) -> NDArray[Any] | None:
    """Return the coordinate values of a dimension if it has any: numbers, times, or text for everything else."""
    if feature not in array.coords:
        return None
    values = array.coords[feature].values
    return values if values.dtype.kind in "biufMm" else np.array([str(value) for value in values])


def _name_of(data: xr.DataArray | xr.Dataset) -> str:
    if isinstance(data, xr.Dataset):
        return "Dataset"
    return f"DataArray {data.name!r}" if data.name is not None else "DataArray"
