"""Directories and URLs that appear under their name only when they are whole: where models and results are written."""

from __future__ import annotations

import fcntl
import glob
import itertools
import os
import platform
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zarr

from dem.data.objects import BY_FOLDERS, Objects, failures_told, is_url, numbered, open_url
from dem.errors import StoreError

__all__ = [
    "Directory",
    "check_destination",
    "destination",
    "is_draft",
    "is_in_use",
    "is_occupied",
    "is_url",
    "local_path",
    "locked",
    "numbered",
    "progress_of",
    "remove",
]

# What zarr calls files that it has not written to their end.
_PARTIAL = ".partial"
# Part of the temporary names: only on the machine that wrote it can a lock tell whether its writer is still there.
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", platform.node()) or "localhost"


def is_occupied(path: str | os.PathLike[str]) -> bool:
    """Tell whether anything is at a path or URL; raises `StoreError` if a store does not answer."""
    if not is_url(path):
        return os.path.lexists(local_path(path))
    filesystem, inner = open_url(path)
    with failures_told(path):
        return bool(filesystem.exists(inner))


def remove(path: str) -> None:
    """Remove a directory or all objects below a URL."""
    if is_url(path):
        filesystem, inner = open_url(path)
        with suppress(FileNotFoundError):
            filesystem.rm(inner, recursive=True)
    else:
        _remove(local_path(path))


