"""Streams the results of a function of rows into a zarr array, chunk by chunk."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray

from dem.data.atomic import check_destination, remove
from dem.data.base import READ_ROWS, Chunk, Corner, RowMap, Rows, chunk_region
from dem.data.cf import encoded
from dem.data.fingerprint import digest_of
from dem.data.output_progress import Written
from dem.data.unfinished import Sweeper, Told, output

__all__ = ["check_destination", "write_rows"]

# A chunk of results is divided where it would be larger.
RESULT_BYTES = 64 * 2**20
_FRAGMENTS = "fragments"

Region = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class WriteResults:
    """Work that computes the results of a chunk and writes them; returns `Written`.

    A chunk of the result belongs to one task: what covers it only in part is written beside it as a fragment.
    """

    function: RowMap
    path: str
    grid: Corner
    chunks: Corner
    columns: int | None

    def __call__(self, chunk: Chunk) -> Written:
        """Write one chunk."""
        fragments: list[tuple[Corner, Corner]] = []
        tail = () if self.columns is None else (self.columns,)
        for part, lower, upper in self._slabs(chunk):
            shape = tuple(stop - start for start, stop in zip(lower, upper, strict=True))
            results = np.asarray(self.function(part)).reshape(shape + tail)
            # Opened after computing: if the sweep was given up meanwhile, nothing is there any more to write to.
            array = _open(self.path)
            whole, pieces = self._divide(lower, upper)
            if whole is not None:
                array[whole] = results[_shifted(whole, lower)]
            for number, piece in pieces:
                start = tuple(part.start for part in piece)
                values = results[_shifted(piece, lower)]
                place = _fragment_path(self.path, start)  # where a worker that died may have begun it
                zarr.create_array(place, data=values, chunks=values.shape, compressors=None, overwrite=True)
                fragments.append((number, start))
        return Written(len(chunk), np.array(fragments, np.int64))

    def _slabs(self, chunk: Chunk) -> Iterator[tuple[Chunk, Corner, Corner]]:
        """Yield parts of the chunk along the first dimension and their corners: few rows, but whole result chunks."""
        lower = tuple(int(i) for i in np.unravel_index(int(chunk.index[0]), self.grid))
        upper = tuple(int(i) + 1 for i in np.unravel_index(int(chunk.index[-1]), self.grid))
        across = math.prod(stop - start for start, stop in zip(lower[1:], upper[1:], strict=True))
        if across * (upper[0] - lower[0]) != len(chunk):
            message = "a chunk of rows is not a block of the grid; this is an error in the source of the rows"
            raise RuntimeError(message)
        height = self.chunks[0] * max(1, READ_ROWS // (self.chunks[0] * across))
        edges = [lower[0], *range((lower[0] // height + 1) * height, upper[0], height), upper[0]]
        for start, stop in itertools.pairwise(edges):
            part = chunk.take(slice((start - lower[0]) * across, (stop - lower[0]) * across))
            yield part, (start, *lower[1:]), (stop, *upper[1:])

    def _divide(self, lower: Corner, upper: Corner) -> tuple[Region | None, list[tuple[Corner, Region]]]:
        """Divide a block into the part that is whole result chunks, and pieces of the others with their numbers."""
        dimensions = list(zip(lower, upper, self.chunks, self.grid, strict=True))
        inner = [
            (-(-start // size) * size, stop if stop == end else stop // size * size)
            for start, stop, size, end in dimensions
        ]
        whole = tuple(slice(*edges) for edges in inner) if all(start < stop for start, stop in inner) else None
        if whole is not None and inner == list(zip(lower, upper, strict=True)):
            return whole, []
        pieces = []
        for number in itertools.product(*(range(a // size, -(-b // size)) for a, b, size, _ in dimensions)):
            piece = tuple(
                slice(max(a, i * size), min(b, (i + 1) * size))
                for i, (a, b, size, _) in zip(number, dimensions, strict=True)
            )
            if whole is None or any(p.start < w.start or p.stop > w.stop for p, w in zip(piece, whole, strict=True)):
                pieces.append((number, piece))
        return whole, pieces


def write_rows(
    rows: Rows,
    function: RowMap,
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike,
    columns: int | None,
    name: str = "results",
    last: str = "component",
    labels: NDArray[Any] | None = None,
    overwrite: bool = False,
    engine: Sweeper,
    job: Mapping[str, Any] | None = None,
    told: Told = lambda _: None,
) -> None:
    """Write the results of a function of rows to a zarr array (format 3), without ever holding many of them.

    The array has the shape of `rows.grid` (the number of rows, or the grid of an N-d source with its dimension
    names), and a last dimension for `columns`. Its chunks follow those of the source. Where dimensions of the grid have
    coordinates, it is an array of a group, beside these, as xarray has them. It is written under another name and
    renamed once it is whole.

    Parameters
    ----------
    rows : Rows
        The data, read once.
    function : callable
        Picklable; maps a `Chunk` of n rows to results (n,) or (n, columns), of a `dtype`.
    name : str, optional
        What the array is called in a group.
    last : str, optional
        What the last dimension for `columns` is called, where the others have names.
    labels : ndarray of shape (columns,), optional
        Its coordinates.
    path : str or path-like
        Directory or URL to write; the workers must see the same file system.
    overwrite : bool, optional
        Whether something at `path` may be replaced.
    job : mapping of str to what compares equal, optional
        What tells the function from others. With it, what an earlier process has written is gone on with; see
        `dem.data.unfinished.output`.
    told : callable, optional
        Told of that.

    Raises
    ------
    StoreError
        If something is at `path` already, or it cannot be written.
    """
    tail = () if columns is None else (columns,)
    chunks = _result_chunks(rows.grid_chunks, math.prod(tail) * np.dtype(dtype).itemsize)
    names = None if rows.grid_names is None else rows.grid_names + (last,) * len(tail)
    beside = rows.stored_coordinates()
    if beside and tail and labels is not None:
        beside[last] = encoded(labels)
    if job is not None:
        kind = {"what is written": name, "dtype": np.dtype(dtype).str, "shape": repr(rows.grid + tail)}
        coordinates = {f"coordinates of {dim}": _told(*stored) for dim, stored in beside.items()}
        job = {**kind, **job, "chunks": repr(chunks), "names of dimensions": repr(names), **coordinates}
    with output(os.fspath(path), job, rows, engine, overwrite=overwrite) as draft:
        target = f"{draft.path}/{name}" if beside else draft.path
        if draft.is_new:
            if beside:
                group = zarr.create_group(store=draft.path)
                for dim, (values, attributes) in beside.items():
                    _write_coordinates(group, dim, values, attributes, draft.chunk_names)
            zarr.create_array(
                store=target,
                shape=rows.grid + tail,
                chunks=chunks + tail,
                dtype=np.dtype(dtype),
                dimension_names=names,
                fill_value=_absent(np.dtype(dtype)),
                chunk_key_encoding=draft.chunk_names,
            )
        written = draft.sweep(WriteResults(function, target, rows.grid, chunks, columns), engine, told)
        if written.fragments.size:
            _assemble(target, written.fragments, rows.grid, chunks, tail)
            draft.note_assembled()
        if written.fragments.size or not draft.is_new:
            remove(f"{target}/{_FRAGMENTS}")


def _told(values: NDArray[Any], attributes: Mapping[str, Any]) -> str:
    """Return what coordinates are told from others by."""
    plain = values if values.dtype.kind in "biuf" else values.astype(str)
    return f"{digest_of(plain)} {dict(attributes)}"


def _write_coordinates(
    group: zarr.Group, dim: str, values: NDArray[Any], attributes: Mapping[str, Any], chunk_names: Any
) -> None:
    is_text = values.dtype.kind not in "biuf"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that text is no part of the specification of zarr yet
        array = group.create_array(
            dim,
            shape=values.shape,
            chunks=values.shape,
            dtype=str if is_text else values.dtype,
            dimension_names=(dim,),
            attributes=dict(attributes),
            chunk_key_encoding=chunk_names,
        )
        array[...] = values.astype(object) if is_text else values


def _result_chunks(chunks: Corner, row_bytes: int) -> Corner:
    """Return chunks of results that are not too large: the first dimension is cut into equal parts where it must be."""
    size = math.prod(chunks) * row_bytes
    parts = -(-size // RESULT_BYTES)
    divisor = next((n for n in range(parts, 16 * parts) if chunks[0] % n == 0), 1)
    return (chunks[0] // divisor, *chunks[1:])


def _assemble(path: str, fragments: NDArray[np.int64], grid: Corner, chunks: Corner, tail: Corner) -> None:
    """Put the fragments of each result chunk together and write it."""
    waiting: dict[Corner, list[Corner]] = {}
    for number, start in fragments.tolist():
        waiting.setdefault(tuple(number), []).append(tuple(start))
    array = _open(path)
    for number, starts in waiting.items():
        region = chunk_region(number, chunks, grid)
        corner = tuple(part.start for part in region)
        buffer = np.empty(tuple(part.stop - part.start for part in region) + tail, array.dtype)
        for start in starts:
            fragment = np.asarray(zarr.open_array(_fragment_path(path, start), mode="r")[...])
            piece = tuple(slice(a, a + n) for a, n in zip(start, fragment.shape, strict=False))
            buffer[_shifted(piece, corner)] = fragment
        array[region] = buffer


def _open(path: str) -> zarr.Array[Any]:
    return zarr.open_array(path, mode="r+")


def _absent(dtype: np.dtype[Any]) -> Any:
    """Return what no result is: a chunk that gets lost then reads as this, and zeros are written like other results."""
    if dtype.kind == "f":
        return np.nan
    return -1 if dtype.kind == "i" else np.iinfo(dtype).max if dtype.kind == "u" else None


def _fragment_path(path: str, start: Corner) -> str:
    return f"{path}/{_FRAGMENTS}/{'-'.join(map(str, start))}"


def _shifted(region: Region, corner: Corner) -> Region:
    return tuple(slice(part.start - a, part.stop - a) for part, a in zip(region, corner, strict=True))
