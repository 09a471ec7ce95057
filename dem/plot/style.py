"""What all pictures share: colours, fonts, new figures and files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart by colour-blind readers too.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
GREY = "#555555"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#222222",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in dem's style; raises OptionError if there is no matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415
    except ModuleNotFoundError as error:
        message = "pictures need matplotlib; install it with: pip install 'dask-em[plot]'"
        raise OptionError(message) from error
    with mpl.rc_context(_STYLE):
        yield


def new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure, `size` in inches, that a notebook shows, once, although pyplot knows nothing of it.

    Not through pyplot: no display is asked for and no figure stays in memory. But it is pyplot that teaches IPython how
    to show a figure, when it is imported.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            """Return the picture, for IPython."""
            picture = BytesIO()
            self.savefig(picture, format="png", facecolor="white")
            return picture.getvalue()

    return NotebookFigure(figsize=size, layout="constrained")


def tick_integers(axes: Axes) -> None:
    """Label whole numbers alone on the horizontal axis."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def save(figure: Figure, path: str | Path | None) -> None:
    """Write a figure to a file, if there is to be one."""
    if path is not None:
        figure.savefig(path, dpi=150, facecolor="white")
