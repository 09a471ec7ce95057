"""Rows of a Dask array: batches carry their piece of the graph and run it themselves, block by block.

One task per block costs a millisecond in the scheduler, whatever the block. So a batch is one task: it holds the culled
graph of its blocks and executes it in order, dropping each intermediate result after its last use. What many batches
need, such as the mean in ``(x - x.mean(0)) / x.std(0)``, is computed once beforehand.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self, cast

import dask.array
import dask.base
import dask.threaded
import numpy as np
from dask._task_spec import DataNode, GraphNode, convert_legacy_graph
from dask.core import toposort
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, Batch, Chunk, Rows, batch_bounds
from dem.data.checks import check_table, reason
from dem.errors import DataError, DataWarning

Graph = dict[Hashable, GraphNode]

# A result that at least this many batches need is computed once for all; two neighbours may share a block that a
# rechunk cuts in two, which is cheaper to make twice than to keep.
SHARED_BY = 3


class Block:
    """One output of the graph and where its rows stand in the whole table.

    Parameters
    ----------
    key : hashable
        Its key in the graph.
    offset, shape : tuple of int
        First position and extent along each dimension that is stacked to rows.
    whole : tuple of int
        The extents of those dimensions.
    """

    def __init__(self, key: Hashable, offset: tuple[int, ...], shape: tuple[int, ...], whole: tuple[int, ...]) -> None:
        self.key = key
        self.offset = offset
        self.shape = shape
        self.whole = whole
        self.n_rows = math.prod(shape)

    @property
    def consecutive(self) -> range | None:
        """The positions of the block's rows if they follow one another."""
        # They do if all dimensions behind the first that is longer than 1 are whole.
        leading = next((i for i, extent in enumerate(self.shape) if extent > 1), len(self.shape))
        if self.shape[leading + 1 :] != self.whole[leading + 1 :]:
            return None
        start = int(np.ravel_multi_index(self.offset, self.whole))
        return range(start, start + self.n_rows)

    def index(self) -> range | NDArray[np.int64]:
        """Return the positions of the block's rows in C order."""
        if (rows := self.consecutive) is not None:
            return rows
        axes = [np.arange(first, first + extent) for first, extent in zip(self.offset, self.shape, strict=True)]
        return np.ravel_multi_index(tuple(np.meshgrid(*axes, indexing="ij")), self.whole).ravel()


class DaskBatch(Batch):
    """Consecutive blocks and the graph that makes them.

    Parameters
    ----------
    reads : sequence of sequences of Block
        Blocks that are joined to one chunk each.
    graph : dict
        All nodes that the blocks need, but for the pending ones.
    pending : mapping
        Futures by their keys.
    name : str
        What messages call the data.
    """

    def __init__(
        self, reads: Sequence[Sequence[Block]], graph: Graph, pending: Mapping[Hashable, Any], name: str
    ) -> None:
        self._reads = reads
        self._graph = graph
        self._pending = pending
        self._name = name

    @property
    def pending(self) -> Mapping[Hashable, Any]:
        """Blocks that were persisted on a cluster."""
        return self._pending

    def with_values(self, values: Mapping[Hashable, Any]) -> Self:
        """Return the batch with the results of its futures."""
        known: Graph = {key: DataNode(key, value) for key, value in values.items()}
        return type(self)(self._reads, {**self._graph, **known}, {}, self._name)

    def __iter__(self) -> Iterator[Chunk]:
        blocks = list(itertools.chain.from_iterable(self._reads))
        arrays = evaluate(self._graph, [block.key for block in blocks])
        for read in self._reads:
            rows = [self._rows(block, arrays) for block in read]
            if len(rows) == 1:
                yield Chunk(rows[0], read[0].index())
            else:
                start = read[0].index()[0]
                table = np.concatenate(rows)
                yield Chunk(table, range(start, start + len(table)))

    def _rows(self, block: Block, arrays: Iterator[Any]) -> NDArray[Any]:
        try:
            array = np.asarray(next(arrays))
        except DataError:
            raise
        except Exception as error:  # whatever the user's graph raises
            message = (
                f"the block at {block.offset} (shape {block.shape}) of {self._name} cannot be computed "
                f"({reason(error)})"
            )
            raise DataError(message) from error
        return array.reshape(block.n_rows, array.shape[-1])


