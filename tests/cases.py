"""The table of cases: each family with data, options and what is known of the answer. Laws run on every row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import dem
from dem.data.base import Chunk


@dataclass(frozen=True)
class Case:
    """A family, data drawn from a known mixture, and what must come out."""

    name: str
    make: Callable[..., Any]
    data: Callable[[], np.ndarray]
    #: names of the fitted attributes that hold the parameters
    parameters: tuple[str, ...]
    #: how many free parameters the model has, counted by hand: weights, means, covariances or probabilities
    n_parameters: int
    #: the mixture that the data comes from: weights and the attribute that locates the components
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    #: how far a fit may be from the truth, in units of `truth`
    within: float = 0.1

    def estimator(self, **options: Any) -> Any:
        return self.make(**{"random_state": 0, "tol": 1e-6, **options})

    def __str__(self) -> str:
        return self.name


def chunk_of(rows: np.ndarray) -> Chunk:
    """Return rows as what an E-step is given."""
    return Chunk(rows, range(len(rows)))


WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0, 1.0], [5.0, 1.0, -2.0], [-4.0, 6.0, 0.0]])
PROBABILITIES = np.array([[0.9, 0.8, 0.1, 0.2, 0.9], [0.1, 0.2, 0.9, 0.7, 0.2], [0.5, 0.05, 0.05, 0.95, 0.95]])


def gaussian_rows(n_rows: int = 3000, seed: int = 1) -> np.ndarray:
    """Rows of three Gaussian components in three features, with correlation."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    noise = rng.normal(size=(n_rows, 3)) @ np.array([[1.0, 0.3, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 0.6]])
    return MEANS[labels] + noise


def binomial_rows(n_trials: int, n_rows: int = 3000, seed: int = 2) -> np.ndarray:
    """Rows of three components with five counts each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return rng.binomial(n_trials, PROBABILITIES[labels])


def _gaussian(covariance_type: str, n_parameters: int) -> Case:
    return Case(
        f"gaussian-{covariance_type}",
        lambda **options: dem.GaussianMixture(3, covariance_type=covariance_type, **options),
        gaussian_rows,
        ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
        n_parameters,
        {"weights_": WEIGHTS, "means_": MEANS},
        within=0.15,
    )


CASES = [
    _gaussian("full", 2 + 9 + 18),
    _gaussian("tied", 2 + 9 + 6),
    _gaussian("diag", 2 + 9 + 9),
    _gaussian("spherical", 2 + 9 + 3),
    Case(
        "bernoulli",
        lambda **options: dem.BernoulliMixture(3, **options),
        lambda: binomial_rows(1),
        ("weights_", "probabilities_"),
        2 + 15,
        {"weights_": WEIGHTS, "probabilities_": PROBABILITIES},
        within=0.15,
    ),
    Case(
        "binomial",
        lambda **options: dem.BinomialMixture(3, 12, **options),
        lambda: binomial_rows(12),
        ("weights_", "probabilities_"),
        2 + 15,
        {"weights_": WEIGHTS, "probabilities_": PROBABILITIES},
        within=0.05,
    ),
]
