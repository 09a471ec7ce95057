"""`dem fit`: fit a mixture, or k-means, to a zarr array."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from dem.cli.model_options import check_decided, check_options, model_of, model_options, new_estimator, set_options
from dem.cli.options import (
    POSITIVE,
    TEXT,
    check_checkpoint,
    check_output,
    checkpoint_of,
    checkpoint_options,
    column_options,
    engine_of,
    engine_options,
    load_model,
    output_options,
    overwrite_option,
    refuse,
    rows_of,
    source_options,
)
from dem.cli.progress import fit_progress
from dem.cli.saving import Saved, remove_partial, save, save_partial
from dem.cli.session import Stopped, open_engine, plain_warnings, say, stopped_by, undisturbed
from dem.errors import DataError, DemError, StoreError
from dem.estimators.registry import DEFAULT, entry_of
from dem.events import Callback

if TYPE_CHECKING:
    from dem.data.sources import WeightedOptions


@dataclass(frozen=True)
class FitOptions:
    """The options of `dem fit`; those of the model that are given by their names in Python."""

    data: str
    components: int | None
    family: str | None
    model: dict[str, Any]
    start_from: str | None
    source: WeightedOptions
    kept: dict[str, Any]
    out: str | None
    overwrite: bool
    keep_partial: bool
    as_json: bool
    quiet: bool

    def check(self) -> None:
        """Judge the options that depend on one another; raises `click.UsageError`."""
        if self.keep_partial and self.out is None:
            refuse("--keep-partial needs --out, the name that an unfinished model gets too")
        if self.start_from is not None:
            check_decided(self.family, self.model)
        elif self.components is None:
            refuse("give the number of components with --components, or a saved model with --from")
        else:
            check_options(self.family or DEFAULT, self.model)

    def estimator(self, callbacks: list[Callback]) -> Any:
        """Return the estimator to fit: a new one, or the saved one that the fit goes on from."""
        if self.start_from is None:
            return new_estimator(self.family, self.components, {**self.model, "callbacks": callbacks})
        estimator: Any = load_model(self.start_from)
        entry = entry_of(estimator)
        self._check_saved(estimator)
        set_options(estimator, self.model, self.start_from)
        if entry.is_mixture:
            return estimator.set_params(callbacks=callbacks, warm_start=True)
        centres = getattr(estimator, f"{entry.location}_")
        return estimator.set_params(callbacks=callbacks, **{entry.start: centres}, n_init=1)

    def is_done(self, engine: dict[str, Any]) -> bool:
        """Tell whether `--out` is the model of this very fit: a queue may start a command again that has ended."""
        checkpoint = self.kept["checkpoint"]
        if self.out is None or self.overwrite or checkpoint is None:
            return False
        from dem.estimators.checkpoints import is_done  # noqa: PLC0415

        with suppress(StoreError):
            fitted: Any = load_model(self.out)
            with plain_warnings(self.quiet), open_engine(**engine):
                return is_done(self.estimator([]), fitted, self.data, self.source, checkpoint)
        return False

    def _check_saved(self, estimator: Any) -> None:
        from dem.cli.report import size  # noqa: PLC0415
        from dem.estimators import inputs  # noqa: PLC0415

        if self.components is not None and self.components != size(estimator):
            refuse(f"--components {self.components}, but {self.start_from} has {size(estimator)} of them")
        try:
            inputs.rows_of(estimator, self.data, reset=False, **self.source)
        except DataError as error:
            message = f"{error} ({self.start_from})"
            raise DataError(message) from error


@click.command(
    "fit",
    short_help="Fit a mixture model or k-means.",
    epilog="""\b
