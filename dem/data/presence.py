"""A zarr array whose reads tell which chunks were not there.

zarr reads a chunk that is not in its store as the fill value and says nothing. Here the store is wrapped for each read:
a `get` that comes back empty is a chunk that is missing. Of the chunks inside a shard its index tells, which zarr reads
anyway. Nothing is read twice and nothing is listed; now and then the array's metadata are read along with a chunk, to
see whether the store is still the one that was opened.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import math
import operator
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync
from zarr.storage import LocalStore, StorePath

from dem.data.cf import decoding
from dem.data.checks import reason, rows_text
from dem.data.missing import Missing
from dem.data.watched_store import Seen, ShardIndex, WatchedStore
from dem.errors import DataError, MissingDataError

# Simultaneous requests of one read; every thread has its own read at the same time.
CONCURRENCY = 4
# The name of a chunk or shard, of either format.
_CHUNK_KEY = re.compile(r"(?:c[./])?(\d+(?:[./]\d+)*)")


@dataclass(frozen=True, eq=False)
class WatchedArray:
    """A zarr array whose reads tell which chunks were not there, and whether it is still the one that was opened.

    Attributes
    ----------
    array : zarr.Array
        The array; it pickles as a description of its store.
    name : str
        What messages call it.
    index : ShardIndex, optional
        Of its shards.
    stored : bytes, optional
        Digest of its metadata as they were stored when it was opened; None if there were none to be found.
    is_table : bool
        Whether messages may speak of its rows.
    """

    array: zarr.Array[Any]
    name: str
    index: ShardIndex | None
    stored: bytes | None
    is_table: bool

    @classmethod
    def of(cls, array: zarr.Array[Any], name: str, *, is_table: bool) -> Self:
        """Watch an array; its metadata are read once more.

        Raises
        ------
        MissingDataError
            If they are no longer those of `array`.
        """
        watched = cls(array, name, ShardIndex.of(array), None, is_table)
        now, seen = watched._opened_again()
        if now is None:  # its metadata are kept elsewhere, such as with those of its group
            return watched
        watched._compare(now)
        return dataclasses.replace(watched, stored=_digest(seen.document))

    def read(self, *selection: slice, check: bool) -> tuple[NDArray[Any], Missing]:
        """Read a part of the array.

        Parameters
        ----------
        *selection : slice
            One for each dimension, in steps of 1.
        check : bool
            Whether to see if the store is still the one that was opened.

        Raises
        ------
        MissingDataError
            If it has vanished, or its metadata have changed.
        """
        own = self.array.store_path
        store = WatchedStore(own.store, self._document, self.index, check=check and self.stored is not None)
        path = StorePath(store, own.path)
        metadata: Any = self.array.metadata
        with _few_requests():
            rows = np.asarray(zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=path))[selection])
        if check and self.stored is not None and _digest(store.seen.document) != self.stored:
            self.check()
        return rows, self._missing(selection, store.seen)

    def check(self) -> None:
        """See whether the store is still the one that was opened.

        Raises
        ------
        MissingDataError
            If it has vanished, or its metadata, but for the attributes that decode nothing, have changed.
        """
        if self.stored is None:
            return
        now, seen = self._opened_again()
        if seen.document is None:
            key = self._document.rpartition("/")[2]
            message = (
                f"{self.name} has vanished: its {key} is no longer found (looked for on {socket.gethostname()}); bring "
                "the store back to where every worker finds it, and start again"
            )
            raise MissingDataError(message)
        self._compare(now)
        was, has = decoding(self.array.attrs.asdict()), decoding({} if now is None else now.attrs.asdict())
        if repr(was) != repr(has):  # NaN is unlike itself
            message = (
                f"{self.name} has changed since it was opened: the attributes that decode it were {was} and are {has}; "
                "start again"
            )
            raise MissingDataError(message)

    def _compare(self, now: zarr.Array[Any] | None) -> None:
        """Raise if the array as it is stored now is another one."""
        if now is None:
            changed = ["its metadata cannot be understood"]
        else:
            was, has = _outline(self.array), _outline(now)
            changed = [
                f"its {name} {'were' if name.endswith('s') else 'was'} {was[name]} and "
                f"{'are' if name.endswith('s') else 'is'} {has[name]}"
                for name in was
                if was[name] != has[name]
            ]
            if not changed and _plain(self.array) != _plain(now):
                changed = ["its codecs or the names of its chunks are others"]
        if changed:
            message = (
                f"{self.name} has changed since it was opened: {', '.join(changed)}; wait until it is whole, and start "
                "again"
            )
            raise MissingDataError(message)

    @property
    def _document(self) -> str:
        path, version = self.array.path, self.array.metadata.zarr_format
        return f"{path}/".lstrip("/") + ("zarr.json" if version == 3 else ".zarray")

    def _opened_again(self) -> tuple[zarr.Array[Any] | None, Seen]:
        """Return the array as it is stored now, None if that cannot be opened, and what was seen of the store.

        Raises
        ------
        DataError
            If the store does not answer, which does not tell whether the array is still there.
        """
        own = self.array
        store = WatchedStore(own.store_path.store, self._document)
        try:
            found = zarr.open_array(store=store, path=own.path, mode="r", zarr_format=own.metadata.zarr_format)
        except FileNotFoundError:
            return None, store.seen
        except Exception as error:  # whatever the store raises
            if store.seen.document is None:
                message = f"{self.name} cannot be read ({reason(error)})"
                raise DataError(message) from error
            return None, store.seen
        return found, store.seen

    def _missing(self, selection: Sequence[slice], seen: Seen) -> Missing:
        """Count the chunks that the selection touches, and find those that are missing."""
        shape, outer = self.array.shape, self.array.shards or self.array.chunks
        inner = self.array.chunks if self.index is not None else outer
        bounds = [part.indices(extent)[:2] for part, extent in zip(selection, shape, strict=True)]
        touched = [_touched(start, stop, size) for (start, stop), size in zip(bounds, inner, strict=True)]
        n_chunks = math.prod(len(numbers) for numbers in touched)
        if not seen.absent and not seen.inside:
            return Missing(n_chunks)
        grid = tuple(-(-extent // size) for extent, size in zip(shape, inner, strict=True))
        per_shard = tuple(a // b for a, b in zip(outer, inner, strict=True))
        found: list[NDArray[np.int64]] = []
        for place in itertools.product(*(_touched(*bound, size) for bound, size in zip(bounds, outer, strict=True))):
            key = f"{self.array.path}/".lstrip("/") + self.array.metadata.encode_chunk_key(place)
            absent = np.ones(per_shard, bool) if key in seen.absent else seen.inside.get(key)
            if absent is not None:
                coordinates = np.argwhere(absent.reshape(per_shard)) + np.multiply(place, per_shard)
                within = [
                    (numbers.start <= column) & (column < numbers.stop)
                    for numbers, column in zip(touched, coordinates.T, strict=True)
                ]
                coordinates = coordinates[np.logical_and.reduce(within)]
                found.append(np.ravel_multi_index(tuple(coordinates.T), grid))
        numbers = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
        if not len(numbers):
            return Missing(n_chunks)
        first = tuple(int(i) for i in np.unravel_index(int(numbers[0]), grid))
        digest = hashlib.blake2b(self.name.encode() + numbers.astype("<i8").tobytes(), digest_size=8).digest()
        named = (int(numbers[0]), self._chunk_text(first, seen))
        return Missing(n_chunks, len(numbers), int.from_bytes(digest, "little"), named)

    def _chunk_text(self, place: tuple[int, ...], seen: Seen) -> str:
        """Word which chunk is missing, and where its rows are."""
        sizes, what = self.array.chunks, "chunk"
        shard = tuple(i * a // b for i, a, b in zip(place, sizes, self.array.shards or sizes, strict=True))
        key = self.array.metadata.encode_chunk_key(shard)
        if self.array.shards is None or self.index is None or f"{self.array.path}/".lstrip("/") + key in seen.absent:
            if self.array.shards is not None:
                sizes, what, place = self.array.shards, "shard", shard
            what = f"{what} {key}"
        else:
            what = f"chunk {place}, inside shard {key},"
        region = [
            slice(i * size, min((i + 1) * size, extent))
            for i, size, extent in zip(place, sizes, self.array.shape, strict=True)
        ]
        return f"{what} of {self.name} ({self.word(region)})"

    def word(self, region: Sequence[slice]) -> str:
        """Word which part of the array a region is."""
        if self.is_table:
            return rows_text(region[0].start, region[0].stop)
        return f"[{', '.join(f'{part.start}:{part.stop}' for part in region)}]"


class _Requests:
    """Counts the reads in progress, which share one setting."""

    lock = threading.Lock()
    users = 0
    setting: Any = None


@contextmanager
def _few_requests() -> Iterator[None]:
    """Lower zarr's own concurrency while any thread reads."""
    with _Requests.lock:
        if _Requests.users == 0:
            _Requests.setting = zarr.config.set({"async.concurrency": CONCURRENCY})
            _Requests.setting.__enter__()
        _Requests.users += 1
    try:
        yield
    finally:
        with _Requests.lock:
            _Requests.users -= 1
            if _Requests.users == 0:
                _Requests.setting.__exit__(None, None, None)


