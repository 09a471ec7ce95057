"""Outputs that take hours: what has been written of one when its process ends is found by the next, which goes on.

While an output is written, a snapshot beside it (``.NAME.progress.npz``; in an object store ``NAME.progress.npz``)
tells of which job it is, where its draft is, and which batches of the rows are in it as a whole. It is written once the
output has taken `AFTER` seconds, and then as often as that costs little; before that, a draft is not worth keeping.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dem.data.atomic import (
    Directory,
    destination,
    is_in_use,
    is_occupied,
    is_url,
    progress_of,
    remove,
)
from dem.data.base import Batch, Chunk, Rows
from dem.data.fingerprint import FirstChunks, digests, shape_of, spread
from dem.data.found import Found, LeftOut, Unreadable
from dem.data.objects import Objects, is_failure_of_store
from dem.data.output_progress import Place, Progress, Written
from dem.errors import DataError, DataWarning, StoreError
from dem.events import WritingResumed

# Seconds after which a draft is worth keeping.
AFTER = 1.0
# Telling how far an output is takes no more than this share of the time.
SHARE = 0.02
# Rows of a chunk that it is recognised by.
ROWS_DIGESTED = 512

Told = Callable[[WritingResumed], None]


class Pending(Protocol):
    """A sweep that has begun."""

    def result(self, each: Callable[[int, list[Any]], None]) -> list[Any]:
        """Wait for it, and give `each` the totals of every batch as it ends."""


class Sweeper(Protocol):
    """What is needed of an engine."""

    def sweep(self, rows: Rows, works: Sequence[Any], *, by_batch: bool) -> list[Any]:
        """Apply works to all chunks."""

    def submit(self, rows: Rows, works: Sequence[Any], *, by_batch: bool) -> Pending:
        """Begin to."""

    def close(self) -> None:
        """End what has begun."""


@dataclass(frozen=True, eq=False)
class _Part:
    """What came of a part of a batch, and a digest of its first chunk."""

    digest: int
    written: Written

    def __add__(self, other: _Part) -> _Part:
        return _Part(self.digest, self.written + other.written)


@dataclass(frozen=True, eq=False)
class _Noted:
    """Work that tells what chunk it was that was written."""

    work: Callable[[Chunk], Written]

    def __call__(self, chunk: Chunk) -> _Part:
        return _Part(_digest(chunk), self.work(chunk))


def _digest(chunk: Chunk) -> int:
    """Return a digest of where a chunk is, and of some of its rows with all that is known of them."""
    some = chunk.take(slice(None, None, -(-len(chunk) // ROWS_DIGESTED) or 1))
    return int.from_bytes(hashlib.blake2b(repr(digests(some)).encode(), digest_size=8).digest(), "little")


class _Left(Rows):
    """What is left of rows of which some batches are written."""

    def __init__(self, rows: Rows, done: Collection[int]) -> None:
        self.name, self.n_features, self.dtype = rows.name, rows.n_features, rows.dtype
        self.feature_names, self.skips_bad = rows.feature_names, rows.skips_bad
        sizes = [batch.n_rows for batch in rows.batches()]
        #: the numbers of its batches
        self.places = [place for place in range(len(sizes)) if place not in done]
        self.n_rows, self._rows = sum(sizes[place] for place in self.places), rows

    def batches(self) -> list[Batch]:
        """Return the batches that are not written."""
        every = self._rows.batches()
        return [every[place] for place in self.places]

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """As of all the rows."""
        return self._rows.grid_chunks

    @property
    def unreadable(self) -> Unreadable | None:
        """As of all the rows."""
        return self._rows.unreadable

    @property
    def n_left_out(self) -> int:
        """As of all the rows."""
        return self._rows.n_left_out

    def check_found(self, found: Found) -> Sequence[LeftOut]:
        """Judge what of them is missing, or cannot be read."""
        return self._rows.check_found(found)


class Output:
    """A zarr array or group to be, written batch by batch; see `output`.

    Attributes
    ----------
    path : str
        Where to write meanwhile.
    chunk_names : dict
        The ``chunk_key_encoding`` of arrays there.
    is_new : bool
        Whether nothing is there yet.
    """

    def __init__(
        self,
        draft: Directory | Objects,
        place: Place,
        job: Mapping[str, Any] | None,
        rows: Rows,
        before: Progress | None,
    ) -> None:
        self._draft, self._place, self._job, self._rows = draft, place, job, rows
        self.path, self.chunk_names, self.is_new = draft.path, draft.chunk_names, before is None
        # Of the batches that are written as a whole, by their numbers; and what came of them.
        self._digests, self._written = dict[int, int](), Written(0)
        if before is not None:
            draft.is_kept, self._written = True, before.written
            (done,) = np.nonzero(before.is_done)
            self._digests = dict(zip(done.tolist(), before.digests[done].tolist(), strict=True))
        self._saved, self._cost = time.monotonic(), 0.0

    def sweep(self, work: Callable[[Chunk], Written], engine: Sweeper, told: Told) -> Written:
        """Have all batches written that are not; return what came of them all.

        Raises
        ------
        DataError
            If they are of fewer rows, or more, than there should be.
        """
        left, total = self._rows, self._written
        if not self.is_new:
            told(WritingResumed(total.n_rows, left.n_rows))
            left = _Left(left, self._digests)
        # What is missing or cannot be read may be there the next time; what may be missing is written as it is.
        may_lack = self._rows.allows_missing

        def note(place: int, totals: list[Any]) -> None:
            nonlocal total
            part, found = totals
            total += part.written
            if not any(met.left_out or (met.n_missing and not may_lack) for met in found.batches.values()):
                self._digests[left.places[place] if isinstance(left, _Left) else place] = part.digest
                self._written += part.written
                self._save_if_due()

        if left.n_rows:
            try:
                engine.submit(left, [_Noted(work)], by_batch=True).result(note)
            except BaseException:  # an interrupt too must not leave threads at work
                engine.close()
                raise
        if total.n_rows != self._rows.n_rows:
            message = (
                f"{self._rows.name} gave {total.n_rows} rows instead of {self._rows.n_rows}; did it change meanwhile?"
            )
            raise DataError(message)
        return total

    def note_assembled(self) -> None:
        """Take note that no fragment is needed any more, before they are removed."""
        self._written = Written(self._written.n_rows)
        if self._draft.is_kept:
            self._keep()

    def leave(self) -> None:
        """Say how to go on with what is written, if it is worth it."""
        if not self._draft.is_kept:
            return
        self._save()
        message = (
            f"{self._place.path} is not whole: {self._written.n_rows:,} of {self._rows.n_rows:,} rows are written, and "
            f"kept in {self.path}; the same call (or command) goes on from there"
        )
        warnings.warn(message, DataWarning, stacklevel=3)

    def _save_if_due(self) -> None:
        if self._job is not None and time.monotonic() - self._saved >= max(AFTER, self._cost / SHARE):
            self._save()

    def _save(self) -> None:
        """Tell how far the output is; one that cannot goes on all the same."""
        began = time.monotonic()
        try:
            self._keep()
        except (StoreError, OSError) as error:
            message = f"how far {self._place.path} is cannot be kept ({error}); it is written all the same"
            warnings.warn(message, DataWarning, stacklevel=3)
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def _keep(self) -> None:
        """Tell how far the output is, once that much is on the disk."""
        self._draft.sync()
        n = len(self._rows.batches())
        is_done, digests = np.zeros(n, bool), np.zeros(n, np.uint64)
        for place, digest in self._digests.items():
            is_done[place], digests[place] = True, digest
        job = _whole(self._job or {}, self._rows, self.chunk_names)
        self._place.write(Progress(job, self._draft.name, is_done, digests, self._written))
        self._draft.is_kept = True


@contextmanager
def output(
    path: str, job: Mapping[str, Any] | None, rows: Rows, engine: Sweeper, *, overwrite: bool
) -> Iterator[Output]:
    """Let a zarr array or group be written; go on with what an earlier process has written of it.

    It appears under its name as a whole; see `destination`, which this is but for what becomes of a draft: after an
    error, an interrupt or a kill it stays, once it has taken some time.

    Parameters
    ----------
    path : str
        Directory or URL to write.
    job : mapping of str to what compares equal
        What tells one job from another, besides the rows; None for one that is never gone on with.
    rows : Rows
        What is written is about.
    engine : Sweeper
        Reads a few chunks to recognise the rows by.
    overwrite : bool
        Whether something at `path` may be replaced, and the draft of another job be left for a new one.

    Raises
    ------
    StoreError
        As `destination`, or if there is a draft of another job, which is named, or a living process writes it.
    """
    place = Place(path)
    before = None if job is None else _found(place, job, rows, engine, overwrite=overwrite)
    draft: Directory | Objects | None = None
    try:
        with destination(path, overwrite=overwrite, begun=before.draft if before else None) as draft:
            one = Output(draft, place, job, rows, before)
            try:
                yield one
            except BaseException:
                one.leave()
                raise
    finally:
        if draft is not None and draft.is_kept and not is_occupied(draft.path):
            _forget(place, draft.name)


def _found(place: Place, job: Mapping[str, Any], rows: Rows, engine: Sweeper, *, overwrite: bool) -> Progress | None:
    """Return how far the output is, if it is of this job; else None, or `StoreError` if nothing may be replaced."""
    try:
        found = place.read()
    except StoreError as error:
        if error.__cause__ is not None and is_failure_of_store(error.__cause__):  # it may be there and whole
            raise
        warnings.warn(f"{error}; {place.path} is begun anew", DataWarning, stacklevel=4)
        place.remove()
        return None
    if found is None:
        return None
    draft = _beside(place.path, found.draft)
    if not is_occupied(draft):
        place.remove()
        return None
    if is_in_use(draft):
        message = f"{place.path} is being written by another process; wait for it, or end it"
        raise StoreError(message)
    names = Objects(place.path).chunk_names if is_url(place.path) else Directory.chunk_names
    different = _difference(found, _whole(job, rows, names), rows, engine)
    if different is None:
        return found
    if not overwrite:
        message = (
            f"there is an unfinished {place.path} of another job, in {draft}: {different}; remove that and "
            f"{place.name}, or pass overwrite=True (--overwrite), to begin anew"
        )
        raise StoreError(message)
    left = f", and {draft} stays until you remove it" if is_url(place.path) else ""
    message = f"an unfinished {place.path} was of another job: {different}; it is begun anew{left}"
    warnings.warn(message, DataWarning, stacklevel=4)
    place.remove()
    if not is_url(place.path):
        remove(draft)
    return None


def _whole(job: Mapping[str, Any], rows: Rows, chunk_names: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that tells a job from others."""
    return {**job, **shape_of(rows), "names of chunks": repr(chunk_names)}


