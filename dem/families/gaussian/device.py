"""Whole chunks on a device, for components with covariances of their own: its namespace computes, sums come home.

Nothing here adds by atomic operations, so that the same device gives the same bits twice. Rows stay in rows, (n, …):
parts of them are then contiguous.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock
from dem.families.gaussian.arithmetic import SINGLE
from dem.namespaces import here, to_host

if TYPE_CHECKING:
    from dem.families.gaussian.kernel import OwnCovarianceKernel

# Bytes of the device's memory that a block may take: large enough for products to run at their full speed.
BLOCK_BYTES = 2**28
# Rows whose sums are taken in single precision; these sums are added in double precision.
SUMMED_ROWS = 4096


class _Model(NamedTuple):
    """The parameters on the device: `weights` of the wide product, (n_terms, n_wide), and what own frames need.

    Features `left` and `right` make the terms of z; None where all features have one variance and z is [1, x, Σx²].
    """

    origin: Any
    inverse: Any
    left: Any
    right: Any
    weights: Any
    wide: Any
    means: Any
    factors: Any
    constants: Array
    of_squares: Array


class _Block(NamedTuple):
    """A few rows: z (n, n_terms), y of each component in its own frame (n, d), the log-joint densities (n, K)."""

    where: slice
    z: Any
    y: list[Any]
    joint: Any


def sums_of(
    kernel: OwnCovarianceKernel, log_weights: Array, segments: Sequence[slice], chunk: RowBlock
) -> tuple[Array, Array, NDArray[np.intp]]:
    """Put a chunk through the E-step; see `ChunkKernel.sums_of`."""
    xp, wide, own = here(chunk.rows), kernel.plan.wide, kernel.plan.own
    model = _model_of(kernel, log_weights, xp)
    weights = None if chunk.weights is None else xp.asarray(chunk.weights)
    log_likelihoods = xp.zeros(len(segments))
    sums: dict[Any, Any] = {}
    far = []

    def add(name: Any, more: Any) -> None:
        sums[name] = sums[name] + more if name in sums else more

    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # as in `expectation.accumulate`
        for where, z, ys, joint in _blocks(kernel, model, chunk.rows):
            largest = [joint[:, segment].max(axis=1) for segment in segments]
            far_here = _far(kernel, xp, largest)
            counted = None if weights is None else weights[where]
            totals = [
                _normalise(xp, joint[:, segment], most, counted)
                for segment, most in zip(segments, largest, strict=True)
            ]
            if far_here is not None:
                far.append(where.start + to_host(xp.flatnonzero(far_here)))
                for array in (joint, z, *ys, *totals):
                    array[far_here] = 0.0
            for number, total in enumerate(totals):
                total = total.astype(np.float64)
                log_likelihoods[number] += (total if counted is None else total * counted).sum()
            if len(wide):
                add("wide", _product(xp, joint if not ys else joint.take(model.wide, axis=1), z))
            for k, y in zip(own.tolist(), ys, strict=True):
                share = joint[:, k : k + 1]
                add(("counts", k), share.sum(dtype=np.float64))
                add(("first", k), _product(xp, y, share)[:, 0])
                if kernel.second.ndim == 2:
                    add(("second", k), _product(xp, y * y, share)[:, 0])
                else:
                    root = xp.sqrt(share)
                    add(("second", k), _product(xp, y * root, y * root))
    counts = np.empty(len(log_weights))
    if len(wide):
        found = to_host(sums["wide"])
        counts[wide] = found[:, 0]
        if model.left is None:  # of the squares of features that share a variance only the sum counts
            d = chunk.rows.shape[1]
            found = np.hstack([found[:, : 1 + d], np.repeat(found[:, 1 + d :] / d, d, axis=1)])
        kernel.wide_sums += found.T
    for k in own.tolist():
        counts[k] = to_host(sums["counts", k])
        kernel.first[k] += to_host(sums["first", k])
        kernel.second[k] += to_host(sums["second", k])
    return counts, to_host(log_likelihoods), np.concatenate([np.empty(0, np.intp), *far])


def fill(
    kernel: OwnCovarianceKernel, name: str, log_weights: Array, chunk: RowBlock, result: NDArray[Any]
) -> NDArray[np.intp]:
    """Put a chunk through what is said of each row; see `ChunkKernel.fill`. The result is NumPy's."""
    xp = here(chunk.rows)
    far = [np.empty(0, np.intp)]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for where, _, _, joint in _blocks(kernel, _model_of(kernel, log_weights, xp), chunk.rows):
            largest = joint.max(axis=1)
            if (far_here := _far(kernel, xp, [largest])) is not None:
                far.append(where.start + to_host(xp.flatnonzero(far_here)))
            if name == "label":
                result[where] = to_host(joint.argmax(axis=1))
                continue
            total = _normalise(xp, joint, largest)
            result[where] = to_host(total if name == "density" else joint)
    return np.concatenate(far)


