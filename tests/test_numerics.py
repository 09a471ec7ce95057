"""Numbers stay good far from the origin, for badly scaled columns, tight clusters and near-singular covariances."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from cases import chunk_of, gaussian_rows

import dem
from dem.families.expectation import normalise
from dem.families.gaussian import COVARIANCE_TYPES, diagonal, full, tied
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.families.workspace import largest_row

TYPES = ["full", "tied", "diag", "spherical"]


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.usefixtures("arithmetic")
def test_far_from_the_origin(covariance_type):
    """At mean/σ = 1e8 the data itself is rounded to 1e-8 σ; the fit must lose nothing beyond that."""
    rows = gaussian_rows()
    options = {"covariance_type": covariance_type, "random_state": 0, "tol": 1e-6, "reg_covar": 0.0}
    near = dem.GaussianMixture(3, **options).fit(rows)
    far = dem.GaussianMixture(3, **options).fit(rows + 1e8)
    np.testing.assert_array_equal(far.predict(rows + 1e8), near.predict(rows))
    np.testing.assert_allclose(far.covariances_, near.covariances_, rtol=0, atol=2e-6)
    np.testing.assert_allclose(far.means_ - 1e8, near.means_, atol=2e-6)
    np.testing.assert_allclose(far.weights_, near.weights_, atol=1e-6)
    assert far.n_iter_ == near.n_iter_


@pytest.mark.parametrize("covariance_type", TYPES)
def test_exact_shift_changes_nothing(covariance_type):
    """Rows on a grid of 2⁻²⁰ survive a shift by 2²⁷ exactly: then the results must agree to 1e-10."""
    rows = np.round(gaussian_rows() * 2**20) / 2**20
    shift = 2.0**27
    options = {"covariance_type": covariance_type, "random_state": 0, "tol": 1e-6, "reg_covar": 0.0}
    near = dem.GaussianMixture(3, **options).fit(rows)
    far = dem.GaussianMixture(3, **options).fit(rows + shift)
    np.testing.assert_allclose(far.covariances_, near.covariances_, rtol=0, atol=1e-10 * 9)
    np.testing.assert_allclose(far.weights_, near.weights_, rtol=1e-10)
    np.testing.assert_allclose(far.means_ - shift, near.means_, atol=1e-7)  # rounding of the shifted means
    np.testing.assert_allclose(far.lower_bounds_, near.lower_bounds_, rtol=1e-10)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_badly_scaled_columns(covariance_type):
    rows = gaussian_rows()
    scale = np.array([1e-6, 1.0, 1e6])
    start = {"weights_init": [0.5, 0.3, 0.2]}
    centres = rows[[0, 1, 2]]
    options = {"covariance_type": covariance_type, "tol": 1e-6, "reg_covar": 0.0, **start}
    precision = {"full": np.array([np.eye(3)] * 3), "tied": np.eye(3), "diag": np.ones((3, 3))}[covariance_type]
    scaled_precision = {
        "full": precision / np.outer(scale, scale),
        "tied": precision / np.outer(scale, scale),
        "diag": precision / scale**2,
    }[covariance_type]
    even = dem.GaussianMixture(3, means_init=centres, precisions_init=precision, **options).fit(rows)
    uneven = dem.GaussianMixture(3, means_init=centres * scale, precisions_init=scaled_precision, **options).fit(
        rows * scale
    )
    np.testing.assert_array_equal(uneven.predict(rows * scale), even.predict(rows))
    np.testing.assert_allclose(uneven.means_ / scale, even.means_, rtol=1e-9, atol=1e-10)
    square = scale**2 if covariance_type == "diag" else np.outer(scale, scale)
    np.testing.assert_allclose(uneven.covariances_ / square, even.covariances_, rtol=1e-9, atol=1e-10)


def random_mixture(covariance_type, n_features, separation, condition, seed=0):
    """A component, parameters and rows drawn from them: centres `separation` σ apart, given condition number."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(1.0, condition, n_features) ** -0.5
    rotation = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
    root = rotation * spread if covariance_type in ("full", "tied") else np.diag(spread)
    covariance = root @ root.T
    means = separation * rng.normal(size=(3, n_features))
    covariances = {
        "full": np.array([covariance] * 3),
        "tied": covariance,
        "diag": np.array([np.diag(covariance)] * 3),
        "spherical": np.full(3, np.diag(covariance).mean()),
    }[covariance_type]
    rows = means[rng.integers(3, size=400)] + rng.normal(size=(400, n_features)) @ root.T
    return covariances, means, rows


