"""`select`: fits a grid of models on shared reads of the data and chooses one by a criterion."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from dem.data.base import Rows
from dem.data.joined import highest_label
from dem.data.sources import WeightedOptions
from dem.em.algorithm import Fit, Start, Status
from dem.em.checkpoint import Checkpoint
from dem.em.predict import Entropy, LogLikelihood, RowTotal
from dem.engine import Work, current_engine
from dem.engine.base import single_threaded_blas
from dem.errors import ComponentWarning, DataError, DataWarning, FitError, OptionError
from dem.estimators import checkpoints, inputs, memory
from dem.estimators.advice import trouble_of_components
from dem.estimators.callbacks import History, Reads
from dem.estimators.comparison import SHAPES, as_html, choice
from dem.estimators.criteria import Criteria
from dem.estimators.gaussian import GaussianMixture
from dem.estimators.holdout import Holdout, HoldoutEngine, OnPart
from dem.estimators.mixture import SAMPLE_ITERATIONS, MixtureEstimator
from dem.estimators.registry import is_bayesian
from dem.estimators.stability import check_subsamples, most_stable, stability_of, starts_on_subsets
from dem.estimators.starts import search
from dem.initialise.sample import RowSample
from dem.native import permitted
from dem.units import plural
from dem.validation import rows_to_blame

CRITERIA = ("bic", "aic", "icl", "held_out", "stability", "lower_bound")
#: of these, the ones that are larger for better models
LARGER_IS_BETTER = ("held_out", "lower_bound")
_STATUS = {Status.CONVERGED: "converged", Status.MAX_ITER: "not converged"}


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """The models of a grid, compared.

    Attributes
    ----------
    table : list of dict
        One per model: n_components, covariance_type or n_factors (of models that have one), log_likelihood (per row),
        n_parameters, bic, aic, icl, held_out (log-likelihood per held-out row; None without them), lower_bound
        (evidence lower bound per row; None but for `BayesianGaussianMixture`), status, n_iter, reads (of all
        data, in which the model took part, without those of a ``'k-means||'`` start). Numbers of a model that failed
        are NaN. With `subsamples` also stability, the mean adjusted Rand index of the partitions that two fits to
        halves of the rows find (NaN for one component), stability_error, its standard error, and stability_low and
        stability_high, the first and last decile of the pairs.
    criterion : str
        By which the best was chosen.
    best_index : int
        Its place in the table.
    estimators : list of estimators
        The fitted models, in the order of the table; one that failed is not fitted.
    reads : int
        How often all data was read, for all models together.
    """

    table: list[dict[str, Any]]
    criterion: str
    best_index: int
    estimators: list[Any]
    reads: int

    @property
    def best_estimator_(self) -> Any:
        """The chosen model, fitted."""
        return self.estimators[self.best_index]

    def __repr__(self) -> str:
        return f"Selection({plural(len(self.table), 'model')}; {choice(self)})"

    def _repr_html_(self) -> str:
        """Return the table, for notebooks."""
        return as_html(self)

    def to_pandas(self) -> Any:
        """Return the table as a pandas DataFrame."""
        import pandas as pd  # noqa: PLC0415 - optional

        return pd.DataFrame(self.table)


@dataclass(eq=False)
class Candidate:
    """One model of the grid on its way."""

    estimator: Any
    family: Any = None
    fit: Fit | None = None
    failure: str = ""
    records: list[dict[str, Any]] = field(default_factory=list)
    stability: dict[str, float] = field(default_factory=dict)


def select(
    X: Any,
    *,
    n_components: int | Iterable[int] = range(1, 9),
    covariance_type: str | Sequence[str] | None = None,
    n_factors: int | Iterable[int] | None = None,
    criterion: str = "bic",
    holdout: float = 0.0,
    subsamples: int | None = None,
    estimator: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | str | None = None,
    **options: Any,
) -> Selection:
    """Fit mixtures with several numbers and shapes of components, all of them on each read of X, and choose one.

    Starts are compared on a sample in memory and the best few of each model polished on all data, as in `fit`. One
    more read, shared too, gives the criteria exactly, for the parameters that the models end with.

    Parameters
    ----------
    X : path or URL of a zarr array or group, zarr.Array, array, DataFrame, DataArray or Dataset
        The data, as for `GaussianMixture.fit`.
    n_components : int or iterable of int, default=range(1, 9)
        Numbers of components.
    covariance_type : str or sequence of str, optional
        Covariance types of Gaussian mixtures; that of the estimator when left out.
    n_factors : int or iterable of int, optional
        Numbers of factors of mixtures of factor analysers; that of the estimator when left out.
    criterion : {'bic', 'aic', 'icl', 'held_out', 'stability', 'lower_bound'}, default='bic'
        The best model has the smallest BIC, AIC or ICL, the largest log-likelihood of the held-out rows or, of
        `BayesianGaussianMixture`, evidence lower bound, or is the
        one with the most components whose partition is as stable as the most stable one: within a standard error of its
        agreement. docs/algorithms.md says more.
    holdout : float, default=0
        Share of the rows that no model is fitted to, chosen by a hash of their positions.
    subsamples : int, optional
        How many times each model is fitted to a random half of the rows, from a start of its own, on the same reads, to
        tell how stable its partition is; 10 with criterion 'stability', else none. Memory holds the statistics of all.
    estimator : MixtureEstimator, optional
        The mixture whose options are varied, such as ``BinomialMixture(n_trials=10)``; `GaussianMixture` when left
        out.
    checkpoint, checkpoint_every : optional
        Where the search keeps how far it is, and how often, as for `GaussianMixture.fit`.
    **options
        How X is opened (``variable``, …), as for `GaussianMixture.fit`, and other options of the estimator:
        ``n_init``, ``tol``, ``max_iter``, ``random_state``, …

    Returns
    -------
    Selection
        With `table` and `best_estimator_`.

    Raises
    ------
    OptionError
        If an option has an unknown or impossible value.
    DataError
        If the data cannot be read, is not finite, or has fewer rows than components.
    FitError
        If no model could be fitted.

    Examples
    --------
    >>> import numpy as np, dem
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(200, 2)), 6 + rng.normal(size=(100, 2))])
    >>> chosen = dem.select(X, n_components=range(1, 4), covariance_type=("full", "diag"), random_state=0)
    >>> chosen.best_estimator_.n_components
    2
    """
    if not isinstance(estimator, MixtureEstimator | None):
        message = f"estimator must be a mixture such as dem.BernoulliMixture(), not {estimator!r}"
        raise OptionError(message)
    template = clone(estimator if estimator is not None else GaussianMixture())
    given = {name: options.pop(name) for name in WeightedOptions.__annotations__ if name in options}
    unknown = sorted(options.keys() - template.get_params().keys())
    if unknown:
        message = f"{type(template).__name__} has no option {unknown[0]!r}; it has {', '.join(template.get_params())}"
        raise OptionError(message)
    template.set_params(**options)
    candidates = [Candidate(one) for one in _grid(template, n_components, (covariance_type, n_factors))]
    _check(template, criterion, holdout)
    subsamples = check_subsamples(criterion, subsamples, [one.estimator.n_components for one in candidates])
    largest = max((one.estimator for one in candidates), key=lambda one: one.n_components)
    for one in candidates:
        inputs.check_known(one.estimator, given)
    rows = inputs.rows_of(largest, X, reset=True, **given)
    candidates = _admitted(candidates, rows)
    if n_blocks := template._algorithm().n_blocks:
        rows = rows.divided(n_blocks)
    if rows.n_rows < largest.n_components:
        message = f"{rows.name} has {rows.n_rows} rows, too few for {largest.n_components} components"
        raise DataError(message)
    if 0.0 < holdout * rows.n_rows < 1.0:
        message = f"holdout={holdout} of the {rows.n_rows} rows of {rows.name} is less than one row"
        raise OptionError(message)
    reads = Reads(template.callbacks)
    engine = current_engine(reads)
    estimators = [one.estimator for one in candidates]
    rows = memory.fitting(estimators, rows, engine, template.callbacks or (), times=1 + subsamples)
    kept = checkpoints.open_checkpoint(checkpoint, checkpoint_every, template)
    checkpoints.keep_arithmetic(kept, engine)
    searched = {"n_components": [one.estimator.n_components for one in candidates], "holdout": float(holdout)}
    searched |= {"covariance_type": repr(covariance_type)} | ({"subsamples": subsamples} if subsamples else {})
    searched |= {"n_factors": [one.estimator.n_factors for one in candidates]} if n_factors is not None else {}
    with (
        single_threaded_blas(),
        permitted(engine.uses_loops()),
        HoldoutEngine(engine, Holdout(float(holdout))) as engine,
        rows_to_blame(rows, engine, template._support()),
        kept.held(),
    ):
        checkpoints.begin(kept, template, rows.sliced(1), engine.engine, searched, tallies=[reads, engine])
        with checkpoints.random_numbers([template, *(one.estimator for one in candidates)], kept):
            sample = largest._sample(rows, kept.recorded(engine), check_random_state(template.random_state))
            _fit(candidates, rows, engine, sample, kept, subsamples)
        table = _compare(candidates, rows, engine)
    best = choose(table, criterion)
    for candidate in candidates:
        if candidate.fit is not None:
            inputs.note_features(candidate.estimator, rows)
            candidate.estimator._keep(candidate.records, candidate.family, candidate.fit)
            candidate.estimator._checkpoint = kept.identity
            reads.keep(candidate.estimator)
    if table[best]["status"] != "converged":
        message = f"The chosen model did not converge: {Status.MAX_ITER.value}."
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    if trouble := trouble_of_components(candidates[best].estimator):
        warnings.warn(f"of the chosen model {trouble}", ComponentWarning, stacklevel=2)
    return Selection(table, criterion, best, [one.estimator for one in candidates], round(engine.reads))


def _grid(template: Any, n_components: int | Iterable[int], shapes: Sequence[Any]) -> list[Any]:
    varied: list[dict[str, Any]] = [{}]
    for name, given in zip(("n_components", *SHAPES), (n_components, *shapes), strict=True):
        if given is None:
            continue
        values = [given] if isinstance(given, str | int | np.integer) else list(given)
        if name not in template.get_params():
            message = f"{name} is for {SHAPES[name][1]}; {type(template).__name__} has none"
            raise OptionError(message)
        if not values:
            message = f"{name} needs at least one value"
            raise OptionError(message)
        varied = [{**one, name: value} for value, one in itertools.product(values, varied)]
    # The callbacks themselves: `clone` copies them, and copies tell nobody.
    grid = [clone(template).set_params(**one, callbacks=template.callbacks) for one in varied]
    for one in grid:
        one._check_options()
    return grid


def _admitted(candidates: list[Candidate], rows: Rows) -> list[Candidate]:
    """Return the candidates that have all the components that labels name; warn of the others, and refuse if none has.

    A background has the label behind the last component, which differs from one number of components to another: in a
    search among several it cannot be named.
    """
    highest = highest_label(rows)
    if highest is None:
        return candidates
    sizes = sorted({one.estimator.n_components for one in candidates})
    of_background = len(sizes) == 1 and bool(getattr(candidates[0].estimator, "noise", False))
    too_small = [size for size in sizes if size <= highest - of_background]
    left = f"labels of {rows.name} name component {highest}: n_components={', '.join(map(str, too_small))}"
    if too_small == sizes:
        message = f"{left} is too few; search among more than {highest}"
        raise DataError(message)
    if too_small:
        warnings.warn(f"{left} is left out", DataWarning, stacklevel=3)
    return [one for one in candidates if one.estimator.n_components not in too_small]


def _check(template: Any, criterion: str, holdout: Any) -> None:
    if criterion not in CRITERIA:
        message = f"criterion must be one of {', '.join(CRITERIA)}, not {criterion!r}"
        raise OptionError(message)
    if not (isinstance(holdout, Real) and 0.0 <= float(holdout) < 1.0):
        message = f"holdout must be a share of the rows, at least 0 and less than 1, not {holdout!r}"
        raise OptionError(message)
    if criterion == "held_out" and holdout == 0.0:
        message = "criterion 'held_out' needs held-out rows; give their share, such as holdout=0.1"
        raise OptionError(message)
    if criterion == "lower_bound" and not is_bayesian(template):
        message = "criterion 'lower_bound' is of estimator=dem.BayesianGaussianMixture(); others have bic, aic and icl"
        raise OptionError(message)
    if template.top_components is not None:
        message = "top_components does not go with select, whose criteria need the log-likelihood of all components"
        raise OptionError(message)
    for name, value in template.get_params(deep=False).items():
        if name.endswith("_init") and name != "n_init" and value is not None:
            message = f"{name} does not go with select, which finds the start of every model itself"
            raise OptionError(message)


def _fit(
    candidates: Sequence[Candidate],
    rows: Rows,
    engine: HoldoutEngine,
    sample: RowSample,
    checkpoint: Checkpoint,
    subsamples: int,
) -> None:
    """Fit all candidates together: on the sample where it is not all the data, then on all the data."""
    starts: list[Start] = []
    reader = checkpoint.recorded(engine)
    for number, candidate in enumerate(candidates):
        estimator = candidate.estimator
        random_state = check_random_state(estimator.random_state)
        estimator._learn_units(rows, reader, like=candidates[0].estimator)
        try:
            candidate.family, own = estimator._starts(rows, reader, sample, random_state, checkpoint)
            starts += [Start(candidate.family, start, number) for start in own]
        except FitError as error:
            candidate.failure = f"failed: {error}"
    if not starts:
        raise FitError(candidates[0].failure.removeprefix("failed: "))
    for number, candidate in enumerate(candidates if subsamples else ()):
        if candidate.family is not None:
            starts += starts_on_subsets(number, candidate, subsamples, rows, reader, sample, checkpoint)
    first = candidates[0].estimator
    histories = [History(number) for number in range(len(candidates))]
    listeners = (*histories, *(first.callbacks or ()))
    settings = first._settings(listeners, checkpoint)
    algorithm = first._algorithm()
    found = search(starts, sample, rows, engine, algorithm, settings, sample_iterations=SAMPLE_ITERATIONS)
    for number, candidate in enumerate(candidates):
        candidate.records = histories[number].records
        fits = found.get(number, [])
        if fits and fits[0].eligible:
            candidate.fit = fits[0]
        elif fits:
            candidate.failure = fits[0].reason
        if subsamples:
            halves = [found.get((number, half), []) for half in range(subsamples)]
            ended = [fits[0] for fits in halves if fits and fits[0].eligible]
            candidate.stability = stability_of(candidate.family, ended, sample)


def _compare(candidates: Sequence[Candidate], rows: Rows, engine: HoldoutEngine) -> list[dict[str, Any]]:
    """Return the table, from one last read."""
    fitted = [one for one in candidates if one.fit is not None]
    holdout = engine.holdout
    works: list[Work] = []
    for one in fitted:
        model = (one.family, one.fit.parameters)  # type: ignore[union-attr]
        parts: list[Work] = [LogLikelihood(*model), Entropy(*model)]
        works += [OnPart(part, holdout, held_out=False) for part in parts] if holdout.share else parts
        if holdout.share:
            works.append(OnPart(LogLikelihood(*model), holdout, held_out=True))
    totals = iter(engine.sweep_all(rows, works))
    return [_row(one, totals, held_out=holdout.share > 0.0) for one in candidates]


def _row(candidate: Candidate, totals: Any, *, held_out: bool) -> dict[str, Any]:
    estimator, one = candidate.estimator, candidate.fit
    names = ("n_components", *SHAPES)
    row = {name: value for name in names if (value := estimator.get_params(deep=False).get(name)) is not None}
    figures: tuple[str, ...] = ("log_likelihood", "n_parameters", "bic", "aic", "icl", "held_out", "lower_bound")
    if one is None:
        figures = (*figures, *candidate.stability)
        return {**row, **dict.fromkeys(figures, math.nan), "status": candidate.failure, "n_iter": 0, "reads": 0}
    total, entropy = next(totals), next(totals)
    left: RowTotal | None = next(totals) if held_out else None
    worth = Criteria(total, candidate.family.n_parameters(one.parameters), entropy)
    score = None if left is None else left.mean if left.n_rows else math.nan
    bound = None
    if is_bayesian(estimator):
        bound = (total.total + candidate.family.log_prior(one.parameters)) / total.n_rows
    values = (total.mean, worth.n_parameters, worth.bic, worth.aic, worth.icl, score, bound)
    # The sample and the criteria are a read each.
    reads = 2 + max((record["iteration"] for record in candidate.records if record["phase"] == "data"), default=0)
    status = {"status": _STATUS[one.status], "n_iter": one.n_iter, "reads": reads}
    return {**row, **dict(zip(figures, values, strict=True)), **candidate.stability, **status}


def choose(table: Sequence[Mapping[str, Any]], criterion: str) -> int:
    """Return the place of the best model, the first of equals."""
    if criterion == "stability" and (place := most_stable(table)) is not None:
        return place
    sign = -1.0 if criterion in LARGER_IS_BETTER else 1.0
    values = [
        math.inf if row.get(criterion) is None or math.isnan(row[criterion]) else sign * row[criterion] for row in table
    ]
    if min(values) == math.inf:
        message = f"no model has a finite {criterion}; look at the status of each, and at the data"
        raise FitError(message)
    return values.index(min(values))
