"""`dem predict`: apply a model to a zarr array, chunk by chunk."""

from __future__ import annotations

import time
from typing import Any

import click

from dem.cli.options import (
    TEXT,
    check_mixture,
    check_output,
    engine_options,
    output_options,
    overwrite_option,
    refuse,
    source_of,
    source_options,
)
from dem.cli.session import open_engine, plain_warnings
from dem.units import human_count, human_seconds

_WHAT = {"labels": "labels", "proba": "membership probabilities", "log_density": "log-densities"}


@click.command(
    "predict",
    short_help="Write labels, probabilities or densities.",
    epilog="""\b
Examples:
  dem predict model.zarr measurements.zarr labels.zarr
  dem predict model.zarr measurements.zarr probabilities.zarr --proba --workers 4""",
)
@click.argument("model", type=TEXT)
@click.argument("data", type=TEXT)
@click.argument("out", type=TEXT)
@click.option("--proba", is_flag=True, help="Write the probability of each component, not the label.")
@click.option(
    "--dtype", type=TEXT, metavar="NAME", help="Type of the numbers in OUT.  [default: labels: smallest integer]"
)
@click.option("--log-density", is_flag=True, help="Write the log-density of each row under the mixture.")
@source_options
@overwrite_option
@engine_options
@output_options
def predict(
    model: str,
    data: str,
    out: str,
    proba: bool,
    log_density: bool,
    dtype: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Write the component of each row of DATA (its label; of k-means the nearest centre) to the zarr array OUT.

    Chunk by chunk, aligned with the chunks of DATA. OUT appears once it is whole.
    """
    if proba and log_density:
        refuse("give either --proba or --log-density, not both")
    kind = "proba" if proba else "log_density" if log_density else "labels"
    source = source_of(given)
    check_output(out, overwrite, (model, data))
    with plain_warnings(quiet):
        import dem  # noqa: PLC0415
        from dem.cli.progress import row_progress  # noqa: PLC0415
        from dem.cli.report import print_json  # noqa: PLC0415
        from dem.estimators.inputs import rows_of  # noqa: PLC0415

        estimator = dem.load(model)
        if kind != "labels":
            check_mixture(f"--{kind.replace('_', '-')}", estimator, model)
        rows = rows_of(estimator, data, reset=False, **source)
        n_rows = rows.n_rows
        began = time.perf_counter()
        with open_engine(**given), row_progress(f"writing {_WHAT[kind]}", quiet):
            estimator.predict_to(rows, out, kind=kind, dtype=dtype, overwrite=overwrite)
        seconds = time.perf_counter() - began
        if as_json:
            print_json({"out": out, "kind": kind, "n_rows": n_rows, "seconds": seconds})
        elif not quiet:
            click.echo(
                f"{_WHAT[kind]} of {n_rows:,} rows in {out} "
                f"({human_seconds(seconds)}, {human_count(n_rows / seconds)} rows/s)"
            )
