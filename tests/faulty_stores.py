"""Stores of zarr that fail on some reads, in memory of each process."""

from __future__ import annotations

import errno

from zarr.storage import WrapperStore


class FailingStore(WrapperStore):
    """Fails the first `times` reads of each chunk by an error; of those whose names end in one of `keys`, if given."""

    def __init__(self, store, times=1, error=errno.EIO, keys=None):
        super().__init__(store)
        self.times, self.error, self.keys, self.counts = times, error, keys, {}

    @property
    def root(self):
        return self._store.root

    async def get(self, key, prototype, byte_range=None):
        if key.startswith("c/") and (self.keys is None or key.endswith(self.keys)):
            self.counts[key] = self.counts.get(key, 0) + 1
            if self.counts[key] <= self.times:
                raise OSError(self.error, "injected")
        return await self._store.get(key, prototype, byte_range)

    def with_read_only(self, read_only=False):
        return type(self)(self._store.with_read_only(read_only), self.times, self.error, self.keys)

    def __reduce__(self):
        return type(self), (self._store, self.times, self.error, self.keys)
