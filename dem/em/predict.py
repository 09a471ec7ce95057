"""What a fitted model says of rows: picklable functions of a chunk, and works that sum what they say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.engine.base import single_threaded_blas
from dem.errors import DataError
from dem.families.base import total_weight, weighted_sum
from dem.statistics import Additive


@dataclass(frozen=True, eq=False)
class RowFunction:
    """Base: checks the rows, keeps BLAS at one thread, evaluates the mixture (or the clusters).

    What the data is called, and its columns, is for messages; see `about`.
    """

    family: Any
    parameters: Any
    name: str = "the data"
    feature_names: tuple[str, ...] | None = None

    #: the method of the family that is asked
    method: ClassVar[str]
    #: kind of number of the result
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)
    #: whether the result has a column for each component, rather than one number for each row
    by_component: ClassVar[bool] = False

    @property
    def columns(self) -> int | None:
        """Number of columns of the result; None where it has one number per row."""
        return self.family.size(self.parameters) if self.by_component else None

    def about(self, rows: Rows) -> Self:
        """Return the function with the names of the data that it is to be applied to."""
        return replace(self, name=rows.name, feature_names=rows.feature_names)

    def __call__(self, chunk: Chunk) -> NDArray[Any]:
        """Map the rows of a chunk to results with n as their first dimension.

        Raises
        ------
        DataError
            If a row holds NaN, infinity or what the family cannot produce: it has no label.
        """
        rows, support = chunk.rows, self.family.support
        invalid = support.outside(rows)
        if invalid.any():
            row, column = np.argwhere(invalid)[0]
            what = f"values that are not {support.description}"
            if not np.isfinite(rows[invalid]).all():
                what = "NaN or inf values"
            name = f" ({self.feature_names[column]!r})" if self.feature_names else ""
            message = (
                f"{self.name} contains {what} ({np.count_nonzero(invalid)} of them, the first in row {row} of what was "
                f"read together, column {column}{name}); drop or fill them first"
            )
            raise DataError(message)
        with single_threaded_blas():
            return np.asarray(getattr(self.family, self.method)(self.parameters, chunk))


class Labels(RowFunction):
    """The most probable component of each row, int64 as scikit-learn's labels, shape (n,)."""

    method = "labels"
    dtype = np.dtype(np.int64)


class Posterior(RowFunction):
    """The responsibilities of each row, float64, shape (n, n_components)."""

    method = "posterior"
    by_component = True


class LogDensity(RowFunction):
    """The log-density of each row (nats), float64, shape (n,)."""

    method = "log_likelihood"


class Distances(RowFunction):
    """The distances of each row to the centres of clusters, float64, shape (n, n_clusters)."""

    method = "distances"
    by_component = True


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

    def __call__(self, chunk: Chunk) -> RowTotal:
        """Return the chunk's total."""
        total = getattr(self.family, self.method)(self.parameters, chunk)
        if np.ndim(total):  # by row
            total = weighted_sum(total, chunk.weights)
        return RowTotal(total_weight(chunk), total)


class Entropy(LogLikelihood):
    """Work: Σ entropy of the responsibilities, nats."""

    method = "entropy"
