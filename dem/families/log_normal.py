"""Log-normal components: positive numbers whose logarithms are Gaussian."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Block, Component, EStepKernel, Kernel, RowBlock
from dem.families.gamma import GammaComponent
from dem.families.gaps import rows_of_patterns
from dem.families.gaussian import GaussianComponent, GaussianParameters, GaussianStatistics, Tied
from dem.families.support import Support
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh
from dem.row_draws import RowDraws

_DOUBLE = np.dtype(np.float64)


@dataclass(frozen=True, eq=False)
class LogNormalComponent(Component[GaussianParameters, GaussianStatistics]):
    """Rows x with log x ~ N(μ, Σ), in the density of x: that of log x over Π x.

    Parameters and statistics are those of the Gaussians, of logarithms, which are taken in double precision.

    Parameters
    ----------
    gaussian : GaussianComponent
        The type of the covariances of the logarithms, and their frame of reference.

    References
    ----------
    Crow, E. L. and Shimizu, K. (1988). Lognormal distributions: theory and applications. Dekker.
    """

    gaussian: GaussianComponent
    name: ClassVar[str] = "log_normal"
    support: ClassVar[Support] = GammaComponent.support

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with origin and scale of the logarithms of a sample."""
        return replace(self, gaussian=self.gaussian.adapted_to(logarithms(sample)))

    def start(self, sample: NDArray[Any], responsibilities: Array) -> GaussianParameters:
        """Return the parameters of Gaussians."""
        return self.gaussian.start(logarithms(sample), responsibilities)

    def kernel(
        self,
        parameters: GaussianParameters,
        dtype: np.dtype[Any],  # noqa: ARG002
        *,
        exact: bool = False,
    ) -> LogNormalKernel:
        """Return the arithmetic of an E-step at `parameters`: double precision for rows of any dtype."""
        return LogNormalKernel(self.gaussian.kernel(parameters, _DOUBLE, exact=exact))

    def marginals(
        self, parameters: GaussianParameters, rows: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.intp], EStepKernel[GaussianStatistics]]]:
        """Yield groups of rows that lack values, as of the Gaussians."""
        for which, kernel in self.gaussian.marginals(parameters, logarithms(rows)):
            yield which, LogNormalKernel(kernel)

    def most_patterns(self, parameters: GaussianParameters) -> float:
        """Return what the Gaussians say."""
        return self.gaussian.most_patterns(parameters)

    def conditional_means(self, parameters: GaussianParameters, rows: Array, k: int) -> Array:
        """Return rows with exp(mean + variance / 2) of the logarithm, given what is observed, for what is missing."""
        logs = self.gaussian.conditional_means(parameters, logarithms(rows), k)
        covariance = self._covariance(parameters, k)
        for missing, which in rows_of_patterns(np.isnan(rows)):
            of_both = covariance[np.ix_(~missing, missing)]
            explained = np.linalg.solve(covariance[np.ix_(~missing, ~missing)], of_both)
            logs[np.ix_(which, missing)] += 0.5 * (np.diag(covariance)[missing] - np.sum(of_both * explained, axis=0))
        return np.where(np.isnan(rows), exponentials(logs), rows)

    def conditional_draws(
        self, parameters: GaussianParameters, rows: Array, labels: NDArray[np.int64], rng: RowDraws
    ) -> Array:
        """Return rows with draws for what is missing."""
        drawn = exponentials(self.gaussian.conditional_draws(parameters, logarithms(rows), labels, rng))
        return np.where(np.isnan(rows), drawn, rows)

    def joins(self, other: Self) -> bool:
        """Tell whether the other has Gaussians that share the products of one kernel."""
        return type(self.gaussian) is type(other.gaussian) and self.gaussian.joins(other.gaussian)

    def add_at(self, total: GaussianStatistics, which: NDArray[np.intp], part: GaussianStatistics) -> None:
        """Add, in place, the statistics of some of the components to those of all."""
        self.gaussian.add_at(total, which, part)

    def m_step(self, statistics: Any, counts: Array, parameters: GaussianParameters) -> GaussianParameters:
        """Return the maximising parameters."""
        return self.gaussian.m_step(statistics, counts, parameters)

    def rebased(self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters) -> Any:
        """Return the moments behind the statistics of an E-step."""
        return self.gaussian.rebased(statistics, counts, parameters)

    def implied(self, parameters: GaussianParameters, counts: Array, n_rows: float = np.inf) -> Any:
        """Return the moments behind parameters."""
        return self.gaussian.implied(parameters, counts, n_rows)

    def expected_log_density(self, statistics: Any, counts: Array, parameters: GaussianParameters) -> float:
        """Return that of the logarithms: no parameter changes Σγ log x."""
        return self.gaussian.expected_log_density(statistics, counts, parameters)

    def monotonicity_slack(
        self,
        parameters: GaussianParameters,
        weights: Array,
        dtype: np.dtype[Any],  # noqa: ARG002
    ) -> float:
        """Return what the ridge can cost."""
        return self.gaussian.monotonicity_slack(parameters, weights, _DOUBLE)

    def sample(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label."""
        return exponentials(self.gaussian.sample(parameters, labels, rng))

    def n_parameters(self, parameters: GaussianParameters) -> int:
        """Return the number of free parameters of means and covariances."""
        return self.gaussian.n_parameters(parameters)

    def to_user(self, parameters: GaussianParameters) -> dict[str, NDArray[Any]]:
        """Return means, covariances and factors of the logarithms."""
        return self.gaussian.to_user(parameters)

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> GaussianParameters:
        """Return parameters from what `to_user` gave."""
        return self.gaussian.from_user(values)

    def unconstrain(self, parameters: GaussianParameters) -> Vector:
        """Return the vector of the Gaussians."""
        return self.gaussian.unconstrain(parameters)

    def constrain(self, vector: Vector, parameters: GaussianParameters) -> GaussianParameters:
        """Return parameters from what `unconstrain` gave."""
        return self.gaussian.constrain(vector, parameters)

    def collapsed(self, parameters: GaussianParameters) -> NDArray[np.bool_]:
        """Tell which covariances are the ridge in some direction."""
        return self.gaussian.collapsed(parameters)

    def coordinates(self, parameters: GaussianParameters) -> Array:
        """Return those of the Gaussians."""
        return self.gaussian.coordinates(parameters)

    def divergence(self, parameters: GaussianParameters, pairs: NDArray[np.intp], enough: float) -> Array:
        """Return that of the Gaussians, which no change of coordinates alters."""
        return self.gaussian.divergence(parameters, pairs, enough)

    def reseeded(
        self, parameters: GaussianParameters, which: NDArray[np.intp], rows: Array, weights: Array
    ) -> GaussianParameters:
        """Return parameters where some components begin anew at rows."""
        return self.gaussian.reseeded(parameters, which, logarithms(rows), weights)

    def _covariance(self, parameters: GaussianParameters, k: int) -> Array:
        """Return the covariance of the logarithms in a component, shape (n_features, n_features)."""
        covariances = self.gaussian.to_user(parameters)["covariances"]
        if isinstance(self.gaussian, Tied):
            return covariances
        own = covariances[k]
        return np.asarray(own if np.ndim(own) == 2 else own * np.eye(parameters.means.shape[1]))


class LogNormalKernel(Kernel[GaussianStatistics]):
    """A kernel of Gaussians that is given logarithms."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        return int(self.kernel.block_rows)

    @property
    def trusted_above(self) -> float:
        """That of the Gaussians."""
        return float(self.kernel.trusted_above)

    def clear(self) -> None:
        """Start the sums anew."""
        self.kernel = fresh(self.kernel)

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components."""
        return type(self)(self.kernel.take(which))

    def block(self, chunk: RowBlock) -> LogNormalBlock:
        """Return the logarithms as the Gaussians need them."""
        return LogNormalBlock(self.kernel, chunk)

    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated."""
        found: GaussianStatistics = self.kernel.statistics()
        return found


class LogNormalBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: Any, chunk: Any) -> None:
        logs = logarithms(chunk.rows)
        # NaN makes the loop look for rows outside the support and name them.
        self._sums = np.where((chunk.rows <= 0.0).any(axis=1), np.nan, np.nansum(logs, axis=1))
        self._block: Block = kernel.block(replace(chunk, rows=logs))

    def log_density(self) -> NDArray[Any]:
        """Return log p(row | component), shape (n_components, n)."""
        density = self._block.log_density()
        density -= self._sums
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._block.forget(which)

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add the statistics of the rows."""
        self._block.accumulate(responsibilities)


def logarithms(rows: NDArray[Any]) -> Array:
    """Return log x, of missing values NaN, and of values outside the support infinity: they are not missing."""
    values = np.asarray(rows, dtype=np.float64)
    outside = values <= 0.0
    return np.where(outside, np.inf, np.log(np.where(outside, 1.0, values)))


def exponentials(logs: Array) -> Array:
    """Return exp of numbers, within the support."""
    limits = np.finfo(np.float64)
    return np.asarray(np.exp(np.clip(logs, np.log(limits.tiny), np.log(limits.max) - 1e-12)))
