"""Options that several commands share, and the judgement of paths before anything is read."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from dem.errors import StoreError
from dem.estimators.registry import entry_of

if TYPE_CHECKING:
    from dem.data.sources import SourceOptions

F = TypeVar("F", bound=Callable[..., Any])

_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zmetadata")


class Count(click.ParamType[int]):
    """A positive whole number, also written as 1e9 or 1_000_000."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number or fail with what was given."""
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            number = Decimal(0)
        if not number.is_finite() or not 1 <= number < 2**63 or number != int(number):
            self.fail(f"{value!r} is not a positive whole number (such as 1000 or 1e9)", param, ctx)
        return int(number)


class NotEmpty(click.ParamType[str]):
    """A text that is not empty, such as a path: an empty one comes from a shell variable that is not set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text or fail."""
        if not str(value).strip():
            self.fail("it is empty; is a variable of the shell not set?", param, ctx)
        return str(value)


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
TEXT = NotEmpty()
#: what NumPy takes as a seed
SEED = click.IntRange(0, 2**32 - 1)


def engine_options(function: F) -> F:
    """Add ``--scheduler``, ``--workers``, ``--memory-limit`` and ``--worker-timeout``."""
    for option in reversed(
        (
            click.option(
                "--scheduler", type=TEXT, metavar="ADDRESS", help="Run on the Dask cluster with this scheduler."
            ),
            click.option(
                "--workers",
                type=click.IntRange(min=1),
                metavar="N",
                help="Start a cluster of N processes on this machine.  [default: threads of this process]",
            ),
            click.option(
                "--memory-limit", type=TEXT, metavar="SIZE", help="Memory of each started process, such as 2GB."
            ),
            click.option(
                "--worker-timeout",
                type=TEXT,
                metavar="TIME",
                help="Give up when no worker is alive for so long, such as 90s or 1h.  [default: 5m]",
            ),
        )
    ):
        function = option(function)
    return function


def variable_option(function: F) -> F:
    """Add ``--variable``."""
    return click.option("--variable", type=TEXT, metavar="NAME", help="The array to take if DATA is a group.")(function)


class Names(click.ParamType[list[str]]):
    """Names with commas between them, from a list if one is given."""

    name = "names"

    def __init__(self, valid: Sequence[str] = ()) -> None:
        self.valid = valid

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the names in the order given."""
        names = [name.strip() for name in str(value).split(",")]
        for name in names:
            if self.valid and name not in self.valid:
                self.fail(f"{name!r} is not one of {', '.join(self.valid)}", param, ctx)
        if not all(names):
            self.fail(f"{value!r} holds an empty name; write names with commas between them, such as u,g,r", param, ctx)
        return names


def source_options(function: F) -> F:
    """Add the options that say how DATA is opened; `source_of` takes them."""
    for option in (
        click.option(
            "--allow-missing-chunks", is_flag=True, help="Take chunks that are not in the store as their fill value."
        ),
        click.option("--columns", type=Names(), metavar="NAMES", help="Columns of parquet, such as u,g,r."),
        click.option(
            "--feature-dim",
            type=TEXT,
            metavar="NAME|INDEX",
            help="The dimension of a zarr array that is the features.",
        ),
        click.option(
            "--variable",
            type=TEXT,
            metavar="NAME",
            multiple=True,
            help="The array to take if DATA is a group; given several times, each is a feature.",
        ),
    ):
        function = option(function)
    return function


def source_of(given: dict[str, Any]) -> SourceOptions:
    """Take what `source_options` has added out of the options of a command: keyword arguments of `open_rows`."""
    variable = given.pop("variable")
    return {
        "variable": variable[0] if len(variable) == 1 else list(variable) or None,
        "feature_dim": given.pop("feature_dim"),
        "columns": given.pop("columns"),
        "allow_missing_chunks": given.pop("allow_missing_chunks"),
    }


def engine_of(given: dict[str, Any]) -> dict[str, Any]:
    """Take what `engine_options` has added out of the options of a command: keyword arguments of `open_engine`."""
    return {name: given.pop(name) for name in ("scheduler", "workers", "memory_limit", "worker_timeout")}


def overwrite_option(function: F) -> F:
    """Add ``--overwrite``."""
    return click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")(function)


def output_options(function: F) -> F:
    """Add ``--json`` and ``--quiet``."""
    function = click.option("--quiet", is_flag=True, help="Say nothing but errors.")(function)
    return click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")(function)


def refuse(message: str) -> NoReturn:
    """Raise `click.UsageError`: the command is used in the wrong way."""
    raise click.UsageError(message, click.get_current_context(silent=True))


def check_mixture(what: str, estimator: Any, path: str) -> None:
    """Refuse what only mixtures can do if the model saved at `path` is none."""
    entry = entry_of(estimator)
    if not entry.is_mixture:
        refuse(f"{what} is for mixtures, but {path} is a {entry.class_name} model")


def check_output(output: str, overwrite: bool, inputs: tuple[str, ...] = ()) -> None:
    """Make sure that a store can be written to `output`, before anything is read.

    Parameters
    ----------
    output : str
        Path or URL of the store to be written.
    overwrite : bool
        Whether a store that is there may be replaced.
    inputs : tuple of str
        Paths that are read from, which must survive.

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
    for given in inputs:
        if not is_url(given) and local_path(given).is_relative_to(target):
            message = f"writing to {output} would destroy {given}, which is read; choose another output path"
            raise StoreError(message)
    if target.exists():
        if not overwrite:
            message = f"{output} exists already; choose another path or give --overwrite"
            raise StoreError(message)
        if not any((target / name).exists() for name in _ZARR_FILES):
            message = f"{output} exists and is no zarr store, so --overwrite does not replace it; remove it first"
            raise StoreError(message)
    for folder in target.parents:
        if _is_array(folder):
            message = f"{output} lies inside the zarr array {folder}; choose another output path"
            raise StoreError(message)
    check_destination(output, overwrite=overwrite)
    _try_to_write(target, output)


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
