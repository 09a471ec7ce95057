"""Parameters and expected sufficient statistics of mixtures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from dem.families.base import Array
from dem.families.listed import RowLists
from dem.families.truncation import Candidates
from dem.statistics import Statistics

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)


@dataclass(frozen=True, eq=False)
class MixtureParameters(Generic[P]):
    """Weights, shape (n_components,), and the parameters of all components.

    Where there are `candidates`, an E-step computes only these; whatever else is asked of the mixture counts all.
    """

    weights: Array
    components: P
    candidates: Candidates | RowLists | None = None

    @property
    def log_weights(self) -> Array:
        """What an E-step adds to the log-densities of the components, shape (n_components, 1)."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.weights)[:, np.newaxis])


@dataclass(frozen=True, eq=False)
class MixtureStatistics(Statistics, Generic[S]):
    """Expected sufficient statistics of a mixture.

    Attributes
    ----------
    n_rows : float
        Number of rows.
    log_likelihood : float
        Σ log p(row), nats.
    counts : ndarray of shape (n_components,)
        Σγ.
    components : Statistics
        What the components need besides.
    """

    n_rows: float
    log_likelihood: float
    counts: Array
    components: S


@dataclass(frozen=True, eq=False)
class RebasedStatistics(Statistics):
    """Statistics of rows that may have gone through E-steps at different parameters.

    Attributes
    ----------
    n_rows : float
        Number of rows.
    entropy : float
        Entropy of the responsibilities (nats), and terms of the density that no parameter changes.
    counts, components
        As in `MixtureStatistics`, the latter in a frame that does not depend on parameters.
    """

    n_rows: float
    entropy: float
    counts: Array
    components: Any
