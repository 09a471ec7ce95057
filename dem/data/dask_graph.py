"""Divides a Dask graph into parts that run one after another, each inside a single task.

A hundred thousand blocks as tasks would cost minutes of scheduling in every pass. Here the blocks of one batch are
computed by `run_blocks` inside the batch's task, and `shared_values` finds what many batches need (the mean in
``x - x.mean(0)``) and computes it once.

Culling, order and schedulers are Dask's own. Its node classes (`_task_spec`), which are not public, are worth it: they
tell what a node needs, and put a value in its place. With `array.blocks` and `dask.get` each block would compute again
what neighbours share, or a batch would hold all its blocks at once.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import dask.threaded
import numpy as np
from dask._task_spec import Alias, DataNode, Task, TaskRef, convert_legacy_graph
from dask.base import get_scheduler, tokenize
from dask.core import flatten, toposort
from dask.optimization import cull
from numpy.typing import NDArray

from dem.data.base import READ_BYTES
from dem.data.checks import reason
from dem.errors import DataError, DataWarning

Key = Any  # a hashable; Dask's own type is narrower
Nodes = dict[Key, Any]

# What this many batches need is computed once for all; two neighbours that overlap each compute their own.
SHARED_BY = 3
# Such results travel with every batch that needs them: all together no more than this.
SHARED_BYTES = READ_BYTES
# What is too large is looked into for smaller parts this many times; each time may read all the data.
SHARED_ROUNDS = 3
# A result that more ranges of reads need than these is of no interest for the edges between batches.
MAX_RANGES = 16
# Results that wait for a later block of the same batch are dropped beyond this, and computed again.
KEPT_BYTES = 4 * READ_BYTES


def low_level(array: Any) -> tuple[Nodes, dict[Key, Any]]:
    """Return the optimised graph of a Dask array, and those of its nodes that are futures on a cluster (`persist`).

    Raises
    ------
    DataError
        If it refers to results that are not in it.
    """
    graph = array.__dask_graph__()
    keys = list(flatten(array.__dask_keys__()))
    futures = _futures(graph)
    nodes: Nodes = convert_legacy_graph(dict(array.__dask_optimize__(graph, keys)))
    # Dask leaves futures out of converted graphs: only the names of their results remain.
    missing = {name for node in nodes.values() for name in node.dependencies}.union(keys) - nodes.keys()
    for key in missing - futures.keys():
        message = f"the Dask array refers to a result {key!r} that its graph does not hold"
        raise DataError(message)
    pending = {key: futures[key] for key in missing}
    return nodes | {key: DataNode(key, future) for key, future in pending.items()}, pending


def _futures(graph: Any) -> dict[Key, Any]:
    """Return the futures of a graph by their keys, and by the keys of the nodes that they stand for."""
    found: dict[Key, Any] = {}
    for layer in graph.layers.values():
        # Other layers describe their tasks by a rule; futures are among their inputs, layers of their own.
        for key, value in getattr(layer, "mapping", {}).items():
            if isinstance(value, TaskRef) or getattr(value, "__dask_future__", False):
                found[key] = found[value.key] = value
    return found


def check_futures(array: Any, name: str) -> None:
    """Make sure that what was persisted on a cluster is still there.

    Raises
    ------
    DataError
        If its client was closed, or computing it failed.
    """
    for future in _futures(array.__dask_graph__()).values():
        status = getattr(future, "status", None)
        if status == "error":
            message = f"{name} was persisted, but could not be computed ({reason(future.exception())})"
            raise DataError(message)
        if status in ("cancelled", "lost"):
            message = (
                f"{name} was persisted on a cluster whose client has been closed, so its values are gone; persist it "
                "again with an open client, or give the array as it was before"
            )
            raise DataError(message)


def batch_edges(nodes: Nodes, reads: Sequence[Sequence[Key]], edges: Sequence[int]) -> list[int]:
    """Move the edges between batches to where the fewest results are needed on both sides.

    Where many blocks are cut from a larger one, a batch then takes all of them, so that the larger one is computed
    once. `reads` are the blocks of each read, `edges` those wanted, from 0 to the number of reads.
    """
    n_reads = len(reads)
    spacing = -(-n_reads // (len(edges) - 1))
    ranges = np.array(_needed_by(nodes, reads), np.int64).reshape(-1, 2)
    starts, stops = ranges[:, 0], ranges[:, 1]
    # Longer than a batch, but not needed by all: cutting these would compute them again and again.
    long = (stops - starts >= spacing) & (stops - starts < n_reads - 1)
    crossing, long_crossing = _crossing(starts, stops, n_reads), _crossing(starts[long], stops[long], n_reads)
    allowed = long_crossing == long_crossing.min(initial=len(ranges))
    moved = {0, n_reads}
    for edge in edges[1:-1]:
        # The place e lies between reads e - 1 and e and has number e - 1 here.
        places = np.arange(max(edge - spacing // 2, 1), min(edge + spacing // 2 + 1, n_reads))
        places = places[allowed[places - 1]]
        if len(places):
            ranks = np.lexsort((np.abs(places - edge), crossing[places - 1]))
            moved.add(int(places[ranks[0]]))
    return sorted(moved)


def _needed_by(nodes: Nodes, reads: Sequence[Sequence[Key]]) -> list[tuple[int, int]]:
    """Return the ranges of reads (both ends inside) that need a node, for all nodes; a node may have several."""
    ranges: dict[Key, list[tuple[int, int]]] = {
        key: [(number, number)] for number, read in enumerate(reads) for key in read
    }
    for key in reversed(toposort(nodes)):  # what needs a node comes before it
        mine = ranges[key] = _joined(ranges.get(key, []))
        for name in nodes[key].dependencies:
            ranges.setdefault(name, []).extend(mine)
    return list(itertools.chain.from_iterable(map(_joined, ranges.values())))


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that overlap or follow one another; none if they are scattered."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start <= joined[-1][1] + 2:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined if len(joined) <= MAX_RANGES else []


def _crossing(starts: NDArray[np.int64], stops: NDArray[np.int64], n_reads: int) -> NDArray[np.int64]:
    """Count for each place between two reads the ranges of reads (both ends inside) that lie across it."""
    changes = np.bincount(starts, minlength=n_reads) - np.bincount(stops, minlength=n_reads)
    return np.cumsum(changes)[: n_reads - 1]


def shared_values(
    nodes: Nodes, pending: Mapping[Key, Any], batches: Sequence[Sequence[Key]], name: str
) -> dict[Key, DataNode]:
    """Compute once what several batches need, where it is small; return nodes to use instead, which are plain data.

    Of a scaling pipeline such as ``(x - x.mean(0)) / x.std(0)`` that is the mean and the deviation, not the blocks
    that they are made of. The active client computes them if there is one, else threads.

    Warns
    -----
    DataWarning
        If something that several batches need is too large, so that each computes its own.
    """
    enough = min(SHARED_BY, len(batches))
    if enough < 2:
        return {}
    order = toposort(nodes)[::-1]
    values: dict[Key, DataNode] = {}
    opened: set[Key] = set()
    n_large, room = 0, SHARED_BYTES
    for _ in range(SHARED_ROUNDS):
        wanted = _shared_keys(nodes, order, batches, enough, values.keys(), opened)
        if not wanted:
            break
        try:
            found = _compute(nodes, pending, wanted, room // len(wanted))
        except Exception as error:  # whatever the user's graph raises
            message = f"what all blocks of the {name} need cannot be computed ({reason(error)})"
            raise DataError(message) from error
        for key, (size, value) in zip(wanted, found, strict=True):
            if value is None:
                opened.add(key)
                n_large += size is not None
            else:
                values[key] = DataNode(key, value[0])
                room -= size or 0
    if n_large:
        message = (
            f"{n_large} results in the graph of the {name} are needed by many batches but are too large to send "
            "along, so each batch computes its own; write the array to zarr first, or persist() it on a cluster"
        )
        warnings.warn(message, DataWarning, stacklevel=2)
    return values


def _shared_keys(
    nodes: Nodes,
    order: Sequence[Key],
    batches: Sequence[Sequence[Key]],
    enough: int,
    known: AbstractSet[Key],
    opened: AbstractSet[Key],
) -> list[Key]:
    """Return the tasks not known yet that `enough` batches need on ways that lead through no such task.

    Ways lead on through tasks that are opened, for each batch computes these itself.
    """
    owners: dict[Key, set[int]] = {}
    for number, batch in enumerate(batches):
        for key in batch:
            owners.setdefault(key, set()).add(number)
    shared = []
    for key in order:
        mine = owners.pop(key, None)
        if mine is None:
            continue
        if len(mine) >= enough and key not in opened and not isinstance(nodes[key], DataNode | Alias):
            if key not in known:
                shared.append(key)
            continue
        for name in nodes[key].dependencies:
            theirs = owners.setdefault(name, set())
            if len(theirs) < enough:  # more need not be told apart
                theirs |= mine
    return shared


def _compute(
    nodes: Nodes, pending: Mapping[Key, Any], keys: Sequence[Key], limit: int
) -> list[tuple[int | None, tuple[Any] | None]]:
    """Compute some keys of the graph together; return their sizes, and their values where these are small."""
    graph = {key: pending.get(key, node) for key, node in cull(nodes, list(keys))[0].items()}
    names = [f"dem-shared-{tokenize(key)}" for key in keys]
    graph |= {name: Task(name, _if_small, TaskRef(key), limit) for name, key in zip(names, keys, strict=True)}
    schedule = get_scheduler() or dask.threaded.get
    return list(schedule(graph, names))


def _if_small(value: Any, limit: int) -> tuple[int | None, tuple[Any] | None]:
    size = _n_bytes(value)
    return size, None if size is None or size > limit else (value,)


def _n_bytes(value: Any) -> int | None:
    """Return the size of plain data; None for anything else, which may not survive a journey."""
    if isinstance(value, np.ndarray | np.generic):
        return None if value.dtype.hasobject else value.nbytes
    if isinstance(value, int | float | complex | str | bytes | slice | None):
        return 64
    if isinstance(value, dict | list | tuple):
        sizes = [_n_bytes(item) for item in (value.values() if isinstance(value, dict) else value)]
        return None if None in sizes else sum(size or 0 for size in sizes)
    return None


def run_blocks(nodes: Nodes, outputs: Sequence[Key]) -> Iterator[Any]:
    """Compute the outputs one after another and yield each; a result is kept only while a later one needs it.

    `nodes` are the outputs and all that they need, nothing else.
    """
    uses = Counter(itertools.chain.from_iterable(node.dependencies for node in nodes.values()))
    uses.update(outputs)
    results: dict[Key, Any] = {}  # the most recently used last
    for output in outputs:
        used = {output}
        stack = [output]
        while stack:
            key = stack[-1]
            if key in results:
                stack.pop()
                continue
            needed = nodes[key].dependencies
            missing = [name for name in needed if name not in results]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            results[key] = nodes[key](results)
            used.update(needed)
            for name in needed:
                _release(results, uses, name)
        result = results[output]
        _release(results, uses, output)
        _limit(nodes, results, uses, used)
        yield result
        del result  # not to be held while the next one is computed


def _release(results: dict[Key, Any], uses: Counter[Key], key: Key) -> None:
    uses[key] -= 1
    value = results.pop(key)
    if uses[key]:
        results[key] = value


def _limit(nodes: Nodes, results: dict[Key, Any], uses: Counter[Key], used: AbstractSet[Key]) -> None:
    """Drop the results that were used longest ago, but for those of the last block, until few bytes are kept."""
    sizes = {key: getattr(value, "nbytes", 0) for key, value in results.items() if not isinstance(nodes[key], DataNode)}
    excess = sum(sizes.values()) - KEPT_BYTES
    for key, size in sizes.items():
        if excess <= 0:
            break
        if size and key not in used:
            excess -= size
            del results[key]
            _need_again(nodes, uses, key)


def _need_again(nodes: Nodes, uses: Counter[Key], key: Key) -> None:
    """Count the uses of what a dropped result is made of once more."""
    stack = [key]
    while stack:
        for name in nodes[stack.pop()].dependencies:
            uses[name] += 1
            if uses[name] == 1:  # it had served its purpose, and has to be made again too
                stack.append(name)
