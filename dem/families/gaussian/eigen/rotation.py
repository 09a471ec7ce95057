"""Axes that all components share: the M-steps of EVE and VVE.

With the best variances for given axes D, what is minimised is ½ Σ n_k log|B_k|, B_k the diagonal matrices of variances.
A turn by small angles θ_pq in the planes of two axes each has the gradient Σ_k (1/b_kp − 1/b_kq) (D_kᵀ W_k D_k)_pq
(Flury and Gautschi 1986; Celeux and Govaert 1995, 4.2). L-BFGS over such angles, of matrix products alone, takes fewer
and faster steps to the same axes than their sweeps over pairs and the majorisations of Browne and McNicholas (2014).
Each of them lessens what is minimised, as theirs do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dem.families.base import Array

# Steps at most in one M-step, and the root of what a step is to add to the log-likelihood per row at which they end:
# that is about the angle that is left. EM goes on from there.
STEPS, GAIN = 100, 1e-13
# Steps that tell the curvature, halvings of one at most, and the largest angle.
MEMORY, HALVINGS, LARGEST = 8, 30, 0.5
# What share of the promised gain a step must bring, and the rounding of what is minimised.
ENOUGH, ROUNDING = 1e-4, 1e-14
# The fraction of the golden section: its multiples, less whole numbers, never come twice.
_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)


@dataclass(frozen=True, eq=False)
class _Point:
    """Axes, the variances along them, what is minimised, its gradient in the angles and their own curvature (d, d)."""

    axes: Array
    variances: Array
    value: float
    gradient: Array
    curvature: Array


def common_axes(
    scatter: Array, counts: Array, axes: Array, variances_of: Callable[[Array, Array], Array]
) -> tuple[Array, Array]:
    """Return axes (d, d), in columns, and the variances of each component along them, (n_components, d).

    Parameters
    ----------
    scatter : ndarray of shape (n_components, d, d)
    counts : ndarray of shape (n_components,)
    axes : ndarray of shape (d, d)
        Where to begin.
    variances_of : callable
        Makes variances of the scatter along the axes, and the counts.
    """

    def at(axes: Array) -> _Point:
        seen = axes.T @ scatter @ axes
        along = np.diagonal(seen, axis1=1, axis2=2)
        variances = variances_of(along, counts)
        factors = _differences(1.0 / variances)
        curvature = -np.sum(factors * _differences(along), axis=0)
        curvature = np.maximum(curvature, np.finfo(np.float64).eps * max(curvature.max(), counts.sum()))
        value = 0.5 * float(counts @ np.log(variances).sum(axis=1))
        return _Point(axes, variances, value, np.sum(factors * seen, axis=0), curvature)

    here, memory = at(axes), list[tuple[Array, Array]]()
    for _ in range(STEPS):
        angles = _direction(here, memory)
        if _inner(angles, here.gradient) >= 0.0:
            memory.clear()
            angles = _direction(here, memory)
        if -_inner(angles, here.gradient) <= counts.sum() * GAIN**2:
            break
        angles *= min(1.0, LARGEST / np.abs(angles).max())
        found = _step(at, here, angles)
        if found is None:
            break
        there, angles = found
        memory = [*memory[1 - MEMORY :], (angles, there.gradient - here.gradient)]
        here = there
    return here.axes, here.variances


def axes_of(covariances: Array) -> Array:
    """Return the axes (d, d) that covariances (n_components, d, d) share.

    They are those of a sum of all, each by a factor of its own: where one tells two axes apart, so does the sum.
    """
    sizes = np.trace(covariances, axis1=1, axis2=2)
    factors = 1.0 + np.modf(_GOLDEN * np.arange(len(sizes)))[0]
    return np.asarray(np.linalg.eigh(np.tensordot(factors / sizes, covariances, axes=1))[1])


def _step(at: Callable[[Array], _Point], here: _Point, angles: Array) -> tuple[_Point, Array] | None:
    """Return the point behind a step, which is halved until it is lower, and the angles; None if there is none."""
    slope, identity = _inner(angles, here.gradient), np.eye(len(angles))
    rounding = ROUNDING * (1.0 + abs(here.value))
    steepness = _inner(here.gradient / here.curvature, here.gradient)
    for _ in range(HALVINGS):
        turn = np.linalg.solve(identity + 0.5 * angles, identity - 0.5 * angles)  # Cayley's
        there = at(here.axes @ turn)
        if there.value <= here.value + ENOUGH * slope:
            return there, angles
        if there.value <= here.value + rounding:  # too near for values to tell
            flatter = _inner(there.gradient / there.curvature, there.gradient) < 0.25 * steepness
            return (there, angles) if flatter else None
        angles, slope = 0.5 * angles, 0.5 * slope
    return None


def _direction(here: _Point, memory: list[tuple[Array, Array]]) -> Array:
    """Return the angles of a quasi-Newton step (Nocedal and Wright 2006, algorithm 7.4)."""
    rest, shares = here.gradient.copy(), []
    pairs = [(step, change, _inner(step, change)) for step, change in memory]
    pairs = [pair for pair in pairs if pair[2] > 0.0]
    for step, change, product in reversed(pairs):
        shares.append(_inner(step, rest) / product)
        rest -= shares[-1] * change
    rest /= here.curvature
    for (step, change, product), share in zip(pairs, reversed(shares), strict=True):
        rest += (share - _inner(change, rest) / product) * step
    return -rest


def _differences(numbers: Array) -> Array:
    """Return x_p − x_q of each row, shape (n, d, d)."""
    return np.asarray(numbers[:, :, np.newaxis] - numbers[:, np.newaxis])


def _inner(one: Array, other: Array) -> float:
    """Return the inner product of antisymmetric matrices, each pair of axes once."""
    return 0.5 * float(np.vdot(one, other))
