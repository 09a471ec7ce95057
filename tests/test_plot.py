"""Pictures: what is drawn, not how it looks."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from dem import plot
from dem.errors import OptionError

pytest.importorskip("matplotlib")


def history(phase="data", n_iterations=4, model=0):
    values = [-3.0 + 1.0 - 0.5**iteration for iteration in range(n_iterations)]
    gains = [math.inf, *np.diff(values)]
    return [
        {"phase": phase, "model": model, "iteration": i + 1, "log_likelihood": v, "gain": g, "seconds": 0.1}
        for i, (v, g) in enumerate(zip(values, gains, strict=True))
    ]


def drawn(axes):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]


def test_convergence_draws_every_iteration_and_finite_gains():
    figure = plot.convergence(history())
    above, below = figure.axes
    assert drawn(above) == [([1, 2, 3, 4], [-3.0, -2.5, -2.25, -2.125])]
    assert drawn(below) == [([2, 3, 4], [0.5, 0.25, 0.125])]
    assert below.get_yscale() == "log"


def test_convergence_on_the_sample_comes_first():
    figure = plot.convergence([*history("sample", 3), *history("data", 2)])
    assert [xs for xs, _ in drawn(figure.axes[0])] == [[1, 2, 3], [4, 5]]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["on the sample in memory", "on all data"]


def test_convergence_labels_only_the_best_start():
    worse = [{**record, "log_likelihood": record["log_likelihood"] - 1} for record in history(model=1)]
    figure = plot.convergence([*worse, *history(model=0)])
    alphas = {line.get_ydata()[0]: line.get_alpha() for line in figure.axes[0].get_lines()}
    assert alphas == {-3.0: None, -4.0: 0.3}


def test_convergence_of_k_means_names_the_inertia():
    above, _ = plot.convergence(history(), objective="inertia").axes
    assert above.get_ylabel() == "−inertia per row"
    assert above.get_title(loc="left") == "Convergence of k-means: −inertia -2.125 per row"
    assert plot.convergence(history()).axes[0].get_ylabel() == "log-likelihood per row"
    with pytest.raises(OptionError, match="one of log-likelihood, inertia, not 'bic'"):
        plot.convergence(history(), objective="bic")


def test_convergence_draws_on_given_axes_and_saves(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots(2)
    path = tmp_path / "curve.png"
    assert plot.convergence(history(), path, axes=axes, tol=1e-3) is figure
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("n_iterations", [1, 2])
@pytest.mark.parametrize("tol", [None, 1e-3])
def test_convergence_of_a_short_fit(tmp_path, n_iterations, tol):
    plot.convergence(history(n_iterations=n_iterations), tmp_path / "curve.png", tol=tol)


def test_convergence_of_nothing():
    with pytest.raises(OptionError, match="the history is empty"):
        plot.convergence([])


def image_data(figure):
    return [axes.get_images()[0].get_array() for axes in figure.axes]


def test_segmentation_paints_each_label_in_its_colour(tmp_path):
    labels = np.zeros((20, 30), dtype=int)
    labels[:, 15:] = 2
    colours = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    path = tmp_path / "segments.png"
    original, painted = image_data(plot.segmentation(labels, labels, path, colours=colours))
    assert np.array_equal(original, labels)
    assert np.array_equal(painted[5, 5], colours[0])
    assert np.array_equal(painted[5, 25], colours[2])
    assert painted[5, 15].min() > 0.5, "a light line lies between the segments"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("n_labels", [3, 8, 20])
def test_segmentation_palette_has_no_colour_twice(n_labels):
    labels = np.repeat(np.arange(n_labels)[:, np.newaxis], 4, axis=1)
    _, painted = image_data(plot.segmentation(labels, labels))
    assert len(np.unique(painted[:, 0], axis=0)) == n_labels


def test_segmentation_needs_labels_of_the_image():
    with pytest.raises(OptionError, match=r"labels of shape \(3, 2\) do not fit an image of shape \(2, 3, 3\)"):
        plot.segmentation(np.zeros((2, 3, 3)), np.zeros((3, 2), dtype=int))


def test_without_matplotlib_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from dem import plot\n"
        "try: plot.convergence([{'phase': 'data'}])\n"
        "except ValueError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "pictures need matplotlib; install it with: pip install 'dask-em[plot]'"


def test_a_notebook_shows_a_figure_once_also_without_pyplot():
    # IPython's own formatters, in a process where nothing has imported pyplot, which would teach them figures.
    code = (
        "import sys, tempfile, numpy as np\n"
        "from IPython.core.formatters import DisplayFormatter\n"
        "from dem import plot\n"
        f"figures = [plot.convergence({history(n_iterations=3)!r}.copy()),\n"
        "    plot.selection([{'n_components': k, 'bic': 5.0 - k} for k in (1, 2)]),\n"
        "    plot.segmentation(np.eye(4), np.eye(4, dtype=int))]\n"
        "for figure in figures:\n"
        "    data, _ = DisplayFormatter().format(figure)\n"
        "    print(*sorted(data), data.get('image/png', b'')[1:4])\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    ).replace("inf", "float('inf')")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["image/png text/plain b'PNG'"] * 3 + ["False"]


def test_selection_draws_a_line_for_each_covariance_type_and_marks_the_best(tmp_path):
    table = [
        {"n_components": k, "covariance_type": kind, "bic": bic, "held_out": None}
        for kind, values in (("full", (9.0, 5.0, 6.0)), ("diag", (8.0, 7.0, math.nan)))
        for k, bic in enumerate(values, start=1)
    ]
    figure = plot.selection(table, tmp_path / "criteria.png")
    full, diag, best = figure.axes[0].get_lines()
    np.testing.assert_array_equal(full.get_ydata(), [9.0, 5.0, 6.0])
    np.testing.assert_array_equal(diag.get_xdata(), [1, 2])
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (2, 5.0)
    assert (tmp_path / "criteria.png").stat().st_size > 5000
    with pytest.raises(OptionError, match="no model of the table has a finite 'held_out'"):
        plot.selection(table, criterion="held_out")
