"""`dem impute`: fill missing values in, chunk by chunk."""

from __future__ import annotations

from typing import Any

import click

from dem.cli.options import (
    SEED,
    TEXT,
    check_mixture,
    engine_options,
    labels_option,
    measured_options,
    output_options,
    overwrite_option,
    refuse,
    source_options,
    trials_option,
)
from dem.cli.writing import write_of_rows


@click.command(
    "impute",
    short_help="Fill missing values in.",
    epilog="""\b
Examples:
  dem impute model.zarr measurements.zarr complete.zarr
  dem impute model.zarr measurements.zarr drawn.zarr --draw --seed 0
  dem impute model.zarr fluxes.zarr complete.zarr --upper 0.1""",
)
@click.argument("model", type=TEXT)
@click.argument("data", type=TEXT)
@click.argument("out", type=TEXT)
@click.option("--draw", is_flag=True, help="Draw each value given the rest of its row, not its mean.")
@click.option("--seed", type=SEED, metavar="S", help="Makes draws repeatable.")
@source_options
@labels_option
@measured_options
@trials_option
@overwrite_option
@engine_options
@output_options
def impute(model: str, data: str, out: str, draw: bool, seed: int | None, **given: Any) -> None:
    """Write the rows of DATA to the zarr array OUT with missing values (NaN) replaced by what MODEL expects.

    Chunk by chunk, the features last. OUT appears once it is whole; the same command goes on where one was ended.
    """
    if seed is not None and not draw:
        refuse("--seed is for --draw")
    write_of_rows(
        (model, data, out),
        given,
        kind="rows",
        what="",
        check=lambda estimator: check_mixture("impute", estimator, model),
        write=lambda estimator, rows: estimator.impute_to(
            rows, out, draw=draw, random_state=seed, overwrite=given["overwrite"]
        ),
    )
