"""The table of mclust's models and the M-step of each: covariances from scatter matrices and counts.

A name has a letter each for the volume λ, the shape A and the orientation D of Σ_k = λ_k D_k A_k D_kᵀ, with |A_k| = 1:
equal (E), varying (V), or the identity (I).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from dem.families.base import Array
from dem.families.gaussian.eigen.axes import (
    CHANGE,
    ROUNDS,
    equal_ball,
    equal_volume_equal_shape,
    equal_volume_own_shape,
    geometric_means,
    own_volume_equal_shape,
    own_volume_own_shape,
    positive,
)
from dem.families.gaussian.eigen.rotation import axes_of, common_axes


@dataclass(frozen=True)
class Structure:
    """One of the models.

    Attributes
    ----------
    covariances : callable
        The M-step: makes covariances of the scatter, (n_components, d) or (n_components, d, d), of the counts,
        (n_components,), and of covariances of this structure where its fixed point begins, or None.
    isotropic : bool
        Whether another scale of single features makes another model of it: its axes or its volume mix them.
    """

    covariances: Callable[[Array, Array, Array | None], Array]
    isotropic: bool = False


def n_numbers(name: str, n_components: int, n_features: int) -> int:
    """Return the number of free parameters of the covariances of a model."""
    each = {"E": 1, "V": n_components, "I": 0}
    volume, shape, orientation = (each[letter] for letter in name)
    return volume + shape * (n_features - 1) + orientation * n_features * (n_features - 1) // 2


def along_features(variances_of: Callable[[Array, Array], Array]) -> Callable[[Array, Array, Array | None], Array]:
    """Return the M-step where features are the axes."""
    return lambda scatter, counts, _: variances_of(scatter, counts)


def vei(scatter: Array, counts: Array, before: Array | None) -> Array:
    """Own volumes, a common shape along the features."""
    volumes = None if before is None else geometric_means(before)
    return own_volume_equal_shape(scatter, counts, volumes)


def vee(scatter: Array, counts: Array, before: Array | None) -> Array:
    """Own volumes λ times one matrix C of determinant 1: each given the other, in turn."""
    d = scatter.shape[1]
    volumes = positive(np.trace(scatter, axis1=1, axis2=2) / (d * counts)) if before is None else volumes_of(before)
    for _ in range(ROUNDS):
        common = np.tensordot(1.0 / volumes, scatter, axes=1)
        common /= volumes_of(common[np.newaxis])[0]
        within = np.trace(np.linalg.solve(common, scatter), axis1=1, axis2=2)
        previous, volumes = volumes, positive(within / (d * counts))
        if np.abs(volumes - previous).max() <= CHANGE * volumes.max():
            break
    return volumes[:, np.newaxis, np.newaxis] * common


def evv(scatter: Array, counts: Array, before: Array | None) -> Array:  # noqa: ARG001
    """Own matrices of the same determinant."""
    sizes = volumes_of(scatter)
    return np.asarray(scatter * (sizes.sum() / counts.sum() / sizes)[:, np.newaxis, np.newaxis])


def eev(scatter: Array, counts: Array, before: Array | None) -> Array:  # noqa: ARG001
    """Own axes, those of the scatter; the same variances along the longest, the second, and so on."""
    values, axes = along_own_axes(scatter)
    return composed(axes, equal_volume_equal_shape(values, counts))


def vev(scatter: Array, counts: Array, before: Array | None) -> Array:
    """Own axes, those of the scatter, and own volumes; the same shape along the longest axis, and so on."""
    values, axes = along_own_axes(scatter)
    volumes = None if before is None else volumes_of(before)
    return composed(axes, own_volume_equal_shape(values, counts, volumes))


def along_common_axes(
    variances_of: Callable[[Array, Array], Array], scatter: Array, counts: Array, before: Array | None
) -> Array:
    """Own shapes along the axes that all components share: EVE and VVE."""
    start = np.linalg.eigh(scatter.sum(axis=0))[1] if before is None else axes_of(before)
    axes, variances = common_axes(scatter, counts, start, variances_of)
    return composed(axes, variances)


def along_own_axes(scatter: Array) -> tuple[Array, Array]:
    """Return the eigenvalues of scatter matrices, in the same order for all, and the axes."""
    values, axes = np.linalg.eigh(scatter)
    return np.maximum(values, 0.0), axes


def composed(axes: Array, variances: Array) -> Array:
    """Return the covariances D B Dᵀ with variances (n_components, d) along axes (…, d, d)."""
    halves = axes * np.sqrt(variances)[:, np.newaxis]
    return np.asarray(halves @ halves.swapaxes(1, 2))


def principal_axes(covariances: Array, *, shared: bool) -> tuple[Array, Array]:
    """Return the variances along the principal axes (n_components, d), the largest first, and the axes, in columns.

    Axes that are `shared` are in the order of the sums of variances. The largest entry of each is positive.
    """
    axes = np.broadcast_to(axes_of(covariances), covariances.shape) if shared else np.linalg.eigh(covariances)[1]
    variances = np.einsum("kij,kil,klj->kj", axes, covariances, axes)
    by = np.broadcast_to(variances.sum(axis=0), variances.shape) if shared else variances
    order = np.argsort(-by, axis=1)
    variances = np.take_along_axis(variances, order, axis=1)
    axes = np.take_along_axis(axes, order[:, np.newaxis], axis=2)
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, np.newaxis], axis=1)
    return variances, axes * np.sign(largest)


def volumes_of(matrices: Array) -> Array:
    """Return |matrix|^(1/d) of each."""
    signs, logarithms = np.linalg.slogdet(matrices)
    return positive(signs * np.exp(logarithms / matrices.shape[1]))


#: the models that scikit-learn does not have; its own are VVV (full), EEE (tied), VVI (diag) and VII (spherical)
STRUCTURES: Mapping[str, Structure] = {
    "EII": Structure(along_features(equal_ball), isotropic=True),
    "EEI": Structure(along_features(equal_volume_equal_shape)),
    "VEI": Structure(vei),
    "EVI": Structure(along_features(equal_volume_own_shape)),
    "VEE": Structure(vee),
    "EVE": Structure(partial(along_common_axes, equal_volume_own_shape), isotropic=True),
    "VVE": Structure(partial(along_common_axes, own_volume_own_shape), isotropic=True),
    "EEV": Structure(eev, isotropic=True),
    "VEV": Structure(vev, isotropic=True),
    "EVV": Structure(evv),
}
