"""`dem impute`: fill missing values in, chunk by chunk."""

from __future__ import annotations

import time
from typing import Any

import click

from dem.cli.options import (
    SEED,
    TEXT,
    check_mixture,
    check_output,
    engine_of,
    engine_options,
    measured_options,
    output_options,
    overwrite_option,
    refuse,
    rows_of,
    source_options,
)
from dem.cli.session import open_engine, plain_warnings


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
@measured_options
@overwrite_option
@engine_options
@output_options
def impute(model: str, data: str, out: str, draw: bool, seed: int | None, **given: Any) -> None:
    """Write the rows of DATA to the zarr array OUT with missing values (NaN) replaced by what MODEL expects.

    Chunk by chunk, the features last. OUT appears once it is whole.
    """
    if seed is not None and not draw:
        refuse("--seed is for --draw")
    source, engine, quiet = rows_of(given), engine_of(given), given["quiet"]
    check_output(out, given["overwrite"], (model, data))
    with plain_warnings(quiet):
        import dem  # noqa: PLC0415
        from dem.cli.progress import row_progress  # noqa: PLC0415
        from dem.cli.report import print_written  # noqa: PLC0415
        from dem.estimators import inputs  # noqa: PLC0415

        estimator = dem.load(model)
        check_mixture("impute", estimator, model)
        rows = inputs.rows_of(estimator, data, reset=False, on_grid=True, **source)
        n_rows, began = rows.n_rows, time.perf_counter()
        with open_engine(**engine), row_progress("writing complete rows", quiet):
            estimator.impute_to(rows, out, draw=draw, random_state=seed, overwrite=given["overwrite"])
        figures = {"out": out, "kind": "rows", "n_rows": n_rows, "seconds": time.perf_counter() - began}
        print_written("", figures, given["as_json"], quiet)
