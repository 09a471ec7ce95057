"""Checkpoints: what a fit has come to, in snapshots, so that the same fit goes on from there.

A fit is a function of its options, of random numbers whose state is known, and of what comes back from reading the
data. So no code that finds a start needs to know of checkpoints: on the way again it does the same, but for what is
kept.

- ``job`` says of which fit this is; another one is refused.
- ``step-…`` are what the reads before EM found, and starts as they were drawn, in their order (`Checkpoint.step`).
- ``sample-…`` and ``data-…`` are the states of the loop; the latest two are kept.
"""

from __future__ import annotations

import hashlib
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from dem.data.base import Rows
from dem.data.snapshots import SUFFIX, Snapshots
from dem.engine.base import ByBatch, Engine, Pending, Work
from dem.errors import DataWarning, StoreError

T = TypeVar("T")

#: number of the layout; raised whenever an older version could misread a newer one
FORMAT = 1
# Saving takes no more than this share of the time, where the user does not say how often.
SHARE = 0.02
_STATE = re.compile(r"(sample|data)-(\d{9})")


@dataclass(frozen=True)
class Every:
    """How often the state of the loop is saved: every so many passes, or seconds; else as often as costs little."""

    passes: int | None = None
    seconds: float | None = None


class Tally(Protocol):
    """What is counted along a fit, so that the fit that goes on counts on from there."""

    def counted(self) -> Any:
        """Return what has been counted so far."""

    def recount(self, found: Any) -> None:
        """Count on from what `counted` returned."""


