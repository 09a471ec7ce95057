"""Callbacks that every fit has: its history, verbose lines."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from dem.em.algorithm import Fit, Status
from dem.em.checkpoint import Checkpoint
from dem.em.progress import Tracker, needed, outcome_of_starts, retried, waiting
from dem.engine.local import current_told
from dem.errors import DataError, FitError
from dem.events import (
    Callback,
    ChunksLeftOut,
    Event,
    FitEnded,
    FitResumed,
    FitStarted,
    IterationEnded,
    MemoryNeeded,
    ReadsRetried,
    WorkersAwaited,
    notify,
)
from dem.units import plural


class History:
    """One dict per iteration (of a contest), and the most advanced iteration, for a fit that ends before its time."""

    def __init__(self, contest: Hashable = None) -> None:
        self.contest = contest
        self.records: list[dict[str, Any]] = []
        self.latest: IterationEnded | None = None

    def __call__(self, event: Event) -> None:
        """Note an iteration; one on all the data goes before one on the sample, and of equals the likelier model."""
        if isinstance(event, FitResumed):
            for past in event.past:
                self(past)
        if not isinstance(event, IterationEnded) or self.contest not in (None, event.contest):
            return
        names = ("phase", "model", "iteration", "log_likelihood", "gain", "seconds")
        marked = {"reseeded": list(event.reseeded)} if event.reseeded else {}
        self.records.append({name: getattr(event, name) for name in names} | marked)
        best = self.latest
        if (
            best is None
            or event.phase != best.phase
            or event.model == best.model
            or event.log_likelihood > best.log_likelihood
        ):
            self.latest = event

    def so_far(self) -> tuple[Any, Fit]:
        """Return the family, and what the fit has come to."""
        if self.latest is None:
            return None, Fit(None)
        likelihoods = [self.latest.log_likelihood] * self.latest.iteration
        one = Fit(self.latest.parameters, Status.MAX_ITER, likelihoods, n_rows=self.latest.n_rows)
        return self.latest.family, one


@contextmanager
def keeping_last(history: History, keep: Callable[..., None], checkpoint: Checkpoint) -> Iterator[None]:
    """Keep the last whole iteration where a fit ends before its time, and add to the error that it is kept.

    An error of the fit itself tells that its parameters are no good; and where the data were refused before the first
    read of all of them ended, what the sample made of them is no result.
    """
    try:
        yield
    except BaseException as error:
        last = history.latest
        on_sample = last is not None and last.phase == "sample"
        refused = isinstance(error, FitError) or (isinstance(error, DataError) and on_sample)
        if last is not None and not refused:
            keep(*history.so_far())
            where = " on the sample" if on_sample else ""
            kept = checkpoint.identity
            on = f"; the same call goes on from the checkpoint {kept[0]}" if kept else ""
            error.add_note(f"the estimator holds the parameters of iteration {last.iteration}{where}{on}")
        raise


class Reads:
    """Passes on what an engine tells, and counts what its reads have met.

    Parameters
    ----------
    callbacks : sequence of Callback, optional
        Who is told; by default whoever listens to all engines.
    """

    def __init__(self, callbacks: Sequence[Callback] | None) -> None:
        self._told: Callable[[Any], None] = partial(notify, callbacks) if callbacks else current_told()
        self.n_retries = 0
        self.left_out: list[dict[str, str]] = []

    def __call__(self, event: Event) -> None:
        """Count, and pass on."""
        if isinstance(event, ReadsRetried):
            self.n_retries += event.n
        elif isinstance(event, ChunksLeftOut):
            self.left_out += event.chunks
        self._told(event)

    def counted(self) -> tuple[int, tuple[dict[str, str], ...]]:
        """Return what was counted, for a checkpoint."""
        return self.n_retries, tuple(self.left_out)

    def recount(self, found: Any) -> None:
        """Count on from there."""
        n_retries, left_out = found
        self.n_retries, self.left_out = int(n_retries), [dict(one) for one in left_out]

    def keep(self, estimator: Any) -> None:
        """Set the fitted attributes that tell of it."""
        estimator.n_retries_, estimator.bad_chunks_ = self.n_retries, self.left_out


class Verbose:
    """Prints lines as scikit-learn's `verbose` does.

    Parameters
    ----------
    level : int
        1 for starts and iterations, 2 for gains and times too.
    interval : int
        Iterations between lines.
    """

    def __init__(self, level: int, interval: int) -> None:
        self.level = level
        self.interval = interval
        self.tracker = Tracker()

    def __call__(self, event: Event) -> None:
        """Print what is due."""
        self.tracker(event)
        if isinstance(event, IterationEnded) and event.reseeded:
            print(f"  Model {event.model}: components {', '.join(map(str, event.reseeded))} begin anew")  # noqa: T201
        if isinstance(event, MemoryNeeded):
            print(needed(event))  # noqa: T201
        elif isinstance(event, FitStarted):
            models, rows = plural(event.n_models, "model"), plural(event.n_rows, "row")
            print(f"{models} on the {event.phase}: {rows}")  # noqa: T201
        elif isinstance(event, FitResumed):
            print(f"  going on after {plural(len({past.iteration for past in event.past}), 'iteration')}")  # noqa: T201
        elif isinstance(event, IterationEnded) and event.iteration % self.interval == 0:
            detail = ""
            if self.level > 1:
                detail = f"\t log-likelihood gain {event.gain:.5f}\t time lapse {event.seconds:.5f}s"
            print(f"  Model {event.model} iteration {event.iteration}{detail}")  # noqa: T201
        elif isinstance(event, FitEnded):
            print(f"Model {event.model} {event.status} (iteration {event.iteration})")  # noqa: T201
            if line := outcome_of_starts(self.tracker):
                print(f"{line} (model {self.tracker.best.model})" if self.tracker.best else line)  # noqa: T201
        elif isinstance(event, WorkersAwaited):
            print(f"  {waiting(event)}")  # noqa: T201
        elif isinstance(event, ReadsRetried):
            print(f"  {retried(event)}")  # noqa: T201
