"""Categorical components: each feature is one of some categories, independent of the others (latent class analysis)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.errors import DataError
from dem.families.base import Array, Support
from dem.families.exponential_family import ExponentialFamily
from dem.families.tabulated import TableKernel

# Keeps log p finite for a category that never comes within a component.
SMALLEST = 1e-12
# Of one feature: more are a number, or the name of the row.
MOST_CATEGORIES = 2**16


@dataclass(frozen=True)
class CategoricalComponent(ExponentialFamily):
    """Each feature is a whole number from 0 to C − 1, of which each has a probability of its own.

    The parameters are the probabilities, (n_components, ΣC), those of a feature beside one another; T(x) is 1 for the
    category that is there, and 0 for the others.

    Parameters
    ----------
    n_categories : int or tuple of int, optional
        C, for all features or for each; as many as the sample shows where left out, see `adapted_to`.

    References
    ----------
    Lazarsfeld, P. F. and Henry, N. W. (1968). Latent structure analysis. Goodman, L. A. (1974). Exploratory latent
    structure analysis using both identifiable and unidentifiable models. Biometrika 61.
    """

    n_categories: int | tuple[int, ...] | None = None
    name: ClassVar[str] = "categorical"
    parameters: ClassVar[tuple[str, ...]] = ("probabilities",)
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((0.0, 1.0),)

    @property
    def support(self) -> Support:
        """Numbers of categories."""
        if self.n_categories is None:
            return Support("numbers of categories, from 0", 0.0, whole=True)
        one = self.n_categories
        highest = tuple(n - 1.0 for n in one) if isinstance(one, tuple) else one - 1.0
        return Support("numbers of categories, from 0", 0.0, highest, whole=True)

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with the number of categories of each feature: where not given, up to the largest."""
        found = self.n_categories
        if found is None:
            found = numbers_of(np.fmax.reduce(np.asarray(sample, dtype=np.float64), axis=0))
        elif isinstance(found, int):
            found = (found,) * sample.shape[1]
        return replace(self, n_categories=found)

    @property
    def counts(self) -> NDArray[np.intp]:
        """C of each feature, shape (n_features,)."""
        return np.asarray(self.n_categories, dtype=np.intp)

    @property
    def starts(self) -> NDArray[np.intp]:
        """Where the categories of each feature begin, shape (n_features,)."""
        return np.cumsum(self.counts) - self.counts

    def sufficient_statistics(self, rows: Array) -> Array:
        """Return a one in the place of each category that is there, and zeros; of a missing value NaN."""
        owners = self.owners(rows.shape[1])
        categories = np.arange(len(owners)) - self.starts[owners]
        own = rows[:, owners]
        return np.where(np.isnan(own), np.nan, own == categories)

    def owners(self, n_features: int) -> NDArray[np.intp]:
        """Return the feature of each category, shape (ΣC,)."""
        known = 1 if self.n_categories is None else self.n_categories
        return np.arange(n_features).repeat(np.resize(known, n_features))

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return log p and 0."""
        return np.log(np.maximum(parameters, SMALLEST)), np.zeros((len(parameters), len(self.counts)))

    def from_mean_parameters(self, means: Array) -> Array:
        """Return probabilities that sum to one also after rounding."""
        return np.asarray(means / self._sums(means))

    def expectations(self, parameters: Array) -> Array:
        """Return the mean number of the category, which is of use for categories in an order."""
        owners = self.owners(len(self.counts))
        return np.add.reduceat(parameters * (np.arange(len(owners)) - self.starts[owners]), self.starts, axis=1)

    def modes(self, parameters: Array, shares: Array) -> Array:
        """Return the most probable category of each feature, given the shares of components, (n, n_components)."""
        probabilities = shares @ parameters
        ends = self.starts + self.counts
        parts = [probabilities[:, a:b].argmax(axis=1) for a, b in zip(self.starts, ends, strict=True)]
        return np.column_stack(parts).astype(np.float64)

    def prior(self, mean: Array) -> tuple[Array, Array]:  # type: ignore[override]
        """Return one row of each category (Laplace)."""
        each = self.counts.repeat(self.counts).astype(np.float64)
        return each, np.broadcast_to(1.0 / each, mean.shape)

    def unconstrained(self, parameters: Array) -> Array:
        """Return log p less its mean over the categories of the feature."""
        logs = np.log(np.maximum(parameters, SMALLEST))
        return np.asarray(logs - self._sums(logs) / self.counts.repeat(self.counts))

    def constrained(self, numbers: Array) -> Array:
        """Return probabilities from log p, up to a constant for each feature."""
        largest = np.maximum.reduceat(numbers, self.starts, axis=1).repeat(self.counts, axis=1)
        return self.from_mean_parameters(np.exp(numbers - largest))

    def _sums(self, numbers: Array) -> Array:
        """Return for each category the sum over those of its feature."""
        return np.asarray(np.add.reduceat(numbers, self.starts, axis=-1).repeat(self.counts, axis=-1))

    # Densities come from tables: see `dem.families.tabulated` --------------------------------------------------

    def _places(self, columns: NDArray[np.intp], values: Array) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Return which pairs of features and values are categories, and the places of these."""
        known = values < self.counts[columns]
        return known, self.starts[columns[known]] + values[known].astype(np.intp)

    def log_densities(self, parameters: Array, columns: NDArray[np.intp], values: Array) -> Array:
        """Return the log-densities of values in features, shape (n_components, n)."""
        known, places = self._places(columns, values)
        logs = np.full((len(parameters), len(columns)), -np.inf)
        logs[:, known] = np.log(np.maximum(parameters[:, places], SMALLEST))
        return logs

    def add_pairs(
        self,
        sums: Array,
        parameters: Array,  # noqa: ARG002
        columns: NDArray[np.intp],
        values: Array,
        often: Array,
    ) -> None:
        """Add how often each category has come."""
        known, places = self._places(columns, values)
        sums[:, places] += often[:, known]

    def kernel(self, parameters: Array, dtype: np.dtype[Any], *, exact: bool = False) -> TableKernel:  # type: ignore[override]  # noqa: ARG002
        """Return the arithmetic of an E-step at `parameters`: double precision for rows of any dtype."""
        return TableKernel(self, parameters, len(self.counts))

    def marginals(self, parameters: Array, rows: NDArray[Any]) -> Iterator[tuple[NDArray[np.intp], TableKernel]]:  # type: ignore[override]
        """Yield all rows: one kernel knows all gaps."""
        yield np.arange(len(rows)), TableKernel(self, parameters, rows.shape[1], gaps=True)

    # Parameters ------------------------------------------------------------------------------------------------

    def n_parameters(self, parameters: Array) -> int:
        """Return C − 1 for each component and feature."""
        return len(parameters) * int(np.sum(self.counts - 1))

    def user_shapes(self, n_components: int, n_features: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of probabilities with room for the categories of the feature that has the most."""
        return {"probabilities": (n_components, n_features, int(np.max(self.n_categories or 1)))}

    def to_user(self, parameters: Array) -> dict[str, NDArray[Any]]:
        """Return ``probabilities``, with 0 for what is no category of its feature."""
        d = len(self.counts)
        padded = np.zeros(self.user_shapes(len(parameters), d)["probabilities"])
        owners = self.owners(d)
        padded[:, owners, np.arange(len(owners)) - self.starts[owners]] = parameters
        return {"probabilities": padded}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> Array:
        """Return parameters from what `to_user` gave."""
        owners = self.owners(len(self.counts))
        padded = np.asarray(values["probabilities"], dtype=np.float64)
        return padded[:, owners, np.arange(len(owners)) - self.starts[owners]]

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one row of categories for each label."""
        rows = np.empty((len(labels), len(self.counts)), dtype=np.int64)
        for j, (start, n) in enumerate(zip(self.starts, self.counts, strict=True)):
            edges = np.cumsum(parameters[:, start : start + n], axis=1)
            edges /= edges[:, -1:]
            rows[:, j] = np.sum(rng.random((len(labels), 1)) >= edges[labels, :-1], axis=1)
        return rows


def numbers_of(highest: Array) -> tuple[int, ...]:
    """Return how many categories there are, from the largest number in each column.

    Raises
    ------
    DataError
        If they are too many to be categories.
    """
    if (many := np.flatnonzero(highest >= MOST_CATEGORIES)).size:
        message = (
            f"column {many[0]} has the value {highest[many[0]]:g}, too large for the number of a category "
            f"(at most {MOST_CATEGORIES - 1}); number categories from 0"
        )
        raise DataError(message)
    return tuple((np.maximum(np.floor(np.nan_to_num(highest)), 0.0).astype(int) + 1).tolist())
