"""Negative binomial components: independent counts in each feature, more scattered than Poisson's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln

from dem.families.base import NEGLIGIBLE, Array, RowBlock, Support
from dem.families.exponential_family import ExponentialFamily
from dem.families.exponential_kernel import Totals
from dem.families.factorials import excess, stirling
from dem.families.tabulated import TableKernel
from dem.families.unconstrained import Vector
from dem.sparse import is_sparse

# Between these the M-step looks for r. Beyond, the density differs from that of r → 0 or from Poisson's by nothing.
LEAST, MOST = 1e-6, 1e6
# Between these a start lies: from the edges EM takes long to come away.
_START = 0.01, 100.0
# Keeps log μ finite where all rows of a component count 0.
SMALLEST = 1e-12
# From this r on, Γ and ψ come from Stirling's series, whose terms here leave less than 1e-15.
_SERIES_FROM = 50.0
_SPARSE_BLOCK_ROWS = 4096
# Sums of fewer terms are made term by term.
_FEW = 10
# From this x on, and four times r, Γ(x + r)/x! and (μ/(r + μ))ˣ are computed as they are: their parts would cancel.
_FAR = 4096.0


@dataclass(frozen=True)
class NegativeBinomialComponent(ExponentialFamily):
    """Each feature x counts with mean μ and variance μ + μ²/r: p(x) = Γ(x + r)/(Γ(r) x!) (μ/(r + μ))ˣ (r/(r + μ))ʳ.

    Such a count is a sum of l logarithmic numbers, where l is Poisson with mean r log(1 + μ/r) (Quenouille 1949). EM
    takes l as missing: of x and l the density is an exponential family, and E[l | x] = Σ_{j<x} r/(r + j). Its M-step
    takes the weighted mean for μ, and the r with r log(1 + μ/r) = ΣγE[l | x]/Σγ. (Without l: in log r the sum
    Σ_{j<x} log(r + j) is convex, and the tangent below it has that slope.) What is added is not l but x − l =
    Σ_{j<x} j/(r + j), which keeps its digits where r is large.

    The parameters are μ and, behind them, r.

    Parameters
    ----------
    size : float, optional
        r at the start; by moments where left out.
    fit_size : {'free', 'shared', 'fixed'}
        Whether r is one for each component and feature, one for each feature, or stays as it started.

    References
    ----------
    Quenouille, M. H. (1949). A relation between the logarithmic, Poisson, and negative binomial series. Biometrics 5.
    Adamidis, K. (1999). An EM algorithm for estimating negative binomial parameters. Australian & New Zealand Journal
    of Statistics 41.
    """

    has_conjugates: ClassVar[bool] = False
    size: float | None = None
    fit_size: str = "free"
    name: ClassVar[str] = "negative_binomial"
    takes_sparse: ClassVar[bool] = True
    parameters: ClassVar[tuple[str, ...]] = ("means", "sizes")
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((0.0, np.inf), (LEAST, MOST))
    support: ClassVar[Support] = Support("whole numbers of at least 0", lowest=0.0, whole=True)

    def natural_parameters(self, parameters: Array) -> tuple[Array, Array]:
        """Return log(μ/(1 + μ/r)) and −log r for x and x − l, and r log(1 + μ/r)."""
        means, sizes = _cut(parameters)
        logs = np.log1p(means / sizes)
        return np.hstack([np.log(means) - logs, -np.log(sizes)]), sizes * logs

    def mean_parameters(self, parameters: Array) -> Array:
        """Return μ and μ − r log(1 + μ/r)."""
        means, sizes = _cut(parameters)
        return np.hstack([means, sizes * excess(means / sizes)])

    def expectations(self, parameters: Array) -> Array:
        """Return μ."""
        return np.hsplit(parameters, 2)[0]

    def from_mean_parameters(self, means: Array) -> Array:
        """Return μ, and the r of each component and feature."""
        own, deficits = np.hsplit(means, 2)
        sizes = solve(own.reshape(1, -1), deficits.ravel(), np.ones((1, own.size)), np.ones(own.size))
        return np.hstack([own, sizes.reshape(own.shape)])

    # Densities come from tables: see `dem.families.tabulated` --------------------------------------------------

    def log_densities(self, parameters: Array, columns: NDArray[np.intp], values: Array) -> Array:
        """Return the log-densities of values in features, shape (n_components, n)."""
        means, sizes = (part[:, columns] for part in _cut(parameters))
        logs = np.log1p(means / sizes)
        steps = rising(values, sizes) - gammaln(values + 1.0) + values * (np.log(means) - logs)
        far = values >= np.maximum(_FAR, 4.0 * sizes)
        return np.where(far, far_steps(np.maximum(values, _FAR), means, sizes), steps) - sizes * logs

    def add_pairs(self, sums: Array, parameters: Array, columns: NDArray[np.intp], values: Array, often: Array) -> None:
        """Add x and E[x − l | x]."""
        first = np.flatnonzero(np.diff(columns, prepend=-1))
        d = parameters.shape[1] // 2
        lacking = deficit(values, _cut(parameters)[1][:, columns])
        sums[:, columns[first]] += np.add.reduceat(often * values, first, axis=1)
        sums[:, d + columns[first]] += np.add.reduceat(often * lacking, first, axis=1)

    def kernel(self, parameters: Array, dtype: np.dtype[Any], *, exact: bool = False) -> TableKernel:  # type: ignore[override]  # noqa: ARG002
        """Return the arithmetic of an E-step at `parameters`: double precision for rows of any dtype."""
        return TableKernel(self, parameters, parameters.shape[1] // 2)

    def kernel_for(self, parameters: Array, chunk: RowBlock, *, exact: bool = False) -> TableKernel:
        """Return the arithmetic for a chunk: sparse rows come many at a time."""
        kernel = self.kernel(parameters, chunk.rows.dtype, exact=exact)
        if is_sparse(chunk.rows):
            kernel.block_rows = _SPARSE_BLOCK_ROWS
        return kernel

    def marginals(self, parameters: Array, rows: NDArray[Any]) -> Iterator[tuple[NDArray[np.intp], TableKernel]]:  # type: ignore[override]
        """Yield all rows: one kernel knows all gaps."""
        yield np.arange(len(rows)), TableKernel(self, parameters, rows.shape[1], gaps=True)

    # Parameters ------------------------------------------------------------------------------------------------

    def start(self, sample: NDArray[Any], responsibilities: Array) -> Array:
        """Return means, one row more of the mean of all in each, and r by the variance, or as the options say."""
        rows = np.asarray(sample, dtype=np.float64)
        totals, counts = responsibilities.T @ rows, responsibilities.sum(axis=0)[:, np.newaxis]
        everywhere = totals.sum(axis=0) / counts.sum()
        means = (totals + everywhere) / (counts + 1.0)
        if self.size is not None:
            return np.hstack([means, np.full_like(means, float(self.size))])
        # Σγ(x − μ)² about these means, as sums about the mean of all rows, which do not cancel where it matters.
        away = rows - everywhere
        shift = means - everywhere
        squares = responsibilities.T @ away**2 - 2.0 * shift * (responsibilities.T @ away) + counts * shift**2
        beyond = squares / np.where(counts > 0.0, counts, 1.0) - means
        if self.fit_size == "shared":
            beyond = np.broadcast_to(np.sum(counts * beyond, axis=0), means.shape)
            above = np.broadcast_to(np.sum(counts * means**2, axis=0), means.shape)
        else:
            above = means**2
        sizes = np.where(beyond > above / _START[1], above / np.where(beyond > 0.0, beyond, 1.0), _START[1])
        return np.hstack([means, np.clip(sizes, *_START)])

    def m_step(self, statistics: Totals, counts: Array, parameters: Array) -> Array:
        """Return the maximising parameters; components without any rows, and r where all counts are 0, stay."""
        before, sizes = np.hsplit(parameters, 2)
        there = counts[:, np.newaxis] > NEGLIGIBLE
        shares = np.where(there, counts[:, np.newaxis], 0.0)
        own, deficits = np.hsplit(np.where(there, statistics.totals, 0.0), 2)
        means = np.where(there, own / np.where(there, counts[:, np.newaxis], 1.0), before)
        if self.fit_size == "shared":
            sizes = np.broadcast_to(solve(means, deficits.sum(axis=0), shares, sizes[0]), sizes.shape)
        elif self.fit_size == "free":
            ones = np.ones((1, means.size))
            own = np.where(there, deficits / np.where(there, counts[:, np.newaxis], 1.0), 0.0)
            found = solve(means.reshape(1, -1), own.ravel(), ones, sizes.ravel()).reshape(sizes.shape)
            sizes = np.where(there, found, sizes)
        return np.hstack([means, sizes])

    def n_parameters(self, parameters: Array) -> int:
        """Return one mean per component and feature, and the number of free r."""
        n_components, width = parameters.shape
        own = n_components * width // 2
        return int(own + {"free": own, "shared": width // 2, "fixed": 0}[self.fit_size])

    def unconstrained(self, parameters: Array) -> Array:
        """Return log μ and log r."""
        return np.log(np.hstack(_cut(parameters)))

    def constrained(self, numbers: Array) -> Array:
        """Return μ and r from their logarithms."""
        means, sizes = np.hsplit(numbers, 2)
        return np.hstack([np.exp(means), np.exp(np.clip(sizes, np.log(LEAST), np.log(MOST)))])

    def unconstrain(self, parameters: Array) -> Vector:
        """Return log μ, and log r as far as it is free."""
        means, sizes = np.hsplit(self.unconstrained(parameters), 2)
        if self.fit_size == "free":
            return Vector(np.hstack([means, sizes]), np.empty(0))
        return Vector(means, sizes[0] if self.fit_size == "shared" else np.empty(0))

    def constrain(self, vector: Vector, parameters: Array) -> Array:
        """Return parameters from what `unconstrain` gave."""
        if self.fit_size == "free":
            return self.constrained(vector.own)
        if self.fit_size == "shared":
            return self.constrained(np.hstack([vector.own, np.broadcast_to(vector.shared, vector.own.shape)]))
        return np.hstack([np.exp(vector.own), np.hsplit(parameters, 2)[1]])

    def reseeded(self, parameters: Array, which: NDArray[np.intp], rows: Array, weights: Array) -> Array:
        """Return parameters where some components begin at rows, as in `start`, with the r of the others, pooled."""
        means, sizes = np.hsplit(parameters, 2)
        changed = parameters.copy()
        pooled = np.exp(weights @ np.log(sizes))
        changed[which] = np.hstack([0.5 * (rows + weights @ means), np.broadcast_to(pooled, rows.shape)])
        return changed

    def sample(self, parameters: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one row of counts for each label: Poisson's, whose rates are gamma distributed."""
        means, sizes = (part[labels] for part in _cut(parameters))
        return rng.poisson(rng.gamma(sizes, means / sizes))


