"""Variances along given axes: the M-steps of volumes λ and shapes A.

Each takes ``w``, shape (n_components, n_features), the scatter of each component along its axes, and the counts,
(n_components,), and returns the variances λ_k A_k, (n_components, n_features), of highest likelihood.
"""

from __future__ import annotations

import numpy as np

from dem.errors import FitError
from dem.families.base import Array
from dem.families.gaussian.covariance import ill_defined

# Rounds of a fixed point at most in one M-step, whose each round raises what EM maximises, and the relative change of
# volumes at which it ends.
ROUNDS, CHANGE = 500, 1e-14


def equal_ball(w: Array, counts: Array) -> Array:
    """EII: one variance for all."""
    return np.full_like(w, w.sum() / (counts.sum() * w.shape[1]))


def equal_volume_equal_shape(w: Array, counts: Array) -> Array:
    """EE: the pooled variances."""
    return np.broadcast_to(w.sum(axis=0) / counts.sum(), w.shape)


def equal_volume_own_shape(w: Array, counts: Array) -> Array:
    """EV: each component's own variances, of the same geometric mean."""
    sizes = geometric_means(w)
    return np.asarray(w * (sizes.sum() / counts.sum() / sizes)[:, np.newaxis])


def own_volume_equal_shape(w: Array, counts: Array, volumes: Array | None = None) -> Array:
    """VE: volumes λ given the shape A and the shape given the volumes, in turn, from given volumes.

    The likelihood is concave in log λ and log A together: there is one maximum.
    """
    volumes = positive(w.mean(axis=1) / counts if volumes is None else volumes)
    for _ in range(ROUNDS):
        shape = np.sum(w / volumes[:, np.newaxis], axis=0)
        shape = shape / geometric_means(shape[np.newaxis])
        before, volumes = volumes, positive(np.mean(w / shape, axis=1) / counts)
        if np.abs(volumes - before).max() <= CHANGE * volumes.max():
            break
    return np.asarray(volumes[:, np.newaxis] * shape)


def own_volume_own_shape(w: Array, counts: Array) -> Array:
    """VV: each component's own variances."""
    return positive(w) / counts[:, np.newaxis]


def geometric_means(w: Array) -> Array:
    """Return the geometric mean of each row of numbers, which must be positive."""
    return np.asarray(np.exp(np.log(positive(w)).mean(axis=1)))


def positive(numbers: Array) -> Array:
    """Return numbers (n_components, …), all of which must be above 0.

    Raises
    ------
    FitError
        If they are not, with the first component that has one.
    """
    bad = ~(numbers > 0.0)
    if bad.any():
        which = np.flatnonzero(bad.reshape(len(numbers), -1).any(axis=1))[0]
        raise FitError(ill_defined(f"component {which}" if len(numbers) > 1 else "what all components share"))
    return numbers
