"""The same start gives scikit-learn's numbers, to 1e-10 relative in every attribute; and its contract holds."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from agreement import OF_CLASSIFIERS, assert_close
from cases import gaussian_rows
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Peer
from sklearn.utils.estimator_checks import parametrize_with_checks
from sources import CutRows

import dem

TYPES = ["full", "tied", "diag", "spherical"]
ATTRIBUTES = (
    "weights_",
    "means_",
    "covariances_",
    "precisions_",
    "precisions_cholesky_",
    "converged_",
    "n_iter_",
    "lower_bound_",
)
PRECISION_SHAPES = {"full": (4, 6, 6), "tied": (6, 6), "diag": (4, 6), "spherical": (4,)}


def wide_rows(n_rows: int = 2000, n_features: int = 6, seed: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(4, n_features))
    mixing = np.eye(n_features) + 0.3 * rng.normal(size=(n_features, n_features))
    return centres[rng.integers(4, size=n_rows)] + rng.normal(size=(n_rows, n_features)) @ mixing + 2.0


@parametrize_with_checks([dem.GaussianMixture()], expected_failed_checks=lambda _: OF_CLASSIFIERS)
def test_check_estimator(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:components .* are duplicates")
def test_own_start_is_the_same(covariance_type, init):
    rows = wide_rows()
    options = {"covariance_type": covariance_type, "init_params": init, "random_state": 5, "max_iter": 20}
    ours, theirs = dem.GaussianMixture(4, **options).fit(rows), Peer(4, **options).fit(rows)
    assert_close(ours, theirs, ATTRIBUTES)
    # Around a single row scikit-learn's first variances are reg_covar plus its rounding of x²: 1e-8 of reg_covar.
    from_single_rows = init in ("k-means++", "random_from_data") and covariance_type in ("diag", "spherical")
    assert_close(ours, theirs, ("lower_bounds_",), 1e-6 if from_single_rows else 1e-10)
    np.testing.assert_array_equal(ours.predict(rows), theirs.predict(rows))
    np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), atol=1e-10)
    np.testing.assert_allclose(ours.score_samples(rows), theirs.score_samples(rows), rtol=1e-10, atol=1e-10)
    for criterion in ("bic", "aic", "score"):
        assert getattr(ours, criterion)(rows) == pytest.approx(getattr(theirs, criterion)(rows), rel=1e-10)


@pytest.mark.parametrize("n_init", [1, 3])
def test_best_of_several_starts_is_the_same(n_init):
    rows = wide_rows(seed=6)
    options = {"init_params": "random", "random_state": 1, "n_init": n_init, "tol": 1e-5, "max_iter": 300}
    assert_close(dem.GaussianMixture(4, **options).fit(rows), Peer(4, **options).fit(rows), ATTRIBUTES, 1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("given", [("weights",), ("means",), ("precisions",), ("weights", "means", "precisions")])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.usefixtures("arithmetic")
def test_given_starts(covariance_type, given):
    rows, rng = wide_rows(), np.random.default_rng(0)
    root = rng.normal(size=(6, 6)) * 0.1 + np.eye(6)
    precisions = root @ root.T if covariance_type in ("full", "tied") else np.abs(rng.normal(size=6)) + 0.5
    if covariance_type == "spherical":
        precisions = np.array(0.7)
    values = {
        "weights_init": np.array([0.1, 0.2, 0.3, 0.4]),
        "means_init": rows[[3, 77, 500, 1500]],
        "precisions_init": np.broadcast_to(precisions, PRECISION_SHAPES[covariance_type]).copy(),
    }
    chosen = {f"{name}_init": values[f"{name}_init"] for name in given}
    options = {"covariance_type": covariance_type, "random_state": 0, "max_iter": 5, **chosen}
    cut = CutRows(rows, [5, 700, 701, 1999], 2)
    assert_close(dem.GaussianMixture(4, **options).fit(cut), Peer(4, **options).fit(rows), ATTRIBUTES)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16, np.float16, np.float32, ">f8", ">i4"])
def test_kinds_of_numbers(kind):
    rows = (10 * gaussian_rows(600) + 60).clip(0, 120).astype(kind)
    options = {"random_state": 0, "max_iter": 50, "tol": 1e-2}
    ours = dem.GaussianMixture(3, dtype="float64", **options).fit(rows)
    theirs = Peer(3, **options).fit(rows.astype(np.float64))
    assert_close(ours, theirs, ATTRIBUTES)


def test_no_iterations_returns_the_start():
    rows = wide_rows()
    options = {"random_state": 0, "max_iter": 0}
    ours, theirs = dem.GaussianMixture(4, **options).fit(rows), Peer(4, **options).fit(rows)
    assert_close(ours, theirs, ("weights_", "means_", "covariances_", "n_iter_"))
    assert ours.lower_bound_ == -np.inf
    assert not ours.converged_


def test_warns_like_scikit_learn_when_it_did_not_converge():
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        dem.GaussianMixture(4, max_iter=1, random_state=0).fit(wide_rows())


def test_model_edited_by_hand():
    """As with scikit-learn, the attributes are the model."""
    rows = wide_rows()
    ours, theirs = dem.GaussianMixture(4, random_state=0).fit(rows), Peer(4, random_state=0).fit(rows)
    for model in (ours, theirs):
        model.means_ = model.means_ + 0.5
        model.weights_ = np.array([0.25, 0.25, 0.25, 0.25])
    np.testing.assert_allclose(ours.score_samples(rows), theirs.score_samples(rows), rtol=1e-9)
