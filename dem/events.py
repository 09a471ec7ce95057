"""What happens during a fit, as events, and the callbacks that listen: progress, history, checkpoints, logs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Preparing:
    """The search for a start has come to its next step, before EM begins.

    Attributes
    ----------
    what : str
        What is being done, such as ``'drawing a sample of the rows'``.
    """

    what: str


@dataclass(frozen=True)
class MemoryNeeded:
    """What a process that works needs of memory, compared with what it has, before anything is read.

    Attributes
    ----------
    holder : str
        Which process, such as ``'each of 2 workers'``, of which it is that where it is tightest.
    need : mapping of str to int
        Bytes, by what they are for; of threads of this process what comes to those that it has now.
    limit : int or None
        Bytes that it may take; None where nobody has said.
    """

    holder: str
    need: Mapping[str, int]
    limit: int | None

    @property
    def n_bytes(self) -> int:
        """The need in all."""
        return sum(self.need.values())


@dataclass(frozen=True)
class FitStarted:
    """EM is about to begin.

    Attributes
    ----------
    phase : {'sample', 'data'}
        Whether EM runs on the sample in memory (to choose a start) or on all the data.
    n_models : int
        Number of models that advance together on each read.
    n_rows, n_features, n_bytes : int
        Size of what is read in each iteration; `n_bytes` is decoded.
    max_iter : int
        Iterations at most.
    tol : float
        EM stops once the gain in log-likelihood per row falls below this; 0 where the gain does not decide.
    memo_bytes : int
        What incremental EM will remember of the blocks of the data, in memory or in a temporary file.
    objective : {'log-likelihood', 'inertia'}
        What the fit is judged by. k-means lessens the inertia, and says −inertia for the log-likelihood.
    n_contests : int
        How many of the models are wanted in the end: 1 where they are starts of one, all those of a grid.
    """

    phase: str
    n_models: int
    n_rows: int
    n_features: int
    n_bytes: int
    max_iter: int
    tol: float
    memo_bytes: int = 0
    objective: str = "log-likelihood"
    n_contests: int = 1


@dataclass(frozen=True)
class IterationEnded:
    """One model went through one E-step and one M-step.

    Attributes
    ----------
    phase : {'sample', 'data'}
        As in `FitStarted`.
    model : int
        Which of the models that advance together (the start's number).
    iteration : int
        1, 2, …
    log_likelihood : float
        Per row (nats), exact for the parameters that entered this iteration. In a pass of incremental EM the free
        energy at its end, a lower bound; in one of stepwise EM that of each block before its step.
    gain : float
        Difference to the previous iteration's value; inf in the first.
    seconds : float
        Wall time of the read, shared by all models.
    parameters : object
        The parameters after the M-step, in the frame of `family`.
    family : object
        The family that interprets `parameters`.
    contest : hashable
        Models of equal contest are starts of one; None where all are.
    n_rows : float
        For how many rows the data counted.
    reseeded : tuple of int
        Components that begin anew behind this iteration (`reseed`), so that the next log-likelihood may be lower.
    """

    phase: str
    model: int
    iteration: int
    log_likelihood: float
    gain: float
    seconds: float
    parameters: Any
    family: Any
    contest: Hashable = None
    n_rows: float = 0.0
    reseeded: tuple[int, ...] = ()


@dataclass(frozen=True)
class FitResumed:
    """EM goes on from a checkpoint; told after `FitStarted`.

    Attributes
    ----------
    phase : {'sample', 'data'}
        As in `FitStarted`.
    past : tuple of IterationEnded
        All iterations before, in their order; parameters are known of the last of each model.
    """

    phase: str
    past: tuple[IterationEnded, ...]


@dataclass(frozen=True)
class FitEnded:
    """EM ended for one model; `status` is the text of its `Status`."""

    phase: str
    model: int
    iteration: int
    status: str


@dataclass(frozen=True)
class WorkersAwaited:
    """No worker of the cluster is ready: told after ten seconds, then ever more rarely, and when one is back.

    Attributes
    ----------
    seconds : float
        How long there has been none.
    timeout : float
        The seconds after which the engine gives up.
    n_workers : int
        How many are ready: 0 while they are awaited.
    """

    seconds: float
    timeout: float
    n_workers: int = 0


@dataclass(frozen=True)
class WritingResumed:
    """Results are written on from where an earlier process was.

    Attributes
    ----------
    n_rows : int
        How many rows of them are there.
    of_rows : int
        How many there will be.
    """

    n_rows: int
    of_rows: int


@dataclass(frozen=True)
class BatchEnded:
    """Some rows went through all that is done with them on a read, on whichever thread or worker.

    Attributes
    ----------
    n_rows : int
        How many.
    of_rows : int
        Rows of all the data.
    seconds : float
        Wall time since the read of these rows was begun.
    """

    n_rows: int
    of_rows: int
    seconds: float


@dataclass(frozen=True)
class ReadsRetried:
    """Attempts to read failed in passing during a read of some data, and others have succeeded.

    Attributes
    ----------
    n : int
        How many attempts failed.
    why : str
        What one of them failed by.
    """

    n: int
    why: str


@dataclass(frozen=True)
class ChunksLeftOut:
    """Some of the data cannot be read, and its rows are left out, as ``on_bad_chunk="skip"`` has it.

    Attributes
    ----------
    chunks : tuple of dict
        Of each the `name`, `where` it is, such as ``'rows 30 to 39'``, and `why` it cannot be read.
    """

    chunks: tuple[dict[str, str], ...]


Event = (
    Preparing
    | MemoryNeeded
    | FitStarted
    | FitResumed
    | IterationEnded
    | FitEnded
    | WorkersAwaited
    | BatchEnded
    | ReadsRetried
    | ChunksLeftOut
    | WritingResumed
)


class Callback(Protocol):
    """Anything that can be called with an event, on the driver, between reads, or while one goes on."""

    def __call__(self, event: Event, /) -> None:
        """Take note of the event; an exception ends the fit."""


def notify(callbacks: Iterable[Callback], event: Event) -> None:
    """Give an event to every callback in order."""
    for callback in callbacks:
        callback(event)
