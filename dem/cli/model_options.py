"""The options of a model, which `dem fit`, `dem select` and `dem plan` share, by the names of the estimators."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from dem.cli.options import (
    MISSING_HELP,
    POSITIVE,
    SEED,
    F,
    Finite,
    count,
    is_of_rows,
    name_or_names,
    names_of,
    refuse,
    together,
)
from dem.estimators.registry import (
    ALGORITHMS,
    DEFAULT,
    ESTIMATORS,
    MISSING,
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


_STARTS = list(dict.fromkeys(start for entry in ESTIMATORS.values() if entry.is_mixture for start in entry.starts))
_OPTIONS = {
    "init_params": _Option("--init", click.Choice(_STARTS), "How the start is found", None, "kmeans", "k-means||"),
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
    "weight_concentration": _Option(
        "--weight-concentration",
        Finite(min=1),
        "As if each component had ALPHA - 1 rows more in the weights: their Dirichlet prior",
        "ALPHA",
        "1",
        of_mixtures=True,
    ),
    "top_components": _Option(
        "--top-components", POSITIVE, "Components computed per row", "C", "all", of_mixtures=True
    ),
}


def _column(value: str) -> str | int:
    """Read the name of a column, or its number."""
    return int(value) if re.fullmatch(r"-?\d+", value.strip()) else value.strip()


def _listed(value: str) -> list[str | int]:
    """Read several columns, with commas between them."""
    return list(map(_column, value.split(",")))


_COLUMN = click.types.FuncParamType(_column)
_COLUMNS = click.types.FuncParamType(_listed)


def _yes_or_number(value: str | float) -> bool | float:
    """Read a number above 0, or ``yes``, which stands for an option without a value."""
    return value == "yes" or Finite(min=0.0, min_open=True).convert(value, None, None)


_YES_OR_NUMBER = click.types.FuncParamType(_yes_or_number)


def _counts(value: Any) -> int | tuple[int, ...] | str | list[str]:
    """Read a whole number of at least 1, or several with commas between them, or else names."""
    parts: list[Any] = [part.strip() for part in str(value).strip("()").split(",")]
    if not any(re.fullmatch(r"[-+]?[.\d]+", part) for part in parts):
        return name_or_names(str(value))
    numbers = tuple(int(POSITIVE.convert(part, None, None)) for part in parts)
    return numbers[0] if len(numbers) == 1 else numbers


_COUNTS = click.types.FuncParamType(_counts)
_OF_FAMILIES: dict[str, ShellOption] = {}
for _option in (option for entry in ESTIMATORS.values() for option in entry.options):
    _OF_FAMILIES.setdefault(_option.parameter, _option)  # Gaussians come first, and have most shapes of covariances
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
    if option.values == "off":
        off: dict[str, Any] = {"is_flag": True, "flag_value": False, "type": bool}
        return click.option(option.flag, option.parameter, default=None, help=option.help, **off)
    if option.values in ("column", "list"):
        column: Any = _COLUMN if option.values == "column" else _COLUMNS
        word = "COLUMN" if option.values == "column" else "COLUMNS"
        return click.option(option.flag, option.parameter, type=column, metavar=word, help=option.help)
    if several and option.values == "count":
        return click.option(option.flag, option.parameter, type=_COUNTS, metavar="N[,N…]", help=option.help)
    if option.values == "counts or names":
        return click.option(option.flag, option.parameter, type=_COUNTS, metavar="N[,N…]|NAMES", help=option.help)
    if option.values == "flag or number":
        either: dict[str, Any] = {"is_flag": False, "flag_value": "yes", "metavar": "[VOLUME]"}
        return click.option(
            option.flag, option.parameter, type=_YES_OR_NUMBER, default=None, help=option.help, **either
        )
    if option.values == "columns":
        many: dict[str, Any] = {"multiple": True, "metavar": "NAMES=FAMILY", "callback": _columns}
        return click.option(option.flag, option.parameter, help=option.help, **many)
    number = Finite(min=0, min_open=option.values == "above 0")
    kind, metavar = (POSITIVE, "N") if option.values == "count" else (number, None)
    return click.option(option.flag, option.parameter, type=kind, metavar=metavar, help=option.help)


def _columns(_: Any, option: Any, values: Sequence[str]) -> dict[str, Any] | None:
    """Read ``a,b=gaussian:covariance_type=diag`` as the columns of a family and its options; None for nothing."""
    found: dict[str, Any] = {}
    for value in values:
        head, *options = value.split(":")
        names, _, name = head.rpartition("=")
        given = dict(one.partition("=")[::2] for one in options)
        if not names or not name or names in found or not all(given.values()):
            message = f"{value!r} is not NAMES=FAMILY or NAMES=FAMILY:OPTION=VALUE, each column once"
            raise click.BadParameter(message, param=option)
        found[names] = (name, {key: _plain(text) for key, text in given.items()}) if given else name
    return found or None


def _plain(text: str) -> str | int | float:
    """Return a number as such."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def model_of(given: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Take the family and the options of the model that are given out of the options of a command."""
    taken = {name: given.pop(name) for name in (*_OPTIONS, *_OF_FAMILIES) if name in given}
    return given.pop("family"), {name: value for name, value in taken.items() if value is not None}


