"""What tells how far an output is that is being written: of which job it is, where its draft is, what is done."""

from __future__ import annotations

import glob
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.atomic import is_draft, is_occupied, is_url, progress_of
from dem.data.snapshots import SUFFIX, Snapshots
from dem.errors import StoreError
from dem.packing import PLAIN


def _none() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Written:
    """How many rows are written, and which pieces of result chunks wait to be put together; ``+`` adds both.

    Attributes
    ----------
    n_rows : int
    fragments : ndarray of int64, shape (n, 2, n_dimensions), or empty
        The number of the result chunk, and where the piece begins.
    """

    n_rows: int
    fragments: NDArray[np.int64] = field(default_factory=_none)

    def __add__(self, other: Written) -> Written:
        pieces = [one.fragments for one in (self, other) if one.fragments.size]
        return Written(self.n_rows + other.n_rows, np.concatenate(pieces) if pieces else _none())


@dataclass(frozen=True, eq=False)
class Progress:
    """How far an output is.

    Attributes
    ----------
    job : dict
        What tells one job from another.
    draft : str
        The name under which it is written, beside its own.
    is_done : ndarray of bool, shape (n_batches,)
        Which batches of the rows are written as a whole.
    digests : ndarray of uint64, shape (n_batches,)
        By which the rows of these are recognised.
    written : Written
        What came of them.
    """

    job: dict[str, Any]
    draft: str
    is_done: NDArray[np.bool_]
    digests: NDArray[np.uint64]
    written: Written


class Place:
    """Where it is told how far an output is."""

    def __init__(self, path: str) -> None:
        self.path = path
        folder, self._name = progress_of(path)
        self._snapshots = Snapshots(folder)
        self.name = f"{folder.removesuffix('/')}/{self._name}{SUFFIX}"

    def exists(self) -> bool:
        """Tell whether anything is told."""
        return is_occupied(self.name)

    def read(self) -> Progress | None:
        """Return what is told, None where there is nothing; raises `StoreError` if it is damaged."""
        try:
            found = self._snapshots.read(self._name)
        except FileNotFoundError:
            return None
        if not (_are_progress(found) and is_draft(self.path, found[1])):
            message = f"{self.name} is damaged: it holds something else"
            raise StoreError(message)
        job, draft, is_done, digests, n_rows, fragments = found
        return Progress(job, draft, is_done, digests, Written(n_rows, fragments))

    def write(self, progress: Progress) -> None:
        """Replace what is told."""
        done, written = (progress.is_done, progress.digests), progress.written
        self._snapshots.write(self._name, (progress.job, progress.draft, *done, written.n_rows, written.fragments))

    def remove(self) -> None:
        """Remove it, and what a process has left that was killed while it wrote it."""
        self._snapshots.remove(self._name)
        if not is_url(self.path):
            for left in Path(self.name).parent.glob(f".{glob.escape(self._name + SUFFIX)}.*.part"):
                left.unlink(missing_ok=True)


def seed_of(path: str) -> int | None:
    """Return the seed of the draws in the draft of an output, None where there is none."""
    with suppress(StoreError):
        progress = Place(path).read()
        seed = progress and progress.job.get("seed")
        return seed if type(seed) is int and seed >= 0 else None
    return None


# The parts of a `Progress`, as they are stored.
_KINDS = [dict, str, np.ndarray, np.ndarray, int, np.ndarray]


def _are_progress(found: Any) -> bool:
    """Judge what may be anything: the parts of a `Progress`."""
    if not (isinstance(found, tuple) and list(map(type, found)) == _KINDS):
        return False
    job, _, is_done, digests, n_rows, fragments = found
    if not all(type(one) in PLAIN for one in (*job, *job.values())):
        return False
    kinds = [(is_done.dtype.char, is_done.ndim), (digests.dtype, digests.ndim), fragments.dtype]
    return kinds == [("?", 1), (np.uint64, 1), np.int64] and len(is_done) == len(digests) and n_rows >= 0