def count_stored(array: zarr.Array[Any], seconds: float) -> tuple[int, int, bool]:
    """List which chunks (shards) of an array are in its store.

    Parameters
    ----------
    array : zarr.Array
    seconds : float
        Time after which the listing is given up.

    Returns
    -------
    n_found, n_expected : int
    complete : bool
        Whether all were listed; else there are at least `n_found`.

    Notes
    -----
    Empty files of a local disk are no chunks; to see the sizes of objects would need a request for each.
    """
    grid = tuple(-(-extent // size) for extent, size in zip(array.shape, array.shards or array.chunks, strict=True))
    prefix = f"{array.path}/".lstrip("/")
    n_found = 0
    folder = array.store_path.store.root if isinstance(array.store_path.store, LocalStore) else None

    async def count() -> bool:
        nonlocal n_found
        deadline = time.monotonic() + seconds
        async with asyncio.timeout(seconds):
            async for key in array.store_path.store.list_prefix(prefix):
                place = _CHUNK_KEY.fullmatch(key.removeprefix(prefix))
                if place is not None:
                    numbers = [int(number) for number in re.split(r"[./]", place[1])]
                    is_chunk = len(numbers) == len(grid) and all(map(operator.lt, numbers, grid))
                    n_found += is_chunk and (folder is None or (folder / key).stat().st_size > 0)
                if time.monotonic() > deadline:  # listing a folder never lets the clock interrupt it
                    return False
        return True

    try:
        complete = sync(count())
    except TimeoutError:
        complete = False
    return n_found, math.prod(grid), complete


def _touched(start: int, stop: int, size: int) -> range:
    """Return the numbers of the chunks of one dimension that a part of it touches."""
    return range(start // size, -(-stop // size))


def _digest(document: bytes | None) -> bytes | None:
    return None if document is None else hashlib.blake2b(document, digest_size=16).digest()


def _outline(array: zarr.Array[Any]) -> dict[str, str]:
    """Return what messages tell of an array; the byte order is part of the codecs, and not always of the dtype."""
    dtype = array.dtype.newbyteorder("=")
    return {
        "shape": str(array.shape),
        "dtype": str(dtype),
        "chunks": str(array.chunks),
        "shards": str(array.shards),
        "fill_value": str(array.fill_value),
    }


def _plain(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return the metadata of an array without its attributes, which are not the data."""
    return {**array.metadata.to_dict(), "attributes": None}
