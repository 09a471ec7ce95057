"""Progress of a fit: a live line on a terminal, a plain line per iteration elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from dem.cli.session import is_terminal, say
from dem.em.events import Callback, Event, FitStarted, IterationEnded

if TYPE_CHECKING:
    from rich.text import Text

# Gains that the estimate of the remaining iterations looks back on.
_LOOK_BACK = 5


@dataclass
class Tracker:
    """Follows a fit and derives what people want to know: speed, amount read, time left."""

    started: FitStarted | None = None
    last: IterationEnded | None = None
    bytes_read: int = 0
    seconds: list[float] = field(default_factory=list)
    gains: dict[int, list[float]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, FitStarted):
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
        else:
            self.ended.add(event.model)

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


def human_bytes(number: float) -> str:
    """Return for instance ``'12.4 GB'``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit in ("B", "kB") else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.4g} TB"


def human_count(number: float) -> str:
    """Return for instance ``'4.2 M'``."""
    for unit in ("", " k", " M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.4g} G"


def human_seconds(seconds: float) -> str:
    """Return for instance ``'3 min 20 s'``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


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


def remembering(event: FitStarted) -> str:
    """Say how much a fit by blocks will remember of them, if it is one."""
    return f", remembering {human_bytes(event.memo_bytes)} of statistics" if event.memo_bytes else ""


class LogProgress:
    """Writes one plain line to stderr for each iteration; for those on the sample, which take no time, one a second."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self._said = -math.inf

    def __call__(self, event: Event) -> None:
        """Write what happened."""
        self.tracker(event)
        if isinstance(event, FitStarted):
            what = "the sample in memory" if event.phase == "sample" else "all data"
            starts = f", {event.n_models} starts at once" if event.n_models > 1 else ""
            say(
                f"fitting {what}: {event.n_rows:,} rows x {event.n_features} features "
                f"({human_bytes(event.n_bytes)}){starts}{remembering(event)}"
            )
        elif isinstance(event, IterationEnded):
            if event.phase == "sample" and time.monotonic() < self._said + 1.0:
                return
            self._said = time.monotonic()
            say(", ".join(f"{name} {value}".strip() for name, value in describe(self.tracker)))
        elif event.phase != "sample":
            say(f"ended after iteration {event.iteration}: {event.status}")


def spinner(begun: float) -> Text:
    """Return the beginning of a live line, which shows that something goes on."""
    from rich.text import Text  # noqa: PLC0415

    sign = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int((time.monotonic() - begun) * 8) % 10]
    return Text(f"{sign} ", style="cyan", no_wrap=True, overflow="ellipsis")


class LiveProgress:
    """Renders the state of the fit as one line; `rich.live` asks for it several times a second."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.begun = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        self.tracker(event)

    def __rich__(self) -> Text:
        """Return the line as it stands now."""
        line = spinner(self.begun)
        figures = describe(self.tracker)
        if not figures:
            started = self.tracker.started
            line.append(f"reading{remembering(started)}" if started else "preparing", style="default")
            line.append(f"  {human_seconds(time.monotonic() - self.begun)}", style="dim")
        for name, value in figures:
            if name:
                line.append(f"{name.replace(' per row', '/row')} ", style="dim")
            line.append(f"{value}  ", style="bold" if name else "default")
        return line


@contextmanager
def fit_progress(quiet: bool) -> Iterator[list[Callback]]:
    """Yield the callbacks that show the progress of a fit, fit for where stderr goes."""
    if quiet:
        yield []
    elif is_terminal():
        with live(shown := LiveProgress()):
            yield [shown]
    else:
        yield [LogProgress()]


@contextmanager
def live(renderable: Any) -> Iterator[None]:
    """Show a line on the terminal that is rendered anew several times a second, and goes away at the end."""
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    with Live(renderable, console=Console(stderr=True), refresh_per_second=8, transient=True):
        yield
