"""`GammaMixture`: mixtures of independent positive numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import option
from dem.families.gamma import GammaComponent


class GammaMixture(IndependentFeaturesMixture):
    """Mixture of independent gamma features: positive amounts, durations, sizes, fitted by expectation–maximisation.

    A component has a mean m and a shape a in each feature, as in generalised linear models (and flexmix); its deviation
    is m/√a. SciPy's parameters are ``a=shapes_, scale=scales_``, the rate of others is ``1 / scales_``.

    Parameters
    ----------
    means_init, shapes_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
        Means.
    shapes_ : ndarray of shape (n_components, n_features)
        Shapes a, between 1e-4 and 1e10: 1 is an exponential distribution, many a Gaussian.
    scales_ : ndarray of shape (n_components, n_features)
        Scales, ``means_ / shapes_``.

    References
    ----------
    Wiper, M., Ríos Insua, D. and Ruggeri, F. (2001). Mixtures of gamma distributions with applications. Journal of
    Computational and Graphical Statistics 10.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.gamma(9.0, 0.1, size=(500, 1)), rng.gamma(2.0, 10.0, size=(500, 1))])
    >>> gm = dem.GammaMixture(n_components=2, random_state=0).fit(X)
    >>> np.sort(gm.means_[:, 0]).round(1)
    array([ 0.9, 21.3])
    """

    means_init: ArrayLike | None = option("array-like", None, default=None)
    shapes_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> GammaComponent:
        return GammaComponent()

    def _complete(self) -> None:
        super()._complete()
        self.scales_ = self.means_ / self.shapes_

    def _deviations(self) -> NDArray[np.float64]:
        return np.asarray(self.means_ / np.sqrt(self.shapes_))
