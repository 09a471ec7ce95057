"""`FactorAnalyzerMixture`: Gaussian mixtures for many features, whose covariances are of low rank and a diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from dem.data.base import Chunk, Rows
from dem.data.sources import RowOptions
from dem.em.predict import ROW_FUNCTIONS, RowFunction
from dem.engine import Engine
from dem.errors import OptionError
from dem.estimators import inputs
from dem.estimators.mixture import MixtureEstimator
from dem.estimators.options import POSITIVE, option
from dem.estimators.scaling import ScalesFeatures
from dem.estimators.sklearn_bases import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from dem.families.factor_analyzer import FactorAnalyzerComponent
from dem.initialise.sample import RowSample
from dem.validation import check_array


@dataclass(frozen=True, eq=False)
class Factors(RowFunction):
    """The expected factors of each row in its most probable component, or in one given, shape (n, n_factors)."""

    component: int | None = None

    @property
    def columns(self) -> int:
        """The number of factors."""
        return int(self.family.component.n_factors)

    def result(self, chunk: Chunk) -> NDArray[Any]:
        """Return the factors of rows that have been checked."""
        family, parameters = self.family, self.parameters
        if self.component is not None:
            return np.asarray(family.component.factors(parameters.components, chunk.rows, self.component))
        labels, found = family.labels(parameters, chunk), np.empty((len(chunk), self.columns))
        for k in np.unique(labels):
            own = labels == k
            found[own] = family.component.factors(parameters.components, chunk.rows[own], int(k))
        return found


class FactorAnalyzerMixture(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ScalesFeatures, MixtureEstimator):
    """Mixture of factor analysers, or of probabilistic PCA: a Gaussian mixture for hundreds or thousands of features.

    Each component has the covariance ΛΛᵀ + Ψ, with the loadings Λ of a few factors and independent noise Ψ. Time and
    memory grow with features times factors; no matrix of features times features is ever formed. With one component it
    is `sklearn.decomposition.FactorAnalysis`, with ``noise_type='spherical'`` the model behind
    `sklearn.decomposition.PCA`.

    Parameters
    ----------
    n_factors : int, default=1
        Factors of each component. With one noise variance for each feature at most as many as are identified, (d − q)²
        ≥ d + q for q factors of d features; with ``'spherical'`` noise fewer than features.
    noise_type : {'diag', 'spherical'}, default='diag'
        Whether the noise has a variance for each feature (factor analysis), or one for all (probabilistic PCA).
    tied_noise : bool, default=False
        Whether all components have the same noise.
    reg_covar : float, default=1e-6
        The least noise variance, in squared units of the data. A noise variance that falls to it (a Heywood case: the
        factors explain all of a feature) makes a component ``'collapsed'`` in `component_status_`.
    means_init, loadings_init, noise_variances_init : array-like, optional
        Start given by the user, of the shapes of the fitted attributes.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
    loadings_ : ndarray of shape (n_components, n_features, n_factors)
        Λ of independent factors of variance 1, turned so that ΛᵀΨ⁻¹Λ is diagonal and decreases, each column with its
        largest entry positive: another rotation has the same density. ``loadings_[k].T`` is what scikit-learn's
        `FactorAnalysis` calls ``components_``.
    noise_variances_ : ndarray
        The diagonal of Ψ, shape (n_components, n_features), (n_features,) where it is tied; ``'spherical'``
        (n_components,), or (1,).

    References
    ----------
    Ghahramani, Z. and Hinton, G. E. (1996). The EM algorithm for mixtures of factor analyzers. Technical report
    CRG-TR-96-1, University of Toronto. Tipping, M. E. and Bishop, C. M. (1999). Mixtures of probabilistic principal
    component analyzers. Neural Computation 11. McLachlan, G. J. and Peel, D. (2000). Finite Mixture Models, chapter 8.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 1)) * np.linspace(1, 2, 8) + 0.1 * rng.normal(size=(500, 8))
    >>> model = dem.FactorAnalyzerMixture(n_factors=1, random_state=0).fit(X)
    >>> model.loadings_.shape, model.transform(X).shape, model.get_covariance(0).shape
    ((1, 8, 1), (500, 1), (8, 8))
    """

    n_factors: int = option(POSITIVE, default=1)
    noise_type: str = option(StrOptions({"diag", "spherical"}), default="diag")
    tied_noise: bool = option("boolean", default=False)
    reg_covar: float = option(Interval(Real, 0.0, None, closed="left"), default=1e-6)
    means_init: ArrayLike | None = option("array-like", None, default=None)
    loadings_init: ArrayLike | None = option("array-like", None, default=None)
    noise_variances_init: ArrayLike | None = option("array-like", None, default=None)

    _row_functions: ClassVar[dict[str, type[RowFunction]]] = {**ROW_FUNCTIONS, "factors": Factors}

    def transform(self, X: Any, *, component: int | None = None, **given: Unpack[RowOptions]) -> Any:
        """Return the expected factors of each row, shape (n_samples, n_factors); of the kinds of `predict`.

        Parameters
        ----------
        X, **given
            Data as in `fit`.
        component : int, optional
            Whose factors; those of the most probable component of each row (`predict`) when left out, whose
            coordinates are others from component to component.
        """
        check_is_fitted(self)
        if component is not None and not 0 <= component < len(self.weights_):
            message = f"component must be between 0 and {len(self.weights_) - 1}, not {component}"
            raise OptionError(message)
        return inputs.mapped(self, Factors(*self._model(), component=component), X, **given)

    def get_covariance(self, component: int) -> NDArray[np.float64]:
        """Return the covariance ΛΛᵀ + Ψ of a component, shape (n_features, n_features), which is kept nowhere."""
        check_is_fitted(self)
        loadings, noise = self.loadings_[component], self._noise_by_feature()[component]
        return np.asarray(loadings @ loadings.T + np.diag(noise))

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        return ("weights", "means", "loadings", "noise_variances")

    def _component(self) -> FactorAnalyzerComponent:
        return FactorAnalyzerComponent(
            int(self.n_factors),
            self.noise_type == "spherical",
            bool(self.tied_noise),
            float(self.reg_covar),
            units=self._units,
        )

    def _component_as_fitted(self) -> FactorAnalyzerComponent:
        fitted = (np.asarray(getattr(self, f"{name}_")) for name in ("means", "loadings", "noise_variances"))
        return self._component().around(*fitted)

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        self._check_factors(n_features)
        values = super()._initial_values(n_features)
        for name in self._parameter_names[1:]:
            if (given := getattr(self, f"{name}_init")) is not None:
                shape = self._shape(name, self.n_components, n_features)
                values[name] = check_array(f"{name}_init", given, shape)
        if np.any(values.get("noise_variances", 1.0) <= 0.0):
            message = "noise_variances_init must be above 0"
            raise OptionError(message)
        return values

    def _adapted(self, rows: Rows, engine: Engine, sample: RowSample) -> Any:
        self._check_factors(rows.n_features)
        return super()._adapted(rows, engine, sample)

    def _check_factors(self, n_features: int) -> None:
        """Compare the number of factors with that of features.

        Raises
        ------
        OptionError
            If there are too many factors.
        """
        d, q = n_features, self.n_factors
        if self.noise_type == "spherical":
            most, why = d - 1, "fewer than features"
        else:
            most = max((q for q in range(d) if (d - q) ** 2 >= d + q), default=0)
            why = "or they are not identified, since (d − q)² must be at least d + q"
        if q > most:
            message = f"n_factors = {q} are too many for n_features = {d}: give at most {most}, {why}"
            if not most:
                message = f"n_features = {d} are too few for a factor: factor analysis takes at least 3"
                if self.noise_type == "spherical":
                    message = f"n_features = {d} are too few for a factor: there must be at least 2"
            raise OptionError(message)

    def _complete(self) -> None:
        super()._complete()
        self._n_features_out = int(self.n_factors)

    def _check_goes_on(self) -> None:
        super()._check_goes_on()
        for name in ("loadings", "noise_variances"):
            found, wanted = np.shape(getattr(self, f"{name}_")), self._shape(name, *np.shape(self.means_))
            if found != wanted:
                message = f"the fitted model, which is to go on, has {name} of shape {found}, not {wanted}"
                raise OptionError(message)

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of a fitted array; see `Estimator._shape`."""
        if name == "loadings":
            return (size, n_features, int(self.n_factors))
        if name == "noise_variances":
            sizes = (1 if self.tied_noise else size, 1 if self.noise_type == "spherical" else n_features)
            return sizes[:1] if self.noise_type == "spherical" else sizes[1:] if self.tied_noise else sizes
        return super()._shape(name, size, n_features)

    def _noise_by_feature(self) -> NDArray[np.float64]:
        return self._component().noise_by_feature(self.noise_variances_, np.shape(self.means_))

    def _deviations(self) -> NDArray[np.float64]:
        return np.asarray(np.sqrt(np.sum(np.asarray(self.loadings_) ** 2, axis=2) + self._noise_by_feature()))
