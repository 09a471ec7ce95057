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
    output_options,
    source_of,
    source_options,
)
from dem.cli.session import open_engine, plain_warnings


@click.command(
    "outliers",
    short_help="The rows of lowest density, with where they are.",
    epilog="""\b
Examples:
  dem outliers model.zarr measurements.zarr --rows 20
  dem outliers model.zarr ocean.zarr --share 1e-5 --json""",
)
@click.argument("model", type=TEXT)
@click.argument("data", type=TEXT)
@click.option("--share", type=Finite(min=0), help="Share of the rows that is shown.  [default: 0.001]")
@click.option("--rows", "n_rows", type=POSITIVE, metavar="N", help="How many rows are shown instead.")
@source_options
@engine_options
@output_options
def outliers(
    model: str, data: str, share: float | None, n_rows: int | None, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Print the rows of DATA that are least likely under MODEL, lowest density first, from one read.

    Each with its position, its coordinates where it lies on a grid, its values and its log-density.
    """
    source = source_of(given)
    with plain_warnings(quiet):
        import dem  # noqa: PLC0415
        from dem.cli.progress import row_progress  # noqa: PLC0415
        from dem.cli.report import print_json  # noqa: PLC0415

        estimator = dem.load(model)
        check_mixture("dem outliers", estimator, model)
        with open_engine(**given), row_progress("reading", quiet):
            found = estimator.outliers(data, share, n=n_rows, **source)
        columns = {name: values.tolist() for name, values in found.columns.items()}
        if as_json:
            print_json(columns)
            return
        cells = [[name, *(_word(value) for value in values)] for name, values in columns.items()]
        widths = [max(map(len, column)) for column in cells]
        for line in zip(*cells, strict=True):
            click.echo("  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)))


def _word(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
