"""What has become of each component of a fit: whether it has rows, a spread and a place of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import OK, Array, Component

EMPTY, COLLAPSED, DUPLICATE = "empty", "collapsed", "duplicate of"
# A component of a smaller Σγ, in rows of mean weight, has not even one row.
FEWEST_ROWS = 0.5
# Jeffreys's divergence (nats) up to which two components are one: to merge them costs a row an eighth of it at most,
# and no fewer than 10⁴ rows of them tell them apart.
SAME = 1e-4
# With how many of the components next to it each is compared.
NEIGHBOURS = 8
# Coordinates up to which a tree finds these sooner than a look at all; points that are looked at together.
_FEW_COORDINATES, _BLOCK = 15, 512


def component_status(
    component: Component[Any, Any], parameters: Any, weights: Array | None, n_rows: float, *, duplicates: bool = True
) -> tuple[str, ...]:
    """Judge the components of a mixture by their parameters.

    Parameters
    ----------
    component : Component
    parameters : object
        Of all components.
    weights : ndarray of shape (n_components,), optional
        Which share of the rows each has; None where that is not known.
    n_rows : float
        How many rows there are.
    duplicates : bool
        Whether to look for these.

    Returns
    -------
    tuple of str
        For each component ``'ok'``; ``'empty'``: less than half a row belongs to it; ``'duplicate of K'``: its density
        is that of component K; or ``'collapsed'``: see `Component.collapsed`.
    """
    collapsed = component.collapsed(parameters)
    empty = np.zeros(len(collapsed), dtype=bool) if weights is None else ~(weights * n_rows >= FEWEST_ROWS)
    found = [EMPTY if e else COLLAPSED if c else OK for e, c in zip(empty, collapsed, strict=True)]
    for first, later in _duplicates(component, parameters, np.flatnonzero(~empty)) if duplicates else ():
        found[later] = f"{DUPLICATE} {first}"
    return tuple(found)


def _duplicates(component: Component[Any, Any], parameters: Any, among: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Return pairs of components that are one, each but the first of its kind once, behind that first.

    Each is compared with those next to it alone, so that thousands of components take no longer than an M-step.
    """
    places = component.coordinates(parameters)[among]
    if len(among) < 2 or not np.isfinite(places).all():
        return []
    next_to = _next_to(places, min(NEIGHBOURS, len(among)))
    pairs = np.column_stack([np.repeat(among, next_to.shape[1]), among[next_to.ravel()]])
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    same = pairs[component.divergence(parameters, pairs, SAME) <= SAME]
    firsts: dict[int, int] = {}
    for one, other in same.tolist():
        firsts.setdefault(other, firsts.get(one, one))
    return [(first, later) for later, first in firsts.items()]


def _next_to(places: Array, n: int) -> NDArray[np.intp]:
    """Return the places of the n points next to each, itself among them."""
    if places.shape[1] <= _FEW_COORDINATES:
        from scipy.spatial import cKDTree  # noqa: PLC0415 - workers do without

        return np.asarray(cKDTree(places).query(places, k=n)[1]).reshape(len(places), n)
    centred = places - places.mean(axis=0)
    half_squares = 0.5 * np.einsum("ij,ij->i", centred, centred)
    found = np.empty((len(places), n), dtype=np.intp)
    for start in range(0, len(places), _BLOCK):
        some = slice(start, start + _BLOCK)
        distances = half_squares - centred[some] @ centred.T
        found[some] = np.argpartition(distances, n - 1, axis=1)[:, :n]
    return found
