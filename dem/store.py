"""Zarr groups of arrays and JSON attributes with checksums: how models are written and read."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from dem.data.atomic import destination
from dem.data.checks import reason
from dem.errors import StoreError


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write a zarr group of arrays and JSON attributes, whole or not at all.

    Parameters
    ----------
    path : str or path-like
        Directory or URL.
    arrays : mapping of str to ndarray
        By their names within the group; a name may have a group in front (``options/means_init``).
    attributes : mapping
        Anything that JSON can hold; floats that are not finite are kept as ``{"not finite": …}``.
    overwrite : bool
        Whether something at `path` may be replaced.
    """
    with destination(path, overwrite=overwrite) as draft:
        checksums = {name: _checksum(array) for name, array in arrays.items()}
        group = zarr.create_group(store=draft.path, attributes=_json({**attributes, "sha256": checksums}))
        for name, array in arrays.items():
            group.create_array(
                name,
                data=np.ascontiguousarray(array),
                chunks=array.shape or "auto",
                chunk_key_encoding=draft.chunk_names,
            )


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `write` wrote.

    Returns
    -------
    arrays : dict of str to ndarray
    attributes : dict

    Raises
    ------
    StoreError
        If there is no zarr group at `path` or it cannot be read.
    """
    try:
        group = zarr.open_group(os.fspath(path), mode="r")
        arrays = {
            name: np.asarray(member[...])
            for name, member in group.members(max_depth=2)
            if isinstance(member, zarr.Array)
        }
        attributes = group.attrs.asdict()
    except zarr.errors.ContainsArrayError as error:
        message = f"{path} is an array, not a model"
        raise StoreError(message) from error
    except FileNotFoundError as error:
        message = f"there is no model at {path}"
        raise StoreError(message) from error
    except Exception as error:  # zarr and its codecs raise whatever a damaged file makes them raise
        message = f"the model at {path} cannot be read ({reason(error)})"
        raise StoreError(message) from error
    # zarr reads a chunk that is missing as zeros; the checksums notice.
    checksums: Any = attributes.pop("sha256", {})
    if not isinstance(checksums, dict) or ("format" in attributes and not checksums):
        message = f"the model at {path} is damaged: its checksums are {checksums!r}"
        raise StoreError(message)
    if "format" in attributes and (unknown := sorted(arrays.keys() - checksums.keys())):
        message = f"the model at {path} is damaged: there is no checksum of its array {unknown[0]!r}"
        raise StoreError(message)
    for name, checksum in checksums.items():
        if name not in arrays or _checksum(arrays[name]) != checksum:
            message = f"the model at {path} is damaged: its array {name!r} is not what was saved"
            raise StoreError(message)
    return arrays, _from_json(attributes)


def _checksum(array: NDArray[Any]) -> str:
    little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return hashlib.sha256(little_endian.tobytes()).hexdigest()


def _json(value: Any) -> Any:
    """Return `value` as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, np.generic):
        return _json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return {"not finite": str(value)}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"not finite"}:
            return float(value["not finite"])
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return value
