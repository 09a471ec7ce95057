"""Linear regressions as components of a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.errors import FitError
from dem.families.base import NEGLIGIBLE, Array, Component, Support
from dem.families.gaussian.component import FLOOR
from dem.families.gaussian.frame import Frame, Framed, same_frame
from dem.families.regression.columns import UsedColumns
from dem.families.regression.kernel import RegressionBlock, RegressionKernel, block_rows, design_of, numbers_of
from dem.families.regression.least_squares import ReferredSums, ResidualSums, solved, undetermined
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh, kept_with

_EPS = float(np.finfo(np.float64).eps)
# A residual variance, in the frame, that is nothing but the rounding of residuals.
_ROUNDING = 1e-28


@dataclass(frozen=True, eq=False)
class RegressionParameters:
    """Parameters in the frame of the fit.

    Attributes
    ----------
    coefficients : ndarray of shape (n_components, 1 + n_design)
        The intercept, 0 where there is none, and the slopes.
    variances : ndarray of shape (n_components,)
        Of the residuals.
    products : ndarray of shape (n_components, 1 + n_design, 1 + n_design)
        Means of z zᵀ with z = [1, x] over the rows of each component. No density depends on them: they tell how well
        rows determine the coefficients, and where designs are drawn.
    """

    coefficients: Array
    variances: Array
    products: Array


@dataclass(frozen=True, eq=False)
class RegressionComponent(Framed, Component[RegressionParameters, ResidualSums]):
    """Components of densities y | x ~ N(a + b·x, σ²) of a response y given its design x.

    An E-step sums residuals about the coefficients that it is taken at, of which the M-step finds the change: in the
    end it is 0, so that coefficients and σ lose no digits, however small σ is.

    Parameters
    ----------
    columns : tuple of int, optional
        Where in a row the design stands, and last the response; all columns in their order when left out.
    n_features : int, optional
        The length of a row, if `columns` are given.
    intercept : bool
        Whether there is an a; else it is 0.
    shared : bool
        Whether all components have the same σ.
    reg_covar : float
        The least σ², in squared units of the response.
    frame : Frame, optional
        Origin (0 without an intercept) and scale of design and response; from `adapted_to`.

    References
    ----------
    DeSarbo, W. S. and Cron, W. L. (1988). A maximum likelihood methodology for clusterwise linear regression. Journal
    of Classification 5.
    """

    columns: tuple[int, ...] | None = None
    n_features: int | None = None
    intercept: bool = True
    shared: bool = False
    reg_covar: float = 1e-6
    frame: Frame | None = None
    name: ClassVar[str] = "regression"
    marginalises: ClassVar[bool] = False

    @property
    def support(self) -> Support:
        """Finite numbers in the columns of design and response."""
        return UsedColumns(used=self.columns)

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with origin and scale of a sample (n, n_features)."""
        rows = self.used(sample)
        if self.intercept:
            return replace(self, frame=Frame.of(rows))
        with np.errstate(over="ignore"):
            return replace(self, frame=Frame.about(np.zeros(rows.shape[1]), np.mean(rows**2, axis=0)))

    def around(self, values: Mapping[str, Array]) -> Self:
        """Return this component with a frame that suits parameters in the user's units."""
        means, covariances, slopes = (
            np.asarray(values[name]) for name in ("design_means", "design_covariances", "coefficients")
        )
        responses = values["intercepts"] + np.vecdot(slopes, means)
        spread = np.einsum("ki,kij,kj->k", slopes, covariances, slopes) + np.asarray(values["sigmas"]) ** 2
        centres = np.column_stack([means, responses])
        within = np.column_stack([np.diagonal(covariances, axis1=1, axis2=2), spread]).mean(axis=0)
        if self.intercept:
            return replace(self, frame=Frame.about(centres.mean(axis=0), within + centres.var(axis=0)))
        return replace(self, frame=Frame.about(np.zeros(centres.shape[1]), within + np.mean(centres**2, axis=0)))

    def used(self, rows: NDArray[Any]) -> Array:
        """Return design and response, which is the last column, float64."""
        return np.asarray(rows if self.columns is None else rows[:, self.columns], dtype=np.float64)

    def design(self, rows: NDArray[Any]) -> tuple[Array, Array]:
        """Return z = [1, x], shape (1 + n_design, n), and the response, (n,), in the frame."""
        used = self.used(rows)
        return design_of(used, self._frame(used.shape[1]))

    def start(self, sample: NDArray[Any], responsibilities: Array) -> RegressionParameters:
        """Return the regressions of a sample with its responsibilities.

        Each has one row of mean products and residuals of all besides: what its own rows leave open is as of all.
        """
        weights = responsibilities.T
        q = self.used(sample[:1]).shape[1]
        everything = self._sums(sample, weights.sum(axis=0, keepdims=True), np.zeros((1, q)))
        of_all, _ = solved(everything.products, everything.moments, intercept=self.intercept)
        n = everything.products[0, 0, 0]
        variance = self._sums(sample, weights.sum(axis=0, keepdims=True), of_all).squares / n
        sums = self._sums(sample, weights, np.broadcast_to(of_all, (len(weights), q)))
        counts, squares, step = sums.products[:, 0, 0], sums.squares, np.zeros_like(sums.moments)
        there = counts > NEGLIGIBLE
        step[there], gain = solved(sums.products[there], sums.moments[there], intercept=self.intercept)
        squares[there] = np.maximum(squares[there] - gain, 0.0)
        variances = self._variances((squares + variance) / (counts + 1.0), counts)
        products = (sums.products + everything.products / n) / (counts + 1.0)[:, np.newaxis, np.newaxis]
        return RegressionParameters(of_all + step, variances, products)

    def kernel(
        self,
        parameters: RegressionParameters,
        dtype: np.dtype[Any],  # noqa: ARG002
        *,
        exact: bool = False,  # noqa: ARG002
    ) -> RegressionKernel:
        """Return the arithmetic of an E-step at `parameters`: double precision for rows of any dtype."""
        frame = self._frame(parameters.coefficients.shape[1])
        columns = None if self.columns is None else np.array(self.columns)

        def made() -> RegressionKernel:
            return RegressionKernel(frame, columns, parameters.coefficients, parameters.variances)

        return fresh(kept_with(parameters, self, made))

    def block_bytes(self, n_components: int, n_features: int) -> int:
        """Return what an E-step takes of each block of rows."""
        q = n_features if self.columns is None else len(self.columns)
        return 8 * block_rows(n_components, q) * (n_features + numbers_of(n_components, q))

    def joins(self, other: Self) -> bool:
        """Tell whether the other has the same columns and frame."""
        alike = (self.columns, self.intercept) == (other.columns, other.intercept)
        return alike and same_frame(self.frame, other.frame)

    def m_step(
        self, statistics: ResidualSums | ReferredSums, counts: Array, parameters: RegressionParameters
    ) -> RegressionParameters:
        """Return weighted least squares; a component without any rows stays where it is."""
        sums = statistics
        if isinstance(sums, ResidualSums):
            sums = self.rebased(sums, counts, parameters)
        there = counts > NEGLIGIBLE
        coefficients, variances = parameters.coefficients.copy(), parameters.variances.copy()
        products, squares = parameters.products.copy(), np.zeros_like(variances)
        own = counts[there]
        step, gain = solved(sums.products[there], sums.moments[there], intercept=self.intercept)
        coefficients[there] = sums.reference[there] + step
        products[there] = sums.products[there] / own[:, np.newaxis, np.newaxis]
        # Where nearly all falls away, rounding must not be what remains: the next iteration tells.
        squares[there] = np.maximum(sums.squares[there] - gain, 4.0 * _EPS * sums.squares[there])
        variances[there] = squares[there] / own
        return RegressionParameters(coefficients, self._variances(variances, np.where(there, counts, 0.0)), products)

    def rebased(
        self,
        statistics: ResidualSums,
        counts: Array,  # noqa: ARG002
        parameters: RegressionParameters,
    ) -> ReferredSums:
        """Return the sums with the coefficients that they are about."""
        return ReferredSums(parameters.coefficients, statistics.products, statistics.moments, statistics.squares)

    def implied(
        self,
        parameters: RegressionParameters,
        counts: Array,
        n_rows: float = 1.0,  # noqa: ARG002
    ) -> ReferredSums:
        """Return the sums from which the M-step makes `parameters`."""
        products = counts[:, np.newaxis, np.newaxis] * parameters.products
        coefficients = parameters.coefficients
        return ReferredSums(coefficients, products, np.zeros_like(coefficients), counts * parameters.variances)

    def expected_log_density(self, statistics: ReferredSums, counts: Array, parameters: RegressionParameters) -> float:
        """Return Σγ log p(response | design, component)."""
        squares = statistics.about(parameters.coefficients).squares
        log_scale = np.log(self._frame(parameters.coefficients.shape[1]).scale[-1])
        constants = -0.5 * np.log(2.0 * np.pi * parameters.variances) - log_scale
        return float(counts @ constants - 0.5 * np.sum(squares / parameters.variances))

    def monotonicity_slack(self, parameters: RegressionParameters, weights: Array, dtype: np.dtype[Any]) -> float:  # noqa: ARG002
        """Return the rounding of residuals, which is that of the response."""
        squares = np.einsum("ki,kij,kj->k", parameters.coefficients, parameters.products, parameters.coefficients)
        size = 1.0 + np.sqrt(np.maximum(squares, 0.0) / parameters.variances)
        return float(8.0 * _EPS * (weights @ size))

    def responses(self, parameters: RegressionParameters, rows: NDArray[Any]) -> Array:
        """Return the mean response of each component given the design, in the user's units; (n, n_components)."""
        z, _ = self.design(rows)
        frame = self._frame(len(z))
        return np.asarray((parameters.coefficients @ z).T * frame.scale[-1] + frame.origin[-1])

    def sample(self, parameters: RegressionParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label: designs from normal distributions with the moments of the fit, then responses.

        Columns that are neither design nor response are NaN.
        """
        n_design = parameters.coefficients.shape[1] - 1
        frame = self._frame(n_design + 1)
        means = parameters.products[:, 0, 1:]
        values, vectors = np.linalg.eigh(self._covariances(parameters))
        factors = vectors * np.sqrt(np.maximum(values, 0.0))[:, np.newaxis, :]
        z = np.ones((len(labels), n_design + 1))
        z[:, 1:] = means[labels] + np.einsum(
            "nij,nj->ni", factors[labels], rng.standard_normal((len(labels), n_design))
        )
        noise = np.sqrt(parameters.variances[labels]) * rng.standard_normal((len(labels), 1))[:, 0]
        response = np.vecdot(parameters.coefficients[labels], z) + noise
        drawn = np.column_stack([z[:, 1:], response]) * frame.scale + frame.origin
        if self.columns is None:
            return drawn
        rows = np.full((len(labels), self.n_features or len(self.columns)), np.nan)
        rows[:, self.columns] = drawn
        return rows

    def n_parameters(self, parameters: RegressionParameters) -> int:
        """Return the number of coefficients and standard deviations; where designs lie is none of them."""
        vector = self.unconstrain(parameters)
        return vector.own.size + vector.shared.size

    def to_user(self, parameters: RegressionParameters) -> dict[str, NDArray[Any]]:
        """Return ``coefficients``, ``intercepts``, ``sigmas``, ``design_means`` and ``design_covariances``."""
        frame = self._frame(parameters.coefficients.shape[1])
        origin, scale, response = frame.origin[:-1], frame.scale[:-1], frame.scale[-1]
        slopes = parameters.coefficients[:, 1:] * (response / scale)
        return {
            "coefficients": slopes,
            "intercepts": parameters.coefficients[:, 0] * response + frame.origin[-1] - slopes @ origin,
            "sigmas": np.sqrt(parameters.variances) * response,
            "design_means": parameters.products[:, 0, 1:] * scale + origin,
            "design_covariances": self._covariances(parameters) * scale[:, np.newaxis] * scale,
        }

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> RegressionParameters:
        """Return parameters from what `to_user` gave."""
        slopes, means = (np.asarray(values[name], dtype=np.float64) for name in ("coefficients", "design_means"))
        frame = self._frame(slopes.shape[1] + 1)
        origin, scale, response = frame.origin[:-1], frame.scale[:-1], frame.scale[-1]
        intercepts = np.asarray(values["intercepts"], dtype=np.float64) + slopes @ origin - frame.origin[-1]
        coefficients = np.column_stack([intercepts / response, slopes * (scale / response)])
        z = np.column_stack([np.ones(len(means)), (means - origin) / scale])
        products = z[:, :, np.newaxis] * z[:, np.newaxis, :]
        products[:, 1:, 1:] += np.asarray(values["design_covariances"]) / (scale[:, np.newaxis] * scale)
        sigmas = np.asarray(values["sigmas"], dtype=np.float64) / response
        return RegressionParameters(coefficients, sigmas**2, products)

    def unconstrain(self, parameters: RegressionParameters) -> Vector:
        """Return coefficients and logarithms of the standard deviations."""
        coefficients = parameters.coefficients if self.intercept else parameters.coefficients[:, 1:]
        logs = 0.5 * np.log(parameters.variances)
        if self.shared:
            return Vector(coefficients, logs[:1])
        return Vector(np.column_stack([coefficients, logs]), np.empty(0))

    def constrain(self, vector: Vector, parameters: RegressionParameters) -> RegressionParameters:
        """Return parameters from what `unconstrain` gave."""
        own, logs = (vector.own, vector.shared) if self.shared else (vector.own[:, :-1], vector.own[:, -1])
        coefficients = own if self.intercept else np.column_stack([np.zeros(len(own)), own])
        variances = np.maximum(np.exp(2.0 * np.broadcast_to(logs, len(own))), self._least())
        return replace(parameters, coefficients=coefficients, variances=variances)

    def collapsed(self, parameters: RegressionParameters) -> NDArray[np.bool_]:
        """Tell which residual variances are what `reg_covar` keeps them at."""
        return np.asarray(FLOOR * parameters.variances <= self._least())

    def undetermined(self, parameters: RegressionParameters) -> NDArray[np.bool_]:
        """Return which coefficients the rows of each component leave open, shape (n_components, n_design)."""
        return undetermined(parameters.products, intercept=self.intercept)

    def coordinates(self, parameters: RegressionParameters) -> Array:
        """Return coefficients and logarithms of standard deviations."""
        return np.column_stack([parameters.coefficients, 0.5 * np.log(parameters.variances)])

    def divergence(
        self,
        parameters: RegressionParameters,
        pairs: NDArray[np.intp],
        enough: float,  # noqa: ARG002
    ) -> Array:
        """Return that of the responses, on average over the designs of both."""
        one, other = pairs.T
        variances, step = parameters.variances, parameters.coefficients[one] - parameters.coefficients[other]
        products = 0.5 * (parameters.products[one] + parameters.products[other])
        squares = np.einsum("ni,nij,nj->n", step, products, step)
        ratio = variances[one] / variances[other]
        return np.asarray(0.5 * (ratio + 1.0 / ratio - 2.0 + squares * (1.0 / variances[one] + 1.0 / variances[other])))

    def reseeded(
        self, parameters: RegressionParameters, which: NDArray[np.intp], rows: Array, weights: Array
    ) -> RegressionParameters:
        """Return parameters where lines, with the slopes of the others on average, pass through rows."""
        z, response = self.design(rows)
        line = weights @ parameters.coefficients
        away = response - line @ z
        coefficients, variances, products = (
            array.copy() for array in (parameters.coefficients, parameters.variances, parameters.products)
        )
        coefficients[which] = line
        if self.intercept:
            coefficients[which, 0] += away
        else:  # by the least change of slopes
            x = z[1:]
            coefficients[which, 1:] += (x * (away / np.maximum(np.vecdot(x.T, x.T), _ROUNDING))).T
        variances[which] = weights @ parameters.variances
        products[which] = np.einsum("k,kij->ij", weights, parameters.products)
        return RegressionParameters(coefficients, variances, products)

    def _sums(self, sample: NDArray[Any], weights: Array, coefficients: Array) -> ResidualSums:
        """Return what rows with weights, (n_components, n), sum about coefficients."""
        frame, used = self._frame(coefficients.shape[1]), self.used(sample)
        kernel = RegressionKernel(frame, None, coefficients, np.ones(len(coefficients)))
        for first in range(0, len(used), kernel.block_rows):
            where = slice(first, first + kernel.block_rows)
            RegressionBlock(kernel, *design_of(used[where], frame)).accumulate(weights[:, where])
        return kernel.statistics()

    def _covariances(self, parameters: RegressionParameters) -> Array:
        """Return the covariances of the designs, in the frame."""
        means = parameters.products[:, 0, 1:]
        return np.asarray(parameters.products[:, 1:, 1:] - means[:, :, np.newaxis] * means[:, np.newaxis, :])

    def _variances(self, variances: Array, counts: Array) -> Array:
        """Return residual variances that the options allow.

        Raises
        ------
        FitError
            If one is nothing but rounding.
        """
        if self.shared:
            variances = np.full_like(variances, counts @ variances / counts.sum())
        variances = np.maximum(variances, self._least())
        if (exact := np.flatnonzero((variances <= _ROUNDING) & (counts > NEGLIGIBLE))).size:
            message = (
                f"component {exact[0]}: the response follows from the design there, to rounding: its variance is 0; "
                "give reg_covar above 0, fewer components, or another start (random_state, n_init)"
            )
            raise FitError(message)
        return np.asarray(np.maximum(variances, _ROUNDING))

    def _least(self) -> float:
        """Return `reg_covar` in squared units of the frame."""
        return 0.0 if self.frame is None else float(self.reg_covar / self.frame.scale[-1] ** 2)