def progress_of(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the folder and name, without its suffix, of what tells how far an output is; see `dem.data.unfinished`."""
    if is_url(path):
        folder, slash, name = os.fspath(path).rstrip("/").rpartition("/")
        return (f"{folder}{slash}" if folder.endswith("/") else folder), f"{name}.progress"
    final = local_path(path)
    return str(final.parent), f".{final.name}.progress"


def is_draft(path: str | os.PathLike[str], name: str) -> bool:
    """Tell whether a name, which may come from anywhere, is one that `destination` writes `path` under."""
    _, known = progress_of(path)
    return re.fullmatch(rf"{re.escape(known.removesuffix('progress'))}[\w.-]+\.part", name) is not None


def is_in_use(path: str) -> bool:
    """Tell whether a living process of this machine writes to a temporary directory."""
    if is_url(path):
        return False
    try:
        lock = locked(path)
    except BlockingIOError:
        return True
    if lock is not None:
        os.close(lock)
    return False


def check_destination(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Judge a path for output before anything is computed, and clear away what a killed process has left beside it.

    Raises `StoreError` if something is there and may not be replaced, or nothing can be written there.
    """
    if not os.fspath(path).strip():
        message = "the path to write to is empty; give a directory or URL"
        raise StoreError(message)
    if not is_url(path):
        local = local_path(path)
        _clear(local)
        parent = next(parent for parent in local.parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            message = f"cannot write {path}: {parent} is not a writable directory"
            raise StoreError(message)
    if is_occupied(path) and not overwrite:  # asks the store also where the answer does not matter, if it is there
        message = f"{path} exists already; pass overwrite=True (--overwrite) to replace it"
        raise StoreError(message)


@contextmanager
def destination(
    path: str | os.PathLike[str], *, overwrite: bool, begun: str | None = None
) -> Iterator[Directory | Objects]:
    """Let a zarr array or group be written under a temporary name, and give it its own once the block has ended.

    What was at `path` stays until then; after an error or an interrupt nothing is left of the new, unless it `is_kept`.

    Parameters
    ----------
    path : str or path-like
        Directory or URL to write.
    overwrite : bool
        Whether something at `path` may be replaced.
    begun : str, optional
        The name that an earlier process has given what it wrote, and that is gone on with.

    Yields
    ------
    Directory or Objects
        Its `path` is where to write meanwhile, its `chunk_names` the ``chunk_key_encoding`` of arrays there.

    Raises
    ------
    StoreError
        As `check_destination`, or if writing fails. If something else was written to `path` meanwhile, the whole new
        array or group stands beside it, under the name that the error has as `kept`.
    """
    check_destination(path, overwrite=overwrite)
    with failures_told(path):
        draft = Objects(path, begun) if is_url(path) else Directory(path, begun)
        try:
            yield draft
            _consolidate(draft.path)
            try:
                draft.publish(overwrite=overwrite)
            except FileExistsError as error:
                kept = draft.publish_beside()
                message = f"{path} was written by something else meanwhile; what was to be there is in {kept}"
                failure = StoreError(message)
                failure.kept = kept
                raise failure from error
        except BaseException:
            if not draft.is_whole and not draft.is_kept:
                _discard(draft.path)
            raise
        finally:
            draft.close()


def _consolidate(path: str) -> None:
    """Give the metadata of a group those of its members, so that one file or object tells all of them."""
    if isinstance(zarr.open(path, mode="r"), zarr.Group):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # readers that do not know of it find the members' own metadata
            zarr.consolidate_metadata(path)


def _discard(path: str) -> None:
    """Remove what was written, until it stays away: a thread that was interrupted may still write its chunk."""
    absent = 0
    with suppress(Exception):  # a store that has failed; what it keeps has a name that nobody reads
        for _ in range(40):
            absent = 0 if is_occupied(path) else absent + 1
            if absent == 3:
                return
            remove(path)
            time.sleep(0.05)


class Directory:
    """A directory to be: written under a temporary name beside its own, and renamed once it is whole.

    While it lives, the temporary directory is locked; one that a killed process has left is not, so that
    `check_destination` can tell the two apart. Attributes are those of `dem.data.objects.Objects`.
    """

    chunk_names = BY_FOLDERS
    is_whole = False

    def __init__(self, path: str | os.PathLike[str], begun: str | None = None) -> None:
        self._final = local_path(path)
        self._final.parent.mkdir(parents=True, exist_ok=True)
        if begun is None:
            self.path, self._lock = _new_directory(self._final)
            Path(self.path).chmod(0o755)
        else:
            self.path = str(self._final.parent / begun)
            try:
                self._lock = locked(self.path)
            except BlockingIOError:
                message = f"{path} is being written by another process; wait for it, or end it"
                raise StoreError(message) from None
        self.name, self.is_kept = Path(self.path).name, False
        self._synced: set[int] = set()

    def sync(self) -> None:
        """Bring to the disk what was written since the last time: what has its final name is never written to again."""
        for folder, _, _ in os.walk(self.path):
            fresh: list[os.DirEntry[str]] = []
            with suppress(FileNotFoundError), os.scandir(folder) as entries:  # pieces that are written anew
                fresh = [one for one in entries if not (_known(one) in self._synced or one.name.endswith(_PARTIAL))]
            for place in [one.path for one in fresh if one.is_file()] + [folder] * bool(fresh):
                with suppress(FileNotFoundError):
                    file = os.open(place, os.O_RDONLY)
                    try:
                        os.fsync(file)
                    finally:
                        os.close(file)
            self._synced.update(map(_known, fresh))

    def publish(self, *, overwrite: bool) -> None:
        """Give the directory its name; raises `FileExistsError` if something has it that may not be replaced."""
        for left in Path(self.path).rglob(f"*{_PARTIAL}"):  # in processes that were killed
            left.unlink(missing_ok=True)
        if not overwrite:
            _rename(self.path, self._final)
            return
        # A directory cannot be replaced in one step: the old one steps aside, and back if the new one fails.
        aside = Path(f"{self.path}.old")
        with suppress(FileNotFoundError):
            self._final.rename(aside)
        try:
            Path(self.path).rename(self._final)
        except OSError:
            if os.path.lexists(aside):
                aside.rename(self._final)
            raise
        _remove(aside)

    def publish_beside(self) -> str:
        """Give the directory the first free name of its kind: ``model-2.zarr``, … for ``model.zarr``; return it."""
        for number in itertools.count(2):
            beside = numbered(str(self._final), number)
            with suppress(FileExistsError):
                _rename(self.path, Path(beside))
                break
        return beside

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)


def _known(entry: os.DirEntry[str]) -> int:
    """Return what tells a file from others, and from one that has its name or number later."""
    return hash((entry.inode(), entry.name))


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of what is on a disk, be it given as a URL of a file."""
    text = os.fspath(path).removeprefix("file://")
    return Path(text.rstrip("/") or text).absolute()


def _new_directory(final: Path) -> tuple[str, int | None]:
    """Make a temporary directory and lock it; None for the lock on a file system that has none."""
    while True:
        path = tempfile.mkdtemp(prefix=f".{final.name}.{_HOST}.", suffix=".part", dir=final.parent)
        try:
            lock = locked(path)
        except BlockingIOError:  # another process was quicker, and took it for one that was left behind
            continue
        if lock is None or Path(path).exists():
            return path, lock
        os.close(lock)


def locked(path: str | os.PathLike[str]) -> int | None:
    """Return the open file that holds the lock of a directory, None where directories cannot be locked.

    Raises `BlockingIOError` if a living process holds it.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return file


def _clear(final: Path) -> None:
    """Remove what a process of this machine that was killed while it wrote `final` has left beside it.

    If it was killed between the two renames of `Directory.publish`, what was replaced gets its name back.
    """
    beside: list[Path] = []
    pattern = re.compile(rf"{re.escape(f'.{final.name}.{_HOST}.')}\w+\.part(\.old)?")
    progress = Path("{}/{}.npz".format(*progress_of(final)))
    is_kept = os.path.lexists(progress)
    if is_kept and not any(final.parent.glob(f".{glob.escape(final.name)}.*.part")):
        progress.unlink(missing_ok=True)  # of a process that was killed when all was done
    with suppress(OSError):
        beside = [entry for entry in final.parent.iterdir() if pattern.fullmatch(entry.name)]
    for path in beside:
        if path.suffix == ".old":
            if not path.with_suffix("").exists():  # it was replaced, but not yet removed
                _remove(path)
            continue
        try:
            lock = locked(path)
        except OSError:  # held by a living process, or gone
            continue
        if lock is None:
            continue
        old = Path(f"{path}.old")
        if os.path.lexists(old) and not os.path.lexists(final):
            old.rename(final)
        _remove(old)
        if not is_kept:
            _remove(path)
        os.close(lock)


def _rename(path: str, name: Path) -> None:
    """Rename a directory; raises `FileExistsError` if anything but an empty directory has the name."""
    if os.path.lexists(name):
        raise FileExistsError(name)
    try:
        Path(path).rename(name)
    except OSError as error:
        if os.path.lexists(name):  # since a moment ago
            raise FileExistsError(name) from error
        raise


def _remove(path: Path) -> None:
    """Remove whatever is at `path`, if anything is and it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
