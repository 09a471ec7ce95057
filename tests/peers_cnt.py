"""Counts and categories beside StepMix, SciPy, statsmodels, scikit-learn and R's flexmix."""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
from cases_exponential import classes, counting_rows, documents, scattered_counts
from peers import Comparisons, difference

import dem

N_COMPONENTS = 3


def latent_classes(*, gaps: bool, n_iterations: int) -> float:
    """Probabilities and log-likelihood of three latent classes from the same start (StepMix)."""
    from stepmix.stepmix import StepMix

    rows = classes(1000)[:, [2, 4]].astype(float)  # StepMix has as many categories in each column
    rows = np.column_stack([rows, classes(1000, seed=3)[:, [2, 4]]])
    if gaps:
        rows[np.random.default_rng(1).random(rows.shape) < 0.2] = np.nan
    shares = np.random.default_rng(3).dirichlet(np.ones(N_COMPONENTS), size=len(rows))

    class FromShares(StepMix):
        """StepMix that starts from given responsibilities."""

        def _initialize_parameters(self, X, random_state):
            self.log_resp_, self.weights_ = np.log(shares), np.full(N_COMPONENTS, 1.0 / N_COMPONENTS)
            self._initialize_parameters_measurement(X, random_state)

    def theirs(n: int) -> tuple[StepMix, np.ndarray]:
        measurement = f"categorical{'_nan' if gaps else ''}"
        stepmix = FromShares(N_COMPONENTS, measurement=measurement, abs_tol=0, max_iter=n, verbose=0, progress_bar=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stepmix.fit(rows)
        return stepmix, stepmix._mm.get_parameters()["pis"].reshape(N_COMPONENTS, rows.shape[1], 3)

    begun, probabilities = theirs(1)
    ended, expected = theirs(n_iterations + 1)
    start = {"weights_init": begun.weights_, "probabilities_init": probabilities}
    options = {"tol": 0.0, "max_iter": n_iterations, "missing": "marginalise" if gaps else "error", "n_categories": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = dem.CategoricalMixture(N_COMPONENTS, **options, **start).fit(rows)
    return max(
        difference(ours.probabilities_, expected),
        difference(ours.weights_, ended.weights_),
        difference(ours.score(rows), ended.score(rows)),
    )


def negative_binomial() -> float:
    """Mean, r and log-likelihood of one negative binomial (statsmodels)."""
    from statsmodels.discrete.discrete_model import NegativeBinomial

    rows = scattered_counts()[:, [0]]
    theirs = NegativeBinomial(rows[:, 0], np.ones((len(rows), 1))).fit(disp=0, gtol=1e-10, maxiter=500)
    constant, dispersion = theirs.params
    ours = dem.NegativeBinomialMixture(algorithm="auto", tol=1e-14, max_iter=5000).fit(rows)
    found = [ours.means_[0, 0], ours.sizes_[0, 0], ours.score(rows) * len(rows)]
    return max(difference(*pair) for pair in zip(found, [np.exp(constant), 1.0 / dispersion, theirs.llf], strict=True))


def densities() -> float:
    """Densities of negative binomial and of multinomial mixtures (SciPy)."""
    from scipy import special, stats

    rows = scattered_counts()
    scattered = dem.NegativeBinomialMixture(N_COMPONENTS, random_state=0, max_iter=300).fit(rows)
    one = stats.nbinom(scattered.sizes_, scattered.sizes_ / (scattered.sizes_ + scattered.means_))
    logs = one.logpmf(rows[:, np.newaxis]).sum(axis=2)
    expected = special.logsumexp(logs + np.log(scattered.weights_), axis=1)
    words = documents()
    model = dem.MultinomialMixture(N_COMPONENTS, random_state=0).fit(words)
    logs = np.transpose([stats.multinomial.logpmf(words, words.sum(axis=1), p / p.sum()) for p in model.probabilities_])
    others = special.logsumexp(logs + np.log(model.weights_), axis=1)
    return max(difference(scattered.score_samples(rows), expected), difference(model.score_samples(words), others))


def bayes() -> float:
    """Log-probabilities of words where all components are known, plain ones (scikit-learn's naive Bayes)."""
    from sklearn.naive_bayes import CategoricalNB, MultinomialNB

    rng = np.random.default_rng(0)
    words, kinds, labels = documents(), classes(), rng.integers(N_COMPONENTS, size=3000)
    theirs = MultinomialNB(alpha=1e-10, force_alpha=True).fit(words, labels)
    others = CategoricalNB(alpha=1e-10, force_alpha=True).fit(kinds, labels)
    options = {"max_iter": 1, "tol": 0.0, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = dem.MultinomialMixture(N_COMPONENTS, **options).fit(words, labels=labels)
        mine = dem.CategoricalMixture(N_COMPONENTS, **options).fit(kinds, labels=labels)
    found = [mine.probabilities_[:, j, : n.shape[1]] for j, n in enumerate(others.feature_log_prob_)]
    return max(
        difference(ours.probabilities_, np.exp(theirs.feature_log_prob_)),
        *(difference(one, np.exp(other)) for one, other in zip(found, others.feature_log_prob_, strict=True)),
    )


_FLEXMIX = """
suppressMessages(library(flexmix))
folder <- commandArgs(TRUE)[1]
rows <- as.matrix(read.csv(file.path(folder, "rows.csv"), header = FALSE))
z <- as.matrix(read.csv(file.path(folder, "z.csv"), header = FALSE))
control <- list(tolerance = 1e-13, iter.max = 5000, minprior = 0)
fit <- flexmix(rows ~ 1, k = 3, model = FLXMCmvpois(), cluster = z, control = control)
write.table(c(as.numeric(logLik(fit)), prior(fit), as.vector(parameters(fit))), file.path(folder, "out.txt"),
            row.names = FALSE, col.names = FALSE)
"""


def flexmix() -> float:
    """Log-likelihood, weights and rates of three Poisson components (R's flexmix)."""
    from case import RATES

    rows = counting_rows("poisson", RATES, 1000)
    ours = dem.PoissonMixture(N_COMPONENTS, tol=1e-14, max_iter=5000, random_state=0).fit(rows)
    z = 0.8 * np.asarray(ours.predict_proba(rows)) + 0.2 / N_COMPONENTS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        np.savetxt(path / "rows.csv", rows, delimiter=",", fmt="%d")
        np.savetxt(path / "z.csv", z, delimiter=",")
        (path / "fit.R").write_text(_FLEXMIX)
        subprocess.run(["Rscript", path / "fit.R", folder], check=True, timeout=120)
        found = np.loadtxt(path / "out.txt")
    return max(
        difference(ours.score(rows) * len(rows), found[0]),
        difference(ours.weights_, found[1:4]),
        difference(ours.rates_.ravel(), found[4:]),
    )


COMPARISONS: Comparisons = {
    "classes": (
        "`dem.CategoricalMixture`: probabilities, weights, log-likelihood after 20 iterations | StepMix",
        lambda: latent_classes(gaps=False, n_iterations=20),
        1e-6,
    ),
    "classes_gaps": (
        "`dem.CategoricalMixture`: the same at the maximum, a fifth of the values missing | StepMix",
        lambda: latent_classes(gaps=True, n_iterations=3000),
        1e-6,
    ),
    "negative_binomial": (
        "`dem.NegativeBinomialMixture`: mean, r and log-likelihood of one component | statsmodels",
        negative_binomial,
        1e-5,
    ),
    "counts": (
        "`dem.NegativeBinomialMixture`, `dem.MultinomialMixture`: log-densities | SciPy",
        densities,
        1e-10,
    ),
    "bayes": (
        "`dem.MultinomialMixture`, `dem.CategoricalMixture`: probabilities where all labels are known | scikit-learn",
        bayes,
        1e-8,
    ),
    "flexmix": (
        "`dem.PoissonMixture`: log-likelihood, weights and rates of three components | flexmix",
        flexmix,
        1e-6,
    ),
}