def new_estimator(family: str | None, size: int | None, options: Mapping[str, Any]) -> Any:
    """Return an estimator of a family with its number of components; refuse what the family does not have."""
    family = family or DEFAULT
    entry = ESTIMATORS[family]
    return entry.load()(**{entry.size: size}, **options_of(family, options))


def options_of(family: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by the names that estimators of a family have for them; refuse what the family does not have."""
    check_options(family, options)
    return _as_it_knows_them(ESTIMATORS[family], options)


def set_options(estimator: Any, options: Mapping[str, Any], path: str) -> None:
    """Give options to the model saved at `path`; refuse what it does not have."""
    entry = entry_of(estimator)
    if other := _option_of_others(entry, options):
        refuse(f"{other}, but {path} is a {entry.class_name} model")
    estimator.set_params(**_as_it_knows_them(entry, options))


def check_decided(family: str | None, options: Mapping[str, Any]) -> None:
    """Refuse options that a saved model decides."""
    form = [name for name, option in _OF_FAMILIES.items() if option.said_as]
    options = {name: value for name, value in options.items() if not is_of_rows(name, value)}
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
        others = "other mixtures" if entry.is_mixture else "mixtures"
        refuse(f"--init {start} is for {others}; --family {family} has {', '.join(entry.starts)}")


def _option_of_others(entry: Entry, options: Mapping[str, Any]) -> str:
    """Say of an option that is given which other models it is for; batch is the algorithm of all models."""
    for name, value in options.items():
        if name in _OF_FAMILIES and not _offers(entry, name, value):
            owners = [family for family, other in ESTIMATORS.items() if _offers(other, name, value)]
            of_others = not any(option.parameter == name for option in entry.options)
            said = "" if of_others else f" {value if isinstance(value, str) else ','.join(value)}"
            return f"{_OF_FAMILIES[name].flag}{said} is for --family {' or '.join(owners)}"
        if name in _OPTIONS and _OPTIONS[name].of_mixtures and value != "batch" and not entry.is_mixture:
            return f"{_flag(name)} {value} is for mixtures" if name == "algorithm" else f"{_flag(name)} is for mixtures"
    return ""


def _offers(entry: Entry, name: str, value: Any) -> bool:
    """Tell whether a model has an option, and if it has one of several names, these."""
    of_model = {option.parameter: option.values for option in entry.options}
    if name not in of_model:
        return False
    names = of_model[name]
    return not isinstance(names, tuple) or {*([value] if isinstance(value, str) else value)} <= {*names}


def _as_it_knows_them(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by the names that the estimator has for them."""
    known = {name: value for name, value in options.items() if entry.is_mixture or name != "algorithm"}
    known = {name: value for name, value in known.items() if not is_of_rows(name, value)}
    if "init_params" in known:
        known[entry.start] = known.pop("init_params")
    return known


def _flag(name: str) -> str:
    return _OF_FAMILIES[name].flag if name in _OF_FAMILIES else _OPTIONS[name].flag
