"""Zarr groups that appear under their name only when they are whole: where models and results are written."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.errors import StoreError


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell a URL from a path of this machine."""
    return "://" in os.fspath(path) and not os.fspath(path).startswith("file://")


def check_destination(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Judge a path for output before anything is computed.

    Raises
    ------
    StoreError
        If something is there and may not be replaced, or nothing can be written there.
    """
    if is_url(path):
        filesystem, inner = _remote(path)
        occupied = filesystem.exists(inner)
    else:
        local = _local(path)
        occupied = local.exists() or local.is_symlink()
        parent = _existing_parent(local)
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            message = f"cannot write {path}: {parent} is not a writable directory"
            raise StoreError(message)
    if occupied and not overwrite:
        message = f"{path} exists already; pass overwrite=True (--overwrite) to replace it"
        raise StoreError(message)


@contextmanager
def destination(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[str]:
    """Yield a temporary path next to `path`, and rename it to `path` once the block ends without an error.

    What was at `path` stays until then; after an error or an interrupt nothing is left of the new.

    Parameters
    ----------
    path : str or path-like
        Directory or URL to write.
    overwrite : bool
        Whether something at `path` may be replaced.

    Yields
    ------
    str
        Where to write meanwhile.

    Raises
    ------
    StoreError
        As `check_destination`, or if writing fails.
    """
    check_destination(path, overwrite=overwrite)
    place = _RemotePlace(path) if is_url(path) else _LocalPlace(path)
    try:
        yield place.temporary
        place.publish()
    except OSError as error:
        place.discard()
        if isinstance(error, StoreError):
            raise
        message = f"cannot write {path}: {error.strerror or error}"
        raise StoreError(message) from error
    except BaseException:
        place.discard()
        raise


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
    import zarr  # noqa: PLC0415

    with destination(path, overwrite=overwrite) as temporary:
        checksums = {name: _checksum(array) for name, array in arrays.items()}
        group = zarr.create_group(store=temporary, attributes=_json({**attributes, "sha256": checksums}))
        for name, array in arrays.items():
            group.create_array(name, data=np.ascontiguousarray(array), chunks=array.shape or "auto")


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
    import zarr  # noqa: PLC0415

    try:
        group = zarr.open_group(os.fspath(path), mode="r")
        arrays = {
            name: np.asarray(member[...])
            for name, member in group.members(max_depth=2)
            if isinstance(member, zarr.Array)
        }
        attributes = group.attrs.asdict()
    except FileNotFoundError as error:
        message = f"there is no model at {path}"
        raise StoreError(message) from error
    except Exception as error:  # zarr and its codecs raise whatever a damaged file makes them raise
        message = f"the model at {path} cannot be read ({type(error).__name__}: {_first_line(error)})"
        raise StoreError(message) from error
    # zarr reads a chunk that is missing as zeros; the checksums notice.
    checksums: Any = attributes.pop("sha256", {})
    for name, checksum in checksums.items():
        if name not in arrays or _checksum(arrays[name]) != checksum:
            message = f"the model at {path} is damaged: its array {name!r} is not what was saved"
            raise StoreError(message)
    return arrays, _from_json(attributes)


class _LocalPlace:
    """A directory that is made under another name and then renamed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._final = _local(path)
        try:
            self._final.parent.mkdir(parents=True, exist_ok=True)
            self.temporary = tempfile.mkdtemp(prefix=f".{self._final.name}.", suffix=".part", dir=self._final.parent)
            Path(self.temporary).chmod(0o755)
        except OSError as error:
            message = f"cannot write {path}: {error.strerror or error}"
            raise StoreError(message) from error

    def publish(self) -> None:
        """Give the directory its name."""
        if not (self._final.exists() or self._final.is_symlink()):
            Path(self.temporary).rename(self._final)
            return
        # A directory cannot be replaced in one step: the old one steps aside, and back if the new one fails.
        aside = Path(f"{self.temporary}.old")
        self._final.rename(aside)
        try:
            Path(self.temporary).rename(self._final)
        except OSError:
            aside.rename(self._final)
            raise
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        else:
            aside.unlink()

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self.temporary, ignore_errors=True)


class _RemotePlace:
    """A prefix of an object store; its objects are moved one by one, for stores rename nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._filesystem, self._final = _remote(path)
        name = f"{self._final.rstrip('/')}.{uuid.uuid4().hex}.part"
        self._temporary_inner = name
        self.temporary = self._filesystem.unstrip_protocol(name)

    def publish(self) -> None:
        """Move all objects to their names."""
        if self._filesystem.exists(self._final):
            self._filesystem.rm(self._final, recursive=True)
        self._filesystem.mv(self._temporary_inner, self._final, recursive=True)

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(FileNotFoundError):
            self._filesystem.rm(self._temporary_inner, recursive=True)


def _local(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path).removeprefix("file://")
    return Path(text.rstrip("/") or text).absolute()


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())


def _remote(path: str | os.PathLike[str]) -> tuple[Any, str]:
    import fsspec  # noqa: PLC0415

    try:
        filesystem, inner = fsspec.core.url_to_fs(os.fspath(path))
    except (ImportError, ValueError) as error:
        message = f"cannot write {path}: {_first_line(error)}"
        raise StoreError(message) from error
    return filesystem, inner


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


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
