"""`StudentTMixture`: Gaussian mixtures with heavy tails, which outliers hardly move."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from dem.estimators.gaussian import GaussianMixture
from dem.estimators.options import option
from dem.families.base import Component
from dem.families.student_t import StudentTComponent


class StudentTMixture(GaussianMixture):
    """Mixture of multivariate t distributions, fitted by expectation–maximisation: robust against outliers.

    Options and methods are those of `GaussianMixture`; starts are sought in a sample whose outliers are moved onto
    Tukey's outer fences. A row far from its component moves centre and scale matrix the
    less, the farther it is and the fewer degrees of freedom the component has; with many it is a Gaussian.

    Parameters
    ----------
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Shape of the scale matrices.
    dof : float, default=4.0
        Degrees of freedom ν at the start of all components, at most 1e6: where they stay, a `GaussianMixture` is what
        is meant.
    fit_dof : {'free', 'shared', 'fixed'}, default='free'
        Whether each component gets its own ν, all get the same, or ν stays `dof`. Those that are fitted lie between
        0.01 and 1,000; the data hardly tells large ones apart, and to find them takes many iterations: SQUAREM
        (``algorithm='auto'``) or a fixed ν is faster.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
        Centres; the means, where ν > 1.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Scale matrices Σ, their inverses and the factors of these, of the shapes that `GaussianMixture` has. The
        covariance of the rows is Σ ν / (ν − 2) where ν > 2.
    dofs_ : ndarray of shape (n_components,)
        Degrees of freedom ν.

    References
    ----------
    Peel, D. and McLachlan, G. J. (2000). Robust mixture modelling using the t distribution. Statistics and Computing
    10.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(500, 2)), [[1000.0, 0.0]]])
    >>> robust = dem.StudentTMixture(fit_dof="fixed", random_state=0).fit(X)
    >>> bool(abs(robust.means_).max() < 0.1 < abs(dem.GaussianMixture().fit(X).means_).max())
    True
    """

    covariance_type: str = option(StrOptions({"full", "tied", "diag", "spherical"}), default="full")
    dof: float = option(Interval(Real, 0.0, 1e6, closed="right"), default=4.0)
    fit_dof: str = option(StrOptions({"free", "shared", "fixed"}), default="free")

    _robust = True
    _own_names = (*GaussianMixture._own_names, "dofs")

    def _own_component(self, *, fitted: bool) -> Component[Any, Any]:
        gaussian = self._gaussian_as_fitted() if fitted else self._gaussian()
        return StudentTComponent(gaussian, float(self.dof), self.fit_dof)

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values = super()._initial_values(n_features)
        return {**values, "dofs": np.full(self.n_components, float(self.dof))} if values else values
