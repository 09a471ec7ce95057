"""Values of stores that may be anybody's: of plain files only, and never more of one than it may be long."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore

from dem.data.checks import split_scheme


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
