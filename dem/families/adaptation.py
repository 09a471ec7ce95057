"""Adaptation of a mixture to new rows: its own parameters count for some rows of each component.

References
----------
Reynolds, D. A., Quatieri, T. F. and Dunn, R. B. (2000). Speaker verification using adapted Gaussian mixture models.
Digital Signal Processing 10.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, RowBlock
from dem.families.gaussian.covariance import GaussianStatistics
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters, MixtureStatistics
from dem.statistics import Additive


@dataclass(frozen=True, eq=False)
class First(Additive):
    """Σγy of Gaussians, shape (n_components, n_features), of whose second moments nothing is kept."""

    first: Array


@dataclass(frozen=True, eq=False)
class ByGroup(Additive):
    """The statistics of several groups of rows, by the number of each."""

    groups: dict[int, MixtureStatistics[Any]]

    def __add__(self, other: Self) -> Self:
        joined = dict(self.groups)
        for key, own in other.groups.items():
            joined[key] = joined[key] + own if key in joined else own
        return type(self)(joined)


@dataclass(frozen=True, eq=False)
class Groups:
    """Work: the statistics of each group of rows of a chunk. All come from E-steps at the same parameters, and so add.

    Parameters
    ----------
    mixture : Mixture
    parameters : MixtureParameters
        Of all groups the same.
    means_only : bool
        Whether to keep nothing of the second moments of Gaussians.
    """

    mixture: Mixture[Any, Any]
    parameters: MixtureParameters[Any]
    means_only: bool = False

    def __call__(self, chunk: Any) -> ByGroup:
        """Return the statistics; of rows without groups those of group 0."""
        if chunk.groups is None:
            return ByGroup({0: self._of(chunk)})
        order = np.argsort(chunk.groups, kind="stable")
        chunk, groups = chunk.take(order), chunk.groups[order]
        edges = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist(), len(groups)]
        parts = (slice(start, stop) for start, stop in itertools.pairwise(edges) if stop > start)
        return ByGroup({int(groups[part.start]): self._of(chunk.take(part)) for part in parts})

    def _of(self, chunk: RowBlock) -> MixtureStatistics[Any]:
        found = self.mixture.e_step(self.parameters, chunk)
        if self.means_only and isinstance(found.components, GaussianStatistics):
            return replace(found, components=First(found.components.first))
        return found


def adapted(
    mixture: Mixture[Any, Any],
    parameters: MixtureParameters[Any],
    statistics: MixtureStatistics[Any],
    relevance: float,
) -> dict[str, NDArray[Any]]:
    """Return adapted parameters by their users' names: all that the statistics tell of.

    With α = n/(n + relevance) the weights are α n/N + (1 − α) w, scaled to sum to 1. Components are those of the
    M-step, where the mixture's own parameters stand for `relevance` rows of each: means are α x̄ + (1 − α) μ.
    """
    counts, component = statistics.counts, mixture.component.without_prior()
    shares = counts / np.where(counts > 0.0, counts + relevance, 1.0)
    weights = shares * counts / max(statistics.n_rows, np.finfo(np.float64).tiny) + (1.0 - shares) * parameters.weights
    weights /= weights.sum()
    found, like = statistics.components, parameters.components
    if isinstance(found, First):  # on which alone the means depend
        # Of one variance for all features too, there are second moments of each.
        second = np.zeros_like(like.means if like.covariances.ndim == 1 else like.covariances)
        own = component.rebased(GaussianStatistics(found.first, second), counts, like)
        share = shares[: len(like.means), np.newaxis]
        components = replace(like, means=like.means + share * (own.means - like.means))
    else:
        size = len(counts)
        prior = (size * relevance) * component.implied(like, np.full(size, 1.0 / size))
        moments = component.rebased(found, counts, like)
        components = component.m_step(moments + prior, counts + relevance, like)
    return mixture.to_user(replace(parameters, weights=weights, components=components, candidates=None))
