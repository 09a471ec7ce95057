"""SQUAREM: extrapolates EM along its slow direction, and keeps the result only where it is likelier.

Varadhan and Roland (2008). Simple and globally convergent methods for accelerating the convergence of any EM algorithm.
Scandinavian Journal of Statistics 35.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from dem.data.base import Rows
from dem.em.algorithm import Algorithm, Iterate, finite_objective
from dem.families.base import Model
from dem.families.unconstrained import Vector

# The longest step in units of an EM step: at first, and by what factor it grows and shrinks.
FIRST_LIMIT = 4.0
FACTOR = 4.0
# No coordinate (logarithms, or about one standard deviation of the data) moves further: such a step is nonsense.
LARGEST_MOVE = 10.0


@dataclass(frozen=True, eq=False)
class SquaremState:
    """Where EM has been, and where it looks next.

    Attributes
    ----------
    parameters : object
        Those of the latest M-step.
    trial : object
        The parameters of the next E-step, if it is `on_trial`.
    path : tuple of three Vector
        What the latest EM steps have gone through; the last `known` of them count.
    limit : float
        The longest step now.
    at_limit : bool
        Whether the trial is a step of that length.
    objective, n_rows : float
        Of the latest E-step that was accepted.
    tried : bool
        Whether the latest E-step was a trial.
    """

    parameters: Any
    trial: Any
    path: tuple[Vector, Vector, Vector]
    known: int = 0
    limit: float = FIRST_LIMIT
    at_limit: bool = False
    on_trial: bool = False
    objective: float = -math.inf
    n_rows: float = 0.0
    tried: bool = False


@dataclass(frozen=True)
class Squarem(Algorithm):
    """Batch EM with extrapolation.

    Two EM steps v0 → v1 → v2 say how fast EM advances and how fast its steps shrink; the next E-step looks at an
    extrapolated point, the trial. It returns the log-likelihood and the statistics there together: a trial that is
    accepted costs no pass of its own, and one that is refused costs that pass.
    """

    name: ClassVar[str] = "squarem"
    steady: ClassVar[bool] = False

    def init(self, model: Any, parameters: Any, rows: Rows, n_blocks: int, n_models: int = 1) -> SquaremState:  # noqa: ARG002
        """Return the state before the first pass."""
        here = model.unconstrain(parameters)
        return SquaremState(parameters, parameters, (here, here, here))

    def point(self, state: SquaremState) -> Any:
        """Return the trial, or the latest parameters."""
        return state.trial if state.on_trial else state.parameters

    def update(self, model: Model[Any, Any], state: SquaremState, block: int, at: Any, statistics: Any) -> SquaremState:  # noqa: ARG002
        """Take the M-step, unless this was a trial that is less likely; plan the next trial."""
        if state.on_trial:
            return self._after_trial(model, state, at, statistics)
        objective = finite_objective(model, statistics, at)
        parameters = model.m_step(statistics, at)
        _, v1, v2 = state.path if state.known else (model.unconstrain(at),) * 3
        state = replace(
            state,
            parameters=parameters,
            path=(v1, v2, model.unconstrain(parameters)),
            known=max(state.known, 1) + 1,
            objective=objective,
            n_rows=statistics.n_rows,
            tried=False,
        )
        return _extrapolated(model, replace(state, known=1)) if state.known == 3 else state

    def _after_trial(self, model: Model[Any, Any], state: SquaremState, at: Any, statistics: Any) -> SquaremState:
        objective, n_rows = model.objective(statistics, at), statistics.n_rows
        state = replace(state, on_trial=False, tried=True)
        if objective / n_rows >= state.objective / state.n_rows:
            limit = state.limit * FACTOR if state.at_limit else state.limit
            parameters = model.m_step(statistics, at)
            state = replace(state, parameters=parameters, limit=limit, objective=objective, n_rows=n_rows)
        else:
            state = replace(state, limit=max(state.limit / FACTOR, 1.0))
        here = model.unconstrain(state.parameters)
        return replace(state, trial=state.parameters, path=(here, here, here), known=1)

    def end_pass(self, model: Model[Any, Any], state: SquaremState) -> tuple[SquaremState, Iterate]:  # noqa: ARG002
        """Return what the pass has found; the gain of a trial is not that of an EM step."""
        return state, Iterate(state.parameters, state.objective, state.n_rows, exact=not state.tried)


def _extrapolated(model: Model[Any, Any], state: SquaremState) -> SquaremState:
    """Plan a trial at v0 − 2a r + a² q, if there is anything to gain."""
    v0, v1, v2 = state.path
    step = v1 - v0
    bend = (v2 - v1) - step
    length, curvature = step.norm, bend.norm
    if not (np.isfinite(length) and np.isfinite(curvature)) or curvature == 0.0:
        return state
    wanted = length / curvature
    at_limit = wanted >= state.limit
    factor = min(wanted, state.limit)
    if factor <= 1.0:  # that is the EM step itself
        return replace(state, at_limit=at_limit, limit=state.limit * FACTOR if at_limit else state.limit)
    trial = v0 + (2.0 * factor) * step + factor**2 * bend
    if not (trial - v2).largest <= LARGEST_MOVE:  # also where it is no number
        return replace(state, at_limit=at_limit)
    return replace(state, trial=model.constrain(trial, state.parameters), on_trial=True, at_limit=at_limit)
