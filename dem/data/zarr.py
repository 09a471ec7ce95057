"""Rows of a zarr array, in memory never more than a few of its chunks."""

from __future__ import annotations

import copy
import itertools
import math
import os
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import zarr
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, READ_ROWS, Batch, Chunk, Rows, batch_bounds
from dem.data.checks import check_table, reason, rows_text
from dem.data.urls import split_scheme
from dem.errors import DataError, DataWarning

# Simultaneous requests of one read; every thread has its own read at the same time.
CONCURRENCY = 4
# A shard that is larger decoded is read in parts.
SHARD_BYTES = 8 * READ_BYTES
# Results have a chunk for each chunk of the data, up to this number.
MAX_RESULT_CHUNKS = 10_000


@dataclass(frozen=True, eq=False)
class ZarrTable:
    """A 2-D zarr array and how to read rows of it; picklable, and an array to Dask.

    Attributes
    ----------
    array : zarr.Array
        The array; it pickles as a description of its store.
    name : str
        What messages call it.
    unit_rows : int
        Rows of the parts that are read whole: chunks, or shards.
    """

    array: zarr.Array[Any]
    name: str
    unit_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the array."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """Two."""
        return len(self.array.shape)

    def __getitem__(self, key: slice | tuple[slice, ...]) -> NDArray[Any]:
        rows = key[0] if isinstance(key, tuple) else key
        start, stop, _ = rows.indices(self.array.shape[0])
        table = self.read(start, stop)
        return table[:, key[1]] if isinstance(key, tuple) and len(key) > 1 else table

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read whole rows.

        Raises
        ------
        DataError
            If a chunk cannot be read or decoded; the message names it.
        """
        try:
            with _few_requests():
                return np.asarray(self.array[start:stop])
        except Exception as error:
            self._find_bad_chunk(start, stop)
            message = f"{rows_text(start, stop)} of {self.name} cannot be read ({reason(error)})"
            raise DataError(message) from error

    def _find_bad_chunk(self, start: int, stop: int) -> None:
        """Read the chunks one by one and raise at the first that fails."""
        height, width = self.array.shards or self.array.chunks
        n_rows, n_features = self.array.shape
        for i, j in itertools.product(range(start // height, -(-stop // height)), range(-(-n_features // width))):
            first, last = i * height, min((i + 1) * height, n_rows)
            try:
                self.array[first:last, j * width : (j + 1) * width]
            except Exception as error:
                key = self.array.metadata.encode_chunk_key((i, j))
                message = (
                    f"chunk {key} of {self.name} ({rows_text(first, last)}) cannot be read ({reason(error)}); "
                    "write it again or take its rows out"
                )
                raise DataError(message) from error


@dataclass(frozen=True, eq=False)
class ZarrBatch(Batch):
    """Reads `first` to `stop` (exclusive) of a zarr array, each of `read_rows` rows."""

    table: ZarrTable
    read_rows: int
    first: int
    stop: int

    def __iter__(self) -> Iterator[Chunk]:
        """Read chunk by chunk."""
        n_rows = self.table.shape[0]
        for number in range(self.first, self.stop):
            start = number * self.read_rows
            end = min(start + self.read_rows, n_rows)
            yield Chunk(self.table.read(start, end), range(start, end))


class ZarrRows(Rows):
    """A 2-D zarr array of either format, sharded or not.

    Parameters
    ----------
    array : zarr.Array
        The array.
    name : str, optional
        What messages call it.

    Raises
    ------
    DataError
        If it is no table of numbers, or empty.

    Warns
    -----
    DataWarning
        If its attributes say that the numbers are packed.
    """

    def __init__(self, array: zarr.Array[Any], name: str | None = None) -> None:
        self.name = name or _name_of(array)
        self.n_rows, self.n_features, self.dtype = check_table(
            self.name, array.shape, array.dtype, "dask.array.from_zarr(path).reshape(-1, 1)"
        )
        self.feature_names = None
        _warn_of_packing(self.name, array)
        row_bytes = self.n_features * self.dtype.itemsize
        self.table = ZarrTable(array, self.name, _unit_rows(array, row_bytes))
        unit = self.table.unit_rows
        self.read_rows = unit * max(1, min(READ_BYTES // row_bytes, READ_ROWS) // unit)
        self._bounds = batch_bounds(-(-self.n_rows // self.read_rows))

    def batches(self) -> list[Batch]:
        """Return ranges of reads: as many as the square root of the chunks asks for."""
        return [ZarrBatch(self.table, self.read_rows, first, stop) for first, stop in self._bounds]

    def divided(self, n_batches: int) -> Rows:
        """Return the same rows in at least `n_batches` batches; see `Rows.divided`. Shards are divided where few."""
        if len(self._bounds) >= n_batches:
            return self
        finer, enough, unit = copy.copy(self), self.n_rows // n_batches, self.table.unit_rows
        if self.table.array.shards is not None and unit > enough:
            unit = _part_of_shard(self.table.array, enough)
        finer.table = replace(self.table, unit_rows=unit)
        finer.read_rows = unit * max(1, min(enough, self.read_rows) // unit)
        vars(finer)["_bounds"] = batch_bounds(-(-self.n_rows // finer.read_rows), n_batches)
        return finer

    @property
    def array(self) -> dask.array.Array:
        """The same rows as a lazy Dask array, a block for each read."""
        name = f"dem-zarr-{uuid.uuid4().hex}"
        chunks, meta = (self.read_rows, self.n_features), np.empty((0, 0), self.dtype)
        lazy: dask.array.Array = dask.array.from_array(self.table, chunks, name=name, asarray=False, meta=meta)
        return lazy

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """Rows per chunk or shard; a multiple of it where there are very many."""
        unit = self.table.unit_rows
        per_read = self.read_rows // unit
        wanted = -(-self.n_rows // (unit * MAX_RESULT_CHUNKS))
        multiple = next((n for n in range(wanted, per_read) if per_read % n == 0), per_read)
        return (min(unit * multiple, self.n_rows),)


def _unit_rows(array: zarr.Array[Any], row_bytes: int) -> int:
    """Return the rows of a chunk or shard; of a part of it that divides it where a shard is large."""
    if array.shards is None:
        return array.chunks[0]
    if array.shards[0] * row_bytes <= SHARD_BYTES:
        return array.shards[0]
    return _part_of_shard(array, READ_BYTES // row_bytes)


def _part_of_shard(array: zarr.Array[Any], most: int) -> int:
    """Return the rows of the largest part of a shard that divides it and has `most` rows at most; else of one chunk."""
    inner, shard = array.chunks[0], (array.shards or array.chunks)[0]
    return inner * max(
        (n for n in range(1, shard // inner + 1) if shard // inner % n == 0 and n * inner <= most), default=1
    )


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


def open_zarr(source: Any, variable: str | None = None) -> ZarrRows:
    """Open a zarr array for reading.

    Parameters
    ----------
    source : str, path-like, zarr.Array or zarr.Group
        Path or URL of an array or of a group, or one that is open.
    variable : str, optional
        The array's name within the group; may be left out if the group holds one array only.

    Raises
    ------
    DataError
        If there is nothing, or nothing suitable.
    """
    if isinstance(source, zarr.Array | zarr.Group):
        name = _name_of(source)
    else:
        name = os.fspath(source)
        source = _open_path(name)
    if isinstance(source, zarr.Group):
        variable, source = _member(source, name, variable)
        name = f"{name.rstrip('/')}/{variable}"
    elif variable is not None:
        message = f"{name} is an array, not a group; leave the variable {variable!r} out"
        raise DataError(message)
    return ZarrRows(source, name)


def _open_path(path: str) -> zarr.Array[Any] | zarr.Group:
    path, scheme = split_scheme(path)
    if scheme is None and not Path(path).exists():
        message = f"there is nothing at {path}; give the path of a zarr array"
        raise DataError(message)
    try:
        return zarr.open(store=path, mode="r")
    except (FileNotFoundError, zarr.errors.NodeNotFoundError) as error:
        message = f"there is no zarr array or group at {path}"
        raise DataError(message) from error
    except Exception as error:  # a store raises whatever its service makes it raise
        message = f"{path} cannot be opened ({reason(error)})"
        raise DataError(message) from error


def _member(group: zarr.Group, name: str, variable: str | None) -> tuple[str, zarr.Array[Any]]:
    if variable is not None:
        try:
            found = group[variable]
        except KeyError:
            found = None
        if isinstance(found, zarr.Array):
            return variable, found
    arrays = dict(group.arrays())
    if variable is None and len(arrays) == 1:
        return next(iter(arrays.items()))
    listing = ", ".join(f"{key} {array.shape}" for key, array in sorted(arrays.items())[:20]) or "no array"
    if variable is None:
        message = f"{name} is a group of several arrays; name one as the variable: {listing}"
        if not arrays:
            message = f"{name} is a group that holds no array; give the path of an array"
    else:
        message = f"{name} has no array {variable!r}; it holds {listing}"
    raise DataError(message)


def _name_of(node: zarr.Array[Any] | zarr.Group) -> str:
    store = node.store_path.store
    root = getattr(store, "root", None) or getattr(store, "path", None)
    base = Path(str(root)).name if root else ""
    return "/".join(part for part in (base, node.path) if part) or "zarr array"


def _warn_of_packing(name: str, array: zarr.Array[Any]) -> None:
    """Say that packed numbers are taken as they are."""
    attributes: Mapping[str, Any] = array.attrs
    packed = [key for key, plain in (("scale_factor", 1), ("add_offset", 0)) if attributes.get(key, plain) != plain]
    packed += [
        key for key in ("_FillValue", "missing_value") if key in attributes and not _is_nan(attributes[key], array)
    ]
    if packed:
        message = (
            f"{name} has the attribute {' and '.join(packed)}, but its numbers are used as they are stored; to decode "
            "them open it with xarray.open_zarr and pass the DataArray"
        )
        warnings.warn(message, DataWarning, stacklevel=5)


def _is_nan(value: Any, array: zarr.Array[Any]) -> bool:
    """Tell whether a fill value is NaN, which is noticed without decoding; xarray stores it as base64 or a string."""
    if array.dtype.kind != "f":
        return False
    if isinstance(value, list):
        return all(_is_nan(item, array) for item in value)
    if isinstance(value, str):
        import base64  # noqa: PLC0415

        if value.lower() == "nan":
            return True
        try:
            value = float(np.frombuffer(base64.b64decode(value), "<f8")[0])
        except (ValueError, IndexError):
            return False
    return isinstance(value, int | float) and math.isnan(value)
