"""Mixed tables beside StepMix, whose measurement models are what dem calls the families of columns."""

from __future__ import annotations

import warnings

import numpy as np
from peers import Comparisons, difference
from sklearn.exceptions import ConvergenceWarning

import dem

N_COMPONENTS = 3


def table(*, gaps: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of two coins, two numbers and two columns of four categories, and what made them."""
    rng = np.random.default_rng(7)
    labels = rng.choice(N_COMPONENTS, size=2000, p=[0.5, 0.3, 0.2])
    coins = rng.random((2000, 2)) < np.array([[0.9, 0.2], [0.3, 0.6], [0.1, 0.9]])[labels]
    numbers = np.array([[0.0, 5.0], [3.0, 4.0], [5.0, 0.0]])[labels] + rng.normal(size=(2000, 2))
    shares = np.array([[0.6, 0.2, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.2, 0.6]])
    edges = np.cumsum(shares, axis=1)[labels, :-1]
    kinds = np.sum(rng.random((2000, 2, 1)) > edges[:, np.newaxis], axis=2)
    rows = np.column_stack([coins, numbers, kinds]).astype(float)
    if gaps:
        rows[rng.random(rows.shape) < 0.15] = np.nan
    return rows, labels


def compared(*, gaps: bool, n_iterations: int) -> float:
    """Return the largest difference of all parameters and of the log-likelihood after EM from the same start."""
    from stepmix.stepmix import StepMix

    rows, labels = table(gaps=gaps)
    rng = np.random.default_rng(3)
    shares = 0.6 * np.eye(N_COMPONENTS)[labels] + 0.4 * rng.dirichlet(np.ones(N_COMPONENTS), size=len(rows))

    class FromShares(StepMix):
        """StepMix that starts from given responsibilities."""

        def _initialize_parameters(self, X, random_state):
            self.log_resp_, self.weights_ = np.log(shares), np.full(N_COMPONENTS, 1.0 / N_COMPONENTS)
            self._initialize_parameters_measurement(X, random_state)

    suffix = "_nan" if gaps else ""
    models = {"coins": f"binary{suffix}", "numbers": f"gaussian_diag{suffix}", "kinds": f"categorical{suffix}"}

    def theirs(n: int) -> StepMix:
        measurement = {name: {"model": model, "n_columns": 2} for name, model in models.items()}
        stepmix = FromShares(N_COMPONENTS, measurement=measurement, abs_tol=0, max_iter=n, verbose=0, progress_bar=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return stepmix.fit(rows)

    def parameters(fitted: StepMix) -> list[np.ndarray]:
        found = fitted._mm.get_parameters()
        kinds = found["kinds"]["pis"].reshape(N_COMPONENTS, 2, 4)
        covariances = found["numbers"]["covariances"]
        return [found["coins"]["pis"], found["numbers"]["means"], covariances, kinds]

    begun = FromShares(N_COMPONENTS, measurement={name: {"model": one, "n_columns": 2} for name, one in models.items()})
    begun._initialize_parameters(rows, np.random.RandomState(0))
    coins, means, covariances, kinds = parameters(begun)
    gaussian = {"covariance_type": "diag", "means_init": means, "precisions_init": 1.0 / covariances}
    mixture = dem.Mixture(
        {
            "0,1": dem.BernoulliMixture(probabilities_init=coins),
            "2,3": ("gaussian", {**gaussian, "reg_covar": 0.0 if gaps else 1e-6}),
            "4,5": ("categorical", {"probabilities_init": kinds}),
        },
        n_components=N_COMPONENTS,
        weights_init=begun.weights_,
        tol=0,
        max_iter=n_iterations,
        missing="marginalise" if gaps else "error",
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(rows)
    peer = theirs(n_iterations)
    found = mixture.parameters_
    ours = [found["0,1"]["probabilities"], found["2,3"]["means"], found["2,3"]["covariances"]]
    ours += [found["4,5"]["probabilities"], mixture.weights_, np.array([mixture.score(rows)])]
    others = [*parameters(peer), peer.weights_, np.array([peer.score(rows)])]
    return max(difference(one, other) for one, other in zip(ours, others, strict=True))


COMPARISONS: Comparisons = {
    "mixture": (
        "`Mixture` of coins, numbers and categories: all parameters, after 30 iterations | StepMix",
        lambda: compared(gaps=False, n_iterations=30),
        1e-6,
    ),
    "mixture with gaps": (
        "`Mixture` with missing values: all parameters, at the maximum | StepMix, `*_nan`",
        lambda: compared(gaps=True, n_iterations=500),
        1e-6,
    ),
}
