"""What a fitted mixture says of rows, as picklable functions of a block of rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Rows
from dem.engine.base import single_threaded_blas
from dem.errors import DataError


@dataclass(frozen=True, eq=False)
class RowFunction:
    """Base: checks the rows, keeps BLAS at one thread, evaluates the mixture (or the clusters).

    What the data is called, and its columns, is for messages; see `about`.
    """

    family: Any
    parameters: Any
    name: str = "the data"
    feature_names: tuple[str, ...] | None = None

    def about(self, rows: Rows) -> Self:
        """Return the function with the names of the data that it is to be applied to."""
        return replace(self, name=rows.name, feature_names=rows.feature_names)

    def __call__(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Map rows (n, n_features) to results with n as their first dimension.

        Raises
        ------
        DataError
            If a row holds NaN, infinity or what the family cannot produce: it has no label.
        """
        component = self.family.component
        invalid = component.invalid(rows)
        if invalid.any():
            row, column = np.argwhere(invalid)[0]
            what = f"values that are not {component.domain}"
            if not np.isfinite(rows[invalid]).all():
                what = "NaN or inf values"
            name = f" ({self.feature_names[column]!r})" if self.feature_names else ""
            message = (
                f"{self.name} contains {what} ({np.count_nonzero(invalid)} of them, the first in row {row} of what was "
                f"read together, column {column}{name}); drop or fill them first"
            )
            raise DataError(message)
        with single_threaded_blas():
            return self.evaluate(rows)

    def evaluate(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the result for valid rows."""
        raise NotImplementedError

    @property
    def dtype(self) -> np.dtype[Any]:
        """Kind of number of the result."""
        return np.dtype(np.float64)

    @property
    def columns(self) -> int | None:
        """Number of columns of the result; None where it has one number per row."""
        return None


class Labels(RowFunction):
    """The most probable component of each row, int64."""

    def evaluate(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return labels, shape (n,)."""
        return np.asarray(self.family.labels(self.parameters, rows))

    @property
    def dtype(self) -> np.dtype[Any]:
        """int64, as scikit-learn's labels."""
        return np.dtype(np.int64)


class Posterior(RowFunction):
    """The responsibilities of each row, float64."""

    def evaluate(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return responsibilities, shape (n, n_components)."""
        return np.asarray(self.family.posterior(self.parameters, rows))

    @property
    def columns(self) -> int | None:
        """One column per component."""
        return len(self.parameters.weights)


class LogDensity(RowFunction):
    """The log-density of each row (nats), float64."""

    def evaluate(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return log p(row), shape (n,)."""
        return np.asarray(self.family.log_likelihood(self.parameters, rows))


class Distances(RowFunction):
    """The distances of each row to the centres of clusters, float64."""

    def evaluate(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return distances, shape (n, n_clusters)."""
        return np.asarray(self.family.distances(self.parameters, rows))

    @property
    def columns(self) -> int | None:
        """One column per cluster."""
        return len(self.parameters)


ROW_FUNCTIONS: dict[str, type[RowFunction]] = {
    "labels": Labels,
    "proba": Posterior,
    "log_density": LogDensity,
}
