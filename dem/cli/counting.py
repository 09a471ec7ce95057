"""How far one read of the data has come, counted chunk by chunk while threads of this process make it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dem.cli.progress import live, spinner
from dem.cli.session import is_terminal, log
from dem.data.base import Batch, Chunk, Rows
from dem.data.missing import Found
from dem.engine import Engine, LocalEngine
from dem.units import human_count, human_seconds

if TYPE_CHECKING:
    from rich.text import Text

# Seconds between two lines where nobody watches.
LINE_SECONDS = 10.0

#: makes rows that are counted as they are read
Watch = Callable[[Rows], Rows]


class RowCount:
    """Rows read so far, of those there are."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.began = self._last_line = time.monotonic()
        self.n_rows = self.done = 0
        self._lock = threading.Lock()
        self.writes_lines = False

    def watch(self, rows: Rows) -> Rows:
        """Return the same rows, which are counted as they are read."""
        self.n_rows, self.done = rows.n_rows, 0
        return CountedRows(rows, self.add)

    def add(self, n_rows: int) -> None:
        """Count rows that were read; a search for bad values reads them a second time."""
        with self._lock:
            self.done = min(self.done + n_rows, self.n_rows)
            due = self.writes_lines and time.monotonic() - self._last_line >= LINE_SECONDS
            if due:
                self._last_line = time.monotonic()
        if due:
            log(f"{self.what}: {', '.join(self.figures())}")

    def figures(self) -> list[str]:
        """Return what people want to know: the share, the rows, the speed and the time left."""
        seconds = time.monotonic() - self.began
        if not self.done or seconds <= 0:
            return [human_seconds(seconds)]
        left = seconds * (self.n_rows - self.done) / self.done
        return [
            f"{100 * self.done // self.n_rows} %",
            f"{human_count(self.done)} of {human_count(self.n_rows)} rows",
            f"{human_count(self.done / seconds)} rows/s",
            f"about {human_seconds(left)} left",
        ]

    def __rich__(self) -> Text:
        """Return the line as it stands now."""
        line = spinner(self.began)
        line.append(f"{self.what}  ", style="default")
        line.append("  ".join(self.figures()), style="dim")
        return line


class CountedRows(Rows):
    """Rows whose chunks are counted; what they hold and how they are divided is that of `rows`.

    Parameters
    ----------
    rows : Rows
        What is read.
    add : callable
        Told the number of rows of each chunk.
    """

    def __init__(self, rows: Rows, add: Callable[[int], None]) -> None:
        self._rows = rows
        self._add = add
        self.name, self.n_rows, self.n_features = rows.name, rows.n_rows, rows.n_features
        self.dtype, self.feature_names = rows.dtype, rows.feature_names
        self.feature_dim, self.feature_coordinates = rows.feature_dim, rows.feature_coordinates

    def check_found(self, found: Found) -> None:
        """Judge it as the rows do."""
        self._rows.check_found(found)

    def batches(self) -> Sequence[Batch]:
        """Return the batches, counted."""
        return [CountedBatch(batch, self._add) for batch in self._rows.batches()]

    @property
    def grid(self) -> tuple[int, ...]:
        """As of the rows."""
        return self._rows.grid

    @property
    def grid_names(self) -> tuple[str, ...] | None:
        """As of the rows."""
        return self._rows.grid_names

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """As of the rows."""
        return self._rows.grid_chunks


class CountedBatch(Batch):
    """A batch that tells how many rows of it were used; it stays in this process."""

    def __init__(self, batch: Batch, add: Callable[[int], None]) -> None:
        self._batch = batch
        self._add = add
        self.reads_ahead = batch.reads_ahead

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._batch:
            yield chunk
            self._add(len(chunk))


@contextmanager
def counting(what: str, engine: Engine, quiet: bool) -> Iterator[Watch]:
    """Show how far the reading of rows has come: live on a terminal, a line now and then elsewhere.

    Parameters
    ----------
    what : str
        What is being done.
    engine : Engine
        Where the rows are read. Only threads of this process can be counted; else the time alone is shown.
    quiet : bool
        Whether to show nothing.

    Yields
    ------
    callable
        Makes rows that are counted.
    """
    count = RowCount(what)
    watched: Watch = count.watch if isinstance(engine, LocalEngine) else _as_they_are
    if quiet:
        yield _as_they_are
    elif is_terminal():
        with live(count):
            yield watched
    else:
        count.writes_lines = True
        yield watched


def _as_they_are(rows: Rows) -> Rows:
    return rows
