"""An image and which component each of its pixels belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import uniform_filter

from dem.errors import OptionError
from dem.plot.style import PALETTE, new_figure, save, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Width in pixels of the window whose most frequent label decides where lines are drawn.
_SMOOTHING = 9


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
    with style():
        scale = 9.6 / width if stacked else 9.6 / (2 * width)
        size = (9.6, 2 * height * scale + 0.8) if stacked else (9.6, height * scale + 0.5)
        figure = new_figure(size)
        panels = figure.subplots(2, 1) if stacked else figure.subplots(1, 2)
        panels[0].imshow(pixels, cmap="gray", interpolation="antialiased")
        panels[0].set_title("Original")
        panels[1].imshow(painted, interpolation="antialiased")
        panels[1].set_title(title)
        for panel in panels:
            panel.set_axis_off()
        save(figure, path)
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

    if n_colours <= len(PALETTE):
        return np.array([to_rgb(colour) for colour in PALETTE])
    return np.asarray(colormaps["viridis"](np.linspace(0.0, 1.0, n_colours))[:, :3])


def _smoothed(labels: NDArray[Any], n_labels: int) -> NDArray[Any]:
    """Return the most frequent label around each pixel: lines around single pixels would only be noise."""
    most, smooth = np.zeros(labels.shape, dtype=np.float32), np.zeros_like(labels)
    for label in range(n_labels):
        share = uniform_filter((labels == label).astype(np.float32), size=_SMOOTHING)
        smooth[share > most] = label
        np.maximum(most, share, out=most)
    return smooth
