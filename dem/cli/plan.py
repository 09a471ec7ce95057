"""`dem plan`: what a fit will need and how long it will take, before it is begun."""

from __future__ import annotations

from typing import Any

import click

from dem.cli.model_options import model_of, model_options, new_estimator
from dem.cli.options import POSITIVE, TEXT, column_options, in_the_shell, json_option, refuse, rows_of, source_options
from dem.cli.session import plain_warnings


@click.command(
    "plan",
    short_help="Foretell memory, time and trouble of a fit.",
    epilog="""\b
Examples:
  dem plan measurements.zarr --components 16
  dem plan s3://bucket/cube.zarr --variable salinity --components 64 --covariance diag --workers 200 --memory-limit 4GB
  dem plan pixels.zarr --components 256 --family kmeans --json""",
)
@click.argument("data", type=TEXT)
@click.option("--components", "-k", type=POSITIVE, required=True, metavar="K", help="Number of components.")
@source_options
@column_options
@model_options("algorithm", "accelerate", "max_iter", "missing", "sample_rows", "top_components")
@click.option("--workers", type=POSITIVE, metavar="N", help="Worker processes.  [default: threads of this process]")
@click.option("--memory-limit", type=TEXT, metavar="SIZE", help="Memory of each worker, such as 2GB.")
@json_option
def plan(
    data: str, components: int, as_json: bool, workers: int | None, memory_limit: str | None, **given: Any
) -> None:
    """Tell what `dem fit` will need for DATA: memory, seconds per pass, passes; and what will not work.

    A few chunks are read and computed with for some two seconds. Where they cannot be read, random rows of the same
    shape stand in. More workers than this machine has cores are taken to be as fast as its cores.
    """
    source, (family, options) = rows_of(given), model_of(given)
    if memory_limit is not None and workers is None:
        refuse("--memory-limit is for worker processes; give --workers too")
    from dem.cli.report import print_json  # noqa: PLC0415

    with plain_warnings():
        import dem  # noqa: PLC0415

        estimator = new_estimator(family, components, options)
        found = dem.plan(data, estimator, workers=workers, memory_limit=memory_limit, **source)
    if as_json:
        print_json(found.figures())
        return
    from rich.text import Text  # noqa: PLC0415

    from dem.cli.tables import console, print_pairs  # noqa: PLC0415

    to = console()
    print_pairs(to, found.lines())
    for problem in found.problems:
        to.print(Text(f"! {in_the_shell(problem)}", style="bold"))
