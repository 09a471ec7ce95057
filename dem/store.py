"""Zarr groups of arrays and JSON attributes with checksums: how models are written and read."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import psutil
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from dem.data.atomic import destination
from dem.data.bounded import MOST_METADATA, open_store, value_of
from dem.data.checks import reason
from dem.errors import StoreError
from dem.units import human_bytes

#: bytes of arrays up to which they are compressed, so that of larger ones the size tells how much they take in memory
COMPRESSED = 256 * 2**20
# How much larger than stored are arrays beyond that, which earlier versions of dem compressed too.
_MOST_TIMES = 1000
_METADATA = "zarr.json"
_MOST_NODES = 1000
# An array, which may be in a group.
_NAME = re.compile(r"\w[\w.]*(/\w[\w.]*)?")


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
        is_large = sum(array.nbytes for array in arrays.values()) > COMPRESSED
        for name, array in arrays.items():
            group.create_array(
                name,
                data=np.ascontiguousarray(array),
                chunks=array.shape or "auto",
                compressors=None if is_large else ZstdCodec(),
                chunk_key_encoding=draft.chunk_names,
                config={"write_empty_chunks": True},
            )


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `write` wrote. It may be anybody's: all of it is judged before memory is taken for it.

    Returns
    -------
    arrays : dict of str to ndarray
    attributes : dict

    Raises
    ------
    StoreError
        If there is no zarr group at `path`, it cannot be read, or is nothing that `write` could have written.
    """
    try:
        arrays, attributes = _read(open_store(path))
        checksums: Any = attributes.pop("sha256", {})
        attributes = _from_json(attributes)
    except FileNotFoundError as error:
        message = f"there is no model at {path}"
        raise StoreError(message) from error
    except Exception as error:  # zarr and its codecs raise whatever a damaged file makes them raise
        why = str(error) if type(error) is ValueError else reason(error)
        message = f"the model at {path} cannot be read ({why})"
        raise StoreError(message) from error
    # A chunk that is missing counts as zeros; the checksums notice.
    if not isinstance(checksums, dict) or ("format" in attributes and not checksums):
        message = f"the model at {path} is damaged: its checksums are {str(checksums)[:80]}"
        raise StoreError(message)
    if "format" in attributes and (unknown := sorted(arrays.keys() - checksums.keys())):
        message = f"the model at {path} is damaged: there is no checksum of its array {unknown[0]!r}"
        raise StoreError(message)
    for name, checksum in checksums.items():
        if name not in arrays or _checksum(arrays[name]) != checksum:
            message = f"the model at {path} is damaged: its array {name[:80]!r} is not what was saved"
            raise StoreError(message)
    return arrays, attributes


