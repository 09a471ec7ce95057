"""The support of rows that have columns besides design and response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Support


@dataclass(frozen=True)
class UsedColumns(Support):
    """Finite numbers in the columns that are looked at.

    Attributes
    ----------
    used : tuple of int, optional
        All when left out.
    """

    used: tuple[int, ...] | None = None

    def outside(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which values are not allowed; the shape of `rows`."""
        if self.used is None:
            return super().outside(rows)
        found, used = np.zeros(rows.shape, dtype=bool), list(self.used)
        found[:, used] = super().outside(rows[:, used])
        return found
