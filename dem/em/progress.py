"""How far a fit is: what its events tell of speed, amount read and time left, and how that is worded everywhere."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from statistics import median

from dem.events import Event, FitEnded, FitStarted, IterationEnded, Preparing, WorkersAwaited
from dem.units import human_bytes, human_count, human_seconds

# Gains that the estimate of the remaining iterations looks back on.
_LOOK_BACK = 5


@dataclass
class Tracker:
    """Follows a fit and derives what people want to know: speed, amount read, time left."""

    preparing: str = ""
    started: FitStarted | None = None
    last: IterationEnded | None = None
    bytes_read: int = 0
    seconds: list[float] = field(default_factory=list)
    gains: dict[int, list[float]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    alone_since: float | None = None

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, WorkersAwaited):
            self.alone_since = None if event.n_workers else time.monotonic() - event.seconds
        elif isinstance(event, Preparing):
            self.preparing = event.what
        elif isinstance(event, FitStarted):
            self.started, self.last = event, None
            self.seconds, self.gains, self.ended = [], {}, set()
        elif isinstance(event, IterationEnded):
            # All models of one iteration share one read; the sample is in memory.
            if self.last is None or event.iteration != self.last.iteration:
                self.seconds.append(event.seconds)
                if self.started is not None and event.phase != "sample":
                    self.bytes_read += self.started.n_bytes
            self.last = event
            self.gains.setdefault(event.model, []).append(event.gain)
        elif isinstance(event, FitEnded):
            self.ended.add(event.model)

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
        return reads * median(self.seconds[-_LOOK_BACK:]), is_bound


def remaining_iterations(gains: list[float], tol: float) -> int | None:
    """Extrapolate the geometric decay of the gains down to `tol`.

    Parameters
    ----------
    gains : list of float
        Gain in log-likelihood per row of each iteration so far.
    tol : float
        The gain at which EM stops.

    Returns
    -------
    int or None
        Iterations still to go; None where the gains do not decay (yet).
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
    """Return the figures of the last iteration as (name, value) pairs, in the order they are shown."""
    event, started = tracker.last, tracker.started
    if event is None or started is None:
        return []
    model = f" (start {event.model + 1} of {started.n_models})" if started.n_models > 1 else ""
    falls = started.objective == "inertia"
    value = -event.log_likelihood if falls else event.log_likelihood
    where = "on the sample, iteration" if event.phase == "sample" else "iteration"
    figures = [
        (where, f"{event.iteration}{model}"),
        (f"{started.objective} per row", f"{value:.6g}"),
    ]
    if math.isfinite(event.gain):
        figures.append(("fall" if falls else "gain", f"{event.gain:.2e}"))
    if tracker.rows_per_second is not None:
        figures.append(("", f"{human_count(tracker.rows_per_second)} rows/s"))
    if tracker.bytes_read:
        figures.append(("", f"{human_bytes(tracker.bytes_read)} read"))
    left = tracker.time_left()
    if left is not None and event.phase != "sample":
        seconds, is_bound = left
        figures.append(("at most" if is_bound else "about", f"{human_seconds(seconds)} left"))
    return figures


def waiting(event: WorkersAwaited) -> str:
    """Say that a cluster has no workers, or that it has some again."""
    if event.n_workers:
        return f"{event.n_workers} worker(s) ready after {human_seconds(event.seconds)}"
    return f"waiting for workers since {human_seconds(event.seconds)}, at most {human_seconds(event.timeout)}"


def remembering(event: FitStarted) -> str:
    """Say how much a fit by blocks will remember of them, if it is one."""
    return f", remembering {human_bytes(event.memo_bytes)} of statistics" if event.memo_bytes else ""


def beginning(tracker: Tracker) -> str:
    """Say what goes on before the first iteration has ended."""
    if tracker.started is not None:
        return f"reading{remembering(tracker.started)}"
    return ": ".join(filter(None, ("preparing", tracker.preparing)))
