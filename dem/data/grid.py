"""Grids whose points are stacked to rows: their chunks, parts of them, and the dimension that holds the features."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.checks import rows_text
from dem.errors import DataError

# Dimensions that hold features where the user does not say so.
USUAL_NAMES = ("feature", "features", "variable", "band", "channel")

Corner = tuple[int, ...]


def chunk_counts(extents: Sequence[int], sizes: Sequence[int]) -> Corner:
    """Return the number of chunks along each dimension."""
    return tuple(-(-extent // size) for extent, size in zip(extents, sizes, strict=True))


def chunks_in(region: Sequence[slice], sizes: Sequence[int]) -> list[range]:
    """Return along each dimension the numbers of the chunks that a region touches."""
    return [range(part.start // size, -(-part.stop // size)) for part, size in zip(region, sizes, strict=True)]


def chunk_region(number: Iterable[int], sizes: Sequence[int], extents: Sequence[int]) -> tuple[slice, ...]:
    """Return where the chunk of a number is."""
    dimensions = zip(number, sizes, extents, strict=True)
    return tuple(slice(i * size, min((i + 1) * size, extent)) for i, size, extent in dimensions)


def joined_chunks(extents: Corner, sizes: Corner, most: int) -> Corner:
    """Return the block that one read brings: several chunks, up to `most` points, those along the last axes first."""
    block = list(sizes)
    for axis, n_chunks in reversed(list(enumerate(chunk_counts(extents, sizes)))):
        block[axis] *= max(min(most // math.prod(block), n_chunks), 1)
    return tuple(block)


@dataclass(eq=False)
class Region:
    """A block of a grid: its first position and extents, and those of the whole grid, which is stacked to rows."""

    offset: Corner
    shape: Corner
    whole: Corner

    @property
    def n_rows(self) -> int:
        """Number of points."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where it is in an array."""
        return tuple(slice(first, first + extent) for first, extent in zip(self.offset, self.shape, strict=True))

    def place(self) -> str:
        """Word where the block is."""
        if len(self.shape) == 1:
            return rows_text(self.offset[0], self.offset[0] + self.shape[0])
        return f"shape {self.shape}"

    def index(self) -> range | NDArray[np.int64]:
        """Return the positions of the block's rows in C order."""
        # Rows are consecutive if all dimensions behind the first that is longer than 1 are whole.
        leading = next((i for i, extent in enumerate(self.shape) if extent > 1), len(self.shape))
        start = int(np.ravel_multi_index(self.offset, self.whole))
        if self.shape[leading + 1 :] == self.whole[leading + 1 :]:
            return range(start, start + self.n_rows)
        axes = [np.arange(first, first + extent) for first, extent in zip(self.offset, self.shape, strict=True)]
        return np.ravel_multi_index(np.ix_(*axes), self.whole).ravel()


def span_of(first: Region, last: Region, n_rows: int) -> range | None:
    """Return which rows are in blocks that follow one another in C order, `n_rows` in all; None where not all between.

    Examples
    --------
    >>> span_of(Region((0, 0), (1, 3), (2, 6)), Region((0, 3), (1, 3), (2, 6)), 6)
    range(0, 6)
    """
    start = int(np.ravel_multi_index(first.offset, first.whole))
    end = tuple(a + n - 1 for a, n in zip(last.offset, last.shape, strict=True))
    span = range(start, int(np.ravel_multi_index(end, last.whole)) + 1)
    return span if len(span) == n_rows else None


def feature_axis(name: str, ndim: int, dims: Sequence[Hashable] | None, feature_dim: Hashable | None) -> int:
    """Return the axis that holds the features of data that messages call `name`.

    The user tells its name, which goes first, or its number (also from the end). Raises `DataError` if there is no such
    dimension among `dims`, or none is given and it is not clear.
    """
    listed = ", ".join(map(str, range(ndim) if dims is None else dims)) or "none"
    if feature_dim is not None:
        if isinstance(feature_dim, bool | np.bool_):
            message = f"feature_dim must be the name or number of a dimension of {name} ({listed}), not {feature_dim!r}"
            raise DataError(message)
        for axis, dim in enumerate(dims or ()):
            if feature_dim in (dim, str(dim)):
                return axis
        number = _whole_number(feature_dim)
        if number is None or not -ndim <= number < ndim:
            message = f"{name} has no dimension {feature_dim!r}; its dimensions are: {listed}"
            raise DataError(message)
        return number % ndim
    usual = [axis for axis, dim in enumerate(dims or ()) if dim in USUAL_NAMES]
    if len(usual) == 1:
        return usual[0]
    if ndim == 2 and not usual:
        return 1
    message = f"which dimension of {name} holds the features? Pass feature_dim= (--feature-dim) with one of: {listed}"
    raise DataError(message)


def _whole_number(value: Any) -> int | None:
    try:
        return int(value) if isinstance(value, str | int) else None
    except ValueError:
        return None
