"""Rows of a zarr array: read by whole chunks or shards, each task opening the array for itself."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, Batch, Chunk, Rows, batch_bounds
from dem.data.checks import check_dtype, check_shape
from dem.errors import DataError, DataWarning


class ZarrBatch(Batch):
    """Consecutive reads of a zarr array."""

    def __init__(self, array: zarr.Array[Any], name: str, read_rows: int, first: int, stop: int) -> None:
        self._array = array
        self._name = name
        self._read_rows = read_rows
        self._first, self._stop = first, stop

    def __iter__(self) -> Iterator[Chunk]:
        # Two threads or more read at once: a few requests each are enough.
        with zarr.config.set({"async.concurrency": 4}):
            for number in range(self._first, self._stop):
                start = number * self._read_rows
                stop = min(start + self._read_rows, self._array.shape[0])
                yield Chunk(read_slab(self._array, self._name, start, stop), range(start, stop))


class ZarrRows(Rows):
    """Rows of a 2-D zarr array, of format 2 or 3, sharded or not, with any codec.

    Parameters
    ----------
    array : zarr.Array of shape (n_rows, n_features)
    name : str
        What messages call it.
    """

    def __init__(self, array: zarr.Array[Any], name: str) -> None:
        check_shape(array.shape, name)
        check_dtype(array.dtype, name)
        encoded = [key for key in ("scale_factor", "add_offset", "_FillValue") if key in array.attrs]
        if encoded:
            message = (
                f"{name} has the attributes {', '.join(encoded)}, but the stored values are used as they are; "
                "open it with xarray to have them decoded"
            )
            warnings.warn(message, DataWarning, stacklevel=3)
        self.name = name
        self.array = array
        self.n_rows, self.n_features = array.shape
        self.dtype = array.dtype
        self.feature_names = None
        self.chunk_rows = stored_rows(array)
        chunk_bytes = max(self.chunk_rows * self.n_features * self.dtype.itemsize, 1)
        self.read_rows = self.chunk_rows * max(1, READ_BYTES // chunk_bytes)

    def batches(self) -> Sequence[Batch]:
        """Return batches of whole reads."""
        n_reads = -(-self.n_rows // self.read_rows)
        return [ZarrBatch(self.array, self.name, self.read_rows, *bounds) for bounds in batch_bounds(n_reads)]


def stored_rows(array: zarr.Array[Any]) -> int:
    """Return how many rows are stored together: those of a shard, or of a chunk."""
    return int((array.shards or array.chunks)[0])


def read_slab(array: zarr.Array[Any], name: str, start: int, stop: int) -> NDArray[Any]:
    """Read whole rows; if that fails, find out which chunk it is.

    Raises
    ------
    DataError
        Naming the chunk and its rows.
    """
    try:
        return np.asarray(array[start:stop])
    except Exception as error:  # storage and codecs raise whatever they like
        key, rows, cause = _bad_chunk(array, start, stop) or ("", range(start, stop), error)
        where = f"chunk {key} (rows {rows.start}–{rows.stop - 1})" if key else f"rows {start}–{stop - 1}"
        reason = " ".join(str(cause).split())[:200]
        message = (
            f"{where} of {name} cannot be read or decoded ({type(cause).__name__}: {reason}); restore or rewrite it"
        )
        raise DataError(message) from error


def _bad_chunk(array: zarr.Array[Any], start: int, stop: int) -> tuple[str, range, Exception] | None:
    """Read the chunks of some rows one by one and return the first that fails."""
    chunk_rows, chunk_columns = array.shards or array.chunks
    columns = range(0, array.shape[1], chunk_columns)
    for first, column in itertools.product(range(start, stop, chunk_rows), columns):
        rows = range(first, min(first + chunk_rows, array.shape[0]))
        try:
            array[rows.start : rows.stop, column : column + chunk_columns]
        except Exception as error:  # noqa: BLE001 - as above
            coordinates = (first // chunk_rows, column // chunk_columns)
            return array.metadata.encode_chunk_key(coordinates), rows, error
    return None


def open_zarr(path: str | os.PathLike[str], variable: str | None) -> ZarrRows:
    """Open the array at a path or URL, or a variable of the group there.

    Raises
    ------
    DataError
        If there is nothing, the group has no such variable, or the URL's scheme needs a package.
    """
    path = os.fspath(path)
    try:
        node = zarr.open(path, mode="r")
    except FileNotFoundError as error:
        message = f"there is no zarr array or group at {path}"
        raise DataError(message) from error
    except ImportError as error:
        scheme = path.split("://", 1)[0]
        extra = {"s3": "dask-em[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}.get(scheme)
        advice = f"pip install '{extra}'" if extra else "install the package that fsspec names"
        message = f"reading {scheme}:// needs another package ({error}): {advice}"
        raise DataError(message) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        message = f"{path} cannot be opened as zarr ({type(error).__name__}: {reason})"
        raise DataError(message) from error
    if isinstance(node, zarr.Group):
        return open_member(node, path, variable)
    if variable is not None:
        message = f"{path} is an array, not a group; leave out the variable {variable!r}"
        raise DataError(message)
    return ZarrRows(node, path)


def open_member(group: zarr.Group, path: str, variable: str | None) -> ZarrRows:
    """Open one array of a group."""
    names = sorted(group.array_keys())
    if variable is None and len(names) == 1:
        variable = names[0]
    listed = ", ".join(names) or "none"
    if variable is None:
        message = f"{path} is a group; name one of its arrays with variable= (--variable): {listed}"
        raise DataError(message)
    if variable not in group or not isinstance(array := group[variable], zarr.Array):
        message = f"{path} has no array {variable!r}; its arrays are: {listed}"
        raise DataError(message)
    return ZarrRows(array, f"{path}/{variable}")