class Checkpoint:
    """What one fit keeps, in a folder of snapshots; without one it keeps nothing.

    Parameters
    ----------
    snapshots : Snapshots, optional
        Where.
    every : Every
        How often.
    """

    def __init__(self, snapshots: Snapshots | None = None, every: Every | None = None) -> None:
        self._snapshots, self.every = snapshots, every or Every()
        self._prefix, self._counts = "", dict[str, int]()
        self._saved, self._cost, self._number = time.monotonic(), 0.0, 0
        #: what goes with every snapshot
        self.tallies: Sequence[Tally] = ()
        #: path and number of this checkpoint, and what tells its fit from others, once it is begun
        self.identity: tuple[str, str] | None = None
        self.job: str | None = None

    @property
    def _fit(self) -> str:
        """What tells this fit from others; each snapshot has it."""
        return "" if self.identity is None else self.identity[1]

    @property
    def keeps(self) -> bool:
        """Whether it keeps anything."""
        return self._snapshots is not None

    def begin(self, job: Mapping[str, Any]) -> None:
        """Take note of the job, or compare it with that of the checkpoint.

        Raises
        ------
        StoreError
            Naming the first difference.
        """
        if self._snapshots is None:
            return
        self.job = digest_of_job(job)
        job, path = {"format of the checkpoint": FORMAT, **job}, self._snapshots.path
        anew = "give another path, or remove that one to begin anew"
        try:
            found = self._snapshots.read("job")
        except FileNotFoundError:
            if others := [name for name in self._snapshots.names() if not name.startswith(".")]:
                message = f"{path} holds something ({others[0]}) but no job{SUFFIX} of a checkpoint; give another path"
                raise StoreError(message) from None
            identity, before = uuid4().hex, job
            self._snapshots.write("job", (identity, job))
        except StoreError as error:
            message = f"{error}; {anew}"
            raise StoreError(message) from error
        else:
            if not (isinstance(found, tuple) and list(map(type, found)) == [str, dict]):
                message = f"the snapshot job{SUFFIX} in {path} is damaged: it holds something else; {anew}"
                raise StoreError(message)
            identity, before = found
        self.identity = self._snapshots.place, identity
        for name in [*job, *before]:
            if job.get(name) != before.get(name):
                there, here = before.get(name, "not given"), job.get(name, "not given")
                message = f"the checkpoint {path} is of another fit: {name} was {there}, and is {here} now; {anew}"
                raise StoreError(message)

    def told(self, name: str) -> Any:
        """Return what the job of the checkpoint, if there is one that can be read, says of something, else None."""
        if self._snapshots is not None:
            with suppress(FileNotFoundError, StoreError, TypeError, ValueError, AttributeError):
                _, job = self._snapshots.read("job")
                return job.get(name)
        return None

    def recount(self) -> None:
        """Count on from all that is kept, as far as it can be read, before the job is known to be the same."""
        if self._snapshots is None:
            return
        with suppress(FileNotFoundError, StoreError):
            job = self._snapshots.read("job")
            if isinstance(job, tuple) and job and isinstance(job[0], str):
                self.identity = self._snapshots.place, job[0]
        for name in [name.removesuffix(SUFFIX) for name in self._snapshots.names()]:
            if name.startswith("step-") or _STATE.fullmatch(name):
                with suppress(FileNotFoundError, StoreError):
                    self._read(self._snapshots, name)

    def remove(self, identity: str) -> None:
        """Remove what is kept, if it is still what was begun under this number."""
        if self._snapshots is None:
            return
        try:
            if self._snapshots.read("job")[0] == identity:
                self._snapshots.clear(last="job")
        except (FileNotFoundError, StoreError) as error:
            if isinstance(error, StoreError):
                self._say(f"{error}; the checkpoint is not removed")

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes of this machine away."""
        return nullcontext() if self._snapshots is None else self._snapshots.held()

    def step(self, name: str, compute: Callable[[], T]) -> T:
        """Return what is kept of a step of the search for a start; else compute it and keep it.

        Steps of a name are told apart by their order, those within a step by its name.
        """
        if self._snapshots is None:
            return compute()
        whole = f"{self._prefix}{name}-{self._counts.get(self._prefix + name, 0)}"
        self._counts[self._prefix + name] = self._counts.get(self._prefix + name, 0) + 1
        try:
            found: T = self._read(self._snapshots, f"step-{whole}")
        except FileNotFoundError:
            pass
        except StoreError as error:
            self._say(f"{error}; it is computed again")
        else:
            return found
        before, self._prefix = self._prefix, f"{whole}."
        try:
            found = compute()
        finally:
            self._prefix = before
        self._write(f"step-{whole}", found)
        return found

    def recorded(self, engine: Engine) -> Engine:
        """Return the engine whose sweeps are steps."""
        return engine if self._snapshots is None else _Recorded(engine, self)

    def latest(self, phase: str, is_one: Callable[[Any], bool]) -> Any:
        """Return the latest state of the loop that can be read; None if there is none. `is_one` tells a state."""
        if self._snapshots is None:
            return None
        for name in reversed(self._states(phase)):
            try:
                found = self._read(self._snapshots, name)
            except (StoreError, FileNotFoundError) as error:
                self._say(f"{error}; the fit goes on from the one before, if there is any")
            else:
                if is_one(found):
                    self._number = int(name.rpartition("-")[2])
                    return found
                self._say(f"the snapshot {name} in {self._snapshots.path} is damaged: it holds something else")
        return None

    def due(self, passes: int | None = None) -> bool:
        """Tell whether to save now: at the end of a pass by the number of passes, else by the time alone."""
        if self._snapshots is None:
            return False
        seconds = time.monotonic() - self._saved
        if self.every.seconds is not None:
            return seconds >= self.every.seconds
        if self.every.passes is not None:
            return passes is not None and passes % self.every.passes == 0
        return seconds * SHARE >= self._cost

    def counted(self) -> list[Any]:
        """Return what the tallies have counted by now."""
        return [tally.counted() for tally in self.tallies]

    def save(self, phase: str, state: Any, counted: list[Any] | None = None) -> None:
        """Save the state of the loop and remove all but the latest two; with what was `counted` by then, if not now."""
        began = time.monotonic()
        self._number += 1
        self._write(f"{phase}-{self._number:09d}", state, self._states(phase)[:-1], counted)
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def _read(self, snapshots: Snapshots, name: str) -> Any:
        """Return what this fit has kept under a name, and count on from there; folders may have been copied together.

        Raises
        ------
        FileNotFoundError, StoreError
            As `Snapshots.read`; if it is of another fit too.
        """
        found = snapshots.read(name)
        if not (isinstance(found, tuple) and len(found) == 4 and found[:2] == (self._fit, name)):
            message = f"the snapshot {name}{SUFFIX} in {snapshots.path} is of another fit or place"
            raise StoreError(message)
        try:
            # The first is there always, the second (what cannot be read) only while that may be left out.
            n = max(min(len(self.tallies), len(found[3])), 1)
            for tally, counted in zip(self.tallies[:n], found[3][:n], strict=True):
                tally.recount(counted)
        except (TypeError, ValueError) as error:
            message = f"the snapshot {name}{SUFFIX} in {snapshots.path} is damaged ({error})"
            raise StoreError(message) from error
        return found[2]

    def _write(self, name: str, value: Any, then_remove: Sequence[str] = (), counted: list[Any] | None = None) -> None:
        """Write a snapshot; a fit that cannot keep how far it is goes on all the same."""
        if self._snapshots is None:
            return
        try:
            self._snapshots.write(name, (self._fit, name, value, self.counted() if counted is None else counted))
            for old in then_remove:
                self._snapshots.remove(old)
        except StoreError as error:
            self._say(f"{error}; the fit goes on without it")

    def _states(self, phase: str) -> list[str]:
        names = [name.removesuffix(SUFFIX) for name in self._snapshots.names()] if self._snapshots else []
        return [name for name in names if (found := _STATE.fullmatch(name)) and found[1] == phase]

    @staticmethod
    def _say(message: str) -> None:
        warnings.warn(message, DataWarning, stacklevel=4)


def digest_of_job(job: Mapping[str, Any]) -> str:
    """Return what tells a job from others, for a model to keep; not by its last digits."""
    items = sorted((name, value) for name, value in job.items() if name != "arithmetic")
    return hashlib.sha256(repr(items).encode()).hexdigest()


class _Recorded(Engine):
    """An engine whose sweeps are steps of a checkpoint."""

    def __init__(self, engine: Engine, checkpoint: Checkpoint) -> None:
        self._engine, self._checkpoint = engine, checkpoint

    def sweep(self, rows: Rows, works: Sequence[Work | ByBatch], *, by_batch: bool = False) -> list[Any]:
        """Return what the sweep has found before, or sweep."""
        return self._checkpoint.step("read", lambda: self._engine.sweep(rows, works, by_batch=by_batch))

    def submit(
        self, rows: Rows, works: Sequence[Work | ByBatch], batches: slice = slice(None), *, by_batch: bool = False
    ) -> Pending:
        """Begin a sweep, of which nothing is kept."""
        return self._engine.submit(rows, works, batches, by_batch=by_batch)

    def close(self) -> None:
        """Do nothing: the engine is another's."""


#: keeps nothing
NO_CHECKPOINT = Checkpoint()
