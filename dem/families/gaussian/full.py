"""Full covariances: every component has its own (d, d) matrix."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.precision import Plan, plan
from dem.families.gaussian.shapes import (
    LOG_2PI,
    GaussianParameters,
    GaussianStatistics,
    belonging,
    block_rows,
    cholesky_of_precision,
    component_names,
    occupied,
    ridge_loss,
    slices,
    weighted_means,
)
from dem.families.workspace import Workspace, add_weighted, copy_with

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
    """Choose the arithmetic of each component; see `precision.plan`."""
    mean, deviation = np.sqrt(cancellation(parameters))
    return plan(mean, deviation, parameters.means.shape[1], WIDE_FEATURES, single=single)


class FullKernel:
    """E-step for full covariances.

    Well-conditioned components share one wide product over z = [1, x, x_i x_j (i ≤ j)]: log-densities are W z and
    statistics γ zᵀ. The others go one by one through their own frame y = Uᵀ(x − μ).
    """

    def __init__(self, parameters: GaussianParameters, frame: Frame, *, single: bool) -> None:
        self._frame = frame
        self._plan = plan_for(parameters, single=single)
        wide, dtype = self._plan.wide, self._plan.dtype
        d = parameters.means.shape[1]
        self._n_wide = 1 + d + d * (d + 1) // 2 if len(wide) else 0
        constant = log_constants(parameters.precisions_cholesky, frame)
        self.trusted_above = self._plan.trusted_above(constant)
        self._constant = constant.astype(dtype)
        self._weights = wide_weights(parameters, wide, constant).astype(dtype)
        self._means = parameters.means.astype(dtype)[:, :, np.newaxis]
        self._factors = parameters.precisions_cholesky.swapaxes(1, 2).astype(dtype)
        self._z: NDArray[Any] = np.empty(0)
        self._y: NDArray[Any] = np.empty(0)
        self.clear()

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        n_components, d = self._means.shape[:2]
        numbers = 2 * d + self._n_wide + d * len(self._plan.own) + 2 * n_components
        return block_rows(self._plan.dtype.itemsize * numbers)

    def clear(self) -> None:
        """Start the sums anew, in a workspace of its own."""
        self._workspace = Workspace()
        n_components, d = self._means.shape[:2]
        self._wide_sums = np.zeros((self._n_wide, len(self._plan.wide)))
        self._first = np.zeros((n_components, d))
        self._second = np.zeros((n_components, d, d))

    def restricted(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        chosen, places = self._plan.restricted(which)
        part = copy_with(
            self,
            _plan=chosen,
            _weights=self._weights[places],
            _constant=self._constant[which],
            _means=self._means[which],
            _factors=self._factors[which] if len(chosen.own) else self._factors[:0],
        )
        part.clear()
        return part

    def log_density(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return log p(row | component), shape (n_components, n)."""
        (n, d), dtype = rows.shape, self._plan.dtype
        wide, own = self._plan.wide, self._plan.own
        density = self._workspace.array("density", (len(self._constant), n), dtype)
        if len(wide):
            self._z = z = self._workspace.array("z", (self._n_wide, n), dtype)
            x = self._frame.apply(rows, z[1 : 1 + d])
            append_products(z, d)
            if not len(own):
                return np.matmul(self._weights, z, out=density)
            density[wide] = self._weights @ z
        else:
            x = self._frame.apply(rows, self._workspace.array("x", (d, n), dtype))
        self._y = self._workspace.array("y", (len(own), d, n), dtype)
        centred = self._workspace.array("centred", (d, n), dtype)
        for k, y in zip(own, self._y, strict=True):
            np.subtract(x, self._means[k], out=centred)
            triangular_product(self._factors[k], centred, y)
            np.einsum("ij,ij->j", y, y, out=density[k])
            density[k] *= -0.5
            density[k] += self._constant[k]
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows last seen."""
        if len(self._plan.wide):
            self._z[:, which] = 0.0
        if len(self._plan.own):
            self._y[..., which] = 0.0

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add Σγz, and Σγy and Σγyyᵀ, of the rows last seen."""
        wide, own = self._plan.wide, self._plan.own
        if len(wide):
            chosen = responsibilities[wide] if len(own) else responsibilities
            add_weighted(self._wide_sums, self._z, chosen)
        for k, y in zip(own, self._y, strict=True):
            responsibility, members = belonging(responsibilities[k], y)
            root = np.sqrt(responsibility)
            members *= root
            self._first[k] += np.dot(members, root)
            self._second[k] += np.dot(members, members.T)

    def statistics(self) -> GaussianStatistics:
        """Return what was accumulated."""
        d, wide = self._first.shape[1], self._plan.wide
        if len(wide):
            rows, columns = np.triu_indices(d)
            sums = self._wide_sums.T
            self._first[wide] = sums[:, 1 : 1 + d]
            self._second[wide[:, np.newaxis], rows, columns] = sums[:, 1 + d :]
            self._second[wide[:, np.newaxis], columns, rows] = sums[:, 1 + d :]
        return GaussianStatistics(self._first, self._second)


def triangular_product(lower: NDArray[Any], x: NDArray[Any], out: NDArray[Any]) -> None:
    """Set `out` to the product of a lower-triangular matrix (d, d) and x (d, n), without most of the zeros.

    BLAS has a routine for that, but SciPy's way to it keeps the interpreter's lock, so that threads wait.
    """
    for start in range(0, len(lower), TRIANGLE_STEP):
        end = start + TRIANGLE_STEP
        np.matmul(lower[start:end, :end], x[:end], out=out[start:end])


def append_products(z: NDArray[Any], d: int) -> None:
    """Complete z of a block, shape (1 + d + d(d+1)/2, n), whose rows 1 to d are x: ones before and products behind."""
    x = z[1 : 1 + d]
    z[0] = 1.0
    start = 1 + d
    for i in range(d):
        np.multiply(x[i], x[i:], out=z[start : start + d - i])
        start += d - i


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

    def tolerated_fall(self, parameters: GaussianParameters, weights: Array, ridge: Array) -> float:
        """Return the most that the ridge can cost the log-likelihood per row."""
        root = np.sqrt(ridge)[:, np.newaxis]
        losses = [
            ridge_loss(np.linalg.svd(root * factor, compute_uv=False) ** 2) for factor in parameters.precisions_cholesky
        ]
        return float(np.sum(weights * losses))

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Return K d(d+1)/2."""
        return n_components * n_features * (n_features + 1) // 2

    def draw(self, parameters: GaussianParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
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
