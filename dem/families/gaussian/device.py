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
BLOCK_BYTES = 2**29
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
    own: Any
    means: Any
    factors: Any
    constants: Any
    of_squares: Any


class _Block(NamedTuple):
    """A few rows: z (n, n_terms), y of components in their own frames (n_own, n, d), log-joint densities (n, K)."""

    where: slice
    z: Any
    y: Any
    joint: Any


def sums_of(
    kernel: OwnCovarianceKernel, log_weights: Array, segments: Sequence[slice], chunk: RowBlock
) -> tuple[Array, Array, NDArray[np.intp]]:
    """Put a chunk through the E-step; see `ChunkKernel.sums_of`."""
    xp, wide, own, d = here(chunk.rows), kernel.plan.wide, kernel.plan.own, chunk.rows.shape[1]
    model = _model_of(kernel, log_weights, xp)
    weights = None if chunk.weights is None else xp.asarray(chunk.weights)
    log_likelihoods, wide_sums = xp.zeros(len(segments)), xp.zeros(model.weights.T.shape)
    own_counts, first, second = (xp.zeros((len(own), *shape)) for shape in ((1,), (1, d), kernel.second.shape[1:]))
    far = [np.empty(0, np.intp)]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # as in `expectation.accumulate`
        for where, z, y, joint in _blocks(kernel, model, chunk.rows):
            largest = [joint[:, segment].max(axis=1) for segment in segments]
            far_here = _far(kernel, xp, largest)
            counted = None if weights is None else weights[where]
            totals = [
                _normalise(xp, joint[:, segment], most, counted)
                for segment, most in zip(segments, largest, strict=True)
            ]
            if len(far_here):
                far.append(where.start + to_host(far_here))
                for array in (joint, z, *totals):
                    array[far_here] = 0.0
                if len(own):
                    y[:, far_here] = 0.0
            for number, total in enumerate(totals):
                total = total.astype(np.float64)
                log_likelihoods[number] += (total if counted is None else total * counted).sum()
            if len(wide):
                wide_sums += _product(xp, joint.take(model.wide, axis=1) if len(own) else joint, z)
            if len(own):
                share = joint.take(model.own, axis=1).T[:, :, np.newaxis]
                own_counts += share.sum(axis=1, dtype=np.float64)
                first += _product(xp, share, y)
                if kernel.second.ndim == 2:
                    second += _product(xp, share, y * y)[:, 0]
                else:
                    y *= xp.sqrt(share)
                    second += _product(xp, y, y)
    counts = np.empty(len(log_weights))
    if len(wide):
        found = to_host(wide_sums)
        counts[wide] = found[:, 0]
        if model.left is None:  # of the squares of features that share a variance only the sum counts
            found = np.hstack([found[:, : 1 + d], np.repeat(found[:, 1 + d :] / d, d, axis=1)])
        kernel.wide_sums += found.T
    if len(own):
        counts[own] = to_host(own_counts)[:, 0]
        kernel.first[own] += to_host(first)[:, 0]
        kernel.second[own] += to_host(second)
    return counts, to_host(log_likelihoods), np.concatenate(far)


def fill(
    kernel: OwnCovarianceKernel, name: str, log_weights: Array, chunk: RowBlock, result: NDArray[Any]
) -> NDArray[np.intp]:
    """Put a chunk through what is said of each row; see `ChunkKernel.fill`. The result is NumPy's."""
    xp = here(chunk.rows)
    far = [np.empty(0, np.intp)]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for where, _, _, joint in _blocks(kernel, _model_of(kernel, log_weights, xp), chunk.rows):
            largest = joint.max(axis=1)
            if len(far_here := _far(kernel, xp, [largest])):
                far.append(where.start + to_host(far_here))
            if name == "label":
                result[where] = to_host(joint.argmax(axis=1))
                continue
            total = _normalise(xp, joint, largest)
            result[where] = to_host(total if name == "density" else joint)
    return np.concatenate(far)


def _blocks(kernel: OwnCovarianceKernel, model: _Model, rows: Any) -> Iterator[_Block]:
    xp, dtype, (n, d) = here(rows), kernel.plan.dtype, rows.shape
    n_wide, n_own = len(kernel.plan.wide), len(kernel.plan.own)
    numbers = 3 * len(model.weights) * bool(n_wide) + d * (3 * n_own + 4) + 3 * (n_wide + n_own)
    step = max(BLOCK_BYTES // (dtype.itemsize * numbers), 1)
    step -= step % min(step, SUMMED_ROWS)
    for start in range(0, n, step):
        where = slice(start, min(start + step, n))
        part = rows[where]
        single = part.dtype == model.origin.dtype == SINGLE
        x = xp.empty((len(part), d + 1), dtype)
        x[:, :d] = ((part if single else part.astype(np.float64)) - model.origin) * model.inverse
        x[:, d] = 1.0
        z, y, joint = x[:, d:], model.means[:, np.newaxis], None
        if n_wide:
            z = _terms(xp, model, x)
            joint = of_wide = xp.matmul(z, model.weights)
        if n_own:
            y = x[:, :d] - model.means[:, np.newaxis]
            y = xp.matmul(y, model.factors) if kernel.second.ndim == 3 else y * model.factors
            joint = xp.empty((len(part), n_wide + n_own), dtype)
            joint[:, model.own] = ((y * y).sum(axis=2) * model.of_squares + model.constants).T
            if n_wide:
                joint[:, model.wide] = of_wide
        yield _Block(where, z, y, joint)


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
    """Return the places of rows that an exact kernel must compute, on the device."""
    if kernel.trusted_above == -np.inf:  # without waiting for the device
        return ()
    least = largest[0]
    for other in largest[1:]:
        least = xp.minimum(least, other)
    return xp.flatnonzero(~(least >= kernel.trusted_above))  # NaN among them


def _product(xp: Any, left: Any, right: Any) -> Any:
    """Return leftᵀ right, (…, n, p) and (…, n, q), in double precision beyond a few thousand rows."""
    n = left.shape[-2]
    step = SUMMED_ROWS if left.dtype == SINGLE else max(n, 1)
    total: Any = 0.0
    for start in range(0, n, step):
        where = slice(start, start + step)
        total = total + xp.matmul(left[..., where, :].swapaxes(-1, -2), right[..., where, :]).astype(np.float64)
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
    factors = np.ascontiguousarray(factors.swapaxes(1, 2))  # of diagonal covariances (n_own, 1, d)
    return _Model(
        origin=xp.asarray(origin),
        inverse=xp.asarray(inverse),
        left=left,
        right=right,
        weights=xp.asarray(np.ascontiguousarray(weights.T)),
        wide=xp.asarray(wide),
        own=xp.asarray(own),
        means=xp.asarray(kernel.means[own, :, 0]),
        factors=xp.asarray(factors),
        constants=xp.asarray((kernel.constant[own] + log_weights[own].astype(dtype))[:, np.newaxis]),
        of_squares=xp.asarray(kernel.of_squares[own, np.newaxis]),
    )
