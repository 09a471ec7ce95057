"""Values from the literature, to all digits printed there."""

from __future__ import annotations

import numpy as np
import pytest

import dem

COINS = np.array([[5], [9], [8], [4], [7]])


def coins(max_iter):
    return dem.BinomialMixture(2, 10, probabilities_init=[[0.6], [0.5]], fit_weights=False, tol=0.0, max_iter=max_iter)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("max_iter", "digits", "expected"),
    [
        (1, 5, (0.71301, 0.58134)),
        (10, 5, (0.79674, 0.51966)),
        (500, 8, (0.79678907, 0.51958312)),
    ],
)
def test_two_coins(max_iter, digits, expected):
    """Do and Batzoglou (2008), Nature Biotechnology 26."""
    fitted = coins(max_iter).fit(COINS)
    assert tuple(fitted.probabilities_.ravel().round(digits)) == expected
    np.testing.assert_array_equal(fitted.weights_, [0.5, 0.5])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("layout", ["array", "dask", "zarr"])
def test_old_faithful(faithful, layout, tmp_path):
    """Azzalini and Bowman (1990); values of mclust and others for two full covariances."""
    data = faithful
    if layout == "dask":
        import dask.array

        data = dask.array.from_array(faithful, chunks=(50, 1)).rechunk((50, 2))
    elif layout == "zarr":
        import zarr

        stored = zarr.create_array(tmp_path / "faithful.zarr", shape=faithful.shape, chunks=(31, 2), dtype="f8")
        stored[:] = faithful
        data = str(tmp_path / "faithful.zarr")
    fitted = dem.GaussianMixture(2, random_state=0, tol=0.0, reg_covar=0.0, max_iter=200).fit(data)
    order = np.argsort(fitted.weights_)
    assert round(fitted.score(data) * 272, 6) == -1130.263960
    assert round(fitted.weights_[order][0], 6) == 0.355873
    # Printed tables say 54.478517; scikit-learn's limit, too, is 54.4785164.
    np.testing.assert_array_equal(fitted.means_[order].round(6), [[2.036388, 54.478516], [4.289662, 79.968115]])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_that_are_not_fitted_stay_and_do_not_count():
    start = {"probabilities_init": [[0.6], [0.5]], "weights_init": [0.7, 0.3], "tol": 0.0, "max_iter": 20}
    held = dem.BinomialMixture(2, 10, fit_weights=False, **start).fit(COINS)
    free = dem.BinomialMixture(2, 10, **start).fit(COINS)
    np.testing.assert_array_equal(held.weights_, [0.7, 0.3])
    assert abs(free.weights_[0] - 0.7) > 0.05
    # p₁ and p₂; and one weight
    assert held.aic(COINS) + 2 * held.score_samples(COINS).sum() == pytest.approx(2 * 2)
    assert free.aic(COINS) + 2 * free.score_samples(COINS).sum() == pytest.approx(2 * 3)
