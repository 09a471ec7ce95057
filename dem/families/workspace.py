"""Arrays that kernels use again from block to block and chunk to chunk.

Fresh memory costs a page fault every 4 kB, at small numbers of features more than the arithmetic.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class _Kernel(Protocol):
    def clear(self) -> None: ...


K = TypeVar("K", bound=_Kernel)

_Arrays = dict[tuple[str, np.dtype[Any]], NDArray[Any]]


class _Thread(threading.local):
    def __init__(self) -> None:
        self.idle: list[_Arrays] = []
        self.constants: dict[tuple[float, np.dtype[Any]], NDArray[Any]] = {}


_thread = _Thread()
_kept: WeakKeyDictionary[object, dict[Hashable, Any]] = WeakKeyDictionary()


class Workspace:
    """The arrays of one kernel, or of one call: nothing else writes to them while it lives.

    When it goes, the memory stays with the thread, for its next workspace.
    """

    _arrays: _Arrays | None = None
    _idle: list[_Arrays]

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a contiguous array with undefined values; the next call with the same name takes it back.

        Arrays of different names never overlap.
        """
        if self._arrays is None:
            self._idle = _thread.idle
            self._arrays = self._idle.pop() if self._idle else {}
        size = math.prod(shape)
        array = self._arrays.get((name, dtype))
        if array is None or array.size < size:
            array = self._arrays[name, dtype] = np.empty(size, dtype)
        return array[:size].reshape(shape)

    def __del__(self) -> None:
        if self._arrays is not None:
            self._idle.append(self._arrays)


def kept_with(parameters: object, key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` derives from parameters: made once, it serves all chunks and threads of a sweep."""
    made = _kept.setdefault(parameters, {})
    if key not in made:
        made[key] = make()
    kept: T = made[key]
    return kept


def fresh(kernel: K, **attributes: Any) -> K:
    """Return a copy of a kernel in which some attributes differ, with sums and workspace of its own."""
    changed = copy.copy(kernel)
    vars(changed).update(attributes)
    changed.clear()
    return changed


def constant_row(value: float, n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `value` n times, read-only; kept for this thread."""
    row = _thread.constants.get((value, dtype))
    if row is None or len(row) < n:
        row = _thread.constants[value, dtype] = np.full(n, value, dtype)
        row.setflags(write=False)
    return row[:n]


def largest_row(values: NDArray[Any], largest: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """Return the row of the largest of each column of `values` (m, n), the first of equals, shape (n,).

    Up to three times faster than ``argmax`` over columns, which jumps from row to row. `largest` is the largest of each
    column, if it is known.
    """
    found = np.zeros(values.shape[1], dtype=np.int64)  # also for a column of NaN
    if largest is None:
        largest = values.max(axis=0)
    for row in range(len(values) - 1, -1, -1):
        np.copyto(found, row, where=values[row] == largest)
    return found


def add_weighted(sums: NDArray[Any], z: NDArray[Any], weights: NDArray[Any]) -> None:
    """Add Σ_n z_in w_kn to `sums` (n_terms, n_components), in double precision, for z (n_terms, n) and weights w.

    The taller factor comes first, which OpenBLAS does up to 1.9 times faster. `numpy.dot` gives up the interpreter's
    lock also for small results; the operator ``@`` does not, and then threads wait for one another.
    """
    if len(z) >= len(weights):
        sums += np.dot(z, weights.T)
    else:
        sums += np.dot(weights, z.T).T
