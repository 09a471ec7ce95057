"""Rows with missing values under covariances that are matrices: one marginal distribution per pattern and component.

With the root A of a covariance, Σ = A Aᵀ = (U Uᵀ)⁻¹, and the rows A_o of the observed features, A_oᵀ = Q R gives all
that a pattern needs: Σ_oo = RᵀR, and in a component's own frame y = Uᵀ(x − μ), where the covariance is the identity,
the completed row is E[y | x_o] = Q y_o with y_o = R⁻ᵀ(x_o − μ_o), and Cov[y | x_o] = I − Q Qᵀ. So the statistics of the
pattern, those of an ordinary kernel at the marginal parameters, are completed without any row being filled in, and
without the covariances of nearly dependent features ever being inverted.

References
----------
Little, R. J. A. and Rubin, D. B. (2002). Statistical Analysis with Missing Data, section 11.2. Wiley.
Ghahramani, Z. and Jordan, M. I. (1994). Supervised learning from incomplete data via an EM approach. NIPS 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Block, RowBlock
from dem.families.gaussian.covariance import LOG_2PI, GaussianParameters, GaussianStatistics
from dem.families.gaussian.frame import Frame
from dem.families.gaussian.full_kernel import FullKernel
from dem.families.gaussian.kernel import OwnCovarianceBlock
from dem.families.workspace import fresh

# What the patterns of an E-step may keep; those beyond it are derived anew for every chunk.
KEPT_BYTES = 128 * 2**20
#: makes statistics as the M-step expects them of Σγy, Σγyyᵀ in own frames and Σγ, of every component
Finish = Callable[[Array, Array, Array], GaussianStatistics]


@dataclass(frozen=True, eq=False)
class Marginal:
    """The marginal distribution of one pattern.

    Attributes
    ----------
    missing : ndarray of bool, shape (n_features,)
    means : ndarray of shape (n_components, n_observed)
    factors : ndarray of shape (n_components, n_observed, n_observed)
        Upper-triangular R⁻¹ with R⁻¹R⁻ᵀ = Σ_oo⁻¹.
    basis : ndarray of shape (n_components, n_features, n_observed)
        Q, which takes y_o to the own frame of the component.
    kernel : FullKernel, optional
        None where nothing is observed.
    """

    missing: NDArray[np.bool_]
    means: Array
    factors: Array
    basis: Array
    kernel: FullKernel | None


class Marginals:
    """The marginal distributions at certain parameters, each made when it is first asked for.

    Parameters
    ----------
    means : ndarray of shape (n_components, n_features)
        In the frame.
    factors : ndarray of shape (n_components, n_features, n_features)
        Upper-triangular U with U Uᵀ = precision.
    frame : Frame
    """

    def __init__(self, means: Array, factors: Array, frame: Frame) -> None:
        self.means, self.frame = means, frame
        # Aᵀ = U⁻¹, upper-triangular.
        self.roots = np.triu(np.linalg.inv(factors))
        self._kept: dict[bytes, Marginal] = {}
        self._most = most_kept(*means.shape)

    def of(self, missing: NDArray[np.bool_]) -> Marginal:
        """Return the marginal distribution of what a pattern, shape (n_features,), does not lack."""
        key = missing.tobytes()
        found = self._kept.get(key)
        if found is None:
            found = self._make(missing)
            if len(self._kept) < self._most:
                self._kept[key] = found
        return found

    def _make(self, missing: NDArray[np.bool_]) -> Marginal:
        (observed,) = np.nonzero(~missing)
        basis, upper = np.linalg.qr(self.roots[:, :, observed])
        signs = np.where(np.diagonal(upper, axis1=1, axis2=2) < 0.0, -1.0, 1.0)
        basis, upper = basis * signs[:, np.newaxis], upper * signs[:, :, np.newaxis]
        factors, means = np.triu(np.linalg.inv(upper)), self.means[:, observed]
        if not len(observed):
            return Marginal(missing, means, factors, basis, None)
        frame = Frame(self.frame.origin[observed], self.frame.scale[observed])
        constant = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        constant -= 0.5 * len(observed) * LOG_2PI + np.log(frame.scale).sum()
        parameters = GaussianParameters(means, upper.swapaxes(1, 2) @ upper, factors)
        return Marginal(missing, means, factors, basis, FullKernel(parameters, frame, constant, single=False))

    def conditional_means(self, marginal: Marginal, rows: Array, k: int) -> Array:
        """Return E[row | what is observed] in component k, of rows (n, n_features) of one pattern, in user's units."""
        there = ~marginal.missing
        inner = (rows[:, there] - self.frame.origin[there]) / self.frame.scale[there]
        own = (inner - marginal.means[k]) @ marginal.factors[k] @ marginal.basis[k].T
        means: Array = (self.means[k] + own @ self.roots[k]) * self.frame.scale + self.frame.origin
        return np.where(there, rows, means)


