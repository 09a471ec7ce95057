"""Whole chunks through the compiled loops of `dem.native.mixtures`, for components with covariances of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dem import native
from dem.families.base import Array, RowBlock
from dem.families.gaussian.arithmetic import DOUBLE, SINGLE

if TYPE_CHECKING:
    from dem.families.gaussian.kernel import OwnCovarianceKernel

_TILE = 4
_LINE = 64  # bytes of a line of the cache
# Bytes of a feature in a block: loops over rows should be long, while log-densities and y stay in the second cache.
_BLOCK_BYTES = 2048
_CACHE_BYTES = 2**20
# Multiplications that take as long as all that a log-density costs beside them: `exp`, maximum, sum, scale.
_EXP_WORK = 25
# Up to as many features y is not kept: `dem.native.frames.FEW_FEATURES`, which cannot be imported without numba.
_FEW_FEATURES = 3
# Rows that are brought to another type of number at a time.
_PIECE = 16384
# Bytes of a strip of z: most of the innermost cache.
_STRIP_BYTES = 2**15
# Components in their own frames, and features, from which on it may pay to look which components count for a row first;
# rows of a block then, whose parts by component must not be too small.
_LEAST_OWN, _LEAST_FEATURES, _LEADER_ROWS = 4, 64, 1024
# The least logarithm of a responsibility: of a number that is normal, and so far below 1 that it does not count.
_LEAST = {np.dtype(np.float64): -600.0, np.dtype(np.float32): -87.0}
_NAMES = {"density": 0, "posterior": 1, "label": 2}


class _Model(NamedTuple):
    """The parameters as the loops want them: sizes are multiples of a tile, completed by zeros."""

    origin: Array
    inverse: Array
    intercepts: NDArray[Any]
    wide: NDArray[Any]
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    means: NDArray[Any]
    factors: NDArray[Any]
    constants: NDArray[Any]
    order: NDArray[np.intp]


class _Space(NamedTuple):
    """The workspaces of a call."""

    sizes: NDArray[np.intp]
    block: NDArray[Any]
    table: NDArray[Any]
    z: NDArray[Any]
    joint: NDArray[Any]
    y: NDArray[Any]
    centred: NDArray[Any]
    gathered: NDArray[Any]
    lone: NDArray[Any]
    passing: NDArray[Any]
    densities: NDArray[Any]


def sums_of(
    kernel: OwnCovarianceKernel, log_weights: Array, segments: Sequence[slice], chunk: RowBlock
) -> tuple[Array, Array, NDArray[np.intp]] | None:
    """Put a chunk through the E-step; see `ChunkKernel.sums_of`."""
    loop = _loop("e_step", kernel, chunk)
    if loop is None:
        return None
    model = _model_of(kernel, log_weights)
    wide, own, d = kernel.plan.wide, kernel.plan.own, kernel.means.shape[1]
    space = _space_of(kernel, model, len(segments), len(own))
    sums, wide_counts = np.zeros(model.wide.shape), np.zeros(len(model.wide))
    first, second = np.zeros(model.means.shape), np.zeros(model.factors.shape)
    own_counts, log_likelihoods = np.zeros(len(own)), np.zeros(len(segments))
    far = np.zeros(len(chunk.rows), dtype=np.bool_)
    weights = np.empty(0) if chunk.weights is None else np.ascontiguousarray(chunk.weights, dtype=np.float64)
    ends = np.array([segment.stop for segment in segments], dtype=np.intp)
    for where, *rows in _pieces(kernel, chunk.rows):
        loop(
            *rows, weights[where], *model, ends, _limits(kernel), *space,
            sums, first, second, wide_counts, own_counts, log_likelihoods, far[where],
        )  # fmt: skip
    n_terms = kernel.weights.shape[1] - 1
    counts = np.empty(len(log_weights))
    if len(wide):
        counts[wide] = wide_counts[: len(wide)]
        kernel.wide_sums[0] += counts[wide]
        kernel.wide_sums[1:] += sums[: len(wide), :n_terms].T
    if len(own):
        counts[own] = own_counts
        kernel.first[own] += first[:, :d]
        if kernel.second.ndim == 2:
            kernel.second[own] += second[:, :d]
        else:
            upper = second.reshape(len(own), len(first[0]), -1)[:, :d, :d]
            row, column = np.tril_indices(d, -1)
            upper[:, row, column] = upper[:, column, row]
            kernel.second[own] += upper
    return counts, log_likelihoods, np.flatnonzero(far)


def fill(
    kernel: OwnCovarianceKernel, name: str, log_weights: Array, chunk: RowBlock, result: NDArray[Any]
) -> NDArray[np.intp] | None:
    """Put a chunk through the loop over rows; see `ChunkKernel.fill`."""
    loop = _loop("by_row", kernel, chunk)
    if loop is None:
        return None
    model = _model_of(kernel, log_weights)
    space = _space_of(kernel, model, 1, min(len(kernel.plan.own), 1))
    far = np.zeros(len(chunk.rows), dtype=np.bool_)
    is_label = name == "label"
    numbers = np.empty((0, 0)) if is_label else result.reshape(len(result), -1)
    labels = result if is_label else np.empty(0, dtype=np.int64)
    for where, *rows in _pieces(kernel, chunk.rows):
        loop(*rows, _NAMES[name], *model, _limits(kernel), *space, numbers[where], labels[where], far[where])
    return np.flatnonzero(far)


def _loop(name: str, kernel: OwnCovarianceKernel, chunk: RowBlock) -> Callable[..., None] | None:
    """Return a compiled loop, where there is one for such a chunk and it pays."""
    rows, plan = chunk.rows, kernel.plan
    if not len(rows) or chunk.labels is not None or rows.dtype.kind not in "fiu":
        return None
    per_row = kernel.weights.size + sum(kernel.second[k].size for k in plan.own) + _EXP_WORK * len(kernel.constant)
    return native.loaded(_compiled, name, plan.dtype.name) if native.pays(len(rows) * per_row) else None


def _pieces(kernel: OwnCovarianceKernel, rows: NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any], NDArray[Any]]]:
    """Yield places of rows, and these as the loops take them: in double precision, and in single; one is empty.

    All at once if they are of such a type, else a few after another, brought to one whose numbers theirs are.
    """
    is_short = rows.dtype.kind == "f" and rows.dtype.itemsize <= SINGLE.itemsize
    kind = SINGLE if is_short else DOUBLE
    none: NDArray[Any] = np.empty((0, rows.shape[1]), kernel.plan.dtype if is_short else SINGLE)
    is_ready = rows.dtype == kind and rows.flags.aligned
    step = len(rows) if is_ready else _PIECE
    for start in range(0, len(rows), step):
        where = slice(start, start + step)
        piece = rows if is_ready else rows[where].astype(kind)
        yield (where, none, piece) if is_short else (where, piece, none)


def _compiled(name: str, number: str) -> Callable[..., None]:
    from dem.native import mixtures  # noqa: PLC0415 - imports numba

    return mixtures.compile_loop(name, number)


def _limits(kernel: OwnCovarianceKernel) -> NDArray[Any]:
    dtype = kernel.plan.dtype
    lowest = np.finfo(dtype).min
    return np.array([_LEAST[dtype], lowest, max(kernel.trusted_above, lowest)], dtype)


def _model_of(kernel: OwnCovarianceKernel, log_weights: Array) -> _Model:
    """Return what the loops need of the parameters, made once for all chunks of a sweep."""
    key = log_weights.tobytes()
    found: _Model | None = kernel.for_loops.get(key)
    if found is None:  # threads may make it at the same time: it is the same
        found = kernel.for_loops[key] = _made(kernel, log_weights)
    return found


def _made(kernel: OwnCovarianceKernel, log_weights: Array) -> _Model:
    wide, own, dtype = kernel.plan.wide, kernel.plan.own, kernel.plan.dtype
    d, log_weights = kernel.means.shape[1], log_weights.reshape(-1)
    left, right = (factors[1:] for factors in kernel.factors_of_terms)  # the first term is 1
    n_terms = len(left) if len(wide) else 0
    weights, intercepts = (
        np.zeros((_rounded(len(wide)), _rounded(n_terms)), dtype),
        np.zeros(_rounded(len(wide)), dtype),
    )
    if len(wide):
        weights[: len(wide), :n_terms] = kernel.weights[:, 1:]
        intercepts[: len(wide)] = kernel.weights[:, 0] + log_weights[wide].astype(dtype)
    more = weights.shape[1] - n_terms
    left, right = (np.append(indices[:n_terms], np.full(more, d)) for indices in (left, right))
    whole, independent = _rounded(d), kernel.second.ndim == 2
    means, factors = (np.zeros((len(own) * rows, whole), dtype) for rows in (1, 1 if independent else whole))
    means[:, :d] = kernel.means[own, :, 0]
    if len(own) and independent:
        factors[:, :d] = kernel.factors[own, :, 0]
    elif len(own):
        factors.reshape(len(own), whole, whole)[:, :d, :d] = kernel.factors[own]
    constants = np.stack([kernel.constant[own] + log_weights[own].astype(dtype), kernel.of_squares[own]], axis=1)
    order = np.empty(len(log_weights), dtype=np.intp)
    order[wide], order[own] = np.arange(len(wide)), len(weights) + np.arange(len(own))
    return _Model(
        kernel.frame.origin,
        1.0 / kernel.frame.scale,
        intercepts,
        weights,
        left,
        right,
        means,
        factors,
        constants,
        order,
    )


def _space_of(kernel: OwnCovarianceKernel, model: _Model, n_segments: int, n_kept: int) -> _Space:
    dtype, d, whole = kernel.plan.dtype, kernel.means.shape[1], model.means.shape[1]
    n_own, n_joint, independent = len(model.means), len(model.wide) + len(model.means), kernel.second.ndim == 2
    kept = whole if n_own and d > _FEW_FEATURES and not independent else 0
    row_bytes = 2 * _BLOCK_BYTES if d <= _FEW_FEATURES else _BLOCK_BYTES
    if (n_joint + n_own * kept) * row_bytes > _CACHE_BYTES:
        row_bytes //= 2
    block, gap = row_bytes // dtype.itemsize, _LINE // dtype.itemsize
    by_leader = n_segments == 1 and n_own == n_joint >= _LEAST_OWN and d >= _LEAST_FEATURES and not independent
    by_leader = by_leader and bool(np.all(model.constants[:, 1] <= 0.0))
    most = _LEADER_ROWS if by_leader else block
    terms = min(max(_STRIP_BYTES // row_bytes, _TILE), max(model.wide.shape[1], _TILE))
    n_features = max(whole, d + 1)

    def rows(*shape: int, of: int = block) -> tuple[int, ...]:
        return (*shape, of + gap)

    shapes = {
        "block": rows(n_features),
        "table": rows(n_features if by_leader else 0, of=most),
        "z": rows(terms),
        "joint": rows(n_joint, of=most),
        "y": rows(n_kept * kept),
        "centred": rows(kept),
        "gathered": rows(whole if by_leader or independent else 0),
        "lone": rows(kept if by_leader else 0),
        "passing": rows(3, of=most),
    }
    sizes = np.array([block, most, _rounded(d // 4) if by_leader else 0], dtype=np.intp)
    kinds = dict.fromkeys(shapes, dtype) | {"densities": DOUBLE}
    found = _Space(sizes, **_aligned(kernel, shapes | {"densities": (n_segments, most + gap)}, kinds))
    found.block[d + 1 :] = found.table[d + 1 :] = 0.0
    return found


def _aligned(
    kernel: OwnCovarianceKernel, shapes: dict[str, tuple[int, ...]], kinds: dict[str, np.dtype[Any]]
) -> dict[str, NDArray[Any]]:
    """Return workspaces that each begin with a line of the cache, cut from one."""
    n_bytes = {name: math.prod(shape) * kinds[name].itemsize for name, shape in shapes.items()}
    whole = kernel.workspace.array("loops", (sum(n_bytes.values()) + (1 + len(shapes)) * _LINE,), np.dtype(np.uint8))
    start, found = -whole.ctypes.data % _LINE, {}
    for name, size in n_bytes.items():
        found[name] = whole[start : start + size].view(kinds[name]).reshape(shapes[name])
        start += size + -size % _LINE
    return found


def _rounded(n: int) -> int:
    return -(-n // _TILE) * _TILE