def _cut(parameters: Array) -> tuple[Array, Array]:
    """Return μ, at a distance from 0, and r."""
    means, sizes = np.hsplit(parameters, 2)
    return np.maximum(means, SMALLEST), sizes


def far_steps(x: Array, mean: Array, r: Array) -> Array:
    """Return log Γ(x + r) − log x! − log Γ(r) + x log(μ/(r + μ)) of large x and smaller r, to the digits of the sum."""
    ratio = (x + 0.5) * np.log1p((r - 1.0) / (x + 1.0)) + (r - 1.0) * (np.log(x + r) - 1.0)
    return np.asarray(ratio + stirling(x + r) - stirling(x + 1.0) - gammaln(r) - x * np.log1p(r / mean))


def rising(x: Array, r: Array) -> Array:
    """Return Σ_{j<x} log(1 + j/r) = log Γ(x + r) − log Γ(r) − x log r."""
    far = np.maximum(r, _SERIES_FROM)
    series = (x + far - 0.5) * np.log1p(x / far) - x + stirling(x + far) - stirling(far)
    far_off = np.where(r > _SERIES_FROM, series, gammaln(x + r) - gammaln(r) - x * np.log(r))
    return np.where(x < _FEW, sum(np.where(x > j, np.log1p(j / r), 0.0) for j in range(1, _FEW)), far_off)


