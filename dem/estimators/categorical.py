"""`CategoricalMixture`: latent class analysis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dem.data.base import Chunk, Rows
from dem.em.algorithm import Fit
from dem.engine import Engine
from dem.errors import OptionError
from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import POSITIVE, option
from dem.families.base import Array, Support
from dem.families.categorical import MOST_CATEGORIES, CategoricalComponent, numbers_of
from dem.initialise.sample import RowSample
from dem.statistics import Additive


@dataclass(frozen=True, eq=False)
class Highest(Additive):
    """The largest value of each column that is no gap, shape (n_features,)."""

    values: Array

    def __add__(self, other: Self) -> Self:
        return replace(self, values=np.fmax(self.values, other.values))


def highest(chunk: Chunk) -> Highest:
    """Return that of a chunk: a work."""
    rows = np.asarray(chunk.rows, dtype=np.float64)
    return Highest(np.fmax.reduce(np.where(np.isfinite(rows), rows, 0.0), axis=0, initial=0.0))


class CategoricalMixture(IndependentFeaturesMixture):
    """Mixture of independent categorical features (latent class analysis), fitted by expectation–maximisation.

    Each value is the number of a category, from 0 to C − 1, of its column; `Mixture` takes
    words too, and tables of classes tell of them: ``dem.Mixture({"smoker,region": "categorical"}, n_components=3)``.

    Parameters
    ----------
    n_categories : int or array-like of shape (n_features,), optional
        C, of all columns or of each. When left out, it is one more than the largest number in each column, which takes
        a read of the data. In the shell it is always found from the data.
    probabilities_init : array-like of shape (n_components, n_features, most categories), optional
        Start given by the user, with 0 where a column has fewer categories than another.

    Attributes
    ----------
    probabilities_ : ndarray of shape (n_components, n_features, most categories)
        Probability of each category, in each component and feature; 0 for what is no category of the feature.
    n_categories_ : list of int
        C of each column. Later data may have these categories only.

    References
    ----------
    Lazarsfeld, P. F. and Henry, N. W. (1968). Latent structure analysis. Goodman, L. A. (1974). Exploratory latent
    structure analysis using both identifiable and unidentifiable models. Biometrika 61.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> X = np.array([[0, 2], [0, 2], [0, 1], [1, 0], [1, 0], [1, 0]])
    >>> lca = dem.CategoricalMixture(2, random_state=0).fit(X)
    >>> lca.n_categories_
    [2, 3]
    >>> lca.probabilities_.shape
    (2, 2, 3)
    >>> bool(lca.predict([[0, 2]]) != lca.predict([[1, 0]]))
    True
    """

    n_categories: int | ArrayLike | None = option(POSITIVE, "array-like", None, default=None)
    probabilities_init: ArrayLike | None = option("array-like", None, default=None)
    _sums_to_one = True

    _outcome = (*IndependentFeaturesMixture._outcome, "n_categories_")

    def _component(self) -> CategoricalComponent:
        given: Any = self.n_categories
        if given is None and self.probabilities_init is not None:
            there: Any = (np.asarray(self.probabilities_init, dtype=np.float64) > 0.0).any(axis=0)
            given = there.shape[-1] - there[..., ::-1].argmax(axis=-1)
        if given is None or np.ndim(given) == 0:
            return CategoricalComponent(None if given is None else int(given))
        return CategoricalComponent(tuple(int(n) for n in given))

    def _component_as_fitted(self) -> CategoricalComponent:
        return self._with_prior_as_fitted(self._of_fit())

    def _of_fit(self) -> CategoricalComponent:
        return CategoricalComponent(tuple(int(n) for n in self.n_categories_))

    @property
    def _is_known(self) -> bool:
        """Whether there is a fit whose categories stay."""
        return "n_categories_" in vars(self)

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of a fitted array; see `Estimator._shape`."""
        if name != "probabilities" or not self._is_known:
            return super()._shape(name, size, n_features)
        return self._of_fit().user_shapes(size, n_features)[name]

    def _support(self) -> Support:
        return self._of_fit().support if self.warm_start and self._is_known else super()._support()

    def _adapted(self, rows: Rows, engine: Engine, sample: RowSample) -> CategoricalComponent:
        component = self._component()
        if component.n_categories is None and not sample.complete:
            component = CategoricalComponent(numbers_of(engine.sweep(rows, [highest])[0].values))
        return self._with_prior(component.adapted_to(sample.rows), sample)

    def _learn(self, rows: Rows, engine: Engine) -> None:
        if not self._is_known and self._component().n_categories is None:
            message = "partial_fit needs to know n_categories: a stream tells them at its end only"
            raise OptionError(message)
        super()._learn(rows, engine)

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *more: Any) -> None:
        self.n_categories_ = list(family.component.n_categories)
        super()._keep(history, family, best, *more)

    def _check_options(self) -> None:
        super()._check_options()
        given = np.asarray(1 if self.n_categories is None else self.n_categories)
        if given.ndim > 1 or given.dtype.kind not in "iu" or (given < 1).any() or (given > MOST_CATEGORIES).any():
            message = (
                f"n_categories must be a whole number from 1 to {MOST_CATEGORIES}, or one for each column, not "
                f"{self.n_categories!r}"
            )
            raise OptionError(message)

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        counts = self._component().n_categories
        if isinstance(counts, tuple) and len(counts) != n_features:
            what = "n_categories" if self.n_categories is not None else "probabilities_init"
            message = f"{what} tells of {len(counts)} columns, but there are {n_features}"
            raise OptionError(message)
        values = super()._initial_values(n_features)
        found = values.get("probabilities")
        if found is not None and not np.allclose(found.sum(axis=2), 1.0, rtol=0.0, atol=1e-6):
            message = "probabilities_init must sum to 1 over the categories of each component and column"
            raise OptionError(message)
        return values
