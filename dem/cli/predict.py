"""`dem predict`: apply a model to a zarr array, chunk by chunk."""

from __future__ import annotations

import time
from typing import Any

import click

from dem.cli.options import (
    TEXT,
    check_mixture,
    check_output,
    engine_of,
    engine_options,
    measured_options,
    missing_option,
    output_options,
    overwrite_option,
    refuse,
    rows_of,
    set_missing,
    source_options,
)
from dem.cli.session import open_engine, plain_warnings

_WHAT = {"labels": "labels", "proba": "membership probabilities", "log_density": "log-densities"}


@click.command(
    "predict",
    short_help="Write labels, probabilities or densities.",
    epilog="""\b
Examples:
  dem predict model.zarr measurements.zarr labels.zarr
  dem predict model.zarr measurements.zarr probabilities.zarr --proba --workers 4
  dem predict model.zarr fluxes.zarr density.zarr --log-density --variable flux --errors variance --upper 0.1""",
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
@missing_option
@measured_options
@overwrite_option
@engine_options
@output_options
def predict(model: str, data: str, out: str, proba: bool, log_density: bool, missing: str | None, **given: Any) -> None:
    """Write the component of each row of DATA (its label; of k-means the nearest centre) to the zarr array OUT.

    Chunk by chunk, aligned with the chunks of DATA. OUT appears once it is whole.
    """
    if proba and log_density:
        refuse("give either --proba or --log-density, not both")
    kind = "proba" if proba else "log_density" if log_density else "labels"
    source, engine, quiet = rows_of(given), engine_of(given), given["quiet"]
    check_output(out, given["overwrite"], (model, data))
    with plain_warnings(quiet):
        import dem  # noqa: PLC0415
        from dem.cli.progress import row_progress  # noqa: PLC0415
        from dem.cli.report import print_written  # noqa: PLC0415
        from dem.estimators import inputs  # noqa: PLC0415

        estimator = dem.load(model)
        set_missing(estimator, missing)
        if kind != "labels":
            check_mixture(f"--{kind.replace('_', '-')}", estimator, model)
        rows = inputs.rows_of(estimator, data, reset=False, on_grid=True, **source)
        n_rows, began = rows.n_rows, time.perf_counter()
        with open_engine(**engine), row_progress(f"writing {_WHAT[kind]}", quiet):
            estimator.predict_to(rows, out, kind=kind, dtype=given["dtype"], overwrite=given["overwrite"])
        figures = {"out": out, "kind": kind, "n_rows": n_rows, "seconds": time.perf_counter() - began}
        print_written(f"{_WHAT[kind]} of ", figures, given["as_json"], quiet)
