"""Rows of a Dask array: batches carry their piece of the graph and run it themselves, block by block.

One task per block costs a millisecond in the scheduler, whatever the block. So a batch is one task: it holds the culled
graph of its blocks and executes it in order, dropping each intermediate result after its last use. What many batches
need, such as the mean in ``(x - x.mean(0)) / x.std(0)``, is computed once beforehand.
"""

from __future__ import annotations

import copy
import itertools
import math
import uuid
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self, cast

import dask.array
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, Batch, Chunk, Corner, Region, RowMap, Rows, batch_bounds, span_of
from dem.data.checks import check_dtype, check_table, feature_axis, reason
from dem.data.dask_graph import Nodes, batch_edges, check_futures, low_level, run_blocks, shared_values
from dem.data.found import PartlyRead
from dem.errors import DataError, DataWarning
from dem.namespaces import here, is_on_device, on_host, takes_device


@dataclass(eq=False)
class Block(Region):
    """One output of the graph, by its key there, and where its rows stand in the whole table."""

    key: tuple[Hashable, ...]

    def follows(self, other: Block) -> bool:
        """Tell whether both blocks reach across all dimensions but the first, and this is the next one."""
        across = self.shape[1:] == self.whole[1:] == other.shape[1:]
        return across and self.offset[0] == other.offset[0] + other.shape[0]


@dataclass(frozen=True, eq=False)
class DaskBatch(Batch):
    """Consecutive blocks and the graph that makes them; the blocks of a read are joined to one chunk.

    The graph has all nodes that the blocks need, but for the pending ones, which are futures by their keys.
    """

    reads: Sequence[Sequence[Block]]
    graph: Nodes
    futures: Mapping[Hashable, Any]
    n_features: int
    name: str

    @property
    def pending(self) -> Mapping[Hashable, Any]:
        """Blocks that were persisted on a cluster."""
        return self.futures

    @property
    def span(self) -> range | None:
        """Its rows, where the blocks are consecutive ones."""
        return span_of(self.reads[0][0], self.reads[-1][-1], self.n_rows)

    @property
    def index(self) -> range | NDArray[np.int64]:
        """The positions of its rows."""
        blocks = itertools.chain.from_iterable(self.reads)
        return self.span or np.concatenate([block.index() for block in blocks])

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(block.n_rows for block in itertools.chain.from_iterable(self.reads))

    def with_values(self, values: Mapping[Hashable, Any]) -> Self:
        """Return the batch with the results of its futures."""
        known = {key: DataNode(key, value) for key, value in values.items()}
        return replace(self, graph={**self.graph, **known}, futures={})

    def __iter__(self) -> Iterator[Chunk]:
        if self.futures:  # not on the cluster where they lie
            yield from self.with_values({key: future.result() for key, future in self.futures.items()})
            return
        arrays = run_blocks(self.graph, [block.key for block in itertools.chain.from_iterable(self.reads)])
        for read in self.reads:
            # No name for the rows here: it would hold them while the next ones are computed.
            yield join([self._rows(block, arrays) for block in read], [block.index() for block in read])

    def _rows(self, block: Block, arrays: Iterator[Any]) -> NDArray[Any]:
        name = f"the block at {block.offset} of {self.name} ({block.place()})"
        try:
            array = next(arrays)
        except DataError:
            raise
        except Exception as error:  # whatever the user's graph raises
            message = f"{name} cannot be computed ({reason(error)})"
            raise DataError(message) from error
        return checked_block(name, array, (*block.shape, self.n_features)).reshape(block.n_rows, self.n_features)


