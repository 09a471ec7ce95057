"""The models by the names of model files and of the command line: the one place to enter a new one.

A leaf, which imports nothing of dem: the shell and `import dem` read it before anything that takes time is loaded.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

#: ways of EM; `MixtureEstimator._algorithm` says what they mean
ALGORITHMS = ("auto", "batch", "incremental", "stepwise")
#: what becomes of missing values; `Estimator` says what they mean
MISSING = ("error", "skip", "marginalise")
#: ways in which a mixture starts from a sample, and one that reads all the data
MIXTURE_STARTS = ("kmeans", "k-means++", "random", "random_from_data", "k-means||")


@dataclass(frozen=True)
class ShellOption:
    """An option of the shell that not all models have.

    Attributes
    ----------
    flag, parameter : str
        What the shell and the estimator call it.
    help : str
        A line for ``--help``.
    values : {'count', 'not negative', 'flag', 'flag or number'} or tuple of str
        What may be given: a whole number of at least 1, a number of at least 0, nothing, nothing or a number above 0,
        or one of these names.
    needed : str
        What it is, if the model cannot do without; else it has a default.
    said_as : str
        How `dem info` says its value, such as ``'{} trials'``; empty if it does not.
    """

    flag: str
    parameter: str
    help: str
    values: str | tuple[str, ...]
    needed: str = ""
    said_as: str = ""


@dataclass(frozen=True)
class Entry:
    """What others must know of a model.

    Attributes
    ----------
    estimator : str
        The class, as ``'module:name'``.
    location : str
        The fitted parameter that locates the components, without the underscore at its end.
    location_words : str
        What a table calls it.
    size : str
        The option that is the number of components.
    start : str
        The option that says how to start.
    starts : tuple of str
        Its values.
    is_mixture : bool
        Whether it is a mixture, with weights and a likelihood; else it has clusters and an inertia.
    options : tuple of ShellOption
        What the shell offers for it beside what all models have.
    """

    estimator: str
    location: str
    location_words: str
    size: str = "n_components"
    start: str = "init_params"
    starts: tuple[str, ...] = MIXTURE_STARTS
    is_mixture: bool = True
    options: tuple[ShellOption, ...] = ()

    @property
    def class_name(self) -> str:
        """Name of the class, in Python."""
        return self.estimator.partition(":")[2]

    def load(self) -> type[Any]:
        """Import the class."""
        module, _, name = self.estimator.partition(":")
        kind: type[Any] = getattr(importlib.import_module(module), name)
        return kind


_SCALE = ShellOption("--scale", "scale", "Take features in units of their standard deviations.", "flag")
# What mixtures of Gaussians and of t distributions have in common.
_COVARIANCES = (
    ShellOption(
        "--covariance",
        "covariance_type",
        "Shape of the covariances.  [default: full]",
        ("full", "tied", "diag", "spherical"),
        said_as="{} covariances",
    ),
    ShellOption("--reg-covar", "reg_covar", "Added to all variances.  [default: 1e-6]", "not negative"),
    _SCALE,
    ShellOption(
        "--noise", "noise", "A uniform background: over the box of all rows, or of this volume.", "flag or number"
    ),
)

ESTIMATORS = {
    "gaussian": Entry(
        "dem.estimators.gaussian:GaussianMixture",
        "means",
        "mean ± standard deviation",
        options=_COVARIANCES,
    ),
    "bernoulli": Entry("dem.estimators.binomial:BernoulliMixture", "probabilities", "probability"),
    "binomial": Entry(
        "dem.estimators.binomial:BinomialMixture",
        "probabilities",
        "probability",
        options=(
            ShellOption(
                "--trials",
                "n_trials",
                "Trials behind every value (binomial).",
                "count",
                needed="the number of trials behind every value",
                said_as="{} trials",
            ),
        ),
    ),
    "poisson": Entry("dem.estimators.poisson:PoissonMixture", "rates", "rate"),
    "exponential": Entry("dem.estimators.exponential:ExponentialMixture", "rates", "rate"),
    "geometric": Entry("dem.estimators.geometric:GeometricMixture", "probabilities", "probability"),
    "student_t": Entry(
        "dem.estimators.student_t:StudentTMixture",
        "means",
        "centre ± scale",
        options=(
            *_COVARIANCES,
            ShellOption("--dof", "dof", "Degrees of freedom at the start.  [default: 4]", "not negative"),
            ShellOption(
                "--fit-dof",
                "fit_dof",
                "Degrees of freedom: one per component, one for all, or as given.  [default: free]",
                ("free", "shared", "fixed"),
                said_as="{} degrees of freedom",
            ),
        ),
    ),
    "kmeans": Entry(
        "dem.estimators.kmeans:KMeans",
        "cluster_centers",
        "centre",
        size="n_clusters",
        start="init",
        starts=("k-means||", "k-means++", "random"),
        is_mixture=False,
        options=(_SCALE,),
    ),
}
#: the model where none is named
DEFAULT = "gaussian"


#: the same by the classes of the estimators
BY_CLASS = {entry.estimator: entry for entry in ESTIMATORS.values()}


def entry_of(estimator: Any) -> Entry:
    """Return what the registry tells of an estimator."""
    entry: Entry = estimator._entry
    return entry


def name_of(estimator: Any) -> str:
    """Return the name of the model that an estimator, or one derived from it, is."""
    return next(name for name, entry in ESTIMATORS.items() if entry is estimator._entry)
