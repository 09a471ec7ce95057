"""Pictures of fits, with matplotlib (``pip install 'dask-em[plot]'``)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import uniform_filter

from dem.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["convergence", "segmentation", "selection"]

# Okabe and Ito (2008): told apart by colour-blind readers too.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_GREY = "#555555"
_PHASES = {"sample": ("on the sample in memory", "#8c8c8c"), "data": ("on all data", _PALETTE[0])}
# Title and label of what a history tells of.
_OBJECTIVES = {
    "log-likelihood": ("Convergence of EM: {:.6g} nats per row", "log-likelihood per row"),
    "inertia": ("Convergence of k-means: −inertia {:.6g} per row", "−inertia per row"),
}
# Width in pixels of the window whose most frequent label decides where lines are drawn.
_SMOOTHING = 9
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": _GREY,
    "axes.labelcolor": "#222222",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
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
        Where to draw instead of on a new figure: the log-likelihood and the gain.
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
    with _style():
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

        if axes is None:
            figure = _new_figure((6.4, 5.2))
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
        above.legend(loc="lower right")
        below.set(xlabel="iteration", ylabel="gain", yscale="log")
        if tol:
            below.axhline(tol, color=_PALETTE[5], lw=1, ls="--", zorder=2)
            where = {"xycoords": ("axes fraction", "data"), "xytext": (4, 3), "textcoords": "offset points"}
            below.annotate(f"tol = {tol:g}", (0.0, tol), color=_PALETTE[5], **where)
        below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _save(figure, path)
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
    with _style():
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

        figure = _new_figure((6.4, 4.0))
        axes = figure.subplots()
        for kind, colour in zip(kinds, itertools.cycle(_PALETTE), strict=False):
            own = sorted((row["n_components"], row[criterion]) for row in rows if row.get("covariance_type") == kind)
            axes.plot(*zip(*own, strict=True), "o-", color=colour, ms=4, label=kind, zorder=3)
        axes.plot(best["n_components"], best[criterion], "o", ms=12, mfc="none", mec="#222222", zorder=4)
        name = "log-likelihood per held-out row" if criterion == "held_out" else criterion.upper()
        axes.set(title=f"Best: {best['n_components']} components", xlabel="number of components", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if kinds != [None]:
            axes.legend(title="covariance")
        _save(figure, path)
    return figure


def segmentation(
    image: ArrayLike,
    labels: ArrayLike,
    path: str | Path | None = None,
    *,
    colours: ArrayLike | None = None,
    title: str = "Components of the mixture",
) -> Figure:
    """Draw an image and, below or beside it, which component each of its pixels belongs to.

    Parameters
    ----------
    image : array_like of shape (height, width, 3) or (height, width)
        The image; integers from 0 to 255 or floats from 0 to 1.
    labels : array_like of int, shape (height, width)
        Component of each pixel.
    path : str or Path, optional
        Where the picture is saved; its ending decides the format.
    colours : array_like of shape (n_components, 3), optional
        Colour of each component, from 0 to 1, with white lines around the larger segments; left out, a
        palette that colour-blind readers can tell apart.
    title : str
        Heading of the second picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    OptionError
        If image and labels do not have the same height and width.
    """
    pixels, segments = np.asarray(image), np.asarray(labels)
    if segments.ndim != 2 or pixels.shape[:2] != segments.shape:
        message = f"labels of shape {segments.shape} do not fit an image of shape {pixels.shape}"
        raise OptionError(message)
    height, width = segments.shape
    painted = _paint(segments, None if colours is None else np.asarray(colours, dtype=np.float64))
    stacked = width > height
    with _style():
        scale = 9.6 / width if stacked else 9.6 / (2 * width)
        size = (9.6, 2 * height * scale + 0.8) if stacked else (9.6, height * scale + 0.5)
        figure = _new_figure(size)
        panels = figure.subplots(2, 1) if stacked else figure.subplots(1, 2)
        panels[0].imshow(pixels, cmap="gray", interpolation="antialiased")
        panels[0].set_title("Original")
        panels[1].imshow(painted, interpolation="antialiased")
        panels[1].set_title(title)
        for panel in panels:
            panel.set_axis_off()
        _save(figure, path)
    return figure


def _paint(labels: NDArray[Any], colours: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Colour the labels and draw white lines around the larger segments."""
    used, labels = np.unique(labels, return_inverse=True)
    if colours is None:
        return np.asarray(_palette(int(used[-1]) + 1)[used][labels])
    painted = np.clip(colours, 0.0, 1.0)[used][labels]
    smooth = _smoothed(labels, len(used))
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= smooth[:, 1:] != smooth[:, :-1]
    border[1:] |= smooth[1:] != smooth[:-1]
    painted[border] = 0.3 * painted[border] + 0.7
    return np.asarray(painted)


def _palette(n_colours: int) -> NDArray[np.float64]:
    """Return colours that differ in lightness where there are too many to differ in hue."""
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.colors import to_rgb  # noqa: PLC0415

    if n_colours <= len(_PALETTE):
        return np.array([to_rgb(colour) for colour in _PALETTE])
    return np.asarray(colormaps["viridis"](np.linspace(0.0, 1.0, n_colours))[:, :3])


def _smoothed(labels: NDArray[Any], n_labels: int) -> NDArray[Any]:
    """Return the most frequent label around each pixel: lines around single pixels would only be noise."""
    most, smooth = np.zeros(labels.shape, dtype=np.float32), np.zeros_like(labels)
    for label in range(n_labels):
        share = uniform_filter((labels == label).astype(np.float32), size=_SMOOTHING)
        smooth[share > most] = label
        np.maximum(most, share, out=most)
    return smooth


def _by_model(history: Sequence[Mapping[str, Any]], phase: str) -> dict[int, list[Mapping[str, Any]]]:
    models: dict[int, list[Mapping[str, Any]]] = {}
    for record in history:
        if record["phase"] == phase:
            models.setdefault(record["model"], []).append(record)
    return models


@contextmanager
def _style() -> Iterator[None]:
    try:
        import matplotlib as mpl  # noqa: PLC0415
    except ModuleNotFoundError as error:
        message = "pictures need matplotlib; install it with: pip install 'dask-em[plot]'"
        raise OptionError(message) from error
    with mpl.rc_context(_STYLE):
        yield


def _new_figure(size: tuple[float, float]) -> Figure:
    # Not through pyplot: no display is asked for and no figure stays in memory.
    from matplotlib.figure import Figure  # noqa: PLC0415

    return Figure(figsize=size, layout="constrained")


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    if figure is None:
        message = "the axes belong to no figure"
        raise OptionError(message)
    return figure


def _save(figure: Figure, path: str | Path | None) -> None:
    if path is not None:
        figure.savefig(path, dpi=150, facecolor="white")
