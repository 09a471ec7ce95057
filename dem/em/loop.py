"""The one EM loop: it owns termination, finiteness, monotonicity and events, for any family on any engine."""

from __future__ import annotations

import enum
import math
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dem.data.base import Rows
from dem.em.e_step import sweep_models
from dem.em.racing import PATIENCE, hopeless, merged
from dem.em.squarem import Squarem
from dem.engine.base import Engine, single_threaded_blas
from dem.errors import FitError, LikelihoodWarning, NonFiniteError
from dem.events import Callback, FitEnded, FitStarted, IterationEnded, notify
from dem.families.base import Evidence, Family

# Rounding of a sum of log-likelihoods, relative to its size.
ROUNDING = 1e-12


class Status(enum.Enum):
    """How a fit ended; the value is the advice that goes with it."""

    RUNNING = "running"
    CONVERGED = "converged"
    MAX_ITER = (
        "not converged after max_iter iterations; increase max_iter or tol, try other init_params, "
        "or check for degenerate data"
    )
    MERGED = "dropped: it has become the same model as another start"
    HOPELESS = "dropped: it will hardly catch up with another start"
    LATE = "dropped: a likelier start converged before, and the reads for others are used up"
    FAILED = "failed"


@dataclass(frozen=True, eq=False)
class Model:
    """One of the models that advance together on each read.

    Attributes
    ----------
    family : Family
        What is fitted.
    parameters : object
        Where it starts.
    contest : hashable
        Starts of equal contest compete: only the best counts in the end, so that racing may drop the others.
    """

    family: Family[Any, Any]
    parameters: Any
    contest: Hashable = None


@dataclass
class Fit:
    """What became of one start.

    Attributes
    ----------
    parameters : object
        The latest parameters, in the family's own form.
    status : Status
        How it ended.
    log_likelihoods : list of float
        Per row (nats), one for each iteration: that of the parameters which entered the iteration. An iteration that
        an acceleration has spent in vain repeats the value before.
    reason : str
        How it ended, in words.
    squarem : Squarem, optional
        State of the acceleration.
    """

    parameters: Any
    status: Status = Status.RUNNING
    log_likelihoods: list[float] = field(default_factory=list)
    reason: str = ""
    squarem: Squarem | None = None

    @property
    def n_iter(self) -> int:
        """Number of iterations made."""
        return len(self.log_likelihoods)

    @property
    def log_likelihood(self) -> float:
        """The latest log-likelihood per row; −inf before the first iteration."""
        return self.log_likelihoods[-1] if self.log_likelihoods else -math.inf

    @property
    def point(self) -> Any:
        """The parameters of the next E-step: the latest, or where an acceleration looks."""
        trial = self.squarem.trial if self.squarem is not None else None
        return self.parameters if trial is None else trial

    @property
    def counts(self) -> bool:
        """Whether it may be the best of its contest: not failed, not dropped."""
        return self.status in (Status.RUNNING, Status.CONVERGED, Status.MAX_ITER)


@dataclass(frozen=True)
class Settings:
    """When to stop and whom to tell.

    Attributes
    ----------
    tol : float
        The fit has converged once the log-likelihood per row changes by less than this.
    max_iter : int
        Iterations at most.
    callbacks : sequence of Callback
        Called with every event.
    phase : {'sample', 'data'}
        What the events say is being read.
    racing : bool
        Whether models that compete are dropped where they will hardly win (`dem.em.racing`); else each goes on to its
        own end, as if it were alone.
    settled : callable, optional
        Says from the parameters before and after a step whether the fit has converged, in the place of `tol`.
    accelerate : {'squarem'}, optional
        How to get along with fewer iterations; see `dem.em.squarem`.
    max_in_flight : int, optional
        Blocks of the data under way at once in incremental and stepwise EM; a tenth of all when left out.
    step_power : float
        How fast stepwise EM forgets: its steps are (t + 2)^−step_power.
    seed : int
        Determines the order of the blocks in stepwise EM.
    """

    tol: float = 1e-3
    max_iter: int = 100
    callbacks: Sequence[Callback] = ()
    phase: str = "data"
    racing: bool = False
    settled: Callable[[Any, Any], bool] | None = None
    accelerate: str | None = None
    max_in_flight: int | None = None
    step_power: float = 0.7
    seed: int = 0


def fit(
    family: Family[Any, Any],
    starts: Sequence[Any],
    rows: Rows,
    engine: Engine,
    settings: Settings,
    *,
    previous: float = -math.inf,
) -> list[Fit]:
    """Run batch EM from several starts of one family that compete; see `fit_models`."""
    return fit_models([Model(family, start) for start in starts], rows, engine, settings, previous=previous)


