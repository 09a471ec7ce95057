"""`dem fit`: fit a mixture to a zarr array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from dem.cli.options import (
    SEED,
    TEXT,
    Count,
    Finite,
    check_output,
    engine_options,
    output_options,
    overwrite_option,
    variable_option,
)
from dem.cli.progress import fit_progress
from dem.cli.session import Stopped, open_engine, plain_warnings, stopped_by, undisturbed
from dem.em.events import Callback
from dem.errors import DataError

FAMILIES = ("gaussian", "bernoulli", "binomial")
COVARIANCES = ("full", "tied", "diag", "spherical")
ALGORITHMS = ("batch", "incremental", "stepwise")
INITS = ("kmeans", "k-means++", "random", "random_from_data", "k-means||")


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
    variable: str | None
    start_from: str | None
    init: str | None
    n_init: int | None
    seed: int | None
    tol: float | None
    max_iter: int | None
    reg_covar: float | None
    sample_rows: int | None
    algorithm: str | None
    accelerate: str | None
    top_components: int | None
    scheduler: str | None
    workers: int | None
    memory_limit: str | None
    as_json: bool
    quiet: bool

    def check(self) -> None:
        """Judge the options that depend on one another; raises `click.UsageError`."""
        if self.start_from is None:
            self._check_new()
        else:
            for name in ("family", "covariance", "trials", "init", "n_init", "sample_rows"):
                if getattr(self, name) is not None:
                    _refuse(f"--{name.replace('_', '-')} does not go with --from: the saved model decides it")

    def _check_new(self) -> None:
        if self.components is None:
            _refuse("give the number of components with --components, or a saved model with --from")
        family = self.family or "gaussian"
        if family == "binomial" and self.trials is None:
            _refuse("--family binomial needs --trials, the number of trials behind every value")
        if family != "binomial" and self.trials is not None:
            _refuse("--trials is for --family binomial")
        for name in ("covariance", "reg_covar"):
            if family != "gaussian" and getattr(self, name) is not None:
                _refuse(f"--{name.replace('_', '-')} is for --family gaussian")

    def estimator(self, callbacks: list[Callback]) -> Any:
        """Return the estimator to fit: a new one, or the saved one that the fit goes on from."""
        import dem  # noqa: PLC0415

        estimator: Any
        given: dict[str, Any] = {
            "tol": self.tol,
            "max_iter": self.max_iter,
            "random_state": self.seed,
            "reg_covar": self.reg_covar,
            "algorithm": self.algorithm,
            "accelerate": self.accelerate,
            "top_components": self.top_components,
            "callbacks": callbacks,
        }
        if self.start_from is not None:
            estimator = dem.load(self.start_from)
            self._check_saved(estimator)
            return estimator.set_params(**_without_none(given), warm_start=True)
        given |= {"init_params": self.init, "n_init": self.n_init, "sample_rows": self.sample_rows}
        family = self.family or "gaussian"
        given |= {
            "n_components": self.components,
            "covariance_type": self.covariance,
            "n_trials": self.trials,
        }
        kinds: dict[str, Any] = {
            "gaussian": dem.GaussianMixture,
            "bernoulli": dem.BernoulliMixture,
            "binomial": dem.BinomialMixture,
        }
        return kinds[family](**_without_none(given))

    def _check_saved(self, estimator: Any) -> None:
        if self.components is not None and self.components != estimator.n_components:
            _refuse(f"--components {self.components}, but {self.start_from} has {estimator.n_components} of them")
        from dem.data import open_rows  # noqa: PLC0415

        rows = open_rows(self.data, variable=self.variable)
        if rows.n_features != estimator.n_features_in_:
            message = (
                f"{rows.name} has {rows.n_features} features, but the model in {self.start_from} has "
                f"{estimator.n_features_in_}"
            )
            raise DataError(message)
        if self.reg_covar is not None and "reg_covar" not in estimator.get_params():
            _refuse(f"--reg-covar is for Gaussian mixtures, and {self.start_from} is none")


@click.command(
    "fit",
    short_help="Fit a mixture model.",
    epilog="""\b
