"""What a fitted model says of rows: picklable functions of a chunk, and works that sum what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.engine.base import single_threaded_blas
from dem.errors import DataError
from dem.families.base import has_gaps, total_weight, weighted_sum
from dem.namespaces import here, is_on_device, on_host
from dem.row_draws import RowDraws
from dem.sparse import rows_with_gaps
from dem.statistics import Additive
from dem.units import unrounded


@dataclass(frozen=True, eq=False)
class RowFunction:
    """Base: checks the rows, keeps BLAS at one thread, evaluates the mixture (or the clusters).

    What the data is called, and its columns, is for messages; see `about`. Rows with missing values (NaN) are refused,
    unless the family allows them or `skips_gaps`: then they have no result.
    """

    family: Any
    parameters: Any
    name: str = "the data"
    feature_names: tuple[str, ...] | None = None
    skips_gaps: bool = False

    #: the method of the family that is asked
    method: ClassVar[str]
    #: what stands where a row has no result
    nothing: ClassVar[float] = math.nan
    #: kind of number of the result
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)
    #: whether the result has a column for each component, rather than one number for each row
    by_component: ClassVar[bool] = False
    #: whether it is computed where the rows lie, be it on a device, where the family does; the result is NumPy's anyway
    takes_device: ClassVar[bool] = False

    @property
    def columns(self) -> int | None:
        """Number of columns of the result; None where it has one number per row."""
        return self.family.size(self.parameters) if self.by_component else None

    def about(self, rows: Rows, *, skips_gaps: bool) -> Self:
        """Return the function with the names of the data that it is to be applied to."""
        return replace(self, name=rows.name, feature_names=rows.feature_names, skips_gaps=skips_gaps)

    def __call__(self, chunk: Chunk) -> NDArray[Any]:
        """Map the rows of a chunk to results with n as their first dimension.

        Raises
        ------
        DataError
            If a row holds NaN, infinity or what the family cannot produce: it has no label.
        """
        if is_on_device(chunk.rows):
            if self.takes_device and self.family.takes_device and bool(here(chunk.rows).isfinite(chunk.rows).all()):
                return self.result(chunk)
            chunk = on_host(chunk)
        none = chunk.unread
        if self.skips_gaps and has_gaps(chunk.rows):
            gaps = rows_with_gaps(chunk.rows)
            none = gaps if none is None else none | gaps
        if none is not None and none.any():
            (complete,) = np.nonzero(~none)
            results = np.full(
                (len(chunk), *(() if self.columns is None else (self.columns,))), self.nothing, self.dtype
            )
            results[complete] = self(chunk.take(complete))
            return results
        rows, support = chunk.rows, self.family.support
        places, columns = support.places_outside(rows)
        if len(places):
            raise DataError(self._refusal(chunk, places, columns))
        with single_threaded_blas():
            return self.result(chunk)

    def _refusal(self, chunk: Chunk, places: NDArray[np.intp], columns: NDArray[np.intp]) -> str:
        """Word what is wrong with the values at these places of a chunk."""
        support = self.family.support
        values = support.shown(chunk.rows, places, columns)
        finite = np.isfinite(values)
        first = int(np.argmin(finite))  # 0 if all are
        row, column, value = chunk.index[int(places[first])], int(columns[first]), unrounded(float(values[first]))
        name = f" ({self.feature_names[column]!r})" if self.feature_names else ""
        where = f"row {row}, column {column}{name}"
        if not finite[first]:
            n_bad = int(np.sum(~finite))
            return (
                f"{self.name} contains NaN or inf values ({n_bad} of them in what was read together, the first in "
                f"{where}); drop or fill them first, or say what missing= is to do"
            )
        what = (
            f"{self.name} contains {support.judged} that are not {support.words}; the first of what was read together"
        )
        if support.judged == "rows":
            return f"{what}, in row {row}, has {value}"
        return f"{what} is {value} in {where}{support.said_of(column)}"

    def result(self, chunk: Chunk) -> NDArray[Any]:
        """Return what is said of rows that have been checked."""
        return np.asarray(getattr(self.family, self.method)(self.parameters, chunk))


class Labels(RowFunction):
    """The most probable component of each row, int64 as scikit-learn's labels, shape (n,)."""

    method = "labels"
    dtype = np.dtype(np.int64)
    takes_device = True
    nothing = -1


class Posterior(RowFunction):
    """The responsibilities of each row, float64, shape (n, n_components)."""

    method = "posterior"
    takes_device = True
    by_component = True


class LogDensity(RowFunction):
    """The log-density of each row (nats), float64, shape (n,)."""

    method = "log_likelihood"
    takes_device = True


class Distances(RowFunction):
    """The distances of each row to the centres of clusters, float64, shape (n, n_clusters)."""

    method = "distances"
    by_component = True


@dataclass(frozen=True, eq=False)
class Imputed(RowFunction):
    """The rows with what is missing replaced by its mean given the rest, or drawn with a `seed`, shape (n, d)."""

    n_features: int = 0
    seed: int | None = None

    @property
    def columns(self) -> int:
        """The number of features."""
        return self.n_features

    def result(self, chunk: Chunk) -> NDArray[Any]:
        """Return the completed rows; draws depend on the seed and on where a row stands."""
        rng = None if self.seed is None else RowDraws(self.seed, chunk.index)
        return np.asarray(self.family.imputed(self.parameters, chunk, rng))[:, : self.n_features]


ROW_FUNCTIONS: dict[str, type[RowFunction]] = {
    "labels": Labels,
    "proba": Posterior,
    "log_density": LogDensity,
}


@dataclass(frozen=True, eq=False)
class RowTotal(Additive):
    """A number of rows and the sum of something over them."""

    n_rows: float
    total: float

    @property
    def mean(self) -> float:
        """The sum per row."""
        return self.total / self.n_rows


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Work: Σ log p(row), nats."""

    family: Any
    parameters: Any

    #: the method of the family that is asked
    method: ClassVar[str] = "log_likelihood"

    @property
    def takes_device(self) -> bool:
        """Whether the family computes where the rows lie."""
        return bool(self.family.takes_device)

    def __call__(self, chunk: Chunk) -> RowTotal:
        """Return the chunk's total."""
        total = getattr(self.family, self.method)(self.parameters, chunk)
        if np.ndim(total):  # by row
            total = weighted_sum(total, chunk.weights)
        return RowTotal(total_weight(chunk), total)


class Entropy(LogLikelihood):
    """Work: Σ entropy of the responsibilities, nats."""

    method = "entropy"
