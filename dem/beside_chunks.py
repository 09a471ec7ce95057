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

    A pass comes to all chunks in the same order, so that what has found room stays; see `dem.engine.cache`.

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

    def get(
        self, key: Key, version: bytes, make: Callable[[], NDArray[np.unsignedinteger]]
    ) -> NDArray[np.unsignedinteger]:
        """Return what is kept with a key if it is of this version; else what `make` makes, kept in the place of it."""
        with self._lock:
            before = self._kept.get(key)
        if before is not None and before[0] == version:
            return before[1]
        made = make()
        with self._lock:
            self._drop(key)
            if self.n_bytes + made.nbytes <= self.limit:
                self._kept[key] = version, made
                self.n_bytes += made.nbytes
        return made

    def forget(self, owner: bytes) -> None:
        """Drop all whose keys begin with `owner`."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                self._drop(key)

    def _drop(self, key: Key) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self.n_bytes -= gone[1].nbytes


#: of this process; engines say how much it may hold
KEPT = BesideChunks(2**28)
