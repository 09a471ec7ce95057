"""Components of no use begin anew at the rows of lowest density: `reseed=`.

The M-step leaves a component without rows where it is, and one that has collapsed onto a row, or does the same as
another, seldom gets away by itself (but what is alike may part as long as EM gains, so that duplicates count once it
settles). Where a pass ends with such components, the next one also brings the rows that the mixture explains worst
(`dem.em.lowest`: the same ones whatever the chunks and workers), and each component begins anew at one of them. That
may lower the log-likelihood, once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dem.data.base import Chunk
from dem.em.lowest import Lowest, LowestDensities
from dem.families.base import OK, Model

# Rows to choose from, for each component and besides: where the lowest lie close together, the next lie elsewhere.
CANDIDATES, MORE_CANDIDATES = 4, 64
# In how many turns components get their rows, each from what those before have left unexplained.
TURNS = 16


def useless(model: Model[Any, Any], parameters: Any, n_rows: float, *, duplicates: bool) -> tuple[int, ...]:
    """Return the numbers of the components that are empty or collapsed, or duplicates; none where all of them are."""
    status = model.component_status(parameters, n_rows, duplicates=duplicates)
    found = tuple(k for k, word in enumerate(status) if word != OK)
    return found if len(found) < len(status) else ()


def least_likely(model: Model[Any, Any], parameters: Any, n_components: int) -> LowestDensities:
    """Return the work that finds rows to choose from for so many components."""
    return LowestDensities(model, parameters, CANDIDATES * n_components + MORE_CANDIDATES, distinct=True)


def reseeded(model: Any, parameters: Any, which: tuple[int, ...], lowest: Lowest) -> tuple[Any, tuple[int, ...]]:
    """Return parameters where components begin anew, and which; fewer if there are fewer rows.

    Parameters
    ----------
    model : Model
    parameters : object
        After an M-step.
    which : tuple of int
        Numbers of components.
    lowest : Lowest
        Rows of low density.
    """
    which = which[: len(lowest.index)]
    left = np.ones(len(lowest.index), dtype=bool)
    for turn in np.array_split(np.array(which, dtype=np.intp), min(len(which), TURNS)):
        ranked = LowestDensities(model, parameters, len(turn))(Chunk(lowest.rows[left], lowest.index[left]))
        parameters = model.reseeded(parameters, turn, Chunk(ranked.rows, ranked.index))
        left &= ~np.isin(lowest.index, ranked.index)  # two that begin at the same row would be duplicates
    return parameters, which
