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
#: the same for regressions, of which points tell little
REGRESSION_STARTS = ("short-em", *MIXTURE_STARTS)


@dataclass(frozen=True)
class ShellOption:
    """An option of the shell that not all models have.

    Attributes
    ----------
    flag, parameter : str
        What the shell and the estimator call it.
    help : str
        A line for ``--help``.
    values : str or tuple of str
        What may be given: one of these names, or by a word ``'count'``, a whole number of at least 1; ``'counts or
        names'``, one or several, or what of the data has them; ``'not negative'``, a number of at least 0; ``'above
        0'``; ``'flag'``, nothing; ``'off'``, nothing, which sets the option to False; ``'flag or number'``, nothing or
        a number above 0; ``'column'``, the name or number of a column; ``'list'``, several of them; ``'columns'``,
        names of columns with the name and options of a family (several times).
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
_REG_COVAR = ShellOption(
    "--reg-covar",
    "reg_covar",
    "Added to all variances; of regressions and factor analysers the least.  [default: 1e-6]",
    "not negative",
)
#: shapes of covariances: scikit-learn's names, and mclust's, the last two of which are for one feature
SHAPES = ("full", "tied", "diag", "spherical")
MCLUST_SHAPES = (
    *("EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV"),
    *("E", "V"),
)


def _covariances(names: tuple[str, ...]) -> ShellOption:
    text = "Shape of the covariances; with capitals one of mclust's, of Gaussians.  [default: full]"
    return ShellOption("--covariance", "covariance_type", text, names, said_as="{} covariances")


_NOISE = ShellOption(
    "--noise", "noise", "A uniform background: over the box of all rows, or of this volume.", "flag or number"
)
_PRIOR = ShellOption(
    "--prior",
    "prior",
    "Conjugate prior: Fraley and Raftery's of Gaussians; of other families one row more in each component.",
    ("default",),
)
# What mixtures of Gaussians and of t distributions have in common.
_COVARIANCES = (
    _REG_COVAR,
    _SCALE,
    _PRIOR,
    _NOISE,
)

ESTIMATORS = {
    "gaussian": Entry(
        "dem.estimators.gaussian:GaussianMixture",
        "means",
        "mean ± standard deviation",
        options=(_covariances((*SHAPES, *MCLUST_SHAPES)), *_COVARIANCES),
    ),
    "bernoulli": Entry("dem.estimators.binomial:BernoulliMixture", "probabilities", "probability", options=(_PRIOR,)),
    "binomial": Entry(
        "dem.estimators.binomial:BinomialMixture",
        "probabilities",
        "probability",
        options=(
            _PRIOR,
            ShellOption(
                "--trials",
                "n_trials",
                "Trials behind every value, or behind those of each column: 10,10,4; or a variable of DATA, a path, or "
                "names, with those of each row (binomial).",
                "counts or names",
                needed="the number of trials behind every value",
                said_as="{} trials",
            ),
        ),
    ),
    "categorical": Entry(
        "dem.estimators.categorical:CategoricalMixture", "probabilities", "probabilities", options=(_PRIOR,)
    ),
    "multinomial": Entry(
        "dem.estimators.multinomial:MultinomialMixture", "probabilities", "probability", options=(_PRIOR,)
    ),
    "poisson": Entry("dem.estimators.poisson:PoissonMixture", "rates", "rate", options=(_PRIOR,)),
    "negative_binomial": Entry(
        "dem.estimators.negative_binomial:NegativeBinomialMixture",
        "means",
        "mean",
        options=(
            ShellOption(
                "--size",
                "size",
                "r of the negative binomial at the start: variance μ + μ²/r.  [default: by moments]",
                "not negative",
            ),
            ShellOption(
                "--fit-size",
                "fit_size",
                "r: one per component and feature, one per feature, or as given.  [default: free]",
                ("free", "shared", "fixed"),
                said_as="{} sizes",
            ),
        ),
    ),
    "exponential": Entry("dem.estimators.exponential:ExponentialMixture", "rates", "rate", options=(_PRIOR,)),
    "geometric": Entry("dem.estimators.geometric:GeometricMixture", "probabilities", "probability", options=(_PRIOR,)),
    "gamma": Entry("dem.estimators.gamma:GammaMixture", "means", "mean ± standard deviation", options=(_PRIOR,)),
    "beta": Entry("dem.estimators.beta:BetaMixture", "means", "mean ± standard deviation", options=(_PRIOR,)),
    "log_normal": Entry(
        "dem.estimators.log_normal:LogNormalMixture",
        "means",
        "mean ± standard deviation of the logarithm",
        options=(_covariances((*SHAPES, *MCLUST_SHAPES)), _REG_COVAR, _NOISE),
    ),
    "von_mises": Entry(
        "dem.estimators.von_mises:VonMisesMixture",
        "means",
        "mean direction ± circular standard deviation",
        options=(_PRIOR,),
    ),
    "von_mises_fisher": Entry(
        "dem.estimators.von_mises:VonMisesFisherMixture", "means", "mean direction", options=(_PRIOR,)
    ),
    "student_t": Entry(
        "dem.estimators.student_t:StudentTMixture",
        "means",
        "centre ± scale",
        options=(
            _covariances(SHAPES),
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
    "mixture": Entry(
        "dem.estimators.mixed:Mixture",
        "means",
        "mean, or most probable category,",
        options=(
            ShellOption(
                "--column",
                "families",
                "Columns and their family, once for each: height,weight=gaussian:covariance_type=diag (mixture).",
                "columns",
                needed="the columns of each family",
                said_as="{}",
            ),
        ),
    ),
    "regression": Entry(
        "dem.estimators.regression:RegressionMixture",
        "coefficients",
        "coefficient",
        starts=REGRESSION_STARTS,
        options=(
            ShellOption(
                "--response",
                "response",
                "The column that is explained.  [default: the last]",
                "column",
                said_as="response {}",
            ),
            ShellOption(
                "--design",
                "design",
                "The columns that explain it, with commas.  [default: all others]",
                "list",
                said_as="design {}",
            ),
            ShellOption("--no-intercept", "intercept", "Lines that go through 0.", "off"),
            ShellOption(
                "--fit-sigma",
                "fit_sigma",
                "Deviation about the lines: one per component, or one for all.  [default: free]",
                ("free", "shared"),
                said_as="{} sigma",
            ),
            _REG_COVAR,
        ),
    ),
    "factor_analyzer": Entry(
        "dem.estimators.factor_analyzer:FactorAnalyzerMixture",
        "means",
        "mean ± standard deviation",
        options=(
            ShellOption(
                "--factors", "n_factors", "Factors of each component.  [default: 1]", "count", said_as="{} factors"
            ),
            ShellOption(
                "--noise-type",
                "noise_type",
                "A noise variance for each feature, or one for all (probabilistic PCA).  [default: diag]",
                ("diag", "spherical"),
                said_as="{} noise",
            ),
            ShellOption("--tied-noise", "tied_noise", "One noise for all components.", "flag"),
            _REG_COVAR,
            _SCALE,
        ),
    ),
    "bayesian_gaussian": Entry(
        "dem.estimators.bayesian:BayesianGaussianMixture",
        "means",
        "mean ± standard deviation",
        options=(
            _covariances(SHAPES),
            _REG_COVAR,
            _SCALE,
            ShellOption(
                "--weight-prior",
                "weight_concentration_prior_type",
                "Prior of the weights.  [default: dirichlet_process]",
                ("dirichlet_process", "dirichlet_distribution"),
                said_as="{} prior of the weights",
            ),
            ShellOption(
                "--weight-concentration-prior",
                "weight_concentration_prior",
                "The smaller, the fewer components keep rows.  [default: 1/K]",
                "above 0",
            ),
            ShellOption(
                "--mean-precision-prior",
                "mean_precision_prior",
                "Rows that the prior of a mean counts for.  [default: 1]",
                "above 0",
            ),
            ShellOption(
                "--degrees-of-freedom-prior",
                "degrees_of_freedom_prior",
                "Rows that the prior of a covariance counts for.  [default: number of features]",
                "above 0",
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


def criterion_of(estimator: Any) -> str:
    """Return what EM maximises for an estimator, in words."""
    return str(getattr(estimator, "_criterion", "log-likelihood"))


def is_bayesian(estimator: Any) -> bool:
    """Tell whether it fits a posterior, whose evidence lower bound models are compared by."""
    return criterion_of(estimator) == "evidence lower bound"


def figure_of(estimator: Any) -> str:
    """Return the name of what EM maximises, per row, in JSON."""
    return f"{criterion_of(estimator).replace('-', '_').replace(' ', '_')}_per_row"


def name_of(estimator: Any) -> str:
    """Return the name of the model that an estimator, or one derived from it, is."""
    return next(name for name, entry in ESTIMATORS.items() if entry is estimator._entry)
