"""Works that look at the data with fixed parameters: log-likelihood and entropy, summed over the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dem.data.base import Chunk
from dem.families.mixture import Mixture, MixtureParameters
from dem.statistics import Statistics


@dataclass(frozen=True, eq=False)
class RowTotal(Statistics):
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

    family: Mixture[Any, Any]
    parameters: MixtureParameters[Any]

    def __call__(self, chunk: Chunk) -> RowTotal:
        """Return the chunk's total."""
        total = float(self.family.log_likelihood(self.parameters, chunk.rows).sum())
        return RowTotal(float(len(chunk)), total)


@dataclass(frozen=True, eq=False)
class Entropy:
    """Work: Σ entropy of the responsibilities, nats."""

    family: Mixture[Any, Any]
    parameters: MixtureParameters[Any]

    def __call__(self, chunk: Chunk) -> RowTotal:
        """Return the chunk's total."""
        return RowTotal(float(len(chunk)), self.family.entropy(self.parameters, chunk.rows))
