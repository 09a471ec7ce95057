"""What `dem predict` and `dem impute` do alike: a model says something of each row, which is streamed into zarr."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dem.cli.options import check_output, engine_of, load_model, rows_of
from dem.cli.session import open_engine, plain_warnings


def write_of_rows(
    paths: tuple[str, str, str],
    given: dict[str, Any],
    *,
    kind: str,
    what: str,
    check: Callable[[Any], None],
    write: Callable[[Any, Any], None],
) -> None:
    """Have a model write what it says of rows, and print how many there were.

    Parameters
    ----------
    paths : tuple of str
        Of the model, the data and the output.
    given : dict
        What the options of the command were given.
    kind, what : str
        What is written, for machines and in words before "rows" ("labels of "), or ''.
    check : callable
        Takes the model and refuses what it cannot do.
    write : callable
        Takes the model and the rows, and writes.
    """
    model, data, out = paths
    source, engine, quiet = rows_of(given), engine_of(given), given["quiet"]
    check_output(out, given["overwrite"], (model, data))
    with plain_warnings(quiet):
        from dem.cli.progress import row_progress  # noqa: PLC0415
        from dem.cli.report import print_written  # noqa: PLC0415
        from dem.estimators import inputs  # noqa: PLC0415

        estimator = load_model(model)
        check(estimator)
        rows = inputs.rows_of(estimator, data, reset=False, on_grid=True, **source)
        n_rows, began = rows.n_rows, time.perf_counter()
        with open_engine(**engine), row_progress(f"writing {what.removesuffix(' of ') or 'complete rows'}", quiet):
            write(estimator, rows)
        figures = {"out": out, "kind": kind, "n_rows": n_rows, "seconds": time.perf_counter() - began}
        print_written(what, figures, given["as_json"], quiet)
