"""`noise=`: the part of a mixture estimator that puts a uniform background behind its components."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from dem.data.base import Chunk, Rows
from dem.engine import Engine
from dem.errors import DataError, OptionError
from dem.estimators.mixture import MixtureEstimator
from dem.estimators.options import option
from dem.families.base import Component
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.families.noise import WEIGHT_AT_START, NoisyComponent, NoisyMixture, box_of
from dem.families.student_t import fenced
from dem.initialise.dense import dense_rows
from dem.initialise.sample import RowSample
from dem.statistics import Additive


@dataclass(frozen=True, eq=False)
class Box(Additive):
    """The lowest and highest values of some rows, shape (2, n_features)."""

    values: NDArray[np.float64]

    def __add__(self, other: Self) -> Self:
        lower, upper = self.values, other.values
        return type(self)(np.array([np.minimum(lower[0], upper[0]), np.maximum(lower[1], upper[1])]))

    @classmethod
    def of(cls, chunk: Chunk) -> Self:
        """Return the box of a chunk."""
        if not len(chunk):
            return cls(np.array([[np.inf], [-np.inf]]) * np.ones(chunk.rows.shape[1]))
        return cls(box_of(chunk.rows))


class WithBackground(MixtureEstimator):
    """Base of mixtures that may have a uniform background.

    Parameters
    ----------
    noise : bool or float, default=False
        Whether a further component has made rows that belong to no other, with the same density everywhere (Banfield
        and Raftery 1993): one over the volume of the box of all rows, or over a volume given. Its rows have the
        label −1 and the last column of `predict_proba`; in `labels`, where −1 is what is not known, it is the component
        `n_components`. It counts beside `top_components`.

    Attributes
    ----------
    noise_weight_ : float
        With `noise`: the weight of the background; `weights_` sum to 1 less that.
    noise_volume_ : float
        With `noise`: the inverse of its density.
    noise_box_ : ndarray of shape (2, n_features)
        With ``noise=True``: lowest and highest values of the rows.
    """

    noise: bool | float = option("boolean", Interval(Real, 0.0, None, closed="neither"), default=False)

    _own_names: tuple[str, ...]

    # Whether outliers are kept from the start of a fit without a background too.
    _robust = False

    @abstractmethod
    def _own_component(self, *, fitted: bool) -> Component[Any, Any]:
        """Return the component that the options describe, or with a frame that fits the fitted parameters."""

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        names = ("noise_weight", "noise_volume", *(("noise_box",) if self._boxed else ()))
        return (*self._own_names, *names) if self.noise else self._own_names

    @property
    def _boxed(self) -> bool:
        return isinstance(self.noise, bool | np.bool_) and bool(self.noise)

    def _component(self) -> Component[Any, Any]:
        own = self._own_component(fitted=False)
        if not self.noise:
            return own
        return NoisyComponent(own, None if self._boxed else float(self.noise))

    def _check_background(self) -> None:
        """Compare the background that the options ask for with that of the fit.

        Raises
        ------
        OptionError
            If it is another one.
        """
        boxed, volume = "noise_box_" in vars(self), float(vars(self).get("noise_volume_", 0.0))
        if (boxed, volume > 0.0) == (self._boxed, bool(self.noise)) and (
            boxed or math.isclose(volume, float(self.noise), rel_tol=1e-9)
        ):
            return
        fitted = boxed or (f"{volume:.9g}" if volume else False)
        message = f"noise was {fitted} in the fit of the model, and is {self.noise} now; set it back, or fit anew"
        raise OptionError(message)

    def _component_as_fitted(self) -> Component[Any, Any]:
        self._check_background()
        own = self._own_component(fitted=True)
        if not self.noise:
            return own
        box = np.asarray(self.noise_box_) if self._boxed else None
        return NoisyComponent(own, None if self._boxed else float(self.noise_volume_), box)

    def _family(self, component: Component[Any, Any] | None = None) -> Mixture[Any, Any]:
        if not self.noise:
            return super()._family(component)
        family = component or self._component(), self.fit_weights, self.top_components
        return NoisyMixture(*family, weight_concentration=float(self.weight_concentration))

    def _adapted(self, rows: Rows, engine: Engine, sample: RowSample) -> Component[Any, Any]:
        component = self._component()
        if self._boxed and not sample.complete:
            box: Box = engine.sweep(rows, [Box.of])[0]
            component = NoisyComponent(self._own_component(fitted=False), box=box.values)
        return component.adapted_to(sample.rows)

    def _going_on(self, family: Mixture[Any, Any], rows: Rows, engine: Engine) -> Mixture[Any, Any]:
        if not self._boxed:
            return family
        box = engine.sweep(rows, [Box.of])[0].values
        component: Any = family.component
        return family if np.array_equal(box, component.box) else replace(family, component=replace(component, box=box))

    @property
    def _spreads_starts(self) -> bool:  # type: ignore[override]
        # A background would drive a component of one row out at once.
        return bool(self.noise)

    def _start(
        self,
        family: Mixture[Any, Any],
        rows: Rows,
        engine: Engine,
        sample: RowSample,
        random_state: RandomState,
    ) -> MixtureParameters[Any]:
        if self.noise:
            sample = replace(sample, chunk=_without_background(sample.chunk, self.n_components))
        elif self._robust:
            sample = replace(sample, chunk=replace(sample.chunk, rows=fenced(sample.rows)))
        return super()._start(family, rows, engine, sample, random_state)

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values = super()._initial_values(n_features)
        if self.noise and "weights" in values:
            values["weights"] = (1.0 - WEIGHT_AT_START) * values["weights"]
            values["noise_weight"] = np.asarray(WEIGHT_AT_START)
        return values

    def _check_goes_on(self) -> None:
        super()._check_goes_on()
        self._check_background()

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of a fitted array; see `Estimator._shape`."""
        of_background: dict[str, tuple[int, ...]] = {
            "noise_weight": (1,),  # of numbers too, files have arrays
            "noise_volume": (1,),
            "noise_box": (2, n_features),
        }
        return of_background[name] if name in of_background else super()._shape(name, size, n_features)

    def _complete(self) -> None:
        super()._complete()
        for name in ("noise_weight_", "noise_volume_"):
            if self.noise:
                setattr(self, name, np.asarray(getattr(self, name)).item())
        if not self._boxed:
            vars(self).pop("noise_box_", None)
        if not self.noise:
            for name in ("noise_weight_", "noise_volume_"):
                vars(self).pop(name, None)


def _without_background(sample: Chunk, n_components: int) -> Chunk:
    """Return the rows of a sample from which the components start: dense ones, and those of known components.

    Raises
    ------
    DataError
        If there are fewer rows than components that are not labelled as background.
    """
    labels, known = sample.labels, np.zeros(len(sample), dtype=bool)
    if labels is not None:
        is_set = labels.ndim == 2
        own = labels[:, :n_components] if is_set else labels
        left = np.asarray(own.any(axis=1) if is_set else own < n_components)
        sample = replace(sample, labels=own).take(left)
        if len(sample) < n_components:
            message = f"{len(sample)} rows are not labelled as background, too few for {n_components} components"
            raise DataError(message)
        known = np.asarray(~own.all(axis=1) if is_set else own >= 0)[left]
    known[dense_rows(sample.rows, sample.weights, n_components)] = True
    return sample.take(known)
