"""Multinomial components: rows of counts, of any total, that fall into the columns with certain probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Support
from dem.families.exponential_family import ExponentialFamily
from dem.families.factorials import FAR, log_factorials, log_poisson
from dem.sparse import SparseRows

# Keeps log p finite for a column where no row of a component has a count.
SMALLEST = 1e-12


@dataclass(frozen=True)
class MultinomialComponent(ExponentialFamily):
    """A row x of counts with total n has the density n!/Πx! Πpˣ, given n, of which nothing is assumed.

    The parameters are the mean counts, (n_components, n_features): as shares of their sum they are p. The sum itself
    is the mean total of the rows, on which no density depends; `sample` draws totals about it.

    References
    ----------
    Nigam, K., McCallum, A. K., Thrun, S. and Mitchell, T. (2000). Text classification from labeled and unlabeled
    documents using EM. Machine Learning 39.
    """

    name: ClassVar[str] = "multinomial"
    parameters: ClassVar[tuple[str, ...]] = ("probabilities",)
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((0.0, 1.0),)
    support: ClassVar[Support] = Support("whole numbers of at least 0", lowest=0.0, whole=True)
    marginalises: ClassVar[bool] = False
    takes_sparse: ClassVar[bool] = True

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return log p and 0."""
        return np.log(_probabilities(parameters)), np.zeros((len(parameters), 1))

    def log_base_measure(self, rows: Array) -> Array:
        """Return log n!/Πx!, shape (n, 1)."""
        found = log_factorials(rows.sum(axis=1)) - log_factorials(rows).sum(axis=1)
        return np.asarray(found[:, np.newaxis])

    def log_base_measure_of_sparse(self, rows: SparseRows) -> Array:
        """Return log n!/Πx!, shape (n,)."""
        return log_factorials(rows.sums(rows.data)) - rows.sums(log_factorials(rows.data))

    def far_rows(self, rows: Array | SparseRows) -> NDArray[np.intp]:
        """Return the rows of a huge total."""
        if isinstance(rows, SparseRows):
            few = not rows.size or rows.data.max() * np.diff(rows.matrix.indptr).max() <= FAR
        else:
            few = not rows.size or rows.max() * rows.shape[1] <= FAR
        if few:
            return np.empty(0, dtype=np.intp)
        totals = rows.sums(rows.data) if isinstance(rows, SparseRows) else rows.sum(axis=1)
        return np.flatnonzero(totals > FAR)

    def far_log_density(self, parameters: Array, rows: Array) -> Array:
        """Return log p(x), shape (n, 1), with p at the distance from 0 that probabilities of `log_binomial` have."""
        totals, total = rows.sum(axis=1, keepdims=True), parameters.sum()
        shares = parameters / total if total > 0.0 else np.full_like(parameters, 1.0 / len(parameters))
        means = np.maximum(totals * shares, SMALLEST * np.minimum(totals, FAR))
        return np.asarray(log_poisson(rows, means).sum(axis=1, keepdims=True) - log_poisson(totals, totals))

    def unconstrained(self, parameters: Array) -> Array:
        """Return log p less its mean over the columns."""
        logs = np.log(_probabilities(parameters))
        return np.asarray(logs - logs.mean(axis=1, keepdims=True))

    def constrained(self, numbers: Array) -> Array:
        """Return p from log p, up to a constant for each component."""
        found = np.exp(numbers - numbers.max(axis=1, keepdims=True))
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    def constrain(self, vector: Any, parameters: Array) -> Array:
        """Return parameters from what `unconstrain` gave, with the totals of others."""
        return np.asarray(self.constrained(vector.own) * parameters.sum(axis=1, keepdims=True))

    def n_parameters(self, parameters: Array) -> int:
        """Return d − 1 for each component."""
        return parameters.size - len(parameters)

    def user_shapes(self, n_components: int, n_features: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what `to_user` gives."""
        return {**super().user_shapes(n_components, n_features), "row_totals": (n_components,)}

    def to_user(self, parameters: Array) -> dict[str, NDArray[Any]]:
        """Return ``probabilities``, and ``row_totals``, the mean totals."""
        totals = parameters.sum(axis=1)
        shares = parameters / np.where(totals > 0.0, totals, 1.0)[:, np.newaxis]
        none = np.full_like(shares, 1.0 / parameters.shape[1])
        return {"probabilities": np.where(totals[:, np.newaxis] > 0.0, shares, none), "row_totals": totals}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> Array:
        """Return parameters from what `to_user` gave; without totals, as of a prior, of rows of one count."""
        probabilities = np.asarray(values["probabilities"], dtype=np.float64)
        totals = np.asarray(values.get("row_totals", np.ones(len(probabilities))), dtype=np.float64)
        return probabilities * totals[:, np.newaxis]

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one row of counts for each label, of totals that are Poisson distributed."""
        totals, probabilities = rng.poisson(parameters.sum(axis=1)[labels]), _probabilities(parameters)
        rows = np.empty((len(labels), parameters.shape[1]), dtype=np.int64)
        for k in np.unique(labels):
            (own,) = np.nonzero(labels == k)
            rows[own] = rng.multinomial(totals[own], probabilities[k])
        return rows


def _probabilities(parameters: Array) -> Array:
    """Return p at a distance from 0; where no row has a count, the same for all columns."""
    totals = parameters.sum(axis=1, keepdims=True)
    shares = np.maximum(parameters / np.where(totals > 0.0, totals, 1.0), SMALLEST)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
