"""Rows of the table of cases whose columns differ: mixed tables, and regressions."""

from __future__ import annotations

import numpy as np
from case import MEANS, NOISE, PROBABILITIES, RATES, WEIGHTS, Case

import dem


def mixed_rows(n_rows: int = 3000, seed: int = 21) -> np.ndarray:
    """Rows of three components: two correlated numbers, two coins before and behind two counts, and a category."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    numbers = MEANS[labels, :2] + rng.normal(size=(n_rows, 2)) @ NOISE[:2, :2]
    coins = rng.random((n_rows, 2)) < PROBABILITIES[labels, :2]
    edges = np.cumsum(KINDS, axis=1)[labels, :-1]
    kinds = np.sum(rng.random((n_rows, 1)) > edges, axis=1)
    return np.column_stack([coins[:, 0], numbers, rng.poisson(RATES[labels, :2]), coins[:, 1], kinds])


KINDS = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])
MIXED_MEANS = np.column_stack([PROBABILITIES[:, 0], MEANS[:, :2], RATES[:, :2], PROBABILITIES[:, 1], KINDS @ range(3)])


def _are_mixed(values: dict[str, np.ndarray]) -> bool:
    coins, factors = values["part0_probabilities"], values["part1_precisions_cholesky"]
    inverse = factors.swapaxes(-1, -2) @ values["part1_covariances"] @ factors
    within = 0.0 <= coins.min() <= coins.max() <= 1.0 and values["part2_rates"].min() >= 0.0
    within &= bool(np.allclose(values["part3_probabilities"].sum(axis=2), 1.0))
    return within and bool(np.allclose(inverse, np.eye(2), atol=1e-8))


def regression_rows(n_rows: int = 3000, seed: int = 6) -> np.ndarray:
    """Rows of a design of two columns and a response that follows one of three planes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    design = rng.normal(size=(n_rows, 2)) @ [[1.0, 0.4], [0.0, 2.0]] + [3.0, -1.0]
    noise = np.array([0.5, 0.3, 0.8])[labels] * rng.normal(size=n_rows)
    return np.column_stack([design, INTERCEPTS[labels] + np.vecdot(SLOPES[labels], design) + noise])


def _of_regression(values: dict[str, np.ndarray]) -> np.ndarray:
    means = values["design_means"]
    return np.column_stack([means, values["intercepts"] + np.vecdot(values["coefficients"], means)])


SLOPES = np.array([[1.0, 0.5], [-2.0, 1.0], [0.3, -1.5]])
INTERCEPTS = np.array([0.0, 12.0, -9.0])

CASES = [
    Case(
        "mixture",
        lambda **options: dem.Mixture(
            {
                "0,5": "bernoulli",
                "1,2": "gaussian",
                "3,4": "poisson",
                "6": ("categorical", {"n_categories": 3}),
            },
            **options,
        ),
        mixed_rows,
        (
            "weights_",
            "means_",
            "part0_probabilities_",
            "part1_means_",
            "part1_covariances_",
            "part1_precisions_cholesky_",
            "part2_rates_",
            "part3_probabilities_",
        ),
        2 + 6 + 6 + 9 + 6 + 3 * 2,
        (
            *("--family", "mixture", "--column", "0,5=bernoulli", "--column", "1,2=gaussian"),
            *("--column", "3,4=poisson", "--column", "6=categorical:n_categories=3"),
        ),
        {"weights_": WEIGHTS, "means_": MIXED_MEANS},
        within=0.3,
        besides=("_part_outcomes",),
        admits=_are_mixed,
        independent=False,
        is_slow=True,
    ),
    Case(
        "regression",
        dem.RegressionMixture,
        regression_rows,
        ("weights_", "coefficients_", "intercepts_", "sigmas_", "design_means_", "design_covariances_"),
        2 + 6 + 3 + 3,
        ("--family", "regression"),
        {"weights_": WEIGHTS, "coefficients_": SLOPES},
        within=0.05,
        means_of_all=_of_regression,
        admits=lambda values: bool(np.all(values["sigmas"] > 0.0)),
        is_slow=True,
    ),
]
