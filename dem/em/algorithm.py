"""What is fitted and what becomes of it; what makes one way of EM different from another."""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from dem.data.base import Rows
from dem.em.checkpoint import NO_CHECKPOINT, Checkpoint
from dem.engine.base import Work
from dem.errors import NonFiniteError
from dem.events import Callback, IterationEnded
from dem.families.base import Model
from dem.tree import leaves


class Status(enum.Enum):
    """How a fit ended; the value is the advice that goes with it."""

    RUNNING = "running"
    CONVERGED = "converged"
    MAX_ITER = (
        "not converged after max_iter iterations; increase max_iter or tol, try other init_params, "
        "or check for degenerate data"
    )
    MERGED = "dropped: it has become the same model as another start"
    DOMINATED = "dropped: it will hardly catch up with another start"
    LATE = "dropped: a likelier start converged before, and the reads for others are used up"
    FAILED = "failed"


@dataclass(frozen=True, eq=False)
class Start:
    """Where one of the models begins that advance together on each pass.

    Attributes
    ----------
    model : Model
        What is fitted.
    parameters : object
        Where it starts.
    contest : hashable
        Starts of equal contest compete: only the best counts in the end, so that racing may drop the others.
    """

    model: Model[Any, Any]
    parameters: Any
    contest: Hashable = None


@dataclass
class Fit:
    """What became of one start.

    Attributes
    ----------
    parameters : object
        The latest parameters, in the model's own form.
    status : Status
        How it ended.
    log_likelihoods : list of float
        The objective per row, one for each iteration; of batch EM that of the parameters which entered the iteration.
        An iteration that an acceleration has spent in vain repeats the value before.
    reason : str
        How it ended, in words.
    reached : float
        What the next iteration's objective per row is compared with; −inf where it can be with nothing.
    state : object
        The algorithm's, a tree of arrays; None once the fit has ended.
    n_rows : float
        For how many rows the data counts.
    component_status : tuple of str
        What has become of each component (`dem.families.status`), once the fit has ended.
    useless : tuple of int
        Components that begin anew at the end of the next pass.
    n_reseeds : int
        How many times components have begun anew.
    before : object
        The parameters before the latest time, which the fit goes back to if it fails; None where there are none.
    """

    parameters: Any
    status: Status = Status.RUNNING
    log_likelihoods: list[float] = field(default_factory=list)
    reason: str = ""
    reached: float = -math.inf
    state: Any = None
    n_rows: float = 0.0
    component_status: tuple[str, ...] = ()
    useless: tuple[int, ...] = ()
    n_reseeds: int = 0
    before: Any = None

    @property
    def n_iter(self) -> int:
        """Number of iterations made."""
        return len(self.log_likelihoods)

    @property
    def log_likelihood(self) -> float:
        """The latest objective per row; −inf before the first iteration."""
        return self.log_likelihoods[-1] if self.log_likelihoods else -math.inf

    @property
    def eligible(self) -> bool:
        """Whether it may be the best of its contest: not failed, not dropped."""
        return self.status in (Status.RUNNING, Status.CONVERGED, Status.MAX_ITER)


@dataclass(frozen=True, eq=False)
class Standing:
    """How far the models of one call of `dem.em.loop.run` are.

    Attributes
    ----------
    n_passes : int
        Passes that have ended.
    fits : tuple of Fit
    confirm : tuple of bool
        Of each model, whether its next pass is to confirm that it has converged.
    past : tuple of IterationEnded
        Without parameters and families.
    rest : (tuple of int, int), optional
        The blocks that the pass under way has still to visit, and how many at once; None between passes.
    """

    n_passes: int
    fits: tuple[Fit, ...]
    confirm: tuple[bool, ...]
    past: tuple[IterationEnded, ...]
    rest: tuple[tuple[int, ...], int] | None = None


@dataclass(frozen=True)
class Settings:
    """When to stop and whom to tell.

    Attributes
    ----------
    tol : float
        What the model calls converged, see `Model.settled`: for mixtures, a smaller gain in log-likelihood per row.
    max_iter : int
        Iterations at most.
    callbacks : sequence of Callback
        Called with every event.
    phase : {'sample', 'data'}
        What the events say is being read.
    racing : bool
        Whether models that compete are dropped where they will hardly win (`dem.em.racing`); else each goes on to its
        own end, as if it were alone.
    checkpoint : Checkpoint
        Where the fit goes on from, and what it leaves for that.
    reseed : int
        How many times components of no use may begin anew (`dem.em.reseed`), if all data are one block.
    """

    tol: float = 1e-3
    max_iter: int = 100
    callbacks: Sequence[Callback] = ()
    phase: str = "data"
    racing: bool = False
    checkpoint: Checkpoint = NO_CHECKPOINT
    reseed: int = 0


