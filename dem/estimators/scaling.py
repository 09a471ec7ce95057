"""`scale=True`: features in units of their own standard deviations, from one read of all the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.engine import Engine
from dem.errors import DataError
from dem.estimators.base import Estimator
from dem.estimators.inputs import SCALES
from dem.estimators.options import option
from dem.events import Preparing, notify
from dem.families.base import Array
from dem.statistics import Additive


@dataclass(frozen=True, eq=False)
class FeatureMoments(Additive):
    """Weight, mean and weighted sum of squares about it of the observed values of each feature, shape (n_features,).

    They add as those of Chan, Golub and LeVeque (1979), so that no origin is too far.
    """

    weights: Array
    means: Array
    squares: Array

    @classmethod
    def of(cls, chunk: Chunk) -> Self:
        """Return those of a chunk; what is not finite is left out."""
        rows = np.asarray(chunk.rows, dtype=np.float64)
        observed = np.isfinite(rows)
        weights = observed * (1.0 if chunk.weights is None else chunk.weights[:, np.newaxis])
        totals = weights.sum(axis=0)
        divisor = np.where(totals > 0.0, totals, 1.0)
        rows = np.where(observed, rows, 0.0)
        origin = np.sum(weights * rows, axis=0) / divisor
        centred = np.where(observed, rows - origin, 0.0)
        shift = np.sum(weights * centred, axis=0) / divisor  # removes the rounding of the first
        return cls(totals, origin + shift, np.sum(weights * (centred - shift) ** 2, axis=0))

    def __add__(self, other: Self) -> Self:
        weights = self.weights + other.weights
        share = other.weights / np.where(weights > 0.0, weights, 1.0)
        away = other.means - self.means
        squares = self.squares + other.squares + away**2 * self.weights * share
        return type(self)(weights, self.means + away * share, squares)


class ScalesFeatures(Estimator):
    """Base of models that can take features in units of their standard deviations.

    Parameters
    ----------
    scale : bool, default=False
        Whether features are measured in units of their standard deviations, which one more read of all the data tells:
        for starts, the distances of k-means, spherical covariances, and `reg_covar`, which is then a share of each
        feature's variance. What users see is in their units, but for what has one number for all features: spherical
        covariances and precisions, inertia and distances.

    Attributes
    ----------
    feature_means_, feature_scales_ : ndarray of shape (n_features,)
        With `scale`: mean and standard deviation of the observed values of each feature, weighted; a deviation of 0
        counts as 1.
    """

    scale: bool = option("boolean", default=False)

    @property
    def _units(self) -> NDArray[np.float64] | None:
        """The standard deviations, as soon as they are known."""
        return vars(self).get("feature_scales_") if self.scale else None

    def _learn_units(self, rows: Rows, engine: Engine, like: Any = None) -> None:
        """Measure the features in one read, or take what another estimator has measured."""
        if like is not None and like is not self:
            vars(self).update({name: vars(like)[name] for name in SCALES if name in vars(like)})
            return
        for name in SCALES:
            vars(self).pop(name, None)
        if not self.scale:
            return
        notify(self.callbacks or (), Preparing("measuring the features"))
        moments: FeatureMoments = engine.sweep(rows, [FeatureMoments.of])[0]
        if not moments.weights.all():
            column = int(np.argmin(moments.weights != 0.0))
            name = f" ({rows.feature_names[column]!r})" if rows.feature_names else ""
            message = f"column {column}{name} of {rows.name} is never observed; leave it out"
            raise DataError(message)
        deviations = np.sqrt(moments.squares / moments.weights)
        self.feature_means_ = moments.means
        self.feature_scales_ = np.where(deviations > 0.0, deviations, 1.0)
