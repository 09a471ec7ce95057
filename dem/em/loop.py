"""The one EM loop: it owns termination, finiteness, monotonicity and events, for any model, algorithm and engine."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dem.data.base import Rows
from dem.em.algorithm import Algorithm, Fit, Plan, Settings, Standing, Start, Status
from dem.em.e_step import Blocks, Visit
from dem.em.lowest import Lowest
from dem.em.racing import rivals_to_drop
from dem.em.reseed import least_likely, reseeded, useless
from dem.engine.base import Engine, single_threaded_blas
from dem.errors import FitError, LikelihoodWarning, NonFiniteError
from dem.events import FitEnded, FitResumed, FitStarted, IterationEnded, notify
from dem.families.base import Model
from dem.tree import form

# Rounding of a sum of log-likelihoods, relative to its size.
ROUNDING = 1e-12


def run(
    starts: Sequence[Start],
    algorithm: Algorithm,
    rows: Rows,
    engine: Engine,
    settings: Settings,
    *,
    previous: float = -math.inf,
) -> list[Fit]:
    """Fit several models at once, all of them on each read of the data.

    A model drops out when it has converged, when it has failed while others go on, and, with `racing`, when it seems
    to compete in vain (`dem.em.racing` has the rules). With a checkpoint the fit goes on from the latest state there,
    to the same bits: what comes of a fit depends on its state alone.

    Parameters
    ----------
    starts : sequence of Start
        What is fitted, and from where.
    algorithm : Algorithm
        How.
    rows : Rows
        The data.
    engine : Engine
        Where the E-steps run.
    settings : Settings
        When to stop and whom to tell.
    previous : float
        Objective per row that the start is known to have come from (warm start).

    Returns
    -------
    list of Fit
        One for each start.

    Raises
    ------
    FitError
        If all models fail (NonFiniteError: because their log-likelihoods are NaN or infinite).
    """
    blocks = Blocks.of(rows, engine, algorithm.n_blocks)
    race = _Race(starts, algorithm, blocks, settings, previous)
    fits = race.fits
    try:
        for iteration in range(race.n_passes + 1, settings.max_iter + 1):
            active = [number for number, one in enumerate(fits) if one.status is Status.RUNNING]
            if not active:
                break
            began = time.perf_counter()
            race.make_pass(iteration, active)
            for number in active:
                if fits[number].status is Status.RUNNING:
                    race.end_pass(number, time.perf_counter() - began)
            if settings.racing:
                for number, status, why in rivals_to_drop(starts, fits, extrapolate=algorithm.steady):
                    race.end(number, status, f"{status.value}{why}")
            race.keep(iteration)
        for number, one in enumerate(fits):
            if one.status is Status.RUNNING:
                race.end(number, Status.MAX_ITER)
    except BaseException:
        race.keep_last()
        raise
    race.keep(race.n_passes, done=True)
    race.judge_components()
    return fits


class _Race:
    """The models of one call of `run`, on their way."""

    def __init__(
        self,
        starts: Sequence[Start],
        algorithm: Algorithm,
        blocks: Blocks,
        settings: Settings,
        previous: float,
    ) -> None:
        self.starts, self.algorithm, self.blocks, self.settings = starts, algorithm, blocks, settings
        rows, model = blocks.rows, starts[0].model
        self.fits = [Fit(start.parameters, reached=previous, n_rows=float(rows.n_rows)) for start in starts]
        self.n_passes, self._confirm = 0, [False] * len(starts)
        #: the pass under way, as far as it is still to be made; the rows of lowest density that it has found; what no
        #: checkpoint has yet; what the events have told
        self._rest: Plan | None = None
        self._lowest: dict[int, Lowest] = {}
        self._last: tuple[Standing, list[Any]] | None = None
        self._past: list[IterationEnded] = []
        if settings.max_iter > 0:
            for start, one in zip(starts, self.fits, strict=True):
                one.state = algorithm.init(start.model, start.parameters, rows, len(blocks), len(starts))
        started = FitStarted(
            settings.phase,
            len(starts),
            rows.n_rows,
            rows.n_features,
            rows.n_bytes,
            settings.max_iter,
            0.0 if model.criterion == "inertia" else settings.tol,
            memo_bytes=sum(algorithm.memory(one.state) for one in self.fits if one.state is not None),
            objective=model.criterion,
            n_contests=len({start.contest for start in starts}),
        )
        notify(settings.callbacks, started)
        before = settings.checkpoint.latest(settings.phase, self._is_of_these)
        if before is not None:
            self._go_on(before)

    def _is_of_these(self, found: Any) -> bool:
        """Tell whether what a checkpoint holds can be a standing of these models: anybody may have written it."""
        if not (isinstance(found, Standing) and len(found.fits) == len(found.confirm) == len(self.starts)):
            return False
        n_passes: object = found.n_passes
        told: Sequence[object] = found.past
        return (
            isinstance(n_passes, int)
            and 0 <= n_passes <= self.settings.max_iter
            and all(_can_be(one, start.parameters) for one, start in zip(found.fits, self.starts, strict=True))
            and all(isinstance(event, IterationEnded) and event.model in range(len(self.starts)) for event in told)
            and (found.rest is None or set(found.rest[0]) <= set(range(len(self.blocks))))
        )

    def _go_on(self, before: Standing) -> None:
        """Take over how far the models were, and tell."""
        for one, kept in zip(self.fits, before.fits, strict=True):
            state = None if kept.state is None else self.algorithm.resumed(kept.state, one.state)
            vars(one).update(vars(replace(kept, state=state)))
        self.n_passes, self._confirm, self._past = before.n_passes, [*before.confirm], [*before.past]
        self._rest = before.rest and Plan(*before.rest)
        told = []
        for event in self._past:
            one, model = self.fits[event.model], self.starts[event.model].model
            told.append(
                replace(event, parameters=one.parameters if event.iteration == one.n_iter else None, family=model)
            )
        notify(self.settings.callbacks, FitResumed(self.settings.phase, tuple(told)))
        for number, one in enumerate(self.fits):
            if one.status is not Status.RUNNING:
                notify(self.settings.callbacks, FitEnded(self.settings.phase, number, one.n_iter, one.reason))

    def keep(self, n_passes: int, rest: Plan | None = None, *, done: bool = False) -> None:
        """Save how far the models are, if it is time to; else remember it where that is more than a reference."""
        checkpoint, self.n_passes, self._last = self.settings.checkpoint, n_passes, None
        if not checkpoint.keeps:
            return
        now = done or checkpoint.due(None if rest else n_passes)
        # What an algorithm remembers of the blocks is changed in place by the next pass.
        if now or not (rest or any(one.state and self.algorithm.memory(one.state) for one in self.fits)):
            fits = tuple(replace(one, log_likelihoods=[*one.log_likelihoods]) for one in self.fits)
            left = None if rest is None else (tuple(rest.order), rest.in_flight)
            standing = Standing(n_passes, fits, tuple(self._confirm), tuple(self._past), left)
            if now:
                checkpoint.save(self.settings.phase, standing)
            else:
                self._last = standing, checkpoint.counted()

    def keep_last(self) -> None:
        """Save the end of the last whole pass, where a fit ends before its time."""
        if self._last is not None:
            self.settings.checkpoint.save(self.settings.phase, *self._last)

    def make_pass(self, iteration: int, active: Sequence[int]) -> None:
        """Take the models through an E-step on every block, or on those that are left of a pass."""
        plan, self._rest = self._rest or self._plan(iteration, active), None
        running, models = [*active], [start.model for start in self.starts]
        sought = [number for number in active if self.fits[number].useless]
        works = [least_likely(models[n], self.fits[n].parameters, len(self.fits[n].useless)) for n in sought]

        def points() -> dict[int, Any]:
            return {n: self.algorithm.point(self.fits[n].state) for n in running}

        found = []
        # Also for the small M-steps in between: threads for them would be woken and put to sleep with every block, and
        # the bits shall not depend on the number of cores.
        with single_threaded_blas():
            for place, visit in enumerate(
                self.blocks.visit(replace(plan, works=(*plan.works, *works)), models, points), 1
            ):
                found.append(visit.more)
                for number in [number for number in visit.statistics if number in running]:
                    if not self._update(number, visit, iteration):
                        running.remove(number)
                if place < len(plan.order) and running:
                    self.keep(iteration - 1, Plan(plan.order[place:], plan.in_flight))
        if plan.works:
            self.algorithm.judge(self.blocks.rows, [more[: len(plan.works)] for more in found])
        of_blocks = zip(*(more[len(plan.works) :] for more in found), strict=True)
        self._lowest = {number: sum(own[1:], own[0]) for number, own in zip(sought, of_blocks, strict=True)}

    def _plan(self, iteration: int, active: Sequence[int]) -> Plan:
        plans: list[Plan] = []
        for number in active:
            one, confirm = self.fits[number], self._confirm[number] or iteration == self.settings.max_iter
            one.state, plan = self.algorithm.plan(one.state, len(self.blocks), confirm=confirm)
            plans.append(plan)
        return min(plans, key=lambda plan: plan.in_flight)

    def _update(self, number: int, visit: Visit, iteration: int) -> bool:
        """Hand the statistics of a block to the algorithm; return whether the model goes on."""
        one, model = self.fits[number], self.starts[number].model
        try:
            one.state = self.algorithm.update(
                model, one.state, visit.block, visit.points[number], visit.statistics[number]
            )
        except FitError as error:
            if isinstance(error, NonFiniteError):
                message = f"{error} in iteration {iteration}; check the data for NaN and inf"
                error = NonFiniteError(message)
            self._fail(number, error)
        return one.status is Status.RUNNING

    def _fail(self, number: int, error: FitError) -> None:
        one = self.fits[number]
        if one.before is not None:  # as if no component had begun anew, nor will one again
            self._begin_at(number, one.before)
            one.before, one.n_reseeds = None, self.settings.reseed
            return
        self.end(number, Status.FAILED, f"{Status.FAILED.value}: {error}")
        if all(one.status is Status.FAILED for one in self.fits):
            raise error

    def end_pass(self, number: int, seconds: float) -> None:
        """Take note of what a model has come to, and whether its next pass is to confirm that it has converged."""
        one, model, settings = self.fits[number], self.starts[number].model, self.settings
        try:
            with single_threaded_blas():
                one.state, iterate = self.algorithm.end_pass(model, one.state)
        except FitError as error:
            self._fail(number, error)
            return
        if not iterate.n_rows:  # no row of a stream counts, or the pass has failed
            return
        reached, before = float(iterate.objective / iterate.n_rows), one.parameters
        gain = reached - one.reached
        if reached < one.reached and one.log_likelihoods:  # a warm start may go on with other data
            self._check_fall(model, one, reached)
        one.parameters, one.n_rows = iterate.parameters, iterate.n_rows
        one.log_likelihoods.append(reached)
        one.reached = reached if iterate.comparable else -math.inf
        settled = model.settled(before, one.parameters, gain, settings.tol)
        begun = self._reseed(number, settled=settled and iterate.exact)
        found = (one.n_iter, reached, gain, seconds, one.parameters, model)
        event = IterationEnded(settings.phase, number, *found, self.starts[number].contest, one.n_rows, begun)
        if settings.checkpoint.keeps:
            self._past.append(replace(event, parameters=None, family=None))
        notify(settings.callbacks, event)
        if begun or one.useless:
            self._confirm[number] = False
            return
        if settled and iterate.exact:
            self.end(number, Status.CONVERGED)
        self._confirm[number] = settled and not iterate.exact

    def _reseed(self, number: int, *, settled: bool) -> tuple[int, ...]:
        """Let useless components begin anew if there are rows for them, else ask for these; return which began.

        Another pass follows in any case, so that none is left where it began.
        """
        one, model, settings = self.fits[number], self.starts[number].model, self.settings
        left = settings.max_iter - one.n_iter
        lowest, asked = self._lowest.pop(number, None), one.useless
        one.useless = ()
        if one.n_reseeds >= settings.reseed or left < 1:
            return ()
        with single_threaded_blas():
            found = useless(model, one.parameters, self.blocks.rows.n_rows, duplicates=settled or bool(asked))
            which = tuple(k for k in found if k in asked)
            if lowest is None or not which:
                one.useless = found if left > 1 and (settled or not asked) else ()
                return ()
            parameters, which = reseeded(model, one.parameters, which, lowest)
        one.n_reseeds += 1
        one.before = one.parameters
        self._begin_at(number, parameters)
        return which

    def _begin_at(self, number: int, parameters: Any) -> None:
        """Let a fit go on from other parameters. That is no EM step: the next objective may be smaller."""
        one, model = self.fits[number], self.starts[number].model
        one.parameters, one.reached = parameters, -math.inf
        one.state = self.algorithm.init(model, parameters, self.blocks.rows, len(self.blocks), len(self.starts))

    def judge_components(self) -> None:
        """Take note of what has become of the components of each model."""
        with single_threaded_blas():
            for start, one in zip(self.starts, self.fits, strict=True):
                if one.eligible:
                    one.component_status = start.model.component_status(one.parameters, self.blocks.rows.n_rows)

    def end(self, number: int, status: Status, reason: str = "") -> None:
        """Close a fit, and tell."""
        one = self.fits[number]
        one.status, one.reason, one.state = status, reason or status.value, None
        notify(self.settings.callbacks, FitEnded(self.settings.phase, number, one.n_iter, one.reason))

    def _check_fall(self, model: Model[Any, Any], one: Fit, reached: float) -> None:
        """Warn if the objective fell by more than regularisation (in each M-step) and rounding explain."""
        slack = len(self.blocks) * model.monotonicity_slack(one.parameters, self.blocks.rows.dtype)
        slack += ROUNDING * (1.0 + abs(one.reached))
        if one.reached - reached > slack:
            message = (
                f"the {model.criterion} per row fell from {one.reached!r} to {reached!r} in iteration "
                f"{one.n_iter + 1} (tolerated: {slack:.3g}): either the data changed during the fit, or this is an "
                "error of dem, which we would like to hear of"
            )
            warnings.warn(message, LikelihoodWarning, stacklevel=3)


def _can_be(found: object, parameters: Any) -> bool:
    return (
        isinstance(found, Fit)
        and form(found.parameters) == form(parameters)
        and (found.before is None or form(found.before) == form(parameters))
    )
