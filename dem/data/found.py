"""What reads of a store have met: chunks that are missing, or cannot be read, and attempts that failed in passing.

It comes with the rows, and is added up over all the data.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from dem.errors import MissingDataError


@dataclass(frozen=True)
class LeftOut:
    """A part of the data that cannot be read, whose rows are left out.

    Attributes
    ----------
    array : str
        What messages call the array.
    region : tuple of (int, int)
        Where the part begins and ends along each of its dimensions.
    name : str
        What messages call the part, such as ``'chunk c/3/0 of x.zarr'``.
    where : str
        ``'rows 30 to 39'``, or the place on a grid.
    why : str
        What its reading failed by.
    """

    array: str
    region: tuple[tuple[int, int], ...]
    name: str
    where: str
    why: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.where})"


class PartlyRead(np.ma.MaskedArray):
    """A block of values of which the masked ones could not be read."""


@dataclass(frozen=True)
class Missing:
    """How many chunks a read asked for, and which of them are not in the store; ``+`` adds reads.

    What cannot be read is told too, by the read that finds it.
    """

    n_chunks: int = 0
    n_missing: int = 0
    #: tells one set of missing chunks from another
    digest: int = 0
    #: the first of them: its number, and what messages call it
    first: tuple[int, str] | None = None
    #: what was found to be unreadable and was not known to be
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)

    def __add__(self, other: Self) -> Self:
        first = min((part.first for part in (self, other) if part.first is not None), default=None)
        digest = (self.digest + other.digest) % 2**64
        n_chunks, n_missing = self.n_chunks + other.n_chunks, self.n_missing + other.n_missing
        return type(self)(n_chunks, n_missing, digest, first, self.left_out + other.left_out)

    def __str__(self) -> str:
        """Word the first of them, and how many there are."""
        if self.first is None:
            return "no chunk is missing"
        those = "the only one" if self.n_missing == 1 else f"the first of {self.n_missing}"
        share = f"{100.0 * self.n_missing / self.n_chunks:.2g}" if self.n_missing < self.n_chunks else "100"
        return f"{self.first[1]} is missing, {those} among the {self.n_chunks} that were read ({share} %)"


#: what messages say of a part that cannot be read, of data that can be
REPAIR = 'write it again, or leave it out with on_bad_chunk="skip" (--on-bad-chunk skip)'


class Unreadable:
    """What is left out of rows because it cannot be read: shared by all tables that are made of the same."""

    def __init__(self) -> None:
        self.parts: set[LeftOut] = set()
        self._seen: set[tuple[int, ...]] = set()
        self._complete = False

    def by_array(self) -> dict[str, list[tuple[tuple[int, int], ...]]]:
        """Return the regions of each array, by its name."""
        regions: dict[str, list[tuple[tuple[int, int], ...]]] = {}
        for one in sorted(self.parts, key=lambda one: one.region):
            regions.setdefault(one.array, []).append(one.region)
        return regions

    def counted(self) -> tuple[tuple[LeftOut, ...], tuple[tuple[int, ...], ...], bool]:
        """Return all that is known, for a checkpoint."""
        seen = () if self._complete else tuple(sorted(self._seen))
        return tuple(sorted(self.parts, key=str)), seen, self._complete

    def recount(self, found: Any) -> None:
        """Take over what `counted` returned: what was left out stays out in a fit that goes on."""
        parts, seen, complete = found
        if not all(isinstance(one, LeftOut) for one in parts):
            message = "what is left out is something else"
            raise ValueError(message)
        self.parts.update(parts)
        self._seen.update(seen)
        self._complete |= bool(complete)

    @property
    def complete(self) -> bool:
        """Whether all data was read once, so that nothing else may be left out."""
        return self._complete

    def judge(self, found: Found, *, all_read: bool) -> list[LeftOut]:
        """Note what reads of some batches, or of all, could not read, and return what is new.

        What the first read of all the data leaves out stays out, and nothing else may follow.

        Raises
        ------
        MissingDataError
            If something could be read before.
        """
        new = list(dict.fromkeys(one for one in found.left_out if one not in self.parts))
        before = {one for batch in found.batches.keys() & self._seen for one in found.batches[batch].left_out}
        for one in new:
            if self._complete or one in before:
                message = (
                    f"{one} could be read before and cannot now ({one.why}); what the first read leaves out stays left "
                    "out, and nothing else may follow: see that the store answers, and start again"
                )
                raise MissingDataError(message)
        self.parts.update(new)
        self._seen.update(found.batches)
        self._complete |= all_read
        return new


@dataclass(frozen=True)
class Found:
    """What reads have met; ``+`` joins parts of a read.

    Attributes
    ----------
    batches : mapping
        What was missing of each batch that was read, by numbers that tell it.
    n_retries : int
        How many attempts to read failed in passing, and were followed by another.
    why : str
        What one of them failed by.
    """

    batches: Mapping[tuple[int, ...], Missing] = field(default_factory=dict)
    n_retries: int = 0
    why: str = ""

    @property
    def left_out(self) -> list[LeftOut]:
        """What was found to be unreadable, in the order of the batches."""
        return [one for batch in sorted(self.batches) for one in self.batches[batch].left_out]

    def __add__(self, other: Self) -> Self:
        joined = dict(self.batches)
        for batch, missing in other.batches.items():
            joined[batch] = joined[batch] + missing if batch in joined else missing
        return type(self)(joined, self.n_retries + other.n_retries, self.why or other.why)


class LeavesOut:
    """What `Rows` have in common that leave out what cannot be read, and show its place where results lie on a grid."""

    _unreadable: Unreadable
    skips_bad: bool
    _on_grid = False

    @property
    def unreadable(self) -> Unreadable | None:
        """What is known of parts that cannot be read, where they are left out."""
        return self._unreadable if self.skips_bad else None

    @property
    def n_left_out(self) -> int:
        """How many parts cannot be read."""
        return len(self._unreadable.parts)

    def on_grid(self) -> Self:
        """Return the same rows with those that cannot be read; see `Rows.on_grid`."""
        whole = copy.copy(self)
        vars(whole)["_on_grid"] = True
        return whole
