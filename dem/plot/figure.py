"""The figure that is drawn on."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure that a notebook shows, once, although pyplot knows nothing of it.

    Not through pyplot: no display is asked for and no figure stays in memory. But it is pyplot that teaches IPython how
    to show a figure, when it is imported.
    """

    def _repr_png_(self) -> bytes:
        """Return the picture, for IPython."""
        picture = BytesIO()
        self.savefig(picture, format="png", facecolor="white")
        return picture.getvalue()
