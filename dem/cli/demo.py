"""`dem demo`: real data, end to end, on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from dem.cli.options import POSITIVE, SEED, TEXT, output_options
from dem.cli.progress import fit_progress
from dem.cli.session import open_engine, plain_warnings, say
from dem.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from dem.demo import DemoReport


def size(value: str) -> int:
    """Return a number of bytes, such as 2GB."""
    from dask.utils import parse_bytes  # noqa: PLC0415

    try:
        n_bytes = int(parse_bytes(value))
    except ValueError:
        n_bytes = 0
    if n_bytes < 1:
        message = f"{value!r} is not a size (such as 2GB or 500MB)"
        raise click.BadParameter(message)
    return n_bytes


@click.command(
    "demo",
    short_help="Real data, end to end, in under a minute.",
    epilog="""\b
Examples:
  dem demo
  dem demo --out /tmp/demo --components 20 --keep""",
)
@click.option(
    "--out", type=TEXT, metavar="DIR", default="demo-output", show_default=True, help="Folder for the results."
)
@click.option("--components", type=POSITIVE, metavar="K", default=12, show_default=True)
@click.option("--workers", type=POSITIVE, metavar="N", default=2, show_default=True, help="Processes.")
@click.option("--memory-limit", type=size, default="400MB", show_default=True, help="Memory of each process.")
@click.option("--size", type=size, default="2.4GB", show_default=True, help="Size of the data.")
@click.option("--seed", type=SEED, metavar="S", default=0, show_default=True)
@click.option("--keep", is_flag=True, help="Keep the data and the labels of all rows in DIR.")
@output_options
def demo(as_json: bool, quiet: bool, components: int, **given: Any) -> None:
    """Fit a Gaussian mixture to photographs on a cluster of local processes.

    The pixels (colour and position) of two photographs that scikit-learn ships are tiled, with sub-pixel
    jitter, until they are several times larger than the memory of the processes. Data and labels are removed
    at the end.
    """
    began = time.perf_counter()
    from dem.demo import Demo, run_demo  # noqa: PLC0415

    with plain_warnings(quiet), fit_progress(quiet) as callbacks:
        report = run_demo(
            Demo(n_components=components, **given), callbacks, (lambda _: None) if quiet else say, open_engine
        )
    seconds = time.perf_counter() - began
    if as_json:
        from dem.cli.report import print_json  # noqa: PLC0415

        print_json({**report.figures(), "total_seconds": seconds})
    elif not quiet:
        _print(report, seconds)


def _print(report: DemoReport, seconds: float) -> None:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from dem.cli.report import figures_table  # noqa: PLC0415
    from dem.cli.tables import console  # noqa: PLC0415

    to = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="position in heights of a picture, y downwards")
    for name in ("component", "weight", "mean colour", "x", "y"):
        table.add_column(name, justify="right")
    order = sorted(range(len(report.weights)), key=lambda k: -report.weights[k])
    for k in order:
        red, green, blue = (min(max(round(255 * value), 0), 255) for value in report.means[k][:3])
        colour = Text(f"#{red:02x}{green:02x}{blue:02x}")
        if to.is_terminal:
            colour = Text("      ", style=f"on rgb({red},{green},{blue})") + Text(" ") + colour
        x, y = report.means[k][3:]
        table.add_row(str(k), f"{report.weights[k]:.4f}", colour, f"{x:.2f}", f"{y:.2f}")
    to.print(table)
    steps = ", ".join(f"{name} {human_seconds(taken)}" for name, taken in report.seconds.items())
    peaks = report.worker_peaks
    ended = "converged" if report.converged else "stopped"
    figures_table(
        {
            "fit": f"{ended} after {report.n_iter} reads of all data; "
            f"log-likelihood per row {report.log_likelihood_per_row:.5g}",
            "data": f"{human_bytes(report.data_bytes)}: {report.n_rows:,} rows x {len(report.features)}",
            "memory allowed": f"{human_bytes(report.memory_allowed)}: {len(peaks)} processes x "
            f"{human_bytes(report.memory_allowed / len(peaks))}; "
            f"the data are {report.data_bytes / report.memory_allowed:.1f} times as large",
            "peak memory": f"{human_bytes(sum(peaks))}: " + " + ".join(map(human_bytes, peaks)),
            "time": f"{human_seconds(seconds)}: {steps}",
        }
    )
    for path in report.written:
        to.print(f"written: {path}", highlight=False, soft_wrap=True)
