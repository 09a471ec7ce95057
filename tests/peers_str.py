"""Models of equal or varying volume, shape and orientation beside R's mclust; see `peers`."""

from __future__ import annotations

from functools import partial

import numpy as np
from peers import Comparisons, difference, r
from sklearn.datasets import load_iris

import dem

# VVE is left out: mclust 6.0.0 ends where its likelihood still rises (see tests/test_structures.py).
NAMES = ("EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "EEV", "VEV", "EVV", "VVV")
_ME = """
suppressMessages(library(mclust))
control <- emControl(tol = c(1e-15, 1e-15), itmax = c(100000, 100000), eps = 0)
found <- lapply(c(NAMES), function(name) {
    fit <- me(data = rows, modelName = name, z = z, control = control)
    numbers <- nMclustParams(name, ncol(rows), ncol(z))
    variance <- fit$parameters$variance
    c(fit$loglik, 2 * fit$loglik - numbers * log(nrow(rows)), fit$parameters$pro, fit$parameters$mean, variance$sigma)
})
say(unlist(found))
"""


def _matrices(model: dem.GaussianMixture) -> np.ndarray:
    """Return the covariances as matrices."""
    (n, d), found = np.shape(model.means_), np.asarray(model.covariances_)
    if model.covariance_type in ("EEE", "VVV") or found.ndim == 3:
        return np.broadcast_to(found, (n, d, d))
    return np.broadcast_to(found.reshape(n, -1), (n, d))[:, :, np.newaxis] * np.eye(d)


def iris(size: int) -> float:
    """Log-likelihood, BIC, weights, means and covariances of all models, from the same classes."""
    rows, species = load_iris(return_X_y=True)
    z = np.eye(size)[species if size == 3 else np.minimum(species, 1)]
    names = ", ".join(f'"{name}"' for name in NAMES)
    theirs = r(_ME.replace("NAMES", names), rows=rows, z=z).reshape(len(NAMES), -1)
    counts, means = z.sum(axis=0), (z.T @ rows) / z.sum(axis=0)[:, np.newaxis]
    largest = 0.0
    for name, expected in zip(NAMES, theirs, strict=True):
        model = dem.GaussianMixture(size, covariance_type=name, reg_covar=0.0, tol=1e-15, max_iter=3000)
        model.set_params(weights_init=counts / len(rows), means_init=means, precisions_init=_start(name, rows, z))
        model.fit(rows)
        ours = [model.score_samples(rows).sum(), -model.bic(rows)]
        parts = (ours, model.weights_, model.means_, _matrices(model))
        ends = np.cumsum([np.size(part) for part in parts])[:-1]
        # R keeps matrices by column: those of covariances are symmetric, and means have a column for each component.
        pairs = zip(parts, np.split(expected, ends), strict=True)
        largest = max(largest, *(difference(np.ravel(one), other) for one, other in pairs))
    return largest


def _start(name: str, rows: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return precisions of the classes, of the shape that a model asks for."""
    within = np.array([np.cov(rows[own > 0].T, ddof=0) for own in z.T])
    if name == "EEE":
        return np.linalg.inv(np.tensordot(z.mean(axis=0), within, axes=1))
    variances = np.diagonal(within, axis1=1, axis2=2)
    if name == "VII":
        return 1.0 / variances.mean(axis=1)
    return 1.0 / variances if name.endswith("I") else np.linalg.inv(within)


COMPARISONS: Comparisons = {
    f"structures-{size}": (
        f"thirteen models of volume, shape and orientation, iris, K = {size}: likelihood, BIC, parameters | mclust",
        partial(iris, size),
        1e-6,
    )
    for size in (2, 3)
}
