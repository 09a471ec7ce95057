"""`GaussianMixture`: scikit-learn's estimator for data larger than memory."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from dem.em.algorithm import Fit
from dem.errors import OptionError
from dem.estimators.background import WithBackground
from dem.estimators.mixture import MixtureEstimator
from dem.estimators.options import option
from dem.estimators.prior import WithPrior
from dem.estimators.registry import SHAPES
from dem.estimators.scaling import ScalesFeatures
from dem.families.base import Component
from dem.families.gaussian import COVARIANCE_TYPES, GaussianComponent
from dem.families.gaussian.eigen import Structured, principal_axes
from dem.validation import check_array, check_precisions, form_of_covariances, shape_of_covariances


class OfGaussians(ScalesFeatures, MixtureEstimator):
    """Base of mixtures of Gaussians, or of what has their parameters.

    Parameters
    ----------
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Shape of the covariances.
    reg_covar : float, default=1e-6
        Added to the variances of the rows in every M-step, in squared units of the data: covariances are the
        likeliest ones of their shape to rows that vary by so much more.
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
    """

    covariance_type: str = option(StrOptions(set(SHAPES)), default="full")
    reg_covar: float = option(Interval(Real, 0.0, None, closed="left"), default=1e-6)
    dtype: str | None = option(StrOptions({"float32", "float64"}), None, default=None)

    def _gaussian(self) -> GaussianComponent:
        """Return the Gaussians that the options describe."""
        return COVARIANCE_TYPES[self.covariance_type](self.reg_covar, dtype=self.dtype, units=self._units)

    def _gaussian_as_fitted(self) -> GaussianComponent:
        return self._gaussian().around(np.asarray(self.means_), np.asarray(self.covariances_))

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


class GaussianMixture(WithPrior, WithBackground, OfGaussians):
    """Gaussian mixture fitted by expectation–maximisation, on data in memory or far larger.

    Parameters, attributes and methods are those of `sklearn.mixture.GaussianMixture`; the data may also be a path
    or URL of a zarr array, an open `zarr.Array`, a Dask array or an xarray object. It runs on threads of this
    process, or on a Dask cluster while a `distributed.Client` is active, to the same bits.

    Parameters
    ----------
    covariance_type : {'full', 'tied', 'diag', 'spherical'} or a name of mclust's, default='full'
        Shape of the covariances. mclust's fourteen models are Σ_k = λ_k D_k A_k D_kᵀ with volumes λ, shapes A
        (diagonal, of determinant 1) and orientations D that are equal (E), vary (V) or are the axes of the features
        (I): ``'EII'``, ``'VII'`` (the same as spherical), ``'EEI'``, ``'VEI'``, ``'EVI'``, ``'VVI'`` (diag), ``'EEE'``
        (tied), ``'VEE'``, ``'EVE'``, ``'VVE'``, ``'EEV'``, ``'VEV'``, ``'EVV'``, ``'VVV'`` (full); of one feature
        ``'E'`` and ``'V'``.
    means_init, precisions_init : array-like, optional
        Start given by the user, of the shapes of `means_` and `precisions_`; of mclust's models it is the nearest (in
        Kullback and Leibler's divergence) that `covariance_type` admits.

    Attributes
    ----------
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Full (K, d, d), tied (d, d), diag (K, d), spherical (K,). Of mclust's models that are not one of these (K, d) if
        the last letter is I, else (K, d, d).
    volumes_, shapes_, orientations_ : ndarray of shape (K,), (K, d), (K, d, d)
        λ, the d-th root of the determinant, the variances along the axes in units of it, and the axes, in columns:
        the features where covariances are diagonal, else in order of the variances. With ``scale=True`` EII, EVE, VVE,
        EEV and VEV are models of the scaled features, in whose units these are then.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). Maximum likelihood from incomplete data via the EM
    algorithm. JRSS B 39. Celeux, G. and Govaert, G. (1995). Gaussian parsimonious clustering models. Pattern
    Recognition 28. Browne, R. P. and McNicholas, P. D. (2014). Estimating common principal components in high
    dimensions. Advances in Data Analysis and Classification 8.

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
    means_init: ArrayLike | None = option("array-like", None, default=None)
    precisions_init: ArrayLike | None = option("array-like", None, default=None)

    _own_names: tuple[str, ...] = ("weights", "means", "covariances", "precisions_cholesky")

    def _gaussian(self) -> GaussianComponent:
        return self._with_prior(super()._gaussian())

    def _own_component(self, *, fitted: bool) -> Component[Any, Any]:
        return self._gaussian_as_fitted() if fitted else self._gaussian()

    def _check_options(self) -> None:
        super()._check_options()
        if self.prior is not None and isinstance(self._gaussian(), Structured):
            message = (
                "prior goes with full, tied, diag and spherical covariances (VVV, EEE, VVI, VII), not with "
                f"{self.covariance_type}"
            )
            raise OptionError(message)

    def _check_goes_on(self) -> None:
        super()._check_goes_on()
        gaussian, covariances = self._gaussian(), np.asarray(self.covariances_)
        if isinstance(gaussian, Structured):
            if gaussian.isotropic and self._units is not None:
                covariances = gaussian.rescale(covariances, 1.0 / self._units, 2)
            if not gaussian.admits(covariances):
                message = f"the fitted model, which is to go on, has covariances that are not {self.covariance_type}"
                raise OptionError(message)

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values = super()._initial_values(n_features)
        if self.covariance_type in ("E", "V") and n_features > 1:
            others = "'EII', 'EEI' or 'EEE'" if self.covariance_type == "E" else "'VII', 'VVI' or 'VVV'"
            message = f"covariance_type={self.covariance_type!r} is for one feature; for {n_features} take {others}"
            raise OptionError(message)
        if self.means_init is not None:
            values["means"] = check_array("means_init", self.means_init, (self.n_components, n_features), "means")
        if self.precisions_init is not None:
            precisions = check_precisions(self.precisions_init, self.covariance_type, self.n_components, n_features)
            covariances, factors = self._gaussian().from_precisions(precisions)
            values |= {"covariances": covariances, "precisions_cholesky": factors}
        return values

    @property
    def volumes_(self) -> NDArray[np.float64]:
        """The volume of each component: the d-th root of the determinant of its covariance."""
        return self._axes()[0]

    @property
    def shapes_(self) -> NDArray[np.float64]:
        """The variances along the axes of each component, over its volume."""
        return self._axes()[1]

    @property
    def orientations_(self) -> NDArray[np.float64]:
        """The axes of each component, in columns."""
        return self._axes()[2]

    def _axes(self) -> tuple[NDArray[np.float64], ...]:
        """Return volumes, shapes and orientations, in the units in which the structure was sought."""
        check_is_fitted(self)
        gaussian, covariances, (n, d) = self._gaussian(), np.asarray(self.covariances_), np.shape(self.means_)
        units = self._units if gaussian.isotropic and self._units is not None else np.ones(d)
        if form_of_covariances(self.covariance_type) in ("diag", "spherical"):
            variances = np.broadcast_to(gaussian.variances(covariances, d), (n, d)) / units**2
            axes = np.broadcast_to(np.eye(d), (n, d, d))
        else:
            matrices = np.broadcast_to(covariances, (n, d, d)) / (units[:, np.newaxis] * units)
            variances, axes = principal_axes(matrices, shared=self.covariance_type in ("EVE", "VVE"))
        volumes = np.exp(np.log(variances).mean(axis=1))
        return volumes, variances / volumes[:, np.newaxis], axes
