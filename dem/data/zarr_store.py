"""Opens zarr arrays, and tells what their groups and attributes say of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from dem.data.cf import Packing, packing
from dem.data.checks import reason
from dem.data.urls import split_scheme
from dem.errors import DataError


def open_arrays(source: Any, variable: str | Sequence[str] | None) -> tuple[str, dict[str, zarr.Array[Any]]]:
    """Open one array, or several of a group.

    Parameters
    ----------
    source : str, path-like, zarr.Array or zarr.Group
        Path or URL of an array or of a group, or one that is open.
    variable : str or sequence of str, optional
        Names within the group; may be left out if the group holds one array only.

    Returns
    -------
    name : str
        What messages call the array, or the group if several are named.
    arrays : dict
        The arrays by their names.

    Raises
    ------
    DataError
        If there is nothing, or nothing suitable.
    """
    if isinstance(source, zarr.Array | zarr.Group):
        name = name_of(source)
    else:
        name = os.fspath(source)
        source = _open_path(name)
    if isinstance(source, zarr.Group):
        if variable is None or isinstance(variable, str):
            variable, array = _member(source, name, variable)
            return f"{name.rstrip('/')}/{variable}", {variable: array}
        return name, {key: _member(source, name, key)[1] for key in variable}
    if variable is not None:
        listed = variable if isinstance(variable, str) else ", ".join(variable)
        message = f"{name} is an array, not a group; leave the variable {listed!r} out"
        raise DataError(message)
    return name, {name: source}


def _open_path(path: str) -> zarr.Array[Any] | zarr.Group:
    path, scheme = split_scheme(path)
    if scheme is None and not Path(path).exists():
        message = f"there is nothing at {path}; give the path of a zarr array"
        raise DataError(message)
    try:
        return zarr.open(store=path, mode="r")
    except (FileNotFoundError, zarr.errors.NodeNotFoundError) as error:
        message = f"there is no zarr array or group at {path}{_missing_bucket(path, scheme)}"
        raise DataError(message) from error
    except Exception as error:  # a store raises whatever its service makes it raise
        message = f"{path} cannot be opened ({reason(error)})"
        raise DataError(message) from error


def _missing_bucket(path: str, scheme: str | None) -> str:
    """Say that the bucket of a URL does not exist, if the store knows that it does not."""
    if scheme not in ("s3", "s3a", "gs", "gcs"):
        return ""
    import fsspec  # noqa: PLC0415

    try:
        filesystem, inner = fsspec.core.url_to_fs(path, use_listings_cache=False)
        bucket = inner.partition("/")[0]
        return "" if filesystem.exists(bucket) else f": there is no bucket {bucket!r}"
    except Exception:  # noqa: BLE001 - not every key may ask for it, and a store raises whatever its service makes it
        return ""


def _member(group: zarr.Group, name: str, variable: str | None) -> tuple[str, zarr.Array[Any]]:
    if variable is not None:
        try:
            found = group[variable]
        except KeyError:
            found = None
        if isinstance(found, zarr.Array):
            return variable, found
    arrays = dict(group.arrays())
    if variable is None and len(arrays) == 1:
        return next(iter(arrays.items()))
    listing = ", ".join(f"{key} {array.shape}" for key, array in sorted(arrays.items())[:20]) or "no array"
    if variable is None:
        message = (
            f"{name} is a group of several arrays; name one as the variable, or several as the features: {listing}"
        )
        if not arrays:
            message = f"{name} is a group that holds no array; give the path of an array"
    else:
        message = f"{name} has no array {variable!r}; it holds {listing}"
    raise DataError(message)


def name_of(node: zarr.Array[Any] | zarr.Group) -> str:
    """Return what messages call an open array or group."""
    store = node.store_path.store
    root = getattr(store, "root", None) or getattr(store, "path", None)
    base = Path(str(root)).name if root else ""
    return "/".join(part for part in (base, node.path) if part) or "zarr array"


def dimension_names(array: zarr.Array[Any]) -> tuple[str, ...] | None:
    """Return the names of the dimensions: those of format 3, or what xarray writes into the attributes of format 2."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple) or len(names) != array.ndim or all(name is None for name in names):
        return None
    return tuple(str(axis) if name is None else str(name) for axis, name in enumerate(names))


def packing_of(array: zarr.Array[Any], name: str) -> Packing | None:
    """Return how the numbers of an array are decoded; see `dem.data.cf`."""
    attributes = array.attrs.asdict()
    # In format 2 xarray writes `_FillValue` into the field for the value of chunks that are not there.
    by_xarray = array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in attributes
    try:
        return packing(attributes, array.dtype, array.fill_value if by_xarray else None)
    except DataError as error:
        message = f"{name} cannot be decoded: {error}"
        raise DataError(message) from error


def coordinates_of(array: zarr.Array[Any], axis: int) -> NDArray[Any] | None:
    """Return the labels of a dimension, from the array of its name beside this one; None if there are none.

    Times are left out: as numbers they mean nothing without their units.
    """
    names = dimension_names(array)
    found = None if names is None else _beside(array, names[axis])
    if found is None or found.shape != (array.shape[axis],) or " since " in str(found.attrs.get("units", "")):
        return None
    packed = packing_of(found, name_of(found))
    values = np.asarray(found[...])
    values = values if packed is None else packed.decode(values)
    return values if values.dtype.kind in "biuf" else np.array([str(value) for value in values])


def _beside(array: zarr.Array[Any], name: str) -> zarr.Array[Any] | None:
    """Return an array of the same group."""
    folder, _, _ = array.path.rpartition("/")
    store: Any = array.store_path.store
    path = f"{folder}/{name}".lstrip("/")
    if not array.path:  # the store begins with the array
        root = getattr(store, "root", None)
        if not isinstance(root, Path) or not (root.parent / name).is_dir():
            return None
        store, path = root.parent / name, ""
    try:
        return zarr.open_array(store=store, path=path, mode="r")
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # there is none
        return None
