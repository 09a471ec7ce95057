"""`dem adapt`: move a fitted mixture towards new rows, or towards each of many groups of them."""

from __future__ import annotations

from typing import Any

import click

from dem.cli.options import (
    TEXT,
    Finite,
    check_mixture,
    check_output,
    column_options,
    engine_of,
    engine_options,
    load_model,
    missing_option,
    names_of,
    output_options,
    overwrite_option,
    rows_of,
    set_missing,
    source_options,
    trials_option,
)
from dem.cli.saving import save
from dem.cli.session import open_engine, plain_warnings


@click.command(
    "adapt",
    short_help="Adapt a mixture to new rows, or to each group of them.",
    epilog="""\b
Examples:
  dem adapt model.zarr new.zarr --out ours.zarr
  dem adapt model.zarr frames.parquet --groups speaker --out speakers.zarr
  dem adapt model.zarr new.zarr --update means,weights --relevance 8 --out ours.zarr""",
)
@click.argument("model", type=TEXT)
@click.argument("data", type=TEXT)
@click.option("--out", type=TEXT, metavar="MODEL", required=True, help="Save what was adapted here, as a zarr group.")
@click.option(
    "--groups",
    type=TEXT,
    metavar="VARIABLE",
    help="Adapt to each group by itself: a variable of DATA, or a path, that says of which group each row is.",
)
@click.option(
    "--relevance",
    type=Finite(min=0),
    default=16.0,
    show_default=True,
    metavar="N",
    help="For how many rows of each component MODEL counts.",
)
@click.option(
    "--update",
    type=names_of(),
    metavar="NAMES",
    default="means",
    show_default=True,
    help="What is adapted: means, weights, covariances, another parameter, several of these, or all.",
)
@overwrite_option
@source_options
@missing_option
@column_options
@trials_option
@engine_options
@output_options
def adapt(
    model: str,
    data: str,
    out: str,
    groups: str | None,
    relevance: float,
    update: list[str],
    missing: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Adapt MODEL, a mixture, to the rows of DATA, in one read, and save the result, a model again.

    Each component moves the further towards the rows the more of these it has. With --groups the result holds a mixture
    for each group.
    """
    engine, source = engine_of(given), rows_of(given)
    check_output(out, overwrite, (model, data))
    with plain_warnings(quiet):
        from dem.cli.progress import row_progress  # noqa: PLC0415
        from dem.cli.report import print_adapted  # noqa: PLC0415

        estimator = load_model(model)
        check_mixture("dem adapt", estimator, model)
        set_missing(estimator, missing)
        with open_engine(**engine), row_progress("reading", quiet):
            found = estimator.adapt(data, relevance=relevance, update=update, groups=groups, **source)
        saved = save(found, out, overwrite=overwrite)
        if as_json or not quiet:
            print_adapted(found, saved.path, as_json=as_json)
        saved.check()