def _read(store: Store) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and attributes of a group; raises `FileNotFoundError` if there is none, and other errors."""
    (found,) = _values(store, {_METADATA: MOST_METADATA})
    if found is None:
        raise FileNotFoundError
    group = json.loads(found)
    if group["node_type"] != "group":
        message = "it is an array, not a model"
        raise ValueError(message)
    attributes = group.get("attributes", {})
    # Nothing is listed. A group that `write` has not finished has no metadata of its arrays; the checksums name them.
    nodes = (group.get("consolidated_metadata") or {}).get("metadata") or dict.fromkeys(attributes.get("sha256", {}))
    if len(nodes) > _MOST_NODES:
        message = f"it has {len(nodes)} arrays and groups, a model at most {_MOST_NODES}"
        raise ValueError(message)
    for name in nodes:
        if not _NAME.fullmatch(name):
            message = f"{name[:80]!r} is no name of an array"
            raise ValueError(message)
    apart = {f"{name}/{_METADATA}": MOST_METADATA for name, node in nodes.items() if node is None}
    texts = dict(zip(apart, _values(store, apart), strict=True))
    arrays = []
    for name, node in nodes.items():
        if node is not None and node["node_type"] == "array":
            arrays.append(_Stored.of(name, json.dumps(node).encode()))
        elif (text := texts.get(f"{name}/{_METADATA}")) is not None:
            arrays.append(_Stored.of(name, text))
    needed, memory = sum(array.n_bytes for array in arrays), psutil.virtual_memory().total
    if needed > memory:
        message = f"its arrays take {human_bytes(needed)}, this machine has {human_bytes(memory)}"
        raise ValueError(message)
    for array, chunk in zip(arrays, _values(store, {array.key: array.most for array in arrays}), strict=True):
        array.put(chunk)
    n_stored = sum(array.n_stored for array in arrays)
    if needed > max(COMPRESSED, _MOST_TIMES * n_stored):
        message = f"its arrays take {human_bytes(needed)}, and {human_bytes(n_stored)} of them are stored"
        raise ValueError(message)
    return {array.name: np.asarray(array.array[...]) for array in arrays}, attributes


def _values(store: Store, keys: Mapping[str, int]) -> list[bytes | None]:
    """Return values of a store, each of so many bytes at most; None where there is none."""

    async def read() -> list[bytes | None]:
        return await asyncio.gather(*(value_of(store, key, most) for key, most in keys.items()))

    found: list[bytes | None] = sync(read())
    return found


@dataclass(frozen=True)
class _Stored:
    """An array of a model file, whose metadata have been judged, in a store of its own in memory."""

    name: str
    array: zarr.Array[Any]
    values: dict[str, Buffer]
    is_compressed: bool

    @classmethod
    def of(cls, name: str, metadata: bytes) -> Self:
        """Judge the metadata of an array; raises `ValueError` unless `write` could have written them."""
        values = {_METADATA: default_buffer_prototype().buffer.from_bytes(metadata)}
        array = zarr.open_array(store=MemoryStore(values), mode="r", zarr_format=3)
        described: Any = array.metadata.to_dict()
        codecs = [codec["name"] for codec in described["codecs"]]
        if array.dtype.kind not in "biuf" or codecs not in (["bytes"], ["bytes", "zstd"]):
            message = f"its array {name!r} holds {array.dtype} behind the codecs {', '.join(codecs)}, as no model does"
            raise ValueError(message)
        if array.chunks != array.shape:
            message = f"its array {name!r} of shape {array.shape} is in chunks of shape {array.chunks}, not in one"
            raise ValueError(message)
        return cls(name, array, values, is_compressed=len(codecs) > 1)

    @property
    def n_bytes(self) -> int:
        """Size in memory."""
        return math.prod(self.array.shape) * self.array.dtype.itemsize

    @property
    def n_stored(self) -> int:
        """Size of its chunk, as it is stored."""
        return sum(len(value) for key, value in self.values.items() if key != _METADATA)

    @property
    def key(self) -> str:
        """Where its only chunk is."""
        return f"{self.name}/{self._chunk}"

    @property
    def most(self) -> int:
        """How large its chunk can be: Zstandard makes n + n/256 + 64 bytes of n (ZSTD_COMPRESSBOUND) and a checksum."""
        return self.n_bytes + self.n_bytes // 256 + 68

    @property
    def _chunk(self) -> str:
        return self.array.metadata.encode_chunk_key((0,) * self.array.ndim)

    def put(self, chunk: bytes | None) -> None:
        """Take the chunk; raises `ValueError` if it would become more than the array when it is decoded."""
        if chunk is None:
            return
        if self.is_compressed and (found := _n_decoded(chunk)) != self.n_bytes:
            message = f"its array {self.name!r} takes {self.n_bytes} bytes, its chunk would take {found}"
            raise ValueError(message)
        self.values[self._chunk] = default_buffer_prototype().buffer.from_bytes(chunk)


def _n_decoded(frame: bytes) -> int:
    """Return how many bytes a Zstandard frame says that it becomes, −1 if it does not say (RFC 8878, section 3.1.1)."""
    if frame[:4] != b"\x28\xb5\x2f\xfd" or len(frame) < 5:
        return -1
    whole, kind = frame[4] >> 5 & 1, frame[4] >> 6
    first = 6 - whole + (0, 1, 2, 4)[frame[4] & 3]  # behind the size of the window, and the number of a dictionary
    length = (whole, 2, 4, 8)[kind]
    return int.from_bytes(frame[first : first + length], "little") + 256 * (kind == 1) if length else -1


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
