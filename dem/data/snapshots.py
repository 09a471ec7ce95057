"""Folders of snapshots: values in NumPy archives (``.npz``), each of which appears whole or not at all.

A snapshot is one file or object. Beside its arrays, which `numpy.load` reads, it has their shape as JSON
(`dem.packing`). On disk it is written under another name, brought to the disk and renamed; an object appears with its
last byte by itself. The table of contents of an archive is at its end, so that also where a store breaks that promise,
what is not whole is no archive, and checksums tell of the rest.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dem.data.atomic import local_path, locked
from dem.data.checks import reason
from dem.data.objects import failures_told, is_url, open_url
from dem.errors import StoreError
from dem.packing import pack, unpack

SUFFIX = ".npz"
# The member of an archive that holds JSON.
_SHAPE = "shape"
# A file system may compress; more than so many bytes are not so many times as large as what is stored of them.
_LARGE, _MOST_SAVED = 2**24, 100


class Snapshots:
    """A folder of snapshots, here or in an object store.

    Parameters
    ----------
    path : str or path-like
        Directory or URL. It is made with the first snapshot.
    packages : collection of str
        Whose dataclasses a snapshot may hold.
    """

    def __init__(self, path: str | os.PathLike[str], packages: Collection[str] = ("dem",)) -> None:
        self.path = os.fspath(path)
        self._packages = packages
        self._filesystem: Any = None
        if is_url(path):
            self._filesystem, self._inner = open_url(path)
        else:
            self._inner = str(local_path(path))
        #: the same wherever this process goes
        self.place = self.path if self._filesystem is not None else self._inner

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes away, where the folder is on a disk that has locks.

        Raises
        ------
        StoreError
            If another process holds the folder.
        """
        if self._filesystem is not None:
            yield
            return
        with self._told("write"):
            if os.path.lexists(self._inner) and not Path(self._inner).is_dir():
                message = f"the checkpoint {self.path} would be a folder, but a file is there; give another path"
                raise StoreError(message)
            Path(self._inner).mkdir(parents=True, exist_ok=True)
            try:
                lock = locked(self._inner)
            except BlockingIOError:
                message = f"the checkpoint {self.path} is in use by another process"
                raise StoreError(message) from None
            if lock is not None:
                self._remove_drafts()
        try:
            yield
        finally:
            if lock is not None:
                os.close(lock)
            with suppress(OSError):  # it is not empty, but for a fit that was refused
                Path(self._inner).rmdir()

    def names(self) -> list[str]:
        """Return the names of all that is there, sorted."""
        with self._told("read"):
            if self._filesystem is None:
                folder = Path(self._inner)
                return sorted(entry.name for entry in folder.iterdir()) if os.path.lexists(folder) else []
            with suppress(FileNotFoundError):
                return sorted(str(name).rpartition("/")[2] for name in self._filesystem.ls(self._inner, detail=False))
            return []

    def write(self, name: str, value: Any) -> None:
        """Write a snapshot; it is on the disk, or in the store, when this returns.

        Raises
        ------
        StoreError
            If it cannot be written; what was there under that name still is.
        """
        shape, arrays = pack(value)
        members = {str(number): array for number, array in enumerate(arrays)}
        members[_SHAPE] = np.frombuffer(json.dumps(shape).encode(), np.uint8)

        def fill(file: IO[bytes]) -> None:
            with zipfile.ZipFile(file, "w") as archive:
                for member, array in members.items():
                    with archive.open(f"{member}.npy", "w", force_zip64=True) as stream:
                        npy.write_array(stream, array, version=(1, 0), allow_pickle=False)

        with self._told("write"):
            if self._filesystem is None:
                self._write_file(name + SUFFIX, fill)
            else:
                with tempfile.NamedTemporaryFile(prefix="dem-snapshot-") as file:
                    fill(file)
                    file.flush()
                    self._filesystem.put_file(file.name, f"{self._inner}/{name}{SUFFIX}")

    def read(self, name: str) -> Any:
        """Return the value of a snapshot.

        Raises
        ------
        FileNotFoundError
            If there is none.
        StoreError
            If it is damaged, or cannot be read.
        """
        with self._told("read", missing=True):
            place = f"{self._inner}/{name}{SUFFIX}"
            if self._filesystem is None:
                with open(place, "rb", opener=_open_plain_file) as file:
                    return self._read(name, file)
            with self._filesystem.open(place, "rb") as file:
                return self._read(name, io.BytesIO(file.read()))

    def remove(self, name: str) -> None:
        """Remove a snapshot, if it is there."""
        with self._told("write"), suppress(FileNotFoundError):
            if self._filesystem is None:
                Path(self._inner, name + SUFFIX).unlink()
            else:
                self._filesystem.rm_file(f"{self._inner}/{name}{SUFFIX}")

    def clear(self, last: str = "") -> None:
        """Remove all snapshots, one of them as the last, and the folder if nothing else is in it."""
        names = [name.removesuffix(SUFFIX) for name in self.names() if name.endswith(SUFFIX)]
        for name in sorted(names, key=last.__eq__):
            self.remove(name)
        if self._filesystem is None and os.path.lexists(self._inner):
            self._remove_drafts()
            with suppress(OSError):
                Path(self._inner).rmdir()

    def _told(self, verb: str, *, missing: bool = False) -> AbstractContextManager[None]:
        return failures_told(self.path, f"{verb} the checkpoint {self.path}", missing=missing)

    def _remove_drafts(self) -> None:
        """Remove what processes that were killed have left."""
        for draft in Path(self._inner).glob(f".*{SUFFIX}.*.part"):
            draft.unlink(missing_ok=True)

    def _read(self, name: str, file: IO[bytes]) -> Any:
        try:
            n_bytes = file.seek(0, os.SEEK_END)
            _check_holes(file, n_bytes)
            with zipfile.ZipFile(file) as archive:
                _check_sizes(archive, n_bytes)
                members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
                shape = json.loads(_array(archive, members.pop(_SHAPE)).tobytes())
                arrays = [_array(archive, members[str(number)]) for number in range(len(members))]
            return unpack(shape, arrays, self._packages)
        except Exception as error:  # `zipfile` and NumPy raise whatever a damaged file makes them raise
            if (
                isinstance(error, OSError) and error.errno != errno.EINVAL
            ):  # the disk has failed, not a seek in the file
                raise
            message = f"the snapshot {name}{SUFFIX} in {self.path} is damaged ({reason(error)})"
            raise StoreError(message) from error

    def _write_file(self, name: str, fill: Callable[[IO[bytes]], None]) -> None:
        folder = Path(self._inner)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{name}.{os.getpid()}.part"
        try:
            draft.unlink(missing_ok=True)
            with draft.open("xb") as file:  # where others may write too, it must be no link of theirs
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(folder / name)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        entries = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entries)  # that the name is there too after a power cut
        finally:
            os.close(entries)