def checked_block(name: str, array: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return what a graph made as an array of numbers, if it has the shape that Dask was told.

    Raises
    ------
    DataError
        Saying what it is instead.
    """
    if np.ma.is_masked(array):
        message = f"{name} has masked values; drop their rows or fill them first"
        raise DataError(message)
    table: NDArray[Any] = array if is_on_device(array) else np.asarray(array)
    if table.shape != shape:
        message = (
            f"{name} has the shape {table.shape}, though Dask was told {shape}; tell it the right chunks where the "
            "array is made (map_blocks, from_delayed)"
        )
        raise DataError(message)
    check_dtype(name, table.dtype)
    return table


class DaskRows(Rows):
    """Rows of a Dask array; the last dimension holds the features, the others are stacked in C order.

    Parameters
    ----------
    array : dask.array.Array of shape (…, n_features)
    name, feature_names, grid_names
        As of `Rows`.
    """

    #: dask.array imports xarray and pandas, where they are installed
    package_bytes = 110 * 10**6

    def __init__(
        self,
        array: dask.array.Array,
        name: str = "Dask array",
        feature_names: tuple[str, ...] | None = None,
        grid_names: tuple[str, ...] | None = None,
    ) -> None:
        check_futures(array, name)
        array = with_known_chunks(array, name)
        self.name = name
        self.array = array.rechunk({array.ndim - 1: -1})
        shape = (math.prod(array.shape[:-1]), array.shape[-1])
        self.n_rows, self.n_features, self.dtype = check_table(name, shape, array.dtype)
        self.feature_names = feature_names
        self.grid_names = grid_names
        self._at_least = 1

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the array without its features."""
        return tuple(self.array.shape[:-1])

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """The largest chunk along each dimension."""
        return tuple(max(extents) for extents in self.array.chunks[:-1])

    def batches(self) -> Sequence[Batch]:
        """Return batches of whole blocks."""
        return self._batches

    def divided(self, n_batches: int) -> Rows:
        """Return the same rows in at least `n_batches` batches; see `Rows.divided`."""
        finer = copy.copy(self)
        vars(finer).pop("_batches", None)
        vars(finer)["_at_least"] = n_batches
        return finer

    @cached_property
    def _batches(self) -> list[DaskBatch]:
        nodes, pending = low_level(self.array)
        blocks = list(blocks_of(self.array))
        reads = group(blocks, self.n_features * self.dtype.itemsize, len(blocks) // self._at_least)
        keys = [[block.key for block in read] for read in reads]
        bounds = batch_bounds(len(reads), max(self._at_least, 16))
        edges = batch_edges(nodes, keys, [0, *(stop for _, stop in bounds)])
        outputs = [list(itertools.chain.from_iterable(keys[a:b])) for a, b in itertools.pairwise(edges)]
        nodes |= shared_values(nodes, pending, outputs, self.name)
        parts = zip(itertools.pairwise(edges), outputs, strict=True)
        return [self._batch(reads[start:stop], wanted, nodes, pending) for (start, stop), wanted in parts]

    def _batch(
        self, reads: Sequence[Sequence[Block]], wanted: list[Any], nodes: Nodes, pending: Mapping[Hashable, Any]
    ) -> DaskBatch:
        needed = cull(nodes, wanted)[0]
        own = {key: node for key, node in needed.items() if key not in pending}
        lying = {key: pending[key] for key in needed if key in pending}
        return DaskBatch(reads, own, lying, self.n_features, self.name)

    def blocks(self) -> dict[Corner, DaskBatch] | None:
        """Return each block by its number, to be computed alone; None where there is no need to compute any.

        That is where the blocks are in memory already, here or on a cluster.
        """
        nodes, pending = low_level(self.array)
        values = (getattr(node, "value", None) for node in nodes.values() if isinstance(node, DataNode))
        if pending or sum(getattr(value, "nbytes", 0) for value in values if isinstance(value, np.ndarray)) >= (
            self.array.nbytes // 2
        ):
            return None
        blocks = {cast("Corner", block.key[1:-1]): block for block in blocks_of(self.array)}
        nodes |= shared_values(nodes, pending, [[block.key] for block in blocks.values()], self.name)
        return {number: self._batch([[block]], [block.key], nodes, pending) for number, block in blocks.items()}


def with_known_chunks(array: dask.array.Array, name: str) -> dask.array.Array:
    """Return an array whose blocks have known lengths, which may have to be computed."""
    if not np.isnan(array.shape).any():
        return array
    try:
        # On a copy: the method changes its array.
        return cast("dask.array.Array", array.copy().compute_chunk_sizes())
    except DataError:
        raise
    except Exception as error:  # whatever the user's graph raises
        message = f"the lengths of the blocks of {name} cannot be computed ({reason(error)})"
        raise DataError(message) from error


def open_dask_array(array: dask.array.Array, feature_dim: str | int | None = None) -> DaskRows:
    """Open a Dask array; one of more than two dimensions with the number of the one that holds the features.

    Raises
    ------
    DataError
        If it has another number of dimensions or no numbers.
    """
    name = "Dask array"
    if array.ndim < 2:
        check_table(name, array.shape, array.dtype)
    feature = feature_axis(name, array.ndim, None, feature_dim)
    if feature != array.ndim - 1:
        array = dask.array.moveaxis(array, feature, -1)
    if array.ndim == 2:
        warn_of_column_chunks(name, array)
    return DaskRows(array, name)


def warn_of_column_chunks(name: str, array: dask.array.Array) -> None:
    """Say that blocks are put together on every read where none holds all the features."""
    if array.numblocks[-1] > 1:
        message = (
            f"{name} is chunked along its columns ({array.numblocks[-1]} chunks), and whole rows are needed: it is "
            "rechunked on every read; rechunk it and store it once"
        )
        warnings.warn(message, DataWarning, stacklevel=3)


class Beside(Protocol):
    """What goes with rows; see `dem.data.joined`."""

    def __call__(self, chunk: Chunk) -> Chunk:
        """Return a chunk with what goes with its rows."""

    def cut(self, index: range | NDArray[np.int64]) -> Any:
        """Return what has to travel with some rows."""


@dataclass(frozen=True, eq=False)
class _BlockMap:
    """What `map_blocks` does to a block at a place; picklable, as labels that an estimator keeps must be."""

    function: RowMap
    dtype: np.dtype[Any]
    columns: int | None
    n_features: int
    place: Region
    beside: Beside | None

    def __call__(self, block: Any) -> NDArray[Any]:
        """Return the results of all rows of a block."""
        tail = () if self.columns is None else (self.columns,)
        unread = None
        if isinstance(block, PartlyRead):
            unread, block = np.ma.getmaskarray(block)[..., 0].ravel(), np.ma.getdata(block)
        block = checked_block("a block of the Dask array", block, (*self.place.shape, self.n_features))
        if 0 in self.place.shape:
            return np.empty(self.place.shape + tail, self.dtype)
        chunk = Chunk(block.reshape(-1, self.n_features), self.place.index(), unread=unread)
        if self.beside is not None:
            chunk = self.beside(chunk)
        if not takes_device(self.function):
            chunk = on_host(chunk)
        return np.asarray(self.function(chunk)).reshape(self.place.shape + tail)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with its own part of what goes with the rows."""
        beside = None if self.beside is None else self.beside.cut(self.place.index())
        return type(self), (self.function, self.dtype, self.columns, self.n_features, self.place, beside)


def map_blocks(
    array: dask.array.Array,
    function: RowMap,
    dtype: np.dtype[Any],
    columns: int | None,
    beside: Beside | None = None,
) -> dask.array.Array:
    """Apply a function of rows lazily to an array (…, n_features), block by block; returns (…) or (…, columns)."""
    array = array.rechunk({array.ndim - 1: -1})
    tail = () if columns is None else (columns,)
    name, n_features = f"dem-rows-{uuid.uuid4().hex}", array.shape[-1]
    layer: Nodes = {}
    for place, region in regions_of(array):
        key = (name, *place, *(0 for _ in tail))
        work = _BlockMap(function, dtype, columns, n_features, region, beside)
        layer[key] = Task(key, work, TaskRef((array.name, *place, 0)))
    return dask.array.Array(
        HighLevelGraph(
            {**array.dask.layers, name: layer}, {**array.dask.dependencies, name: {*array.__dask_layers__()}}
        ),
        name,
        (*array.chunks[:-1], *((extent,) for extent in tail)),
        meta=np.empty((0,) * (array.ndim - 1 + len(tail)), dtype),
    )


def regions_of(array: dask.array.Array) -> Iterator[tuple[Corner, Region]]:
    """Yield the numbers and places of the blocks of an array in C order, along all its dimensions but the last."""
    chunks = array.chunks[:-1]
    offsets = [list(itertools.accumulate((0, *extents[:-1]))) for extents in chunks]
    for place in itertools.product(*(range(len(extents)) for extents in chunks)):
        shape = tuple(extents[i] for extents, i in zip(chunks, place, strict=True))
        offset = tuple(starts[i] for starts, i in zip(offsets, place, strict=True))
        yield place, Region(offset, shape, array.shape[:-1])


def blocks_of(array: dask.array.Array) -> Iterator[Block]:
    """Yield the blocks of an array in C order, without the empty ones."""
    for place, region in regions_of(array):
        if 0 not in region.shape:
            yield Block(region.offset, region.shape, region.whole, (array.name, *place, 0))


def group(blocks: Sequence[Block], row_bytes: int, most: int) -> list[list[Block]]:
    """Join blocks, `most` at most, up to `READ_BYTES` that are a larger block of the grid (and consecutive rows)."""
    reads: list[list[Block]] = []
    size = 0
    for block in blocks:
        n_bytes = block.n_rows * row_bytes
        if reads and size + n_bytes <= READ_BYTES and len(reads[-1]) < most and block.follows(reads[-1][-1]):
            reads[-1].append(block)
            size += n_bytes
        else:
            reads.append([block])
            size = n_bytes
    return reads


def join(rows: Sequence[NDArray[Any]], indices: Sequence[range | NDArray[np.int64]]) -> Chunk:
    """Return one chunk of several blocks that follow one another."""
    if len(rows) == 1:
        return Chunk(rows[0], indices[0])
    return Chunk(here(rows[0]).concatenate(rows), range(int(indices[0][0]), int(indices[-1][-1]) + 1))
