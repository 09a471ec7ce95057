"""Which components are computed for which rows: cells of the feature space, each with a few candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array

# Rows drawn from each component to learn which others compete for its rows.
DRAWS = 64
# Rows at a time whose discriminants stay in the cache.
BLOCK_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Candidates:
    """A partition of the feature space by linear discriminants, and the components that count in each cell.

    They stay as they are while EM runs, so that every row x_n keeps its candidates K_n. The truncated free energy
    F(θ) = Σ_n log Σ_{k ∈ K_n} π_k p_k(x_n) is the maximum of F(q, θ) over all q with q_n = 0 outside K_n, which the
    E-step attains; the M-step maximises F(q, ·) for this q. So F never falls; and it is at most the log-likelihood.
    Nothing is promised from one choice of candidates to the next: that starts a new fit.

    Attributes
    ----------
    origin, scale : ndarray of shape (n_features,)
        Applied to rows before the discriminants.
    centres : ndarray of shape (n_cells, n_features)
        A row lies in the cell of the nearest.
    lists : ndarray of int, shape (n_cells, n_candidates)
        Numbers of the components that count in each cell, increasing.
    """

    origin: Array
    scale: Array
    centres: Array
    lists: NDArray[np.intp]

    @classmethod
    def learnt(
        cls,
        draw: Callable[[int], NDArray[Any]],
        posterior: Callable[[NDArray[Any]], Array],
        n_components: int,
        n_candidates: int,
    ) -> Self:
        """Return one cell per component, with those that take most of the responsibility for rows drawn from it.

        Parameters
        ----------
        draw : callable
            Draws `DRAWS` rows from the component of a number.
        posterior : callable
            Gives the responsibilities of rows, shape (n, n_components).
        n_components, n_candidates : int
        """
        centres, within, lists = [], [], []
        for k in range(n_components):
            rows = np.asarray(draw(k), dtype=np.float64)
            centres.append(rows.mean(axis=0))
            within.append(rows.var(axis=0))
            share = posterior(rows).sum(axis=0)
            share[k] = np.inf  # every component counts in its own cell
            lists.append(np.sort(np.argsort(-share, kind="stable")[:n_candidates]))
        means = np.array(centres)
        variance = np.mean(within, axis=0) + 1e-6 * means.var(axis=0)
        scale = np.sqrt(np.where(variance > 0.0, variance, 1.0))
        origin = means.mean(axis=0)
        return cls(origin, scale, (means - origin) / scale, np.array(lists))

    def cells(self, rows: NDArray[Any]) -> NDArray[np.intp]:
        """Return the cell of each row, shape (n,)."""
        result = np.empty(len(rows), dtype=np.intp)
        halves = 0.5 * np.sum(self.centres**2, axis=1)
        for start in range(0, len(rows), BLOCK_ROWS):
            where = slice(start, start + BLOCK_ROWS)
            with np.errstate(invalid="ignore", over="ignore"):
                scores = ((rows[where] - self.origin) / self.scale) @ self.centres.T
                scores -= halves
            np.argmax(scores, axis=1, out=result[where])
        return result