def fit_models(
    models: Sequence[Model], rows: Rows, engine: Engine, settings: Settings, *, previous: float = -math.inf
) -> list[Fit]:
    """Run batch EM for several models at once, all of them on each read of the data.

    A model drops out when it has converged, when it has failed while others go on, and, with `racing`, when it seems
    to compete in vain (`dem.em.racing` has the rules).

    Parameters
    ----------
    models : sequence of Model
        What is fitted, and from where.
    rows : Rows
        The data.
    engine : Engine
        Where the E-steps run.
    settings : Settings
        When to stop and whom to tell.
    previous : float
        Log-likelihood per row that the start is known to have come from (warm start).

    Returns
    -------
    list of Fit
        One for each model.

    Raises
    ------
    FitError
        If all models fail (NonFiniteError: because their log-likelihoods are NaN or infinite).
    """
    fits = [Fit(model.parameters, squarem=Squarem() if settings.accelerate else None) for model in models]
    size = (rows.n_rows, rows.n_features, rows.n_bytes)
    n_contests = len({model.contest for model in models})
    started = FitStarted(settings.phase, len(fits), *size, settings.max_iter, settings.tol, n_contests=n_contests)
    notify(settings.callbacks, started)
    for _ in range(settings.max_iter):
        active = [number for number, one in enumerate(fits) if one.status is Status.RUNNING]
        if not active:
            break
        began = time.perf_counter()
        statistics = sweep_models(engine, rows, [(models[number].family, fits[number].point) for number in active])
        seconds = time.perf_counter() - began
        for number, statistic in zip(active, statistics, strict=True):
            one = fits[number]
            before = one.parameters
            try:
                gain = _advance(models[number].family, one, statistic, settings, previous, (number, seconds, rows))
            except FitError as error:
                end(one, number, settings, Status.FAILED, f"{Status.FAILED.value}: {error}")
                if all(other.status is Status.FAILED for other in fits):
                    raise
            else:
                if settings.settled(before, one.parameters) if settings.settled else abs(gain) < settings.tol:
                    end(one, number, settings, Status.CONVERGED)
        if settings.racing:
            _drop_rivals(models, fits, settings)
    for number, one in enumerate(fits):
        if one.status is Status.RUNNING:
            end(one, number, settings, Status.MAX_ITER)
    return fits


def end(one: Fit, number: int, settings: Settings, status: Status, reason: str = "") -> None:
    """Close a fit, and tell."""
    one.status, one.reason = status, reason or status.value
    notify(settings.callbacks, FitEnded(settings.phase, number, one.n_iter, one.reason))


def _advance(
    family: Family[Any, Any],
    one: Fit,
    statistic: Any,
    settings: Settings,
    previous: float,
    read: tuple[int, float, Rows],
) -> float:
    """Take one model through the M-step; return the gain of the EM step before, inf if it was not one."""
    number, seconds, rows = read
    before = one.log_likelihood if one.log_likelihoods else previous
    point = one.point
    on_trial = point is not one.parameters
    accepted = not on_trial or statistic.log_likelihood / statistic.n_rows >= before
    if accepted:
        log_likelihood = log_likelihood_per_row(statistic, one.n_iter + 1)
        if one.log_likelihoods:
            check_monotone(family, one, before, log_likelihood, rows.dtype)
        with single_threaded_blas():  # the matrices are small, and the bits shall not depend on the number of cores
            one.parameters = family.m_step(statistic, point)
    else:  # the parameters stay those of the last EM step, whose log-likelihood the next read tells
        log_likelihood = before
    if one.squarem is not None:
        one.squarem.advance(family, point, one.parameters, accepted=accepted)
    gain = log_likelihood - before
    one.log_likelihoods.append(log_likelihood)
    notify(
        settings.callbacks,
        IterationEnded(settings.phase, number, one.n_iter, log_likelihood, gain, seconds, one.parameters, family),
    )
    return math.inf if on_trial else gain


def _drop_rivals(models: Sequence[Model], fits: Sequence[Fit], settings: Settings) -> None:
    """End the models that seem to compete in vain; each is compared with the likelier ones of its contest."""
    ranking = sorted(range(len(fits)), key=lambda number: (-fits[number].log_likelihood, number))
    for place, number in enumerate(ranking):
        one, family = fits[number], models[number].family
        ahead = [n for n in ranking[:place] if fits[n].counts and models[n].contest == models[number].contest]
        if one.status is not Status.RUNNING or not ahead:
            continue
        leader = fits[ahead[0]]
        state = (one.parameters, one.log_likelihood)
        twins = [n for n in ahead if merged(family, state, (fits[n].parameters, fits[n].log_likelihood))]
        if twins:
            end(one, number, settings, Status.MERGED, f"{Status.MERGED.value} (model {twins[0]})")
        elif one.squarem is None and hopeless(one.log_likelihoods, leader.log_likelihood):
            reached = f"(model {ahead[0]}, at {leader.log_likelihood:.6g})"
            end(one, number, settings, Status.HOPELESS, f"{Status.HOPELESS.value} {reached}")
        elif leader.status is Status.CONVERGED and one.n_iter >= (1.0 + PATIENCE) * leader.n_iter:
            end(one, number, settings, Status.LATE)


def log_likelihood_per_row(statistic: Evidence, iteration: int) -> float:
    """Return what an E-step has found, if it is a number.

    Raises
    ------
    NonFiniteError
        If it is not.
    """
    log_likelihood = statistic.log_likelihood / statistic.n_rows
    if not math.isfinite(log_likelihood):
        message = f"the log-likelihood is {log_likelihood} in iteration {iteration}; check the data for NaN and inf"
        raise NonFiniteError(message)
    return log_likelihood


def check_monotone(
    family: Family[Any, Any],
    one: Fit,
    before: float,
    log_likelihood: float,
    dtype: np.dtype[Any],
    n_steps: int = 1,
) -> None:
    """Warn if the log-likelihood fell by more than regularisation (in each step) and rounding explain."""
    if log_likelihood >= before or not math.isfinite(before):
        return
    tolerated = n_steps * family.monotonicity_slack(one.parameters, dtype) + ROUNDING * (1.0 + abs(before))
    if before - log_likelihood > tolerated:
        message = (
            f"the log-likelihood per row fell from {before!r} to {log_likelihood!r} in iteration "
            f"{one.n_iter + 1} (tolerated: {tolerated:.3g}): either the data changed during the fit, or this is an "
            "error of dem, which we would like to hear of"
        )
        warnings.warn(message, LikelihoodWarning, stacklevel=2)
