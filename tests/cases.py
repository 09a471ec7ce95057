"""The table of cases: each family with data, options and what is known of the answer. Laws run on every row.

Laws name no family: whatever belongs to one stands in its row, and a new family needs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import dem
from dem.data.base import Chunk


@dataclass(frozen=True)
class Case:
    """A family, 3,000 rows drawn from a known mixture of three components, and what must come out."""

    name: str
    make: Callable[..., Any]
    data: Callable[[], np.ndarray]
    #: names of the fitted attributes that hold the parameters: the weights, what locates the components, others
    parameters: tuple[str, ...]
    #: how many free parameters the model has, counted by hand: weights, means, covariances or probabilities
    n_parameters: int
    #: what `dem fit` is told of the family
    shell: tuple[str, ...]
    #: the mixture that the data comes from: weights and the attribute that locates the components
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    #: how far a fit may be from the truth, in units of `truth`
    within: float = 0.1
    #: the means of a component's rows, or of their sufficient statistics, from what locates it
    means: Callable[[np.ndarray], np.ndarray] = lambda located: located
    #: what of the rows these are the means of: T(x), where that is not x
    statistics: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
    #: how much each row (n, n_features) counts for what locates each component, (n, n_components), beside its
    #: responsibilities: by the mixture and its parameters
    row_weights: Callable[[Any, Any, np.ndarray], Any] = lambda *_: 1.0
    #: whether parameters, under their users' names, are some that the family admits
    admits: Callable[[dict[str, np.ndarray]], bool] = lambda _: True
    #: parameters that no component has of its own, under their users' names
    shared: tuple[str, ...] = ()
    #: iterations after which EM stands still
    n_iterations: int = 25
    #: how closely they then agree, whatever the way: flat directions are known to the root of rounding
    stands_within: float = 1e-8
    #: whether `make test` leaves it out: what it does differently from others, other tests look at
    is_slow: bool = False
    #: whether another row has the same family with another type of covariance, which the shell treats alike
    is_variant: bool = False
    #: whether a uniform background is the last of the components, with the label −1 and a weight of its own
    background: bool = False
    #: options that leave the background out, and those without which it does not learn from a stream
    plain: dict[str, Any] = field(default_factory=dict)
    for_streams: dict[str, Any] = field(default_factory=dict)

    def estimator(self, **options: Any) -> Any:
        return self.make(**{"n_components": 3, "random_state": 0, "tol": 1e-6, **options})

    def family(self, rows: np.ndarray | None = None, **options: Any) -> Any:
        """Return what the estimator fits, in the frame of the rows."""
        family = self.estimator(**options)._family()
        return replace(family, component=family.component.adapted_to(self.data() if rows is None else rows))

    @property
    def fitted(self) -> tuple[str, ...]:
        """The fitted attributes that a model consists of."""
        return (*self.parameters, "noise_box_") if self.background else self.parameters

    @property
    def size(self) -> int:
        """The number of components, with the background."""
        return 3 + self.background

    @property
    def shares(self) -> np.ndarray:
        """The weights of all of them that the data comes from."""
        weights = self.truth["weights_"]
        return np.append(weights, 1.0 - weights.sum()) if self.background else weights

    def weights(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Return the weights of all of them, from parameters under their users' names."""
        return np.append(values["weights"], values["noise_weight"]) if self.background else values["weights"]

    def labels(self, numbers: np.ndarray) -> np.ndarray:
        """Return the labels of components by their numbers."""
        return np.where(numbers < 3, numbers, -1)

    @property
    def located(self) -> str:
        """The attribute that locates the components."""
        return self.parameters[1]

    def __str__(self) -> str:
        return self.name


def chunk_of(rows: Any) -> Chunk:
    """Return the rows as a chunk that begins the table."""
    return Chunk(rows, range(len(rows)))


SPEEDS = np.array([[0.1, 9.0, 20.0, 1.0], [8.0, 0.2, 5.0, 0.1], [1.0, 20.0, 0.1, 20.0]])
RATES = np.array([[1.0, 9.0, 0.5, 4.0], [8.0, 1.0, 5.0, 0.2], [15.0, 3.0, 0.1, 20.0]])
WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0, 1.0], [5.0, 1.0, -2.0], [-4.0, 6.0, 0.0]])
PROBABILITIES = np.array([[0.9, 0.8, 0.1, 0.2, 0.9], [0.1, 0.2, 0.9, 0.7, 0.2], [0.5, 0.05, 0.05, 0.95, 0.95]])
_NOISE = np.array([[1.0, 0.3, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 0.6]])


def gaussian_rows(n_rows: int = 3000, seed: int = 1, width: float = 1.0) -> np.ndarray:
    """Rows of three Gaussian components in three features, with correlation."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return MEANS[labels] + width * (rng.normal(size=(n_rows, 3)) @ _NOISE)


def binomial_rows(n_trials: int, n_rows: int = 3000, seed: int = 2) -> np.ndarray:
    """Rows of three components with five counts each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return rng.binomial(n_trials, PROBABILITIES[labels])


