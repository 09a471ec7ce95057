"""How far a fit is: what its events tell of speed, amount read and time left, and how that is worded everywhere."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from statistics import median

from dem.events import (
    BatchEnded,
    Event,
    FitEnded,
    FitResumed,
    FitStarted,
    IterationEnded,
    MemoryNeeded,
    Preparing,
    ReadsRetried,
    WorkersAwaited,
)
from dem.units import human_bytes, human_count, human_seconds, plural

# How the words begin for a start that is out of the running, see `dem.em.algorithm.Status`.
_OUT = ("failed", "dropped")
# Gains that the estimate of the remaining iterations looks back on.
_LOOK_BACK = 5
# Less time than this is not told to be left.
_SHOWN_SECONDS = 0.05


@dataclass
class Pass:
    """How far a read of all the data is."""

    began: float = field(default_factory=time.monotonic)
    n_rows: int = 0
    of_rows: int = 0

    def add(self, event: BatchEnded) -> None:
        """Count rows that were read; a search for bad values reads them a second time."""
        self.of_rows = event.of_rows
        self.n_rows = min(self.n_rows + event.n_rows, self.of_rows)

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.n_rows / self.of_rows if self.n_rows else 0.0

    def figures(self) -> list[str]:
        """Return the share, the rows, the speed and the time left; only the time until the first rows were read."""
        seconds = time.monotonic() - self.began
        if not self.n_rows or seconds <= 0:
            return [human_seconds(seconds)]
        return [
            f"{int(100 * self.share)} %",
            f"{human_count(self.n_rows)} of {human_count(self.of_rows)} rows",
            f"{human_count(self.n_rows / seconds)} rows/s",
            f"about {human_seconds(seconds / self.share - seconds)} left",
        ]


@dataclass
class Tracker:
    """Follows a fit and derives what people want to know: speed, amount read, time left, the best of several starts.

    `read_ended` tells whether the event before was the last one of a read.
    """

    preparing: str = ""
    started: FitStarted | None = None
    last: IterationEnded | None = None
    bytes_read: int = 0
    seconds: list[float] = field(default_factory=list)
    gains: dict[int, list[float]] = field(default_factory=dict)
    latest: dict[int, IterationEnded] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    alone_since: float | None = None
    n_retries: int = 0
    begun: float = field(default_factory=time.monotonic)
    current: Pass = field(default_factory=Pass)
    read_ended: bool = False
    _reads: bool = False

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, BatchEnded):
            self.current.add(event)
        elif isinstance(event, WorkersAwaited):
            self.alone_since = None if event.n_workers else time.monotonic() - event.seconds
        elif isinstance(event, ReadsRetried):
            self.n_retries += event.n
        elif isinstance(event, Preparing):
            self.preparing = event.what
        elif isinstance(event, FitStarted):
            self.started, self.last = event, None
            self.seconds, self.gains, self.latest, self.ended = [], {}, {}, {}
        elif isinstance(event, FitResumed):
            for past in event.past:
                self(past)
            self.bytes_read, self.seconds = 0, self.seconds[-_LOOK_BACK:]
        elif isinstance(event, IterationEnded):
            # All models of one iteration share one read; the sample is in memory.
            if self.last is None or event.iteration != self.last.iteration:
                self.seconds.append(event.seconds)
                if self.started is not None and event.phase != "sample":
                    self.bytes_read += self.started.n_bytes
            self.last = self.latest[event.model] = replace(event, parameters=None, family=None)  # they may be large
            self.gains.setdefault(event.model, []).append(event.gain)
            self._reads = True
        elif isinstance(event, FitEnded):
            self.ended[event.model] = event.status
        if isinstance(event, Preparing | FitStarted | IterationEnded):
            self.current = Pass()
        self.read_ended = self._reads and self._all_told()
        self._reads &= not self.read_ended

    def _all_told(self) -> bool:
        """Tell whether no model has still to say what the last read has made of it."""
        if self.started is None or self.last is None:
            return False
        there = {model for model, event in self.latest.items() if event.iteration >= self.last.iteration}
        return len(there | self.ended.keys()) >= self.started.n_models

    @property
    def done(self) -> bool:
        """Whether all models of the present phase have ended."""
        return self.started is not None and len(self.ended) >= self.started.n_models

    @property
    def best(self) -> IterationEnded | None:
        """The latest iteration of the best start so far, the first of equals; None before the first read."""
        left = [e for model, e in self.latest.items() if not self.ended.get(model, "").startswith(_OUT)]
        return max(left, key=lambda e: (e.log_likelihood, -e.model), default=None)

    @property
    def waits(self) -> str:
        """How long workers have been awaited, in words; empty while there are some."""
        if self.alone_since is None:
            return ""
        return f"waiting for workers {human_seconds(time.monotonic() - self.alone_since)}"

    @property
    def rows_per_second(self) -> float | None:
        """Rows of the last read divided by its time."""
        if self.started is None or not self.seconds or self.seconds[-1] <= 0:
            return None
        return self.started.n_rows / self.seconds[-1]

    def time_left(self) -> tuple[float, bool] | None:
        """Return the seconds still to go and whether that is a bound; None before the first read."""
        if self.started is None or self.last is None:
            return None
        most = self.started.max_iter - self.last.iteration
        reads, is_bound = 0, False
        for model, gains in self.gains.items():
            if model in self.ended:
                continue
            expected = remaining_iterations(gains, self.started.tol)
            is_bound |= expected is None or expected > most
            reads = max(reads, most if expected is None else min(expected, most))
        return max(reads - self.current.share, 0.0) * median(self.seconds[-_LOOK_BACK:]), is_bound


def remaining_iterations(gains: list[float], tol: float) -> int | None:
    """Extrapolate the geometric decay of the gains per row down to `tol`, where EM stops.

    Return the iterations still to go; None where the gains do not decay (yet).
    """
    recent = [gain for gain in gains[-_LOOK_BACK:] if math.isfinite(gain)]
    if recent and recent[-1] < tol:
        return 0
    if len(recent) < 2 or tol <= 0 or min(recent) <= 0:
        return None
    ratio = (recent[-1] / recent[0]) ** (1 / (len(recent) - 1))
    if ratio >= 1:
        return None
    return max(1, math.ceil(math.log(tol / recent[-1]) / math.log(ratio)))


def describe(tracker: Tracker) -> list[tuple[str, str]]:
    """Return the figures of the last read as (name, value) pairs, in the order they are shown.

    Of several starts they are those of the best so far; of a grid of models only what is common to them. Before the
    first iteration has ended they say what goes on.
    """
    last, event, started = tracker.last, tracker.best, tracker.started
    if last is None or event is None or started is None:
        what = ": ".join(filter(None, ("preparing", tracker.preparing)))
        if started is not None:
            what = f"reading{remembering(started)}"
        since = [human_seconds(time.monotonic() - tracker.begun)]
        return [("", text) for text in (what, *(tracker.current.figures() if tracker.current.n_rows else since))]
    where = "on the sample, iteration" if last.phase == "sample" else "iteration"
    if started.n_contests > 1:
        left = started.n_models - len(tracker.ended)
        figures = [(where, f"{last.iteration} ({left} of {plural(started.n_models, 'model')} go on)")]
    else:
        which = f" (best: start {event.model + 1} of {started.n_models})" if started.n_models > 1 else ""
        figures = [(where, f"{last.iteration}{which}"), _value(event, started)]
        if math.isfinite(event.gain) and event.iteration == last.iteration:
            figures.append(("fall" if started.objective == "inertia" else "gain", f"{event.gain:.2e}"))
    if event.reseeded and event.iteration == last.iteration:
        figures.append(("", f"{plural(len(event.reseeded), 'component')} begin{'s'[: len(event.reseeded) == 1]} anew"))
    if tracker.rows_per_second is not None:
        figures.append(("", f"{human_count(tracker.rows_per_second)} rows/s"))
    if tracker.bytes_read:
        figures.append(("", f"{human_bytes(tracker.bytes_read)} read"))
    if tracker.current.n_rows:
        figures.append(("", f"{int(100 * tracker.current.share)} % of this pass"))
    if tracker.n_retries:
        figures.append(("", f"{plural(tracker.n_retries, 'read')} tried again"))
    left_over = tracker.time_left()
    if left_over is not None and left_over[0] >= _SHOWN_SECONDS and last.phase != "sample":
        seconds, is_bound = left_over
        figures.append(("at most" if is_bound else "about", f"{human_seconds(seconds)} left"))
    return figures


def _value(event: IterationEnded, started: FitStarted) -> tuple[str, str]:
    value = -event.log_likelihood if started.objective == "inertia" else event.log_likelihood
    return f"{started.objective} per row", f"{value:.6g}"


def outcome_of_starts(tracker: Tracker) -> str:
    """Say which of several starts is the best, once all have come to their end on all the data; else nothing."""
    event, started = tracker.best, tracker.started
    if not tracker.done or event is None or started is None or event.phase == "sample":
        return ""
    if started.n_models == 1 or started.n_contests > 1:
        return ""
    value = " ".join(_value(event, started))
    return f"best: start {event.model + 1} of {started.n_models}, {value} after {plural(event.iteration, 'iteration')}"


def waiting(event: WorkersAwaited) -> str:
    """Say that a cluster has no workers, or that it has some again."""
    if event.n_workers:
        return f"{event.n_workers} worker(s) ready after {human_seconds(event.seconds)}"
    return f"waiting for workers since {human_seconds(event.seconds)}, at most {human_seconds(event.timeout)}"


def retried(event: ReadsRetried) -> str:
    """Say that reads failed in passing, and by what."""
    return f"{plural(event.n, 'read')} failed and {'was' if event.n == 1 else 'were'} tried again ({event.why})"


def remembering(event: FitStarted) -> str:
    """Say how much a fit by blocks will remember of them, if it is one."""
    return f", remembering {human_bytes(event.memo_bytes)} of statistics" if event.memo_bytes else ""


def needed(event: MemoryNeeded) -> str:
    """Word what memory is needed, where, and what for."""
    has = "" if event.limit is None else f" of {human_bytes(event.limit)}"
    return f"{event.holder} needs up to {human_bytes(event.n_bytes)}{has}: {needed_for(event)}"


def needed_for(event: MemoryNeeded) -> str:
    """Word what memory is needed for."""
    return ", ".join(f"{human_bytes(size)} {what}" for what, size in event.need.items() if size)