class DaskRows(Rows):
    """Rows of a Dask array; the last dimension holds the features, the others are stacked in C order.

    Parameters
    ----------
    array : dask.array.Array of shape (…, n_features)
    name : str
        What messages call it.
    feature_names : tuple of str, optional
        Names of the features.
    grid_names : tuple of str, optional
        Names of the other dimensions.
    """

    def __init__(
        self,
        array: dask.array.Array,
        name: str = "Dask array",
        feature_names: tuple[str, ...] | None = None,
        grid_names: tuple[str, ...] | None = None,
    ) -> None:
        if np.isnan(array.shape).any():
            array = array.compute_chunk_sizes()
        self.name = name
        self.array = array.rechunk({array.ndim - 1: -1})
        shape = (math.prod(array.shape[:-1]), array.shape[-1])
        self.n_rows, self.n_features, self.dtype = check_table(name, shape, array.dtype)
        self.feature_names = feature_names
        self._grid_names = grid_names

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the array without its features."""
        return tuple(self.array.shape[:-1])

    @property
    def grid_names(self) -> tuple[str, ...] | None:
        """Names of the dimensions of `grid`."""
        return self._grid_names

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """The largest chunk along each dimension."""
        return tuple(max(extents) for extents in self.array.chunks[:-1])

    def batches(self) -> Sequence[Batch]:
        """Return batches of whole blocks."""
        return self._batches

    @cached_property
    def _batches(self) -> list[DaskBatch]:
        (optimised,) = dask.base.optimize(self.array)
        graph: Graph = convert_legacy_graph(dict(optimised.__dask_graph__()))
        pending = self._persisted(graph, optimised)
        reads = group(list(blocks_of(optimised)), self.n_features * self.dtype.itemsize)
        parts = [reads[first:stop] for first, stop in batch_bounds(len(reads))]
        outputs = [[block.key for block in itertools.chain.from_iterable(part)] for part in parts]
        graph.update(shared_results(graph, outputs, pending))
        batches = []
        for part, keys in zip(parts, outputs, strict=True):
            needed = reach(graph, keys)
            own = {key: graph[key] for key in needed if key in graph}
            batches.append(DaskBatch(part, own, {key: pending[key] for key in needed - own.keys()}, self.name))
        return batches

    def _persisted(self, graph: Graph, optimised: dask.array.Array) -> dict[Hashable, Any]:
        """Return the futures that the optimised graph refers to (optimisation leaves them out)."""
        missing = reach(graph, [block.key for block in blocks_of(optimised)]) - graph.keys()
        if not missing:
            return {}
        original = self.array.__dask_graph__()
        return {key: original[key] for key in missing}


def open_dask_array(array: dask.array.Array) -> DaskRows:
    """Open a 2-D Dask array.

    Raises
    ------
    DataError
        If it has another number of dimensions or no numbers.
    """
    name = "Dask array"
    if array.ndim != 2:
        check_table(name, array.shape, array.dtype)
    if array.numblocks[1] > 1:
        message = (
            f"{name} is chunked along its columns ({array.numblocks[1]} chunks), and whole rows are needed; it is "
            "rechunked on every read: better rechunk({1: -1}) and store it once"
        )
        warnings.warn(message, DataWarning, stacklevel=3)
    return DaskRows(array, name)


def map_blocks(
    array: dask.array.Array, function: Callable[[NDArray[Any]], NDArray[Any]], dtype: np.dtype[Any], columns: int | None
) -> dask.array.Array:
    """Apply a function of rows lazily, block by block, along the last dimension.

    Parameters
    ----------
    array : dask.array.Array of shape (…, n_features)
    function : callable
        Maps rows (n, n_features) to (n,) or (n, columns).
    dtype : dtype
        Of the results.
    columns : int or None
        Number of results per row.

    Returns
    -------
    dask.array.Array of shape (…) or (…, columns)
    """
    array = array.rechunk({array.ndim - 1: -1})

    def apply(block: NDArray[Any]) -> NDArray[Any]:
        tail = () if columns is None else (columns,)
        if 0 in block.shape[:-1]:
            return np.empty(block.shape[:-1] + tail, dtype)
        return np.asarray(function(block.reshape(-1, block.shape[-1]))).reshape(block.shape[:-1] + tail)

    last = array.ndim - 1
    if columns is None:
        shape = {"drop_axis": last, "meta": np.empty((0,) * last, dtype)}
    else:
        shape = {"chunks": (*array.chunks[:-1], (columns,)), "meta": np.empty((0,) * array.ndim, dtype)}
    return cast("dask.array.Array", dask.array.map_blocks(apply, array, dtype=dtype, **shape))


def blocks_of(array: dask.array.Array) -> Iterator[Block]:
    """Yield the blocks of an array in C order, without the empty ones."""
    chunks = array.chunks[:-1]
    offsets = [list(itertools.accumulate((0, *extents[:-1]))) for extents in chunks]
    whole = array.shape[:-1]
    for place in itertools.product(*(range(len(extents)) for extents in chunks)):
        shape = tuple(extents[i] for extents, i in zip(chunks, place, strict=True))
        if 0 not in shape:
            offset = tuple(starts[i] for starts, i in zip(offsets, place, strict=True))
            yield Block((array.name, *place, 0), offset, shape, whole)


def group(blocks: Sequence[Block], row_bytes: int) -> list[list[Block]]:
    """Join blocks whose rows follow one another until they bring `READ_BYTES`; a larger block stays alone."""
    reads: list[list[Block]] = []
    size, end = 0, None
    for block in blocks:
        n_bytes, rows = block.n_rows * row_bytes, block.consecutive
        if not reads or rows is None or rows.start != end or size + n_bytes > READ_BYTES:
            reads.append([])
            size = 0
        reads[-1].append(block)
        size += n_bytes
        end = rows.stop if rows is not None else None
    return reads


def reach(graph: Graph, keys: Iterable[Hashable]) -> set[Hashable]:
    """Return `keys` and all that they depend on, whether the graph has it or not."""
    found: set[Hashable] = set()
    stack = list(keys)
    while stack:
        key = stack.pop()
        if key not in found:
            found.add(key)
            if key in graph:
                stack.extend(graph[key].dependencies)
    return found


def evaluate(graph: Graph, keys: Sequence[Hashable]) -> Iterator[Any]:
    """Yield the values of `keys` in order, holding intermediate results only until their last use."""
    uses = Counter(itertools.chain.from_iterable(node.dependencies for node in graph.values()))
    uses.update(keys)
    values: dict[Hashable, Any] = {}

    def release(used: Iterable[Hashable]) -> None:
        for key in used:
            uses[key] -= 1
            if uses[key] == 0:
                del values[key]

    for wanted in keys:
        stack = [wanted]
        while stack:
            key = stack[-1]
            if key in values:
                stack.pop()
                continue
            missing = [dependency for dependency in graph[key].dependencies if dependency not in values]
            if missing:
                stack.extend(missing)
                continue
            values[key] = graph[key](values)
            release(graph[key].dependencies)
            stack.pop()
        value = values[wanted]
        release([wanted])
        yield value


def shared_results(
    graph: Graph, outputs: Sequence[Sequence[Hashable]], pending: Mapping[Hashable, Any]
) -> dict[Hashable, DataNode]:
    """Compute what many batches need, once; nodes that are plain data stay as they are.

    Walking from the outputs to their inputs, a task is cut out where `SHARED_BY` batches (all, if they are fewer) reach
    it on ways that do not lead through another such task: of a scaling pipeline that is the mean, not the blocks that
    the mean is made of.
    """
    enough = min(SHARED_BY, len(outputs))
    if enough < 2:
        return {}
    dependencies = {key: set(node.dependencies) & graph.keys() for key, node in graph.items()}
    users: dict[Hashable, set[int]] = {key: set() for key in graph}
    for number, keys in enumerate(outputs):
        for key in keys:
            if key in users:
                users[key].add(number)
    cut = []
    for key in reversed(toposort(graph, dependencies=dependencies)):
        if len(users[key]) >= enough and not isinstance(graph[key], DataNode):
            cut.append(key)
            continue
        for dependency in dependencies[key]:
            if len(users[dependency]) < enough:
                users[dependency] |= users[key]
    if not cut:
        return {}
    schedule = dask.base.get_scheduler() or dask.threaded.get
    known = {**graph, **pending}
    needed = {key: known[key] for key in reach(graph, cut)}
    return {key: DataNode(key, value) for key, value in zip(cut, schedule(needed, cut), strict=True)}
