"""A directory that is made under another name and then renamed."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

# Part of the temporary names: only on the machine that wrote it can a lock tell whether its writer is still there.
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", platform.node()) or "localhost"


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file or directory of this machine."""
    text = os.fspath(path).removeprefix("file://")
    return Path(text.rstrip("/") or text).absolute()


def numbered(path: str, number: int) -> str:
    """Return a path or URL beside another: ``a/model-2.zarr`` for ``a/model.zarr`` and 2."""
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return f"{folder}{slash}{stem}-{number}{dot}{suffix}" if stem else f"{path}-{number}"


class Directory:
    """A directory to be: written under a temporary name beside its own, and renamed once it is whole.

    While it lives, the temporary directory is locked; one that a killed process has left is not, so that `clear` can
    tell the two apart.

    Parameters
    ----------
    path : path-like
        The name that it gets in the end.

    Attributes
    ----------
    temporary : str
        Where to write meanwhile.
    by_dots, is_whole : bool
        False; see `dem.data.objects.Objects`.
    """

    by_dots = is_whole = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._final = local_path(path)
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self.temporary, self._lock = _new_directory(self._final)
        Path(self.temporary).chmod(0o755)

    def publish(self, *, overwrite: bool) -> None:
        """Give the directory its name.

        Raises
        ------
        FileExistsError
            If something has that name and may not be replaced.
        """
        if not overwrite:
            _rename(self.temporary, self._final)
            return
        # A directory cannot be replaced in one step: the old one steps aside, and back if the new one fails.
        aside = Path(f"{self.temporary}.old")
        with suppress(FileNotFoundError):
            self._final.rename(aside)
        try:
            Path(self.temporary).rename(self._final)
        except OSError:
            if os.path.lexists(aside):
                aside.rename(self._final)
            raise
        _remove(aside)

    def publish_beside(self) -> str:
        """Give the directory the first free name of its kind: ``model-2.zarr``, … for ``model.zarr``; return it."""
        number = 2
        while True:
            beside = numbered(str(self._final), number)
            try:
                _rename(self.temporary, Path(beside))
            except FileExistsError:
                number += 1
            else:
                return beside

    def remove(self) -> None:
        """Remove what was written so far."""
        shutil.rmtree(self.temporary, ignore_errors=True)

    def is_there(self) -> bool:
        """Whether anything is left under the temporary name."""
        return Path(self.temporary).exists()

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)


def _new_directory(final: Path) -> tuple[str, int | None]:
    """Make a temporary directory and lock it; None for the lock on a file system that has none."""
    while True:
        path = tempfile.mkdtemp(prefix=f".{final.name}.{_HOST}.", suffix=".part", dir=final.parent)
        try:
            lock = _locked(path)
        except BlockingIOError:  # another process was quicker, and took it for one that was left behind
            continue
        if lock is None or Path(path).exists():
            return path, lock
        os.close(lock)


def _locked(path: str | os.PathLike[str]) -> int | None:
    """Lock a directory; return the open file that holds the lock, or None where directories cannot be locked.

    Raises
    ------
    BlockingIOError
        If a living process holds it.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    except OSError:
        os.close(file)
        return None
    return file


def clear(final: Path) -> None:
    """Remove what a process of this machine that was killed while it wrote `final` has left beside it.

    If it was killed between the two renames of `Directory.publish`, what was replaced gets its name back.
    """
    beside: list[Path] = []
    pattern = re.compile(rf"{re.escape(f'.{final.name}.{_HOST}.')}\w+\.part(\.old)?")
    with suppress(OSError):
        beside = [entry for entry in final.parent.iterdir() if pattern.fullmatch(entry.name)]
    for path in beside:
        if path.suffix == ".old":
            if not path.with_suffix("").exists():  # it was replaced, but not yet removed
                _remove(path)
            continue
        try:
            lock = _locked(path)
        except OSError:  # held by a living process, or gone
            continue
        if lock is None:
            continue
        old = Path(f"{path}.old")
        if os.path.lexists(old) and not os.path.lexists(final):
            old.rename(final)
        _remove(old)
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
