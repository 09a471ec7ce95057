"""The E-step of t components, on top of that of the Gaussians with the same centres and scale matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from dem.families.base import Array, Block, RowBlock
from dem.families.gaussian import GaussianKernel
from dem.families.student_t.dof import log_constants
from dem.families.workspace import Workspace, constant_row, fresh
from dem.statistics import Statistics


@dataclass(frozen=True, eq=False)
class StudentTStatistics(Statistics):
    """What t components need beside Σγ.

    Attributes
    ----------
    gaussian : Statistics
        Those of Gaussian components, for rows that count γu.
    weights, log_weights : ndarray of shape (n_components,)
        Σγu and Σγ E[log u], where the u are expectations of the rows' scale weights.
    """

    gaussian: Any
    weights: Array
    log_weights: Array


class StudentTKernel:
    """A Gaussian kernel gives δ = (x − μ)ᵀ Σ⁻¹ (x − μ) of rows and adds their moments; between them lies u.

    With the weights' scale α (see `StudentTComponent`) u = α (ν + d) / (ν + δ). Its inverse is linear in the Gaussian
    log-density, so that the products of the Gaussian kernel give it at once, and its logarithm gives the log-density of
    the t distribution.

    Parameters
    ----------
    gaussian : GaussianKernel
    constants : ndarray of shape (n_components,)
        Log-densities of the Gaussians at their means.
    dofs, scales : ndarray of shape (n_components,)
        ν and α.
    n_features : int
    """

    def __init__(self, gaussian: GaussianKernel, constants: Array, dofs: Array, scales: Array, n_features: int) -> None:
        d = float(n_features)
        powers = 0.5 * (dofs + d)
        divisors = scales * (dofs + d)
        self.gaussian = gaussian.linear(-2.0 / divisors, (dofs + 2.0 * constants) / divisors)
        self.powers = -powers[:, np.newaxis]
        at_centre = constants + 0.5 * d * math.log(2.0 * math.pi) + log_constants(dofs, n_features)
        self.offsets = (at_centre - powers * (np.log1p(d / dofs) + np.log(scales)))[:, np.newaxis]
        # E[log u] − log E[u]
        self.log_means = digamma(powers) - np.log(powers)
        self.trusted_above = -math.inf
        if gaussian.trusted_above > -math.inf:
            # The δ that the Gaussian trusts.
            reach = np.maximum(2.0 * (constants - gaussian.trusted_above), 0.0)
            self.trusted_above = float(np.max(at_centre - powers * np.log1p(reach / dofs)))
        self.clear()

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        return self.gaussian.block_rows_with(2 * len(self.powers))

    def clear(self) -> None:
        """Start the sums anew, in a workspace of its own."""
        self.gaussian = fresh(self.gaussian)
        self.workspace = Workspace()
        self.counts, self.weights, self.log_weights = np.zeros((3, len(self.powers)))

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        names = ("powers", "offsets", "log_means")
        some = {name: getattr(self, name)[which] for name in names}
        return fresh(self, gaussian=self.gaussian.take(which), **some)

    def block(self, chunk: RowBlock) -> StudentTBlock:
        """Return rows in the forms that the Gaussians need."""
        return StudentTBlock(self, self.gaussian.block(chunk))

    def statistics(self) -> StudentTStatistics:
        """Return what was accumulated."""
        log_weights = self.counts * self.log_means - self.log_weights
        return StudentTStatistics(self.gaussian.statistics(), self.weights, log_weights)


class StudentTBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    _inverse: NDArray[Any] | None = None
    _logarithm: NDArray[Any]

    def __init__(self, kernel: StudentTKernel, gaussian: Block) -> None:
        self._kernel, self._gaussian = kernel, gaussian

    def log_density(self) -> NDArray[Any]:
        """Return log p(row | component), shape (n_components, n)."""
        kernel, inverse = self._kernel, self._gaussian.log_density()
        shape, dtype = inverse.shape, inverse.dtype
        self._inverse = inverse
        self._logarithm = np.log(inverse, out=kernel.workspace.array("log", shape, dtype))
        density = kernel.workspace.array("density", shape, dtype)
        np.multiply(self._logarithm, kernel.powers.astype(dtype, copy=False), out=density)
        density += kernel.offsets.astype(dtype, copy=False)
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._gaussian.forget(which)
        inverse = self._inverse_weights()
        inverse[:, which], self._logarithm[:, which] = 1.0, 0.0

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add Σγ, Σγu, Σγ log u and the moments under γu."""
        kernel, inverse = self._kernel, self._inverse_weights()
        ones = constant_row(1.0, inverse.shape[1], inverse.dtype)  # products with it are faster than sums
        kernel.counts += np.dot(responsibilities, ones)
        kernel.log_weights += np.vecdot(responsibilities, self._logarithm)
        weights = np.divide(responsibilities, inverse, out=inverse)
        kernel.weights += np.dot(weights, ones)
        self._gaussian.accumulate(weights)

    def _inverse_weights(self) -> NDArray[Any]:
        """Return 1/u, shape (n_components, n)."""
        if self._inverse is None:
            self.log_density()
        inverse: Any = self._inverse
        return np.asarray(inverse)
