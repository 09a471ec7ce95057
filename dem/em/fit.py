"""What is fitted, from where, when it stops, and what becomes of it."""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dem.events import Callback
from dem.families.base import Model


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
    """

    parameters: Any
    status: Status = Status.RUNNING
    log_likelihoods: list[float] = field(default_factory=list)
    reason: str = ""
    reached: float = -math.inf
    state: Any = None

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
    """

    tol: float = 1e-3
    max_iter: int = 100
    callbacks: Sequence[Callback] = ()
    phase: str = "data"
    racing: bool = False
