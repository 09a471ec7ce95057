"""What reads find missing, added up over a read of all the data and compared with the reads before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from dem.errors import MissingDataError


@dataclass(frozen=True)
class Missing:
    """How many chunks a read asked for, and which of them are not in the store; ``+`` adds reads."""

    n_chunks: int = 0
    n_missing: int = 0
    #: tells one set of missing chunks from another
    digest: int = 0
    #: the first of them: its number, and what messages call it
    first: tuple[int, str] | None = None

    def __add__(self, other: Self) -> Self:
        first = min((part.first for part in (self, other) if part.first is not None), default=None)
        digest = (self.digest + other.digest) % 2**64
        return type(self)(self.n_chunks + other.n_chunks, self.n_missing + other.n_missing, digest, first)

    def __str__(self) -> str:
        """Word the first of them, and how many there are."""
        if self.first is None:
            return "no chunk is missing"
        those = "the only one" if self.n_missing == 1 else f"the first of {self.n_missing}"
        share = f"{100.0 * self.n_missing / self.n_chunks:.2g}" if self.n_missing < self.n_chunks else "100"
        return f"{self.first[1]} is missing, {those} among the {self.n_chunks} that were read ({share} %)"


@dataclass(frozen=True)
class Found:
    """What was missing of each batch that was read, by numbers that tell it; ``+`` joins parts of a read."""

    batches: Mapping[tuple[int, ...], Missing] = field(default_factory=dict)

    def __add__(self, other: Self) -> Self:
        joined = dict(self.batches)
        for batch, missing in other.batches.items():
            joined[batch] = joined[batch] + missing if batch in joined else missing
        return type(self)(joined)


class Ledger:
    """Remembers on the driver what the first read of each batch found, and judges every read by it.

    Where chunks may be missing at all (`allowed`), those that were there once may not, nor may others come. Messages
    tell the name of the data and as which `fill_value` a missing chunk would count.
    """

    def __init__(self, name: str, fill_value: object, *, allowed: bool) -> None:
        self._name, self._fill_value, self._allowed = name, fill_value, allowed
        self._first: dict[tuple[int, ...], Missing] = {}

    def check(self, found: Found) -> None:
        """Judge what was read; raises `MissingDataError` if chunks are missing that may not be."""
        both = [(self._first.setdefault(batch, missing), missing) for batch, missing in found.batches.items()]
        if changes := [(known, missing) for known, missing in both if known != missing]:
            message = (
                f"{_change(changes)}; the store of {self._name} changes while it is read: wait until nothing writes to "
                "it or removes from it, and start again"
            )
            raise MissingDataError(message)
        now = sum(found.batches.values(), start=Missing())
        if now.n_missing and not self._allowed:
            raise MissingDataError(refusal(now, self._fill_value))


def _change(changes: Sequence[tuple[Missing, Missing]]) -> str:
    """Word what is missing now, of batches of which it was something else before."""
    before = sum((known for known, _ in changes), start=Missing())
    now = sum((missing for _, missing in changes), start=Missing())
    counts = f"{now.n_missing} of {now.n_chunks} chunks read there are missing, {before.n_missing} were before"
    for known, missing in changes:
        if missing.first is not None and (known.first is None or missing.first < known.first):
            return f"{missing.first[1]} was there before and is gone ({counts})"
    for known, missing in changes:
        if known.first is not None and (missing.first is None or known.first < missing.first):
            return f"{known.first[1]} was missing before and is there now ({counts})"
    return f"other chunks are missing than before ({counts})"


def refusal(missing: Missing, fill_value: object) -> str:
    """Word that chunks are missing which may not be."""
    return (
        f"{missing}, and would count as its fill value, {fill_value}; write it again, or, if zarr left out chunks "
        "that hold nothing else (write_empty_chunks=False), pass allow_missing_chunks=True (--allow-missing-chunks)"
    )
