"""float32 rows far from all components are computed in double precision: single keeps its promise for every row."""

from __future__ import annotations

import numpy as np
import pytest
from case import MEANS
from cases import gaussian_rows

import dem
from dem.families.gaussian.arithmetic import SINGLE_TOLERANCE

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
TYPES = ["full", "tied", "diag", "spherical"]


def with_far_rows(distance, seed=3):
    """Return rows of three components, one in a hundred of them `distance` σ away in some direction."""
    rng = np.random.default_rng(seed)
    rows = gaussian_rows()
    directions = rng.normal(size=(len(rows) // 100, 3))
    directions[:10] = np.eye(3)[np.arange(10) % 3]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rows[::100] = MEANS[0] + distance * directions
    return rows.astype(np.float32)


def pair(rows, covariance_type, **options):
    """Return the same model for single and for double precision."""
    precisions = {
        "full": np.array([np.eye(3)] * 3),
        "tied": np.eye(3),
        "diag": np.ones((3, 3)),
        "spherical": np.ones(3),
    }
    start = {"means_init": MEANS, "weights_init": [0.5, 0.3, 0.2], "precisions_init": precisions[covariance_type]}
    options = {"max_iter": 1, "covariance_type": covariance_type, **start, **options}
    single = dem.GaussianMixture(3, **options).fit(rows)
    double = dem.GaussianMixture(3, dtype="float64", **options).fit(rows)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        value = getattr(double, name)
        np.testing.assert_allclose(getattr(single, name), value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=name)
        setattr(single, name, value)
    assert single.lower_bound_ == pytest.approx(double.lower_bound_, abs=SINGLE_TOLERANCE)
    return single, double


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("distance", [300.0, 1e4, 1e10, 1e30])
@pytest.mark.usefixtures("arithmetic")
def test_rows_far_from_all_components(covariance_type, distance):
    near, rows = gaussian_rows().astype(np.float32), with_far_rows(distance)
    single, double = pair(near, covariance_type=covariance_type)
    np.testing.assert_allclose(
        single.score_samples(rows), double.score_samples(rows), rtol=1e-12, atol=SINGLE_TOLERANCE
    )
    np.testing.assert_allclose(single.predict_proba(rows), double.predict_proba(rows), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(single.predict(rows), double.predict(rows))


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("distance", [300.0, 1e4])
def test_a_fit_to_rows_far_from_all_components(covariance_type, distance):
    pair(with_far_rows(distance), covariance_type=covariance_type)


def test_an_ill_conditioned_tied_covariance():
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    root = rotation * np.geomspace(1.0, 1e10, 4) ** -0.5
    centres = np.array([[0.0] * 4, [2.0] * 4, [-1.0, 1.0, 2.0, 0.0]]) @ root.T
    rows = (centres[rng.integers(3, size=2000)] + rng.normal(size=(2000, 4)) @ root.T).astype(np.float32)
    options = {"means_init": centres, "precisions_init": np.linalg.inv(root @ root.T)}
    single, double = pair(rows, "tied", reg_covar=1e-14, **options)
    np.testing.assert_allclose(single.score_samples(rows), double.score_samples(rows), rtol=0, atol=SINGLE_TOLERANCE)
    np.testing.assert_allclose(single.predict_proba(rows), double.predict_proba(rows), rtol=0, atol=1e-4)
