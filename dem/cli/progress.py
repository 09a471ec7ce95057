"""Progress of a fit: a live line on a terminal, a plain line per iteration elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from dem.cli.session import is_terminal, log, say
from dem.em.progress import Pass, Tracker, beginning, describe, outcome_of_starts, remembering, waiting
from dem.engine import telling
from dem.engine.base import warn_of_waiting
from dem.events import BatchEnded, Callback, Event, FitEnded, FitStarted, Preparing, WorkersAwaited
from dem.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from rich.text import Text


# Seconds between two lines about a single read, where nobody watches.
LINE_SECONDS = 10.0


def log_step(event: Preparing, before: str) -> None:
    """Write a line about a step of the search for a start, once for those of several starts that are the same."""
    if event.what != before:
        log(f"preparing: {event.what}")


class LogProgress:
    """Writes one plain line to stderr for each read, with the time; on the sample, in memory, one a second."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self._said = -math.inf

    def __call__(self, event: Event) -> None:
        """Write what happened."""
        before = self.tracker.preparing
        self.tracker(event)
        if isinstance(event, Preparing):
            log_step(event, before)
        elif isinstance(event, FitStarted):
            what = "the sample in memory" if event.phase == "sample" else "all data"
            starts = f", {event.n_models} starts at once" if event.n_models > 1 else ""
            log(
                f"fitting {what}: {event.n_rows:,} rows x {event.n_features} features "
                f"({human_bytes(event.n_bytes)}){starts}{remembering(event)}"
            )
        elif isinstance(event, WorkersAwaited):
            log(waiting(event))
        elif isinstance(event, FitEnded) and event.phase != "sample":
            n_models = self.tracker.started.n_models if self.tracker.started is not None else 1
            which = f"start {event.model + 1} of {n_models} " if n_models > 1 else ""
            log(f"{which}ended after iteration {event.iteration}: {event.status}")
        if self.tracker.read_ended:
            self._log_read()
        if isinstance(event, FitEnded) and (line := outcome_of_starts(self.tracker)):
            log(line)

    def _log_read(self) -> None:
        last = self.tracker.last
        if last is not None and last.phase == "sample" and time.monotonic() < self._said + 1.0:
            return
        self._said = time.monotonic()
        log(", ".join(f"{name} {value}".strip() for name, value in describe(self.tracker)))


def spinner(begun: float) -> Text:
    """Return the beginning of a live line, which shows that something goes on."""
    from rich.text import Text  # noqa: PLC0415

    sign = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int((time.monotonic() - begun) * 8) % 10]
    return Text(f"{sign} ", style="cyan", no_wrap=True, overflow="ellipsis")


class RowCount:
    """Shows how far a single read of the data is: as a live line, or as a line now and then where nobody watches."""

    def __init__(self, what: str, *, writes_lines: bool) -> None:
        self.what = what
        self.writes_lines = writes_lines
        self.current = Pass()
        self._last_line = time.monotonic()

    def __call__(self, event: BatchEnded | WorkersAwaited) -> None:
        """Count rows that were read."""
        if isinstance(event, WorkersAwaited):
            warn_of_waiting(event)
            return
        self.current.add(event)
        if self.writes_lines and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            log(f"{self.what}: {', '.join(self.current.figures())}")

    def __rich__(self) -> Text:
        """Return the line as it stands now."""
        line = spinner(self.current.began)
        line.append(f"{self.what}  ", style="default")
        line.append("  ".join(self.current.figures()), style="dim")
        return line


@contextmanager
def row_progress(what: str, quiet: bool) -> Iterator[None]:
    """Show how far reading or writing has come, on whichever engine: live on a terminal, a line now and then elsewhere.

    Parameters
    ----------
    what : str
        What is being done.
    quiet : bool
        Whether to show nothing.
    """
    if quiet:
        yield
        return
    count = RowCount(what, writes_lines=not is_terminal())
    with telling(count), nullcontext() if count.writes_lines else live(count):
        yield


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
        if self.tracker.waits:
            line.append(f"{self.tracker.waits}  ", style="yellow")
        figures = describe(self.tracker)
        if not figures:
            line.append(beginning(self.tracker), style="default")
            counted = self.tracker.current.n_rows > 0
            figured = self.tracker.current.figures() if counted else [human_seconds(time.monotonic() - self.begun)]
            line.append("".join(f"  {figure}" for figure in figured), style="dim")
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
        if line := outcome_of_starts(shown.tracker):
            say(line)
    else:
        yield [LogProgress()]


@contextmanager
def live(renderable: Any) -> Iterator[None]:
    """Show a line on the terminal that is rendered anew several times a second, and goes away at the end."""
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    with Live(renderable, console=Console(stderr=True), refresh_per_second=8, transient=True):
        yield
