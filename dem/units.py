"""Numbers as people read them: sizes, times, columns of figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape


@dataclass(frozen=True)
class Column:
    """A column of a table, as text."""

    heading: str
    cells: Sequence[str]
    is_key: bool = False  # one of those that tell the rows apart
    is_text: bool = False  # words, which stand to the left, and no figures


def html_table(
    columns: Sequence[Column], *, caption: str = "", strong: int | None = None, titles: Sequence[str] = ()
) -> str:
    """Return columns as a table for notebooks: one row bold, and what is shown where the mouse rests on each row."""

    def row(tag: str, texts: Iterable[str], look: str = "") -> str:
        sides = ("left" if column.is_text else "right" for column in columns)
        return "".join(
            f'<{tag} style="text-align:{side};vertical-align:top{look}">{escape(text)}</{tag}>'
            for side, text in zip(sides, texts, strict=True)
        )

    headings = [column.heading for column in columns]
    head = f"<thead><tr>{row('th', headings)}</tr></thead>" if any(headings) else ""
    below = f'<caption style="caption-side:bottom;text-align:left">{escape(caption)}</caption>' if caption else ""
    lines = []
    for number, texts in enumerate(zip(*(column.cells for column in columns), strict=True)):
        title = f' title="{escape(titles[number])}"' if titles else ""
        lines.append(f"<tr{title}>{row('td', texts, ';font-weight:bold' if number == strong else '')}</tr>")
    return f"<table>{below}{head}<tbody>{''.join(lines)}</tbody></table>"


def unrounded(number: float) -> str:
    """Return a number shortly, but never rounded to another: ``'3'``, ``'3.0000000001'``."""
    text = f"{number:g}"
    return text if math.isnan(number) or float(text) == number else repr(float(number)).removesuffix(".0")


def human_bytes(number: float, rounded: Callable[[float], int] = round) -> str:
    """Return for instance ``'12.4 GB'``; with `math.ceil`, or `math.floor`, never less, or more, than there is."""
    from rich.filesize import decimal  # noqa: PLC0415 - for messages alone

    step = 1 if number < 1000 else 100 * 1000 ** (int(math.log10(number)) // 3 - 1)
    return decimal(rounded(number / step) * step)


def human_count(number: float) -> str:
    """Return for instance ``'4.2 M'``."""
    for unit in ("", " k", " M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.4g} G"


def plural(number: int, noun: str) -> str:
    """Return for instance ``'1 iteration'`` or ``'2 iterations'``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def timed(line: str) -> str:
    """Return a line of progress behind the time of now, for it is read later, in the log of a job."""
    return f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}"


def human_seconds(seconds: float) -> str:
    """Return for instance ``'3 min 20 s'``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return (
        f"{whole // 86_400} d {whole % 86_400 // 3600} h" if whole < 31_557_600 else f"{whole / 31_557_600:.3g} years"
    )


def whole(number: float) -> float:
    """Return a number, which may be a sum of weights, as a whole number if it is one.

    Examples
    --------
    >>> whole(3.0), whole(2.5)
    (3, 2.5)
    """
    return int(number) if float(number).is_integer() else number
