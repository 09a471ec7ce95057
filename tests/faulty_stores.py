"""A store of zarr that fails on some reads, in whichever process they are."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from zarr.storage import WrapperStore


class FailingStore(WrapperStore):
    """Fails the first `times` reads of each chunk by an error; of those whose names end in one of `keys`, if given.

    Reads are counted by the lengths of files, so that all processes count together.
    """

    def __init__(self, store, times=1, error=errno.EIO, keys=("",), counts=None):
        super().__init__(store)
        self.times, self.error, self.keys = times, error, keys
        self.counts = Path(counts or tempfile.mkdtemp(dir=os.environ["DASK_TEMPORARY_DIRECTORY"]))

    @property
    def root(self):
        return self._store.root

    async def get(self, key, prototype, byte_range=None):
        if key.startswith("c/") and key.endswith(self.keys):
            with (self.counts / key.replace("/", "-")).open("ab") as file:
                file.write(b".")
                n = file.tell()
            if n <= self.times:
                raise OSError(self.error, "injected")
        return await self._store.get(key, prototype, byte_range)

    def with_read_only(self, read_only=False):
        return type(self)(self._store.with_read_only(read_only), self.times, self.error, self.keys, self.counts)

    def __reduce__(self):
        return type(self), (self._store, self.times, self.error, self.keys, self.counts)
