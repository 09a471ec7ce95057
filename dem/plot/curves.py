"""How a fit went, and which of several models is best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dem.errors import OptionError
from dem.plot.style import PALETTE, new_figure, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PHASES = {"sample": ("on the sample in memory", "#8c8c8c"), "data": ("on all data", PALETTE[0])}
# Title and label of what a history tells of.
_OBJECTIVES = {
    "log-likelihood": ("Convergence of EM: {:.6g} nats per row", "log-likelihood per row"),
    "inertia": ("Convergence of k-means: −inertia {:.6g} per row", "−inertia per row"),
}


def convergence(
    history: Sequence[Mapping[str, Any]],
    path: str | Path | None = None,
    *,
    axes: Sequence[Axes] | None = None,
    tol: float | None = None,
    objective: str = "log-likelihood",
) -> Figure:
    """Draw the log-likelihood per row against the iterations, and below it the gain of each.

    Iterations on the sample in memory come first, in grey; those that read all the data follow in colour. Of
    several starts the best one is drawn strongly.

    Parameters
    ----------
    history : sequence of mappings
        `history_` of a fitted estimator.
    path : str or Path, optional
        Where the picture is saved; its ending decides the format.
    axes : sequence of two matplotlib Axes, optional
        Where to draw instead of on a new figure: the log-likelihood and the gain. In a notebook pyplot shows their
        figure by itself; a semicolon behind the call keeps it from being shown twice.
    tol : float, optional
        The gain at which EM stops, drawn as a line.
    objective : {'log-likelihood', 'inertia'}
        What the history tells of: ``'inertia'`` where it is one of `KMeans`.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    OptionError
        If the history is empty, or there is no such objective.
    """
    if objective not in _OBJECTIVES:
        message = f"objective must be one of {', '.join(_OBJECTIVES)}, not {objective!r}"
        raise OptionError(message)
    if not history:
        message = "the history is empty; fit the model first"
        raise OptionError(message)
    with style():
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

        if axes is None:
            figure = new_figure((6.4, 5.2))
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        else:
            above, below = axes
            figure = _figure_of(above)
        before = 0
        for phase, (name, colour) in _PHASES.items():
            before = _draw_phase(above, below, _by_model(history, phase), before, name, colour)
        # Set by hand, and before the scale: matplotlib warns where all of an axis is one value.
        shown = [gain for line in below.get_lines() for gain in np.asarray(line.get_ydata(), dtype=float)]
        shown = [*shown, tol] if tol else shown or [1.0]
        below.set_ylim(min(shown) / 3, max(shown) * 3)
        last = history[-1]["log_likelihood"]
        title, label = _OBJECTIVES[objective]
        above.set(title=title.format(last), ylabel=label)
        above.legend(loc="best")
        below.set(xlabel="iteration", ylabel="gain", yscale="log")
        if tol:
            below.axhline(tol, color=PALETTE[5], lw=1, ls="--", zorder=2)
            where = {"xycoords": ("axes fraction", "data"), "xytext": (4, 3), "textcoords": "offset points"}
            below.annotate(f"tol = {tol:g}", (0.0, tol), color=PALETTE[5], **where)
        below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        save(figure, path)
    return figure


def _draw_phase(
    above: Axes, below: Axes, models: dict[int, list[Mapping[str, Any]]], before: int, name: str, colour: str
) -> int:
    """Draw the iterations of one phase behind the first `before`; return how many there are then."""
    if not models:
        return before
    best = max(models, key=lambda model: models[model][-1]["log_likelihood"])
    for model, records in models.items():
        look: dict[str, Any] = {"color": colour, "ms": 4, "zorder": 3}
        if model != best:
            look |= {"alpha": 0.3, "zorder": 2}
        above.plot(
            [before + record["iteration"] for record in records],
            [record["log_likelihood"] for record in records],
            "o-",
            label=name if model == best else None,
            **look,
        )
        rises = [record for record in records if math.isfinite(record["gain"]) and record["gain"] > 0]
        iterations = [before + record["iteration"] for record in rises]
        below.plot(iterations, [record["gain"] for record in rises], "o-", **look)
    return before + int(models[best][-1]["iteration"])


def selection(table: Sequence[Mapping[str, Any]], path: str | Path | None = None, *, criterion: str = "bic") -> Figure:
    """Draw a criterion against the number of components, a line for each covariance type, and mark the best model.

    Parameters
    ----------
    table : sequence of mappings
        `Selection.table` of `dem.select`; models that failed are left out.
    path : str or Path, optional
        Where the picture is saved; its ending decides the format.
    criterion : {'bic', 'aic', 'icl', 'held_out'}
        What is drawn; OptionError if no model has it.
    """
    rows = [row for row in table if row.get(criterion) is not None and math.isfinite(row[criterion])]
    if not rows:
        message = f"no model of the table has a finite {criterion!r}"
        raise OptionError(message)
    best = (max if criterion == "held_out" else min)(rows, key=lambda row: row[criterion])
    kinds = list(dict.fromkeys(row.get("covariance_type") for row in rows))
    with style():
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

        figure = new_figure((6.4, 4.0))
        axes = figure.subplots()
        for kind, colour in zip(kinds, itertools.cycle(PALETTE), strict=False):
            own = sorted((row["n_components"], row[criterion]) for row in rows if row.get("covariance_type") == kind)
            axes.plot(*zip(*own, strict=True), "o-", color=colour, ms=4, label=kind, zorder=3)
        axes.plot(best["n_components"], best[criterion], "o", ms=12, mfc="none", mec="#222222", zorder=4)
        name = "log-likelihood per held-out row" if criterion == "held_out" else criterion.upper()
        axes.set(title=f"Best: {best['n_components']} components", xlabel="number of components", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if kinds != [None]:
            axes.legend(title="covariance")
        save(figure, path)
    return figure


def _by_model(history: Sequence[Mapping[str, Any]], phase: str) -> dict[int, list[Mapping[str, Any]]]:
    models: dict[int, list[Mapping[str, Any]]] = {}
    for record in history:
        if record["phase"] == phase:
            models.setdefault(record["model"], []).append(record)
    return models


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    if figure is None:
        message = "the axes belong to no figure"
        raise OptionError(message)
    return figure
