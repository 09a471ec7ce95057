"""What Gaussian components have in common, whatever their type of covariance."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Component, EStepKernel, Kernel, RowBlock, Support
from dem.families.gaps import rows_of_patterns
from dem.families.gaussian.arithmetic import SINGLE_TOLERANCE
from dem.families.gaussian.covariance import LOG_2PI, GaussianParameters, GaussianStatistics, slices, weighted_means
from dem.families.gaussian.deconvolution import DeconvolutionKernel
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.kernel import GaussianKernel
from dem.families.gaussian.marginal import MarginalKernel, Marginals, most_kept
from dem.families.workspace import fresh, kept_with
from dem.row_draws import RowDraws
from dem.statistics import CentralMoments


def knows_more(chunk: RowBlock) -> bool:
    """Tell whether rows have errors or limits."""
    return chunk.noise is not None or (chunk.limits is not None and not bool(np.isnan(chunk.limits).all()))


def _errors(noise: NDArray[Any] | None, shape: tuple[int, ...], rng: RowDraws) -> Array:
    """Draw errors of rows, by their variances or covariances."""
    if noise is None:
        return np.zeros(shape)
    if noise.ndim == 2:
        return np.asarray(np.sqrt(noise) * rng.normal(size=shape))
    values, vectors = np.linalg.eigh(noise)
    return np.asarray(np.einsum("nij,nj->ni", vectors, np.sqrt(np.maximum(values, 0.0)) * rng.normal(size=shape)))


@dataclass(frozen=True, eq=False)
class GaussianComponent(Component[GaussianParameters, GaussianStatistics]):
    """Multivariate normal components; each subclass is a type of covariance.

    All arrays are in the frame of the fit. The statistics of the kernels lie in frames that depend on the parameters of
    the E-step; `rebased` brings them to counts, means and scatter about the means in the frame of the fit, which add
    across E-steps. (Raw moments about its origin would cancel for tight components.)

    Parameters
    ----------
    reg_covar : float
        Added to the variances in every M-step, in squared `units`.
    frame : Frame, optional
        Origin and scale in which all arithmetic runs; from `adapted_to`.
    dtype : {'float32', 'float64'}, optional
        Precision of the arithmetic; that of the data when left out. Sums are double in any case.
    units : ndarray of shape (n_features,), optional
        Of the features, in the user's units: what has one number for all features is in these. 1 when left out.
    """

    reg_covar: float = 1e-6
    frame: Frame | None = None
    dtype: str | None = None
    units: Array | None = None
    name: ClassVar[str] = "gaussian"
    support: ClassVar[Support] = Support()
    #: whether rows may only be scaled by one number for all features
    isotropic: ClassVar[bool] = False
    #: makes a kernel of parameters, frame, the log-densities at the means, and whether single precision is wanted
    kernel_type: ClassVar[Callable[..., GaussianKernel]]

    # What a type of covariance provides beside the methods of a component ---------------------------------------

    @abstractmethod
    def squares(self, moments: CentralMoments, parameters: GaussianParameters) -> Array:
        """Return Σγ (x − μ)ᵀ P (x − μ), shape (n_components,), or in all (a number) where the scatter is shared."""

    @abstractmethod
    def log_determinants(self, parameters: GaussianParameters) -> Array:
        """Return log|U|, shape (n_components,)."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return the precisions from their Cholesky factors."""

    @abstractmethod
    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return covariances and Cholesky factors of the precisions."""

    @abstractmethod
    def variances(self, covariances: Array, n_features: int) -> Array:
        """Return the variance of each feature in each component, shape (n_components, n_features) or (1, …)."""

    @abstractmethod
    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Multiply covariances (power 2) or precision factors (power −1) by powers of the features' scale."""

    @abstractmethod
    def relative_ridge(self, parameters: GaussianParameters) -> Array:
        """Return the eigenvalues of ridge · precision, shape (…, n_features)."""

    @abstractmethod
    def sample_in_frame(
        self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator
    ) -> Array:
        """Draw a row in the frame for each label."""

    # What all have in common ------------------------------------------------------------------------------------

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with origin and scale of a sample (n, n_features)."""
        return replace(self, frame=Frame.of(sample, isotropic=self.isotropic, units=self.units))

    def around(self, means: Array, covariances: Array) -> Self:
        """Return this component with a frame that suits given parameters (in the user's units)."""
        within = self.variances(covariances, means.shape[1]).mean(axis=0)
        total = within + means.var(axis=0)
        return replace(self, frame=Frame.about(means.mean(axis=0), total, isotropic=self.isotropic, units=self.units))

    def kernel(self, parameters: GaussianParameters, dtype: np.dtype[Any], *, exact: bool = False) -> GaussianKernel:
        """Return the arithmetic of an E-step at `parameters` for rows of `dtype`; in double precision if `exact`."""
        frame, single = self._frame(parameters.means.shape[1]), self._single(dtype) and not exact
        return fresh(
            kept_with(
                parameters,
                (self, single),
                lambda: self.kernel_type(parameters, frame, self.log_constants(parameters), single=single),
            )
        )

    def expected(self, parameters: GaussianParameters, chunk: RowBlock, k: int, rng: RowDraws | None = None) -> Array:
        """Return the means of what is missing or has limits; with `rng` what has limits is drawn first."""
        if not knows_more(chunk):
            return super().expected(parameters, chunk, k)
        kernel: Any = self.kernel_for(parameters, chunk).take(np.array([k]))
        means = []
        for start in range(0, len(chunk.rows), kernel.block_rows):
            which = slice(start, start + kernel.block_rows)
            kernel = fresh(kernel, rng=None if rng is None else rng.take(which))
            means.append(kernel.block(chunk.take(which)).means()[0])
        return np.concatenate(means)

    def drawn(self, parameters: GaussianParameters, chunk: RowBlock, labels: NDArray[np.int64], rng: RowDraws) -> Array:
        """Return draws of what is missing or has limits."""
        if not knows_more(chunk):
            return super().drawn(parameters, chunk, labels, rng)
        rows = np.empty(chunk.rows.shape)
        for k in np.unique(labels):
            own = np.flatnonzero(labels == k)
            part, own_draws = chunk.take(own), rng.take(own)
            rows[own] = (
                self._drawn_of(parameters, part, int(k), own_draws)
                if knows_more(part)
                else super().drawn(parameters, part, labels[own], own_draws)
            )
        return rows

    def _drawn_of(self, parameters: GaussianParameters, chunk: RowBlock, k: int, rng: RowDraws) -> Array:
        """Return draws in one component; where its features are independent, each by itself."""
        return self.expected(parameters, chunk, k, rng)

    def joins(self, other: Self) -> bool:
        """Tell whether the other, of the same type, has the same frame and precision."""
        mine, theirs = self.frame, other.frame
        same_frame = mine is theirs or (
            mine is not None
            and theirs is not None
            and np.array_equal(mine.origin, theirs.origin)
            and np.array_equal(mine.scale, theirs.scale)
        )
        return same_frame and self.dtype == other.dtype

    def log_constants(self, parameters: GaussianParameters) -> Array:
        """Return the log-densities at the means, in the user's units, shape (n_components,)."""
        n_features = parameters.means.shape[1]
        # Densities of rows in the frame are larger by the product of its scales.
        log_volume = np.log(self._frame(n_features).scale).sum()
        return np.asarray(self.log_determinants(parameters) - 0.5 * n_features * LOG_2PI - log_volume)

    def expected_log_density(self, statistics: CentralMoments, counts: Array, parameters: GaussianParameters) -> float:
        """Return Σγ log p(row | component) over rows and components."""
        return float(counts @ self.log_constants(parameters) - 0.5 * np.sum(self.squares(statistics, parameters)))

    def monotonicity_slack(self, parameters: GaussianParameters, weights: Array, dtype: np.dtype[Any]) -> float:
        """Return the most that `reg_covar` (½ Σ (−log(1 − λ) − λ)) and single precision can cost per row.

        λ are the eigenvalues of ridge·precision, between 0 and 1. The M-step maximises Q at Σ; at Σ + ridge it is
        smaller by exactly this, so that the log-likelihood cannot fall by more.
        """
        bounded = np.clip(self.relative_ridge(parameters), 0.0, 1.0)
        with np.errstate(divide="ignore"):
            losses = 0.5 * np.sum(-np.log1p(-bounded) - bounded, axis=-1)
        return float(np.sum(weights * losses)) + (SINGLE_TOLERANCE if self._single(dtype) else 0.0)

    def sample(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label; shape (n, n_features)."""
        frame = self._frame(parameters.means.shape[1])
        return self.sample_in_frame(parameters, labels, rng) * frame.scale + frame.origin

    def n_parameters(self, parameters: GaussianParameters) -> int:
        """Return the number of free parameters of means and covariances."""
        vector = self.unconstrain(parameters)
        return vector.own.size + vector.shared.size

    def to_user(self, parameters: GaussianParameters) -> dict[str, NDArray[Any]]:
        """Return ``means``, ``covariances`` and ``precisions_cholesky`` in the user's units."""
        frame = self._frame(parameters.means.shape[1])
        return {
            "means": parameters.means * frame.scale + frame.origin,
            "covariances": self.rescale(parameters.covariances, self._scale(frame), 2),
            "precisions_cholesky": self.rescale(parameters.precisions_cholesky, self._scale(frame), -1),
        }

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> GaussianParameters:
        """Return parameters from what `to_user` gave."""
        means = np.asarray(values["means"], dtype=np.float64)
        frame = self._frame(means.shape[1])
        covariances = np.asarray(values["covariances"], dtype=np.float64)
        factors = np.asarray(values["precisions_cholesky"], dtype=np.float64)
        return GaussianParameters(
            (means - frame.origin) / frame.scale,
            self.rescale(covariances, 1.0 / self._scale(frame), 2),
            self.rescale(factors, 1.0 / self._scale(frame), -1),
        )

    def _single(self, dtype: np.dtype[Any]) -> bool:
        """Tell whether rows of `dtype` are computed in single precision, accuracy permitting."""
        if self.dtype is None:
            return dtype.kind == "f" and dtype.itemsize <= 4
        return self.dtype == "float32"

    def _frame(self, n_features: int) -> Frame:
        return self.frame if self.frame is not None else Frame.identity(n_features)

    def _scale(self, frame: Frame) -> Array:
        """Return the scale of what users see of covariances: where it is one for all features, in `units`."""
        return frame.scale if self.units is None or not self.isotropic else frame.scale / self.units

    def _ridge(self, n_features: int) -> Array:
        """Return `reg_covar` in squared units of the frame, shape (n_features,)."""
        ridge = self.reg_covar / self._frame(n_features).scale ** 2
        return ridge if self.units is None else ridge * self.units**2


class OwnCovariance(GaussianComponent):
    """What covariances that each component has for itself have in common."""

    def start(self, sample: NDArray[Any], responsibilities: Array) -> GaussianParameters:
        """Return parameters from a sample and its responsibilities, as scikit-learn does."""
        rows = self._frame(sample.shape[1]).apply(sample).T
        counts, means = weighted_means(rows, responsibilities)
        scatter: Array = np.zeros(())
        for where in slices(len(rows)):
            own = zip(means, responsibilities[where].T, strict=True)
            scatter = scatter + np.array([self.scatter(rows[where] - mean, weights) for mean, weights in own])
        return self.of_scatter(means, (scatter.T / counts).T)

    @abstractmethod
    def scatter(self, centred: Array, weights: Array) -> Array:
        """Return Σ weight · (x − mean)², as moments of one component keep it, from rows (n, d) about their mean."""

    @abstractmethod
    def of_scatter(self, means: Array, scatter: Array) -> GaussianParameters:
        """Return the parameters with these means, and the scatter of one row."""


class MatrixCovariance(GaussianComponent):
    """What covariances that are matrices, (n_components, d, d) or (d, d), have in common."""

    knows = frozenset({"noise", "limits"})
    most_limits = 1.0

    def kernel_for(
        self, parameters: GaussianParameters, chunk: RowBlock, *, exact: bool = False
    ) -> Kernel[GaussianStatistics]:
        """Return the arithmetic for a chunk: that of extreme deconvolution where rows have errors or limits."""
        if not knows_more(chunk):
            return super().kernel_for(parameters, chunk, exact=exact)
        frame = self._frame(parameters.means.shape[1])
        return DeconvolutionKernel(parameters, frame, partial(self.from_own_frames, parameters))

    @abstractmethod
    def from_own_frames(
        self, parameters: GaussianParameters, first: Array, second: Array, counts: Array
    ) -> GaussianStatistics:
        """Return the statistics of an E-step from Σγy, Σγyyᵀ of each component in its own frame, and Σγ."""

    def marginals(
        self, parameters: GaussianParameters, rows: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.intp], EStepKernel[GaussianStatistics]]]:
        """Yield the rows of each pattern of missing values."""
        marginals = self._marginals(parameters)
        for missing, which in rows_of_patterns(np.isnan(rows)):
            yield which, MarginalKernel(marginals.of(missing), partial(self.from_own_frames, parameters))

    def most_patterns(self, parameters: GaussianParameters) -> float:
        """Return for how many patterns an E-step keeps the marginal distributions."""
        return most_kept(*parameters.means.shape)

    def conditional_means(self, parameters: GaussianParameters, rows: Array, k: int) -> Array:
        """Return rows with what is missing replaced by its regression on what is observed."""
        marginals, filled = self._marginals(parameters), np.array(rows, dtype=np.float64)
        for missing, which in rows_of_patterns(np.isnan(rows)):
            filled[which] = marginals.conditional_means(marginals.of(missing), filled[which], k)
        return filled

    def conditional_draws(
        self, parameters: GaussianParameters, rows: Array, labels: NDArray[np.int64], rng: RowDraws
    ) -> Array:
        """Return rows with what is missing drawn: a draw of the whole row, less what its own observed part predicts."""
        drawn: Array = self.sample(parameters, labels, rng.generator)
        known = np.where(np.isnan(rows), np.nan, drawn)
        for k in np.unique(labels):
            own = np.flatnonzero(labels == k)
            drawn[own] += self.conditional_means(parameters, rows[own], k) - self.conditional_means(
                parameters, known[own], k
            )
        return np.where(np.isnan(rows), drawn, rows)

    def _drawn_of(self, parameters: GaussianParameters, chunk: Any, k: int, rng: RowDraws) -> Array:
        """Return draws in one component: of whole rows with errors, less what their own observed part predicts."""
        drawn: Array = self.sample(parameters, np.full(len(chunk.rows), k), rng.generator)
        seen = np.where(np.isnan(chunk.rows), np.nan, drawn + _errors(chunk.noise, drawn.shape, rng))
        theirs = self.expected(parameters, replace(chunk, rows=seen, limits=None), k)
        return drawn + self.expected(parameters, chunk, k, rng) - theirs

    def _marginals(self, parameters: GaussianParameters) -> Marginals:
        means = parameters.means
        shape = (len(means), means.shape[1], means.shape[1])
        return kept_with(
            parameters,
            (self, "marginals"),
            lambda: Marginals(
                means, np.broadcast_to(parameters.precisions_cholesky, shape), self._frame(means.shape[1])
            ),
        )

    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return U Uᵀ."""
        return np.asarray(precisions_cholesky @ precisions_cholesky.swapaxes(-1, -2))

    def variances(self, covariances: Array, n_features: int) -> Array:
        """Return the diagonals."""
        return np.diagonal(covariances, axis1=-2, axis2=-1).reshape(-1, n_features)

    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Rescale covariances (rows and columns) or precision factors (rows only)."""
        if power == 2:
            return array * scale[:, np.newaxis] * scale
        return np.asarray(array * scale[:, np.newaxis] ** float(power))

    def relative_ridge(self, parameters: GaussianParameters) -> Array:
        """Return the squared singular values of √ridge U."""
        scaled = np.sqrt(self._ridge(parameters.means.shape[1]))[:, np.newaxis] * parameters.precisions_cholesky
        return np.asarray(np.linalg.svd(scaled, compute_uv=False) ** 2)
