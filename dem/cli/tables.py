"""Tables that fit the terminal: never a clipped cell, but several blocks below one another, or one cell a line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dem.units import Column

# Width of what goes into a file or a pipe.
_WIDE = 240


def console() -> Console:
    """Return a console on stdout; where that is no terminal as wide as COLUMNS says, or else enough for the tables."""
    plain = Console()
    if plain.is_terminal:
        return plain
    given = os.environ.get("COLUMNS", "")
    return Console(width=int(given) if given.isdecimal() and int(given) > 0 else _WIDE)


def _print(to: Console, table: Table) -> None:
    """Print a table; in a file or a pipe without the blanks at the ends of lines, which are filled up to the width."""
    if to.is_terminal:
        to.print(table)
        return
    with to.capture() as captured:
        to.print(table)
    to.out("\n".join(line.rstrip() for line in captured.get().splitlines()), highlight=False)


def print_columns(to: Console, columns: Sequence[Column], *, caption: str = "", strong: int | None = None) -> None:
    """Print columns, the keys first, side by side, and a caption below; the row `strong` is bold.

    Those that find no room go into further blocks, where the keys stand first again.
    """
    keys = [column for column in columns if column.is_key]
    others = columns[len(keys) :]
    if any(_width(to, [*keys, column]) > to.width for column in others):
        _print_stacked(to, keys, others, strong)
    else:
        for block in _blocks(to, keys, others):
            _print(to, _table(block, strong))
    if caption:
        to.print(Text(caption, style="dim italic"))


def _blocks(to: Console, keys: list[Column], columns: Sequence[Column]) -> list[list[Column]]:
    """Divide the columns into blocks that fit, each with the keys at its beginning."""
    blocks = [keys]
    for column in columns:
        if _width(to, [*blocks[-1], column]) > to.width:
            blocks.append(keys)
        blocks[-1] = [*blocks[-1], column]
    return blocks


def _table(columns: Sequence[Column], strong: int | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(Text(column.heading), justify="left" if column.is_text else "right", no_wrap=True)
    for number, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*map(Text, cells), style="bold" if number == strong else None)
    return table


def _width(to: Console, columns: Sequence[Column]) -> int:
    """Return how wide a table is in which nothing is clipped."""
    return Measurement.get(to, to.options.update(max_width=1_000_000), _table(columns)).maximum


def _print_stacked(to: Console, keys: Sequence[Column], others: Sequence[Column], strong: int | None) -> None:
    """Print row by row, one cell a line, for terminals that are narrower than two columns."""
    for number in range(len(keys[0].cells)):
        key = ", ".join(f"{column.heading} {column.cells[number]}" for column in keys)
        to.print(Text(key, style="bold" if number == strong else ""), soft_wrap=True)
        for column in others:
            to.print(Text(f"  {column.heading} {column.cells[number]}"), soft_wrap=True)


def print_pairs(to: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values below one another."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, Text(value))
    _print(to, table)
