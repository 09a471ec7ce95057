"""Options that several commands share, and the judgement of paths before anything is read."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from dem.errors import StoreError
from dem.estimators.registry import MISSING, entry_of

if TYPE_CHECKING:
    from dem.data.sources import SourceOptions, WeightedOptions

F = TypeVar("F", bound=Callable[..., Any])

_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zmetadata")


def count(value: str | int) -> int:
    """Return a positive whole number, also written as 1e9 or 1_000_000."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal(0)
    if not number.is_finite() or not 1 <= number < 2**63 or number != int(number):
        message = f"{value!r} is not a positive whole number (such as 1000 or 1e9)"
        raise click.BadParameter(message)
    return int(number)


def text(value: str) -> str:
    """Return a text that is not empty, such as a path: an empty one comes from a shell variable that is not set."""
    if not str(value).strip():
        message = "it is empty; is a variable of the shell not set?"
        raise click.BadParameter(message)
    return str(value)


def names_of(valid: Sequence[str] = ()) -> Callable[[str], list[str]]:
    """Return what takes names with commas between them, from a list if one is given."""

    def names(value: str) -> list[str]:
        found = [name.strip() for name in str(value).split(",")]
        for name in found:
            if valid and name not in valid:
                message = f"{name!r} is not one of {', '.join(valid)}"
                raise click.BadParameter(message)
        if not all(found):
            message = f"{value!r} holds an empty name; write names with commas between them, such as u,g,r"
            raise click.BadParameter(message)
        return found

    return names


