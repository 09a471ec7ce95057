"""`scale=True`: features in units of their own standard deviations, from one read of all the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from dem.data.base import Rows
from dem.engine import Engine
from dem.errors import DataError
from dem.estimators.base import Estimator
from dem.estimators.inputs import SCALES
from dem.estimators.options import option
from dem.events import Preparing, notify
from dem.initialise.moments import feature_moments
from dem.statistics import CentralMoments


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
        moments: CentralMoments = engine.sweep(rows, [feature_moments])[0]
        if not moments.counts.any():
            message = f"no row of {rows.name} counts: all have the weight zero, or gaps that are skipped"
            raise DataError(message)
        if not moments.counts.all():
            column = int(np.argmin(moments.counts != 0.0))
            name = f" ({rows.feature_names[column]!r})" if rows.feature_names else ""
            message = f"column {column}{name} of {rows.name} is never observed; leave it out"
            raise DataError(message)
        deviations = np.sqrt(moments.scatter[:, 0] / moments.counts)
        self.feature_means_ = moments.means[:, 0]
        self.feature_scales_ = np.where(deviations > 0.0, deviations, 1.0)
