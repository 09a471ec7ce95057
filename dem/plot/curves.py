"""How a fit went, and which of several models is best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator

from dem.errors import OptionError
from dem.estimators.comparison import SHAPES
from dem.estimators.registry import criterion_of, entry_of
from dem.estimators.selection import Selection, choose
from dem.estimators.stability import COLUMNS
from dem.plot.style import GREY, PALETTE, new_figure, save, style, tick_integers
from dem.units import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PHASES = {"sample": ("on the sample in memory", "#8c8c8c"), "data": ("on all data", PALETTE[0])}
# Title and label of what a history tells of, and the sign of what the title names.
_OBJECTIVES = {
    "log-likelihood": ("Convergence of EM: {:.6g} nats per row", "log-likelihood per row", 1.0),
    "log-posterior": ("Convergence of EM: {:.6g} nats per row", "(log-likelihood + log prior) per row", 1.0),
    "evidence lower bound": ("Convergence of VB: {:.6g} nats per row", "evidence lower bound per row", 1.0),
    "inertia": ("Convergence of k-means: inertia {:.6g} per row", "−inertia per row", -1.0),
}
# What criteria are called, if not by their names in capitals.
_CRITERIA = {
    "held_out": "log-likelihood per held-out row",
    "lower_bound": "evidence lower bound per row",
    "stability": "agreement of partitions (adjusted Rand index)",
}
# A gain below this share of what is gained from is rounding, which a logarithmic axis would only stretch.
_ROUNDING = 1e-13


def convergence(
    fit: Any,
    path: str | Path | None = None,
    *,
    axes: Sequence[Axes] | None = None,
    tol: float | None = None,
    objective: str | None = None,
) -> Figure:
    """Draw the log-likelihood per row against the iterations, and below it the gain of each.

    Iterations on the sample in memory come first, in grey; those that read all the data follow in colour. Of
    several starts the best one is drawn strongly.

    Parameters
    ----------
    fit : estimator, or sequence of mappings
        A fitted estimator, or its `history_`.
    path : str or Path, optional
        Where the picture is saved; its ending decides the format.
    axes : sequence of two matplotlib Axes, optional
        Where to draw instead of on a new figure: the log-likelihood and the gain. In a notebook pyplot shows their
        figure by itself; a semicolon behind the call keeps it from being shown twice.
    tol : float, optional
        The gain at which EM stops, drawn as a line.
    objective : {'log-likelihood', 'log-posterior', 'evidence lower bound', 'inertia'}, optional
        What a history tells of: ``'inertia'`` where it is one of `KMeans`. An estimator knows by itself.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    OptionError
        If `fit` is neither, the history is empty, or there is no such objective.
    """
    history = _history_of(fit)
    if objective is None:
        is_clusters = isinstance(fit, BaseEstimator) and not entry_of(fit).is_mixture
        objective = "inertia" if is_clusters else criterion_of(fit)
    if objective not in _OBJECTIVES:
        message = f"objective must be one of {', '.join(_OBJECTIVES)}, not {objective!r}"
        raise OptionError(message)
    if not history:
        message = "the history is empty; fit the model first"
        raise OptionError(message)
    with style():
        if axes is None:
            figure = new_figure((6.4, 5.2))
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        else:
            above, below = axes
            figure = _figure_of(above)
        before, last = 0, math.nan
        for phase, (name, colour) in _PHASES.items():
            if models := _by_model(history, phase):
                best = _best(models, getattr(fit, "lower_bound_", None) if phase == "data" else None)
                for model, records in models.items():
                    look = {"label": name, "zorder": 3} if model == best else {"alpha": 0.3, "zorder": 2}
                    _draw(above, below, records, before, {"color": colour, "ms": 4, **look})
                last = models[best][-1]["log_likelihood"]
                before += int(models[best][-1]["iteration"])
        # Set by hand, and before the scale: matplotlib warns where all of an axis is one value.
        shown = _values(below)
        if not shown:
            middle: dict[str, Any] = {"xycoords": "axes fraction", "ha": "center", "va": "center", "color": GREY}
            below.annotate("no iteration gained more than rounding", (0.5, 0.8), **middle)
        shown = [*shown, tol] if tol else shown or [1.0]
        below.set_ylim(min(shown) / 3, max(shown) * 3)
        title, label, sign = _OBJECTIVES[objective]
        above.set(title=title.format(sign * last), ylabel=label)
        _widen(above)
        above.legend(loc="best")
        below.set(xlabel="iteration", ylabel="gain", yscale="log")
        if tol:
            below.axhline(tol, color=PALETTE[5], lw=1, ls="--", zorder=2)
            where = {"xycoords": ("axes fraction", "data"), "xytext": (4, 3), "textcoords": "offset points"}
            below.annotate(f"tol = {tol:g}", (0.0, tol), color=PALETTE[5], **where)
        tick_integers(below)
        save(figure, path)
    return figure


def _history_of(fit: Any) -> Sequence[Mapping[str, Any]]:
    """Return the history of a fitted estimator, or what is one already."""
    if isinstance(fit, BaseEstimator):
        name = type(fit).__name__
        if not hasattr(fit, "history_"):
            message = f"this {name} has no history: draw it after fit, in the process that called it"
            raise OptionError(message)
        fit = fit.history_
    elif isinstance(fit, Selection):
        message = "a Selection has several histories: give one of its estimators, such as its best_estimator_"
        raise OptionError(message)
    return _records(fit, "a fitted estimator or its history_")


def _records(given: Any, wanted: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(given, Sequence) or not all(isinstance(record, Mapping) for record in given):
        message = f"give {wanted}, not {type(given).__name__}"
        raise OptionError(message)
    return given


def _best(models: dict[int, list[Mapping[str, Any]]], reached: float | None) -> int:
    """Return the start whose log-likelihood was `reached`; where that is not known, the one that came highest."""
    ends = {model: records[-1]["log_likelihood"] for model, records in models.items()}
    if reached in ends.values():  # a start that failed may have come higher
        ends = {model: value for model, value in ends.items() if value == reached}
    return max(ends, key=lambda model: ends[model])


def _draw(above: Axes, below: Axes, records: list[Mapping[str, Any]], before: int, look: dict[str, Any]) -> None:
    """Draw the iterations of one start in one phase behind the first `before`."""
    names = ("iteration", "log_likelihood", "gain")
    iterations, values, gains = np.array([[float(record[name]) for name in names] for record in records]).T
    above.plot(before + iterations, values, "o-", **look)
    rises = np.isfinite(gains) & (gains > _ROUNDING * np.maximum(1.0, np.abs(values)))  # the first gains from nothing
    if rises.any():
        below.plot(before + iterations[rises], gains[rises], "o-", **look)


def _values(axes: Axes) -> list[float]:
    """Return the heights of all that is drawn."""
    return [value for line in axes.get_lines() for value in np.asarray(line.get_ydata(), dtype=float)]


def _widen(axes: Axes) -> None:
    """Give an axis on which nothing but rounding happens a range with labels that can be read."""
    least, most = min(_values(axes)), max(_values(axes))
    smallest = 1e-6 * max(abs(least), abs(most), 1e-300)
    if most - least < smallest:
        axes.set_ylim((least + most) / 2 - smallest, (least + most) / 2 + smallest)
    axes.ticklabel_format(axis="y", useOffset=False)


def selection(models: Any, path: str | Path | None = None, *, criterion: str | None = None) -> Figure:
    """Draw a criterion against the number of components, a line for each covariance type, and mark the best model.

    Parameters
    ----------
    models : Selection, or sequence of mappings
        What `dem.select` returns, or its `table`; models that failed are left out.
    path : str or Path, optional
        Where the picture is saved; its ending decides the format.
    criterion : {'bic', 'aic', 'icl', 'held_out', 'stability', 'lower_bound'}, optional
        What is drawn; that of the Selection when left out, of a table the BIC. Of stability, the agreement of
        partitions, also its standard error, and the deciles of the pairs as a band.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    OptionError
        If `models` is neither, or no model has the criterion.
    """
    if isinstance(models, Selection):
        criterion, models = criterion or models.criterion, models.table
    criterion = criterion or "bic"
    table = _records(models, "a Selection or its table")
    rows = [row for row in table if row.get(criterion) is not None and math.isfinite(row[criterion])]
    if not rows:
        message = f"no model of the table has a finite {criterion!r}"
        raise OptionError(message)
    best = rows[choose(rows, criterion)]
    shape = next((name for name in SHAPES if any(name in row for row in rows)), "")
    kinds = list(dict.fromkeys(row.get(shape) for row in rows))
    with style():
        figure = new_figure((6.4, 4.0))
        axes = figure.subplots()
        looks = itertools.product(("-", "--", ":"), PALETTE)
        for kind, (line, colour) in zip(kinds, itertools.cycle(looks), strict=False):
            own = sorted((row["n_components"], row[criterion]) for row in rows if row.get(shape) == kind)
            axes.plot(*zip(*own, strict=True), f"o{line}", color=colour, ms=4, label=kind, zorder=3)
            if criterion == "stability":
                _draw_spread(axes, [row for row in rows if row.get(shape) == kind], colour)
        axes.plot(best["n_components"], best[criterion], "o", ms=12, mfc="none", mec="#222222", zorder=4)
        title = f"Best: {plural(best['n_components'], 'component')}"
        if len(kinds) > 1:
            title += f", {best[shape]}" if isinstance(best[shape], str) else f", {SHAPES[shape][0]} {best[shape]}"
        name = _CRITERIA.get(criterion, criterion.upper())
        axes.set(title=title, xlabel="number of components", ylabel=name)
        tick_integers(axes)
        if kinds != [None]:
            beside: dict[str, Any] = (
                {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(kinds) > len(PALETTE) / 2 else {}
            )
            axes.legend(title=SHAPES[shape][0], **beside)
        save(figure, path)
    return figure


def _draw_spread(axes: Axes, rows: Sequence[Mapping[str, Any]], colour: str) -> None:
    """Draw the deciles of the pairs of partitions as a band, and the standard errors of the means."""
    names = ("n_components", *COLUMNS)
    sizes, means, errors, low, high = np.array(sorted([float(row[name]) for name in names] for row in rows)).T
    axes.fill_between(sizes, low, high, color=colour, alpha=0.15, lw=0, zorder=1)
    axes.errorbar(sizes, means, errors, fmt="none", ecolor=colour, capsize=3, zorder=2)


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
