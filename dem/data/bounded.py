"""Stores that may be anybody's: what they say of themselves is judged, and no value is read beyond what it may have."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore

from dem.data.base import chunk_counts
from dem.data.checks import split_scheme
from dem.errors import DataError
from dem.units import human_bytes

#: bytes of metadata of an array or group
MOST_METADATA = 256 * 2**20
# No store holds more objects: listing them would take weeks.
_MOST_CHUNKS = 10**9
# In a shard, whose index has 16 bytes for each.
_MOST_INSIDE = 2**26

# In memory, of a chunk.
_MOST_BYTES = 2**50


def check_layout(
    name: str, shape: Sequence[int], chunks: Sequence[int], shards: Sequence[int] | None, itemsize: int
) -> None:
    """Judge what an array says of itself, before anything is computed from it.

    Parameters
    ----------
    name : str
        What messages call it.
    shape, chunks, shards : sequence of int
    itemsize : int
        Bytes of an element.

    Raises
    ------
    DataError
        If its chunks are empty, there are more of them than there can be, or one would fit in no machine.
    """
    outer = shards or chunks
    if min(chunks, default=1) < 1:
        message = f"{name} says that its chunks have the shape {tuple(chunks)}; its metadata are damaged"
        raise DataError(message)
    if (n_chunks := math.prod(chunk_counts(shape, outer))) > _MOST_CHUNKS:
        message = f"{name} says that it is in {n_chunks:.1e} chunks, as no store is; its metadata are damaged"
        raise DataError(message)
    if (n_inside := math.prod(a // b for a, b in zip(outer, chunks, strict=True))) > _MOST_INSIDE:
        message = f"{name} says that its shards hold {n_inside:.1e} chunks each; write it in shards of fewer chunks"
        raise DataError(message)
    if (n_bytes := math.prod(chunks) * itemsize) > _MOST_BYTES:
        message = (
            f"{name} says that each chunk takes {human_bytes(n_bytes)}, as no machine has; write it in smaller ones"
        )
        raise DataError(message)


def check_metadata_files(path: str | os.PathLike[str]) -> None:
    """See that what tells of zarr at a path of this machine are files, of which nobody waits for bytes without end.

    Raises
    ------
    DataError
        If they are pipes or devices, or links to such, or longer than metadata are.
    """
    for name in ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"):
        place = Path(path) / name
        try:
            found = place.stat()
        except OSError:  # there is none
            continue
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_METADATA:
            what = f"is longer than {human_bytes(MOST_METADATA)}" if stat.S_ISREG(found.st_mode) else "is no plain file"
            message = f"{path} cannot be opened: its {name} {what}"
            raise DataError(message)


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open the store at a path or URL for reading; nothing is read yet."""
    path, scheme = split_scheme(os.fspath(path))
    return LocalStore(path, read_only=True) if scheme is None else FsspecStore.from_url(path, read_only=True)


async def value_of(store: Store, key: str, most: int) -> bytes | None:
    """Read a value; None if there is none.

    Raises
    ------
    ValueError
        If it has more than `most` bytes, of which no more are read, or is no plain file: a link may lead anywhere, and
        a device or a pipe has no end.
    """
    wanted = most + 1
    if isinstance(store, LocalStore):  # which takes memory for all that is asked for
        length = _length(store.root, key)
        if length is None:
            return None
        _check_length(key, length, most)
        wanted = length
    value = await store.get(key, default_buffer_prototype(), RangeByteRequest(0, wanted))
    if value is None:
        return None
    _check_length(key, len(value), most)
    return value.to_bytes()


def _check_length(key: str, length: int, most: int) -> None:
    if length > most:
        message = f"{key} is longer than the {most} bytes that it may have"
        raise ValueError(message)


def _length(root: Path, key: str) -> int | None:
    """Return the length of a plain file; None if there is nothing.

    Raises `ValueError` if it is something else, or the way to it below `root` has a link.
    """
    place = root
    for part in key.split("/"):
        place /= part
        try:
            found = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(found.st_mode):
            message = f"{place} is a symbolic link; put what it leads to in its place (cp -rL)"
            raise ValueError(message)
    if not stat.S_ISREG(found.st_mode):
        message = f"{place} is no plain file"
        raise ValueError(message)
    return found.st_size
