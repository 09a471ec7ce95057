"""A store that notes what is not in it, and tries again what fails in passing.

zarr reads a chunk that is not in its store as the fill value and says nothing. Here the store is wrapped for each read:
a `get` that comes back empty is a chunk that is missing. Of the chunks inside a shard its index tells, which zarr reads
anyway.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore, ZipStore

from dem.data.base import Corner
from dem.data.retries import Attempts, is_passing, retried, retried_async
from dem.errors import DataError

# What the index of a shard says of a chunk that is not in it.
_ABSENT = np.uint64(2**64 - 1)
# Where a shard's index can be understood without decoding the shard.
_PLAIN_INDEX = {"bytes": 0, "crc32c": 4}


def is_remote(store: Store) -> bool:
    """Tell whether a store is on another machine, whose answers one waits for.

    A network file system looks like one of this machine.
    """
    while isinstance(store, WrapperStore):
        store = store._store  # noqa: SLF001 - it has no other name
    if isinstance(store, FsspecStore):
        names = store.fs.protocol
        return not {"file", "local", "memory"} & {names, *(names if isinstance(names, tuple) else ())}
    return not isinstance(store, LocalStore | MemoryStore | ZipStore)


class CutShortError(DataError):
    """The store holds less than was asked for, of which zarr would make the fill value."""


@dataclass(frozen=True)
class ShardIndex:
    """The index of a shard: of how many chunks, in how many bytes, and whether it is at the start or the end."""

    n_chunks: int
    n_bytes: int
    at_start: bool

    @classmethod
    def of(cls, array: zarr.Array[Any], shards: Corner) -> Self | None:
        """Return that of an array of shards; None if it cannot be understood."""
        codecs: Sequence[Any] = getattr(array.metadata, "codecs", ())
        if len(codecs) != 1:
            return None
        settings = codecs[0].to_dict()["configuration"]
        names = [codec["name"] for codec in settings["index_codecs"]]
        if not set(names) <= _PLAIN_INDEX.keys():
            return None
        n_chunks = math.prod(a // b for a, b in zip(shards, array.chunks, strict=True))
        n_bytes = 16 * n_chunks + sum(_PLAIN_INDEX[name] for name in names)
        return cls(n_chunks, n_bytes, settings["index_location"] == "start")

    def within(self, byte_range: ByteRequest | None) -> bool:
        """Tell whether a request asks for the index, alone or with the whole shard."""
        alone = RangeByteRequest(0, self.n_bytes) if self.at_start else SuffixByteRequest(self.n_bytes)
        return byte_range is None or byte_range == alone

    def absent(self, value: Buffer, byte_range: ByteRequest | None) -> NDArray[np.bool_] | None:
        """Return which chunks a shard lacks, in C order; None if it lacks none or `value` does not hold the index."""
        if not self.within(byte_range):
            return None
        part = value[: self.n_bytes] if self.at_start else value[len(value) - self.n_bytes :]
        return self.lacking(part.to_bytes())

    def lacking(self, stored: bytes) -> NDArray[np.bool_] | None:
        """Return which chunks a shard lacks of which this is the index; None if it lacks none."""
        pairs = np.frombuffer(stored[: 16 * self.n_chunks], "<u8").reshape(-1, 2)
        absent: NDArray[np.bool_] = pairs[:, 0] == _ABSENT
        return absent if absent.any() else None


class WatchedStore(WrapperStore[Store]):
    """A store that notes what is not in it; made for one read, looked at when that is done."""

    def __init__(self, store: Store, index: ShardIndex | None = None) -> None:
        super().__init__(store)
        #: keys of which the store has nothing
        self.absent: set[str] = set()
        #: which chunks are absent from shards, by the key of the shard
        self.inside: dict[str, NDArray[np.bool_]] = {}
        self._index = index

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a value, and note if there is none."""
        value = await retried_async(lambda: self._store.get(key, prototype, byte_range))
        return self._note(key, byte_range, value)

    if hasattr(WrapperStore, "get_sync"):  # newer versions of zarr read without an event loop where the store can

        def get_sync(
            self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
        ) -> Buffer | None:
            """Read a value, and note if there is none."""
            store: Any = self._store
            value = retried(lambda: store.get_sync(key, prototype=prototype, byte_range=byte_range))
            return self._note(key, byte_range, value)

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Read parts of a value, and note if there is none: newer versions of zarr read parts of shards so."""
        store: Any = self._store
        left, attempts = dict(enumerate(byte_ranges)), Attempts()
        try:
            async for group in store.get_ranges(key, byte_ranges, **kwargs):
                for i, value in group:
                    byte_range = left.pop(i)
                    if value is not None:
                        self._check_length(value, byte_range)
                yield group
        except CutShortError:
            raise
        except Exception as error:
            if not is_passing(error):
                self.absent.add(key)
                raise
            for part in attempts.slices(attempts.pause_after(error)):
                await asyncio.sleep(part)
        for i, byte_range in left.items():
            value = await self.get(key, kwargs.get("prototype", default_buffer_prototype()), byte_range)
            if value is None:
                raise FileNotFoundError(key)
            yield [(i, value)]

    def _note(self, key: str, byte_range: ByteRequest | None, value: Buffer | None) -> Buffer | None:
        if value is None:
            self.absent.add(key)
        else:
            self._check_length(value, byte_range)
            if self._index is not None and (absent := self._index.absent(value, byte_range)) is not None:
                self.inside[key] = absent
        return value

    def _check_length(self, value: Buffer, byte_range: ByteRequest | None) -> None:
        least = 1  # no chunk is stored in no bytes
        if self._index is not None and self._index.within(byte_range):
            least = self._index.n_bytes
        elif isinstance(byte_range, RangeByteRequest):
            least = byte_range.end - byte_range.start
        if len(value) < least:
            what = f"of the {least} bytes asked for only {len(value)} are" if len(value) else "it is empty, no byte is"
            message = f"{what} in the store"
            raise CutShortError(message)