Examples:
  dem fit measurements.zarr --components 16 --out model.zarr
  dem fit cube.zarr --variable temperature --components 8 --covariance diag --workers 4 --memory-limit 2GB
  dem fit tosses.zarr --components 2 --family binomial --trials 10
  dem fit measurements.zarr --from model.zarr --out better.zarr --tol 1e-6 --scheduler tcp://10.0.0.1:8786""",
)
@click.argument("data", type=TEXT)
@click.option("--components", "-k", type=click.IntRange(min=1), metavar="K", help="Number of components.")
@click.option("--family", type=click.Choice(FAMILIES), help="Kind of the components.  [default: gaussian]")
@click.option(
    "--covariance",
    type=click.Choice(COVARIANCES),
    help="Shape of the Gaussians' covariances.  [default: full]",
)
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Trials behind every value (binomial).")
@click.option("--out", type=TEXT, metavar="MODEL", help="Save the fitted model here, as a zarr group.")
@overwrite_option
@variable_option
@click.option("--from", "start_from", type=TEXT, metavar="MODEL", help="Go on from the parameters of a saved model.")
@click.option("--init", type=click.Choice(INITS), help="How the start is found.  [default: kmeans]")
@click.option("--n-init", type=click.IntRange(min=1), metavar="N", help="Starts to choose from.  [default: 1]")
@click.option("--seed", type=SEED, metavar="S", help="Makes the fit repeatable.")
@click.option("--tol", type=Finite(min=0), help="Stop below this gain per row.  [default: 1e-3]")
@click.option("--max-iter", type=click.IntRange(min=1), metavar="N", help="Iterations at most.  [default: 100]")
@click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    help="Parameters move on after every read, or after every block of it.  [default: batch]",
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
    """Fit a mixture model to DATA: the path or URL of a zarr array, or of a group with --variable.

    Without --scheduler or --workers it runs on threads of this process. Ctrl-C ends the fit and saves the
    last parameters if --out is given.
    """
    options = FitOptions(**given)
    options.check()
    if options.out is not None:
        inputs = (options.data, options.start_from) if options.start_from else (options.data,)
        check_output(options.out, options.overwrite, inputs)
    from dem.cli.report import print_fit  # noqa: PLC0415

    with plain_warnings(options.quiet):
        with open_engine(options.scheduler, options.workers, options.memory_limit):
            estimator = _run(options)
        if options.out is not None:
            with undisturbed():
                _save(estimator, options.out, options.overwrite)
        if options.as_json or not options.quiet:
            print_fit(estimator, options.out, as_json=options.as_json)


def _run(options: FitOptions) -> Any:
    """Fit; if the user stops it, save what there is and say so."""
    with fit_progress(options.quiet) as callbacks:
        estimator = options.estimator(callbacks)
        try:
            return estimator.fit(options.data, variable=options.variable)
        except KeyboardInterrupt:
            with undisturbed():
                raise Stopped(_keep_last(estimator, options)) from None


def _keep_last(estimator: Any, options: FitOptions) -> str:
    by = stopped_by()
    if not hasattr(estimator, "weights_"):
        return f"stopped by {by} before the first iteration ended; there is nothing to save"
    iteration = f"iteration {estimator.n_iter_}"
    if estimator.history_[-1]["phase"] == "sample":
        iteration += " on the sample"
    if options.out is None:
        return f"stopped by {by} after {iteration}; nothing is saved without --out"
    _save(estimator, options.out, options.overwrite)
    return f"stopped by {by} after {iteration}; the last parameters are saved in {options.out}"


def _save(estimator: Any, path: str, overwrite: bool) -> None:
    estimator.set_params(callbacks=None)
    if "warm_start" in estimator.get_params():
        estimator.set_params(warm_start=False)
    estimator.save(path, overwrite=overwrite)


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _refuse(message: str) -> None:
    raise click.UsageError(message, click.get_current_context(silent=True))
