"""The one EM loop: it owns termination, finiteness, monotonicity and events, for any family on any engine."""

from __future__ import annotations

import enum
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dem.data.base import Chunk, Rows
from dem.em.events import Callback, FitEnded, FitStarted, IterationEnded, notify
from dem.engine.base import Engine
from dem.errors import LikelihoodWarning, NonFiniteError
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
        Per row (nats), one for each iteration: that of the parameters which entered the iteration.
    """

    parameters: Any
    status: Status = Status.RUNNING
    log_likelihoods: list[float] = field(default_factory=list)

    @property
    def n_iter(self) -> int:
        """Number of iterations made."""
        return len(self.log_likelihoods)

    @property
    def log_likelihood(self) -> float:
        """The latest log-likelihood per row; −inf before the first iteration."""
        return self.log_likelihoods[-1] if self.log_likelihoods else -math.inf


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
    max_in_flight: int | None = None
    step_power: float = 0.7
    seed: int = 0


@dataclass(frozen=True, eq=False)
class EStep:
    """The work of one model on one chunk."""

    family: Family[Any, Any]
    parameters: Any

    def __call__(self, chunk: Chunk) -> Any:
        """Return the expected sufficient statistics of the chunk."""
        return self.family.e_step(self.parameters, chunk)


def fit(
    family: Family[Any, Any],
    starts: Sequence[Any],
    rows: Rows,
    engine: Engine,
    settings: Settings,
    *,
    previous: float = -math.inf,
) -> list[Fit]:
    """Run batch EM from several starts at once, all of them on each read of the data.

    Parameters
    ----------
    family : Family
        The model.
    starts : sequence of parameters
        One for each model; a model drops out when it has converged.
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
        One for each start.

    Raises
    ------
    NonFiniteError
        If a log-likelihood is NaN or infinite.
    """
    fits = [Fit(start) for start in starts]
    notify(
        settings.callbacks,
        FitStarted(
            settings.phase,
            len(fits),
            rows.n_rows,
            rows.n_features,
            rows.n_bytes,
            settings.max_iter,
            settings.tol,
        ),
    )
    for _ in range(settings.max_iter):
        active = [number for number, one in enumerate(fits) if one.status is Status.RUNNING]
        if not active:
            break
        began = time.perf_counter()
        statistics = engine.sweep(rows, [EStep(family, fits[number].parameters) for number in active])
        seconds = time.perf_counter() - began
        for number, statistic in zip(active, statistics, strict=True):
            _advance(family, fits[number], statistic, settings, previous, (number, seconds, rows.dtype))
    for number, one in enumerate(fits):
        if one.status is Status.RUNNING:
            one.status = Status.MAX_ITER
            notify(settings.callbacks, FitEnded(settings.phase, number, one.n_iter, one.status.value))
    return fits


def _advance(
    family: Family[Any, Any],
    one: Fit,
    statistic: Any,
    settings: Settings,
    previous: float,
    read: tuple[int, float, np.dtype[Any]],
) -> None:
    """Take one model through the M-step and judge where it stands."""
    number, seconds, dtype = read
    log_likelihood = _per_row(statistic, one.n_iter + 1)
    before = one.log_likelihood if one.log_likelihoods else previous
    gain = log_likelihood - before
    if one.log_likelihoods:
        _check_monotone(family, one, before, log_likelihood, dtype)
    one.parameters = family.m_step(statistic, one.parameters)
    one.log_likelihoods.append(log_likelihood)
    notify(
        settings.callbacks,
        IterationEnded(settings.phase, number, one.n_iter, log_likelihood, gain, seconds, one.parameters, family),
    )
    if abs(gain) < settings.tol:
        one.status = Status.CONVERGED
        notify(settings.callbacks, FitEnded(settings.phase, number, one.n_iter, one.status.value))


def _per_row(statistic: Evidence, iteration: int) -> float:
    log_likelihood = statistic.log_likelihood / statistic.n_rows
    if not math.isfinite(log_likelihood):
        message = f"the log-likelihood is {log_likelihood} in iteration {iteration}; check the data for NaN and inf"
        raise NonFiniteError(message)
    return log_likelihood


def _check_monotone(
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
    tolerated = n_steps * family.tolerated_fall(one.parameters, dtype) + ROUNDING * (1.0 + abs(before))
    if before - log_likelihood > tolerated:
        message = (
            f"the log-likelihood per row fell from {before!r} to {log_likelihood!r} in iteration "
            f"{one.n_iter + 1} (tolerated: {tolerated:.3g}); please report this"
        )
        warnings.warn(message, LikelihoodWarning, stacklevel=2)
