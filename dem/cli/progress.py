"""Progress of a fit: a live line on a terminal, a plain line per iteration elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from dem.cli.session import is_terminal, log, say
from dem.em.progress import Pass, Tracker, describe, needed, outcome_of_starts, remembering, retried, waiting
from dem.events import (
    BatchEnded,
    Callback,
    ChunksLeftOut,
    Event,
    FitEnded,
    FitResumed,
    FitStarted,
    MemoryNeeded,
    Preparing,
    ReadsRetried,
    WorkersAwaited,
    WritingResumed,
)
from dem.units import human_bytes

if TYPE_CHECKING:
    from rich.text import Text


# Seconds between two lines about a single read, where nobody watches.
LINE_SECONDS = 10.0


class LogProgress:
    """Writes one plain line to stderr for each read, with the time; on the sample, in memory, one a second."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self._said = -math.inf

    def __call__(self, event: Event) -> None:
        """Write what happened."""
        step, started = self.tracker.preparing, self.tracker.started
        self.tracker(event)
        if isinstance(event, Preparing):
            if event.what != step:  # several starts take the same steps
                log(f"preparing: {event.what}")
        elif isinstance(event, MemoryNeeded):
            log(needed(event))
        elif isinstance(event, FitStarted):
            what = "the sample in memory" if event.phase == "sample" else "all data"
            kind = "starts" if event.n_contests == 1 else "models"
            models = f", {event.n_models} {kind} at once" if event.n_models > 1 else ""
            log(
                f"fitting {what}: {event.n_rows:,} rows x {event.n_features} features "
                f"({human_bytes(event.n_bytes)}){models}{remembering(event)}"
            )
        elif isinstance(event, FitResumed):
            done = max((past.iteration for past in event.past), default=0)
            log(f"going on from the checkpoint, after iteration {done}")
        elif isinstance(event, WorkersAwaited):
            log(waiting(event))
        elif isinstance(event, ReadsRetried):
            log(retried(event))
        elif isinstance(event, FitEnded) and event.phase != "sample" and started and started.n_contests == 1:
            which = f"start {event.model + 1} of {started.n_models} " if started.n_models > 1 else ""
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


def spinner(begun: float, figures: Iterable[tuple[str, str]], alert: str = "") -> Text:
    """Return (name, value) pairs as a live line, at whose beginning one sees that something goes on."""
    from rich.text import Text  # noqa: PLC0415

    sign = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int((time.monotonic() - begun) * 8) % 10]
    parts = [Text(alert, "yellow")] if alert else []
    parts += [
        Text.assemble((f"{name} " if name else "", "dim"), (value, "bold" if name else "")) for name, value in figures
    ]
    return Text.assemble((f"{sign} ", "cyan"), Text("  ").join(parts), no_wrap=True, overflow="ellipsis")


class RowCount:
    """Shows how far a single read of the data is: as a live line, or as a line now and then where nobody watches."""

    def __init__(self, what: str, *, writes_lines: bool) -> None:
        self.what = what
        self.writes_lines = writes_lines
        self.current = Pass()
        self._last_line = time.monotonic()

    def __call__(self, event: BatchEnded | WorkersAwaited | ReadsRetried | ChunksLeftOut | WritingResumed) -> None:
        """Count rows that were read."""
        if isinstance(event, WorkersAwaited):
            from dem.engine.base import warn_of_waiting  # noqa: PLC0415 - with NumPy, which help does without

            warn_of_waiting(event)
            return
        if isinstance(event, ReadsRetried):
            (log if self.writes_lines else say)(retried(event))
            return
        if isinstance(event, WritingResumed):
            line = f"going on: {event.n_rows:,} of {event.of_rows:,} rows are written already"
            (log if self.writes_lines else say)(line)
            return
        if isinstance(event, ChunksLeftOut):  # a warning tells of it
            return
        self.current.add(event)
        if self.writes_lines and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            log(f"{self.what}: {', '.join(self.current.figures())}")

    def __rich__(self) -> Text:
        """Return the line as it stands now."""
        return spinner(self.current.began, [("", text) for text in (self.what, *self.current.figures())])


@contextmanager
def row_progress(what: str, quiet: bool) -> Iterator[None]:
    """Show how far reading or writing is, on whichever engine: live on a terminal, a line now and then elsewhere."""
    if quiet:
        yield
        return
    from dem.engine import telling  # noqa: PLC0415 - with NumPy

    count = RowCount(what, writes_lines=not is_terminal())
    with telling(count), nullcontext() if count.writes_lines else live(count):
        yield


class LiveProgress(Tracker):
    """Renders the state of the fit as one line; `rich.live` asks for it several times a second."""

    def __call__(self, event: Event) -> None:
        """Take note of an event; what is told once goes above the line."""
        super().__call__(event)
        if isinstance(event, MemoryNeeded):
            say(needed(event))

    def __rich__(self) -> Text:
        """Return the line as it stands now."""
        figures = [(name.replace(" per row", "/row"), value) for name, value in describe(self)]
        return spinner(self.begun, figures, self.waits)


@contextmanager
def fit_progress(quiet: bool) -> Iterator[list[Callback]]:
    """Yield the callbacks that show the progress of a fit, fit for where stderr goes."""
    if quiet:
        yield []
    elif is_terminal():
        with live(shown := LiveProgress()):
            yield [shown]
        if line := outcome_of_starts(shown):
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
