"""Numbers as people read them."""

from __future__ import annotations


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
