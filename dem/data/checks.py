"""What every source must fulfil before anything of it is read, from its path on, and how errors are worded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dem.errors import DataError

_PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zmetadata")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)(?:://|::)")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_PACKAGES |= {"http": "aiohttp", "https": "aiohttp"}
# Dimensions that hold features where the user does not say so.
USUAL_NAMES = ("feature", "features", "variable", "band", "channel")
_KINDS = {
    "c": "complex numbers; use the real and imaginary parts as two columns",
    "M": "dates; convert them to numbers",
    "m": "time differences; convert them to numbers",
    "S": "byte strings; encode them as numbers",
    "U": "strings; encode them as numbers",
    "T": "strings; encode them as numbers",
    "V": "records; give a plain array of numbers",
    "O": "Python objects; convert them with astype(float)",
}


class WordsError(DataError):
    """A column holds text, categories or other values that are no numbers, which some models take."""


def reason(error: BaseException) -> str:
    """Word an error as one short line."""
    lines = str(error).strip().splitlines()
    if lines and isinstance(error, DataError):
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def split_scheme(path: str) -> tuple[str, str | None]:
    """Return a path without ``file://``, and the scheme of any other URL.

    Raises
    ------
    DataError
        If the scheme is unknown, or its package is not installed.
    """
    match = _SCHEME.match(path)
    if match is None:
        return path, None
    if match[1].lower() == "file":
        return path[len(match[0]) :], None
    _check_package(path, match[1])
    return path, match[1].lower()


def _check_package(path: str, scheme: str) -> None:
    import fsspec  # noqa: PLC0415  (comes with the packages of URLs)

    package = _PACKAGES.get(scheme.lower())
    if package is not None and importlib.util.find_spec(package) is None:
        install = '"dask-em[s3]"' if package == "s3fs" else package
        message = f"{scheme}:// needs the package {package}, which is not installed: pip install {install}"
        raise DataError(message)
    try:
        fsspec.get_filesystem_class(scheme.lower())
    except ValueError as error:
        message = f"unknown URL scheme {scheme}:// in {path}; use a path, or s3://, gs://, abfs:// or https://"
        raise DataError(message) from error
    except ImportError as error:
        message = f"{scheme}:// needs a package that is not installed ({error})"
        raise DataError(message) from error


def is_parquet(path: str) -> bool:
    """Tell from names, and the first bytes of a file, whether a path or URL is a parquet file or a folder of them."""
    here = Path(path.removeprefix("file://"))
    if any((here / name).exists() for name in _ZARR_FILES):
        return False
    if path.rstrip("/").lower().endswith(_PARQUET_SUFFIXES):
        return True
    if here.is_file():
        with here.open("rb") as file:
            return file.read(4) == b"PAR1"
    return here.is_dir() and any(found for suffix in _PARQUET_SUFFIXES for found in here.rglob(f"*{suffix}"))


def plain_dtype(dtype: Any) -> Any:
    """Return the NumPy type behind a nullable or sparse type of pandas; others as they are."""
    dtype = getattr(dtype, "numpy_dtype", dtype)
    return dtype.subtype if hasattr(dtype, "fill_value") else dtype  # intervals have a subtype too


def check_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    """Return the dtype if dem reads it: bool, integers, float16, float32, float64 in either byte order.

    Raises
    ------
    DataError
        Saying what the data holds instead; a `WordsError` if that may be text or categories.
    """
    if not isinstance(dtype, np.dtype):  # pandas has dtypes of its own
        message = f"{name} holds values of type {dtype}; dem needs numbers: encode them"
        raise WordsError(message)
    if dtype.kind in "UTO":
        message = f"{name} holds {_KINDS[dtype.kind]}"
        raise WordsError(message)
    if dtype.kind not in "biuf":
        message = f"{name} holds {_KINDS.get(dtype.kind, f'values of dtype {dtype}; dem needs numbers')}"
        raise DataError(message)
    if dtype.itemsize > 8:
        message = f"{name} holds values of dtype {dtype}; convert them to float64"
        raise DataError(message)
    return dtype


def check_table(
    name: str, shape: Sequence[int], dtype: Any, reshape: str = "x.reshape(-1, 1)"
) -> tuple[int, int, np.dtype[Any]]:
    """Return rows, columns and dtype of a table of numbers that is not empty.

    Parameters
    ----------
    name : str
        What messages call the data.
    shape : sequence of int
        Its shape.
    dtype : dtype
        Its dtype.
    reshape : str, optional
        How to make one column of 1-D data of this kind.

    Raises
    ------
    DataError
        Saying what is wrong and what to do.
    """
    if len(shape) != 2:
        if len(shape) == 1:
            advice = f"make a single feature a column with {reshape}"
        elif len(shape) > 2:
            advice = (
                "reshape it to 2-D with the features last, or open it with xarray and name the dimension of the "
                "features (feature_dim)"
            )
        else:
            advice = "give an array of numbers, the path of a zarr array, or a Dask, xarray or pandas object"
        message = (
            f"{name} has {len(shape)} dimension{'' if len(shape) == 1 else 's'} (shape {tuple(shape)}), "
            f"but rows × features are needed; {advice}"
        )
        raise DataError(message)
    n_rows, n_features = int(shape[0]), int(shape[1])
    checked = check_dtype(name, dtype)
    if n_rows == 0 or n_features == 0:
        message = f"{name} is empty: {n_rows} rows × {n_features} features"
        raise DataError(message)
    return n_rows, n_features, checked


def feature_axis(name: str, ndim: int, dims: Sequence[Hashable] | None, feature_dim: Hashable | None) -> int:
    """Return the axis that holds the features of data that messages call `name`.

    The user tells its name, which goes first, or its number (also from the end). Raises `DataError` if there is no such
    dimension among `dims`, or none is given and it is not clear.
    """
    listed = ", ".join(map(str, range(ndim) if dims is None else dims)) or "none"
    if feature_dim is not None:
        if isinstance(feature_dim, bool | np.bool_):
            message = f"feature_dim must be the name or number of a dimension of {name} ({listed}), not {feature_dim!r}"
            raise DataError(message)
        for axis, dim in enumerate(dims or ()):
            if feature_dim in (dim, str(dim)):
                return axis
        number = _whole_number(feature_dim)
        if number is None or not -ndim <= number < ndim:
            message = f"{name} has no dimension {feature_dim!r}; its dimensions are: {listed}"
            raise DataError(message)
        return number % ndim
    usual = [axis for axis, dim in enumerate(dims or ()) if dim in USUAL_NAMES]
    if len(usual) == 1:
        return usual[0]
    if ndim == 2 and not usual:
        return 1
    message = f"which dimension of {name} holds the features? Pass feature_dim= (--feature-dim) with one of: {listed}"
    raise DataError(message)


def _whole_number(value: Any) -> int | None:
    try:
        return int(value) if isinstance(value, str | int) else None
    except ValueError:
        return None


def rows_text(start: int, stop: int) -> str:
    """Word a half-open range of rows."""
    return f"row {start}" if stop == start + 1 else f"rows {start} to {stop - 1}"


def frame_name(frame: Any) -> str:
    """Return what messages call a DataFrame, for instance ``'pandas DataFrame'``."""
    return f"{type(frame).__module__.split('.')[0]} {type(frame).__name__}"


def frame_columns(frame: Any) -> tuple[str, ...] | None:
    """Return the names of a DataFrame's columns if all of them are strings."""
    columns = tuple(frame.columns)
    return columns if columns and all(isinstance(column, str) for column in columns) else None
