"""`dem plan`: what a fit will need and how long it will take, before it is begun."""

from __future__ import annotations

from typing import Any

import click

from dem.cli.fit import ALGORITHMS, COVARIANCES, FAMILIES
from dem.cli.options import TEXT, Count, refuse, source_of, source_options
from dem.cli.session import plain_warnings


@click.command(
    "plan",
    short_help="Foretell memory, time and trouble of a fit.",
    epilog="""\b
Examples:
  dem plan measurements.zarr --components 16
  dem plan s3://bucket/cube.zarr --variable salinity --components 64 --covariance diag --workers 200 --memory-limit 4GB
  dem plan pixels.zarr --components 256 --family kmeans --json""",
)
@click.argument("data", type=TEXT)
@click.option(
    "--components", "-k", type=click.IntRange(min=1), required=True, metavar="K", help="Number of components."
)
@click.option(
    "--family", type=click.Choice(FAMILIES), default="gaussian", help="Kind of the model.  [default: gaussian]"
)
@click.option(
    "--covariance", type=click.Choice(COVARIANCES), help="Shape of the Gaussians' covariances.  [default: full]"
)
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Trials behind every value (binomial).")
@source_options
@click.option("--algorithm", type=click.Choice(ALGORITHMS), help="As for dem fit.  [default: batch]")
@click.option("--accelerate", type=click.Choice(["squarem"]), help="As for dem fit.")
@click.option("--max-iter", type=click.IntRange(min=1), metavar="N", help="Iterations at most.")
@click.option("--sample-rows", type=Count(), metavar="N", help="Rows of the in-memory sample for the start.")
@click.option("--top-components", type=click.IntRange(min=1), metavar="C", help="Components computed per row.")
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Worker processes.  [default: threads of this process]"
)
@click.option("--memory-limit", type=TEXT, metavar="SIZE", help="Memory of each worker, such as 2GB.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def plan(data: str, as_json: bool, workers: int | None, **given: Any) -> None:
    """Tell what `dem fit` will need for DATA: memory, seconds per pass, passes; and what will not work.

    A few chunks are read and computed with for some two seconds. Where they cannot be read, random rows of the same
    shape stand in. More workers than this machine has cores are taken to be as fast as its cores.
    """
    memory_limit, source = given.pop("memory_limit"), source_of(given)
    if memory_limit is not None and workers is None:
        refuse("--memory-limit is for worker processes; give --workers too")
    from dem.cli.report import print_json  # noqa: PLC0415

    with plain_warnings():
        import dem  # noqa: PLC0415

        found = dem.plan(data, _estimator(given), workers=workers, memory_limit=memory_limit, **source)
    if as_json:
        print_json(found.figures())
        return
    from rich.text import Text  # noqa: PLC0415

    from dem.cli.tables import console, print_pairs  # noqa: PLC0415

    to = console()
    print_pairs(to, found.lines())
    for problem in found.problems:
        to.print(Text(f"! {problem}", style="bold"))


def _estimator(given: dict[str, Any]) -> Any:
    """Return the model that the options describe."""
    from dem.estimators.persistence import estimators  # noqa: PLC0415

    family, size = given.pop("family"), given.pop("components")
    if (family == "binomial") != (given["trials"] is not None):
        refuse("--family binomial, and no other, needs --trials, the number of trials behind every value")
    if family != "gaussian" and given["covariance"] is not None:
        refuse("--covariance is for --family gaussian")
    names = {"covariance": "covariance_type", "trials": "n_trials"}
    options = {names.get(name, name): value for name, value in given.items() if value is not None}
    kind = estimators()[family]
    unknown = sorted(options.keys() - kind().get_params().keys()) if family != "binomial" else []
    if unknown:
        refuse(f"--{unknown[0].replace('_', '-')} is for mixtures, not for --family {family}")
    return kind(size, **options)