Examples:
  dem fit measurements.zarr --components 16 --out model.zarr
  dem fit cube.zarr --variable temperature --components 8 --covariance diag --workers 4 --memory-limit 2GB
  dem fit ocean.zarr --variable temperature --variable salinity --components 8
  dem fit cube.zarr --variable temperature --feature-dim depth --components 8
  dem fit catalogue.parquet --columns u,g,r --weights completeness --components 12
  dem fit tosses.zarr --components 2 --family binomial --trials 10
  dem fit pixels.zarr --components 256 --family kmeans --out palette.zarr
  dem fit measurements.zarr --components 16 --out model.zarr --checkpoint model.checkpoint
  dem fit measurements.zarr --from model.zarr --out better.zarr --tol 1e-6 --scheduler tcp://10.0.0.1:8786""",
)
@click.argument("data", type=TEXT)
@click.option("--components", "-k", type=POSITIVE, metavar="K", help="Number of components (clusters).")
@click.option("--out", type=TEXT, metavar="MODEL", help="Save the fitted model here, as a zarr group.")
@overwrite_option
@click.option("--keep-partial", is_flag=True, help="After Ctrl-C too save the model in --out, not in MODEL.partial.")
@source_options
@column_options
@click.option("--from", "start_from", type=TEXT, metavar="MODEL", help="Go on from the parameters of a saved model.")
@model_options()
@checkpoint_options
@engine_options
@output_options
def fit(**given: Any) -> None:
    """Fit a mixture model, or k-means, to DATA: the path or URL of a zarr array or group, or of parquet.

    Without --scheduler or --workers it runs on threads of this process. Ctrl-C ends the fit and, if --out is
    given, saves the last parameters in MODEL.partial, where --from goes on; once that has saved MODEL, the partial
    one is removed. With --checkpoint, the same command goes on where it ended, whatever ended it.
    """
    engine, source, (family, model) = engine_of(given), rows_of(given), model_of(given)
    kept = checkpoint_of(given)
    options = FitOptions(source=source, kept=kept, family=family, model=model, **given)
    options.check()
    check_checkpoint(kept["checkpoint"], (options.data, options.start_from, options.out))
    if options.is_done(engine):
        say(f"{options.out} is what this command has come to; there is nothing left to do")
        return
    if options.out is not None:
        inputs = (options.data, options.start_from) if options.start_from else (options.data,)
        check_output(options.out, options.overwrite, inputs)
    from dem.cli.report import print_fit  # noqa: PLC0415

    with plain_warnings(options.quiet):
        with open_engine(**engine):
            estimator = _run(options)
        saved = Saved(None)
        if options.out is not None:
            with undisturbed():
                saved = save(estimator, options.out, overwrite=options.overwrite)
                gone = "" if saved.problem else remove_partial(options.out, options.start_from)
            if gone and not options.quiet:
                say(gone)
        if options.as_json or not options.quiet:
            print_fit(estimator, saved.path, as_json=options.as_json)
        saved.check()


def _run(options: FitOptions) -> Any:
    """Fit; if the fit ends before it is done, keep what there is and say so."""
    estimator: Any = None
    before: Any = None
    try:
        with fit_progress(options.quiet) as callbacks:
            estimator = options.estimator(callbacks)
            before = getattr(estimator, "history_", None)
            return estimator.fit(options.data, **options.source, **options.kept)
    except KeyboardInterrupt:
        with undisturbed():
            reached = getattr(estimator, "history_", None) is not before
            kept = _keep_partial(estimator if reached else None, options, status="interrupted")
        message = f"stopped by {stopped_by()} {kept}"
        raise Stopped(message) from None
    except Exception as error:
        if getattr(estimator, "history_", None) is before:
            raise
        with undisturbed():
            kept = _keep_partial(estimator, options, status="failed")
        if isinstance(error, DemError):
            message = f"{error}; this was {kept}"
            raise click.ClickException(message) from error
        say(f"the fit failed {kept}")
        raise


def _keep_partial(estimator: Any, options: FitOptions, *, status: str) -> str:
    """Save a model whose fit has not ended, if any iteration has; print it as JSON if asked for; say what became of it.

    An unfinished model has another name than asked for, so that nothing takes it for a finished one.
    """
    from dem.cli.report import print_fit, print_json  # noqa: PLC0415

    if estimator is None:
        if options.as_json:
            print_json({"model": None, "status": status, "n_iter": 0})
        return f"before the first iteration ended; there is nothing to save{_goes_on(options)}"
    saved, what = Saved(None), "nothing is saved without --out" if options.out is None else "the model is not saved"
    if options.out is not None and options.keep_partial:
        saved = save(estimator, options.out, overwrite=options.overwrite)
    elif options.out is not None and options.kept["checkpoint"] is None:
        saved = save_partial(estimator, options.out)
    if saved.path is not None:
        what = f"the last parameters are saved in {saved.path}"
    if options.as_json:
        print_fit(estimator, saved.path, as_json=True, status=status)
    iteration = f"iteration {estimator.n_iter_}"
    if estimator.history_[-1]["phase"] == "sample":
        iteration += " on the sample"
    return f"after {iteration}; {saved.problem or what}{_goes_on(options)}"


def _goes_on(options: FitOptions) -> str:
    checkpoint = options.kept["checkpoint"]
    return "" if checkpoint is None else f"; the same command goes on from {checkpoint}"
