"""The pictures of docs/performance.md and docs/algorithms.md, drawn from benchmarks/results/*.json."""

from __future__ import annotations

import matplotlib as mpl
from common import IMAGES, SHAPES, load
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from out_of_core import TARGETS
from reads import ALGORITHMS, DISTANCES, FROM_A_SAMPLE
from reads_tables import median_reads

# Okabe and Ito: told apart by all kinds of eyes; markers and dashes tell them apart in grey too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 130,
    "savefig.bbox": "tight",
}


def draw() -> list[str]:
    """Draw what there are results for and return the names of the files."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(STYLE):
        for name, draw_one in (
            ("passes", _passes),
            ("out_of_core", _out_of_core),
            ("growth", _growth),
            ("scheduling", _scheduling),
            ("reads", _reads),
        ):
            result = load(name)
            if result is not None:
                figure = draw_one(result)
                figure.savefig(IMAGES / f"{name}.png", metadata={"Software": None})
                plt.close(figure)
                drawn.append(f"{name}.png")
    return drawn


def _passes(result: dict) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    rows = [row for row in result["passes"] if row["dtype"] == "float64"]
    names = list(dict.fromkeys((row["d"], row["K"]) for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for number, (kind, colour) in enumerate(zip(kinds, (BLUE, ORANGE, GREY), strict=False)):
        chosen = [row for row in rows if row["kind"] == kind]
        places = [names.index((row["d"], row["K"])) + 0.26 * (number - (len(kinds) - 1) / 2) for row in chosen]
        bars = axes.barh(places, [row["ratio"] for row in chosen], 0.25, color=colour, label=kind)
        axes.bar_label(bars, [f" {row['ratio']:.1f}×" for row in chosen], fontsize=8)
    for place, name in enumerate(names):
        target = next(target for _, d, k, _, target in SHAPES if (d, k) == name)
        axes.plot([target] * 2, [place - 0.4, place + 0.15], color="black", linewidth=1.5)
    axes.plot([], [], color="black", linewidth=1.5, label="target")
    axes.axvline(1.0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(names)), [f"d = {d}, K = {k}" for d, k in names])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds of scikit-learn per second of dem, one EM iteration in float64")
    axes.legend(loc="lower right")
    return figure


def _out_of_core(result: dict) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    rows = [row for row in result["rows"] if row["cache"] == "0" and row.get("pipeline", "zarr") == "zarr"]
    for offset, what, colour, hatch in (
        (-0.27, "reading", GREEN, ""),
        (0.0, "arithmetic", ORANGE, ""),
        (0.27, "pass", BLUE, ""),
    ):
        places = [number + offset for number in range(len(rows))]
        axes.bar(places, [row["seconds"][what] for row in rows], 0.25, color=colour, hatch=hatch, label=what)
    for number, row in enumerate(rows):
        most = TARGETS["overlap"] * max(row["seconds"]["reading"], row["seconds"]["arithmetic"])
        axes.plot([number + 0.13, number + 0.42], [most] * 2, color="black", linewidth=1.5)
    axes.plot([], [], color="black", linewidth=1.5, label=f"target of a pass: {TARGETS['overlap']} × the slower")
    axes.set_xticks(range(len(rows)), [f"{row['codec']}\n2 {row['where']}" for row in rows])
    axes.grid(visible=False, axis="x")
    axes.set_ylabel(f"seconds for {result['gigabytes']:.1f} GB")
    axes.set_ylim(0, 1.35 * max(row["seconds"]["pass"] for row in rows))
    axes.legend(ncols=2, loc="upper right")
    return figure


def _growth(result: dict) -> plt.Figure:
    figure, grid = plt.subplots(2, 3, figsize=(9.0, 5.4), layout="constrained")
    titles = {
        "n": "rows n (d = 16, K = 16 full)",
        "d": "features d (n = 100,000, K = 16 full)",
        "K": "components K (n = 100,000, d = 16 full)",
    }
    for axes, (axis, rows) in zip(grid.flat, result["shapes"].items(), strict=False):
        values = [row["value"] for row in rows]
        axes.loglog(values, [row["seconds"] for row in rows], "o-", color=BLUE, label="measured, 2 threads")
        axes.loglog(values, [row["predicted"] for row in rows], "--", color=GREY, label="predicted")
        axes.set_xlabel(titles[axis])
        if axis != "n":
            _plain_ticks(axes, values)
    chunks, chunk_axes = result["chunks"], grid.flat[3]
    for where, colour, marker in (("threads", BLUE, "o"), ("processes", ORANGE, "s")):
        values = [row["value"] for row in chunks]
        measured = [row[f"{where}_seconds"] for row in chunks]
        chunk_axes.loglog(values, measured, f"{marker}-", color=colour, label=f"measured, 2 {where}")
        style = "--" if where == "threads" else ":"
        predicted = [row[f"{where}_predicted"] for row in chunks]
        chunk_axes.loglog(values, predicted, style, color=GREY, label=f"predicted, 2 {where}")
    chunk_axes.set_xlabel("chunks (n = 400,000, d = 8, K = 16 full)")
    workers, worker_axes = result["workers"], grid.flat[4]
    for where, colour, marker in (("threads", BLUE, "o"), ("processes", ORANGE, "s")):
        measured = [row[f"{where}_seconds"] for row in workers]
        worker_axes.plot(
            [row["value"] for row in workers], measured, f"{marker}-", color=colour, label=f"measured, {where}"
        )
    worker_axes.plot([1, 2], [row["predicted"] for row in workers], "--", color=GREY, label="predicted")
    worker_axes.set_xticks([1, 2])
    worker_axes.set_ylim(bottom=0)
    worker_axes.set_xlabel("workers (n = 800,000, d = 32, K = 16 full)")
    for axes in (grid.flat[0], grid.flat[3]):
        axes.set_ylabel("seconds per EM iteration")
    for axes in (grid.flat[0], chunk_axes, worker_axes):
        axes.legend(fontsize=7)
    grid.flat[5].axis("off")
    costs = result["costs"]
    lines = [
        "Constants of the prediction,",
        "measured on their own:",
        "",
        f"GEMM peak  {1e-9 / costs['flop']:.0f} GF/s",
        f"log-sum-exp  {1e9 * costs['element']:.2f} ns per row and component",
        f"building z  {1e9 * costs['product']:.2f} ns per number",
        f"chunk  {1e6 * costs['chunk']:.0f} µs of one core",
        f"task  {1e3 * costs['task']:.1f} ms of the scheduler",
    ]
    grid.flat[5].text(0.0, 0.9, "\n".join(lines), va="top", fontsize=8)
    return figure


def _scheduling(result: dict) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    rows = result["chunks"]
    values = [row["chunks"] for row in rows]
    axes.loglog(values, [row["processes_seconds"] for row in rows], "s-", color=ORANGE, label="dem, 2 processes")
    axes.loglog(values, [row["threads_seconds"] for row in rows], "o-", color=BLUE, label="dem, 2 threads")
    axes.loglog(
        values, [1.2e-3 * row["chunks"] for row in rows], ":", color=GREY, label="one task per chunk, 1.2 ms each"
    )
    axes.loglog(
        values, [row["reading_seconds"] for row in rows], "--", color=GREEN, label="reading them, 16 MB each, 2.4 GB/s"
    )
    axes.set_xlabel("chunks")
    axes.set_ylabel("seconds of machinery per EM iteration")
    axes.legend(fontsize=8)
    return figure


def _reads(result: dict) -> plt.Figure:
    runs = result["runs"]
    figure, grid = plt.subplots(1, len(runs), figsize=(9.0, 3.4), sharey=True, layout="constrained")
    colours = [GREY, BLUE, ORANGE, ORANGE, GREEN, GREY, BLUE, ORANGE]
    looks = dict(zip(ALGORITHMS, zip(colours, "os^vDos^", strict=True), strict=True))
    for axes, (problem, seeds) in zip(grid, runs.items(), strict=True):
        for name, (colour, marker) in looks.items():
            known = [(d, median_reads(seeds, name, d)) for d in DISTANCES]
            line = "--" if name in FROM_A_SAMPLE else "-"
            places = range(len(known))
            axes.semilogy(places, [value for _, value in known], line + marker, color=colour, markersize=4, label=name)
        axes.set_xticks(range(len(DISTANCES)), [f"{distance:g}" for distance in DISTANCES])
        axes.set_title(problem, fontsize=9)
        axes.set_xlabel("distance to its limit")
    grid[0].set_ylabel("reads of the data (median)")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    return figure


def _plain_ticks(axes: Axes, values: list[int]) -> None:
    axes.set_xticks(values)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    print(", ".join(draw()))
