"""scikit-learn's own tests of its Gaussian mixture, as installed, with dem's class in its place."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.mixture.tests.test_gaussian_mixture as theirs

import dem

# scikit-learn warns there too, in other words and categories.
pytestmark = [
    pytest.mark.filterwarnings("ignore::dem.errors.DataWarning"),
    pytest.mark.filterwarnings("ignore::dem.errors.ComponentWarning"),
    pytest.mark.filterwarnings("ignore:Number of distinct clusters:sklearn.exceptions.ConvergenceWarning"),
]

PRIVATE = "calls private functions or methods of scikit-learn"
WORDS = "asks for a message that names the smallest weight the largest; dem names them right"
ARRAY_API = "array API dispatch, which scikit-learn itself tests only where it is switched on; dem computes with NumPy"
ROUNDING = (
    "n_init=5 against n_init=1, to the last bit: starts share products, and their rounding is not that of one alone"
)
COLLAPSE = (
    "needs the rounding of a variance, with reg_covar=0, that is exactly 0 in dem: an error there (docs/numerics.md)"
)
LEFT_OUT = {
    "test_suffstat_sk_full": PRIVATE,
    "test_suffstat_sk_tied": PRIVATE,
    "test_suffstat_sk_diag": PRIVATE,
    "test_gaussian_suffstat_sk_spherical": PRIVATE,
    "test_compute_log_det_cholesky": PRIVATE,
    "test_gaussian_mixture_log_probabilities": PRIVATE,
    "test_gaussian_mixture_precisions_init": PRIVATE,
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": PRIVATE,
    "test_check_weights": WORDS,
    "test_multiple_init": ROUNDING,
    "test_gaussian_mixture_setting_best_params": COLLAPSE,
    "test_gaussian_mixture_array_api_compliance": ARRAY_API,
    "test_gaussian_mixture_raises_where_array_api_not_implemented": ARRAY_API,
}


@pytest.fixture(autouse=True)
def in_its_place(monkeypatch):
    monkeypatch.setattr(theirs, "GaussianMixture", dem.GaussianMixture)


@pytest.fixture
def global_dtype():
    """The one that scikit-learn tests unless asked for more; dem's fitted attributes are double in any case."""
    return np.float64


@pytest.fixture
def global_random_seed():
    return 42


#: many fits of data with far too few rows
SLOW = ("test_init",)

globals().update(
    {
        name: pytest.mark.slow(test) if name in SLOW else test
        for name, test in vars(theirs).items()
        if name.startswith("test_") and name not in LEFT_OUT
    }
)
