"""Trees: dataclasses and tuples of arrays and numbers. The only place that knows the fields of what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def children(tree: Any) -> list[tuple[str, Any]] | None:
    """Return names and values of the parts of a tree; None for a leaf, which is an array or a number."""
    if is_dataclass(tree) and not isinstance(tree, type):
        return [(field.name, getattr(tree, field.name)) for field in fields(tree) if field.init]
    if isinstance(tree, tuple):
        return [(str(number), part) for number, part in enumerate(tree)]
    return [] if tree is None or isinstance(tree, str) else None


def tree_map(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function to the corresponding leaves of trees of the same kind; None and words stay.

    Examples
    --------
    >>> tree_map(lambda a, b: a + b, (1, (2.0, None)), (10, (20.0, None)))
    (11, (22.0, None))
    """
    first = trees[0]
    parts = children(first)
    if parts is None:
        return function(*trees)
    if first is None or isinstance(first, str):
        return first
    mapped = [tree_map(function, *group) for group in zip(*(_values(tree) for tree in trees), strict=True)]
    if isinstance(first, tuple):
        return tuple(mapped)
    return type(first)(**{name: value for (name, _), value in zip(parts, mapped, strict=True)})


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a tree with their names, such as ``'components.means'``."""
    parts = children(tree)
    if parts is None:
        yield name, tree
        return
    for part, value in parts:
        yield from leaves(value, f"{name}.{part}" if name else part)


def form(tree: Any) -> tuple[type, list[tuple[str, tuple[int, ...]]]]:
    """Return what two trees of one kind and size have in common: the names and shapes of their leaves.

    Examples
    --------
    >>> form((1.5, (np.zeros(2), None)))
    (<class 'tuple'>, [('0', ()), ('1.0', (2,))])
    """
    return type(tree), [(name, np.shape(leaf)) for name, leaf in leaves(tree)]


def flatten(tree: Any) -> dict[str, NDArray[Any]]:
    """Return the leaves of a tree as named arrays, for storage.

    Examples
    --------
    >>> flatten((1.5, (np.zeros(2), None)))
    {'0': array(1.5), '1.0': array([0., 0.])}
    """
    return {name: np.asarray(leaf) for name, leaf in leaves(tree)}


def unflatten(like: T, arrays: Mapping[str, NDArray[Any]]) -> T:
    """Return the tree that `flatten` made arrays of, to the same bits; `like` is any tree of the same kind.

    Raises
    ------
    KeyError
        If an array is missing.
    """
    names = iter([name for name, _ in leaves(like)])

    def restored(leaf: Any) -> Any:
        array = arrays[next(names)]
        return array if isinstance(leaf, np.ndarray) else type(leaf)(array.item())

    tree: T = tree_map(restored, like)
    return tree


def n_bytes(tree: Any) -> int:
    """Return the size of all leaves."""
    return sum(np.asarray(leaf).nbytes for _, leaf in leaves(tree))


def concatenate(trees: Sequence[T]) -> T:
    """Join trees along the first axis of their arrays, which is that of the components."""
    joined: T = tree_map(lambda *parts: np.concatenate(parts), *trees)
    return joined


def split(tree: T, sizes: Sequence[int]) -> list[T]:
    """Divide a tree along the first axis of its arrays: what `concatenate` has joined."""
    ends = np.cumsum(sizes)
    return [take(tree, slice(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


def take(tree: T, which: Any) -> T:
    """Return the entries `which` along the first axis of all arrays."""
    part: T = tree_map(lambda array: array[which], tree)
    return part


def _values(tree: Any) -> list[Any]:
    return [value for _, value in children(tree) or ()]
