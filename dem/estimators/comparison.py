"""A selection as a table: what the terminal and notebooks show of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dem.units import Column, html_table, plural

#: options that a selection may vary besides the number of components: what tables call them, and what has them
SHAPES = {
    "covariance_type": ("covariance", "Gaussian mixtures"),
    "n_factors": ("factors", "mixtures of factor analysers"),
}
_HEADINGS = {
    "n_components": "K",
    **{name: heading for name, (heading, _) in SHAPES.items()},
    "log_likelihood": "per row",
    "n_parameters": "parameters",
    "bic": "BIC",
    "aic": "AIC",
    "icl": "ICL",
    "held_out": "held out",
    "stability": "stability",
    "stability_error": "±",
    "lower_bound": "lower bound",
    "status": "status",
}
# Of these, what tells the models apart, and what is no figure.
_KEYS = ("n_components", *SHAPES)
_WORDS = ("covariance_type", "status")


def selection_columns(table: Sequence[dict[str, Any]]) -> list[Column]:
    """Return the columns to show of `Selection.table`: those that some model has."""
    return [
        Column(heading, [_cell(name, row[name]) for row in table], is_key=name in _KEYS, is_text=name in _WORDS)
        for name, heading in _HEADINGS.items()
        if any(row.get(name) is not None for row in table)
    ]


def choice(selection: Any) -> str:
    """Word in a line which model was chosen, and at what cost."""
    best = selection.table[selection.best_index]
    shape = "".join(f", {heading} {best[name]}" for name, (heading, _) in SHAPES.items() if name in best)
    components = f"{plural(best['n_components'], 'component')}{shape}"
    return f"chosen by {selection.criterion}: {components}; {plural(selection.reads, 'read')} of all data"


def _cell(name: str, value: Any) -> str:
    if name in ("bic", "aic", "icl"):  # their differences count, not their sizes
        return f"{value:.1f}"
    if name.startswith("stability"):
        return f"{value:.3f}"
    return f"{value:.6g}" if isinstance(value, float) else str(value).partition(":")[0]


def as_html(selection: Any) -> str:
    """Return the table as HTML, the best model in bold; a reason for failing is shown where the mouse rests on it."""
    table = selection.table
    titles = [str(row["status"]) for row in table]
    return html_table(selection_columns(table), caption=choice(selection), strong=selection.best_index, titles=titles)
