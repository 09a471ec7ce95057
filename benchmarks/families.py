"""Rows per processor second of an EM iteration of each family, beside its peer on the same rows, in turns.

    .venv/bin/python benchmarks/families.py
    .venv/bin/python benchmarks/families.py --scale 0.02 --repeats 1 --only gamma,poisson

Peers are packages that fit the same mixture: scikit-learn, StepMix (`make .venv/.peers`), R's flexmix and mclust
(`apt-get install r-cran-flexmix r-cran-mclust`). Where none was found, it is the E-step alone with scipy.stats; see
`families_peers.py`. A peer that is not installed is left out. Writes benchmarks/results/families.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from common import Stopwatch, announce, median, save, table
from families_peers import MANY, K, Seconds, flexmix, mclust, of_each_share, scikit_learn, scipy_stats, stepmix
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from threadpoolctl import threadpool_limits

import dem
from dem.estimators.registry import ESTIMATORS

Rows = Callable[[np.random.Generator, int, int], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A family, what draws its rows, (n, n_features), and its peer."""

    name: str
    rows: Rows
    model: Callable[..., Any]
    peer: str
    seconds_of_peer: Seconds
    n_features: int = 8
    n_rows: int = 50_000


# Rows -----------------------------------------------------------------------------------------------------------


def drawn(draw: Callable[..., np.ndarray], *ranges: tuple[float, float]) -> Rows:
    """Return what draws rows of K components, each parameter of each feature uniform between two numbers."""

    def rows(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
        labels = rng.integers(K, size=n)
        parameters = [own[labels] for own in uniform(rng, d, ranges)]
        return np.asarray(draw(rng, *parameters), dtype=np.float64)

    return rows


def uniform(rng: np.random.Generator, d: int, ranges: tuple[tuple[float, float], ...]) -> list[np.ndarray]:
    """Return parameters (K, d), each between two numbers."""
    return [rng.uniform(low, high, size=(K, d)) for low, high in ranges]


def normal(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return 2.0 * rng.normal(size=(K, d))[rng.integers(K, size=n)] + rng.normal(size=(n, d))


def on_sphere(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    rows = normal(rng, n, d)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def shares(rng: np.random.Generator, d: int) -> np.ndarray:
    return rng.dirichlet(np.ones(d), size=K)


def words(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.multinomial(100, shares(rng, d)[rng.integers(K, size=n)]).astype(np.float64)


def lines(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    design, slopes = rng.normal(size=(n, d - 1)), 3.0 * rng.normal(size=(K, d - 1))
    response = np.vecdot(design, slopes[rng.integers(K, size=n)]) + 0.3 * rng.normal(size=n)
    return np.column_stack([design, response])


def low_rank(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    labels, loadings = rng.integers(K, size=n), rng.normal(size=(K, d, 4))
    rows = 2.0 * rng.normal(size=(K, d))[labels] + rng.normal(size=(n, d))
    for k, own in enumerate(loadings):
        rows[labels == k] += rng.normal(size=((labels == k).sum(), 4)) @ own.T
    return rows


def coins(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    return rng.random(p.shape) < p


def survey(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return np.column_stack([normal(rng, n, d // 2), drawn(coins, COIN)(rng, n, d - d // 2)])


# Cases ----------------------------------------------------------------------------------------------------------

SCIPY = "scipy.stats, E-step alone"
COIN = 0.05, 0.95


def beside_scipy(
    name: str,
    model: Callable[..., Any],
    draw: Callable[..., np.ndarray],
    log_density: Callable[..., np.ndarray],
    *ranges: tuple[float, float],
) -> Case:
    """Return a case of independent features; its peer has parameters of the same ranges."""
    peer = scipy_stats(
        lambda rows, *own: log_density(rows, *own).sum(axis=1),
        lambda rng, d: zip(*uniform(rng, d, ranges), strict=True),
    )
    return Case(name, drawn(draw, *ranges), model, SCIPY, peer)


def mixed(**options: Any) -> Any:
    """Return a model of eight columns: four numbers, four answers."""
    numbers = dem.GaussianMixture(covariance_type="diag")
    return dem.Mixture({(0, 1, 2, 3): numbers, (4, 5, 6, 7): "bernoulli"}, **options)


def k_means(n_components: int, max_iter: int, **options: Any) -> Any:
    """Return k-means, from rows at random."""
    names = "tol", "random_state", "callbacks"
    return dem.KMeans(
        n_components, init="random", n_init=1, max_iter=max_iter, **{name: options[name] for name in names}
    )


MIXED = {
    "numbers": {"model": "gaussian_diag", "n_columns": 4},
    "answers": {"model": "bernoulli", "n_columns": 4},
}
SKLEARN = {"n_components": K, "init_params": "random_from_data"}
CASES = [
    Case("gaussian", normal, dem.GaussianMixture, "scikit-learn", scikit_learn(GaussianMixture, **SKLEARN)),
    Case("gaussian, VEV", normal, partial(dem.GaussianMixture, covariance_type="VEV"), "mclust", mclust("VEV")),
    Case("bernoulli", drawn(coins, COIN), dem.BernoulliMixture, "StepMix", stepmix("bernoulli"), 16),
    beside_scipy(
        "binomial",
        partial(dem.BinomialMixture, n_trials=20),
        lambda rng, p: rng.binomial(20, p),
        lambda x, p: stats.binom.logpmf(x, 20, p),
        COIN,
    ),
    Case(
        "categorical",
        drawn(lambda rng, p: np.minimum(rng.geometric(p), 5) - 1, (0.1, 0.9)),
        dem.CategoricalMixture,
        "StepMix",
        stepmix("categorical"),
    ),
    Case(
        "multinomial",
        words,
        dem.MultinomialMixture,
        SCIPY,
        scipy_stats(lambda x, p: stats.multinomial.logpmf(x, 100, p), lambda rng, d: zip(shares(rng, d), strict=True)),
        64,
    ),
    Case(
        "poisson",
        drawn(lambda rng, m: rng.poisson(m), (0.5, 20.0)),
        dem.PoissonMixture,
        "flexmix",
        flexmix("FLXMCmvpois()"),
    ),
    beside_scipy(
        "negative_binomial",
        dem.NegativeBinomialMixture,
        lambda rng, m, size: rng.negative_binomial(size, size / (size + m)),
        lambda x, m, size: stats.nbinom.logpmf(x, size, size / (size + m)),
        (0.5, 20.0),
        (0.5, 5.0),
    ),
    beside_scipy(
        "exponential",
        dem.ExponentialMixture,
        lambda rng, s: rng.exponential(s),
        lambda x, s: stats.expon.logpdf(x, scale=s),
        (0.1, 20.0),
    ),
    beside_scipy(
        "geometric",
        dem.GeometricMixture,
        lambda rng, p: rng.geometric(p) - 1,
        lambda x, p: stats.geom.logpmf(x + 1.0, p),
        COIN,
    ),
    beside_scipy(
        "gamma",
        dem.GammaMixture,
        lambda rng, a, s: rng.gamma(a, s),
        lambda x, a, s: stats.gamma.logpdf(x, a, scale=s),
        (0.5, 9.0),
        (0.1, 9.0),
    ),
    beside_scipy(
        "beta",
        dem.BetaMixture,
        lambda rng, a, b: np.clip(rng.beta(a, b), 1e-9, 1.0 - 1e-9),
        stats.beta.logpdf,
        (0.5, 9.0),
        (0.5, 9.0),
    ),
    beside_scipy(
        "log_normal",
        partial(dem.LogNormalMixture, covariance_type="diag"),
        lambda rng, m, s: np.exp(rng.normal(m, s)),
        lambda x, m, s: stats.lognorm.logpdf(x, s, scale=np.exp(m)),
        (-3.0, 3.0),
        (0.1, 1.0),
    ),
    beside_scipy(
        "von_mises",
        dem.VonMisesMixture,
        lambda rng, m, k: rng.vonmises(m, k),
        lambda x, m, k: stats.vonmises.logpdf(x, k, loc=m),
        (-3.0, 3.0),
        (0.5, 20.0),
    ),
    Case(
        "von_mises_fisher",
        on_sphere,
        dem.VonMisesFisherMixture,
        SCIPY,
        scipy_stats(
            lambda x, mean: stats.vonmises_fisher(mean, 20.0).logpdf(x),
            lambda rng, d: zip(on_sphere(rng, K, d), strict=True),
        ),
        32,
    ),
    Case(
        "student_t",
        normal,
        dem.StudentTMixture,
        SCIPY,
        scipy_stats(
            lambda x, mean: stats.multivariate_t.logpdf(x, mean, np.eye(len(mean)), 5.0),
            lambda rng, d: zip(rng.normal(size=(K, d)), strict=True),
        ),
    ),
    Case("mixture", survey, mixed, "StepMix", stepmix(MIXED)),
    Case("regression", lines, dem.RegressionMixture, "flexmix", flexmix("FLXMRglm()", "y ~ x"), 5),
    Case(
        "factor_analyzer",
        low_rank,
        partial(dem.FactorAnalyzerMixture, n_factors=4),
        "scikit-learn, one component on each eighth of the rows",
        of_each_share(scikit_learn(FactorAnalysis, n_components=4)),
        64,
        25_000,
    ),
    Case(
        "bayesian_gaussian",
        normal,
        dem.BayesianGaussianMixture,
        "scikit-learn",
        scikit_learn(BayesianGaussianMixture, **SKLEARN),
    ),
    Case("kmeans", normal, k_means, "scikit-learn", scikit_learn(KMeans, n_clusters=K, init="random", n_init=1)),
]


# Timing ---------------------------------------------------------------------------------------------------------


def seconds_of_dem(case: Case, rows: np.ndarray) -> float:
    """Return the median processor seconds of an iteration on all cores, M-step included."""
    watch = Stopwatch([], clock=time.process_time)
    options = {"init_params": "random_from_data", "sample_rows": 5000, "tol": 0.0, "random_state": 0}
    with threadpool_limits(1):  # of BLAS, as the peers have
        case.model(n_components=K, max_iter=MANY, callbacks=[watch], **options).fit(rows)
    return median(watch.seconds[-MANY:])


def compare(case: Case, scale: float, repeats: int) -> dict:
    """Time dem and the peer in turns; what the peer says where it cannot be had."""
    rows = case.rows(np.random.default_rng(0), max(int(case.n_rows * scale), 50 * K), case.n_features)
    times: tuple[list[float], list[float]] = ([], [])
    found = {"family": case.name, "peer": case.peer, "n": len(rows), "d": case.n_features, "K": K}
    for _ in range(repeats):
        times[0].append(seconds_of_dem(case, rows))
        try:
            times[1].append(case.seconds_of_peer(rows))
        except (ImportError, OSError, subprocess.CalledProcessError) as error:
            return found | {"dem_seconds": median(times[0]), "seconds": None, "ratio": None, "note": str(error)[:200]}
    ratio = median(theirs / ours for ours, theirs in zip(*times, strict=True))
    return found | {"dem_seconds": median(times[0]), "seconds": median(times[1]), "ratio": ratio}


def summary(result: dict) -> str:
    """Return the table of docs/performance.md."""
    cells = [
        [
            f"`{row['family']}`",
            f"{row['n']:,} × {row['d']}",
            f"{row['n'] / row['dem_seconds']:.2g}",
            row["peer"],
            "not installed" if row["seconds"] is None else f"{row['n'] / row['seconds']:.2g}",
            "–" if row["seconds"] is None else f"**{row['ratio']:.2g}×**",
        ]
        for row in result["rows"]
    ]
    return table(["family", "n, d", "dem rows/s", "peer", "its rows/s", "ratio"], cells)


def slower(result: dict) -> str:
    """Say where dem is the slower one."""
    behind = [f"{row['family']} ({row['ratio']:.2g}×)" for row in result["rows"] if row["seconds"] and row["ratio"] < 1]
    return ", ".join(behind) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="names, with semicolons between")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if lacking := ESTIMATORS.keys() - {case.name.split(",")[0] for case in CASES}:
        sys.exit(f"no case for {', '.join(sorted(lacking))}")
    result: dict = {"machine": announce("families beside their peers"), "rows": []}
    for case in CASES:
        if options.only and case.name not in options.only.split(";"):
            continue
        result["rows"].append(compare(case, options.scale, options.repeats))
        print(summary({"rows": result["rows"][-1:]}).splitlines()[-1], flush=True)
    if not options.only:
        save("families", result)


if __name__ == "__main__":
    main()
