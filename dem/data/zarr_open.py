"""Opens zarr arrays, alone or several variables of a group, and tells what their groups and stores say of them."""

from __future__ import annotations

import asyncio
import math
import operator
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync
from zarr.storage import LocalStore

from dem.data.base import Rows, chunk_counts
from dem.data.bounded import check_layout, check_metadata_files
from dem.data.cf import packing_of
from dem.data.checks import check_dtype, check_table, feature_axis, reason, split_scheme
from dem.data.profiles import Features, check_features, check_shared, feature_names
from dem.data.sparse import ANNDATA, ENCODING, is_csr, names_of_columns, open_stored_csr
from dem.data.zarr import ZarrRows
from dem.data.zarr_part import ZarrPart
from dem.errors import DataError

# Of a client of S3, in which each request that is in flight has one.
_CONNECTIONS = 64
# The name of a chunk or shard, of either format.
_CHUNK_KEY = re.compile(r"(?:c[./])?(\d+(?:[./]\d+)*)")


def open_zarr(
    source: Any,
    variable: str | Sequence[str] | None = None,
    feature_dim: str | int | None = None,
    features: Features | None = None,
    *,
    allow_missing_chunks: bool = False,
    on_bad_chunk: str = "raise",
) -> Rows:
    """Open a zarr array, several of a group, or a sparse matrix, for reading; see `dem.data.open_rows`."""
    missing, skips_bad = allow_missing_chunks, on_bad_chunk == "skip"
    source, found = _opened(source)
    if (sparse := _sparse_group(source, found, variable)) is not None:
        options = {"feature_dim": feature_dim, "features": features}
        opened = _open_sparse(*sparse, options, allow_missing=missing, skips_bad=skips_bad)
        opened.feature_names = names_of_columns(source, opened.n_features) if variable in (None, "X") else None
        return opened
    if features is not None:
        check_features(str(source), features, {"variable": variable, "feature_dim": feature_dim})
        return _profiles(
            *open_arrays(source, list(features), found), features, allow_missing=missing, skips_bad=skips_bad
        )
    name, arrays = open_arrays(source, variable, found)
    if variable is not None and not isinstance(variable, str):
        if feature_dim is not None:
            message = (
                f"the features of {name} are its variables {', '.join(variable)}; leave feature_dim out, name one "
                f"variable, or give features={{'{variable[0]}': {feature_dim!r}, …}}"
            )
            raise DataError(message)
        return _stacked(name, arrays, allow_missing=missing, skips_bad=skips_bad)
    array = next(iter(arrays.values()))
    check_dtype(name, array.dtype)
    if array.ndim < 2:
        check_table(name, array.shape, array.dtype, "dask.array.from_zarr(path).reshape(-1, 1)")
    names = dimension_names(array)
    feature = feature_axis(name, array.ndim, names, feature_dim)
    grid = tuple(axis for axis in range(array.ndim) if axis != feature)
    grid_names = None if names is None else tuple(names[axis] for axis in grid)
    part = ZarrPart.of(array, name, (*grid, feature), has_features=True)
    rows = ZarrRows(name, [part], grid_names, allow_missing=missing, skips_bad=skips_bad)
    if names is None:
        rows.feature_names = names_of_columns(source, rows.n_features) if variable in (None, "X") else None
        return rows
    rows.feature_dim, labels = names[feature], coordinates_of(array, feature)
    if labels is not None and labels.dtype.kind == "U":
        rows.feature_names = tuple(labels.tolist())
    elif labels is not None:
        rows.feature_coordinates = labels
    return rows


def _profiles(
    name: str, arrays: dict[str, zarr.Array[Any]], features: Features, *, allow_missing: bool, skips_bad: bool
) -> ZarrRows:
    """Return rows whose features are the entries of several variables along dimensions of theirs."""
    parts, names, grids, words = [], [], {}, {}
    dims: tuple[str, ...] | None = None
    for key, array in arrays.items():
        own, dim, axes = dimension_names(array), features[key], list(range(array.ndim))
        check_dtype(f"{name}/{key}", array.dtype)
        if dim is not None:
            feature = axes.pop(feature_axis(f"{name}/{key}", array.ndim, own, dim))
            labels = None if own is None else coordinates_of(array, feature)
            names += feature_names(key, dim if own is None else own[feature], labels, array.shape[feature])
        else:
            names.append(key)
        grid = None if own is None else tuple(own[axis] for axis in axes)
        if dims is not None and grid is not None and sorted(grid) == sorted(dims):
            axes, grid = [axes[grid.index(one)] for one in dims], dims
        dims = dims or grid
        extents = tuple(array.shape[axis] for axis in axes)
        grids[key] = (extents, grid or dims)
        words[key] = extents if grid is None else [f"{one} {n}" for one, n in zip(grid, extents, strict=True)]
        order = tuple(axes) if dim is None else (*axes, feature)
        parts.append(ZarrPart.of(array, f"{name}/{key}", order, has_features=dim is not None))
    check_shared(name, grids, words)
    if not next(iter(grids.values()))[0]:
        message = f"the variables of {name} have no dimension but those of the features, and none is left for the rows"
        raise DataError(message)
    rows = ZarrRows(name, parts, dims, allow_missing=allow_missing, skips_bad=skips_bad)
    rows.feature_names, rows.features = tuple(names), features
    return rows


