"""Directories and URLs that appear under their name only when they are whole: where models and results are written."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dem.data.checks import reason
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
    if not os.fspath(path).strip():
        message = "the path to write to is empty; give a directory or URL"
        raise StoreError(message)
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
        """Remove what was written, until it stays away: a thread that was interrupted may still write its chunk."""
        absent = 0
        for _ in range(40):
            absent = 0 if Path(self.temporary).exists() else absent + 1
            if absent == 3:
                return
            shutil.rmtree(self.temporary, ignore_errors=True)
            time.sleep(0.05)


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
        message = f"cannot write {path}: {reason(error)}"
        raise StoreError(message) from error
    return filesystem, inner


def remove(path: str) -> None:
    """Remove a directory or all objects below a URL."""
    if is_url(path):
        filesystem, inner = _remote(path)
        with suppress(FileNotFoundError):
            filesystem.rm(inner, recursive=True)
    else:
        shutil.rmtree(_local(path), ignore_errors=True)
