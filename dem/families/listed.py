"""Truncated E-steps where each row has a list of components of its own, learnt anew as EM moves on."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Self
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from dem import native
from dem.beside_chunks import KEPT
from dem.families.base import Array, P, RowBlock, S
from dem.families.cells import Cells, Moments
from dem.families.truncation import places_of_neighbours
from dem.families.workspace import kept_with
from dem.tree import leaves

# Fewer components are quicker by regions: one product serves all rows of one.
FEWEST_COMPONENTS = 512
# Numbers in all lists of a table, of two bytes each, beyond which regions are better: lists that find no room have to
# be looked for in every pass. It does not depend on the machine, nor on its memory now: the model would.
MOST_NUMBERS = 2**30
# After how many M-steps lists are learnt anew for the first time; from then on after twice as many as before.
FIRST_TERM = 1
# Components that are looked at for each row, at first, and for each M-step until lists are learnt anew: what a row
# costs does not grow with the number of components, and in long fits all of them are looked at in the end.
FIRST_LOOK, LOOK_PER_STEP = 2048, 256
_BYTES = 16


class ListedComponent(ABC, Generic[P, S]):
    """What a component provides whose E-step can go by a list of components for each row."""

    @abstractmethod
    def listed_sums(
        self,
        parameters: P,
        log_weights: Array,
        chunk: RowBlock,
        lists: NDArray[np.unsignedinteger],
        order: NDArray[np.intp],
    ) -> tuple[Array, Array, S]:
        """Return Σγ (n_components,), the log-density of each row (n,), and the statistics.

        Only the components of a row's list, (n, n_candidates), have a share of it; rows are added in their `order`.
        """

    @abstractmethod
    def moments(self, parameters: P, log_weights: Array) -> Moments:
        """Return what cells ask of the components."""

    @abstractmethod
    def find_likeliest(
        self,
        parameters: P,
        log_weights: Array,
        chunk: RowBlock,
        cells: Cells,
        n_nearest: int,
        found: NDArray[np.unsignedinteger],
    ) -> None:
        """Fill `found` with the likeliest members of the cells nearest to each row, the likeliest first."""


@dataclass(frozen=True, eq=False)
class Anchor:
    """The parameters of a mixture at which lists are learnt, and the cells whose members are looked at.

    Attributes
    ----------
    weights : ndarray of shape (n_components,)
    components : parameters of components
    cells : Cells
    n_nearest : int
        How many cells of each row are looked at.
    """

    weights: Array
    components: Any
    cells: Cells
    n_nearest: int

    @property
    def version(self) -> bytes:
        """What stands for it."""

        def digest() -> bytes:
            found = hashlib.blake2b(digest_size=_BYTES)
            for _, leaf in leaves(self):
                found.update(np.ascontiguousarray(leaf).tobytes())
            return found.digest()

        return kept_with(self, "version", digest)


@dataclass(frozen=True, eq=False)
class RowLists:
    """For each row the components with the largest responsibilities at the anchor: parameters that EM has come by.

    The members V_n of the cells that are the nearest to row x_n are looked at, so that a list is a function of its row
    and the anchor, which has the cells and travels with the parameters, and lies in every checkpoint. The lists lie
    beside the chunks (`dem.beside_chunks`), and what is lost is looked for again: neither workers nor memory change a
    bit.

    Between two anchors every row keeps its candidates K_n, and the truncated free energy F(θ) = Σ_n log Σ_{k ∈ K_n}
    π_k p_k(x_n) never falls; see `dem.families.truncation.Candidates`. A new anchor is the θ of that moment. Cells stay
    where they are, lose no member, and no fewer of them are looked at than before: V_n contains the one before, so the
    old list. No list from V_n of this length has a larger sum than the new one: F never falls there either.

    Attributes
    ----------
    anchor : Anchor
    n_candidates : int
    places : ndarray of int, shape (n_components,)
        Where each component stands in an order in which neighbours do not stand far apart. Rows go through the E-step
        in the order of their first candidates, whose neighbours' parameters are then still in the cache.
    owner : ndarray of uint8, shape (16,)
        The same for all lists of a fit.
    age, term : int
        M-steps since the anchor, and until the next.
    """

    anchor: Anchor
    n_candidates: int
    places: NDArray[np.intp]
    owner: NDArray[np.uint8]
    age: int = 0
    term: int = FIRST_TERM

    @classmethod
    def learnt(cls, weights: Array, components: Any, moments: Moments, n_candidates: int) -> Self:
        """Return the lists of a start."""
        cells = Cells.learnt(moments, n_candidates)
        anchor = Anchor(weights, components, cells, cells.holding(FIRST_LOOK, len(weights)))
        owner = np.frombuffer(anchor.version, dtype=np.uint8).copy()
        finalize(owner, KEPT.forget, anchor.version)  # with the fit, in the process where it began
        return cls(anchor, n_candidates, places_of_neighbours(moments.means), owner)

    def after(self, weights: Array, components: Any, moments: Callable[[], Moments]) -> Self:
        """Return the lists after an M-step that has come to these parameters."""
        if self.age + 1 < self.term:
            return replace(self, age=self.age + 1)
        term = 2 * self.term
        cells = self.anchor.cells.joined(moments(), self.n_candidates)
        n_nearest = cells.holding(max(FIRST_LOOK, LOOK_PER_STEP * term), len(weights))
        n_nearest = max(n_nearest, self.anchor.n_nearest)  # so that what is looked at only becomes more
        return replace(self, anchor=Anchor(weights, components, cells, n_nearest), age=0, term=term)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The type of numbers of components: two bytes where these do."""
        return np.dtype(np.uint16 if len(self.places) <= 2**16 else np.uint32)

    def of(self, chunk: RowBlock, look: Callable[[NDArray[np.unsignedinteger]], object]) -> NDArray[np.unsignedinteger]:
        """Return the lists of the rows of a chunk: those beside it, or what `look` fills an array with."""

        def make() -> NDArray[np.unsignedinteger]:
            found = np.empty((len(chunk.rows), self.n_candidates), dtype=self.dtype)
            look(found)
            return found

        return KEPT.get((self.owner.tobytes(), fingerprint(chunk.rows)), self.anchor.version, make)

    def order(self, lists: NDArray[np.unsignedinteger]) -> NDArray[np.intp]:
        """Return the order in which rows go through the E-step."""
        # Small integers are sorted several times as fast.
        return np.argsort(self.places.astype(self.dtype)[lists[:, 0]], kind="stable")


def fingerprint(rows: NDArray[Any]) -> bytes:
    """Return what tells rows from others, as good as always; the position in the table does not count."""
    words = np.ascontiguousarray(rows).reshape(-1).view(f"u{rows.dtype.itemsize}")
    hashed = native.loaded(_hash, words.dtype.name) if native.pays(math.inf) and words.dtype.isnative else None
    head = f"{rows.dtype.str}{rows.shape}".encode()
    if hashed is not None:
        return head + int(hashed(words)).to_bytes(8, "little")
    return head + hashlib.blake2b(words.tobytes(), digest_size=_BYTES).digest()


def _hash(word: str) -> Any:
    from dem.native import listed  # noqa: PLC0415 - imports numba

    return listed.fingerprint(word)
