"""The table of cases: each family with data, options and what is known of the answer. Laws run on every row.

Laws name no family: whatever belongs to one stands in its row, and a new family needs nothing else. Rows that need no
Gaussian are in `cases_exponential` and `cases_columns`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cases_columns
import cases_exponential
import numpy as np
from case import MEANS, NOISE, WEIGHTS, Case

import dem
from dem.data.base import Chunk
from dem.engine.base import single_threaded_blas


def chunk_of(rows: Any) -> Chunk:
    """Return the rows as a chunk that begins the table."""
    return Chunk(rows, range(len(rows)))


def gaussian_rows(n_rows: int = 3000, seed: int = 1, width: float = 1.0) -> np.ndarray:
    """Rows of three Gaussian components in three features, with correlation."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return MEANS[labels] + width * (rng.normal(size=(n_rows, 3)) @ NOISE)


def student_t_rows(n_rows: int = 3000, seed: int = 4) -> np.ndarray:
    """Rows of three t components with three degrees of freedom and correlation."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    return MEANS[labels] + rng.normal(size=(n_rows, 3)) @ NOISE / np.sqrt(rng.chisquare(3, size=(n_rows, 1)) / 3)


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
        independent=covariance_type in ("diag", "spherical") or covariance_type.endswith("I"),
        is_slow=covariance_type not in ("full", "diag"),
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


def _bayesian(covariance_type: str, weight_prior: str, n_parameters: int) -> Case:
    def broken_stick(counts: np.ndarray) -> np.ndarray:
        """Return the expected weights after breaking a stick, with a concentration of 1/3."""
        parts = (1.0 + counts) / (1.0 + 1.0 / 3.0 + np.cumsum(counts[::-1])[::-1])
        weights = parts * np.append(1.0, np.cumprod(1.0 - parts)[:-1])
        return weights / weights.sum()

    def drawn(counts: np.ndarray) -> np.ndarray:
        """Return those of a Dirichlet distribution of the same concentration."""
        return (counts + 1.0 / 3.0) / (counts.sum() + 1.0)

    numbers = ("weight_concentration_prior", "mean_precision_prior", "degrees_of_freedom_prior")
    of_tied = ("covariances", "precisions_cholesky", "degrees_of_freedom") if covariance_type == "tied" else ()
    prior = {"full": np.eye(3), "tied": np.eye(3), "diag": np.ones(3), "spherical": 1.0}[covariance_type]
    return Case(
        f"bayesian_gaussian-{covariance_type}-{weight_prior}",
        lambda **options: dem.BayesianGaussianMixture(
            **{"covariance_type": covariance_type, "weight_concentration_prior_type": weight_prior, **options}
        ),
        gaussian_rows,
        (
            *("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
            *("weight_concentration_", "mean_precision_", "degrees_of_freedom_"),
            *(f"{name}_" for name in (*numbers, "mean_prior", "covariance_prior")),
        ),
        n_parameters,
        ("--family", "bayesian_gaussian", "--covariance", covariance_type, "--weight-prior", weight_prior),
        {"weights_": WEIGHTS, "means_": MEANS},
        within=0.15,
        admits=_are_factors,
        shared=(*of_tied, "weight_concentration", *numbers, "mean_prior", "covariance_prior"),
        is_slow=True,
        is_variant=covariance_type != "full",
        prior_rows=1.0,
        independent=False,  # the Wishart distribution is of all features together
        learnt={"mean_prior": np.zeros(3), "covariance_prior": prior},
        weights_of=broken_stick if weight_prior == "dirichlet_process" else drawn,
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
        besides=("noise_box_",),
        n_looks=1,
        plain={"noise": False},
        shared=(*case.shared, "noise_weight", "noise_volume", "noise_box"),
        for_streams={"noise": float(np.prod(BOX[1] - BOX[0]))},
        **more,
    )


def _with_prior(case: Case) -> Case:
    """Return a row of the table with a prior of means and covariances."""
    mean, scale = gaussian_rows().mean(axis=0), 10.0 * np.eye(3)
    prior = {"mean": mean.tolist(), "shrinkage": 0.5, "dof": 40.0, "scale": scale.tolist()}
    known = tuple(f"prior_{name}" for name in prior)
    return replace(
        case,
        name=f"{case.name}-prior",
        make=lambda **options: case.make(**{"prior": prior, **options}),
        shell=(*case.shell, "--prior", "default"),
        is_slow=True,
        is_variant=True,
        besides=tuple(f"{name}_" for name in known),
        shared=(*case.shared, *known),
        prior_rows=0.5,
    )


_DRAWN = np.random.default_rng(11)
CENTRES = 2.0 * np.round(4.0 * _DRAWN.normal(size=(3, 10)))
LOADINGS = np.round(_DRAWN.uniform(1.5, 4.5, size=(3, 10, 2)) * _DRAWN.choice([-1, 1], size=(3, 10, 2)), 1) * [1.0, 0.7]


def factor_rows(n_rows: int = 3000, seed: int = 5) -> np.ndarray:
    """Rows of three factor analysers with two factors of ten features, and noise."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n_rows, p=WEIGHTS)
    factors = rng.normal(size=(n_rows, 2, 1))
    return CENTRES[labels] + (LOADINGS[labels] @ factors)[:, :, 0] + 4.0 * rng.normal(size=(n_rows, 10))


