"""`dem fit`: fit a mixture, or k-means, to a zarr array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from dem.cli.options import (
    SEED,
    TEXT,
    Count,
    Finite,
    check_mixture,
    check_output,
    engine_options,
    output_options,
    overwrite_option,
    refuse,
    source_of,
    source_options,
)
from dem.cli.progress import fit_progress
from dem.cli.saving import Saved, remove_partial, save, save_partial
from dem.cli.session import Stopped, open_engine, plain_warnings, say, stopped_by, undisturbed
from dem.errors import DataError, DemError
from dem.events import Callback

if TYPE_CHECKING:
    from dem.data.sources import SourceOptions

MIXTURES = ("gaussian", "bernoulli", "binomial")
FAMILIES = (*MIXTURES, "kmeans")
COVARIANCES = ("full", "tied", "diag", "spherical")
ALGORITHMS = ("auto", "batch", "incremental", "stepwise")
INITS = ("kmeans", "k-means++", "random", "random_from_data", "k-means||")
KMEANS_INITS = ("k-means||", "k-means++", "random")


@dataclass(frozen=True)
class FitOptions:
    """The options of `dem fit`, by their names in Python; None means the library's default."""

    data: str
    components: int | None
    family: str | None
    covariance: str | None
    trials: int | None
    out: str | None
    overwrite: bool
    keep_partial: bool
    source: SourceOptions
    start_from: str | None
    init: str | None
    n_init: int | None
    racing: bool | None
    seed: int | None
    tol: float | None
    max_iter: int | None
    reg_covar: float | None
    sample_rows: int | None
    algorithm: str | None
    max_in_flight: int | None
    step_power: float | None
    accelerate: str | None
    top_components: int | None
    scheduler: str | None
    workers: int | None
    memory_limit: str | None
    worker_timeout: str | None
    as_json: bool
    quiet: bool

    def check(self) -> None:
        """Judge the options that depend on one another; raises `click.UsageError`."""
        if self.keep_partial and self.out is None:
            refuse("--keep-partial needs --out, the name that an unfinished model gets too")
        if self.start_from is None:
            self._check_new()
        else:
            for name in ("family", "covariance", "trials", "init", "n_init", "racing", "sample_rows"):
                if getattr(self, name) is not None:
                    refuse(f"--{name.replace('_', '-')} does not go with --from: the saved model decides it")

    def _check_new(self) -> None:
        if self.components is None:
            refuse("give the number of components with --components, or a saved model with --from")
        family = self.family or "gaussian"
        if family == "binomial" and self.trials is None:
            refuse("--family binomial needs --trials, the number of trials behind every value")
        if family != "binomial" and self.trials is not None:
            refuse("--trials is for --family binomial")
        for name in ("covariance", "reg_covar"):
            if family != "gaussian" and getattr(self, name) is not None:
                refuse(f"--{name.replace('_', '-')} is for --family gaussian")
        if family == "kmeans":
            if option := self._option_of_mixtures():
                refuse(f"{option} is for mixtures, not for --family kmeans")
            if self.init is not None and self.init not in KMEANS_INITS:
                refuse(f"--init {self.init} is for mixtures; --family kmeans has {', '.join(KMEANS_INITS)}")

    def _option_of_mixtures(self) -> str | None:
        """Return an option that is given and that k-means has no use for."""
        for name in ("racing", "accelerate", "top_components", "max_in_flight", "step_power"):
            if getattr(self, name) is not None:
                return f"--{name.replace('_', '-')}"
        return None if self.algorithm in (None, "batch") else f"--algorithm {self.algorithm}"

    def estimator(self, callbacks: list[Callback]) -> Any:
        """Return the estimator to fit: a new one, or the saved one that the fit goes on from."""
        import dem  # noqa: PLC0415
        from dem.estimators.persistence import estimators  # noqa: PLC0415

        given = _without_none(
            {"tol": self.tol, "max_iter": self.max_iter, "random_state": self.seed, "callbacks": callbacks}
        )
        of_mixtures = _without_none(
            {
                "reg_covar": self.reg_covar,
                "algorithm": self.algorithm,
                "max_in_flight": self.max_in_flight,
                "step_power": self.step_power,
                "accelerate": self.accelerate,
                "top_components": self.top_components,
            }
        )
        if self.start_from is not None:
            estimator: Any = dem.load(self.start_from)
            self._check_saved(estimator)
            if isinstance(estimator, dem.KMeans):
                return estimator.set_params(**given, init=estimator.cluster_centers_, n_init=1)
            return estimator.set_params(**given, **of_mixtures, warm_start=True)
        given |= _without_none({"n_init": self.n_init, "sample_rows": self.sample_rows})
        family = self.family or "gaussian"
        if family == "kmeans":
            return dem.KMeans(**given, **_without_none({"n_clusters": self.components, "init": self.init}))
        of_mixtures |= _without_none(
            {
                "racing": self.racing,
                "n_components": self.components,
                "covariance_type": self.covariance,
                "n_trials": self.trials,
                "init_params": self.init,
            }
        )
        return estimators()[family](**given, **of_mixtures)

    def _check_saved(self, estimator: Any) -> None:
        from dem.cli.report import size  # noqa: PLC0415

        if self.components is not None and self.components != size(estimator):
            refuse(f"--components {self.components}, but {self.start_from} has {size(estimator)} of them")
        if option := self._option_of_mixtures():
            check_mixture(option, estimator, str(self.start_from))
        from dem.estimators.inputs import rows_of  # noqa: PLC0415

        try:
            rows_of(estimator, self.data, reset=False, **self.source)
        except DataError as error:
            message = f"{error} ({self.start_from})"
            raise DataError(message) from error
        if self.reg_covar is not None and "reg_covar" not in estimator.get_params():
            refuse(f"--reg-covar is for Gaussian mixtures, and {self.start_from} is none")


