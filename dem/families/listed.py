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
# Groups of components for each candidate, whose largest tell from where on a component may be one.
_GROUPS = 4
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


@dataclass(frozen=True, eq=False)
class Anchor:
    """The parameters of a mixture at which lists are learnt."""

    weights: Array
    components: Any

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

    All components are looked at, so that a list is a function of its row and the anchor, which travels with the
    parameters and lies in every checkpoint. The lists lie beside the chunks (`dem.beside_chunks`), and what is lost is
    looked for again: neither workers nor memory change a bit.

    Between two anchors every row x_n keeps its candidates K_n, and the truncated free energy F(θ) = Σ_n log Σ_{k ∈ K_n}
    π_k p_k(x_n) never falls; see `dem.families.truncation.Candidates`. A new anchor is the θ of that moment, where no
    list of this length has a larger sum than the new one: F never falls there either.

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
    def learnt(cls, weights: Array, components: Any, coordinates: Array, n_candidates: int) -> Self:
        """Return the lists of a start; `coordinates` of components tell who are neighbours."""
        anchor = Anchor(weights, components)
        owner = np.frombuffer(anchor.version, dtype=np.uint8).copy()
        finalize(owner, KEPT.forget, anchor.version)  # with the fit, in the process where it began
        return cls(anchor, n_candidates, places_of_neighbours(coordinates), owner)

    def after(self, weights: Array, components: Any) -> Self:
        """Return the lists after an M-step that has come to these parameters."""
        if self.age + 1 < self.term:
            return replace(self, age=self.age + 1)
        return replace(self, anchor=Anchor(weights, components), age=0, term=2 * self.term)

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


def largest(joint: NDArray[Any], n_candidates: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the rows of the largest numbers of each column of `joint` (n_components, n), the largest first."""
    found = np.empty((joint.shape[1], n_candidates), dtype=dtype)
    choose = native.loaded(_choice, joint.dtype.name, dtype.name) if native.pays(math.inf) else None
    if choose is not None:
        n_groups = min(_GROUPS * n_candidates, len(joint))
        choose(joint, np.empty((n_groups, joint.shape[1]), joint.dtype), found)
    else:
        found[...] = np.argsort(-joint, axis=0, kind="stable")[:n_candidates].T  # what is no number comes last
    return found


def fingerprint(rows: NDArray[Any]) -> bytes:
    """Return what tells rows from others, as good as always; the position in the table does not count."""
    words = np.ascontiguousarray(rows).reshape(-1).view(f"u{rows.dtype.itemsize}")
    hashed = native.loaded(_hash, words.dtype.name) if native.pays(math.inf) and words.dtype.isnative else None
    head = f"{rows.dtype.str}{rows.shape}".encode()
    if hashed is not None:
        return head + int(hashed(words)).to_bytes(8, "little")
    return head + hashlib.blake2b(words.tobytes(), digest_size=_BYTES).digest()


def _choice(number: str, lists: str) -> Any:
    from dem.native import listed  # noqa: PLC0415 - imports numba

    return listed.keep_largest(number, lists)


def _hash(word: str) -> Any:
    from dem.native import listed  # noqa: PLC0415 - imports numba

    return listed.fingerprint(word)
