"""Full covariances: every component has its own (d, d) matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.gaussian.arithmetic import Plan, plan
from dem.families.gaussian.covariance import (
    LOG_2PI,
    GaussianParameters,
    GaussianStatistics,
    belonging,
    cholesky_of_precision,
    component_names,
    occupied,
    ridge_loss,
    slices,
    weighted_means,
)
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.kernel import OwnCovarianceKernel

# From here on the products x_i x_j of a block no longer fit in the cache, and one product per component is faster.
WIDE_FEATURES = 64
# Rows of a triangular matrix that are multiplied at a time: less of the zeros, or larger products.
TRIANGLE_STEP = 48


def cancellation(parameters: GaussianParameters) -> tuple[Array, Array]:
    """Return |μ|ᵀ|P||μ| and Σ|P_ij|σ_iσ_j, each of shape (n_components,): the sizes of the wide product's terms."""
    means, factors = np.abs(parameters.means), parameters.precisions_cholesky
    precisions = np.abs(factors @ factors.swapaxes(1, 2))
    deviations = np.sqrt(np.diagonal(parameters.covariances, axis1=1, axis2=2))
    at_mean = np.einsum("ki,kij,kj->k", means, precisions, means, optimize=True)
    return np.asarray(at_mean), np.einsum("ki,kij,kj->k", deviations, precisions, deviations, optimize=True)


def plan_for(parameters: GaussianParameters, *, single: bool = False) -> Plan:
    """Choose the arithmetic of each component; see `arithmetic.plan`."""
    mean, deviation = np.sqrt(cancellation(parameters))
    return plan(mean, deviation, parameters.means.shape[1], WIDE_FEATURES, single=single)


