"""The kernels beside the same formulas in extended precision, and beside the plain Cholesky form in double."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from cases import chunk_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dem.families.gaussian import COVARIANCE_TYPES, GaussianParameters
from dem.families.gaussian.arithmetic import SINGLE_TOLERANCE, WIDE_TOLERANCE
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters

pytestmark = pytest.mark.slow

EXACT = np.longdouble
K, N = 3, 200


@dataclass
class Problem:
    """Rows, a mixture, and its parameters as full matrices in the frame of the fit."""

    family: Mixture
    parameters: object
    rows: np.ndarray
    means: np.ndarray
    factors: np.ndarray


def problem(kind, n_features, separation, condition, offset, seed, dtype=np.float64):
    """Draw centres `separation` σ apart, covariances of a condition number, all of it `offset` σ from the origin."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(1.0, condition, n_features) ** -0.5 if n_features > 1 else np.ones(1)
    rotation = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0] if kind in ("full", "tied") else 1.0
    root = rotation * spread if kind in ("full", "tied") else np.diag(spread)
    centres = separation * rng.normal(size=(K, n_features)) * spread + offset
    rows = (centres[rng.integers(K, size=N)] + rng.normal(size=(N, n_features)) @ root.T).astype(dtype)
    family = Mixture(COVARIANCE_TYPES[kind](reg_covar=0.0).adapted_to(rows))
    frame = family.component.frame
    covariance = root @ root.T / np.outer(frame.scale, frame.scale)
    stored = {
        "full": np.array([covariance] * K),
        "tied": covariance,
        "diag": np.array([np.diag(covariance)] * K),
        "spherical": np.full(K, np.diag(covariance).mean()),
    }[kind]
    if kind in ("full", "tied"):
        factor = np.linalg.inv(np.linalg.cholesky(covariance)).T
        own = np.array([factor] * K) if kind == "full" else factor
        factors = np.array([factor] * K)
    else:
        own = 1.0 / np.sqrt(stored)
        factors = np.array([np.diag(np.broadcast_to(row, n_features)) for row in own.reshape(K, -1)])
    means = (centres - frame.origin) / frame.scale
    parameters = MixtureParameters(np.full(K, 1 / K), GaussianParameters(means, stored, own))
    return Problem(family, parameters, rows, means, factors)


def one_pass(case: Problem, kind):
    """Return log-likelihoods, counts, means and covariances after one pass, in the arithmetic of `kind`."""
    frame = case.family.component.frame
    x = (case.rows.astype(kind) - frame.origin.astype(kind)) / frame.scale.astype(kind)
    joint = np.empty((K, N), dtype=kind)
    for k in range(K):
        factor, mean = case.factors[k].astype(kind), case.means[k].astype(kind)
        y = (x - mean) @ factor
        joint[k] = -0.5 * (y**2).sum(axis=1) + np.log(np.diag(factor)).sum()
    joint -= 0.5 * x.shape[1] * np.log(2 * kind(np.pi)) + np.log(frame.scale.astype(kind)).sum() + np.log(kind(K))
    peak = joint.max(axis=0)
    log_norm = peak + np.log(np.exp(joint - peak).sum(axis=0))
    gamma = np.exp(joint - log_norm)
    counts = gamma.sum(axis=1)
    means = (gamma @ x) / counts[:, np.newaxis]
    return log_norm, gamma, counts, means, x


def errors(case: Problem):
    """Return our errors and the Cholesky form's: log-likelihood per row, and means and covariances in units of σ."""
    log_norm, gamma, counts, means, x = one_pass(case, EXACT)
    plain_norm, plain_gamma, plain_counts, plain_means, plain_x = one_pass(case, np.float64)
    statistics = case.family.e_step(case.parameters, chunk_of(case.rows))
    ours = [abs(statistics.log_likelihood / N - log_norm.mean())]
    plain = [np.abs(plain_norm.mean() - log_norm.mean())]
    updated = case.family.m_step(statistics, case.parameters).components
    for k in np.flatnonzero(counts > 5):
        factor = case.factors[k].astype(EXACT)
        ours.append(np.abs((updated.means[k] - means[k]) @ factor).max())
        plain.append(np.abs((plain_means[k] - means[k]) @ factor).max())
        if updated.covariances.ndim == 3:
            expected = (gamma[k] * ((x - means[k]) @ factor).T) @ ((x - means[k]) @ factor) / counts[k]
            # The new factor V carries the new covariance without the rounding of the matrix itself: V Vᵀ = Σ⁻¹.
            relative = np.linalg.solve(updated.precisions_cholesky[k], case.factors[k])
            ours.append(np.abs(relative.T @ relative - expected).max())
            centred = plain_x - plain_means[k]
            covariance = (plain_gamma[k] * centred.T) @ centred / plain_counts[k]
            plain.append(np.abs(factor.T @ covariance @ factor - expected).max())
    return float(max(ours)), float(max(plain))


@settings(max_examples=200)
@given(
    kind=st.sampled_from(["full", "tied", "diag", "spherical"]),
    n_features=st.integers(1, 6),
    separation=st.sampled_from([0, 1, 2, 3, 4]),
    condition=st.sampled_from([0, 2, 4, 6, 8, 10]),
    offset=st.sampled_from([0, 2, 4, 6, 8]),
    seed=st.integers(0, 10**6),
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_at_least_as_good_as_the_cholesky_form(kind, n_features, separation, condition, offset, seed):
    case = problem(kind, n_features, 10.0**separation, 10.0**condition, 10.0**offset, seed)
    ours, plain = errors(case)
    assert ours <= 20 * plain + 20 * WIDE_TOLERANCE


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("separation", [1.0, 10.0, 1e3, 1e4])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.usefixtures("arithmetic")
def test_single_precision_keeps_its_promise(kind, separation, condition):
    """Where its bound does not hold the computation is in double precision."""
    case = problem(kind, 4, separation, condition, 0.0, 1, np.float32)
    ours, plain = errors(case)
    assert ours <= 2 * SINGLE_TOLERANCE + 20 * plain


def test_single_precision_is_used_and_sums_are_double():
    case = problem("full", 4, 2.0, 1.0, 0.0, 1, np.float32)
    kernel = case.family.component.kernel(case.parameters.components, case.rows.dtype)
    assert kernel.block(chunk_of(case.rows)).log_density().dtype == np.float32
    assert kernel.statistics().second.dtype == np.float64
    tight = problem("full", 4, 1e4, 1.0, 0.0, 1, np.float32)
    kernel = tight.family.component.kernel(tight.parameters.components, tight.rows.dtype)
    assert kernel.block(chunk_of(tight.rows)).log_density().dtype == np.float64
    many = np.concatenate([case.rows] * 5000)
    one = case.family.e_step(case.parameters, chunk_of(case.rows))
    all_of_them = case.family.e_step(case.parameters, chunk_of(many))
    assert all_of_them.log_likelihood / 5000 == pytest.approx(one.log_likelihood, rel=1e-6)
    np.testing.assert_allclose(all_of_them.counts / 5000, one.counts, rtol=1e-5)