@click.command(
    "fit",
    short_help="Fit a mixture model or k-means.",
    epilog="""\b
Examples:
  dem fit measurements.zarr --components 16 --out model.zarr
  dem fit cube.zarr --variable temperature --components 8 --covariance diag --workers 4 --memory-limit 2GB
  dem fit ocean.zarr --variable temperature --variable salinity --components 8
  dem fit cube.zarr --variable temperature --feature-dim depth --components 8
  dem fit catalogue.parquet --columns u,g,r --components 12
  dem fit tosses.zarr --components 2 --family binomial --trials 10
  dem fit pixels.zarr --components 256 --family kmeans --out palette.zarr
  dem fit measurements.zarr --from model.zarr --out better.zarr --tol 1e-6 --scheduler tcp://10.0.0.1:8786""",
)
@click.argument("data", type=TEXT)
@click.option("--components", "-k", type=click.IntRange(min=1), metavar="K", help="Number of components (clusters).")
@click.option("--family", type=click.Choice(FAMILIES), help="Kind of the model.  [default: gaussian]")
@click.option(
    "--covariance",
    type=click.Choice(COVARIANCES),
    help="Shape of the Gaussians' covariances.  [default: full]",
)
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Trials behind every value (binomial).")
@click.option("--out", type=TEXT, metavar="MODEL", help="Save the fitted model here, as a zarr group.")
@overwrite_option
@click.option("--keep-partial", is_flag=True, help="After Ctrl-C too save the model in --out, not in MODEL.partial.")
@source_options
@click.option("--from", "start_from", type=TEXT, metavar="MODEL", help="Go on from the parameters of a saved model.")
@click.option("--init", type=click.Choice(INITS), help="How the start is found.  [default: kmeans; k-means: k-means||]")
@click.option(
    "--n-init",
    type=click.IntRange(min=1),
    metavar="N",
    help="Starts to choose from.  [default: 1; k-means, random: 10]",
)
@click.option("--racing", is_flag=True, default=None, help="Drop starts that fall behind: fewer reads, some risk.")
@click.option("--seed", type=SEED, metavar="S", help="Makes the fit repeatable.")
@click.option(
    "--tol",
    type=Finite(min=0),
    help="Stop below this gain per row; k-means: below this squared movement of the centres, as a share of the "
    "mean variance.  [default: 1e-3; k-means: 1e-4]",
)
@click.option(
    "--max-iter",
    type=click.IntRange(min=1),
    metavar="N",
    help="Iterations at most.  [default: 100; k-means: 300]",
)
@click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    help="Parameters move on after every read, or after every block of it; auto: batch with SQUAREM.  [default: batch]",
)
@click.option(
    "--max-in-flight",
    type=click.IntRange(min=1),
    metavar="N",
    help="Blocks under way at once, unless the algorithm is batch.  [default: a tenth of all]",
)
@click.option(
    "--step-power",
    type=click.FloatRange(0.5, 1.0, min_open=True),
    metavar="P",
    help="Step t of stepwise EM has the size (t + 2)^-P.  [default: 0.7]",
)
@click.option("--reg-covar", type=Finite(min=0), help="Added to all variances.  [default: 1e-6]")
@click.option("--sample-rows", type=Count(), metavar="N", help="Rows of the in-memory sample for the start.")
@click.option("--accelerate", type=click.Choice(["squarem"]), help="Fewer iterations where EM is slow.")
@click.option(
    "--top-components", type=click.IntRange(min=1), metavar="C", help="Components computed per row.  [default: all]"
)
@engine_options
@output_options
def fit(**given: Any) -> None:
    """Fit a mixture model, or k-means, to DATA: the path or URL of a zarr array or group, or of parquet.

    Without --scheduler or --workers it runs on threads of this process. Ctrl-C ends the fit and, if --out is
    given, saves the last parameters in MODEL.partial, where --from goes on; once that has saved MODEL, the partial
    one is removed.
    """
    options = FitOptions(source=source_of(given), **given)
    options.check()
    if options.out is not None:
        inputs = (options.data, options.start_from) if options.start_from else (options.data,)
        check_output(options.out, options.overwrite, inputs)
    from dem.cli.report import print_fit  # noqa: PLC0415

    with plain_warnings(options.quiet):
        with open_engine(options.scheduler, options.workers, options.memory_limit, options.worker_timeout):
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
            return estimator.fit(options.data, **options.source)
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
        return "before the first iteration ended; there is nothing to save"
    saved, what = Saved(None), "nothing is saved without --out"
    if options.out is not None and options.keep_partial:
        saved = save(estimator, options.out, overwrite=options.overwrite)
    elif options.out is not None:
        saved = save_partial(estimator, options.out)
    if saved.path is not None:
        what = f"the last parameters are saved in {saved.path}"
    if options.as_json:
        print_fit(estimator, saved.path, as_json=True, status=status)
    iteration = f"iteration {estimator.n_iter_}"
    if estimator.history_[-1]["phase"] == "sample":
        iteration += " on the sample"
    return f"after {iteration}; {saved.problem or what}"


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
