"""Rows of the table of cases: exponential families, and those whose features stand alone in a like way."""

from __future__ import annotations

import numpy as np
import scipy.special
import scipy.stats
from case import PROBABILITIES, RATES, WEIGHTS, Case

import dem

SPEEDS = np.array([[0.1, 9.0, 20.0, 1.0], [8.0, 0.2, 5.0, 0.1], [1.0, 20.0, 0.1, 20.0]])
SHAPES = np.array([[2.0, 9.0, 0.8, 4.0], [30.0, 2.0, 5.0, 1.5], [8.0, 3.0, 2.0, 20.0]])
ANGLES = np.array([[0.0, 1.5, -1.0], [2.0, -1.0, 1.0], [-2.0, 0.5, 2.5]])
CONCENTRATIONS = np.array([[12.0, 4.0, 2.0], [8.0, 3.0, 20.0], [15.0, 6.0, 5.0]])
DIRECTIONS = np.array([[1.0, 0.0, 0.0], [-0.6, 0.8, 0.0], [0.0, -0.6, 0.8]])


def binomial_rows(n_trials: int, n_rows: int = 3000, seed: int = 2) -> np.ndarray:
    """Rows of three components with five counts each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return rng.binomial(n_trials, PROBABILITIES[labels])


def counting_rows(kind: str, rates: np.ndarray, n_rows: int = 3000, seed: int = 3) -> np.ndarray:
    """Rows of three components, by the name of NumPy's method and what it takes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return getattr(rng, kind)(rates[labels])


WORDS = np.array([[0.4, 0.3, 0.1, 0.1, 0.05, 0.05], [0.05, 0.1, 0.4, 0.3, 0.1, 0.05], [0.1, 0.05, 0.05, 0.1, 0.3, 0.4]])


def documents(n_rows: int = 3000, seed: int = 13) -> np.ndarray:
    """Rows of three multinomial components, of totals about 20."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return rng.multinomial(rng.poisson(20, n_rows), WORDS[labels])


CLASSES = np.array(
    [
        [[0.8, 0.2, 0.0], [0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.1, 0.9, 0.0], [0.8, 0.1, 0.1]],
        [[0.1, 0.9, 0.0], [0.2, 0.8, 0.0], [0.1, 0.1, 0.8], [0.8, 0.2, 0.0], [0.1, 0.1, 0.8]],
        [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.1, 0.8, 0.1], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1]],
    ]
)


def classes(n_rows: int = 3000, seed: int = 12) -> np.ndarray:
    """Rows of three latent classes: five columns of two or three categories."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return (rng.random((n_rows, 5, 1)) > np.cumsum(CLASSES, axis=2)[labels]).sum(axis=2)


_CATEGORIES = np.arange(5).repeat([2, 2, 3, 2, 3]), np.array([0, 1, 0, 1, 0, 1, 2, 0, 1, 0, 1, 2])


def _are_distributions(values: dict[str, np.ndarray]) -> bool:
    probabilities = values["probabilities"]
    return bool(np.all(probabilities >= 0.0) and np.allclose(probabilities.sum(axis=-1), 1.0))


COUNTS = np.array([[2.0, 60.0, 1.0, 30.0], [40.0, 3.0, 15.0, 2.0], [90.0, 120.0, 0.5, 20.0]])
SIZE = 2.0


def scattered_counts(n_rows: int = 3000, seed: int = 11) -> np.ndarray:
    """Rows of three negative binomial components, with the same r in each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return rng.negative_binomial(SIZE, SIZE / (SIZE + COUNTS[labels]))


def beta_rows(n_rows: int = 3000, seed: int = 6) -> np.ndarray:
    """Rows of three components with five shares each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    # Rounding leaves no share at the ends.
    return rng.beta(12.0 * PROBABILITIES[labels], 12.0 * (1.0 - PROBABILITIES)[labels]).clip(1e-9, 1.0 - 1e-9)


