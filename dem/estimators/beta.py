"""`BetaMixture`: mixtures of independent shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import option
from dem.families.beta import BetaComponent, shapes


class BetaMixture(IndependentFeaturesMixture):
    """Mixture of independent beta features: shares, rates and methylation levels between 0 and 1, fitted by EM.

    A component has a mean m and a concentration c in each feature, as in beta regression (betareg, flexmix); its
    variance is m(1 − m)/(1 + c). SciPy's parameters are ``a=a_, b=b_``. A row that holds a 0 or a 1 has no density, or
    one without bound: move such values inside first, as by ``(x * (n - 1) + 0.5) / n`` (Smithson and Verkuilen 2006).

    Parameters
    ----------
    means_init, concentrations_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
        Means m.
    concentrations_ : ndarray of shape (n_components, n_features)
        Concentrations c, between 1e-4 and 1e10: 2 at a mean of ½ is the uniform distribution.
    a_, b_ : ndarray of shape (n_components, n_features)
        Both shapes, ``means_ * concentrations_`` and ``(1 - means_) * concentrations_``.

    References
    ----------
    Ji, Y., Wu, C., Liu, P., Wang, J. and Coombes, K. R. (2005). Applications of beta-mixture models in bioinformatics.
    Bioinformatics 21.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.beta(2.0, 18.0, size=(500, 1)), rng.beta(30.0, 10.0, size=(500, 1))])
    >>> bm = dem.BetaMixture(n_components=2, random_state=0).fit(X)
    >>> np.sort(bm.means_[:, 0]).round(1)
    array([0.1, 0.8])
    """

    means_init: ArrayLike | None = option("array-like", None, default=None)
    concentrations_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> BetaComponent:
        return BetaComponent()

    def _complete(self) -> None:
        super()._complete()
        self.a_, self.b_ = shapes(np.hstack([self.means_, self.concentrations_]))

    def _deviations(self) -> NDArray[Any]:
        return np.asarray(np.sqrt(self.means_ * (1.0 - self.means_) / (1.0 + self.concentrations_)))
