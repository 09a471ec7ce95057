"""Mixtures of regressions beside R's flexmix, and one regression beside statsmodels; see `peers`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from cases_columns import regression_rows
from peers import Comparisons, difference, r

import dem

# flexmix divides the squares of the residuals by n − p for each component: dem, and this, by n, the maximum of the
# likelihood. All else is flexmix's own.
_SCRIPT = """
suppressMessages(library(flexmix))
maximum <- function(model) {
    define <- model@defineComponent
    model@fit <- function(x, y, w, component) {
        fit <- lm.wfit(x, y, w = w)
        define(list(coef = coef(fit), df = ncol(x) + 1, sigma = sqrt(sum(w * fit$residuals^2) / sum(w))))
    }
    model
}
table <- data.frame(a = rows[, 1], b = rows[, 2], y = rows[, 3])
control <- list(minprior = 0, tolerance = 1e-16, iter.max = 3000)
model <- maximum(FLXMRglm(FORMULA, family = "gaussian"))
fit <- flexmix(FORMULA, data = table, cluster = z, model = model, control = control, weights = WEIGHTS)
found <- parameters(fit)
n <- nrow(found)
say(logLik(fit), prior(fit), found[-n, ], found[n, ])
"""


def maximum(*, weighted: bool = False, intercept: bool = True) -> float:
    """Log-likelihood, weights, coefficients and deviations where EM ends, from the same responsibilities."""
    rows = regression_rows(800)
    counts = np.random.default_rng(2).integers(1, 5, 800) if weighted else np.ones(800)
    start = dem.RegressionMixture(3, max_iter=0, intercept=intercept, random_state=0).fit(rows)
    script = _SCRIPT.replace("FORMULA", "y ~ a + b" if intercept else "y ~ a + b - 1")
    script = script.replace("WEIGHTS", "as.integer(counts)" if weighted else "NULL")
    theirs = r(script, rows=rows, z=start.predict_proba(rows), counts=counts)
    options: dict[str, Any] = {"tol": 0.0, "max_iter": 3000, "reg_covar": 0.0, "intercept": intercept}
    given = {f"{name}_init": getattr(start, f"{name}_") for name in ("weights", "coefficients", "intercepts", "sigmas")}
    ours = dem.RegressionMixture(3, **options, **given).fit(rows, sample_weight=counts)
    lines = np.column_stack([*([ours.intercepts_] if intercept else []), ours.coefficients_])
    found = [ours.score(rows, sample_weight=counts) * counts.sum(), ours.weights_, lines.ravel(), ours.sigmas_]
    parts = np.split(theirs, np.cumsum([np.size(one) for one in found])[:-1])
    return max(difference(one, other) for one, other in zip(found, parts, strict=True))


def regression() -> float:
    """Coefficients and log-likelihood of one weighted regression (statsmodels' WLS: of cases, so that σ is theirs)."""
    import statsmodels.api as sm

    rows, counts = regression_rows(500), np.random.default_rng(2).integers(1, 5, 500)
    ours = dem.RegressionMixture(1, reg_covar=0.0).fit(rows, sample_weight=counts)
    design = sm.add_constant(rows[:, :2])
    theirs = sm.WLS(rows[:, 2], design, weights=counts).fit()
    repeated = sm.OLS(rows[:, 2].repeat(counts), design.repeat(counts, axis=0)).fit()
    return max(
        difference([ours.intercepts_[0], *ours.coefficients_[0]], theirs.params),
        difference(ours.score(rows, sample_weight=counts) * counts.sum(), repeated.llf),
        difference(ours.sigmas_[0], np.sqrt(repeated.ssr / repeated.nobs)),
    )


COMPARISONS: Comparisons = {
    "regressions": ("three regressions: log-likelihood, weights, lines, deviations | flexmix", maximum, 1e-6),
    "weighted regressions": ("the same, with weights of cases | flexmix", partial(maximum, weighted=True), 1e-6),
    "regressions through 0": ("the same without intercepts | flexmix", partial(maximum, intercept=False), 1e-6),
    "regression": ("one regression with weights of cases | statsmodels", regression, 1e-9),
}
