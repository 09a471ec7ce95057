"""Counting values that are not finite, and saying where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dem.data.base import Chunk, Rows


@dataclass(frozen=True)
class NonFinite:
    """How many NaN and infinite values there are and where the first stands; ``+`` keeps the earlier one."""

    n_nan: int = 0
    n_infinite: int = 0
    row: int = -1
    column: int = -1

    @property
    def count(self) -> int:
        """NaN and infinite values together."""
        return self.n_nan + self.n_infinite

    def __add__(self, other: NonFinite) -> NonFinite:
        first = min((part for part in (self, other) if part.count), key=lambda part: part.row, default=self)
        return NonFinite(self.n_nan + other.n_nan, self.n_infinite + other.n_infinite, first.row, first.column)


@dataclass(frozen=True)
class CountNonFinite:
    """Work that counts NaN and infinite values."""

    def __call__(self, chunk: Chunk) -> NonFinite:
        """Return the chunk's counts and its first bad value."""
        if chunk.rows.dtype.kind not in "fc":
            return NonFinite()
        bad = ~np.isfinite(chunk.rows)
        if not bad.any():
            return NonFinite()
        n_nan = int(np.isnan(chunk.rows).sum())
        positions = np.asarray(chunk.index)
        bad_rows = np.flatnonzero(bad.any(axis=1))
        row = bad_rows[positions[bad_rows].argmin()]
        return NonFinite(n_nan, int(bad.sum()) - n_nan, int(positions[row]), int(bad[row].argmax()))


def describe(rows: Rows, found: NonFinite) -> str:
    """Return the message for what was found; an empty one if all values are finite."""
    if not found.count:
        return ""
    name = f" ({rows.feature_names[found.column]!r})" if rows.feature_names else ""
    return (
        f"{rows.name} contains {found.n_nan} NaN and {found.n_infinite} infinite (inf) values; the first is in row "
        f"{found.row}, column {found.column}{name}; drop or fill them first"
    )