def _open_plain_file(path: str, flags: int) -> int:
    """Open a file for reading; a pipe, for which one would wait, or a device without end is an `OSError`."""
    file = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no plain file", path)
    return file


def _check_sizes(archive: zipfile.ZipFile, n_bytes: int) -> None:
    """Raise `ValueError` if members lie in one another: as many as one likes would fit into a small file."""
    if sum(member.compress_size for member in archive.infolist()) > n_bytes:
        message = f"its members take more than the {n_bytes} bytes of the file"
        raise ValueError(message)


def _check_holes(file: IO[bytes], n_bytes: int) -> None:
    """Raise `ValueError` if a file is large by its holes alone: reading it would take memory that nobody filled."""
    if n_bytes > _LARGE and not isinstance(file, io.BytesIO):
        stored = 512 * os.fstat(file.fileno()).st_blocks
        if stored * _MOST_SAVED < n_bytes:
            message = f"of its {n_bytes} bytes {stored} are stored"
            raise ValueError(message)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Read an array, for which no more memory is taken than the archive has bytes for it.

    Raises
    ------
    ValueError
        If it is compressed, is of Python objects, or its header tells of another size.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        message = f"{member.filename} is compressed"
        raise ValueError(message)
    raw = archive.read(member)
    stream = io.BytesIO(raw)
    npy.read_magic(stream)
    shape, by_columns, dtype = npy.read_array_header_1_0(stream)
    if dtype.hasobject:
        message = f"{member.filename} holds Python objects"
        raise ValueError(message)
    flat = np.frombuffer(raw, dtype, offset=stream.tell()).copy()
    return flat.reshape(shape, order="F" if by_columns else "C")
