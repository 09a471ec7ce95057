"""Directories and URLs that appear under their name only when they are whole: where models and results are written."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import zarr

from dem.data.checks import reason
from dem.data.directory import Directory, clear, local_path, numbered
from dem.data.objects import Objects, is_failure_of_store, is_url, open_url
from dem.errors import DemError, StoreError

__all__ = ["Draft", "check_destination", "destination", "is_occupied", "is_url", "numbered", "remove"]


@dataclass(frozen=True)
class Draft:
    """What is being written.

    Attributes
    ----------
    path : str
        Where, until it is whole.
    by_dots : bool
        Whether the chunks of its arrays must be named with dots; see `dem.data.objects`.
    """

    path: str
    by_dots: bool = False

    @property
    def chunk_names(self) -> Any:
        """The ``chunk_key_encoding`` with which its arrays must be created."""
        return {"name": "v2", "separator": "."} if self.by_dots else {"name": "default", "separator": "/"}


def is_occupied(path: str | os.PathLike[str]) -> bool:
    """Tell whether anything is at a path or URL; raises `StoreError` if a store does not answer."""
    if not is_url(path):
        return os.path.lexists(local_path(path))
    filesystem, inner = open_url(path)
    with _failures_told(path):
        return bool(filesystem.exists(inner))


def check_destination(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Judge a path for output before anything is computed, and clear away what a killed process has left beside it.

    Raises
    ------
    StoreError
        If something is there and may not be replaced, or nothing can be written there.
    """
    if not os.fspath(path).strip():
        message = "the path to write to is empty; give a directory or URL"
        raise StoreError(message)
    if not is_url(path):
        local = local_path(path)
        clear(local)
        parent = next(parent for parent in local.parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            message = f"cannot write {path}: {parent} is not a writable directory"
            raise StoreError(message)
    if is_occupied(path) and not overwrite:  # asks the store also where the answer does not matter, if it is there
        message = f"{path} exists already; pass overwrite=True (--overwrite) to replace it"
        raise StoreError(message)


@contextmanager
def destination(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Draft]:
    """Let a zarr array or group be written under a temporary name, and give it its own once the block has ended.

    What was at `path` stays until then; after an error or an interrupt nothing is left of the new.

    Parameters
    ----------
    path : str or path-like
        Directory or URL to write.
    overwrite : bool
        Whether something at `path` may be replaced.

    Yields
    ------
    Draft
        Where and how to write meanwhile.

    Raises
    ------
    StoreError
        As `check_destination`, or if writing fails. If something else was written to `path` meanwhile, the whole new
        array or group stands beside it, under the name that the error has as `kept`.
    """
    check_destination(path, overwrite=overwrite)
    with _failures_told(path):
        place = Objects(path) if is_url(path) else Directory(path)
        try:
            yield Draft(place.temporary, place.by_dots)
            _consolidate(place.temporary)
            try:
                place.publish(overwrite=overwrite)
            except FileExistsError as error:
                kept = place.publish_beside()
                message = f"{path} was written by something else meanwhile; what was to be there is in {kept}"
                failure = StoreError(message)
                failure.kept = kept
                raise failure from error
        except BaseException:
            if not place.is_whole:
                _discard(place)
            raise
        finally:
            place.close()


@contextmanager
def _failures_told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn failures of a disk or an object store into a `StoreError` that names the path."""
    try:
        yield
    except DemError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or (is_url(path) and is_failure_of_store(error))):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        message = f"cannot write {path}: {why}"
        raise StoreError(message) from error


def _consolidate(path: str) -> None:
    """Give the metadata of a group those of its members, so that one file or object tells all of them."""
    if isinstance(zarr.open(path, mode="r"), zarr.Group):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # readers that do not know of it find the members' own metadata
            zarr.consolidate_metadata(path)


def _discard(place: Directory | Objects) -> None:
    """Remove what was written, until it stays away: a thread that was interrupted may still write its chunk."""
    absent = 0
    with suppress(Exception):  # a store that has failed; what it keeps has a name that nobody reads
        for _ in range(40):
            absent = 0 if place.is_there() else absent + 1
            if absent == 3:
                return
            place.remove()
            time.sleep(0.05)


def remove(path: str) -> None:
    """Remove a directory or all objects below a URL."""
    if is_url(path):
        filesystem, inner = open_url(path)
        with suppress(FileNotFoundError):
            filesystem.rm(inner, recursive=True)
    else:
        shutil.rmtree(local_path(path), ignore_errors=True)