def student_t_rows(n_rows: int = 3000, seed: int = 4) -> np.ndarray:
    """Rows of three t components with three degrees of freedom and correlation."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return MEANS[labels] + rng.normal(size=(n_rows, 3)) @ _NOISE / np.sqrt(rng.chisquare(3, size=(n_rows, 1)) / 3)


BOX = np.array([[-15.0, -20.0, -10.0], [25.0, 20.0, 12.0]])


def noisy_rows(n_rows: int = 3000, seed: int = 9) -> np.ndarray:
    """Rows of the three Gaussian components, but for a tenth, which are anywhere in a box."""
    rng = np.random.default_rng(seed)
    background = rng.random(n_rows) < 0.1
    return np.where(background[:, np.newaxis], rng.uniform(*BOX, size=(n_rows, 3)), gaussian_rows(n_rows, seed))


def _are_factors(values: dict[str, np.ndarray]) -> bool:
    factors, covariances = values["precisions_cholesky"], values["covariances"]
    if np.all(factors > 0.0):  # diagonal or spherical
        return bool(np.allclose(factors**2 * covariances, 1.0, atol=1e-8))
    return bool(np.allclose(factors.swapaxes(-1, -2) @ covariances @ factors, np.eye(3), atol=1e-8))


def _gaussian(covariance_type: str, n_parameters: int) -> Case:
    return Case(
        f"gaussian-{covariance_type}",
        lambda **options: dem.GaussianMixture(covariance_type=covariance_type, **options),
        gaussian_rows,
        ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
        n_parameters,
        ("--covariance", covariance_type),
        {"weights_": WEIGHTS, "means_": MEANS},
        within=0.15,
        admits=_are_factors,
        shared=("covariances", "precisions_cholesky") if covariance_type == "tied" else (),
        is_slow=covariance_type in ("tied", "spherical"),
        is_variant=covariance_type != "full",
    )


def _student_t(covariance_type: str, fit_dof: str, n_parameters: int, n_iterations: int) -> Case:
    def row_weights(family: Any, parameters: Any, rows: np.ndarray) -> np.ndarray:
        """Return α (ν + d) / (ν + δ)."""
        values = family.to_user(parameters)
        factors = values["precisions_cholesky"]
        n_components = len(values["means"])
        if covariance_type in ("diag", "spherical"):
            factors = factors.reshape(n_components, -1, 1) * np.eye(3)
        away = rows[:, np.newaxis] - values["means"]
        squares = np.sum(np.einsum("nki,kij->nkj", away, np.broadcast_to(factors, (n_components, 3, 3))) ** 2, axis=2)
        return parameters.components.scales * (values["dofs"] + 3) / (values["dofs"] + squares)

    return Case(
        f"student_t-{covariance_type}",
        lambda **options: dem.StudentTMixture(
            **{"covariance_type": covariance_type, "fit_dof": fit_dof, "dof": 5.0, **options}
        ),
        student_t_rows,
        ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "dofs_"),
        n_parameters,
        ("--family", "student_t", "--covariance", covariance_type, "--fit-dof", fit_dof, "--dof", "5"),
        {"weights_": WEIGHTS, "means_": MEANS},
        within=0.15,
        row_weights=row_weights,
        admits=lambda values: _are_factors(values) and bool(np.all(values["dofs"] > 0.0)),
        shared=("covariances", "precisions_cholesky") if covariance_type == "tied" else (),
        n_iterations=n_iterations,
        stands_within=1e-6,
        is_slow=True,
        is_variant=covariance_type != "full",
    )


def _with_background(case: Case, **more: Any) -> Case:
    """Return a row of the table with a background behind its components."""
    return replace(
        case,
        name=f"{case.name}-noise",
        make=lambda **options: case.make(**{"noise": True, **options}),
        data=noisy_rows,
        parameters=(*case.parameters, "noise_weight_", "noise_volume_"),
        n_parameters=case.n_parameters + 1,
        shell=(*case.shell, "--noise"),
        truth={**case.truth, "weights_": 0.9 * WEIGHTS},
        is_slow=True,
        is_variant=True,
        background=True,
        plain={"noise": False},
        shared=(*case.shared, "noise_weight", "noise_volume", "noise_box"),
        for_streams={"noise": float(np.prod(BOX[1] - BOX[0]))},
        **more,
    )


def counting_rows(kind: str, rates: np.ndarray, n_rows: int = 3000, seed: int = 3) -> np.ndarray:
    """Rows of three components, by the name of NumPy's method and what it takes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return getattr(rng, kind)(rates[labels])


def _are_probabilities(values: dict[str, np.ndarray]) -> bool:
    return 0.0 <= values["probabilities"].min() <= values["probabilities"].max() <= 1.0


CASES = [
    _gaussian("full", 2 + 9 + 18),
    _gaussian("tied", 2 + 9 + 6),
    _gaussian("diag", 2 + 9 + 9),
    _gaussian("spherical", 2 + 9 + 3),
    _student_t("full", "free", 2 + 9 + 18 + 3, 100),
    _student_t("tied", "shared", 2 + 9 + 6 + 1, 80),
    _with_background(_gaussian("full", 2 + 9 + 18)),
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
]
#: one of them, for laws of what lies below the families, where each case would start processes of its own
ANY_CASE = CASES[0]
#: one of each family, for laws whose code knows no covariances
FAMILIES = [case for case in CASES if not case.is_variant]
#: components so narrow that they get frames of their own, for laws of kernels
NARROW = [replace(case, name=f"{case.name}-narrow", data=lambda: gaussian_rows(width=1e-5)) for case in CASES[:4]]
