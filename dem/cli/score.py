"""`dem score`: how well a model explains data."""

from __future__ import annotations

import math
from typing import Any

import click

from dem.cli.options import TEXT, engine_options, output_options, variable_option
from dem.cli.session import open_engine, plain_warnings


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
@variable_option
@engine_options
@output_options
def score(model: str, data: str, variable: str | None, as_json: bool, quiet: bool, **engine: Any) -> None:
    """Print the log-likelihood per row of DATA under MODEL, and the information criteria BIC and AIC."""
    with plain_warnings(quiet):
        import dem  # noqa: PLC0415
        from dem.cli.counting import counting  # noqa: PLC0415
        from dem.cli.report import print_json  # noqa: PLC0415
        from dem.data import open_rows  # noqa: PLC0415

        estimator = dem.load(model)
        rows = open_rows(data, variable=variable)
        with open_engine(**engine) as where, counting("reading", where, quiet) as watched:
            figures = _figures(estimator, watched(rows))
        if as_json:
            print_json(figures)
        else:
            click.echo(f"log-likelihood per row  {figures['log_likelihood_per_row']:.8g}")
            click.echo(f"BIC                     {figures['bic']:.8g}")
            click.echo(f"AIC                     {figures['aic']:.8g}")
            click.echo(f"rows                    {figures['n_rows']:,}")


def _figures(estimator: Any, rows: Any) -> dict[str, Any]:
    """Return all figures from one read of the data."""
    n_rows = rows.n_rows
    per_row = float(estimator.score(rows))
    n_parameters = estimator._n_parameters()  # noqa: SLF001  (scikit-learn's name; `bic` and `aic` read again)
    deviance = -2.0 * per_row * n_rows
    return {
        "log_likelihood_per_row": per_row,
        "bic": deviance + n_parameters * math.log(n_rows),
        "aic": deviance + 2.0 * n_parameters,
        "n_rows": n_rows,
        "n_parameters": n_parameters,
    }