def _difference(found: Progress, job: Mapping[str, Any], rows: Rows, engine: Sweeper) -> str | None:
    """Word the first difference of two jobs, and then of a few of the rows that were written; None if there is none."""
    for name in [*job, *found.job]:
        if job.get(name) != found.job.get(name):
            return f"{name} was {found.job.get(name, 'not given')}, and is {job.get(name, 'not given')} now"
    if len(found.is_done) != len(rows.batches()):
        return "the number of batches is another"
    (done,) = np.nonzero(found.is_done)
    if len(done):
        places = done[spread(len(done))]
        now = engine.sweep(FirstChunks(rows, places), [_digest], by_batch=True)
        if [digest for (digest,) in now] != found.digests[places].tolist():
            return f"{rows.name} has changed since"
    return None


def _forget(place: Place, draft: str) -> None:
    """Remove what tells of a draft that is gone; a failure is worth a warning."""
    try:
        progress = place.read()
        if progress is not None and progress.draft == draft:
            place.remove()
    except StoreError as error:
        warnings.warn(
            f"{place.name} is of no use any more, and could not be removed ({error})", DataWarning, stacklevel=3
        )


def _beside(path: str, name: str) -> str:
    """Return the path or URL of what has a name beside another."""
    folder, _ = progress_of(path)
    return f"{folder.removesuffix('/')}/{name}"