def most_kept(n_components: int, n_features: int) -> int:
    """Return for how many patterns the marginal distributions are kept during an E-step."""
    return KEPT_BYTES // (8 * n_components * (4 * n_features**2 + 8 * n_features + 64))


class MarginalKernel:
    """The arithmetic of an E-step for the rows of one pattern."""

    trusted_above = -np.inf

    def __init__(self, marginal: Marginal, finish: Finish) -> None:
        self.marginal, self.finish = marginal, finish
        self.inner = None if marginal.kernel is None else fresh(marginal.kernel)
        self.counts = np.zeros(len(marginal.means))
        self.observed = np.flatnonzero(~marginal.missing)

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        return 8192 if self.inner is None else self.inner.block_rows

    def block(self, chunk: RowBlock) -> MarginalBlock:
        """Return what is observed of rows in the forms that the components need."""
        return MarginalBlock(self, chunk.rows)

    def statistics(self) -> GaussianStatistics:
        """Return the completed statistics."""
        marginal, counts = self.marginal, self.counts
        n, d = counts[:, np.newaxis, np.newaxis], len(marginal.missing)
        unseen = n * np.eye(d)
        if self.inner is None:
            return self.finish(np.zeros((len(counts), d)), unseen, counts)
        sums, wide = self.inner.statistics(), self.inner.plan.wide
        first, second = sums.first, sums.second
        if len(wide):  # from moments of x_o to those of y_o
            means, factors, own = marginal.means[wide], marginal.factors[wide], counts[wide, np.newaxis]
            cross = first[wide, :, np.newaxis] * means[:, np.newaxis]
            centred = second[wide] - cross - cross.swapaxes(1, 2)
            centred += (own * means)[:, :, np.newaxis] * means[:, np.newaxis]
            second[wide] = factors.swapaxes(1, 2) @ centred @ factors
            first[wide] = np.matmul((first[wide] - own * means)[:, np.newaxis], factors)[:, 0]
        basis = marginal.basis
        second = basis @ (second - n * np.eye(len(self.observed))) @ basis.swapaxes(1, 2) + unseen
        return self.finish(np.matmul(basis, first[:, :, np.newaxis])[:, :, 0], second, counts)


class MarginalBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, kernel: MarginalKernel, rows: NDArray[Any]) -> None:
        self._kernel, self._n_rows = kernel, len(rows)
        self._inner: Block | None = None
        if kernel.inner is not None:
            self._inner = OwnCovarianceBlock(kernel.inner, rows[:, kernel.observed])

    def log_density(self) -> NDArray[Any]:
        """Return the log-density of what is observed, shape (n_components, n)."""
        if self._inner is None:
            return np.zeros((len(self._kernel.counts), self._n_rows))
        return self._inner.log_density()

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        if self._inner is not None:
            self._inner.forget(which)

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add the statistics of the rows, weighted, to those of the kernel."""
        self._kernel.counts += responsibilities.sum(axis=1)
        if self._inner is not None:
            self._inner.accumulate(responsibilities)
