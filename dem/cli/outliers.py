"""`dem outliers`: the rows that a model finds least likely."""

from __future__ import annotations

from typing import Any

import click

from dem.cli.options import (
    POSITIVE,
    TEXT,
    Finite,
    check_mixture,
    engine_options,
    load_model,
    measured_options,
    missing_option,
    names_of,
    output_options,
    rows_of,
    set_missing,
    source_options,
    trials_option,
)
from dem.cli.session import open_engine, plain_warnings


@click.command(
    "outliers",
    short_help="The rows of lowest density, with where they are.",
    epilog="""\b
Examples:
  dem outliers model.zarr measurements.zarr --rows 20
  dem outliers model.zarr ocean.zarr --share 1e-5 --json
  dem outliers model.zarr catalogue.parquet --rows 20 --ids source_id --missing skip""",
)
@click.argument("model", type=TEXT)
@click.argument("data", type=TEXT)
@click.option("--share", type=Finite(min=0), help="Share of the rows that is shown.  [default: 0.001]")
@click.option("--rows", "n_rows", type=POSITIVE, metavar="N", help="How many rows are shown instead.")
@click.option("--ids", type=names_of(), metavar="NAMES", help="Columns of parquet that are shown too, such as a key.")
@source_options
@missing_option
@measured_options
@trials_option
@engine_options
@output_options
def outliers(
    model: str,
    data: str,
    share: float | None,
    n_rows: int | None,
    ids: list[str] | None,
    missing: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Print the rows of DATA that are least likely under MODEL, lowest density first, from one read.

    Each with its position, its coordinates where it lies on a grid, its values and its log-density.
    """
    source = rows_of(given)
    with plain_warnings(quiet):
        from dem.cli.progress import row_progress  # noqa: PLC0415
        from dem.cli.report import print_json  # noqa: PLC0415

        estimator = load_model(model)
        check_mixture("dem outliers", estimator, model)
        set_missing(estimator, missing)
        with open_engine(**given), row_progress("reading", quiet):
            found = estimator.outliers(data, share, n=n_rows, ids=ids, **source)
        columns = {
            name: (values.astype(str) if values.dtype.kind in "mM" else values).tolist()
            for name, values in found.columns.items()
        }
        if as_json:
            print_json(columns)
            return
        cells = [[name, *(_word(value) for value in values)] for name, values in columns.items()]
        widths = [max(map(len, column)) for column in cells]
        for line in zip(*cells, strict=True):
            click.echo("  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)))


def _word(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
