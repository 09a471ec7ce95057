"""Arrays kept beside the chunks of a table from pass to pass, as far as there is room; what is lost is made again.

Nothing here may change a result: what is kept is a function of the rows of the chunk and of what `version` stands for,
so that a worker that has died, another that takes its place and a store that is full cost time alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Key = tuple[bytes, bytes]


class BesideChunks:
    """Keeps one array for each key, never more than `limit` bytes of them.

    A pass comes to all chunks in the same order, so that what has found room stays; see `dem.engine.cache`. Only what
    belongs to fits that nobody asks for any more makes room for others: a process is not told when they end.

    Parameters
    ----------
    limit : int
        Bytes at most; what is kept stays if it is lessened.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.n_bytes = 0
        self._lock = threading.Lock()
        self._kept: dict[Key, tuple[bytes, NDArray[np.unsignedinteger]]] = {}
        self._n_asked, self._last_asked = 0, dict[bytes, int]()

    def get(
        self, key: Key, version: bytes, make: Callable[[], NDArray[np.unsignedinteger]]
    ) -> NDArray[np.unsignedinteger]:
        """Return what is kept with a key if it is of this version; else what `make` makes, kept in the place of it.

        The first part of a key is the fit that it belongs to.
        """
        with self._lock:
            self._n_asked += 1
            self._last_asked[key[0]] = self._n_asked
            before = self._kept.get(key)
        if before is not None and before[0] == version:
            return before[1]
        made = make()
        with self._lock:
            self._drop(key)
            if self.n_bytes + made.nbytes > self.limit:
                self._drop_abandoned()
            if self.n_bytes + made.nbytes <= self.limit:
                self._kept[key] = version, made
                self.n_bytes += made.nbytes
        return made

    def forget(self, owner: bytes) -> None:
        """Drop all that belongs to a fit."""
        with self._lock:
            self._drop_all(owner)

    def _drop_abandoned(self) -> None:
        """Drop what belongs to fits that would have been asked for since, had they not ended."""
        since = self._n_asked - 2 * len(self._kept) - 16
        for owner in [owner for owner, last in self._last_asked.items() if last < since]:
            self._drop_all(owner)

    def _drop_all(self, owner: bytes) -> None:
        self._last_asked.pop(owner, None)
        for key in [key for key in self._kept if key[0] == owner]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self.n_bytes -= gone[1].nbytes


#: of this process; engines say how much it may hold
KEPT = BesideChunks(2**28)
