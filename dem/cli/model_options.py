"""The options of a model, which `dem fit`, `dem select` and `dem plan` share, by the names of the estimators."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import click

from dem.cli.options import MISSING_HELP, POSITIVE, SEED, F, Finite, count, names_of, refuse, together
from dem.estimators.registry import (
    ALGORITHMS,
    DEFAULT,
    ESTIMATORS,
    MISSING,
    MIXTURE_STARTS,
    Entry,
    ShellOption,
    entry_of,
)


@dataclass(frozen=True)
class _Option:
    """An option of all mixtures, and unless `of_mixtures` of k-means, where its default may be another."""

    flag: str
    values: Any
    help: str
    metavar: str | None = None
    default: str = ""
    default_of_clusters: str = ""
    help_of_clusters: str = ""
    of_mixtures: bool = False

    def click(self, parameter: str, *, clusters: bool) -> Callable[[F], F]:
        """Return it as click has it; `clusters` tells whether the command takes k-means too."""
        text = self.help + (self.help_of_clusters if clusters else "") + "."
        if self.default:
            other = f"; k-means: {self.default_of_clusters}" if clusters and self.default_of_clusters else ""
            text += f"  [default: {self.default}{other}]"
        kind = {"is_flag": True} if self.values is bool else {"type": self.values, "metavar": self.metavar}
        return click.option(self.flag, parameter, default=None, help=text, **kind)


_OPTIONS = {
    "init_params": _Option(
        "--init", click.Choice(MIXTURE_STARTS), "How the start is found", None, "kmeans", "k-means||"
    ),
    "n_init": _Option("--n-init", POSITIVE, "Starts to choose from", "N", "1", "1, random: 10"),
    "racing": _Option("--racing", bool, "Drop starts that fall behind: fewer reads, some risk", of_mixtures=True),
    "random_state": _Option("--seed", SEED, "Makes the fit repeatable", "S"),
    "tol": _Option(
        "--tol",
        Finite(min=0),
        "Stop below this gain per row",
        None,
        "1e-3",
        "1e-4",
        "; k-means: below this squared movement of the centres, as a share of the mean variance",
    ),
    "max_iter": _Option("--max-iter", POSITIVE, "Iterations at most", "N", "100", "300"),
    "algorithm": _Option(
        "--algorithm",
        click.Choice(ALGORITHMS),
        "Parameters move on after every read, or after every block of it; auto: batch with SQUAREM",
        default="batch",
        of_mixtures=True,
    ),
    "max_in_flight": _Option(
        "--max-in-flight",
        POSITIVE,
        "Blocks under way at once, unless the algorithm is batch",
        "N",
        "a tenth of all",
        of_mixtures=True,
    ),
    "step_power": _Option(
        "--step-power",
        click.FloatRange(0.5, 1.0, min_open=True),
        "Step t of stepwise EM has the size (t + 2)^-P",
        "P",
        "0.7",
        of_mixtures=True,
    ),
    "missing": _Option("--missing", click.Choice(MISSING), MISSING_HELP, default="error"),
    "sample_rows": _Option("--sample-rows", count, "Rows of the in-memory sample for the start", "N"),
    "accelerate": _Option(
        "--accelerate", click.Choice(("squarem",)), "Fewer iterations where EM is slow", of_mixtures=True
    ),
    "reseed": _Option(
        "--reseed",
        POSITIVE,
        "Times that useless components begin anew at the rows of lowest density",
        "N",
        "0",
        of_mixtures=True,
    ),
    "top_components": _Option(
        "--top-components", POSITIVE, "Components computed per row", "C", "all", of_mixtures=True
    ),
}


def _yes_or_number(value: str | float) -> bool | float:
    """Read a number above 0, or ``yes``, which stands for an option without a value."""
    return value == "yes" or Finite(min=0.0, min_open=True).convert(value, None, None)


_YES_OR_NUMBER = click.types.FuncParamType(_yes_or_number)
_OF_FAMILIES = {option.parameter: option for entry in ESTIMATORS.values() for option in entry.options}
# What a model that was saved decides, unlike how it is fitted.
_DECIDED = ("scale", "noise", "init_params", "n_init", "racing", "sample_rows")


def model_options(*names: str, clusters: bool = True, several: Collection[str] = ()) -> Callable[[F], F]:
    """Add ``--family``, the options that only some families have, and those named.

    Parameters
    ----------
    *names : str
        Options that all mixtures have, by their names in Python.
    clusters : bool
        Whether the command takes k-means too.
    several : collection of str
        Of the options that only some families have those that take several values, with commas between them.
    """
    families = [name for name, entry in ESTIMATORS.items() if clusters or entry.is_mixture]
    return together(
        click.option("--family", type=click.Choice(families), help=f"Kind of the model.  [default: {DEFAULT}]"),
        *(_of_family(option, several=name in several) for name, option in _OF_FAMILIES.items()),
        *(_OPTIONS[name].click(name, clusters=clusters) for name in names or _OPTIONS),
    )


def _of_family(option: ShellOption, *, several: bool) -> Callable[[F], F]:
    if several and isinstance(option.values, tuple):
        text = f"Of {', '.join(option.values)}."
        return click.option(option.flag, option.parameter, type=names_of(option.values), metavar="NAMES", help=text)
    if isinstance(option.values, tuple):
        return click.option(option.flag, option.parameter, type=click.Choice(option.values), help=option.help)
    if option.values == "flag":
        return click.option(option.flag, option.parameter, is_flag=True, default=None, help=option.help)
    if option.values == "flag or number":
        either: dict[str, Any] = {"is_flag": False, "flag_value": "yes", "metavar": "[VOLUME]"}
        return click.option(
            option.flag, option.parameter, type=_YES_OR_NUMBER, default=None, help=option.help, **either
        )
    kind, metavar = (POSITIVE, "N") if option.values == "count" else (Finite(min=0), None)
    return click.option(option.flag, option.parameter, type=kind, metavar=metavar, help=option.help)


def model_of(given: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Take the family and the options of the model that are given out of the options of a command."""
    taken = {name: given.pop(name) for name in (*_OPTIONS, *_OF_FAMILIES) if name in given}
    return given.pop("family"), {name: value for name, value in taken.items() if value is not None}


