"""Decoded chunks that stay in a worker's memory from pass to pass, as far as there is room.

A batch lives on its worker as long as the fit (the scheduler sends its work back there), and its chunks are kept with
it: they go when the batch goes. A pass reads all batches in the same cycle, and there least-recently-used is the worst
of rules: it drops each chunk just before its turn. So what has found room stays, and what has not is read every time;
with room for half of the data half of the reading is saved.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary, finalize

from dem.data.base import Batch, Chunk
from dem.namespaces import is_on_device


class ChunkCache:
    """Keeps the chunks of batches, never more than `limit` bytes of them.

    Parameters
    ----------
    limit : int
        Bytes of decoded chunks at most; what is kept stays if it is lessened.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.n_bytes = 0
        self._lock = threading.Lock()
        self._kept: WeakKeyDictionary[Batch, list[Chunk]] = WeakKeyDictionary()

    def kept(self, batch: Batch) -> list[Chunk] | None:
        """Return the chunks of a batch if they are in memory."""
        return self._kept.get(batch)

    def keeping(self, batch: Batch, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield the chunks of a batch as they are read, and keep them if there is room."""
        collected: list[Chunk] = []
        held, room = 0, self.limit > 0
        try:
            for chunk in chunks:
                if room:  # of this memory: none of a device's
                    room = not is_on_device(chunk.rows) and self._reserve(chunk.n_bytes)
                    if room:
                        held += chunk.n_bytes
                        collected.append(chunk)
                    else:  # all of a batch or nothing: it is read from its beginning
                        self._release(held)
                        held = 0
                        collected.clear()
                yield chunk
        except BaseException:
            self._release(held)
            raise
        if room and collected:
            with self._lock:
                self._kept[batch] = collected
            finalize(batch, self._release, held)

    def _reserve(self, n_bytes: int) -> bool:
        with self._lock:
            if self.n_bytes + n_bytes > self.limit:
                return False
            self.n_bytes += n_bytes
            return True

    def _release(self, n_bytes: int) -> None:
        with self._lock:
            self.n_bytes -= n_bytes