class FullKernel(OwnCovarianceKernel):
    """Full covariances: z = [1, x, x_i x_j (i ≤ j)], y = Uᵀ(x − μ)."""

    _second_axes = 2

    def __init__(self, parameters: GaussianParameters, frame: Frame, *, single: bool) -> None:
        chosen = plan_for(parameters, single=single)
        constant = log_constants(parameters.precisions_cholesky, frame)
        weights = wide_weights(parameters, chosen.wide, constant)
        factors = parameters.precisions_cholesky.swapaxes(1, 2)
        super().__init__(parameters, frame, chosen, constant, weights, factors)

    def _shared_numbers(self, d: int) -> int:
        return 2 * d + (self.weights.shape[1] if len(self.plan.wide) else 0)

    def append_products(self, z: NDArray[Any], d: int) -> None:
        """Append x_i x_j."""
        x, start = z[1 : 1 + d], 1 + d
        for i in range(d):
            np.multiply(x[i], x[i:], out=z[start : start + d - i])
            start += d - i

    def to_own_frame(self, k: int, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Set `out` to Uᵀ(x − μ), without most of the zeros of U.

        BLAS has a routine for that, but SciPy's way to it keeps the interpreter's lock, so that threads wait.
        """
        centred = self.workspace.array("centred", x.shape, x.dtype)
        np.subtract(x, self.means[k], out=centred)
        for start in range(0, len(x), TRIANGLE_STEP):
            end = start + TRIANGLE_STEP
            np.matmul(self.factors[k][start:end, :end], centred[:end], out=out[start:end])

    def add_own(self, k: int, y: NDArray[Any], responsibility: NDArray[Any]) -> None:
        """Add Σγy and Σγyyᵀ."""
        responsibility, members = belonging(responsibility, y)
        root = np.sqrt(responsibility)
        members *= root
        self.first[k] += np.dot(members, root)
        self.second[k] += np.dot(members, members.T)

    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated."""
        d, wide = self.first.shape[1], self.plan.wide
        if len(wide):
            rows, columns = np.triu_indices(d)
            sums = self.wide_sums.T
            self.first[wide] = sums[:, 1 : 1 + d]
            self.second[wide[:, np.newaxis], rows, columns] = sums[:, 1 + d :]
            self.second[wide[:, np.newaxis], columns, rows] = sums[:, 1 + d :]
        return GaussianStatistics(self.first, self.second)


def wide_weights(parameters: GaussianParameters, which: NDArray[np.int64], constant: Array) -> Array:
    """Return W with W z = log-density, shape (len(which), 1 + d + d(d+1)/2)."""
    d = parameters.means.shape[1]
    upper = np.triu_indices(d)
    weights = np.empty((len(which), 1 + d + len(upper[0])))
    for row, k in zip(weights, which, strict=True):
        factor, mean = parameters.precisions_cholesky[k], parameters.means[k]
        precision = factor @ factor.T
        row[0] = constant[k] - 0.5 * np.sum((mean @ factor) ** 2)
        row[1 : 1 + d] = precision @ mean
        row[1 + d :] = np.where(upper[0] == upper[1], -0.5, -1.0) * precision[upper]
    return weights


def log_constants(precisions_cholesky: Array, frame: Frame) -> Array:
    """Return log|U| − (d/2) log 2π − log of the frame's volume, shape (n_components,)."""
    d = precisions_cholesky.shape[-1]
    log_determinants = np.log(np.diagonal(precisions_cholesky, axis1=-2, axis2=-1)).sum(axis=-1)
    return np.asarray(log_determinants - 0.5 * d * LOG_2PI - frame.log_volume)


def refine(moment: Array, factor: Array, ridge: Array, which: str) -> tuple[Array, Array]:
    """Return covariance and precision factor from a central second moment in the frame of `factor`.

    With C = moment + Uᵀ ridge U in the frame y = Uᵀ(x − μ), the covariance is U⁻ᵀ C U⁻¹ and the new factor is U V
    with V Vᵀ = C⁻¹. C is near the identity, so that nothing is lost however ill-conditioned U is.
    """
    inner = moment + (factor.T * ridge) @ factor
    new_factor = factor @ cholesky_of_precision(inner, which)
    lower = scipy.linalg.solve_triangular(factor, np.linalg.cholesky(inner), trans="T")
    return lower @ lower.T, new_factor


class Full:
    """Covariance type ``'full'``; see `Shape` for what the methods do."""

    isotropic = False

    def kernel(self, parameters: GaussianParameters, frame: Frame, *, single: bool) -> FullKernel:
        """Return the arithmetic of an E-step."""
        return FullKernel(parameters, frame, single=single)

    def m_step(
        self, statistics: GaussianStatistics, counts: Array, parameters: GaussianParameters, ridge: Array
    ) -> GaussianParameters:
        """Return the maximising parameters."""
        means = parameters.means.copy()
        covariances, factors = parameters.covariances.copy(), parameters.precisions_cholesky.copy()
        own = set(plan_for(parameters).own)
        for k in np.flatnonzero(occupied(counts)):
            name = f"component {k}"
            centre = statistics.first[k] / counts[k]
            moment = statistics.second[k] / counts[k] - np.outer(centre, centre)
            if k in own:
                means[k] += scipy.linalg.solve_triangular(factors[k], centre, trans="T")
                covariances[k], factors[k] = refine(moment, factors[k], ridge, name)
            else:
                means[k] = centre
                covariances[k] = moment + np.diag(ridge)
                factors[k] = cholesky_of_precision(covariances[k], name)
        return GaussianParameters(means, covariances, factors)

    def start(self, rows: Array, responsibilities: Array, ridge: Array, frame: Frame) -> GaussianParameters:  # noqa: ARG002
        """Return parameters from a sample and its responsibilities."""
        counts, means = weighted_means(rows, responsibilities)
        covariances = np.zeros((len(means), rows.shape[1], rows.shape[1]))
        for where in slices(len(rows)):
            for k, mean in enumerate(means):
                centred = rows[where] - mean
                covariances[k] += (responsibilities[where, k] * centred.T) @ centred
        covariances = covariances / counts[:, np.newaxis, np.newaxis] + np.diag(ridge)
        names = component_names(len(means))
        factors = [cholesky_of_precision(matrix, name) for matrix, name in zip(covariances, names, strict=True)]
        return GaussianParameters(means, covariances, np.array(factors))

    def precisions(self, precisions_cholesky: Array) -> Array:
        """Return U Uᵀ."""
        return np.asarray(precisions_cholesky @ precisions_cholesky.swapaxes(-1, -2))

    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Return covariances and Cholesky factors of the precisions."""
        pairs = [factorise_precision(matrix) for matrix in precisions]
        return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])

    def variances(self, covariances: Array, n_features: int) -> Array:  # noqa: ARG002
        """Return the variance of each feature in each component."""
        return np.diagonal(covariances, axis1=1, axis2=2)

    def rescale(self, array: Array, scale: Array, power: int) -> Array:
        """Rescale covariances (rows and columns) or precision factors (rows only)."""
        if power == 2:
            return array * scale[:, np.newaxis] * scale
        return np.asarray(array * scale[:, np.newaxis] ** float(power))

    def monotonicity_slack(self, parameters: GaussianParameters, weights: Array, ridge: Array) -> float:
        """Return the most that the ridge can cost the log-likelihood per row."""
        root = np.sqrt(ridge)[:, np.newaxis]
        losses = [
            ridge_loss(np.linalg.svd(root * factor, compute_uv=False) ** 2) for factor in parameters.precisions_cholesky
        ]
        return float(np.sum(weights * losses))

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Return K d(d+1)/2."""
        return n_components * n_features * (n_features + 1) // 2

    def sample(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw a row in the frame for each label."""
        rows = rng.standard_normal((len(labels), parameters.means.shape[1]))
        for k in np.unique(labels):
            where = labels == k
            # y = Uᵀ(x − μ) is standard normal, so x = μ + U⁻ᵀy.
            spread = scipy.linalg.solve_triangular(parameters.precisions_cholesky[k], rows[where].T, trans="T")
            rows[where] = spread.T + parameters.means[k]
        return rows


def factorise_precision(precision: Array) -> tuple[Array, Array]:
    """Return covariance and upper-triangular U with U Uᵀ = precision."""
    # The Cholesky factor of the matrix with rows and columns reversed, reversed again, is upper-triangular.
    reversed_factor = np.linalg.cholesky(precision[::-1, ::-1])
    factor = np.ascontiguousarray(reversed_factor[::-1, ::-1])
    inverse = scipy.linalg.solve_triangular(factor, np.eye(len(factor)))
    return inverse.T @ inverse, factor