def _factor_analyzer(name: str, n_parameters: int, n_iterations: int, **options: Any) -> Case:
    shell = {"noise_type": ("--noise-type", "spherical"), "tied_noise": ("--tied-noise",)}
    return Case(
        name,
        lambda **more: dem.FactorAnalyzerMixture(**{"n_factors": 2, **options, **more}),
        factor_rows,
        ("weights_", "means_", "loadings_", "noise_variances_"),
        n_parameters,
        ("--family", "factor_analyzer", "--factors", "2", *(word for one in options for word in shell[one])),
        {"weights_": WEIGHTS, "means_": CENTRES},
        within=1.0,
        admits=lambda values: bool(np.all(values["noise_variances"] > 0.0)),
        shared=("noise_variances",) if options else (),
        n_iterations=n_iterations,
        stands_within=1e-6,
        independent=False,
        is_slow=True,
        is_variant=bool(options),
    )


def _arithmetic(case: Case) -> Any:
    """Return the types of the mixture and of the kernel that a case computes with."""
    try:
        rows = np.asarray(case.data()[:200], dtype=np.float64)
        family = case.family(rows)
        parameters = family.begun(family.start(rows, np.eye(3)[np.arange(len(rows)) % 3]))
        return type(family), type(family.arithmetic(parameters, chunk_of(rows)))
    except Exception:  # noqa: BLE001 - the laws are to say what fails, one by one
        return case.name


def _marked(cases: list[Case]) -> list[Case]:
    """Return the cases; each whose arithmetic one before has is marked as alike."""
    with single_threaded_blas():
        found = [_arithmetic(case) for case in cases]
    return [
        replace(case, is_alike=own in found[:number])
        for number, (case, own) in enumerate(zip(cases, found, strict=True))
    ]


CASES = _marked(
    [
        _gaussian("full", 2 + 9 + 18),
        _gaussian("tied", 2 + 9 + 6),
        _gaussian("diag", 2 + 9 + 9),
        _gaussian("spherical", 2 + 9 + 3),
        _gaussian("VEI", 2 + 9 + 3 + 2),
        _gaussian("EVE", 2 + 9 + 1 + 6 + 3),
        _gaussian("VEV", 2 + 9 + 3 + 2 + 9),
        _student_t("full", "free", 2 + 9 + 18 + 3, 100),
        _student_t("tied", "shared", 2 + 9 + 6 + 1, 80),
        _with_background(_gaussian("full", 2 + 9 + 18)),
        _with_prior(_gaussian("full", 2 + 9 + 18)),
        _factor_analyzer("factor_analyzer", 2 + 3 * (10 + 20 - 1 + 10), 60),
        _factor_analyzer(
            "factor_analyzer-tied", 2 + 3 * (10 + 20 - 1) + 1, 40, noise_type="spherical", tied_noise=True
        ),
        _bayesian("full", "dirichlet_process", 2 + 9 + 18),
        _bayesian("spherical", "dirichlet_distribution", 2 + 9 + 3),
        replace(
            _gaussian("full", 2 + 9 + 18),
            name="log_normal",
            make=dem.LogNormalMixture,
            data=lambda: np.exp(gaussian_rows()),
            shell=("--family", "log_normal"),
            statistics=np.log,
            is_slow=True,
        ),
        *cases_exponential.CASES,
        *cases_columns.CASES,
    ]
)
BY_NAME = {case.name: case for case in CASES}


class Fits(dict[str, Any]):
    """Fits by the names of the cases, each made when it is first asked for."""

    def __init__(self, fit: Callable[[Case], Any]) -> None:
        super().__init__()
        self._fit = fit

    def __missing__(self, name: str) -> Any:
        self[name] = self._fit(BY_NAME[name])
        return self[name]


#: one of them, for laws of what lies below the families, where each case would start processes of its own
ANY_CASE = CASES[0]
#: one of each family, for laws whose code knows no covariances
FAMILIES = [case for case in CASES if not case.is_variant]
#: one of each arithmetic, for laws of what lies below it, which take long: the others share kernels with these
KERNELS = [case for case in FAMILIES if not case.is_alike]
#: components so narrow that they get frames of their own, for laws of kernels
NARROW = [replace(case, name=f"{case.name}-narrow", data=lambda: gaussian_rows(width=1e-5)) for case in CASES[:4]]
