"""Objects of a store below one name, written so that a reader finds all of the old or all of the new.

Object stores rename nothing, and replace one object at a time. What dem writes is a zarr array or group, and what a
reader makes of its objects is up to one of them, the ``zarr.json`` at its root (a group's has the metadata of all
its arrays): the marker. Everything else is copied before it under names that nothing else has, so that the marker
switches from the old to the new in one request. That the names of chunks differ from those of what is replaced is
seen to by zarr's two ways of naming them, by folders (``c/0/0``) and by dots (``0.0``), which take turns.
"""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from dem.data.checks import reason
from dem.errors import DataWarning, DemError, StoreError

MARKER = "zarr.json"
# The two ways of naming chunks, as zarr's ``chunk_key_encoding`` has them.
BY_FOLDERS: dict[str, Any] = {"name": "default", "separator": "/"}
BY_DOTS: dict[str, Any] = {"name": "v2", "separator": "."}
# Whose exceptions tell of a store, not of a mistake in dem, where they are not of the kind OSError.
_STORES = {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs"}


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell a URL from a path of this machine."""
    return "://" in os.fspath(path) and not os.fspath(path).startswith("file://")


def is_failure_of_store(error: BaseException) -> bool:
    """Tell whether a file system or an object store has failed."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _STORES


@contextmanager
def failures_told(path: str | os.PathLike[str], doing: str = "", *, missing: bool = False) -> Iterator[None]:
    """Turn failures of a disk or an object store into a `StoreError`: cannot write the path, or what was being done.

    What is `missing` stays a `FileNotFoundError`.
    """
    try:
        yield
    except DemError:
        raise
    except Exception as error:
        if missing and isinstance(error, FileNotFoundError):
            raise
        if not (isinstance(error, OSError) or (is_url(path) and is_failure_of_store(error))):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        message = f"cannot {doing or f'write {path}'}: {why}"
        raise StoreError(message) from error


def open_url(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the file system of a URL, which remembers no listings, and the path there.

    Raises `StoreError` if there is no such kind of URL, or the package for it is not installed.
    """
    import fsspec  # noqa: PLC0415

    try:
        filesystem, inner = fsspec.core.url_to_fs(os.fspath(path), use_listings_cache=False)
    except (ImportError, ValueError) as error:
        message = f"cannot write {path}: {reason(error)}"
        raise StoreError(message) from error
    if not inner.strip("/"):
        message = f"cannot write {path}: it names no place in the store"
        raise StoreError(message)
    return filesystem, inner.rstrip("/")


def numbered(path: str, number: int) -> str:
    """Return a path or URL beside another: ``a/model-2.zarr`` for ``a/model.zarr`` and 2."""
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return f"{folder}{slash}{stem}-{number}{dot}{suffix}" if stem else f"{path}-{number}"


class Objects:
    """Objects to be: written under a temporary name beside their own, and copied once all are there."""

    def __init__(self, path: str | os.PathLike[str], begun: str | None = None) -> None:
        self._filesystem, self._final = open_url(path)
        #: the name meanwhile
        self.name = begun or f"{self._final.rpartition('/')[2]}.{uuid4().hex}.part"
        self._inner = self._final.removesuffix(self._final.rpartition("/")[2]) + self.name
        #: where to write meanwhile
        self.path = self._url(self._inner)
        #: how the chunks of arrays must be named: otherwise than those of what is replaced
        self.chunk_names = self._free_names()
        #: whether all is under the temporary name, and stays there because it could not be copied
        self.is_whole = False
        #: whether it stays under the temporary name after an error, to be gone on with
        self.is_kept = False

    def sync(self) -> None:
        """Do nothing; an object that is there is kept."""

    def publish(self, *, overwrite: bool) -> None:
        """Copy all objects to their names.

        Raises `FileExistsError` if something has that name and may not be replaced, or was written there meanwhile,
        and `StoreError` if the store fails; that tells where all of the new is.
        """
        old = self._names(self._final)
        if (old and not overwrite) or self.chunk_names != self._free_names():
            raise FileExistsError(self._final)
        try:
            self._copy(self._final, old)
        except Exception as error:
            if not is_failure_of_store(error):
                raise
            self.is_whole = True
            message = f"cannot write {self._url(self._final)}: {reason(error)}; all of it is in {self.path}"
            raise StoreError(message) from error
        # From here on the new stands, whatever comes.
        new = self._names(self._inner)
        self._tidy(f"{self._final}/{name}" for name in old - new)
        self._tidy(f"{self._inner}/{name}" for name in new)

    def publish_beside(self) -> str:
        """Copy all objects to the first free name of its kind (``model-2.zarr``, …) and return it."""
        besides = (numbered(self._final, number) for number in itertools.count(2))
        beside = next(name for name in besides if not self._filesystem.exists(name))
        self._copy(beside, set())
        self._tidy(f"{self._inner}/{name}" for name in self._names(self._inner))
        return self._url(beside)

    def close(self) -> None:
        """Do nothing; connections are shared."""

    def _copy(self, target: str, old: set[str]) -> None:
        """Copy all objects below `target`, where `old` are: first those of other names, then the marker, then the rest.

        The rest is the metadata of arrays in a group, which its marker has too: it may still be that of the old ones.
        """
        new = self._names(self._inner)
        rest = {name for name in new & old if name.endswith(f"/{MARKER}")}
        first = sorted(new - rest - {MARKER})
        try:
            self._copy_some(first, target)
            self._copy_some([MARKER], target)
        except BaseException:
            with suppress(Exception):  # the store has failed already, and these harm nobody
                self._remove_some(f"{target}/{name}" for name in first if name not in old)
            raise
        self._copy_some(sorted(rest), target)

    def _copy_some(self, names: list[str], target: str) -> None:
        # Lists, which name each object: for a folder, fsspec would also ask for objects that stand for folders.
        self._filesystem.copy([f"{self._inner}/{name}" for name in names], [f"{target}/{name}" for name in names])

    def _tidy(self, paths: Iterable[str]) -> None:
        """Remove objects that nobody reads any more; a failure is worth a warning."""
        try:
            self._remove_some(paths)
        except Exception as error:
            if not is_failure_of_store(error):
                raise
            message = (
                f"{self._url(self._final)} is written, but objects that are no longer needed could not be removed, "
                f"there or in {self.path} ({reason(error)})"
            )
            warnings.warn(message, DataWarning, stacklevel=2)

    def _remove_some(self, paths: Iterable[str]) -> None:
        if listed := list(paths):
            self._filesystem.rm(listed)

    def _names(self, path: str) -> set[str]:
        """Return the names of all objects below a path, relative to it."""
        return {name.removeprefix(f"{path}/") for name in self._filesystem.find(path)}

    def _free_names(self) -> dict[str, Any]:
        """Return how chunks are named so that none has the name of one that is at the final path."""
        try:
            found = json.loads(self._filesystem.cat_file(f"{self._final}/{MARKER}"))
            members = (found.get("consolidated_metadata") or {}).get("metadata") or {}
            arrays = [node for node in (found, *members.values()) if node.get("node_type") == "array"]
            # Groups of earlier versions of dem do not tell; their chunks are named by folders.
            by_folders = all(array["chunk_key_encoding"]["name"] == "default" for array in arrays)
        except (AttributeError, FileNotFoundError, KeyError, RecursionError, TypeError, ValueError):  # no metadata
            return BY_FOLDERS
        return BY_DOTS if by_folders else BY_FOLDERS

    def _url(self, path: str) -> str:
        return str(self._filesystem.unstrip_protocol(path))
