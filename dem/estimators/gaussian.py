"""`GaussianMixture`: scikit-learn's estimator for data larger than memory."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from dem.em.algorithm import Fit
from dem.errors import OptionError
from dem.estimators.background import WithBackground
from dem.estimators.options import option
from dem.estimators.scaling import ScalesFeatures
from dem.families.base import Component
from dem.families.gaussian import COVARIANCE_TYPES, GaussianComponent
from dem.validation import check_array, check_precisions, shape_of_covariances


class GaussianMixture(WithBackground, ScalesFeatures):
    """Gaussian mixture fitted by expectation–maximisation, on data in memory or far larger.

    Parameters, attributes and methods are those of `sklearn.mixture.GaussianMixture`; the data may also be a path
    or URL of a zarr array, an open `zarr.Array`, a Dask array or an xarray object. It runs on threads of this
    process, or on a Dask cluster while a `distributed.Client` is active, to the same bits.

    Parameters
    ----------
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Shape of the covariances.
    reg_covar : float, default=1e-6
        Added to the variances in every M-step, in squared units of the data.
    means_init, precisions_init : array-like, optional
        Start given by the user, of the shapes of `means_` and `precisions_`.
    dtype : {'float32', 'float64'}, optional
        Precision of the arithmetic on rows; that of the data when left out, so that float32 data is computed in
        single precision: log-densities then carry an error of at most 5e-4 (typically 1e-5) nats. Where the
        parameters of an iteration would make it larger (tight or ill-conditioned components), that iteration runs in
        double precision. Sums over blocks of rows are double always.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Full (K, d, d), tied (d, d), diag (K, d), spherical (K,).

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). Maximum likelihood from incomplete data via the EM
    algorithm. JRSS B 39.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> X = np.array([[0, 2], [1, 4], [2, 0], [9, 2], [10, 0], [11, 4]])
    >>> gm = dem.GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> np.sort(gm.means_[:, 0]).round(6)
    array([ 1., 10.])
    >>> bool(gm.predict([[0, 0]])[0] == gm.predict([[1, 2]])[0])
    True
    """

    covariance_type: str = option(StrOptions(set(COVARIANCE_TYPES)), default="full")
    reg_covar: float = option(Interval(Real, 0.0, None, closed="left"), default=1e-6)
    means_init: ArrayLike | None = option("array-like", None, default=None)
    precisions_init: ArrayLike | None = option("array-like", None, default=None)
    dtype: str | None = option(StrOptions({"float32", "float64"}), None, default=None)

    _own_names: tuple[str, ...] = ("weights", "means", "covariances", "precisions_cholesky")

    def _gaussian(self) -> GaussianComponent:
        """Return the Gaussians that the options describe."""
        return COVARIANCE_TYPES[self.covariance_type](self.reg_covar, dtype=self.dtype, units=self._units)

    def _gaussian_as_fitted(self) -> GaussianComponent:
        return self._gaussian().around(np.asarray(self.means_), np.asarray(self.covariances_))

    def _own_component(self, *, fitted: bool) -> Component[Any, Any]:
        return self._gaussian_as_fitted() if fitted else self._gaussian()

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values = super()._initial_values(n_features)
        if self.means_init is not None:
            values["means"] = check_array("means_init", self.means_init, (self.n_components, n_features), "means")
        if self.precisions_init is not None:
            precisions = check_precisions(self.precisions_init, self.covariance_type, self.n_components, n_features)
            covariances, factors = self._gaussian().from_precisions(precisions)
            values |= {"covariances": covariances, "precisions_cholesky": factors}
        return values

    def _check_goes_on(self) -> None:
        super()._check_goes_on()
        wanted = shape_of_covariances(self.covariance_type, *np.shape(self.means_))
        if np.shape(self.covariances_) != wanted:
            message = (
                f"the fitted model, which is to go on, has covariances of another type than {self.covariance_type!r}"
            )
            raise OptionError(message)

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *more: Any) -> None:
        """Set the fitted attributes, and what these lose: the scale is powers of two, and costs no other array bits."""
        vars(self).pop("_raw", None)
        frame: Any = getattr(family.component, "frame", None)
        if frame is not None:
            means = best.parameters.components.means
            self._raw = {"0.origin": frame.origin, "0.scale": frame.scale, "components.means": means}
        super()._keep(history, family, best, *more)

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of a fitted array; see `Estimator._shape`."""
        if name in ("covariances", "precisions_cholesky"):
            return shape_of_covariances(self.covariance_type, size, n_features)
        return super()._shape(name, size, n_features)

    def _complete(self) -> None:
        super()._complete()
        self.precisions_ = self._gaussian().precisions(self.precisions_cholesky_)

    def _deviations(self) -> NDArray[np.float64]:
        means = np.asarray(self.means_)
        variances = self._gaussian().variances(np.asarray(self.covariances_), means.shape[1])
        return np.broadcast_to(np.sqrt(variances), means.shape)
