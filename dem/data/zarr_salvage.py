"""What can be read of a block of a zarr array where some of its chunks cannot: the rest, and which they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Corner, chunks_in
from dem.data.found import LeftOut
from dem.data.retries import is_passing, tried_once
from dem.errors import MissingDataError

Slices = tuple[slice, ...]


@dataclass
class Salvage:
    """Reads a block in halves, and these in halves, until what cannot be read is found.

    What fails in passing, however often it is tried, is left out by the object that is asked for: a chunk or shard.
    What fails otherwise, such as to be decoded, by the chunk, inside shards too.

    Attributes
    ----------
    read : callable
        Returns the values of a region.
    tell : callable
        Given a region that cannot be read, and the error, returns what is said of it.
    outer, inner : tuple of int
        The extents of what is stored in one object, and of chunks inside it, the same where there are no shards.
    known : sequence of regions
        Which were left out before, and are not tried.
    corner : tuple of int
        Where the block begins.
    values : ndarray
        What was read; 0 where nothing was.
    unread : ndarray of bool
        Where nothing was, of the same shape.
    left_out : list of LeftOut
        What was found now.
    """

    read: Callable[[Slices], NDArray[Any]]
    tell: Callable[[Slices, BaseException], LeftOut]
    outer: Corner
    inner: Corner
    known: Sequence[tuple[tuple[int, int], ...]]
    corner: Corner
    values: NDArray[Any]
    unread: NDArray[np.bool_]
    left_out: list[LeftOut] = field(default_factory=list)

    def fill(self, region: Slices) -> None:
        """Read a region, or what can be read of it."""
        place = tuple(slice(a.start - b, a.stop - b) for a, b in zip(region, self.corner, strict=True))
        relations = {_relation(region, other) for other in self.known}
        if "inside" in relations:
            self.unread[place] = True
            return
        n_outer, n_inner = (math.prod(map(len, chunks_in(region, sizes))) for sizes in (self.outer, self.inner))
        if not relations - {"apart"}:
            try:
                if n_outer > 1:
                    with tried_once():
                        self.values[place] = self.read(region)
                else:
                    self.values[place] = self.read(region)
            except MissingDataError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the store, or a codec, raises
                if n_outer == 1 and (n_inner == 1 or is_passing(error)):
                    self.unread[place] = True
                    self.left_out.append(self.tell(region, error))
                    return
            else:
                return
        for half in _halves(region, self.outer if n_outer > 1 else self.inner):
            self.fill(half)


def _relation(region: Slices, other: Sequence[tuple[int, int]]) -> str:
    """Tell whether a region is inside another, apart from it, or neither."""
    pairs = list(zip(region, other, strict=True))
    if any(part.stop <= start or stop <= part.start for part, (start, stop) in pairs):
        return "apart"
    return "inside" if all(start <= part.start and part.stop <= stop for part, (start, stop) in pairs) else "across"


def _halves(region: Slices, sizes: Corner) -> tuple[Slices, Slices]:
    """Cut a region between two chunks, along the axis that has most of them."""
    numbers = chunks_in(region, sizes)
    axis = max(range(len(sizes)), key=lambda i: len(numbers[i]))
    edge = numbers[axis][len(numbers[axis]) // 2] * sizes[axis]
    part = region[axis]
    halves = (slice(part.start, edge), slice(edge, part.stop))
    first, second = ((*region[:axis], half, *region[axis + 1 :]) for half in halves)
    return first, second
