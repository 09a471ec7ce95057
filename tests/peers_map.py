"""Posterior maxima beside R's mclust; see `peers`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from peers import Comparisons, difference, r

import dem

_SCRIPT = """
suppressMessages(library(mclust))
control <- emControl(tol = c(1e-15, 1e-15), itmax = c(10000, 10000))
fit <- me(modelName = "{}", data = rows, z = z, prior = priorControl({}), control = control)
say(fit$loglik, fit$parameters$pro, fit$parameters$mean, fit$parameters$variance$sigma)
"""


def _rows() -> np.ndarray:
    """Return rows of four components, two of which have hardly more rows than features."""
    rng = np.random.default_rng(3)
    sizes = ((150, 1.0), (90, 3.0), (9, 1.0), (6, 2.0))
    rows = np.concatenate([rng.normal(scale=scale, size=(n, 3)) + 4.0 * rng.normal(size=3) for n, scale in sizes])
    rows[:, 1] += 0.8 * rows[:, 0]
    return rows


def posterior_maximum(kind: str, mclust: str, **prior: float) -> float:
    """Log-likelihood, weights, means and covariances where EM with a prior ends."""
    rows = _rows()
    options: dict[str, Any] = {
        "covariance_type": kind,
        "random_state": 1,
        "reg_covar": 0.0,
        "prior": prior or "default",
    }
    start = dem.GaussianMixture(4, max_iter=0, **options).fit(rows)
    given = ", ".join(f"{name} = {value!r}" for name, value in prior.items())
    theirs = r(_SCRIPT.format(mclust, given), rows=rows, z=start.predict_proba(rows))
    ours = dem.GaussianMixture(4, tol=1e-15, max_iter=10_000, **options).fit(rows)
    d, covariances = rows.shape[1], np.asarray(ours.covariances_)
    matrices = covariances if kind in ("full", "tied") else np.reshape(covariances, (4, -1, 1)) * np.eye(d)
    matrices = np.broadcast_to(matrices, (4, d, d))
    found = [ours.score(rows) * len(rows), ours.weights_, ours.means_.ravel(), matrices.ravel()]
    parts = np.split(theirs, np.cumsum([np.size(one) for one in found])[:-1])
    return max(difference(one, other) for one, other in zip(found, parts, strict=True))


# Without shrinkage mclust's `me` of full covariances and its own `mstep` differ by one row of the prior.
_SHRINKAGES = (0.01, 0.5)


def _of(kind: str, mclust: str) -> float:
    return max(posterior_maximum(kind, mclust, shrinkage=shrinkage) for shrinkage in _SHRINKAGES)


COMPARISONS: Comparisons = {
    f"prior of {kind} covariances": (
        f"`dem.GaussianMixture(prior=…)`: where EM with a prior ends, {kind} covariances | mclust {name}",
        partial(_of, kind, name),
        1e-6,
    )
    for kind, name in {"full": "VVV", "tied": "EEE", "diag": "VVI", "spherical": "VII"}.items()
}
