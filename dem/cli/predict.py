"""`dem predict`: apply a model to a zarr array, chunk by chunk."""

from __future__ import annotations

from typing import Any

import click

from dem.cli.options import (
    TEXT,
    check_mixture,
    engine_options,
    labels_option,
    measured_options,
    missing_option,
    output_options,
    overwrite_option,
    refuse,
    set_missing,
    source_options,
    trials_option,
)
from dem.cli.writing import write_of_rows

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
@labels_option
@measured_options
@trials_option
@overwrite_option
@engine_options
@output_options
def predict(model: str, data: str, out: str, proba: bool, log_density: bool, missing: str | None, **given: Any) -> None:
    """Write the component of each row of DATA (its label; of k-means the nearest centre) to the zarr array OUT.

    Chunk by chunk, aligned with the chunks of DATA. OUT appears once it is whole; the same command goes on where one
    was ended.
    """
    if proba and log_density:
        refuse("give either --proba or --log-density, not both")
    kind = "proba" if proba else "log_density" if log_density else "labels"

    def check(estimator: Any) -> None:
        set_missing(estimator, missing)
        if kind != "labels":
            check_mixture(f"--{kind.replace('_', '-')}", estimator, model)

    write_of_rows(
        (model, data, out),
        given,
        kind=kind,
        what=f"{_WHAT[kind]} of ",
        check=check,
        write=lambda estimator, rows: estimator.predict_to(
            rows, out, kind=kind, dtype=given["dtype"], overwrite=given["overwrite"]
        ),
    )
