"""`Mixture`: columns of different families in one mixture, latent class analysis among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.data.categories import columns_encoded
from dem.data.sources import SourceOptions, holds_variables, source_kind
from dem.em.algorithm import Fit
from dem.engine import Engine, Work
from dem.errors import DataError, OptionError
from dem.estimators.adaptation import TOGETHER
from dem.estimators.classes import CATEGORICAL, TWO_VALUES, DescribesClasses, names_of_parameters
from dem.estimators.inputs import CONJUGATE
from dem.estimators.mixture import MixtureEstimator
from dem.estimators.options import POSITIVE, option
from dem.estimators.parts import GivenPart, from_stored, numbers_of, parts_of, stored
from dem.estimators.scaling import ScalesFeatures
from dem.families.base import Component
from dem.families.mixture_parameters import MixtureParameters
from dem.families.product import Part, ProductComponent, named, of_part
from dem.initialise.sample import RowSample

# Data that may have columns of text.
TABLES = ("pandas", "dask.dataframe", "parquet")


class Mixture(DescribesClasses, ScalesFeatures):
    """Mixture of columns that have different families, independent of one another within a component.

    With categorical columns alone it is latent class analysis. Data is as for all models; of a DataFrame, parquet, a
    Dataset or a zarr group the columns that are named are taken. It is computed in double precision.

    Parameters
    ----------
    families : dict
        The columns of each part, and its family: ``{"height,weight": "gaussian", "smoker": "bernoulli"}``. Keys are
        names with commas between them, tuples of names, or numbers of columns, all of which are needed then. Values
        are names of families, with options ``("gaussian", {"covariance_type": "diag"})``, or estimators such as
        ``dem.BinomialMixture(n_trials=5)``, of which the options that are of their family count. The columns of a part
        of Gaussians are correlated, those of all others independent. Parts of exponential families may have a prior,
        ``dem.PoissonMixture(prior="default")``, as if there were some rows more of each component in these columns.
    fit_weights : bool, default=True
        Whether EM updates the weights; else they stay as they start (equal without `weights_init`).
    scale : bool, default=False
        Whether `reg_covar` of Gaussian parts is a share of each column's variance. Starts count columns in units of
        their standard deviations always, and categories as columns of zeros and ones, so that none dominates.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
        The expectation of each column; of categories, of their numbers.
    categories_ : dict
        The categories of each column of text or other values, in the order of their numbers.

    References
    ----------
    Hunt, L. and Jorgensen, M. (1999). Mixture model clustering using the MULTIMIX program. Australian & New Zealand
    Journal of Statistics 41. Lazarsfeld, P. F. and Henry, N. W. (1968). Latent structure analysis. Houghton Mifflin.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> X = np.array([[1.2, 0, 0], [0.9, 1, 0], [1.1, 0, 0], [7.8, 9, 1], [8.1, 7, 1], [8.3, 8, 1]])
    >>> mixture = dem.Mixture({0: "gaussian", 1: "poisson", 2: "bernoulli"}, n_components=2, random_state=0).fit(X)
    >>> np.sort(mixture.parameters_["1"]["rates"].ravel()).round(2)
    array([0.33, 8.  ])
    """

    n_components: int = option(POSITIVE, default=1)
    families: Mapping[Any, Any] | None = option(dict, None, default=None, kw_only=False)
    fit_weights: bool = option("boolean", default=True)

    @property
    def _parts(self) -> list[GivenPart]:
        """The parts, with what is known of their columns."""
        parts = parts_of(self.families, self.n_components)
        known, outcomes = getattr(self, "categories_", {}), self._part_outcomes or []
        if len(outcomes) == len(parts):
            for part, outcome in zip(parts, outcomes, strict=True):
                own = part.estimator
                learned = (*own._outcome, *CONJUGATE)
                vars(own).update({name: value for name, value in outcome.items() if name in learned})
        for part, numbers in zip(parts, numbers_of(parts), strict=True):
            if part.family == CATEGORICAL and all(name in known for name in part.names):
                part.estimator.set_params(n_categories=[len(known[name]) for name in part.names])
            if self._units is not None and "scale" in part.estimator.get_params():
                part.estimator.set_params(scale=True).feature_scales_ = self._units[numbers]
        return parts

    def _component(self) -> ProductComponent:
        return self._product([part.estimator._component() for part in self._parts])

    def _component_as_fitted(self) -> ProductComponent:
        return self._product([part.estimator._component_as_fitted() for part in self._fitted_parts()])

    def _product(self, components: list[Component[Any, Any]]) -> ProductComponent:
        parts = self._parts
        numbers = numbers_of(parts)
        self._check_columns(np.concatenate(numbers))
        of_parts = zip(numbers, components, parts, strict=True)
        return ProductComponent(tuple(Part(columns, own, part.family) for columns, own, part in of_parts))

    def _check_columns(self, numbers: NDArray[np.intp]) -> None:
        n_features = getattr(self, "n_features_in_", None) or len(numbers)
        if (np.sort(numbers) != np.arange(len(numbers))).any() or len(numbers) != n_features:
            left = sorted(set(range(n_features)) - set(numbers.tolist()))
            which = f"column {left[0]} belongs to no part" if left else f"there is no column {numbers.max()}"
            message = f"the data has {n_features} columns, and {which}; columns without names all have a part"
            raise OptionError(message)

    @property
    def _named(self) -> list[str] | None:
        names = [name for part in parts_of(self.families, self.n_components) for name in part.names]
        return [str(name) for name in names] if isinstance(names[0], str) else None

    @property
    def _knows(self) -> frozenset[str]:
        return frozenset()  # errors and limits are of whole rows, and parts have some columns of them

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        """Fitted attributes; see `Estimator._parameter_names`."""
        of_parts = (
            named(number, name) for number, part in enumerate(self._parts) for name in names_of_parameters(part)
        )
        return ("weights", "means", *of_parts)

    def _adapted_names(self, update: str | Sequence[str]) -> list[str]:
        """Return the fitted parameters that are to change; means are what locates each part, and follow from all."""
        asked = [update] if isinstance(update, str) or not isinstance(update, Sequence) else update
        located = [named(number, part.estimator._entry.location) for number, part in enumerate(self._parts)]
        asked = [one for name in asked for one in (located if name == "means" else [name])]
        names = {"means", *super()._adapted_names(asked)}
        for number in range(len(self._parts)):
            names |= {named(number, other) for one, other in TOGETHER if named(number, one) in names}
        return [name for name in self._parameter_names if name in names]

    def _adapted_values(
        self, family: Any, values: Mapping[str, NDArray[Any]], names: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        chosen = super()._adapted_values(family, values, names)
        now = {name: getattr(self, f"{name}_") for name in self._parameter_names} | chosen
        return chosen | {"means": family.to_user(family.from_user(now))["means"]}

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of a fitted array; see `Estimator._shape`."""
        for number, part in enumerate(self._parts):
            if own := of_part({name: ""}, number):
                shape: tuple[int, ...] = part.estimator._shape(next(iter(own)), size, len(part.names))
                return shape
        return super()._shape(name, size, n_features)

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values = super()._initial_values(n_features)
        for number, part in enumerate(self._parts):
            own = part.estimator._initial_values(len(part.names))
            values |= {named(number, name): value for name, value in own.items()}
        return values

    def _check_options(self) -> None:
        super()._check_options()
        for part in self._parts:
            for name in part.estimator._needs.values():
                form = f"({part.family!r}, {{{name!r}: 10}})"
                message = (
                    f"families: {part.key!r}: {part.family} needs {name}; write {form}, or :{name}=10 in the shell"
                )
                raise OptionError(message)
            with _of_part(part.key):
                part.estimator._check_options()

    def _check_marginalises(self, what: str) -> None:
        for part in self._parts:
            if not part.estimator._component().marginalises:
                message = f"{what} is not for {part.family} ({part.key!r}); give missing='skip', or another family"
                raise OptionError(message)

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *more: Any) -> None:
        parameters = best.parameters
        self._part_outcomes = []
        for part, own, found in zip(self._parts, family.component.parts, parameters.components.parts, strict=True):
            alone = replace(family, component=own.component)
            fit = copy(best)
            fit.parameters = MixtureParameters(parameters.weights, found)
            part.estimator._keep([], alone, fit)
            learned = [name for name in part.estimator._outcome if name not in MixtureEstimator._outcome]
            learned += [name for name in CONJUGATE if hasattr(part.estimator, name)]
            self._part_outcomes.append({name: getattr(part.estimator, name) for name in learned})
        super()._keep(history, family, best, *more)

    # Tables --------------------------------------------------------------------------------------------------

    def _encoded(
        self, data: Any, source: SourceOptions, *, reset: bool
    ) -> tuple[Any, SourceOptions, Mapping[str, list[Any]] | None]:
        parts = self._parts
        if isinstance(data, Rows) or self._named is None:
            return data, source, None
        known = None if reset else getattr(self, "categories_", {})
        families = {name: part.family for part in parts for name in part.names}
        if not reset and not _has_columns(data, list(families)):
            return data, source, known

        def wanted(name: str, is_text: bool) -> bool:
            family = families[name]
            if is_text and family not in (CATEGORICAL, TWO_VALUES):
                message = (
                    f"column {name!r} holds text or other values that are no numbers, and {family} takes numbers; give "
                    f"it the family {CATEGORICAL!r}, or leave it out"
                )
                raise DataError(message)
            return family == CATEGORICAL or is_text

        data, source, found = columns_encoded(data, source, list(families), wanted, known)
        for name, values in found.items():
            if families[name] == TWO_VALUES and len(values) > 2:
                message = f"column {name!r} has {len(values)} values, more than the two of {TWO_VALUES}: {values[:5]!r}"
                raise DataError(message)
        return data, source, found

    # Starts --------------------------------------------------------------------------------------------------

    def _learn_units(self, rows: Rows, engine: Engine, like: Any = None) -> None:
        super()._learn_units(rows, engine, like)
        if rows.categories is not None:
            self.categories_ = dict(rows.categories)

    def _adapted(self, rows: Rows, engine: Engine, sample: RowSample) -> Component[Any, Any]:
        """Return the components with what each part learns from its columns of all rows."""
        component = self._component()
        parts = []
        for given, part in zip(self._parts, component.parts, strict=True):
            own = replace(sample, chunk=replace(sample.chunk, rows=part.of(sample.rows)))
            looks: Any = EngineOfColumns(engine, part)
            with _of_part(given.key):
                parts.append(replace(part, component=given.estimator._adapted(rows, looks, own)))
        return replace(component, parts=tuple(parts))

    def _chunk_of_start(self, sample: RowSample) -> Chunk:
        """Return a sample with columns of zeros and ones for categories, all columns as wide as one another."""
        rows, columns = np.asarray(sample.rows, dtype=np.float64), []
        for part, numbers in zip(parts := self._parts, numbers_of(parts), strict=True):
            for column in numbers:
                own = rows[:, [column]]
                if part.family == CATEGORICAL:
                    own = (own == np.unique(own)).astype(np.float64)
                spread = np.sqrt(np.sum(own.var(axis=0)))
                columns.append(own / (spread if spread > 0.0 else 1.0))
        return replace(sample.chunk, rows=np.hstack(columns))

    def _units_of_start(self, sample: RowSample) -> NDArray[np.float64]:
        deviations = np.asarray(sample.rows, dtype=np.float64).std(axis=0)
        return np.where(deviations > 0.0, deviations, 1.0)

    # Files ---------------------------------------------------------------------------------------------------

    def _options_to_store(self) -> dict[str, Any]:
        return {**super()._options_to_store(), "families": stored(self.families)}

    @classmethod
    def _options_from_store(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "families": from_stored(options["families"])}


def _has_columns(data: Any, names: list[str]) -> bool:
    """Tell whether data is a table of named columns, rather than an array of their numbers in the order of the fit."""
    if source_kind(data) in ("zarr", "xarray"):
        return holds_variables(data, names)
    return source_kind(data) in TABLES or hasattr(data, "to_pandas")


@contextmanager
def _of_part(key: Any) -> Iterator[None]:
    """Name the part whose option is wrong."""
    try:
        yield
    except OptionError as error:
        message = f"families: {key!r}: {error}"
        raise OptionError(message) from error


class EngineOfColumns:
    """An engine whose works see the columns of one part."""

    def __init__(self, engine: Engine, part: Part) -> None:
        self.engine, self.part = engine, part

    def sweep(self, rows: Rows, works: Sequence[Work]) -> list[Any]:
        """Return the totals of works over the columns."""
        return self.engine.sweep(rows, [OfColumns(work, self.part) for work in works])


@dataclass(frozen=True, eq=False)
class OfColumns:
    """Work that gives another work the columns of a part."""

    work: Work
    part: Part

    def __call__(self, chunk: Chunk) -> Any:
        """Return what the work makes of them."""
        return self.work(replace(chunk, rows=self.part.of(chunk.rows)))
