"""`prior=`: the part of a Gaussian mixture's estimator that knows of a prior of means and covariances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import StrOptions

from dem.data.base import Chunk, Rows
from dem.em.algorithm import Fit
from dem.engine import Engine
from dem.errors import DataError, OptionError
from dem.estimators.inputs import PRIOR
from dem.estimators.mixture import MixtureEstimator
from dem.estimators.options import option
from dem.events import Preparing, notify
from dem.families.base import Component
from dem.families.gaussian import GaussianComponent
from dem.families.gaussian.prior import NormalWishart, default_scale
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.initialise.moments import PairMoments, feature_moments
from dem.initialise.sample import RowSample
from dem.validation import form_of_covariances

# Hyper-parameters, in the order of `PRIOR`.
_NAMES = tuple(name.removeprefix("prior_").removesuffix("_") for name in PRIOR)
_SHRINKAGE = 0.01
# Rounding that a scale may be off from a symmetric, positive semi-definite matrix.
_ROUNDING = 1e-10


class WithPrior(MixtureEstimator):
    """Base of mixtures whose Gaussians may have a prior.

    Parameters
    ----------
    prior : 'default' or mapping, optional
        Conjugate prior of means and covariances, which keeps components from collapsing: EM then maximises the
        log-likelihood + log prior. ``'default'`` is that of Fraley and Raftery (2007) and of R's mclust: the mean of
        all rows, with the weight of ``shrinkage = 0.01`` rows, and an inverse Wishart distribution with ``dof =
        n_features + 2`` and, as ``scale``, the covariance of all rows, divided by ``n_components ** (2 / n_features)``
        (of diagonal and spherical covariances the mean of the variances, divided so). Unless the sample is all the
        data it takes one more read, in which missing values are left out. A mapping gives some of ``mean``
        (n_features,), ``shrinkage`` ≥ 0, ``dof`` and ``scale`` (a matrix; of diagonal covariances numbers or a number,
        of spherical ones a number); the others are the default ones. With all four, streams can be learned from too.
        `StudentTMixture` has the prior of its centres and scale matrices.

    Attributes
    ----------
    prior_mean_, prior_shrinkage_, prior_dof_, prior_scale_ : ndarray or float
        With `prior`: its hyper-parameters, which a warm start keeps.
    """

    prior: str | Mapping[str, Any] | None = option(StrOptions({"default"}), dict, None, default=None)

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        names = super()._parameter_names
        return names if self.prior is None else (*names, *(name[:-1] for name in PRIOR))

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of a fitted array; see `Estimator._shape`."""
        if f"{name}_" not in PRIOR:
            return super()._shape(name, size, n_features)
        if name == "prior_mean":
            return (n_features,)
        shape = self._shape_of_scale(n_features) if name == "prior_scale" else ()
        return shape or (1,)  # of numbers too, files have arrays

    @property
    def _type(self) -> str:
        """The covariance type, by the name of scikit-learn's."""
        return form_of_covariances(str(vars(self)["covariance_type"]))

    def _shape_of_scale(self, n_features: int) -> tuple[int, ...]:
        shapes = {"diag": (n_features,), "spherical": ()}
        return shapes.get(self._type, (n_features, n_features))

    def _with_prior(self, gaussian: GaussianComponent) -> GaussianComponent:
        """Return Gaussians with the prior, once it is known."""
        if self.prior is None:
            return gaussian
        given = dict(self.prior) if isinstance(self.prior, Mapping) else {}
        values = [vars(self).get(name, given.get(short)) for name, short in zip(PRIOR, _NAMES, strict=True)]
        if any(value is None for value in values):
            return gaussian
        try:
            mean, shrinkage, dof, scale = (np.asarray(value, dtype=np.float64) for value in values)
            scale = np.broadcast_to(scale if scale.size > 1 else scale.item(), self._shape_of_scale(len(mean)))
            prior = NormalWishart(mean, shrinkage.item(), dof.item(), scale)
        except (TypeError, ValueError):  # a fit says what is wrong with it
            return gaussian
        return replace(gaussian, prior=prior)

    def _learn_units(self, rows: Rows, engine: Engine, like: Any = None) -> None:
        super()._learn_units(rows, engine, like)
        for name in PRIOR:
            vars(self).pop(name, None)
        self._moments = vars(self if like is None else like).setdefault("_moments", {})

    def _adapted(self, rows: Rows, engine: Engine, sample: RowSample) -> Component[Any, Any]:
        # A sample may be all rows, but of rows with gaps only some may be left in it, or filled.
        is_all = sample.complete and self.missing != "marginalise"
        if "_moments" in vars(self):  # in a fit
            self._learn_prior(rows, lambda work: work(sample.chunk) if is_all else engine.sweep(rows, [work])[0])
        return super()._adapted(rows, engine, sample)

    def _learn_prior(self, rows: Rows, total: Callable[[Any], Any] | None) -> None:
        """Set the hyper-parameters; what is not given follows from the moments of all rows, where these can be had.

        Raises
        ------
        OptionError
            If a hyper-parameter cannot be one, or is to be learned without rows.
        """
        if self.prior is None:
            return
        given = dict(self.prior) if isinstance(self.prior, Mapping) else {}
        d = rows.n_features
        values: dict[str, Any] = {"shrinkage": _SHRINKAGE, "dof": d + 2.0, **given}
        if missing := [name for name in ("mean", "scale") if name not in given]:
            if total is None:
                what = "prior='default'" if not given else f"prior without {' and '.join(missing)}"
                message = (
                    f"{what} needs all the data before the first step, which a stream has not; fit first, or give "
                    f"{', '.join(_NAMES)}"
                )
                raise OptionError(message)
            values = {**dict(zip(("mean", "scale"), self._default_prior(rows, total), strict=True)), **values}
        vars(self).update(dict(zip(PRIOR, (self._checked(name, values[name], d) for name in _NAMES), strict=True)))

    def _default_prior(self, rows: Rows, total: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Return mean and scale from all rows."""
        is_matrix = len(self._shape_of_scale(rows.n_features)) == 2
        if is_matrix not in self._moments:
            notify(self.callbacks or (), Preparing("measuring the features"))
            self._moments[is_matrix] = total(PairMoments.of if is_matrix else feature_moments)
        found = self._moments[is_matrix]
        moments = found.features if is_matrix else found
        counts, means = moments.counts, moments.means[:, 0]
        if not counts.min() > 1.0:
            message = (
                f"prior='default' needs more than one observed value in each column; column {int(counts.argmin())} of "
                f"{rows.name} has {counts.min():g}"
            )
            raise DataError(message)
        variances = moments.scatter[:, 0] / (counts - 1.0)
        if is_matrix:
            covariance = found.covariance if counts.min() > rows.n_features else np.diag(variances)
            return means, default_scale(covariance, self.n_components)
        units = np.ones(len(means)) if self._units is None else self._units
        pooled = default_scale(np.full(len(means), np.mean(variances / units**2)), self.n_components)
        return means, pooled * units**2 if self._type == "diag" else pooled[0]

    def _checked(self, name: str, value: Any, d: int) -> NDArray[np.float64]:
        """Return a hyper-parameter as an array of its shape, if it can be one."""
        shape = {"mean": (d,), "scale": self._shape_of_scale(d)}.get(name, ())
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.array(np.nan)
        if name == "scale" and array.shape == () and shape == (d,):
            array = np.full(shape, array)
        what = f"prior's {name}" + (f" for {self._type} covariances" if name == "scale" else "")
        if array.shape != shape or not np.isfinite(array).all():
            kind = f"finite numbers of shape {shape}" if shape else "a finite number"
            message = f"{what} must be {kind} (features: {d}), not {value!r}"
            raise OptionError(message)
        least = d - 1.0 if len(self._shape_of_scale(d)) == 2 else 0.0
        if name == "dof" and not array > least:
            message = f"{what} must be more than {least:g} for {self._type} covariances, not {value}"
            raise OptionError(message)
        if name == "shrinkage" and array < 0.0:
            message = f"{what} must not be negative, not {value}"
            raise OptionError(message)
        if name == "scale":
            size = _ROUNDING * np.abs(array).max(initial=0.0)
            symmetric = array.ndim < 2 or bool(np.all(np.abs(array - array.T) <= size))
            least = np.linalg.eigvalsh(array)[0] if array.ndim == 2 and symmetric else array.min()
            if not symmetric or least < -size * d:
                message = f"{what} must be " + ("symmetric and positive semi-definite" if shape else "at least 0")
                raise OptionError(message)
        return array

    def _check_options(self) -> None:
        super()._check_options()
        if isinstance(self.prior, Mapping) and (unknown := sorted(set(self.prior) - set(_NAMES), key=str)):
            message = f"prior has no {unknown[0]!r}; it has {', '.join(_NAMES)}"
            raise OptionError(message)

    def _first_start(
        self, table: Chunk, rows: Rows, engine: Engine
    ) -> tuple[Mixture[Any, Any], MixtureParameters[Any]]:
        vars(self).pop("_moments", None)
        self._learn_prior(rows, None)
        return super()._first_start(table, rows, engine)

    def _model(self) -> tuple[Mixture[Any, Any], MixtureParameters[Any]]:
        if self.prior is not None and PRIOR[-1] not in vars(self) and hasattr(self, "means_"):
            message = f"the model was fitted without a prior, and prior is {self.prior!r} now; set it back, or fit anew"
            raise OptionError(message)
        return super()._model()

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *more: Any) -> None:
        vars(self).pop("_moments", None)
        super()._keep(history, family, best, *more)

    def _complete(self) -> None:
        super()._complete()
        for name in PRIOR[1:3] if self.prior is not None else PRIOR:
            if self.prior is None:
                vars(self).pop(name, None)
            else:
                vars(self)[name] = np.asarray(vars(self)[name]).item()
        if self.prior is not None and self._type == "spherical":
            vars(self)["prior_scale_"] = np.asarray(vars(self)["prior_scale_"]).item()