@dataclass(frozen=True)
class Plan:
    """The next pass over the data: the blocks in their order, and how many of them are under way at once.

    Of models that share a pass the one with the fewest in flight decides. `works` are done on the same read; see
    `Algorithm.judge`.
    """

    order: Sequence[int]
    in_flight: int
    works: Sequence[Work] = ()


@dataclass(frozen=True, eq=False)
class Iterate:
    """What a pass has come to.

    Attributes
    ----------
    parameters : object
        From which EM goes on.
    objective : float
        What the model maximises, over all rows.
    n_rows : float
        Number of rows.
    exact : bool
        Whether a gain that is small enough ends the fit; else the next pass is to confirm it.
    comparable : bool
        Whether the next objective must not be smaller.
    """

    parameters: Any
    objective: float
    n_rows: float
    exact: bool = True
    comparable: bool = True


class Algorithm(ABC):
    """One way of EM: frozen options. What it knows of a fit is its state, a tree of arrays.

    The loop (`dem.em.loop.run`) asks for a plan, takes every block of it through an E-step at `point`, hands the
    statistics to `update` and closes the pass with `end_pass`.
    """

    #: as users call it
    name: ClassVar[str]
    #: whether each gain tells of the next, so that racing may extrapolate them
    steady: ClassVar[bool] = True
    #: blocks that it wants the data in, as far as there are chunks; None for all in one
    n_blocks: ClassVar[int | None] = None

    @abstractmethod
    def init(self, model: Any, parameters: Any, rows: Rows, n_blocks: int, n_models: int = 1) -> Any:
        """Return the state of a fit that has made no pass; `n_models` of them share the memory."""

    def plan(self, state: Any, n_blocks: int, *, confirm: bool) -> tuple[Any, Plan]:  # noqa: ARG002
        """Return the state and the next pass; `confirm` asks for an exact one, as the last of all is."""
        return state, Plan(range(n_blocks), n_blocks)

    def point(self, state: Any) -> Any:
        """Return the parameters of the next E-step: the latest, where there are no others."""
        return state.parameters

    @abstractmethod
    def update(self, model: Any, state: Any, block: int, at: Any, statistics: Any) -> Any:
        """Return the state after the E-step of a block at the parameters `at`, which may be older than the latest."""

    @abstractmethod
    def end_pass(self, model: Any, state: Any) -> tuple[Any, Iterate]:
        """Return the state after all blocks of a pass, and what it has come to."""

    def judge(self, rows: Rows, found: Sequence[Sequence[Any]]) -> None:  # noqa: B027 - most ask for nothing
        """Take note of what the works of a plan have found in each block."""

    def resumed(self, state: Any, fresh: Any) -> Any:  # noqa: ARG002
        """Return the state that was stored, in the place of a fresh one."""
        return state

    def memory(self, state: Any) -> int:  # noqa: ARG002
        """Return how many bytes the state remembers of the blocks."""
        return 0


def finite_objective(model: Model[Any, Any], statistics: Any, parameters: Any) -> float:
    """Return what an E-step has found, if it is a number.

    Raises
    ------
    NonFiniteError
        If it is not, or if sums over the rows are none.
    """
    objective = model.objective(statistics, parameters)
    if not math.isfinite(objective):
        message = f"the {model.criterion} is {objective / statistics.n_rows}"
        raise NonFiniteError(message)
    if not all(np.isfinite(leaf).all() for _, leaf in leaves(statistics)):
        message = "the sums over the rows overflow (values, or their weights, are too large)"
        raise NonFiniteError(message)
    return objective


@dataclass(frozen=True)
class Batch(Algorithm):
    """Batch EM: all rows go through an E-step at the same parameters, and then one M-step (Dempster et al. 1977).

    Its state is what the latest pass has come to.
    """

    name: ClassVar[str] = "batch"

    def init(self, model: Any, parameters: Any, rows: Rows, n_blocks: int, n_models: int = 1) -> Iterate:  # noqa: ARG002
        """Return the state before the first pass."""
        return Iterate(parameters, 0.0, 0.0)

    def update(self, model: Model[Any, Any], state: Iterate, block: int, at: Any, statistics: Any) -> Iterate:  # noqa: ARG002
        """Take the M-step."""
        objective = finite_objective(model, statistics, at)
        return Iterate(model.m_step(statistics, at), objective, statistics.n_rows)

    def end_pass(self, model: Model[Any, Any], state: Iterate) -> tuple[Iterate, Iterate]:  # noqa: ARG002
        """Return what the pass has found."""
        return state, state