class Finite(click.FloatRange):
    """A number in a range; neither infinite nor NaN."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number or fail with what was given."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number


#: a path or a name
TEXT = click.types.FuncParamType(text)
POSITIVE = click.IntRange(min=1)
#: what NumPy takes as a seed
SEED = click.IntRange(0, 2**32 - 1)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return several options as one decorator, in the order of ``--help``."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


engine_options = together(
    click.option("--scheduler", type=TEXT, metavar="ADDRESS", help="Run on the Dask cluster with this scheduler."),
    click.option(
        "--workers",
        type=POSITIVE,
        metavar="N",
        help="Start a cluster of N processes on this machine.  [default: threads of this process]",
    ),
    click.option("--memory-limit", type=TEXT, metavar="SIZE", help="Memory of each started process, such as 2GB."),
    click.option(
        "--worker-timeout",
        type=TEXT,
        metavar="TIME",
        help="Give up when no worker is alive for so long, such as 90s or 1h.  [default: 5m]",
    ),
    click.option(
        "--security",
        type=TEXT,
        metavar="DIR",
        help="Encrypt with the certificates of a folder (deploy/hosts/tls.sh makes one); 'temporary' makes some.",
    ),
)
#: how DATA is opened; `source_of` takes them
source_options = together(
    click.option(
        "--variable",
        type=TEXT,
        metavar="NAME",
        multiple=True,
        help="The array to take if DATA is a group; given several times, each is a feature.",
    ),
    click.option(
        "--feature-dim",
        type=TEXT,
        metavar="NAME|INDEX",
        help="The dimension whose entries are the features, of one variable or of each of several.",
    ),
    click.option("--columns", type=names_of(), metavar="NAMES", help="Columns of parquet, such as u,g,r."),
    click.option(
        "--allow-missing-chunks", is_flag=True, help="Take chunks that are not in the store as their fill value."
    ),
    click.option(
        "--on-bad-chunk",
        type=click.Choice(("raise", "skip")),
        default="raise",
        show_default=True,
        help="Chunks that cannot be read: an error, or leave their rows out and tell.",
    ),
)


def name_or_names(value: str) -> str | list[str]:
    """Read a name or path, or several names with commas between."""
    if "," not in text(value) or "://" in value or Path(value).exists():
        return value
    return names_of()(value)


def numbers_or_names(value: str) -> float | list[float] | str | list[str]:
    """Read a number, several with commas between, or else names."""
    try:
        numbers = [float(part) for part in text(value).split(",")]
    except ValueError:
        return name_or_names(value)
    return numbers if len(numbers) > 1 else numbers[0]


NAMES = click.types.FuncParamType(name_or_names)
LIMIT = click.types.FuncParamType(numbers_or_names)
#: what is known of the values of each row of DATA, of rows to fit and to judge; `rows_of` takes them
measured_options = together(
    click.option(
        "--errors",
        type=NAMES,
        metavar="VARIABLE|NAMES",
        help="Variances of the errors of rows, or their covariances (full, tied): a variable of DATA, a path, or "
        "one for each feature (var_u,var_g).",
    ),
    click.option(
        "--lower",
        type=LIMIT,
        metavar="NUMBER|NAMES",
        help="Above what a missing value lies: a number, one for each feature (0.1,-inf), a variable, a path, or "
        "names, one for each feature.",
    ),
    click.option("--upper", type=LIMIT, metavar="NUMBER|NAMES", help="Below what it lies, as a detection limit."),
)
#: of models that are there; `dem fit` and others have it among the options of a model
trials_option = click.option(
    "--trials",
    type=NAMES,
    metavar="VARIABLE|NAMES",
    help="Numbers of trials of each row (binomial): a variable of DATA, a path, or names, one for each feature.",
)
labels_option = click.option(
    "--labels",
    type=TEXT,
    metavar="VARIABLE",
    help="Components known of rows, -1 where not (mixtures): a variable of DATA, or a path.",
)
#: what is known of each row of DATA; `rows_of` takes them
column_options = together(
    click.option(
        "--weights", type=TEXT, metavar="VARIABLE", help="How much each row counts: a variable of DATA, or a path."
    ),
    labels_option,
    measured_options,
)
#: where a fit goes on from; `checkpoint_of` takes them
checkpoint_options = together(
    click.option(
        "--checkpoint",
        type=TEXT,
        metavar="PATH",
        help="Keep here how far the fit is; the same command goes on from there, to the same numbers.",
    ),
    click.option(
        "--checkpoint-every",
        type=TEXT,
        metavar="N|TIME",
        help="How often: passes over the data, or a time such as 5min.  [default: as often as costs little]",
    ),
)
MISSING_HELP = "Missing values (NaN): leave such rows out, or use what is observed of each (mixtures)"
missing_option = click.option(
    "--missing", type=click.Choice(MISSING), help=f"{MISSING_HELP}.  [default: as in the fit]"
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
output_options = together(json_option, click.option("--quiet", is_flag=True, help="Say nothing but errors."))


def source_of(given: dict[str, Any]) -> SourceOptions:
    """Take what `source_options` has added out of the options of a command: keyword arguments of `open_rows`."""
    variable, feature_dim = given.pop("variable"), given.pop("feature_dim")
    if len(variable) > 1 and feature_dim is not None:
        features, variable, feature_dim = dict.fromkeys(variable, feature_dim), (), None
    else:
        features = None
    return {
        "variable": variable[0] if len(variable) == 1 else list(variable) or None,
        "feature_dim": feature_dim,
        "features": features,
        "columns": given.pop("columns"),
        "allow_missing_chunks": given.pop("allow_missing_chunks"),
        "on_bad_chunk": given.pop("on_bad_chunk"),
    }


# Names in Python of options whose parameters have other names.
_PYTHON = {"weights": "sample_weight", "errors": "noise_covariance", "components": "n_components"}
# Options of models that may name what goes with the rows instead, and what that is called there.
_OF_ROWS = {"n_trials": "trials"}
# What follows an option that a message begins with.
_SAID_OF_IT = r"(?=:| \(| (?:is|has|holds|lacks|goes|do|does|must|cannot|names)\b)"


def rows_of(given: dict[str, Any]) -> WeightedOptions:
    """Take what `source_options`, `column_options` and `measured_options` have added, as keyword arguments of `fit`."""
    names = ("weights", "labels", "errors", "lower", "upper", "trials")
    columns = {_PYTHON.get(name, name): given.pop(name, None) for name in names}
    columns |= {name: given[option] for option, name in _OF_ROWS.items() if is_of_rows(option, given.get(option))}
    known = {name: value for name, value in columns.items() if value is not None}
    return cast("WeightedOptions", {**source_of(given), **known})


def is_of_rows(option: str, value: Any) -> bool:
    """Tell whether an option of a model names what goes with the rows."""
    return option in _OF_ROWS and isinstance(value, str | list)


def checkpoint_of(given: dict[str, Any]) -> dict[str, Any]:
    """Take what `checkpoint_options` has added out of the options of a command: keyword arguments of `fit`."""
    found = {name: given.pop(name) for name in ("checkpoint", "checkpoint_every")}
    if found["checkpoint_every"] is not None and found["checkpoint"] is None:
        refuse("--checkpoint-every goes with --checkpoint, where the fit keeps how far it is")
    return found


def engine_of(given: dict[str, Any]) -> dict[str, Any]:
    """Take what `engine_options` has added out of the options of a command: keyword arguments of `open_engine`."""
    return {name: given.pop(name) for name in ("scheduler", "workers", "memory_limit", "worker_timeout", "security")}


def in_the_shell(message: str, root: Any = None) -> str:
    """Return a message that Python users could be given in the words of the shell: options by their flags.

    `root` is the group of all commands, by default that of the command which runs.

    Examples
    --------
    >>> from dem.cli.main import dem
    >>> in_the_shell("sample_weight is -1.0 in row 3; see missing='skip'", dem)
    '--weights is -1.0 in row 3; see --missing skip'
    >>> in_the_shell("a part takes options as --column a=binomial:n_trials=10", dem)
    'a part takes options as --column a=binomial:n_trials=10'
    """
    context = click.get_current_context(silent=True)
    root = root or (context and context.find_root().command)
    flags = {
        _PYTHON.get(str(option.name), str(option.name)): max(option.opts, key=len)
        for command in getattr(root, "commands", {}).values()
        for option in command.params
        if isinstance(option, click.Option)
    }
    for name, flag in flags.items():
        if re.search(rf"{flag}\b", message):  # it says both
            continue
        value = re.compile(rf"(?<![-:\w]){name}=('[^']*'|\"[^\"]*\"|[^\s,;:()]*)")
        while found := value.search(message):
            given = found[1].strip("'\"")
            told = flag if given in ("", "True") else f"{flag} {given}"
            message = message[: found.start()] + told + message[found.end() :]
        distinct = name in ("sample_weight", "noise_covariance", "top_components")
        message = re.sub(rf"(?<![-\w]){name}\b" if distinct else rf"^{name}\b{_SAID_OF_IT}", flag, message)
    return message


def refuse(message: str) -> NoReturn:
    """Raise `click.UsageError`: the command is used in the wrong way."""
    raise click.UsageError(message, click.get_current_context(silent=True))


def load_model(path: str) -> Any:
    """Return the model saved at a path; refuse what was adapted to several groups, which is many."""
    import dem  # noqa: PLC0415

    estimator = dem.load(path)
    if isinstance(estimator, dem.AdaptedMixtures):
        one = f"dem.load({path!r})[{estimator.groups.tolist()[0]!r}].save(…)"
        refuse(f"{path} holds the mixtures of {len(estimator)} groups; in Python {one} makes a model of one")
    return estimator


def check_mixture(what: str, estimator: Any, path: str) -> None:
    """Refuse what only mixtures can do if the model saved at `path` is none."""
    entry = entry_of(estimator)
    if not entry.is_mixture:
        refuse(f"{what} is for mixtures, but {path} is a {entry.class_name} model")


def set_missing(estimator: Any, missing: str | None) -> None:
    """Give an estimator what `missing_option` was given, if that was anything."""
    if missing is not None:
        estimator.set_params(missing=missing)._check_options()  # noqa: SLF001


def check_checkpoint(checkpoint: str | None, others: Iterable[str | None]) -> None:
    """Refuse a checkpoint that would lie in what is read or written, or have that in it (`StoreError`)."""
    from dem.data.atomic import is_url  # noqa: PLC0415

    if checkpoint is None or is_url(checkpoint):
        return
    place = local_path(checkpoint)
    for other in others:
        if other is None or is_url(other):
            continue
        if place.is_relative_to(local_path(other)) or local_path(other).is_relative_to(place):
            message = (
                f"the checkpoint {checkpoint} and {other} would lie in one another; give --checkpoint a path of its own"
            )
            raise StoreError(message)


def check_output(output: str, overwrite: bool, inputs: tuple[str, ...] = ()) -> None:
    """Make sure that a store can be written to a path or URL, before anything is read; spare what is read, `inputs`.

    Raises
    ------
    StoreError
        If it exists, would destroy what is read, is not a zarr store, or its folder cannot be written.
    """
    from dem.data.atomic import check_destination, is_url  # noqa: PLC0415

    if is_url(output):
        check_destination(output, overwrite=overwrite)
        return
    target = local_path(output)
    for fault in _faults(output, target, overwrite, [given for given in inputs if not is_url(given)]):
        raise StoreError(fault)
    check_destination(output, overwrite=overwrite)
    _try_to_write(target, output)


def _faults(output: str, target: Path, overwrite: bool, inputs: Sequence[str]) -> Iterator[str]:
    for given in inputs:
        if local_path(given).is_relative_to(target):
            yield f"writing to {output} would destroy {given}, which is read; choose another output path"
    if target.exists() and not overwrite:
        yield f"{output} exists already; choose another path or give --overwrite"
    if target.exists() and not any((target / name).exists() for name in _ZARR_FILES):
        yield f"{output} exists and is no zarr store, so --overwrite does not replace it; remove it first"
    for folder in filter(_is_array, target.parents):
        yield f"{output} lies inside the zarr array {folder}; choose another output path"


def _is_array(folder: Path) -> bool:
    """Tell whether a folder is a zarr array, of either format."""
    metadata = folder / "zarr.json"
    return (folder / ".zarray").exists() or (
        metadata.is_file() and re.search(r'"node_type"\s*:\s*"array"', metadata.read_text()) is not None
    )


def local_path(path: str) -> Path:
    """Return the absolute path of a local file or store."""
    return Path(path.removeprefix("file://")).resolve()


def _try_to_write(target: Path, output: str) -> None:
    """Write to the folder: permission bits tell nothing to root and little about network file systems."""
    folder = next(parent for parent in target.parents if parent.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".dem-", dir=folder):
            pass
    except OSError as error:
        message = f"cannot write {output}: {error.strerror or error} in the folder {folder}"
        raise StoreError(message) from error
