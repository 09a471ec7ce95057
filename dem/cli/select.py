"""`dem select`: fit a grid of mixtures on shared reads, and choose one by a criterion."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from dem.cli.model_options import model_of, model_options, options_of
from dem.cli.options import (
    POSITIVE,
    TEXT,
    Finite,
    check_checkpoint,
    check_output,
    checkpoint_of,
    checkpoint_options,
    column_options,
    engine_of,
    engine_options,
    output_options,
    overwrite_option,
    refuse,
    rows_of,
    source_options,
)
from dem.cli.progress import fit_progress
from dem.cli.saving import Saved, save
from dem.cli.session import Stopped, open_engine, plain_warnings, stopped_by, undisturbed
from dem.em.progress import Tracker
from dem.errors import EngineError, StoreError
from dem.estimators.registry import DEFAULT, ESTIMATORS
from dem.units import plural

CRITERIA = ("bic", "aic", "icl", "held_out", "stability", "lower_bound")
_RANGE = re.compile(r"(\d+)(?::(\d+))?(?::(\d+))?")
#: kinds of pictures
PICTURES = (".png", ".svg", ".pdf")


def numbers(value: str) -> tuple[int, ...]:
    """Return ``4``, ``1:32`` (both included), ``2:32:2``, or several of these with commas, in increasing order."""
    found: set[int] = set()
    for part in value.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last, step = (int(text) if text else None for text in match.groups()) if match else (0, None, None)
        if not first or step == 0 or (last is not None and last < first):
            message = f"{part.strip()!r} is no number or range of numbers (such as 4 or 1:32)"
            raise click.BadParameter(message)
        found.update(range(first, (last or first) + 1, step or 1))
    return tuple(sorted(found))


@click.command(
    "select",
    short_help="Choose the number and shape of components.",
    epilog="""\b
Examples:
  dem select measurements.zarr --components 1:32 --covariance full,diag --out model.zarr
  dem select measurements.zarr --components 2,4,8,16 --criterion held_out --holdout 0.1 --plot criteria.png
  dem select cells.zarr --components 2:20 --criterion stability --plot stability.png
  dem select tosses.zarr --components 1:6 --family binomial --trials 10 --criterion icl --json""",
)
@click.argument("data", type=TEXT)
@click.option("--components", "-k", type=numbers, required=True, metavar="K", help="Numbers, such as 1:32 or 2,4,8.")
@click.option("--criterion", type=click.Choice(CRITERIA), default="bic", show_default=True, help="What decides.")
@click.option("--holdout", type=Finite(0, 1, max_open=True), help="Share of rows held out of the fits.")
@click.option(
    "--subsamples", type=POSITIVE, metavar="N", help="Fits of each model to halves of the rows, for stability."
)
@click.option("--out", type=TEXT, metavar="MODEL", help="Save the chosen model here, as a zarr group.")
@overwrite_option
@click.option("--plot", type=TEXT, metavar="FILE", help=f"Draw the criteria ({', '.join(PICTURES)}).")
@source_options
@column_options
@model_options(
    "init_params",
    "n_init",
    "racing",
    "random_state",
    "tol",
    "max_iter",
    "algorithm",
    "max_in_flight",
    "step_power",
    "missing",
    "sample_rows",
    "accelerate",
    clusters=False,
    several=("covariance_type", "n_factors"),
)
@checkpoint_options
@engine_options
@output_options
def select(data: str, **given: Any) -> None:
    """Fit mixtures with several numbers and shapes of components to DATA and choose one.

    All models advance together on each read of the data; one more read gives the criteria of all. Ctrl-C ends the
    command without a result; with --checkpoint, the same command goes on from there.
    """
    engine, source, (family, options) = engine_of(given), rows_of(given), model_of(given)
    if given["plot"] is not None and Path(given["plot"]).suffix not in PICTURES:
        refuse(f"--plot {given['plot']}: the name must end in {', '.join(PICTURES)}")
    if given["criterion"] == "held_out" and not given["holdout"]:
        refuse("--criterion held_out needs held-out rows; give their share, such as --holdout 0.1")
    options = options_of(family or DEFAULT, options)
    check_checkpoint(given["checkpoint"], (data, given["out"]))
    if given["out"] is not None:
        check_output(given["out"], given["overwrite"], (data,))
    if given["plot"] is not None and not Path(given["plot"]).resolve().parent.is_dir():
        message = f"cannot write {given['plot']}: its folder does not exist"
        raise StoreError(message)
    from dem.cli.report import print_selection  # noqa: PLC0415

    with plain_warnings(given["quiet"]):
        with open_engine(**engine):
            template = ESTIMATORS[family or DEFAULT].load()()
            selection = _run(data, given, {**source, **options, **checkpoint_of(given), "estimator": template})
        saved = Saved(None)
        if given["out"] is not None:
            with undisturbed():
                saved = save(selection.best_estimator_, given["out"], overwrite=given["overwrite"])
        if given["as_json"] or not given["quiet"]:
            print_selection(selection, saved.path, as_json=given["as_json"])
        if given["plot"] is not None:
            from dem.plot import selection as draw  # noqa: PLC0415

            draw(selection.table, given["plot"], criterion=selection.criterion)
        saved.check()


def _run(data: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    import dem  # noqa: PLC0415
    from dem.cli.report import print_json  # noqa: PLC0415

    tracker = Tracker()
    try:
        with fit_progress(given["quiet"]) as callbacks:
            return dem.select(
                data,
                n_components=given["components"],
                criterion=given["criterion"],
                holdout=given["holdout"] or 0.0,
                subsamples=given["subsamples"],
                callbacks=[tracker, *callbacks],
                **options,
            )
    except EngineError as error:
        if options["checkpoint"] is None:
            raise
        message = f"{error}; the same command goes on from {options['checkpoint']}"
        raise EngineError(message) from error
    except KeyboardInterrupt:
        reads = tracker.last.iteration if tracker.last is not None and tracker.last.phase == "data" else 0
        if given["as_json"]:
            print_json({"model": None, "status": "interrupted", "reads": reads})
        kept = "nothing is saved"
        if options["checkpoint"] is not None:
            kept = f"the same command goes on from {options['checkpoint']}"
        message = f"stopped by {stopped_by()} after {plural(reads, 'read')} of all data; {kept}"
        raise Stopped(message) from None
