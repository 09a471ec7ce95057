"""A progress bar for notebooks and scripts: `callbacks=[dem.Progress()]`."""

from __future__ import annotations

import math
import shutil
import sys
import time
from html import escape
from typing import Any

from dem.em.progress import Tracker, describe, outcome_of_starts
from dem.events import BatchEnded, Event, FitEnded, FitStarted, MemoryNeeded, Preparing, WorkersAwaited
from dem.units import timed

# Seconds between two states of the bar within a read.
REDRAWN_SECONDS = 0.2


class Progress:
    """Shows how far a fit is: a bar in a notebook, one line that changes on a terminal, a line a read elsewhere.

    Give it to an estimator, or to `dem.select`, as one of its `callbacks`. It is drawn anew after every read of the
    data, a bar for each fit. Nothing but IPython, which every notebook has, is needed.

    Examples
    --------
    >>> import dem
    >>> gm = dem.GaussianMixture(16, callbacks=[dem.Progress()])
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.tracker = Tracker()
        self._handle: Any = None
        self._width = 0
        self._shown = -math.inf

    def __call__(self, event: Event) -> None:
        """Take note of an event and show how things stand."""
        if self._is_another(event):
            self._begin()
        self.tracker(event)
        soon = isinstance(event, BatchEnded) and time.monotonic() < self._shown + REDRAWN_SECONDS
        if soon or isinstance(event, MemoryNeeded):
            return
        self._shown = time.monotonic()
        if _in_notebook():
            self._show_bar()
        elif sys.stderr.isatty():
            self._rewrite_line()
        else:
            self._write_lines(event)

    def _write_lines(self, event: Event) -> None:
        last = self.tracker.last
        if isinstance(event, WorkersAwaited) or (self.tracker.read_ended and last is not None and last.phase == "data"):
            sys.stderr.write(f"{timed(self.text)}\n")
        if isinstance(event, FitEnded) and (line := outcome_of_starts(self.tracker)):
            sys.stderr.write(f"{timed(line)}\n")
        sys.stderr.flush()

    def _is_another(self, event: Event) -> bool:
        """Tell whether an event begins another fit than the one that is shown."""
        last = self.tracker.last
        if last is None:
            return False
        return isinstance(event, MemoryNeeded | Preparing) or (isinstance(event, FitStarted) and last.phase == "data")

    def __repr__(self) -> str:
        return "Progress()"

    def __deepcopy__(self, memo: dict[int, Any]) -> Progress:
        """Begin anew: a clone of an estimator has fits of its own."""
        return Progress()

    @property
    def share(self) -> float | None:
        """How much of the present phase is done, from 0 to 1, as far as the gains tell; None before the first read."""
        left = self.tracker.time_left()
        if self.tracker.done:
            return 1.0
        if left is None:
            return None
        gone = sum(self.tracker.seconds) + self.tracker.current.share * self.tracker.seconds[-1]
        return gone / (gone + left[0]) if gone + left[0] > 0 else None

    @property
    def text(self) -> str:
        """The state in words."""
        figures = [f"{name} {value}".strip() for name, value in describe(self.tracker)]
        if self.tracker.done:
            best = outcome_of_starts(self.tracker)
            where, others = (best, figures[2:]) if best else (figures[0], figures[1:])
            figures = [where, self._status, *others]
        return ", ".join(filter(None, [self.tracker.waits, *figures]))

    @property
    def _status(self) -> str:
        """How the best of several starts has ended, or the last model of a grid."""
        best, ended = self.tracker.best, self.tracker.ended
        is_grid = self.tracker.started is not None and self.tracker.started.n_contests > 1
        status = list(ended.values())[-1] if is_grid or best is None else ended[best.model]
        return status.partition(";")[0]

    def _show_bar(self) -> None:
        from IPython.display import HTML, display  # noqa: PLC0415 - there, since a notebook runs

        # A bar without a value moves by itself.
        value = "" if self.share is None else f' value="{self.share:.4f}"'
        bar = f'<progress max="1"{value} style="width:16em;vertical-align:middle"></progress>'
        page = HTML(f"<div>{bar} <code>{escape(self.text)}</code></div>")
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)

    def _rewrite_line(self) -> None:
        line = self.text[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r{line:<{self._width}}")
        self._width = len(line)
        if self.tracker.done and self.tracker.last is not None and self.tracker.last.phase == "data":
            sys.stderr.write("\n")
            self._width = 0
        sys.stderr.flush()


def _in_notebook() -> bool:
    """Tell whether a frontend that shows HTML runs this process: a kernel, not IPython's terminal."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython  # noqa: PLC0415 - loaded already

    return getattr(get_ipython(), "kernel", None) is not None