def new_estimator(family: str | None, size: int | None, options: Mapping[str, Any]) -> Any:
    """Return an estimator of a family with its number of components; refuse what the family does not have."""
    family = family or DEFAULT
    check_options(family, options)
    entry = ESTIMATORS[family]
    return entry.load()(size, **_as_it_knows_them(entry, options))


def set_options(estimator: Any, options: Mapping[str, Any], path: str) -> None:
    """Give options to the model saved at `path`; refuse what it does not have."""
    entry = entry_of(estimator)
    if other := _option_of_others(entry, options):
        refuse(f"{other}, but {path} is a {entry.class_name} model")
    estimator.set_params(**_as_it_knows_them(entry, options))


def check_decided(family: str | None, options: Mapping[str, Any]) -> None:
    """Refuse options that a saved model decides."""
    form = [name for name, option in _OF_FAMILIES.items() if option.said_as]
    given = ["--family"] if family else [_flag(name) for name in (*form, *_DECIDED) if name in options]
    if given:
        refuse(f"{given[0]} does not go with --from: the saved model decides it")


def check_options(family: str, options: Mapping[str, Any]) -> None:
    """Judge the options that depend on the family."""
    entry = ESTIMATORS[family]
    if other := _option_of_others(entry, options):
        refuse(f"{other}, not for --family {family}" if "mixtures" in other else other)
    for option in entry.options:
        if option.needed and option.parameter not in options:
            refuse(f"--family {family} needs {option.flag}, {option.needed}")
    start = options.get("init_params", entry.starts[0])
    if start not in entry.starts:
        refuse(f"--init {start} is for mixtures; --family {family} has {', '.join(entry.starts)}")


def _option_of_others(entry: Entry, options: Mapping[str, Any]) -> str:
    """Say of an option that is given which other models it is for; batch is the algorithm of all models."""
    for name, value in options.items():
        option = _OF_FAMILIES.get(name)
        if option is not None and option not in entry.options:
            owners = " or ".join(family for family, other in ESTIMATORS.items() if option in other.options)
            return f"{option.flag} is for --family {owners}"
        if name in _OPTIONS and _OPTIONS[name].of_mixtures and value != "batch" and not entry.is_mixture:
            return f"{_flag(name)} {value} is for mixtures" if name == "algorithm" else f"{_flag(name)} is for mixtures"
    return ""


def _as_it_knows_them(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by the names that the estimator has for them."""
    known = {name: value for name, value in options.items() if entry.is_mixture or name != "algorithm"}
    if "init_params" in known:
        known[entry.start] = known.pop("init_params")
    return known


def _flag(name: str) -> str:
    return _OF_FAMILIES[name].flag if name in _OF_FAMILIES else _OPTIONS[name].flag
