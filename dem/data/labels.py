"""Labels of features, their names or coordinate values: which are the same, and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Share of the distance between neighbouring coordinates by which two may differ and still be the same.
TOLERANCE = 1e-6


def same(found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell one by one whether labels are the same; numbers are, up to the rounding of single precision and the like.

    Examples
    --------
    >>> same(np.float32([0.1, 2.5]), np.array([0.1, 2.6]))
    array([ True, False])
    """
    if found.dtype.kind in "biuf" and wanted.dtype.kind in "biuf":
        return np.asarray(np.isclose(found, wanted, rtol=0.0, atol=_tolerance(found, wanted), equal_nan=True))
    if found.dtype.kind != wanted.dtype.kind:
        return np.zeros(len(found), bool)
    return np.asarray(found == wanted)


def coordinate_text(dim: str | None, value: Any) -> str:
    """Word a coordinate of the features' dimension.

    Examples
    --------
    >>> coordinate_text("depth", np.float32(10))
    'depth 10'
    """
    return f"{dim or 'feature'} {str(value).removesuffix('.0')}"


def _tolerance(found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.float64]:
    """Return by how much each may differ: a small share of the nearest distance, or four units in the last place."""
    values = np.nan_to_num(np.asarray(wanted, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    steps = np.diff(np.sort(values))
    step = float(np.min(steps[steps > 0], initial=np.inf))
    share = TOLERANCE * step if np.isfinite(step) else 0.0
    eps = max(float(np.finfo(part.dtype).eps) if part.dtype.kind == "f" else 0.0 for part in (found, wanted))
    return np.fmax(share, 4.0 * eps * np.abs(values))


def order_of(found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return where each of the labels wanted is among those found; None unless they are the same ones.

    Examples
    --------
    >>> order_of(np.array([20.0, 10.0, 0.0]), np.array([0.0, 10.0, 20.0]))
    array([2, 1, 0])
    """
    if len(found) != len(wanted) or len({found.dtype.kind in "biuf", wanted.dtype.kind in "biuf"}) > 1:
        return None
    mine, theirs = np.argsort(found, kind="stable"), np.argsort(wanted, kind="stable")
    if not same(found[mine], wanted[theirs]).all():
        return None
    order = np.empty(len(found), np.int64)
    order[theirs] = mine
    return order