def _stacked(name: str, arrays: dict[str, zarr.Array[Any]], *, allow_missing: bool, skips_bad: bool) -> ZarrRows:
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
    rows = ZarrRows(name, parts, names, allow_missing=allow_missing, skips_bad=skips_bad)
    rows.feature_names = tuple(arrays)
    return rows


def _dims_text(names: tuple[str, ...] | None) -> str:
    return "" if names is None else f" ({', '.join(names)})"


def _opened(source: Any) -> tuple[zarr.Array[Any] | zarr.Group, str]:
    """Open a path, unless it is open, and return what messages call it."""
    if isinstance(source, zarr.Array | zarr.Group):
        return source, name_of(source)
    name = os.fspath(source)
    return _open_path(name), name


def _sparse_group(
    node: zarr.Array[Any] | zarr.Group, name: str, variable: str | Sequence[str] | None
) -> tuple[zarr.Group, str] | None:
    """Return the group of a sparse matrix, if that is what is meant: of a whole AnnData it is X."""
    if not isinstance(node, zarr.Group):
        return None
    if variable is None and node.attrs.get(ENCODING) == ANNDATA:
        variable = "X"
    try:
        found = node if variable is None else node.get(variable) if isinstance(variable, str) else None
    except Exception:  # noqa: BLE001 - metadata that are damaged, which opening it as an array says
        return None
    name = name if variable is None or not isinstance(variable, str) else f"{name.rstrip('/')}/{variable}"
    return (found, name) if isinstance(found, zarr.Group) and is_csr(found, name) else None


def _open_sparse(
    group: zarr.Group, name: str, options: dict[str, Any], *, allow_missing: bool, skips_bad: bool
) -> Rows:
    for option, value in options.items():
        if value is not None:
            message = f"{name} is a sparse matrix, whose columns are the features; leave {option} out"
            raise DataError(message)
    if skips_bad:
        message = f"on_bad_chunk='skip' does not go with {name}, a sparse matrix whose rows share chunks; leave it out"
        raise DataError(message)
    members = {key: _judged(f"{name}/{key}", array) for key, array in group.arrays()}
    rows = open_stored_csr(group, name, members)
    rows.allows_missing = allow_missing
    return rows


def open_arrays(
    source: Any, variable: str | Sequence[str] | None, name: str | None = None
) -> tuple[str, dict[str, zarr.Array[Any]]]:
    """Open one array, or several of a group.

    Returns
    -------
    name : str
        What messages call the array, or the group if several are named.
    arrays : dict
        The arrays by their names.
    """
    if name is None:
        source, name = _opened(source)
    if isinstance(source, zarr.Group):
        if variable is None or isinstance(variable, str):
            variable, array = _member(source, name, variable)
            whole = f"{name.rstrip('/')}/{variable}"
            return whole, {variable: _judged(whole, array)}
        return name, {key: _judged(f"{name}/{key}", _member(source, name, key)[1]) for key in variable}
    if variable is not None:
        listed = variable if isinstance(variable, str) else ", ".join(variable)
        message = f"{name} is an array, not a group; leave the variable {listed!r} out"
        raise DataError(message)
    return name, {name: _judged(name, source)}


