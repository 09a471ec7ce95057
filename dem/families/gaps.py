"""Rows with missing values (NaN), apart from the others. Which values a row lacks is its pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Component, EStepKernel, RowBlock
from dem.families.grouping import rows_of_keys
from dem.row_draws import RowDraws
from dem.statistics import Statistics

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)
C = TypeVar("C", bound=RowBlock)
#: the complete rows of a chunk, their numbers, and groups of the others: what computes them, the rows, their numbers
Divided: TypeAlias = tuple[C, NDArray[np.intp] | slice, Iterator[tuple[EStepKernel[S], C, NDArray[np.intp]]]]


def rows_of_patterns(missing: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """Yield each pattern of missing values, shape (n_features,), and the numbers of its rows, which are increasing.

    The order of the patterns depends on them alone.
    """
    for which in rows_of_keys(keys_of(missing)):
        yield missing[which[0]], which


def n_patterns(rows: NDArray[Any]) -> int:
    """Return how many patterns the rows with missing values have."""
    missing = np.isnan(rows)
    missing = missing[missing.any(axis=1)]
    return len(np.unique(keys_of(missing)))


def patterns_among(rows: NDArray[Any], n: int) -> float:
    """Return how many patterns of missing values to expect among n rows, of which `rows` are a sample.

    Of n rows out of those of the sample: a pattern that has a share f of them is there with probability 1 − (1 − f)ⁿ.
    Each further row brings a new one as often as one in the sample is the only row of its pattern (Good 1953).
    """
    missing = np.isnan(rows)
    counts = np.unique(keys_of(missing[missing.any(axis=1)]), return_counts=True)[1]
    n_rows = len(rows)
    among = -np.expm1(min(n, n_rows) * np.log1p(-np.minimum(counts / n_rows, 1.0 - 1e-15)))
    return float(among.sum() + max(n - n_rows, 0) * np.mean(counts == 1) * len(counts) / n_rows)


def keys_of(missing: NDArray[np.bool_]) -> NDArray[Any]:
    """Return what tells the pattern of each row, shape (n,): numbers for at most 64 features, else bytes."""
    n, d = missing.shape
    if d > 64:
        packed = np.packbits(missing, axis=1)
        return np.ascontiguousarray(packed).view(f"S{packed.shape[1]}")[:, 0]
    # Whole numbers as small as can be: up to 16 bits NumPy sorts them in linear time.
    n_bytes = next(size for size in (1, 2, 4, 8) if d <= 8 * size)
    padded = np.zeros((n, 8 * n_bytes), dtype=bool)
    padded[:, :d] = missing
    return np.packbits(padded).view(f"u{n_bytes}")


def divided(component: Component[P, S], parameters: P, chunk: C, *, marginalises: bool = True) -> Divided[C, S]:
    """Divide a chunk by what its rows lack: limits in the place of values, or values; see `Component.marginals`.

    Unless the mixture `marginalises`, rows without a value and a limit for it stay with the complete ones.
    """
    incomplete = np.isnan(chunk.rows).any(axis=1)
    limited = np.zeros_like(incomplete) if chunk.limits is None else ~np.isnan(chunk.limits).all(axis=(1, 2))
    if marginalises:
        incomplete &= ~limited
    else:
        limited, incomplete = limited & ~incomplete, np.zeros_like(incomplete)
    whole = np.flatnonzero(~(incomplete | limited))
    return chunk.take(whole), whole, _groups(component, parameters, chunk, limited, incomplete)


def _groups(
    component: Component[P, S],
    parameters: P,
    chunk: C,
    limited: NDArray[np.bool_],
    incomplete: NDArray[np.bool_],
) -> Iterator[tuple[EStepKernel[S], C, NDArray[np.intp]]]:
    """Yield the rows with limits, and those of each pattern of missing values."""
    (where,) = np.nonzero(limited)
    if len(where):
        part = chunk.take(where)
        yield component.kernel_for(parameters, part), part, where
    (where,) = np.nonzero(incomplete)
    if len(where):
        rest = taken(chunk, where)
        for which, kernel in component.marginals(parameters, rest.rows):
            yield kernel, taken(rest, which), where[which]


def taken(chunk: C, which: NDArray[np.intp]) -> C:
    """Return some of the rows; without a copy where these are all as they stand."""
    as_they_stand = len(which) == len(chunk.rows) and bool((which[1:] > which[:-1]).all())
    return chunk if as_they_stand else chunk.take(which)


def imputed(
    component: Component[P, Any],
    parameters: P,
    chunk: RowBlock,
    posterior: Callable[[RowBlock], Array],
    rng: RowDraws | None = None,
) -> Array:
    """Return rows with what is missing or has limits replaced by its mean given all else, or drawn if there is `rng`.

    `posterior` gives the responsibilities of rows, shape (n, n_components).
    """
    rows = np.array(chunk.rows, dtype=np.float64)
    unknown = np.isnan(rows)
    if chunk.limits is not None:
        unknown |= ~np.isnan(chunk.limits[..., 0])
    (which,) = np.nonzero(unknown.any(axis=1))
    if not len(which):
        return rows
    part = chunk.take(which)
    shares = posterior(part)
    if rng is not None:
        rng = rng.take(which)
        edges = np.cumsum(shares, axis=1)
        labels = np.sum(edges[:, :-1] < rng.random((len(which), 1)) * edges[:, -1:], axis=1)
        found = component.drawn(parameters, part, labels, rng)
    else:
        found = component.expected_given(parameters, part, shares)
    if part.limits is not None and part.noise is None:  # rounding of components that are far away
        known = np.isnan(part.limits)
        ends = np.where(known, [-np.inf, np.inf], part.limits)
        found = np.clip(found, ends[..., 0], ends[..., 1])
    rows[which] = np.where(unknown[which], found, rows[which])
    return rows
