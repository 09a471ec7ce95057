"""`dem score`: how well a model explains data."""

from __future__ import annotations

from typing import Any

import click

from dem.cli.options import (
    TEXT,
    column_options,
    engine_options,
    load_model,
    missing_option,
    output_options,
    rows_of,
    set_missing,
    source_options,
    trials_option,
)
from dem.cli.session import open_engine, plain_warnings
from dem.estimators.registry import entry_of
from dem.units import whole


@click.command(
    "score",
    short_help="Log-likelihood per row, BIC and AIC.",
    epilog="""\b
Examples:
  dem score model.zarr measurements.zarr
  dem score model.zarr held-out.zarr --json""",
)
@click.argument("model", type=TEXT)
@click.argument("data", type=TEXT)
@source_options
@missing_option
@column_options
@trials_option
@engine_options
@output_options
def score(model: str, data: str, missing: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
    """Print the log-likelihood per row of DATA under MODEL, and the information criteria BIC and AIC.

    Of k-means: the inertia, the sum of the squared distances of all rows to their nearest centres.
    """
    source = rows_of(given)
    with plain_warnings(quiet):
        from dem.cli.progress import row_progress  # noqa: PLC0415
        from dem.cli.report import print_json  # noqa: PLC0415
        from dem.estimators import inputs  # noqa: PLC0415

        estimator = load_model(model)
        set_missing(estimator, missing)
        rows = inputs.rows_of(estimator, data, reset=False, **source)
        with open_engine(**given), row_progress("reading", quiet):
            figures = _figures(estimator, rows)
        if as_json:
            print_json(figures)
            return
        for name, heading in _HEADINGS.items():
            if name in figures:
                click.echo(f"{heading:<22}  {figures[name]:.8g}")
        click.echo(f"{'rows':<22}  {figures['n_rows']:,}")


_HEADINGS = {
    "inertia": "inertia",
    "inertia_per_row": "inertia per row",
    "log_likelihood_per_row": "log-likelihood per row",
    "bic": "BIC",
    "aic": "AIC",
}


def _figures(estimator: Any, rows: Any) -> dict[str, Any]:
    """Return all figures from one read of the data."""
    if not entry_of(estimator).is_mixture:
        total = estimator._inertia(rows, {})  # noqa: SLF001
        return {"inertia": total.total, "inertia_per_row": total.mean, "n_rows": whole(total.n_rows)}
    worth = estimator._criteria(rows, {})  # noqa: SLF001  (`score`, `bic` and `aic` read once each)
    return {
        "log_likelihood_per_row": worth.log_likelihood.mean,
        "bic": worth.bic,
        "aic": worth.aic,
        "n_rows": whole(worth.log_likelihood.n_rows),
        "n_parameters": worth.n_parameters,
    }
