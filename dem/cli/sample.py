"""`dem sample`: draw rows from a model."""

from __future__ import annotations

import shutil
import time
from typing import Any

import click

from dem.cli.options import (
    TEXT,
    check_mixture,
    check_output,
    count,
    engine_of,
    engine_options,
    load_model,
    local_path,
    output_options,
    overwrite_option,
)
from dem.cli.session import open_engine, plain_warnings
from dem.errors import StoreError
from dem.units import human_bytes


@click.command(
    "sample",
    short_help="Draw rows from a model.",
    epilog="""\b
Example:
  dem sample model.zarr 1e6 drawn.zarr --seed 0""",
)
@click.argument("model", type=TEXT)
@click.argument("n_rows", metavar="N", type=count)
@click.argument("out", type=TEXT)
@click.option("--seed", type=click.IntRange(min=0), metavar="S", help="Makes the rows repeatable.")
@overwrite_option
@engine_options
@output_options
def sample(model: str, n_rows: int, out: str, seed: int | None, **given: Any) -> None:
    """Draw N rows from MODEL, a mixture, and write them to the zarr array OUT, chunk by chunk.

    OUT appears once it is whole; the same command goes on where one was ended.
    """
    engine, overwrite, quiet = engine_of(given), given["overwrite"], given["quiet"]
    check_output(out, overwrite, (model,))
    with plain_warnings(quiet):
        from dem.cli.progress import row_progress  # noqa: PLC0415
        from dem.cli.report import print_written  # noqa: PLC0415

        estimator = load_model(model)
        check_mixture("sampling", estimator, model)
        _check_room(out, n_rows * estimator.n_features_in_)
        began = time.perf_counter()
        with open_engine(**engine), row_progress("drawing", quiet):
            estimator.sample_to(n_rows, out, random_state=seed, overwrite=overwrite)
        figures = {"out": out, "n_rows": n_rows, "seconds": time.perf_counter() - began}
        print_written("", figures, given["as_json"], quiet)


def _check_room(out: str, n_bytes: int) -> None:
    """Refuse what cannot fit on the disk, however well it compresses: a byte for each number."""
    from dem.data.atomic import is_url  # noqa: PLC0415
    from dem.data.output_progress import Place  # noqa: PLC0415

    if is_url(out) or Place(out).exists():  # of what was begun before, a part is there
        return
    folder = next(parent for parent in local_path(out).parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        message = f"{human_bytes(n_bytes)} and more are needed, but {human_bytes(free)} are free in {folder}"
        raise StoreError(message)
