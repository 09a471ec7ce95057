"""What all mixtures share: their options, the search for a start, EM, scoring and drawing."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from dem.data.base import Rows
from dem.data.joined import joined
from dem.data.sources import ColumnOptions, SourceOptions
from dem.em.algorithm import Algorithm, Batch, Fit, Settings, Start
from dem.em.checkpoint import Checkpoint
from dem.em.incremental import Incremental
from dem.em.loop import run
from dem.em.predict import ROW_FUNCTIONS
from dem.em.squarem import Squarem
from dem.em.stepwise import Stepwise
from dem.engine import Engine
from dem.engine.base import single_threaded_blas
from dem.errors import DataError, FitError, OptionError
from dem.estimators import persistence
from dem.estimators.adaptation import Adapts
from dem.estimators.checkpoints import drawn
from dem.estimators.draws import Draws
from dem.estimators.gaps import Imputes
from dem.estimators.options import POSITIVE, option
from dem.estimators.outliers import FindsOutliers
from dem.estimators.partial import HELD, LearnsFromStreams
from dem.estimators.registry import ALGORITHMS, MIXTURE_STARTS
from dem.estimators.scores import Scores
from dem.estimators.sklearn_bases import DensityMixin
from dem.estimators.starts import search
from dem.estimators.weights import WeighsComponents
from dem.events import Callback, Preparing, notify
from dem.families.base import Component, Support
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.families.noise import box_of
from dem.initialise import kmeans_parallel_start, row_sample, start_responsibilities
from dem.initialise.sample import RowSample
from dem.validation import check_sample, check_weights

# What may be asked for of metadata that scikit-learn routes; nothing is by default.
ROUTED = dict.fromkeys(ColumnOptions.__annotations__)
# Iterations on the sample at most, unless more are allowed on the data.
SAMPLE_ITERATIONS = 100


class MixtureEstimator(
    Scores, DensityMixin, Draws, Imputes, FindsOutliers, LearnsFromStreams, Adapts, WeighsComponents
):
    """Base of the mixtures; a subclass names its component and checks the start that a user gives.

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    tol : float, default=1e-3
        EM stops when the log-likelihood per row changes by less.
    max_iter : int, default=100
        EM iterations at most; each one reads all the data once.
    algorithm : {'auto', 'batch', 'incremental', 'stepwise'}, default='batch'
        When the parameters move on: after each read of all data, as in scikit-learn; after each of some 40 blocks of
        it, in EM whose free energy never falls (Neal and Hinton 1998) and which needs fewer reads; or in one read of
        stepwise EM (Cappé and Moulines 2009) and then as incremental. All end at maxima of the same likelihood.
        ``'auto'`` takes what needed the fewest reads in the benchmark of docs/algorithms.md: batch with SQUAREM.
    max_in_flight : int, optional
        Blocks under way at once unless the algorithm is batch; a tenth of all by default. More keep more workers busy
        and need more reads. The bits depend on it, but not on the workers.
    step_power : float, default=0.7
        In stepwise EM and `partial_fit` step t has the size (t + 2)^−step_power; between ½ and 1.
    n_init : int, default=1
        Number of starts; the likeliest is kept, and no start ends otherwise than it would alone. They advance together
        on each read, each to its own end, so that they cost the reads of the slowest. Data larger than the sample
        compares them on the sample and polishes the best three together, in incremental and stepwise EM the best. A
        start that fails is left out; it is an error if all do.
    racing : bool, default=False
        Whether starts that fall behind in batch EM are dropped: at most 1.2 times the reads of the one that wins, but
        what is dropped might have won. docs/algorithms.md says how often.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data', 'k-means||'}, default='kmeans'
        How to start, with scikit-learn's meaning, on the sample alone; ``'k-means||'`` draws its seeds from all chunks.
    weights_init : array-like of shape (n_components,), optional
        Start given by the user.
    reseed : int, default=0
        How many times components of no use (`component_status_` is not ``'ok'``) may begin anew at the rows of lowest
        density, with a small weight and the covariance of the others, in batch EM. The log-likelihood may be lower
        once, after an iteration that names them in `history_` (``'reseeded'``); a fit that fails then goes on without.
    warm_start : bool, default=False
        Whether another `fit` goes on from the current parameters.
    verbose, verbose_interval : int
        As in scikit-learn.
    sample_rows : int, optional
        Rows of the uniform random sample on which starts are chosen; as many as take 32 MiB by default. Data
        with no more rows is used whole, in order, so that it gives scikit-learn's own start.
    accelerate : {'squarem'}, optional
        SQUAREM extrapolates EM, worth it where that takes hundreds of iterations (overlapping components, small `tol`).
        The log-likelihood still never falls: a point that is less likely is refused, and costs one read.
    top_components : int, optional
        How many components an E-step computes for each row, for mixtures of hundreds: the likeliest of that row, looked
        for anew now and then, or those that compete in its region, found before the data is read (after the sample,
        where there is one); docs/performance.md says which, what it saves and what it loses. The truncated
        log-likelihood, a lower bound, never falls. `lower_bound_` is that one. All components when left out, and in
        everything but `fit`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    lower_bound_ : float
        Log-likelihood per row (nats) of the parameters that entered the last iteration; with a prior (log-likelihood
        + log prior) / rows, which EM then maximises. Scores and criteria are of the likelihood alone.
    lower_bounds_ : list of float
        The same for each iteration.
    n_samples_seen_ : int
        Rows that `fit`, or all calls of `partial_fit`, have learned from.
    history_ : list of dict
        One per iteration and model, on the sample and on the data: phase, model, iteration, log_likelihood,
        gain, seconds.
    """

    n_components: int = option(POSITIVE, default=1, kw_only=False)
    tol: float = option(Interval(Real, 0.0, None, closed="left"), default=1e-3)
    max_iter: int = option(Interval(Integral, 0, None, closed="left"), default=100)
    algorithm: str = option(StrOptions(set(ALGORITHMS)), default="batch")
    max_in_flight: int | None = option(POSITIVE, None, default=None)
    step_power: float = option(Interval(Real, 0.5, 1.0, closed="right"), default=0.7)
    n_init: int = option(POSITIVE, default=1)
    racing: bool = option("boolean", default=False)
    init_params: str = option(StrOptions(set(MIXTURE_STARTS)), default="kmeans")
    weights_init: ArrayLike | None = option("array-like", None, default=None)
    reseed: int = option(Interval(Integral, 0, None, closed="left"), default=0)
    warm_start: bool = option("boolean", default=False)
    verbose_interval: int = option(POSITIVE, default=10)
    accelerate: str | None = option(StrOptions({"squarem"}), None, default=None)
    top_components: int | None = option(POSITIVE, None, default=None)

    # Whether a start from single rows takes those near to each.
    _spreads_starts = False
    # Scikit-learn's words.
    _too_few = (
        "Expected n_samples >= n_components but got n_components = {0.n_components}, n_samples = {1.n_rows} in {1.name}"
    )
    _not_converged = (
        "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, "
        "or check for degenerate data."
    )
    _outcome: ClassVar[tuple[str, ...]] = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "history_")
    _row_functions = ROW_FUNCTIONS

    # Scikit-learn's metadata routing sees what signatures name; this is what else goes with rows.
    __metadata_request__fit = ROUTED
    __metadata_request__partial_fit = ROUTED
    __metadata_request__score = ROUTED
    __metadata_request__predict = ROUTED
    __metadata_request__predict_proba = ROUTED

    # What a subclass provides -------------------------------------------------------------------------------

    @abstractmethod
    def _component(self) -> Component[Any, Any]:
        """Return the component that the options describe, without a frame of reference."""

    def _component_as_fitted(self) -> Component[Any, Any]:
        """Return the component with a frame of reference that fits the fitted parameters."""
        return self._component()

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """Return the checked ``*_init`` options that are given, by the names of the parameters they replace."""
        return {} if self.weights_init is None else {"weights": check_weights(self.weights_init, self.n_components)}

    def _check_features(self, n_features: int) -> None:
        self._initial_values(n_features)

    def _given_start(self, sample: RowSample) -> dict[str, NDArray[Any]]:
        """Return what no start method is to find: the ``*_init`` options, and what follows from them and the sample."""
        equal = {} if self.fit_weights else {"weights": np.full(self.n_components, 1.0 / self.n_components)}
        return {**equal, **self._initial_values(sample.rows.shape[1])}

    def _family(self, component: Component[Any, Any] | None = None) -> Mixture[Any, Any]:
        family = (component or self._component(), self.fit_weights, self.top_components, self.missing == "marginalise")
        return Mixture(*family, float(self.weight_concentration))

    def _support(self) -> Support:
        return self._family().support

    @property
    def _criterion(self) -> str:
        """What EM maximises, in words."""
        return self._family().criterion

    @property
    def _knows(self) -> frozenset[str]:
        return self._component().knows

    @property
    def _most_limits(self) -> float:
        return self._component().most_limits

    # Fitting ------------------------------------------------------------------------------------------------

    def _finish(self, data: Any, source: SourceOptions) -> None:  # noqa: ARG002
        for name in HELD:
            vars(self).pop(name, None)

    def _search(
        self, rows: Rows, engine: Engine, callbacks: Sequence[Callback], checkpoint: Checkpoint, *, goes_on: bool
    ) -> tuple[Mixture[Any, Any], Fit]:
        if n_blocks := self._algorithm().n_blocks:
            rows = rows.divided(n_blocks)
        settings = self._settings(callbacks, checkpoint)
        if goes_on:
            family, parameters = persistence.where_it_ended(self)
            before, family = family, self._going_on(family, rows, engine)
            start = _truncated(rows, Start(family, parameters))
            algorithm = self._algorithm(rows.n_rows if math.isfinite(self.lower_bound_) else 0)
            # Other candidates have another free energy: the fit before tells nothing of it but that there was one,
            # which is all that stepwise EM asks.
            known = start.parameters.candidates is None or isinstance(algorithm, Stepwise)
            known &= family is before
            previous = self.lower_bound_ if known else -math.inf
            return family, run([start], algorithm, rows, engine, settings, previous=previous)[0]
        reader = checkpoint.recorded(engine)
        self._learn_units(rows, reader)
        random_state = check_random_state(self.random_state)
        given = self._initial_values(rows.n_features)
        sample = self._sample(rows, reader, random_state)
        family, starts = self._starts(rows, reader, sample, random_state, checkpoint)
        found = search(
            [Start(family, start) for start in starts],
            sample,
            rows,
            engine,
            self._algorithm(),
            settings,
            compare=self.n_init > 1 or not given,  # a single start that the user has given is where EM begins
            sample_iterations=SAMPLE_ITERATIONS,
            prepare=partial(_truncated, rows),
        )
        return family, found[None][0]

    def _settings(self, callbacks: Sequence[Callback], checkpoint: Checkpoint) -> Settings:
        """Return when to stop, and all else that the loop asks of the options."""
        return Settings(
            self.tol, self.max_iter, callbacks, racing=self.racing, checkpoint=checkpoint, reseed=int(self.reseed)
        )

    def _algorithm(self, n_seen: int = 0) -> Algorithm:
        """Return the algorithm that the options name: docs/algorithms.md says why ``'auto'`` means SQUAREM.

        `n_seen` is the number of rows that the start has learned from.
        """
        if self.algorithm == "incremental":
            return Incremental(self.max_in_flight)
        if self.algorithm == "stepwise":
            return Stepwise(self.step_power, self._seed(), self.max_in_flight, n_seen)
        return Squarem() if self.algorithm == "auto" or self.accelerate else Batch()

    def _starts(
        self, rows: Rows, engine: Engine, sample: RowSample, random_state: RandomState, checkpoint: Checkpoint
    ) -> tuple[Mixture[Any, Any], list[MixtureParameters[Any]]]:
        """Return the mixture with its frame of reference, and `n_init` starts, but for those that fail at once.

        Raises
        ------
        FitError
            If all of them do.
        """
        whole = sample
        if self.missing == "marginalise":
            sample = self._to_start_from(sample)
        family = self._family_for(rows, engine, sample)
        starts: list[MixtureParameters[Any]] = []
        failures: list[FitError] = []
        for _ in range(self.n_init):
            try:
                draw = partial(self._start, family, rows, engine, sample, random_state)
                starts.append(drawn(checkpoint, random_state, draw))
            except FitError as error:
                failures.append(error)
        if not starts:
            raise failures[0]
        if self.missing == "marginalise":
            self._note_patterns(whole, sample, rows, (family, starts[0]))
        return family, starts

    def _family_for(self, rows: Rows, engine: Engine, sample: RowSample) -> Mixture[Any, Any]:
        """Return the mixture for a fit to the rows, in a frame that suits their sample."""
        return self._family(self._adapted(rows, engine, sample))

    def _adapted(self, rows: Rows, engine: Engine, sample: RowSample) -> Component[Any, Any]:  # noqa: ARG002
        """Return the component with its frame of reference, which may look at all rows."""
        return self._component().adapted_to(sample.rows)

    def _going_on(self, family: Mixture[Any, Any], rows: Rows, engine: Engine) -> Mixture[Any, Any]:  # noqa: ARG002
        """Return the mixture of a fit that goes on, from that of the fit before."""
        return family

    def _seed(self) -> int:
        """Return a seed for the order of blocks, without drawing from `random_state`: starts must not depend on it."""
        return int(check_random_state(self.random_state).get_state()[1][0])

    def _sample(self, rows: Rows, engine: Engine, random_state: RandomState) -> RowSample:
        # scikit-learn draws nothing for data that is used whole, so neither may we before its start methods do.
        _, key, position, *_ = random_state.get_state()
        seed = np.random.SeedSequence([*map(int, key[:4]), int(position)])
        notify(self.callbacks or (), Preparing("drawing a sample of the rows"))
        sample = row_sample(rows, engine, self.sample_rows, seed, self._measures())
        if len(sample.rows) < self.n_components:  # the rest is held out
            left = f"{len(sample.rows)} rows of {rows.name} are left for the fit"
            message = f"{left}, too few for {self.n_components} components"
            raise DataError(message)
        units, ridge = 0.0 if self._units is None else self._units, float(getattr(self, "reg_covar", 0.0))
        check_sample(sample, rows, engine, self._support(), self.n_components, units=units, ridge=ridge)
        return sample

    def _start(
        self,
        family: Mixture[Any, Any],
        rows: Rows,
        engine: Engine,
        sample: RowSample,
        random_state: RandomState,
    ) -> MixtureParameters[Any]:
        given = self._given_start(sample)
        if given.keys() >= set(self._parameter_names):
            return family.from_user(given)
        init = "kmeans" if sample.filled and self.init_params == "k-means||" else self.init_params
        if init == "k-means||":
            if sample.chunk.labels is not None:
                message = (
                    "labels number the components of a start from the sample; init_params='k-means||' has none: give "
                    "another, such as 'kmeans'"
                )
                raise OptionError(message)
            rows = joined(rows, [], skips_gaps=family.marginalises)
            within = box_of(sample.rows) if self._spreads_starts else None
            more = (self.n_components, random_state, self.callbacks or (), self._units_of_start(sample), within)
            start = kmeans_parallel_start(family, rows, engine, sample.rows, *more)
        else:
            notify(self.callbacks or (), Preparing(f"looking for a start in the sample ({init})"))
            chunk, size = self._chunk_of_start(sample), self.n_components
            responsibilities = start_responsibilities(init, chunk, size, random_state, spread=self._spreads_starts)
            start = family.start(sample.rows, responsibilities, sample.chunk.weights)
        return family.from_user({**family.to_user(start), **given}) if given else start

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *more: Any) -> None:
        self.lower_bound_ = best.log_likelihood
        self.lower_bounds_ = list(best.log_likelihoods)
        super()._keep(history, family, best, *more)

    def _check_options(self) -> None:
        super()._check_options()
        if self.missing == "marginalise":
            self._check_marginalises("missing='marginalise'")
        of_batch = {f"accelerate={self.accelerate!r}": self.accelerate is not None, "racing": self.racing}
        of_batch[f"reseed={self.reseed}"] = self.reseed > 0
        for what, given in of_batch.items():
            if given and self.algorithm not in ("batch", "auto"):
                message = f"{what} goes with algorithm='batch' or 'auto', not with {self.algorithm!r}"
                raise OptionError(message)
        if self.reseed and self.top_components is not None:
            message = "reseed does not go with top_components, whose candidates are those of the start"
            raise OptionError(message)
        if self.sample_rows is not None and self.sample_rows < self.n_components:
            message = f"sample_rows must be at least n_components, {self.n_components}, not {self.sample_rows}"
            raise OptionError(message)

    def _check_goes_on(self) -> None:
        if len(self.weights_) != self.n_components:
            message = (
                f"the fitted model, which is to go on, has {len(self.weights_)} components, "
                f"but n_components is {self.n_components}"
            )
            raise OptionError(message)

    def _model(self) -> tuple[Mixture[Any, Any], MixtureParameters[Any]]:
        check_is_fitted(self)
        family = self._family(self._component_as_fitted())
        return family, family.from_user({name: getattr(self, f"{name}_") for name in self._parameter_names})

    # What needs fitted attributes alone ---------------------------------------------------------------------

    def _n_parameters(self) -> int:
        """Return the number of free parameters, under scikit-learn's name."""
        family, parameters = self._model()
        return int(family.n_parameters(parameters))


def _truncated(rows: Rows, start: Start) -> Start:
    """Return a start with its candidates; which ones, shall not depend on the number of cores."""
    mixture: Any = start.model
    with single_threaded_blas():
        return replace(start, parameters=mixture.truncated(start.parameters, rows.n_rows))
