"""scikit-learn's own tests of its Bayesian Gaussian mixture, as installed, with dem's class in its place."""

from __future__ import annotations

import pytest
import sklearn.mixture.tests.test_bayesian_mixture as theirs

import dem

# scikit-learn warns there too, in other words and categories.
pytestmark = [
    pytest.mark.filterwarnings("ignore::dem.errors.DataWarning"),
    pytest.mark.filterwarnings("ignore::dem.errors.ComponentWarning"),
]

PRIVATE = "calls private functions or methods of scikit-learn"
LEFT_OUT = {
    "test_log_dirichlet_norm": PRIVATE,
    "test_log_wishart_norm": PRIVATE,
    "test_compare_covar_type": PRIVATE,
}


@pytest.fixture(autouse=True)
def in_its_place(monkeypatch):
    monkeypatch.setattr(theirs, "BayesianGaussianMixture", dem.BayesianGaussianMixture)


globals().update(
    {
        name: pytest.mark.slow(test)
        for name, test in vars(theirs).items()
        if name.startswith("test_") and name not in LEFT_OUT
    }
)
