"""Pictures: what is drawn, not how it looks."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from cases import gaussian_rows

import dem
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
    assert above.get_title(loc="left") == "Convergence of k-means: inertia 2.125 per row"
    assert plot.convergence(history()).axes[0].get_ylabel() == "log-likelihood per row"
    with pytest.raises(
        OptionError, match="one of log-likelihood, log-posterior, evidence lower bound, inertia, not 'bic'"
    ):
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


def test_the_title_is_that_of_the_best_start_however_long_others_took():
    worse = [{**record, "log_likelihood": record["log_likelihood"] - 1} for record in history(model=1, n_iterations=6)]
    above, _ = plot.convergence([*history(model=0), *worse]).axes
    assert above.get_title(loc="left") == "Convergence of EM: -2.125 nats per row"


def test_a_fit_is_drawn_from_the_estimator(tmp_path):
    table = gaussian_rows(600)
    gm = dem.GaussianMixture(3, n_init=4, init_params="random", tol=1e-5, max_iter=300, random_state=6).fit(table)
    last = {record["model"]: record["log_likelihood"] for record in gm.history_}
    assert gm.history_[-1]["log_likelihood"] < gm.lower_bound_ - 0.1, "the best start is not the one that ran longest"
    above, _ = plot.convergence(gm).axes
    assert above.get_title(loc="left") == f"Convergence of EM: {gm.lower_bound_:.6g} nats per row"
    (best,) = (line for line in above.get_lines() if line.get_alpha() is None)
    assert best.get_ydata()[-1] == gm.lower_bound_ == max(last.values())
    km = dem.KMeans(3, n_init=1, random_state=0).fit(table)
    above, _ = plot.convergence(km).axes
    assert above.get_ylabel() == "−inertia per row"
    assert above.get_title(loc="left") == f"Convergence of k-means: inertia {km.inertia_ / 600:.6g} per row"


def test_a_start_that_failed_is_not_the_best():
    gm = dem.GaussianMixture(1)
    gm.history_ = [*history(model=0), *({**one, "log_likelihood": 9.0} for one in history(model=1, n_iterations=2))]
    gm.lower_bound_ = -2.125
    assert plot.convergence(gm).axes[0].get_title(loc="left") == "Convergence of EM: -2.125 nats per row"


@pytest.mark.parametrize("gain", [-4e-14, 4e-14, 0.0])
def test_em_that_converges_at_once_has_axes_that_can_be_read(tmp_path, gain):
    first, second = history(n_iterations=2)
    records = [
        {**first, "log_likelihood": -4.378},
        {**second, "log_likelihood": -4.378 + gain, "gain": gain},
    ]
    figure = plot.convergence(records, tmp_path / "flat.png")
    above, below = figure.axes
    assert above.yaxis.get_offset_text().get_text() == ""
    labels = [text.get_text() for text in above.get_yticklabels()]
    assert len(set(labels)) == len(labels), "ticks that differ have labels that differ"
    low, high = below.get_ylim()
    assert 0.1 < low < high < 10
    assert [text.get_text() for text in below.texts] == ["no iteration gained more than rounding"]


def test_a_selection_is_drawn_by_its_own_criterion():
    chosen = dem.select(gaussian_rows(600), n_components=[1, 2], criterion="aic", random_state=0)
    (axes,) = plot.selection(chosen).axes
    assert axes.get_ylabel() == "AIC"
    assert list(axes.get_lines()[0].get_ydata()) == [row["aic"] for row in chosen.table]
    one = dem.select(gaussian_rows(600), n_components=[1], random_state=0)
    assert plot.selection(one).axes[0].get_title(loc="left") == "Best: 1 component"


@pytest.mark.parametrize(
    ("draw", "given", "message"),
    [
        (plot.convergence, dem.GaussianMixture(), "this GaussianMixture has no history: draw it after fit"),
        (plot.convergence, 3, "give a fitted estimator or its history_, not int"),
        (plot.convergence, dem.Selection([], "bic", 0, [], 0), "give one of its estimators, such as its best_est"),
        (plot.selection, dem.GaussianMixture(), "give a Selection or its table, not GaussianMixture"),
        (plot.selection, [1, 2], "give a Selection or its table, not list"),
    ],
)
def test_what_cannot_be_drawn(draw, given, message):
    with pytest.raises(OptionError, match=message):
        draw(given)


def test_tab_completion_shows_the_functions_alone():
    assert dir(plot) == ["convergence", "segmentation", "selection"]


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


@pytest.mark.slow
def test_without_matplotlib_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from dem import plot\n"
        "try: plot.convergence([{'phase': 'data'}])\n"
        "except ValueError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "pictures need matplotlib; install it with: pip install 'dask-em[plot]'"


@pytest.mark.slow
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
