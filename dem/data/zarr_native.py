"""Chunks in files of this machine, read and decoded by zarrs (compiled Rust) where it is installed.

It gives the values that zarr gives, but says nothing of chunks that are missing and tries nothing again. So it is asked
for whole, plain files alone; whatever else there is, or goes wrong, is read by zarr, which tells of it.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import dask
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync
from zarr.storage import LocalStore, StorePath

from dem.data.base import chunks_in
from dem.data.zarr_watch import ShardIndex
from dem.errors import OptionError

#: the setting that says who decodes: `auto` is zarrs where it is installed
SETTING = "dem.codec-pipeline"
# Codecs, of either format, that give back the bytes they were given, whoever decodes them.
_EXACT = {"bytes", "transpose", "sharding_indexed", "crc32c", "zstd", "blosc", "gzip"}
# Chunks that are decoded at once for a read; as zarr does here.
_AT_ONCE = 4
_lock = threading.Lock()
_arrays: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def is_wanted() -> bool:
    """Tell whether zarrs is to decode wherever it is installed.

    Raises
    ------
    OptionError
        If the setting is another, or asks for what is not installed.
    """
    given = dask.config.get(SETTING, "auto")
    if given not in ("auto", "zarrs", "zarr"):
        message = f"{SETTING} must be 'auto', 'zarrs' or 'zarr', not {given!r}"
        raise OptionError(message)
    if given == "zarrs" and not _is_installed():
        message = f"{SETTING} asks for zarrs, which is not installed: pip install 'dask-em[zarrs]'"
        raise OptionError(message)
    return bool(given != "zarr")


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("zarrs") is not None


def native_values(
    owner: Any, array: zarr.Array[Any], index: ShardIndex | None, region: Sequence[slice], key: Callable[..., str]
) -> NDArray[Any] | None:
    """Return the values of a region of an array; None where zarr has to read it.

    Parameters
    ----------
    owner : object
        With which what is needed to read the array is kept.
    array : zarr.Array
    index : ShardIndex, optional
        Of its shards.
    region : sequence of slice
    key : callable
        Returns the key in the store of a chunk or shard, given its number.
    """
    if not _is_installed() or (reader := _reader(owner, array, index)) is None:
        return None
    store: Any = array.store_path.store
    outer = array.shards or array.chunks
    files = [Path(store.root) / key(number) for number in itertools.product(*chunks_in(region, outer))]
    before = _signatures(files, index)
    if before is None:
        return None
    try:
        values = np.asarray(sync(reader.getitem(tuple(region))))
    except Exception:  # noqa: BLE001 - zarr finds out what it is
        return None
    return values if _signatures(files, index) == before else None


def _signatures(files: Sequence[Path], index: ShardIndex | None) -> list[tuple[int, int, int, int]] | None:
    """Return what tells files from others, read before and after; None if one is not whole."""
    found = []
    for file in files:
        try:
            told = file.stat()
            if not stat.S_ISREG(told.st_mode) or told.st_size < (1 if index is None else index.n_bytes):
                return None
            if index is not None and index.lacking(_index_of(file, index, told.st_size)) is not None:
                return None
        except OSError:
            return None
        found.append((told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns))
    return found


def _index_of(file: Path, index: ShardIndex, size: int) -> bytes:
    with file.open("rb") as opened:
        return os.pread(opened.fileno(), index.n_bytes, 0 if index.at_start else size - index.n_bytes)


def _reader(owner: Any, array: zarr.Array[Any], index: ShardIndex | None) -> Any:
    """Return the array as zarrs reads it; None if that is not sure to give the same."""
    with _lock:
        if owner not in _arrays:
            _arrays[owner] = _made(array) if _is_exact(array, index) else None
        return _arrays[owner]


def _is_exact(array: zarr.Array[Any], index: ShardIndex | None) -> bool:
    dtype, metadata = array.dtype, array.metadata
    if type(array.store_path.store) is not LocalStore or dtype.kind not in "biuf" or not dtype.isnative:
        return False
    if dtype.itemsize > 8 or (array.shards is not None and index is None):
        return False
    if metadata.zarr_format == 2:
        compressor: Any = metadata.compressor
        return not metadata.filters and (compressor is None or compressor.codec_id in _EXACT)
    return _names(metadata.to_dict()["codecs"]) <= _EXACT


def _names(codecs: Any) -> set[str]:
    """Return the names of codecs, with those inside of shards; the empty name of what tells none."""
    names = set()
    for codec in codecs:
        names.add(codec.get("name", ""))
        inside = codec.get("configuration", {})
        names |= _names([*inside.get("codecs", ()), *inside.get("index_codecs", ())])
    return names


def _made(array: zarr.Array[Any]) -> Any:
    import zarrs  # noqa: PLC0415 - where it is installed

    path = StorePath(array.store_path.store, array.store_path.path)
    reader = zarr.AsyncArray(metadata=array.metadata, store_path=path)
    try:
        with zarr.config.set({"codec_pipeline.strict": True, "codec_pipeline.chunk_concurrent_maximum": _AT_ONCE}):
            pipeline = zarrs.ZarrsCodecPipeline.from_array_metadata_and_store(array.metadata, path.store)
    except Exception:  # noqa: BLE001 - a codec or a type that it does not know
        return None
    object.__setattr__(reader, "codec_pipeline", pipeline)
    return reader
