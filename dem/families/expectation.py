"""The E-step of a mixture on one chunk, block by block: responsibilities, log-likelihood, statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, ChunkKernel, EStepKernel, RowBlock, weighted_sum
from dem.families.workspace import constant_row
from dem.namespaces import on_host
from dem.statistics import Additive, Statistics

S = TypeVar("S", bound=Statistics)
C = TypeVar("C", bound=RowBlock)

_LOWEST = {np.dtype(kind): float(np.finfo(kind).min) for kind in (np.float32, np.float64)}
# The least logarithm of a responsibility in double precision. NumPy's exp takes 8 to 45 times as long where its result
# is denormal or zero, and products twice as long where theirs are: far enough above the smallest normal number that
# responsibility times row is normal too, and so far below `NEGLIGIBLE` that 1e12 rows of it do not count.
_LEAST = -600.0
# Numbers in the buffer of NumPy's ufuncs. Where rows are longer, one with a column of numbers is three times as fast.
_BUFFER = 512


def blocks(chunk: C, block_rows: int) -> Iterator[tuple[slice, C]]:
    """Cut a chunk into blocks; yields their places and themselves, in this process's memory."""
    for start in range(0, len(chunk.rows), block_rows):
        where = slice(start, min(start + block_rows, len(chunk.rows)))
        yield where, on_host(chunk.take(where))


def normalise(joint: NDArray[Any], largest: NDArray[Any], weights: NDArray[np.float64] | None = None) -> NDArray[Any]:
    """Turn log-joint densities (n_components, n) into responsibilities, in place, and return log Σ_k exp(joint), (n,).

    `largest` is the largest of each column, which is subtracted first. The responsibilities of a row add up to its
    weight, (n,), or to 1.
    """
    n, dtype = joint.shape[1], joint.dtype
    # A row with density 0 everywhere keeps log-likelihood −inf instead of turning into NaN.
    shift = np.maximum(largest, constant_row(_LOWEST[dtype], n, dtype))
    joint -= shift
    if dtype == np.float64:
        # A maximum with a row of numbers takes a quarter of that with one number.
        np.maximum(joint, constant_row(_LEAST, n, dtype), out=joint)
    np.exp(joint, out=joint)
    total: NDArray[Any] = joint.sum(axis=0)
    joint *= np.divide(1.0 if weights is None else weights, total, out=shift, casting="same_kind")
    np.log(total, out=total)
    total += largest
    return total


def forbid(joint: NDArray[Any], labels: NDArray[Any]) -> None:
    """Set the log-joint densities (n_components, n) of components that cannot have made a row to −∞, in place."""
    if labels.ndim == 2:
        joint[~labels.T] = -np.inf
        return
    known = np.flatnonzero(labels >= 0)
    of_their_own = joint[labels[known], known]
    joint[:, known] = -np.inf
    joint[labels[known], known] = of_their_own


@dataclass(frozen=True, eq=False)
class Sums(Additive, Generic[S]):
    """Σγ, the log-likelihood of each segment of the components, and the statistics of the components."""

    counts: Array
    log_likelihoods: Array
    components: S


def accumulate(
    kernel: EStepKernel[S],
    exact: Callable[[], EStepKernel[S]],
    log_weights: Array,
    segments: Sequence[slice],
    chunk: RowBlock,
) -> Sums[S]:
    """Put a chunk through a kernel, and the rows that it does not do justice through an exact one."""
    counts = np.zeros(len(log_weights))
    log_likelihoods = np.zeros(len(segments))
    far_rows = []
    whole = kernel.sums_of(log_weights, segments, chunk) if isinstance(kernel, ChunkKernel) else None
    if whole is not None:
        counts, log_likelihoods, far = whole
        far_rows = [far] if len(far) else []
    # What is not finite shows in the log-likelihood, and the EM loop says where it comes from.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        np.setbufsize(_BUFFER)  # until the end of this context
        for where, part in blocks(chunk, kernel.block_rows) if whole is None else ():
            block = kernel.block(part)
            responsibilities = block.log_density()
            responsibilities += log_weights.astype(responsibilities.dtype, copy=False)
            if part.labels is not None:
                for segment in segments:
                    forbid(responsibilities[segment], part.labels)
            largest = [responsibilities[segment].max(axis=0) for segment in segments]
            # A row is as trustworthy as the model that it is farthest from.
            far_here = distrusted_rows(kernel, largest[0] if len(largest) == 1 else np.minimum.reduce(largest))
            totals = [
                normalise(responsibilities[own], most, part.weights)
                for own, most in zip(segments, largest, strict=True)
            ]
            if far_here is not None:
                far_rows.append(where.start + np.flatnonzero(far_here))
                responsibilities[:, far_here] = 0.0
                for total in totals:
                    total[far_here] = 0.0
                block.forget(far_here)
            for number, total in enumerate(totals):
                log_likelihoods[number] += weighted_sum(total, part.weights)
            counts += responsibilities.sum(axis=1)
            block.accumulate(responsibilities)
    sums = Sums(counts, log_likelihoods, kernel.statistics())
    if far_rows:
        sums = sums + accumulate(exact(), exact, log_weights, segments, chunk.take(np.concatenate(far_rows)))
    return sums


def log_joint(
    kernel: EStepKernel[Any], log_weights: Array, chunk: RowBlock
) -> Iterator[tuple[slice, NDArray[Any], NDArray[Any]]]:
    """Yield the place of each block, log(weight · density), shape (n_components, n), and the largest of each column."""
    for where, part in blocks(chunk, kernel.block_rows):
        with np.errstate(invalid="ignore", over="ignore"):
            np.setbufsize(_BUFFER)
            joint = kernel.block(part).log_density()
            joint += log_weights.astype(joint.dtype, copy=False)
        if part.labels is not None:
            forbid(joint, part.labels)
        yield where, joint, joint.max(axis=0)


def distrusted_rows(kernel: EStepKernel[Any], largest: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which rows an exact kernel must compute, by their largest log-density; None if there are none."""
    if kernel.trusted_above == -math.inf or largest.min() >= kernel.trusted_above:
        return None
    return np.asarray(~(largest >= kernel.trusted_above))  # NaN among them