def _judged(name: str, array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return an array whose metadata say what can be; see `check_layout`."""
    check_layout(name, array.shape, array.chunks, array.shards, array.dtype.itemsize)
    return array


def array_names(source: Any) -> list[str]:
    """Return the names of the arrays of a group; none of an array, or of what cannot be opened."""
    try:
        node = source if isinstance(source, zarr.Array | zarr.Group) else _open_path(os.fspath(source))
    except DataError:  # opening it to read says it
        return []
    try:
        return sorted(name for name, _ in node.arrays()) if isinstance(node, zarr.Group) else []
    except Exception:  # noqa: BLE001 - so does opening it of metadata that are damaged
        return []


def _open_path(path: str) -> zarr.Array[Any] | zarr.Group:
    path, scheme = split_scheme(path)
    if scheme is None and not Path(path).exists():
        message = f"there is nothing at {path}; give the path of a zarr array"
        raise DataError(message)
    if scheme is None:
        check_metadata_files(path)
    try:
        return zarr.open(store=path, mode="r", storage_options=_client_options(scheme))
    except (FileNotFoundError, zarr.errors.NodeNotFoundError) as error:
        message = f"there is no zarr array or group at {path}{_missing_bucket(path, scheme)}"
        raise DataError(message) from error
    except Exception as error:  # a store raises whatever its service makes it raise
        message = f"{path} cannot be opened ({reason(error)})"
        raise DataError(message) from error


def _client_options(scheme: str | None) -> dict[str, Any] | None:
    """Let a client of S3 have more connections than botocore's 10, or no more requests would be in flight."""
    if scheme not in ("s3", "s3a"):
        return None
    import fsspec  # noqa: PLC0415

    given = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
    return {"config_kwargs": {"max_pool_connections": _CONNECTIONS, **given}}


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
    try:
        found = None if variable is None else group.get(variable)
        if variable is not None and isinstance(found, zarr.Array):
            return variable, found
        arrays = dict(group.arrays())
    except Exception as error:  # whatever zarr makes of metadata that are damaged
        message = f"{name} cannot be opened ({reason(error)})"
        raise DataError(message) from error
    if variable is None and len(arrays) == 1:
        return next(iter(arrays.items()))
    listing = ", ".join(f"{key} {array.shape}" for key, array in sorted(arrays.items())[:20]) or "no array"
    if variable is not None:
        message = f"{name} has no array {variable!r}; it holds {listing}"
    elif arrays:
        what = "a group of several arrays; name one as the variable, or several as the features"
        message = f"{name} is {what}: {listing}"
    else:
        message = f"{name} is a group that holds no array; give the path of an array"
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


def coordinate_array(array: zarr.Array[Any], axis: int) -> zarr.Array[Any] | None:
    """Return the array of the name of a dimension beside this one, with an entry for each of its places, if any is."""
    names = dimension_names(array)
    found = None if names is None else _beside(array, names[axis])
    return found if found is not None and found.shape == (array.shape[axis],) else None


def coordinates_of(array: zarr.Array[Any], axis: int) -> NDArray[Any] | None:
    """Return the labels of a dimension, from the array of its name beside this one; None if there are none.

    Times are left out: as numbers they mean nothing without their units.
    """
    found = coordinate_array(array, axis)
    if found is None or " since " in str(found.attrs.get("units", "")):
        return None
    packed = packing_of(found, name_of(found))
    try:
        values = np.asarray(_judged(name_of(found), found)[...])
    except Exception as error:  # whatever zarr and its codecs make of a damaged file
        message = f"the coordinates {name_of(found)} cannot be read ({reason(error)})"
        raise DataError(message) from error
    values = values if packed is None else packed.decode(values)
    return values if values.dtype.kind in "biuf" else np.array([str(value) for value in values])


def _beside(array: zarr.Array[Any], name: str) -> zarr.Array[Any] | None:
    """Return an array of the same group; None if there is none, or `name` leads elsewhere."""
    if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        return None
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
    except Exception:  # noqa: BLE001 - there is none, or nothing that can be understood
        return None


def count_stored(array: zarr.Array[Any], seconds: float) -> tuple[int, int, bool]:
    """Return how many chunks (shards) of an array are in its store and how many it has, and whether all were listed.

    The listing is given up after some seconds. Empty files of a local disk are no chunks; to see the sizes of objects
    would need a request for each.
    """
    grid = chunk_counts(array.shape, array.shards or array.chunks)
    prefix = f"{array.path}/".lstrip("/")
    n_found = 0
    folder = array.store_path.store.root if isinstance(array.store_path.store, LocalStore) else None

    async def count() -> bool:
        nonlocal n_found
        deadline = time.monotonic() + seconds
        async with asyncio.timeout(seconds):
            async for key in array.store_path.store.list_prefix(prefix):
                place = _CHUNK_KEY.fullmatch(key.removeprefix(prefix))
                if place is not None:
                    numbers = [int(number) for number in re.split(r"[./]", place[1])]
                    is_chunk = len(numbers) == len(grid) and all(map(operator.lt, numbers, grid))
                    n_found += is_chunk and (folder is None or (folder / key).stat().st_size > 0)
                if time.monotonic() > deadline:  # listing a folder never lets the clock interrupt it
                    return False
        return True

    try:
        complete = sync(count())
    except TimeoutError:
        complete = False
    return n_found, math.prod(grid), complete