def angles(n_rows: int = 3000, seed: int = 7) -> np.ndarray:
    """Rows of three components with three angles each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return rng.vonmises(ANGLES[labels], CONCENTRATIONS[labels])


def directions(n_rows: int = 3000, seed: int = 8) -> np.ndarray:
    """Rows of three components on the unit sphere."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    rows = np.empty((n_rows, 3))
    for k, (mean, concentration) in enumerate(zip(DIRECTIONS, CONCENTRATIONS[:, 0], strict=True)):
        rows[labels == k] = scipy.stats.vonmises_fisher(mean, concentration, seed=rng).rvs((labels == k).sum())
    return rows


def _indicators(rows: np.ndarray) -> np.ndarray:
    """Return for each category of each feature whether a row has it, of gaps NaN."""
    values = rows[:, _CATEGORIES[0]]
    return np.where(np.isnan(values), np.nan, values == _CATEGORIES[1])


def _mean_logarithms(means: np.ndarray, concentrations: np.ndarray) -> np.ndarray:
    """Return the means of log x and log(1 − x) of beta distributions."""
    parts = (means * concentrations, (1.0 - means) * concentrations)
    return np.hstack([scipy.special.digamma(part) - scipy.special.digamma(concentrations) for part in parts])


def _resultants(order: float, concentrations: np.ndarray) -> np.ndarray:
    """Return mean resultant lengths."""
    return scipy.special.ive(order + 1.0, concentrations) / scipy.special.ive(order, concentrations)


