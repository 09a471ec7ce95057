"""Opens data of any kind as rows."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from dem.data.base import Rows
from dem.data.checks import is_parquet
from dem.errors import DataError, OptionError

# By the package that data comes from: what opens it, imported only where it is needed, and which options that takes.
_OPENERS = {
    "zarr": (
        "dem.data.zarr_open:open_zarr",
        "variable",
        "feature_dim",
        "features",
        "allow_missing_chunks",
        "on_bad_chunk",
    ),
    "parquet": ("dem.data.parquet:ParquetRows", "columns", "on_bad_chunk"),
    "dask.array": ("dem.data.dask:open_dask_array", "feature_dim"),
    "dask.dataframe": ("dem.data.dataframe:open_dataframe",),
    "pandas": ("dem.data.dataframe:open_dataframe",),
    "xarray": ("dem.data.xarray:open_xarray", "feature_dim", "features"),
    "scipy.sparse": ("dem.data.sparse:open_csr",),
    "numpy": ("dem.data.numpy:open_array",),
}


#: what may be done with chunks that cannot be read
ON_BAD_CHUNK = ("raise", "skip")


class SourceOptions(TypedDict, total=False):
    """What tells how data is opened: the keyword arguments of every method that takes data; see `open_rows`."""

    variable: str | Sequence[str] | None
    feature_dim: str | int | None
    features: Mapping[str, str | None] | None
    columns: Sequence[str] | None
    allow_missing_chunks: bool
    on_bad_chunk: str


class ColumnOptions(TypedDict, total=False):
    """What may be given of each row, in forms that `open_column` takes.

    Attributes
    ----------
    labels : array of int of shape (n_rows,), or of bool of shape (n_rows, n_components)
        The component that has made each row, −1 or NaN where it is not known; or which components may have made it.
    noise_covariance : array of shape (n_rows, n_features) or (n_rows, n_features, n_features)
        The variances of the errors of each row, or their covariance.
    lower, upper : float or array of shape (n_features,) or (n_rows, n_features)
        Between what values lie that are NaN, ±inf where there is no limit.
    trials : array of shape (n_rows,) or (n_rows, n_features)
        The number of trials behind the values of each row, or behind each value.
    """

    labels: Any
    noise_covariance: Any
    lower: Any
    upper: Any
    trials: Any


class RowOptions(SourceOptions, ColumnOptions, total=False):
    """The keyword arguments of methods that learn from data, which besides take weights."""


class WeightedOptions(RowOptions, total=False):
    """The same, and the weights.

    Attributes
    ----------
    sample_weight : array of shape (n_rows,)
        How much each row counts: numbers ≥ 0, whose sum takes the place of the number of rows everywhere. A row of
        weight 2 is as good as two, one of weight 0 as good as none.
    """

    sample_weight: Any


_OF_ROWS = ("sample_weight", *ColumnOptions.__annotations__)


def parted(given: RowOptions | WeightedOptions) -> tuple[SourceOptions, dict[str, Any]]:
    """Return what tells how data is opened, and what is given of each row, but for what is None."""
    names = SourceOptions.__annotations__
    if unknown := sorted(given.keys() - WeightedOptions.__annotations__.keys()):
        message = (
            f"there is no argument {unknown[0]!r}; what is known of rows goes by {', '.join(_OF_ROWS)}, how data is "
            f"opened by {', '.join(names)}"
        )
        raise OptionError(message)
    source = {name: value for name, value in given.items() if name in names}
    columns = {name: value for name, value in given.items() if name not in names and value is not None}
    return cast("SourceOptions", source), columns


def open_rows(
    data: Any,
    *,
    variable: str | Sequence[str] | None = None,
    feature_dim: str | int | None = None,
    features: Mapping[str, str | None] | None = None,
    columns: Sequence[str] | None = None,
    allow_missing_chunks: bool = False,
    on_bad_chunk: str = "raise",
) -> Rows:
    """Open data of any kind as rows; nothing of it is read yet.

    Parameters
    ----------
    data : str, path-like, array or table
        Path or URL of a zarr array (or of a group, with `variable`) or of a parquet file or folder, a `zarr.Array`,
        a Dask array, an xarray DataArray or Dataset, a pandas or Dask DataFrame, a sparse matrix of SciPy or the group
        of one in zarr as AnnData writes it (``cells.zarr/X``), a NumPy array or what becomes one,
        a CuPy array, or `Rows`.
    variable : str or sequence of str, optional
        The array to take from a zarr group, or the arrays that are the features.
    feature_dim : str or int, optional
        The dimension whose entries are the features, of an xarray object, a zarr array or a Dask array: its name, or
        its number (also from the end).
    features : mapping of str to str or None, optional
        Of an xarray Dataset or a zarr group the variables to take, each with the dimension whose entries are features,
        such as ``{"TEMP": "depth", "PSAL": "depth"}``; None for a variable that is one feature. All their other
        dimensions are the same, and are stacked to rows.
    columns : sequence of str, optional
        The columns to take from parquet, all of them when left out.
    allow_missing_chunks : bool, optional
        Whether chunks that are not in a zarr store count as their fill value, as zarr has it. Else they are an error.
    on_bad_chunk : {'raise', 'skip'}, optional
        Whether chunks of a zarr array, or row groups of parquet, that cannot be read or decoded are an error, or their
        rows are left out.

    Returns
    -------
    Rows
        The table; its chunks are those of the source.

    Raises
    ------
    DataError
        In one line: what is wrong with the data and what to do.
    """
    if isinstance(data, Rows):
        return data
    kind = source_kind(data)
    if isinstance(data, str) and not data.strip():
        message = "the path of the data is empty; give the path or URL of a zarr array or group"
        raise DataError(message)
    opener, *taken = _OPENERS.get(kind, ("",))
    options = {
        "variable": variable,
        "feature_dim": feature_dim,
        "features": features,
        "columns": columns,
        "allow_missing_chunks": allow_missing_chunks or None,
        "on_bad_chunk": None if on_bad_chunk == "raise" else on_bad_chunk,
    }
    if on_bad_chunk not in ON_BAD_CHUNK:
        message = f"on_bad_chunk must be 'raise' or 'skip', not {on_bad_chunk!r}"
        raise OptionError(message)
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in taken:
            raise DataError(_misplaced(name, value, data, kind))
    if kind == "dask":
        message = f"a dask {type(data).__name__} has no rows and columns; make a dask.array or dask.dataframe of it"
        raise DataError(message)
    rows: Rows = pkgutil.resolve_name(opener)(os.fspath(data) if kind == "parquet" else data, **given)
    return rows


def _misplaced(option: str, value: Any, data: Any, kind: str) -> str:
    """Word that an option is not for data of this kind."""
    if option == "variable":
        return f"a variable ({value!r}) can be named for zarr groups only; select it before"
    if option == "feature_dim":
        return f"a feature dimension ({value!r}) can be named for xarray objects, zarr and Dask arrays only"
    if option == "features":
        return f"features ({value!r}) can be named for xarray Datasets and zarr groups only"
    if option == "allow_missing_chunks":
        return (
            "allow_missing_chunks is for zarr arrays that dem opens itself, which tell of missing chunks; "
            f"leave it out for {kind} data"
        )
    if option == "on_bad_chunk":
        return (
            f"on_bad_chunk={value!r} is for zarr arrays and parquet that dem opens itself; leave it out for {kind} data"
        )
    is_path = isinstance(data, str | os.PathLike)
    if is_path and Path(data).is_dir() and not any(Path(data).iterdir()):
        return f"{os.fspath(data)} is an empty folder: there is no parquet file in it"
    what = f"{os.fspath(data)} is no parquet; columns" if is_path else "columns"
    return f"{what} ({', '.join(value)}) can be named for parquet only; select them before"


def dimensions_of(data: Any, variable: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of the dimensions of data that can be told to hold the features, as far as it names any."""
    kind = source_kind(data)
    if kind == "zarr" and (variable is None or isinstance(variable, str)):
        from dem.data.zarr_open import dimension_names, open_arrays  # noqa: PLC0415

        try:
            _, arrays = open_arrays(data, variable)
        except DataError:  # opening it to read says the same
            return ()
        return dimension_names(next(iter(arrays.values()))) or ()
    return tuple(map(str, data.dims)) if kind == "xarray" and hasattr(data, "dims") else ()


def holds_variables(data: Any, names: Sequence[str]) -> bool:
    """Tell whether data is a zarr group or a Dataset that holds arrays of all these names."""
    if source_kind(data) == "xarray":
        return set(names) <= set(getattr(data, "data_vars", ()))
    if source_kind(data) != "zarr":
        return False
    from dem.data.zarr_open import open_arrays  # noqa: PLC0415

    try:
        return len(open_arrays(data, names)[1]) == len(names)
    except DataError:  # it is an array, or lacks some, which opening it to read says
        return False


def source_kind(data: object) -> str:
    """Name the package that data belongs to: the part of dask, or numpy for all others.

    A subclass counts as what it derives from.
    """
    if isinstance(data, str | os.PathLike):
        return "parquet" if is_parquet(os.fspath(data)) else "zarr"
    for ancestor in type(data).__mro__:
        module = ancestor.__module__
        package = module.split(".")[0]
        if package in ("zarr", "xarray", "pandas"):
            return package
        if module.startswith("scipy.sparse"):
            return "scipy.sparse"
        if module.startswith("dask.array"):
            return "dask.array"
        if module.startswith(("dask.dataframe", "dask_expr")):
            return "dask.dataframe"
        if package == "dask":
            return "dask"
    return "numpy"