def _blocks(kernel: OwnCovarianceKernel, model: _Model, rows: Any) -> Iterator[_Block]:
    xp, dtype, (n, d) = here(rows), kernel.plan.dtype, rows.shape
    wide, n_own, n_components = len(kernel.plan.wide), len(kernel.plan.own), len(kernel.constant)
    numbers = 3 * model.weights.shape[0] * bool(wide) + d * (n_own + 4) + 2 * n_components
    step = max(BLOCK_BYTES // (dtype.itemsize * numbers), 1)
    step = max(step // SUMMED_ROWS * SUMMED_ROWS, min(step, SUMMED_ROWS))
    for start in range(0, n, step):
        where = slice(start, min(start + step, n))
        part = rows[where]
        single = part.dtype == model.origin.dtype == SINGLE
        x = xp.empty((len(part), d + 1), dtype)
        x[:, :d] = ((part if single else part.astype(np.float64)) - model.origin) * model.inverse
        x[:, d] = 1.0
        z = _terms(xp, model, x) if wide else x[:, d:]
        joint = xp.matmul(z, model.weights) if not n_own else xp.empty((len(part), n_components), dtype)
        ys = []
        if n_own and wide:
            joint[:, model.wide] = xp.matmul(z, model.weights)
        for i, k in enumerate(kernel.plan.own.tolist()):
            centred = x[:, :d] - model.means[i]
            y = xp.matmul(centred, model.factors[i]) if kernel.second.ndim == 3 else centred * model.factors[i]
            joint[:, k] = (y * y).sum(axis=1) * float(model.of_squares[i]) + float(model.constants[i])
            ys.append(y)
        yield _Block(where, z, ys, joint)


def _terms(xp: Any, model: _Model, x: Any) -> Any:
    """Return z (n, n_terms) of rows [x, 1]."""
    if model.left is not None:
        return x.take(model.left, axis=1) * x.take(model.right, axis=1)
    d = x.shape[1] - 1
    z = xp.empty((len(x), d + 2), x.dtype)
    z[:, 0] = 1.0
    z[:, 1 : 1 + d] = x[:, :d]
    z[:, 1 + d] = (x[:, :d] * x[:, :d]).sum(axis=1)
    return z


def _normalise(xp: Any, joint: Any, largest: Any, weights: Any = None) -> Any:
    """Turn log-joint densities (n, K) into responsibilities, in place; see `expectation.normalise`."""
    dtype = joint.dtype
    joint -= xp.maximum(largest, float(np.finfo(dtype).min))[:, np.newaxis]
    xp.exp(joint, out=joint)
    total = joint.sum(axis=1)
    joint *= ((1.0 / total) if weights is None else (weights / total).astype(dtype))[:, np.newaxis]
    return xp.log(total) + largest


def _far(kernel: OwnCovarianceKernel, xp: Any, largest: Sequence[Any]) -> Any:
    """Return which rows an exact kernel must compute, on the device; None if there are none."""
    if kernel.trusted_above == -np.inf:
        return None
    least = largest[0]
    for other in largest[1:]:
        least = xp.minimum(least, other)
    far = ~(least >= kernel.trusted_above)  # NaN among them
    return far if bool(far.any()) else None


def _product(xp: Any, left: Any, right: Any) -> Any:
    """Return leftᵀ right, (n, p) and (n, q), in double precision beyond a few thousand rows."""
    step = SUMMED_ROWS if left.dtype == SINGLE else len(left)
    total = xp.zeros((left.shape[1], right.shape[1]))
    for start in range(0, len(left), step):
        total += xp.matmul(left[start : start + step].T, right[start : start + step])
    return total


def _model_of(kernel: OwnCovarianceKernel, log_weights: Array, xp: Any) -> _Model:
    """Return the parameters on the device, brought there once for all chunks of a sweep."""
    key = xp.__name__.encode() + log_weights.tobytes()
    if key not in kernel.for_loops:  # threads may make it at the same time: it is the same
        kernel.for_loops[key] = _made(kernel, log_weights.reshape(-1), xp)
    found: _Model = kernel.for_loops[key]
    return found


def _made(kernel: OwnCovarianceKernel, log_weights: Array, xp: Any) -> _Model:
    wide, own, dtype = kernel.plan.wide, kernel.plan.own, kernel.plan.dtype
    origin, inverse = kernel.frame.origin, 1.0 / kernel.frame.scale
    if dtype == SINGLE and np.array_equal(origin, origin.astype(SINGLE)):  # then it is the same in both
        origin, inverse = origin.astype(SINGLE), inverse.astype(SINGLE)
    weights = kernel.weights.copy()
    weights[:, :1] += log_weights[wide, np.newaxis].astype(dtype)
    left, right = (None, None) if kernel.is_isotropic else map(xp.asarray, kernel.factors_of_terms)
    if kernel.is_isotropic:
        weights = weights[:, : kernel.means.shape[1] + 2]
    factors = kernel.factors[own] if len(own) else kernel.factors[:0]
    factors = factors[:, :, 0] if kernel.second.ndim == 2 else np.ascontiguousarray(factors.swapaxes(1, 2))
    return _Model(
        origin=xp.asarray(origin),
        inverse=xp.asarray(inverse),
        left=left,
        right=right,
        weights=xp.asarray(np.ascontiguousarray(weights.T)),
        wide=xp.asarray(wide),
        means=xp.asarray(kernel.means[own, :, 0]),
        factors=xp.asarray(factors),
        constants=kernel.constant[own] + log_weights[own],
        of_squares=kernel.of_squares[own],
    )
