"""Factor analysers as components of a mixture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.errors import FitError
from dem.families.base import NEGLIGIBLE, SMALLEST_SCALE, Array, Component, Support, has_gaps
from dem.families.expectation import blocks
from dem.families.factor_analyzer.kernel import FactorKernel, FactorStatistics
from dem.families.factor_analyzer.masked import MaskedFactorKernel
from dem.families.factor_analyzer.moments import FactorMoments, outer, solved, squares
from dem.families.factor_analyzer.parameters import FactorParameters, canonical, divergence, pooled, smooth, times
from dem.families.factor_analyzer.start import start
from dem.families.gaussian.component import FLOOR
from dem.families.gaussian.covariance import PIVOT_ROUNDING, ill_defined, occupied
from dem.families.gaussian.frame import Floored, Frame, same_frame
from dem.families.truncation import Draws
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh, kept_with
from dem.row_draws import RowDraws
from dem.tree import tree_map


@dataclass(frozen=True, eq=False)
class FactorAnalyzerComponent(Floored, Component[FactorParameters, FactorStatistics]):
    """Gaussian components with covariance ΛΛᵀ + Ψ: x = μ + Λz + e with n_factors factors z and independent noise e.

    EM takes the factors as missing, too. As in PX-EM the model is expanded: z ~ N(ν, RRᵀ), which adds nothing to the
    densities but makes the M-step a regression of x on z whose mean is that of the rows, and takes fewer iterations. ν
    and R stay among the parameters: then it is EM, whose free energy never falls, for statistics of E-steps at
    different parameters too. An M-step from eigenvectors would need d × d statistics; these are d × q.

    Parameters
    ----------
    n_factors : int
        q, the columns of Λ.
    spherical, tied : bool
        Whether the noise has one variance for all features, and whether all components have the same.
    reg_covar : float
        Least variance of the noise, in squared `units`.
    frame : Frame, optional
        Origin and scale in which all arithmetic runs; from `adapted_to`.
    units : ndarray of shape (n_features,), optional
        Of the features, in the user's units: what has one number for all features is in these. 1 when left out.

    References
    ----------
    Ghahramani, Z. and Hinton, G. E. (1996). The EM algorithm for mixtures of factor analyzers. Technical report
    CRG-TR-96-1, University of Toronto. Tipping, M. E. and Bishop, C. M. (1999). Mixtures of probabilistic principal
    component analyzers. Neural Computation 11. McLachlan, G. J. and Peel, D. (2000). Finite Mixture Models, chapter 8.
    Liu, C., Rubin, D. B. and Wu, Y. N. (1998). Parameter expansion to accelerate EM: the PX-EM algorithm. Biometrika
    85.
    """

    n_factors: int
    spherical: bool = False
    tied: bool = False
    reg_covar: float = 1e-6
    frame: Frame | None = None
    units: Array | None = None
    name: ClassVar[str] = "factor_analyzer"
    support: ClassVar[Support] = Support()

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with origin and scale of a sample (n, n_features)."""
        return replace(self, frame=Frame.of(sample, isotropic=self.spherical, units=self.units))

    def around(self, means: Array, loadings: Array, noise: Array) -> Self:
        """Return this component with a frame that suits given parameters, as `to_user` gives them."""
        total = np.sum(loadings**2, axis=2) + self.noise_by_feature(noise, means.shape) + means.var(axis=0)
        frame = Frame.about(means.mean(axis=0), total.mean(axis=0), isotropic=self.spherical, units=self.units)
        return replace(self, frame=frame)

    def start(self, sample: NDArray[Any], responsibilities: Array) -> FactorParameters:
        """Return the principal axes of the rows of each component, and as noise what they leave."""
        rows = self._frame(sample.shape[1]).apply(sample).T
        found = start(rows, responsibilities, self.n_factors, spherical=self.spherical)
        return replace(found, noise=self._shaped(found.noise, responsibilities.sum(axis=0), found.variances))

    def kernel(
        self,
        parameters: FactorParameters,
        dtype: np.dtype[Any],  # noqa: ARG002
        *,
        exact: bool = False,  # noqa: ARG002
    ) -> FactorKernel:
        """Return the arithmetic of an E-step at `parameters`, in double precision."""
        frame = self._frame(parameters.means.shape[1])
        return fresh(kept_with(parameters, self, lambda: FactorKernel(parameters, frame)))

    def marginals(
        self, parameters: FactorParameters, rows: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.intp], MaskedFactorKernel]]:
        """Yield all rows: whatever they lack, one kernel serves them."""
        yield np.arange(len(rows)), self._masked(parameters)

    def conditional_means(self, parameters: FactorParameters, rows: Array, k: int) -> Array:
        """Return rows with what is missing replaced by its mean given the factors that the rest tells."""
        return self._completed(parameters, rows, k)

    def conditional_draws(
        self, parameters: FactorParameters, rows: Array, labels: NDArray[np.int64], rng: RowDraws
    ) -> Array:
        """Return rows with what is missing drawn from the component of each, given the rest."""
        drawn = np.empty(rows.shape)
        for k in np.unique(labels):
            (own,) = np.nonzero(labels == k)
            drawn[own] = self._completed(parameters, rows[own], int(k), rng.take(own))
        return drawn

    def joins(self, other: Self) -> bool:
        """Tell whether the other has as many factors and the same frame."""
        return same_frame(self.frame, other.frame) and self.n_factors == other.n_factors

    def m_step(
        self, statistics: FactorStatistics | FactorMoments, counts: Array, parameters: FactorParameters
    ) -> FactorParameters:
        """Return the maximising parameters, none of whose noise is below the floor."""
        if isinstance(statistics, FactorStatistics):
            statistics = self.rebased(statistics, counts, parameters)
        there = occupied(counts)
        n = np.where(there, counts, 1.0)[:, np.newaxis]
        explained = np.where(there[:, np.newaxis], squares(statistics.slopes, statistics.spread) / n, 0.0)
        noise = self._shaped(statistics.residuals / n, np.where(there, counts, 0.0), explained)
        spread = np.where(
            there[:, np.newaxis, np.newaxis], statistics.spread / n[:, np.newaxis], np.eye(self.n_factors)
        )
        try:
            roots = np.linalg.cholesky(spread)
        except np.linalg.LinAlgError as error:
            raise FitError(ill_defined("that of the factors of a component")) from error
        new = FactorParameters(statistics.means, statistics.slopes, noise, statistics.factor_means, roots)
        if there.all():
            return new
        before = replace(parameters, noise=noise) if self.tied else parameters

        def kept(after: Array, old: Array) -> Array:
            return np.where(there.reshape(-1, *(after.ndim - 1) * (1,)), after, old)

        result: FactorParameters = tree_map(kept, new, before)
        return result

    def rebased(self, statistics: FactorStatistics, counts: Array, parameters: FactorParameters) -> FactorMoments:
        """Return the regression of the rows on their factors z behind the statistics of an E-step."""
        counts = np.where(counts > NEGLIGIBLE, counts, 0.0)
        n = np.where(counts > 0.0, counts, 1.0)[:, np.newaxis]
        factors, offset = statistics.factors / n, statistics.residuals / n
        weights = counts[:, np.newaxis]
        spread = statistics.squared_factors - outer(weights * factors, factors)
        cross = statistics.cross - outer(weights * offset, factors)
        turn = solved(cross, spread)
        residuals = statistics.squared_residuals - weights * offset**2 - np.vecdot(turn, cross)
        deviations, roots = np.sqrt(parameters.noise), parameters.factor_roots
        # x = μ + Ψ^½t + ΛRu, of which the part turn·u of t goes to the slopes.
        change = deviations[:, :, np.newaxis] * (turn @ np.linalg.inv(roots))
        spread = np.where(counts[:, np.newaxis, np.newaxis] > 0.0, roots @ spread @ roots.swapaxes(1, 2), 0.0)
        return FactorMoments(
            counts,
            parameters.means + deviations * offset + times(parameters.unit_loadings, factors),
            parameters.factor_means + times(roots, factors),
            0.5 * (spread + spread.swapaxes(1, 2)),
            parameters.loadings + change,
            np.where(weights > 0.0, parameters.noise * np.maximum(residuals, 0.0), 0.0),
        )

    def implied(
        self,
        parameters: FactorParameters,
        counts: Array,
        n_rows: float = math.inf,  # noqa: ARG002
    ) -> FactorMoments:
        """Return the regression behind parameters."""
        roots, n = parameters.factor_roots, counts[:, np.newaxis]
        return FactorMoments(
            counts,
            parameters.means,
            parameters.factor_means,
            n[:, np.newaxis] * (roots @ roots.swapaxes(1, 2)),
            parameters.loadings,
            n * parameters.noise,
        )

    def expected_log_density(self, statistics: FactorMoments, counts: Array, parameters: FactorParameters) -> float:
        """Return Σγ E[log p(row, z | component)] without Σγ (d + q)/2 log 2π, which no parameter changes."""
        noise, roots, n = parameters.noise, parameters.factor_roots, counts[:, np.newaxis]
        step = statistics.factor_means - parameters.factor_means
        away = statistics.means - parameters.means - times(parameters.loadings, step)
        turn = statistics.slopes - parameters.loadings
        of_rows = statistics.residuals + squares(turn, statistics.spread) + n * away**2
        inverse = np.asarray(np.linalg.inv(roots), dtype=np.float64)
        of_factors = squares(inverse, statistics.spread) + n * times(inverse, step) ** 2
        logs = 0.5 * np.log(noise).sum(axis=1) + np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
        return float(-counts @ logs - 0.5 * np.sum(of_rows / noise) - 0.5 * of_factors.sum())

    def monotonicity_slack(
        self,
        parameters: FactorParameters,  # noqa: ARG002
        weights: Array,  # noqa: ARG002
        dtype: np.dtype[Any],  # noqa: ARG002
    ) -> float:
        """Return 0: the M-step maximises among the noises above the floor."""
        return 0.0

    def sample(self, parameters: FactorParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label; shape (n, n_features)."""
        d = parameters.means.shape[1]
        factors, rows = rng.standard_normal((len(labels), self.n_factors)), rng.standard_normal((len(labels), d))
        loadings, frame = parameters.unit_loadings, self._frame(d)
        for k in np.unique(labels):
            own = labels == k
            rows[own] *= np.sqrt(parameters.noise[k])
            rows[own] += parameters.means[k] + factors[own] @ loadings[k].T
        return rows * frame.scale + frame.origin

    def factors(self, parameters: FactorParameters, rows: NDArray[Any], k: int) -> Array:
        """Return E[u | row, component k] of rows, (n, n_factors), for independent unit factors u."""
        found = np.empty((len(rows), self.n_factors))
        kernel = self._masked(parameters) if has_gaps(rows) else self.kernel(parameters, rows.dtype)
        kernel = kernel.take(np.array([k]))
        for where, part in blocks(Draws(rows), kernel.block_rows):
            found[where] = kernel.block(part).factors()[0].T
        return found

    def n_parameters(self, parameters: FactorParameters) -> int:
        """Return the number of free parameters: rotations of the factors change nothing."""
        (n_components, d), q = parameters.means.shape, self.n_factors
        noise = (1 if self.spherical else d) * (1 if self.tied else n_components)
        return int(n_components * (d + d * q - q * (q - 1) // 2) + noise)

    def to_user(self, parameters: FactorParameters) -> dict[str, NDArray[Any]]:
        """Return ``means``, ``loadings`` in their canonical rotation, and ``noise_variances``, in the user's units."""
        frame = self._frame(parameters.means.shape[1])
        noise = parameters.noise * self._scale(frame) ** 2
        noise = noise[:1] if self.tied else noise
        if self.spherical:
            noise = noise[:, 0]
        elif self.tied:
            noise = noise[0]
        return {
            "means": parameters.means * frame.scale + frame.origin,
            "loadings": canonical(parameters, frame.scale),
            "noise_variances": noise.copy(),
        }

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> FactorParameters:
        """Return parameters from what `to_user` gave."""
        means, loadings = (np.asarray(values[name], dtype=np.float64) for name in ("means", "loadings"))
        frame = self._frame(means.shape[1])
        noise = self.noise_by_feature(values["noise_variances"], means.shape) / frame.scale**2
        return FactorParameters.plain(
            (means - frame.origin) / frame.scale, loadings / frame.scale[:, np.newaxis], noise
        )

    def unconstrain(self, parameters: FactorParameters) -> Vector:
        """Return means, loadings and log noise."""
        logs = np.log(parameters.noise)
        logs = logs[:, :1] if self.spherical else logs
        own = [parameters.means, smooth(parameters).reshape(len(logs), -1)]
        return Vector(np.hstack(own), logs[0]) if self.tied else Vector(np.hstack([*own, logs]), np.empty(0))

    def constrain(self, vector: Vector, parameters: FactorParameters) -> FactorParameters:
        """Return parameters from what `unconstrain` gave."""
        (n_components, d), q = parameters.means.shape, self.n_factors
        means, loadings, logs = np.split(vector.own, [d, d + d * q], axis=1)
        noise = np.broadcast_to(np.exp(vector.shared if self.tied else logs), (n_components, d))
        return FactorParameters.plain(
            means.copy(), loadings.reshape(n_components, d, q).copy(), np.maximum(noise, self._ridge(d))
        )

    def collapsed(self, parameters: FactorParameters) -> NDArray[np.bool_]:
        """Tell which components have noise at its floor in some feature (Heywood cases)."""
        return np.asarray(np.any(parameters.noise * FLOOR <= self._ridge(parameters.means.shape[1]), axis=1))

    def coordinates(self, parameters: FactorParameters) -> Array:
        """Return means and logarithms of standard deviations."""
        return np.hstack([parameters.means, 0.5 * np.log(parameters.variances)])

    def divergence(self, parameters: FactorParameters, pairs: NDArray[np.intp], enough: float) -> Array:  # noqa: ARG002
        """Return ½ tr(ΣP′ + Σ′P) − d + ½ (μ − μ′)ᵀ(P + P′)(μ − μ′)."""
        return divergence(parameters, pairs)

    def reseeded(
        self, parameters: FactorParameters, which: NDArray[np.intp], rows: Array, weights: Array
    ) -> FactorParameters:
        """Return parameters where some components begin at rows with the covariance of the others, pooled."""
        loadings, noise = pooled(parameters, weights)
        means = self._frame(rows.shape[1]).apply(rows).T
        seeds = FactorParameters.plain(
            means, np.broadcast_to(loadings, (len(which), *loadings.shape)), np.broadcast_to(noise, means.shape)
        )
        seeds = replace(seeds, noise=self._shaped(seeds.noise, np.ones(len(which)), seeds.variances))
        if self.tied:
            seeds = replace(seeds, noise=parameters.noise[which])

        def changed(whole: Array, part: Array) -> Array:
            whole = whole.copy()
            whole[which] = part
            return whole

        result: FactorParameters = tree_map(changed, parameters, seeds)
        return result

    def _masked(self, parameters: FactorParameters) -> MaskedFactorKernel:
        """Return the arithmetic for rows with missing values."""
        frame = self._frame(parameters.means.shape[1])
        return fresh(kept_with(parameters, (self, "gaps"), lambda: MaskedFactorKernel(parameters, frame)))

    def _completed(self, parameters: FactorParameters, rows: Array, k: int, rng: RowDraws | None = None) -> Array:
        """Return rows with what is missing replaced by its mean in component k given the rest, or drawn if `rng`."""
        frame, found = self._frame(rows.shape[1]), np.empty(rows.shape)
        kernel = self._masked(parameters).take(np.array([k]))
        loadings = parameters.unit_loadings[k]
        for where, part in blocks(Draws(rows), kernel.block_rows):
            block = kernel.block(part)
            factors, noise = block.factors()[0].T, np.zeros(())
            if rng is not None:
                draws = rng.take(where)
                unit = draws.standard_normal(factors.shape)
                factors = factors + np.matmul(block.factor_roots()[0], unit[:, :, np.newaxis])[:, :, 0]
                noise = np.sqrt(parameters.noise[k]) * draws.standard_normal(part.rows.shape)
            found[where] = (parameters.means[k] + factors @ loadings.T + noise) * frame.scale + frame.origin
        return np.where(np.isnan(rows), found, rows)

    def _shaped(self, noise: Array, counts: Array, explained: Array) -> Array:
        """Return noise variances (n_components, n_features) as the options have them, with their floor.

        Raises
        ------
        FitError
            If one is 0, or so small beside the variance that the factors explain that it is rounding.
        """
        shape, ridge = noise.shape, self._ridge(noise.shape[1])
        if self.spherical:
            noise = noise.mean(axis=1, keepdims=True)
        if self.tied:
            noise = (counts @ noise / counts.sum())[np.newaxis]
        noise = np.maximum(np.broadcast_to(noise, shape), ridge)
        for k, (row, beside) in enumerate(zip(noise, explained, strict=True)):
            if not np.all(row > np.maximum(PIVOT_ROUNDING * beside, SMALLEST_SCALE**2)):
                raise FitError(ill_defined(f"component {k}"))
        return noise

    def noise_by_feature(self, noise: NDArray[Any], shape: tuple[int, int]) -> Array:
        """Return the variance of the noise in each feature, in the user's units, (n_components, n_features)."""
        noise = np.asarray(noise, dtype=np.float64)
        if self.spherical:
            noise = noise[:, np.newaxis] * (1.0 if self.units is None else self.units**2)
        return np.broadcast_to(noise, shape)

    def _scale(self, frame: Frame) -> Array:
        """Return the scale of the noise that users see: where it has one variance for all features, in `units`."""
        return frame.scale if self.units is None or not self.spherical else frame.scale / self.units
