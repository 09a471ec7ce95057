"""`dem sample`: draw rows from a model."""

from __future__ import annotations

import time

import click

from dem.cli.options import Count, check_output, engine_options, output_options, overwrite_option
from dem.cli.progress import human_count, human_seconds, working
from dem.cli.session import open_engine, plain_warnings


@click.command(
    "sample",
    short_help="Draw rows from a model.",
    epilog="""\b
Example:
  dem sample model.zarr 1e6 drawn.zarr --seed 0""",
)
@click.argument("model")
@click.argument("n_rows", metavar="N", type=Count())
@click.argument("out")
@click.option("--seed", type=click.IntRange(min=0), metavar="S", help="Makes the rows repeatable.")
@overwrite_option
@engine_options
@output_options
def sample(
    model: str,
    n_rows: int,
    out: str,
    seed: int | None,
    overwrite: bool,
    scheduler: str | None,
    workers: int | None,
    memory_limit: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw N rows from MODEL and write them to the zarr array OUT, chunk by chunk."""
    check_output(out, overwrite, (model,))
    with plain_warnings(quiet):
        import dem  # noqa: PLC0415
        from dem.cli.report import print_json  # noqa: PLC0415

        estimator = dem.load(model)
        began = time.perf_counter()
        with open_engine(scheduler, workers, memory_limit), working("drawing", quiet):
            estimator.sample_to(n_rows, out, random_state=seed, overwrite=overwrite)
        seconds = time.perf_counter() - began
        if as_json:
            print_json({"out": out, "n_rows": n_rows, "seconds": seconds})
        elif not quiet:
            click.echo(f"{n_rows:,} rows in {out} ({human_seconds(seconds)}, {human_count(n_rows / seconds)} rows/s)")
