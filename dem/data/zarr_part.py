"""A zarr array whose reads tell which chunks were not there, and whether it is still the one that was opened.

Each read goes through a store of its own that notes what is not there (`zarr_watch`). Nothing is read twice and nothing
is listed; now and then the array's metadata are read along with its chunks.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer
from zarr.core.sync import sync
from zarr.storage import MemoryStore, StorePath

from dem.data.base import Corner, chunk_counts, chunk_region, chunks_in
from dem.data.cf import Packing, decoding, packing_of
from dem.data.checks import reason, rows_text
from dem.data.found import REPAIR, LeftOut, Missing
from dem.data.retries import is_passing, retried_async, tried, tried_once
from dem.data.zarr_native import is_wanted, native_values
from dem.data.zarr_salvage import Salvage
from dem.data.zarr_watch import ShardIndex, WatchedStore
from dem.errors import DataError, MissingDataError
from dem.shared_setting import shared_setting

# Requests of one read at once, and chunks decoded at once, which take memory at once: every thread has its own read.
_AT_ONCE = 4
_few_requests = shared_setting(lambda: zarr.config.set({"async.concurrency": _AT_ONCE}))
# Properties that messages tell of, and how they word them.
_ONE, _SEVERAL = ("was", "is"), ("were", "are")
_OUTLINE = {"shape": _ONE, "dtype": _ONE, "chunks": _SEVERAL, "shards": _SEVERAL, "fill_value": _ONE}
# The metadata of an array of either format, by their names in the store; what else is there may be left out.
_DOCUMENTS = {2: (".zarray", ".zattrs"), 3: ("zarr.json",)}


class Block(NamedTuple):
    """What a read of a block of the grid brings: its values, what is missing, and which points could not be read."""

    values: NDArray[Any]
    missing: Missing
    unread: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class ZarrPart:
    """A zarr array that holds all the features, or one of them; it pickles as a description of its store."""

    array: zarr.Array[Any]
    #: what messages call it
    name: str
    #: its axes in the order of the grid, behind them that of the features if it has one
    axes: Corner
    has_features: bool
    packing: Packing | None
    index: ShardIndex | None
    #: digest of its metadata as they were stored when it was opened; None if there were none to be found
    stored: bytes | None = None
    #: whether zarrs may read it
    may_be_native: bool = False

    @classmethod
    def of(cls, array: zarr.Array[Any], name: str, axes: Corner, *, has_features: bool) -> Self:
        """Watch an array; raises `MissingDataError` if its metadata, read once more, are no longer those."""
        packing = packing_of(array, name) if array.attrs else None
        index = None if array.shards is None else ShardIndex.of(array, array.shards)
        part = cls(array, name, axes, has_features, packing, index, may_be_native=is_wanted())
        documents = part._documents()
        main = documents.get(_DOCUMENTS[array.metadata.zarr_format][0])
        if main is None:  # its metadata are kept elsewhere, such as with those of its group
            return part
        part._compare(documents)
        return replace(part, stored=_digest(main))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the decoded numbers."""
        return self.array.dtype if self.packing is None else self.packing.dtype

    @property
    def fill_value(self) -> str:
        """What a missing chunk would count as, in words: the value stored, and that which it is decoded to."""
        stored = self.array.dtype.type(0 if self.array.fill_value is None else self.array.fill_value)
        if self.packing is None:
            return str(stored)
        decoded = self.packing.decode(np.array([stored]))[0]
        return f"{stored} ({'NaN' if np.isnan(decoded) else decoded} after decoding)"

    @property
    def n_features(self) -> int:
        """How many features it holds."""
        return int(self.array.shape[self.axes[-1]]) if self.has_features else 1

    def decoding_bytes(self, block: Corner) -> int:
        """Return the bytes that zarr takes at most to read a block of the grid, beside what it returns.

        What is stored counts as much as it is decoded to: numbers that are measured hardly compress.
        """
        array, itemsize = self.array, self.array.dtype.itemsize
        region = list(array.shape)
        for axis, extent in zip(self.axes, block, strict=False):
            region[axis] = extent

        def several(sizes: Sequence[int]) -> int:
            n = math.prod(-(-extent // size) for extent, size in zip(region, sizes, strict=True))
            return min(n, _AT_ONCE)

        chunks = several(array.chunks) * math.prod(array.chunks)
        if array.shards is None:
            return 2 * itemsize * chunks
        one = math.prod(min(extent, size) for extent, size in zip(region, array.shards, strict=True))
        return itemsize * (2 * several(array.shards) * one + chunks)

    def along(self, extents: Sequence[int]) -> Corner:
        """Return the extents of its axes in the order of the grid."""
        return tuple(extents[axis] for axis in self.axes)

    def read(
        self, block: Sequence[slice], *, check: bool, known: Sequence[tuple[tuple[int, int], ...]] | None = None
    ) -> Block:
        """Read a block of the grid, with all features at the end, and tell what of it is missing.

        Raises `DataError` if a chunk cannot be read or decoded, which it names, or if the store is no longer the one
        that was opened, as far as that is seen or with `check` is looked for. Where regions that cannot be read are
        `known`, if none yet, chunks that cannot be read are left out, and these are not tried.
        """
        region = [slice(0, extent) for extent in self.array.shape]
        for axis, part in zip(self.axes, block, strict=False):  # but for the axis of the features
            region[axis] = part
        try:
            if any(_overlap(region, other) for other in known or ()):
                if check:
                    self.check()
                return self._salvaged(region, known or ())
            stored, missing = self._read(region, check=check)
        except MissingDataError:
            raise
        except Exception as error:
            if known is not None:
                self.check()
                return self._salvaged(region, known)
            with tried_once() if is_passing(error) else nullcontext():  # it has been tried again and again
                self.check()
                self._find_bad_chunk(region, tried(error))
            message = f"{self._word(region)} of {self.name} cannot be read ({reason(error)}{tried(error)})"
            raise DataError(message) from error
        return self._block(stored, missing, None)

    def _block(self, stored: NDArray[Any], missing: Missing, unread: NDArray[np.bool_] | None) -> Block:
        decoded = stored if self.packing is None else self.packing.decode(stored)
        if unread is not None:
            unread = unread.transpose(self.axes)
            unread = np.asarray(unread.any(axis=-1)) if self.has_features else unread
        return Block(decoded.transpose(self.axes), missing, unread)

    def _salvaged(self, region: Sequence[slice], known: Sequence[tuple[tuple[int, int], ...]]) -> Block:
        """Read what can be read of a region."""
        outer = self.array.shards or self.array.chunks
        inner = outer if self.index is None else self.array.chunks
        watched = WatchedStore(self.array.store_path.store, self.index)
        shape, corner = tuple(part.stop - part.start for part in region), tuple(part.start for part in region)
        values, unread = np.zeros(shape, self.array.dtype), np.zeros(shape, bool)

        def read(part: Sequence[slice]) -> NDArray[Any]:
            own = WatchedStore(self.array.store_path.store, self.index)
            found = self._values(own, part)
            watched.absent |= own.absent  # of what fails nothing is known
            watched.inside.update(own.inside)
            return found

        salvage = Salvage(read, self._left_out, outer, inner, known, corner, values, unread)
        salvage.fill(tuple(region))
        missing = replace(self._missing(region, watched), left_out=tuple(salvage.left_out))
        return self._block(values, missing, unread)

    def _left_out(self, region: Sequence[slice], error: BaseException) -> LeftOut:
        """Return what is said of a region, of one chunk or shard, that cannot be read."""
        outer = self.array.shards or self.array.chunks
        number = tuple(part.start // size for part, size in zip(region, outer, strict=True))
        name = self._file(number)
        if self.array.shards is not None and chunk_region(number, outer, self.array.shape) != tuple(region):
            inner = [part.start // size for part, size in zip(region, self.array.chunks, strict=True)]
            is_one = math.prod(map(len, chunks_in(region, self.array.chunks))) == 1
            name = f"chunk {tuple(inner)}, inside {name}," if is_one else f"a part of {name}"
        place = tuple((part.start, part.stop) for part in region)
        why = reason(error) + tried(error)
        return LeftOut(self.name, place, f"{name} of {self.name}", self._word(region), why)

    def check(self) -> None:
        """Raise `MissingDataError` if the store has vanished, or what its metadata say of the numbers has changed."""
        if self.stored is None:
            return
        documents, main = self._documents(), _DOCUMENTS[self.array.metadata.zarr_format][0]
        if main not in documents:
            message = (
                f"{self.name} has vanished: its {main} is no longer found (looked for on "
                f"{socket.gethostname()}); bring the store back to where every worker finds it, and start again"
            )
            raise MissingDataError(message)
        now = self._compare(documents)
        was, has = decoding(self.array.attrs.asdict()), decoding(now.attrs.asdict())
        if repr(was) != repr(has):  # NaN is unlike itself
            what = f"the attributes that decode it were {was} and are {has}"
            raise self._changed(what, first="")

    def _watched(self, store: WatchedStore) -> Any:
        path = StorePath(store, self.array.store_path.path)
        return zarr.AsyncArray(metadata=self.array.metadata, store_path=path)

    @_few_requests()
    def _values(self, store: WatchedStore, region: Sequence[slice]) -> NDArray[Any]:
        return np.asarray(zarr.Array(self._watched(store))[tuple(region)])

    @_few_requests()
    def _read(self, region: Sequence[slice], *, check: bool) -> tuple[NDArray[Any], Missing]:
        own, metadata, selection = self.array.store_path, self.array.metadata, tuple(region)
        store, looks = WatchedStore(own.store, self.index), check and self.stored is not None
        main = own / _DOCUMENTS[metadata.zarr_format][0]
        rows: Any = native_values(self, self.array, self.index, region, self._key) if self.may_be_native else None
        if rows is not None:
            document = sync(retried_async(main.get)) if looks else None
        elif looks:
            array = self._watched(store)

            async def read_both() -> tuple[Any, Buffer | None]:
                return await asyncio.gather(array.getitem(selection), retried_async(main.get))

            rows, document = sync(read_both())
        else:
            return self._values(store, region), self._missing(region, store)
        if looks and (document is None or _digest(document) != self.stored):
            self.check()
        return np.asarray(rows), self._missing(region, store)

    def _find_bad_chunk(self, region: Sequence[slice], how_often: str) -> None:
        """Read the chunks one by one and raise at the first that fails; where it is one of a shard, name that one."""
        sizes = self.array.shards or self.array.chunks
        for number in itertools.product(*chunks_in(region, sizes)):
            chunk = chunk_region(number, sizes, self.array.shape)
            try:
                self._read(chunk, check=False)
            except Exception as error:
                inside = self._salvaged(chunk, ()).missing.left_out if self.array.shards else ()
                bad = inside[0] if len(inside) == 1 else self._left_out(chunk, error)
                message = f"{bad.name} ({bad.where}) cannot be read ({reason(error)}{how_often}); {REPAIR}"
                raise DataError(message) from error

    def _documents(self) -> dict[str, Buffer]:
        """Return the array's metadata as they are stored now, as far as there are any.

        A store that does not answer is a `DataError`: it does not tell whether the array is still there.
        """
        names = _DOCUMENTS[self.array.metadata.zarr_format]

        async def read() -> list[Buffer | None]:
            gets = [(self.array.store_path / name).get for name in names]
            return await asyncio.gather(*map(retried_async, gets))

        try:
            found = sync(read())
        except Exception as error:  # whatever the store raises
            message = f"{self.name} cannot be read ({reason(error)})"
            raise DataError(message) from error
        return {name: document for name, document in zip(names, found, strict=True) if document is not None}

    def _compare(self, documents: dict[str, Buffer]) -> zarr.Array[Any]:
        """Return the array that is stored now; raises `MissingDataError` if it is another one."""
        try:
            version = self.array.metadata.zarr_format
            now = zarr.open_array(store=MemoryStore(documents), mode="r", zarr_format=version)
        except Exception as error:  # whatever zarr makes of it
            what = "its metadata cannot be understood"
            raise self._changed(what) from error
        if now.metadata == self.array.metadata:
            return now
        told = [(name, verbs, _told(self.array, name), _told(now, name)) for name, verbs in _OUTLINE.items()]
        changed = [f"its {name} {verbs[0]} {was} and {verbs[1]} {has}" for name, verbs, was, has in told if was != has]
        if not changed and _plain(self.array) != _plain(now):
            changed = ["its codecs or the names of its chunks are others"]
        if changed:
            raise self._changed(", ".join(changed))
        return now

    def _changed(self, what: str, first: str = "wait until it is whole, and ") -> MissingDataError:
        return MissingDataError(f"{self.name} has changed since it was opened: {what}; {first}start again")

    def _missing(self, region: Sequence[slice], store: WatchedStore) -> Missing:
        """Count the chunks that the region touches, and find those that are missing."""
        outer = self.array.shards or self.array.chunks
        inner = outer if self.index is None else self.array.chunks
        touched = chunks_in(region, inner)
        n_chunks = math.prod(map(len, touched))
        if not store.absent and not store.inside:
            return Missing(n_chunks)
        per_shard = tuple(a // b for a, b in zip(outer, inner, strict=True))
        found = [np.empty((0, len(outer)), np.int64)]
        for number in itertools.product(*chunks_in(region, outer)):
            key = self._key(number)
            absent = np.ones(per_shard, bool) if key in store.absent else store.inside.get(key)
            if absent is not None:
                found.append(np.argwhere(absent.reshape(per_shard)) + np.multiply(number, per_shard))
        places = np.concatenate(found)
        first, stop = ([getattr(part, end) for part in touched] for end in ("start", "stop"))
        places = places[((first <= places) & (places < stop)).all(axis=1)]
        if not len(places):
            return Missing(n_chunks)
        numbers = np.ravel_multi_index(tuple(places.T), chunk_counts(self.array.shape, inner))
        place = tuple(places[numbers.argmin()].tolist())
        shard = tuple(int(i) // n for i, n in zip(place, per_shard, strict=True))
        if self.index is None or self._key(shard) in store.absent:
            what, where = self._file(shard), chunk_region(shard, outer, self.array.shape)
        else:
            what = f"chunk {place}, inside {self._file(shard)},"
            where = chunk_region(place, inner, self.array.shape)
        told = f"{what} of {self.name} ({self._word(where)})"
        digest = hashlib.blake2b(self.name.encode() + np.sort(numbers).astype("<i8").tobytes(), digest_size=8).digest()
        return Missing(n_chunks, len(numbers), int.from_bytes(digest, "little"), (int(numbers.min()), told))

    def _key(self, number: Sequence[int]) -> str:
        """Return the name of a chunk or shard in the store."""
        return f"{self.array.path}/".lstrip("/") + self.array.metadata.encode_chunk_key(tuple(number))

    def _file(self, number: Sequence[int]) -> str:
        """Word which chunk or shard it is."""
        what = "chunk" if self.array.shards is None else "shard"
        return f"{what} {self.array.metadata.encode_chunk_key(tuple(number))}"

    def _word(self, region: Sequence[slice]) -> str:
        """Word which part of the array a region is."""
        if self.has_features and self.axes == (0, 1):  # a table
            return rows_text(region[0].start, region[0].stop)
        return f"[{', '.join(f'{part.start}:{part.stop}' for part in region)}]"


def _overlap(region: Sequence[slice], other: Sequence[tuple[int, int]]) -> bool:
    return all(part.start < stop and start < part.stop for part, (start, stop) in zip(region, other, strict=True))


def _digest(document: Buffer) -> bytes:
    return hashlib.blake2b(document.to_bytes(), digest_size=16).digest()


def _told(array: zarr.Array[Any], name: str) -> str:
    """Word a property of an array; the byte order is part of the codecs, and not always of the dtype."""
    return str(array.dtype.newbyteorder("=") if name == "dtype" else getattr(array, name))


def _plain(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return the metadata of an array without its attributes, which are not the data."""
    return {**array.metadata.to_dict(), "attributes": None}