@pytest.mark.parametrize("separation", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.usefixtures("arithmetic")
def test_one_pass_against_extended_precision(covariance_type, condition, separation):
    """Log-likelihood and M-step of one pass beside the same formulas in long double."""
    n_features = 5
    covariances, means, rows = random_mixture(covariance_type, n_features, separation, condition)
    component = COVARIANCE_TYPES[covariance_type](reg_covar=0.0)
    matrices = {
        "full": lambda: covariances,
        "tied": lambda: np.array([covariances] * 3),
        "diag": lambda: np.array([np.diag(row) for row in covariances]),
        "spherical": lambda: np.array([value * np.eye(n_features) for value in covariances]),
    }[covariance_type]()
    factors = np.linalg.inv(np.linalg.cholesky(matrices)).swapaxes(1, 2)
    own_factors = {
        "full": lambda: factors,
        "tied": lambda: factors[0],
        "diag": lambda: np.diagonal(factors, axis1=1, axis2=2),
        "spherical": lambda: factors[:, 0, 0],
    }[covariance_type]()
    family = Mixture(component.adapted_to(rows))
    parameters = family.from_user(
        {
            "weights": np.full(3, 1 / 3),
            "means": means,
            "covariances": covariances,
            "precisions_cholesky": own_factors,
        }
    )
    statistics = family.e_step(parameters, chunk_of(rows))

    exact = np.longdouble
    log_joint = np.empty((3, len(rows)), dtype=exact)
    for k in range(3):
        y = (rows.astype(exact) - means[k].astype(exact)) @ factors[k].astype(exact)
        log_joint[k] = -0.5 * (y**2).sum(axis=1) + np.log(np.diag(factors[k]).astype(exact)).sum()
    log_joint += -0.5 * n_features * np.log(2 * np.pi).astype(exact) - np.log(exact(3))
    peak = log_joint.max(axis=0)
    log_norm = peak + np.log(np.exp(log_joint - peak).sum(axis=0))
    gamma = np.exp(log_joint - log_norm)
    # U itself is only known to eps · √condition, in the frame as in the user's units.
    tolerance = 1e-12 * np.sqrt(condition) * (1 + separation * 1e-3) + 1e-11
    assert abs(statistics.log_likelihood / len(rows) - float(log_norm.mean())) < 1e3 * tolerance

    updated = family.to_user(family.m_step(statistics, parameters))
    for k in range(3):
        count = gamma[k].sum()
        mean = (gamma[k] @ rows.astype(exact)) / count
        whitened = (updated["means"][k] - mean) @ factors[k].astype(exact)
        assert np.abs(whitened).max() < 1e3 * tolerance
        if covariance_type == "full":
            centred = (rows.astype(exact) - mean) @ factors[k].astype(exact)
            expected = (gamma[k] * centred.T) @ centred / count
            found = factors[k].T @ updated["covariances"][k] @ factors[k]
            # The covariance itself (not its factor) is stored to eps · condition in whitened units.
            assert np.abs(found - expected).max() < 1e-14 * condition + 1e3 * tolerance


def test_the_right_kernel_is_chosen():
    def parameters(covariance_type, separation):
        _, means, rows = random_mixture(covariance_type, 4, separation, 1.0)
        family = Mixture(COVARIANCE_TYPES[covariance_type]())
        responsibilities = np.eye(3)[np.arange(400) % 3]
        return family.start(rows, responsibilities).components, means

    for kind, chooser in (("full", full.plan_for), ("tied", tied.plan_for)):
        start, means = parameters(kind, 1.0)
        assert len(chooser(start).own) == 0
        tight = type(start)(1e6 * means, start.covariances, start.precisions_cholesky)
        assert len(chooser(tight).own) == 3
    assert len(diagonal.plan_for(np.ones((2, 3)), np.ones((2, 3))).own) == 0
    assert diagonal.plan_for(np.array([[1e6, 0.0], [1.0, 0.0]]), np.ones((2, 2))).own.tolist() == [0]


@pytest.mark.usefixtures("arithmetic")
def test_rows_far_from_every_component_keep_a_finite_likelihood():
    joint = np.array([[-1e300, -np.inf, 0.0], [-2e300, -np.inf, -800.0]])
    log_norm = normalise(joint, joint.max(axis=0))
    assert log_norm.tolist() == [-1e300, -np.inf, 0.0]
    assert joint[:, 0].tolist() == pytest.approx([1.0, 0.0], abs=1e-200)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.usefixtures("arithmetic")
def test_an_empty_component_spreads_no_nan(covariance_type):
    rows = gaussian_rows()
    means = np.array([[0.0, 0.0, 1.0], [5.0, 1.0, -2.0], [1e6, 1e6, 1e6]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = dem.GaussianMixture(
            3, covariance_type=covariance_type, means_init=means, random_state=0, max_iter=5
        ).fit(rows)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        assert np.isfinite(getattr(fitted, name)).all(), name
    assert np.isfinite(fitted.lower_bounds_).all()


def test_responsibilities_leave_room_for_products_of_normal_numbers():
    # Denormal numbers make an iteration on well separated components take twice as long.
    means = np.array([[-40.0], [40.0]])
    model = dem.GaussianMixture(2, means_init=means, precisions_init=np.ones((2, 1, 1)), weights_init=[0.5, 0.5])
    responsibilities = model.fit(np.repeat(means, 50, axis=0) + np.tile([-1.0, 1.0], 50)[:, np.newaxis]).predict_proba(
        means
    )
    assert np.allclose(responsibilities, np.eye(2), rtol=0.0, atol=1e-200)
    assert 1e-20 * responsibilities.min() > np.finfo(float).tiny


def test_parameters_survive_the_frame():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, 3)) * [1e-3, 1.0, 1e4] + [1.0, 1e6, -3.0]
    for covariance_type in TYPES:
        family = Mixture(COVARIANCE_TYPES[covariance_type]().adapted_to(rows))
        start = family.start(rows, np.eye(2)[np.arange(100) % 2])
        back = family.from_user(family.to_user(start))
        assert isinstance(back, MixtureParameters)
        # The origin is stored within the means: they come back to eps times its size in units of the scale.
        np.testing.assert_allclose(back.components.means, start.components.means, atol=1e-9)
        np.testing.assert_allclose(back.components.covariances, start.components.covariances, rtol=1e-15)


def test_the_first_of_the_largest_labels_a_column():
    values = np.array([[1.0, 2.0, -np.inf, np.nan], [1.0, 3.0, -np.inf, 1.0], [0.0, 3.0, -np.inf, 2.0]])
    assert largest_row(values).tolist() == [0, 1, 0, 0]