def gamma_rows(n_rows: int = 3000, seed: int = 5) -> np.ndarray:
    """Rows of three components with four positive numbers each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return rng.gamma(SHAPES[labels], (RATES / SHAPES)[labels])


def _are_probabilities(values: dict[str, np.ndarray]) -> bool:
    return 0.0 <= values["probabilities"].min() <= values["probabilities"].max() <= 1.0


# The first with each kernel goes through every law in CI, so quick ones come first.
CASES = [
    Case(
        "poisson",
        dem.PoissonMixture,
        lambda: counting_rows("poisson", RATES),
        ("weights_", "rates_"),
        2 + 12,
        ("--family", "poisson"),
        {"weights_": WEIGHTS, "rates_": RATES},
        within=0.6,
    ),
    Case(
        # Its r stay: EM takes hundreds of iterations for them, which tests of their own look at.
        "negative_binomial",
        lambda **options: dem.NegativeBinomialMixture(**{"fit_size": "fixed", "size": SIZE, **options}),
        scattered_counts,
        ("weights_", "means_", "sizes_"),
        2 + 12,
        ("--family", "negative_binomial", "--fit-size", "fixed", "--size", str(SIZE)),
        {"weights_": WEIGHTS, "means_": COUNTS},
        within=8.0,
        admits=lambda values: bool(np.all(values["means"] >= 0.0) and np.all(values["sizes"] > 0.0)),
        n_iterations=60,
        is_slow=True,
        # k-means parts such long tails badly, which so few rows do not make up for.
        for_streams={"init_params": "random_from_data"},
    ),
    Case(
        "bernoulli",
        dem.BernoulliMixture,
        lambda: binomial_rows(1),
        ("weights_", "probabilities_"),
        2 + 15,
        ("--family", "bernoulli"),
        {"weights_": WEIGHTS, "probabilities_": PROBABILITIES},
        within=0.15,
        admits=_are_probabilities,
        n_iterations=220,
        is_slow=True,
    ),
    Case(
        "binomial",
        lambda **options: dem.BinomialMixture(n_trials=12, **options),
        lambda: binomial_rows(12),
        ("weights_", "probabilities_"),
        2 + 15,
        ("--family", "binomial", "--trials", "12"),
        {"weights_": WEIGHTS, "probabilities_": PROBABILITIES},
        within=0.05,
        means=lambda probabilities: 12 * probabilities,
        admits=_are_probabilities,
    ),
    Case(
        "categorical",
        dem.CategoricalMixture,
        classes,
        ("weights_", "probabilities_"),
        2 + 3 * (1 + 1 + 2 + 1 + 2),
        ("--family", "categorical"),
        {"weights_": WEIGHTS, "probabilities_": CLASSES},
        within=0.1,
        means=lambda probabilities: probabilities[:, _CATEGORIES[0], _CATEGORIES[1]],
        statistics=_indicators,
        admits=_are_distributions,
        n_iterations=150,
        is_slow=True,
        besides=("n_categories_",),
        n_looks=1,
        for_streams={"n_categories": [2, 2, 3, 2, 3]},
    ),
    Case(
        "multinomial",
        dem.MultinomialMixture,
        documents,
        ("weights_", "probabilities_", "row_totals_"),
        2 + 15,
        ("--family", "multinomial"),
        {"weights_": WEIGHTS, "probabilities_": WORDS},
        within=0.03,
        means=lambda probabilities: probabilities,
        statistics=lambda rows: rows / np.maximum(rows.sum(axis=1, keepdims=True), 1),
        row_weights=lambda *given: np.maximum(given[2].sum(axis=1, keepdims=True), 1),
        admits=lambda values: _are_distributions(values) and bool(np.all(values["row_totals"] >= 0.0)),
        is_slow=True,
    ),
    Case(
        "exponential",
        dem.ExponentialMixture,
        lambda: counting_rows("exponential", 1.0 / SPEEDS),
        ("weights_", "rates_"),
        2 + 12,
        ("--family", "exponential"),
        {"weights_": WEIGHTS, "rates_": SPEEDS},
        within=2.5,
        means=lambda rates: 1.0 / rates,
        n_iterations=60,
        is_slow=True,
    ),
    Case(
        "geometric",
        dem.GeometricMixture,
        lambda: counting_rows("geometric", PROBABILITIES) - 1,
        ("weights_", "probabilities_"),
        2 + 15,
        ("--family", "geometric"),
        {"weights_": WEIGHTS, "probabilities_": PROBABILITIES},
        within=0.15,
        means=lambda probabilities: (1.0 - probabilities) / probabilities,
        admits=_are_probabilities,
        is_slow=True,
    ),
    Case(
        "beta",
        dem.BetaMixture,
        beta_rows,
        ("weights_", "means_", "concentrations_"),
        2 + 15 + 15,
        ("--family", "beta"),
        {"weights_": WEIGHTS, "means_": PROBABILITIES},
        within=0.05,
        means_of_all=lambda values: _mean_logarithms(values["means"], values["concentrations"]),
        statistics=lambda rows: np.hstack([np.log(rows), np.log1p(-rows)]),
        is_slow=True,
    ),
    Case(
        "von_mises",
        dem.VonMisesMixture,
        angles,
        ("weights_", "means_", "concentrations_"),
        2 + 9 + 9,
        ("--family", "von_mises"),
        {"weights_": WEIGHTS, "means_": ANGLES},
        within=0.15,
        means_of_all=lambda values: np.hstack(
            [_resultants(0.0, values["concentrations"]) * f(values["means"]) for f in (np.cos, np.sin)]
        ),
        statistics=lambda rows: np.hstack([np.cos(rows), np.sin(rows)]),
        n_iterations=60,
        is_slow=True,
    ),
    Case(
        "von_mises_fisher",
        dem.VonMisesFisherMixture,
        directions,
        ("weights_", "means_", "concentrations_"),
        2 + 6 + 3,
        ("--family", "von_mises_fisher"),
        {"weights_": WEIGHTS, "means_": DIRECTIONS},
        within=0.1,
        means_of_all=lambda values: _resultants(0.5, values["concentrations"])[:, np.newaxis] * values["means"],
        n_iterations=60,
        is_slow=True,
    ),
    Case(
        "gamma",
        dem.GammaMixture,
        gamma_rows,
        ("weights_", "means_", "shapes_"),
        2 + 12 + 12,
        ("--family", "gamma"),
        {"weights_": WEIGHTS, "means_": RATES},
        within=0.6,
        n_iterations=60,
        is_slow=True,
    ),
]
