"""The E-step of full covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array
from dem.families.gaussian.arithmetic import Plan, plan
from dem.families.gaussian.covariance import GaussianParameters, GaussianStatistics, belonging
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.kernel import OwnCovarianceKernel

# From here on the products x_i x_j of a block no longer fit in the cache, and one product per component is faster.
WIDE_FEATURES = 64
# Rows of a triangular matrix that are multiplied at a time: less of the zeros, or larger products.
TRIANGLE_STEP = 48


def plan_for(parameters: GaussianParameters, *, single: bool = False) -> Plan:
    """Choose the arithmetic of each component; see `arithmetic.plan`."""
    means, factors = np.abs(parameters.means), parameters.precisions_cholesky
    precisions = np.abs(factors @ factors.swapaxes(1, 2))
    deviations = np.sqrt(np.diagonal(parameters.covariances, axis1=1, axis2=2))
    # |μ|ᵀ|P||μ| and Σ|P_ij|σ_iσ_j: the sizes of the wide product's terms.
    at_mean, within = (
        np.sum(np.matmul(sizes[:, np.newaxis], precisions)[:, 0] * sizes, axis=1) for sizes in (means, deviations)
    )
    return plan(np.sqrt(at_mean), np.sqrt(within), means.shape[1], WIDE_FEATURES, single=single)


class FullKernel(OwnCovarianceKernel):
    """Full covariances: z = [1, x, x_i x_j (i ≤ j)], y = Uᵀ(x − μ)."""

    _second_axes = 2

    def __init__(self, parameters: GaussianParameters, frame: Frame, constant: Array, *, single: bool) -> None:
        chosen = plan_for(parameters, single=single)
        weights = wide_weights(parameters, chosen.wide, constant)
        factors = parameters.precisions_cholesky.swapaxes(1, 2)
        super().__init__(parameters, frame, chosen, constant, weights, factors)

    def _shared_numbers(self, d: int) -> int:
        return 2 * d + (self.weights.shape[1] if len(self.plan.wide) else 0)

    @property
    def factors_of_terms(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Of 1, x and x_i x_j."""
        d = self.means.shape[1]
        left, right = np.triu_indices(d)
        return np.concatenate([[d], np.arange(d), left]), np.concatenate([np.full(1 + d, d), right])

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