def deficit(x: Array, r: Array) -> Array:
    """Return Σ_{j<x} j/(r + j) = x − r (ψ(x + r) − ψ(r)), not negative."""
    far = np.maximum(r, _SERIES_FROM)

    def rest(y: Array) -> Array:
        return np.asarray((1.0 / 12.0 - (1.0 / 120.0 - 1.0 / (252.0 * y**2)) / y**2) / y**2)

    series = far * (excess(x / far) + rest(x + far) - rest(far)) - 0.5 * x / (x + far)
    far_off = np.where(r > _SERIES_FROM, series, x - r * (digamma(x + r) - digamma(r)))
    # Rounding of what is exactly 0, for counts of 1, would tell of scatter where there is none.
    return np.where(x < _FEW, sum(np.where(x > j, j / (r + j), 0.0) for j in range(1, _FEW)), far_off)


def solve(means: Array, deficits: Array, shares: Array, before: Array) -> Array:
    """Return the r, shape (m,), with Σ_k n (μ − r log(1 + μ/r)) = deficits, (m,), within bounds.

    `means` and `shares` n are of shape (k, m). The sum falls from Σnμ to 0 as r grows. Newton's method for log r, kept
    between bounds by bisection. Where there are no counts at all, r stays as it was `before`.
    """
    least, most = np.full_like(deficits, np.log(LEAST)), np.full_like(deficits, np.log(MOST))
    wanted = np.log(np.maximum(deficits, np.finfo(np.float64).tiny))
    logs = np.clip(np.log(before), least, most)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(100):
            r = np.exp(logs)
            u = means / r
            over = excess(u)
            total = np.sum(shares * r * over, axis=0)
            slope = np.sum(shares * r * (over - u**2 / (1.0 + u)), axis=0) / total
            off = np.log(total) - wanted
            least, most = np.where(off > 0.0, logs, least), np.where(off > 0.0, most, logs)
            next_logs = logs - off / slope
            inside = (next_logs > least) & (next_logs < most)
            next_logs = np.where(inside, next_logs, 0.5 * (least + most))
            moved = np.abs(next_logs - logs)
            logs = next_logs
            if not (moved > 1e-14 * np.maximum(np.abs(logs), 1.0)).any():
                break
    none = np.sum(shares * means, axis=0) <= 0.0
    return np.where(none, before, np.exp(logs))
