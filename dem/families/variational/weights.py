"""Priors of the weights of a mixture, and what they become when rows are counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, digamma, gammaln

from dem.families.base import Array


@dataclass(frozen=True)
class WeightPrior(ABC):
    """A conjugate prior of the weights π; all its methods take the counts Σγ of the posterior, (n_components,).

    Parameters
    ----------
    concentration : float
        The larger, the more components share the rows.
    """

    concentration: float

    @abstractmethod
    def posterior(self, counts: Array) -> Array:
        """Return the parameters of the posterior."""

    @abstractmethod
    def means(self, counts: Array) -> Array:
        """Return E[π], normalised."""

    @abstractmethod
    def expected_logs(self, counts: Array) -> Array:
        """Return E[log π]."""

    @abstractmethod
    def divergence(self, counts: Array) -> float:
        """Return KL(posterior ‖ prior) in nats."""


class Dirichlet(WeightPrior):
    """A symmetric Dirichlet distribution of so many components as there are; its posterior has the shape (K,)."""

    def posterior(self, counts: Array) -> Array:
        """Return α."""
        return self.concentration + counts

    def means(self, counts: Array) -> Array:
        """Return α/Σα."""
        alpha = self.posterior(counts)
        return np.asarray(alpha / alpha.sum())

    def expected_logs(self, counts: Array) -> Array:
        """Return ψ(α) − ψ(Σα)."""
        alpha = self.posterior(counts)
        return np.asarray(digamma(alpha) - digamma(alpha.sum()))

    def divergence(self, counts: Array) -> float:
        """Return the divergence of two Dirichlet distributions."""
        alpha, before, size = self.posterior(counts), self.concentration, len(counts)
        norm = gammaln(alpha.sum()) - gammaln(alpha).sum() - gammaln(size * before) + size * gammaln(before)
        return float(norm + counts @ self.expected_logs(counts))


class StickBreaking(WeightPrior):
    """A Dirichlet process: π_k = v_k Π_{j<k} (1 − v_j) with v_k ~ Beta(1, concentration) (Blei and Jordan 2006).

    No row belongs to a component behind the last; the posterior, of shape (2, K), is Beta(a_k, b_k).
    """

    def posterior(self, counts: Array) -> Array:
        """Return a and b: the rows of each component, and those of all behind it."""
        behind = np.append(np.cumsum(counts[:0:-1])[::-1], 0.0)
        return np.array([1.0 + counts, self.concentration + behind])

    def means(self, counts: Array) -> Array:
        """Return E[v_k] Π E[1 − v_j], normalised."""
        a, b = self.posterior(counts)
        means = a / (a + b) * np.append(1.0, np.cumprod(b / (a + b))[:-1])
        return np.asarray(means / means.sum())

    def expected_logs(self, counts: Array) -> Array:
        """Return E[log v_k] + Σ_{j<k} E[log(1 − v_j)]."""
        a, b = self.posterior(counts)
        total = digamma(a + b)
        return np.asarray(digamma(a) - total + np.append(0.0, np.cumsum(digamma(b) - total)[:-1]))

    def divergence(self, counts: Array) -> float:
        """Return the sum of the divergences of the v_k; those behind the last keep their prior."""
        (a, b), before = self.posterior(counts), self.concentration
        terms = betaln(1.0, before) - betaln(a, b) - (a + b - 1.0 - before) * digamma(a + b)
        return float(np.sum(terms + (a - 1.0) * digamma(a) + (b - before) * digamma(b)))


#: by scikit-learn's names
WEIGHT_PRIORS: Mapping[str, type[WeightPrior]] = {
    "dirichlet_process": StickBreaking,
    "dirichlet_distribution": Dirichlet,
}
