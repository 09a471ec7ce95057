"""Starts of mixtures of regressions: many short runs of EM on some rows, the likeliest of which goes on."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.random import RandomState

from dem.families.base import Array
from dem.families.regression.kernel import matrices, products_of
from dem.families.regression.least_squares import solved

# Runs, half of which begin at neighbours; rows that are looked at, times two for each coefficient at least; iterations
# of all runs, and in all of the best.
RUNS, ROWS, STEPS, BEST, LAST_STEPS = 30, 2000, 25, 3, 100
# Products of numbers that all runs take together at most, as far as some of them allow.
MOST_WORK, FEWEST_RUNS = 2e10, 6
# The least deviation of residuals and of a weight, as a share of those of a single regression, and of an equal one.
_LEAST = 1e-6
# Log-likelihoods per row that are the same.
_SAME = 1e-6
# Lines (n_components, q), variances and shares (n_components,), and with the log-likelihood that they came to.
_Lines: TypeAlias = tuple[Array, Array, Array]
_Run: TypeAlias = tuple[float, _Lines]


def short_em(
    z: Array, response: Array, weights: Array | None, n_components: int, random_state: RandomState, *, intercept: bool
) -> Array:
    """Return responsibilities of rows for lines that are likely, shape (n, n_components).

    Half of the runs begin at random responsibilities, from which EM parts lines slowly that are nearly the same at
    first; the others at the lines through the neighbours of some rows, which mostly belong together also where lines
    cross. The likeliest go on (Biernacki, Celeux and Govaert 2003), and the likeliest of these is what is returned.

    Parameters
    ----------
    z : ndarray of shape (q, n)
        1 and the design of each row, of about unit scale.
    response : ndarray of shape (n,)
    weights : ndarray of shape (n,), optional
    n_components : int
    random_state : numpy.random.RandomState
    intercept : bool
        Whether lines have one.

    References
    ----------
    Biernacki, C., Celeux, G. and Govaert, G. (2003). Choosing starting values for the EM algorithm for getting the
    highest likelihood in multivariate Gaussian mixture models. Computational Statistics and Data Analysis 41.
    """
    q, n = z.shape
    if n_components == 1:
        return np.ones((n, 1))
    weights = np.ones(n) if weights is None else weights / weights.mean()
    n_used = min(n, max(ROWS, 2 * q * n_components))
    some = np.sort(random_state.choice(n, n_used, replace=False)) if n_used < n else np.arange(n)
    work = float(n_used) * n_components * q * q * STEPS
    n_runs = int(min(max(MOST_WORK / work, FEWEST_RUNS), RUNS))
    rows = _Rows(z[:, some], response[some], weights[some], intercept=intercept)
    runs = [rows.run(rows.begun(n_components, random_state, near=t % 2 == 0), STEPS) for t in range(n_runs)]
    ended = [rows.run(one, LAST_STEPS) for one in _likeliest(runs, BEST, n_used)]
    ((lines, variances, shares),) = _likeliest(ended, 1, n_used)
    _, found = _expected(response - lines @ z, variances, shares)
    return found.T


def _likeliest(runs: list[_Run], n_wanted: int, n_rows: int) -> list[_Lines]:
    """Return the likeliest of some runs: of those that came to the same, which differ in rounding, the first."""
    left = list(runs)
    found: list[_Lines] = []
    while left and len(found) < n_wanted:
        least = max(total for total, _ in left) - _SAME * n_rows
        found.append(left.pop(next(place for place, (total, _) in enumerate(left) if total >= least))[1])
    return found


class _Rows:
    """Rows, and short runs of EM on them."""

    def __init__(self, z: Array, response: Array, weights: Array, *, intercept: bool) -> None:
        self.z, self.response, self.weights, self.intercept = z, response, weights, intercept
        self.triangles = products_of(z).T
        everything = matrices((weights @ self.triangles)[np.newaxis])
        self.of_all, _ = solved(everything, (z @ (weights * response))[np.newaxis], intercept=intercept)
        residuals = response - self.of_all[0] @ z
        # Of a response that is constant the residuals are rounding.
        least = max(np.finfo(np.float64).eps * float(np.abs(response).max()), 1e-150) ** 2
        self.variance = max(float(np.average(residuals**2, weights=weights)), least)

    def begun(self, n_components: int, random_state: RandomState, *, near: bool) -> _Lines:
        """Return a beginning: lines through neighbours of random rows, or of random responsibilities."""
        q, n = self.z.shape
        equal = np.full(n_components, 1.0 / n_components)
        before = np.repeat(self.of_all, n_components, axis=0), np.full(n_components, self.variance), equal
        if not near:
            found = random_state.uniform(size=(n_components, n))
            return self.through(found / found.sum(axis=0), before)
        points = np.vstack([self.z[1:], self.response])
        group = np.zeros((n_components, n))
        for own, row in zip(
            group, random_state.choice(n, n_components, p=self.weights / self.weights.sum()), strict=True
        ):
            away = np.sum((points - points[:, [row]]) ** 2, axis=0)
            own[np.argpartition(away, min(3 * q, n) - 1)[: 3 * q]] = 1.0
        lines, _, _ = self.through(group, before)
        return lines, before[1], equal

    def run(self, start: _Lines, n_steps: int) -> _Run:
        """Return the log-likelihood after some iterations, and where these end."""
        now = start
        for _ in range(n_steps):
            _, found = _expected(self.response - now[0] @ self.z, now[1], now[2])
            now = self.through(found, now)
        totals, _ = _expected(self.response - now[0] @ self.z, now[1], now[2])
        return float(self.weights @ totals), now

    def through(self, found: Array, before: _Lines) -> _Lines:
        """Return the M-step of responsibilities; what rows leave open is as before."""
        shares = found * self.weights
        counts = shares.sum(axis=1)
        there = counts > _LEAST
        residuals = self.response - before[0] @ self.z
        lines, variances = np.array(before[0]), np.array(before[1])
        products = matrices(shares[there] @ self.triangles)
        moments = (shares[there] * residuals[there]) @ self.z.T
        step, gain = solved(products, moments, intercept=self.intercept)
        lines[there] += step
        squares = np.vecdot(shares[there], residuals[there] ** 2) - gain
        variances[there] = np.maximum(squares / counts[there], _LEAST * self.variance)
        weights = np.maximum(counts / counts.sum(), _LEAST / len(counts))
        return lines, variances, weights / weights.sum()


def _expected(residuals: Array, variances: Array, shares: Array) -> tuple[Array, Array]:
    """Return the log-density of each row, but for a constant, and its responsibilities, (n_components, n)."""
    joint = residuals**2 * (-0.5 / variances)[:, np.newaxis]
    joint += (np.log(shares) - 0.5 * np.log(variances))[:, np.newaxis]
    most = joint.max(axis=0)
    np.exp(joint - most, out=joint)
    total = joint.sum(axis=0)
    return most + np.log(total), joint / total
