"""Positive numbers, shares and directions beside scipy, statsmodels and R's flexmix; see `peers`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from peers import Comparisons, difference, r
from scipy import stats

import dem

# Its optimiser, of gamma densities, stops at 1e-8 of the likelihood.
_MIXTURE = """
suppressMessages(library(flexmix))
table <- data.frame(x = rows[, 1])
control <- list(tolerance = 1e-15, iter.max = 3000, minprior = 0)
fit <- flexmix(x ~ 1, data = table, cluster = z, model = FLXMCdist1(dist = "{}"), control = control)
say(as.numeric(logLik(fit)), prior(fit))
"""


def _gamma_rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.gamma(9.0, 0.2, (300, 1)), rng.gamma(3.0, 5.0, (200, 1))])


def one_gamma() -> float:
    """Mean and shape where the likelihood is highest."""
    rows = _gamma_rows()
    shape, _, scale = stats.gamma.fit(rows, floc=0.0)
    ours = dem.GammaMixture(1).fit(rows)
    return max(difference(ours.shapes_[0], shape), difference(ours.scales_[0], scale))


def one_beta() -> float:
    """Both shapes where the likelihood is highest."""
    rows = np.random.default_rng(1).beta(0.7, 5.0, (500, 1))
    a, b, *_ = stats.beta.fit(rows, floc=0.0, fscale=1.0)
    ours = dem.BetaMixture(1).fit(rows)
    return max(difference(ours.a_[0], a), difference(ours.b_[0], b))


def beta_of_statsmodels() -> float:
    """Mean, precision and log-likelihood of a beta regression on a constant."""
    from statsmodels.othermod.betareg import BetaModel

    rows = np.random.default_rng(1).beta(0.7, 5.0, (500, 1))
    theirs = BetaModel(rows[:, 0], np.ones((500, 1))).fit(disp=0, maxiter=1000)
    logit, log_precision = theirs.params
    ours = dem.BetaMixture(1).fit(rows)
    return max(
        difference(ours.means_[0], 1.0 / (1.0 + np.exp(-logit))),
        difference(ours.concentrations_[0], np.exp(log_precision)),
        difference(ours.score(rows) * 500, theirs.llf),
    )


def one_angle() -> float:
    """Mean direction and concentration where the likelihood is highest."""
    rows = np.random.default_rng(2).vonmises(3.0, 2.5, (500, 1))
    concentration, mean, _ = stats.vonmises.fit(rows, fscale=1.0)
    ours = dem.VonMisesMixture(1).fit(rows)
    return max(difference(ours.means_[0], mean), difference(ours.concentrations_[0], concentration))


def one_direction(dimensions: int, concentration: float) -> float:
    """Mean direction, concentration and densities in several dimensions."""
    mean = np.ones(dimensions) / np.sqrt(dimensions)
    rows = stats.vonmises_fisher(mean, concentration, seed=3).rvs(1000)
    direction, found = stats.vonmises_fisher.fit(rows)
    ours = dem.VonMisesFisherMixture(1).fit(rows)
    densities = stats.vonmises_fisher(ours.means_[0], ours.concentrations_[0]).logpdf(rows)
    return max(
        difference(ours.means_[0], direction),
        difference(ours.concentrations_[0], found),
        difference(ours.score_samples(rows), densities),
    )


def mixture_of_two(make: Any, distribution: str, rows: np.ndarray, **options: Any) -> float:
    """Log-likelihood and weights where EM ends, from the same start."""
    options |= {"random_state": 0}
    start = make(2, max_iter=0, **options).fit(rows)
    theirs = r(_MIXTURE.format(distribution), rows=rows, z=start.predict_proba(rows))
    ours = make(2, tol=1e-14, max_iter=3000, **options).fit(rows)
    found = [ours.score(rows) * len(rows), *np.sort(ours.weights_)]
    return max(difference(one, other) for one, other in zip(found, [theirs[0], *np.sort(theirs[1:])], strict=True))


def _log_normal_rows() -> np.ndarray:
    rng = np.random.default_rng(4)
    return np.exp(np.concatenate([rng.normal(0.0, 0.5, (300, 1)), rng.normal(2.0, 0.7, (200, 1))]))


COMPARISONS: Comparisons = {
    "gamma": ("`dem.GammaMixture`: shape and scale of one component | scipy, `gamma.fit`", one_gamma, 1e-9),
    "two gammas": (
        "`dem.GammaMixture`: log-likelihood and weights of two components, same start | flexmix, `FLXMCdist1`",
        lambda: mixture_of_two(dem.GammaMixture, "gamma", _gamma_rows()),
        1e-4,
    ),
    "two log-normals": (
        "`dem.LogNormalMixture`: log-likelihood and weights of two components, same start | flexmix, `FLXMCdist1`",
        lambda: mixture_of_two(dem.LogNormalMixture, "lnorm", _log_normal_rows(), reg_covar=0.0),
        1e-5,
    ),
    "beta": ("`dem.BetaMixture`: both shapes of one component | scipy, `beta.fit`", one_beta, 1e-9),
    "beta of statsmodels": (
        "`dem.BetaMixture`: mean, precision, log-likelihood of one component | statsmodels, `BetaModel`",
        beta_of_statsmodels,
        1e-5,
    ),
    "von Mises": (
        "`dem.VonMisesMixture`: direction and concentration of one component | scipy, `vonmises.fit`",
        one_angle,
        1e-9,
    ),
    **{
        f"directions in {d}": (
            f"`dem.VonMisesFisherMixture`: direction, concentration, densities in {d}-D | scipy, `vonmises_fisher`",
            partial(one_direction, d, concentration),
            1e-9,
        )
        for d, concentration in ((3, 20.0), (30, 100.0))
    },
}
