"""From what users pass as X to rows, with scikit-learn's checks of features and their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Unpack

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import validate_data

from dem.data import map_rows, open_rows
from dem.data.base import Rows
from dem.data.checks import check_dtype, frame_columns, frame_name
from dem.data.numpy import ArrayRows
from dem.data.sources import SourceOptions
from dem.em.functions import RowFunction
from dem.errors import DataError, OptionError

# Kinds of data that are read chunk by chunk; everything else is in memory and goes through scikit-learn's checks.
_LAZY_MODULES = ("dask", "xarray", "zarr")


def in_memory(data: object) -> bool:
    """Tell whether `data` is an array, list or pandas object in memory."""
    if isinstance(data, Rows | str) or hasattr(data, "__fspath__"):
        return False
    # A subclass counts as what it derives from.
    return not any(kind.__module__.split(".")[0] in _LAZY_MODULES for kind in type(data).__mro__)


def checked(estimator: BaseEstimator, data: Any, *, reset: bool, minimum: int | None = None) -> Any:
    """Pass in-memory data through scikit-learn's checks; return other kinds as they are.

    Finiteness is not checked here: that would read all the data once more.
    """
    if not in_memory(data):
        return data
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        open_rows(data)  # raises: scikit-learn would fit the masked values too
    minimum = minimum or (2 if reset else 1)
    try:
        return validate_data(
            estimator, data, dtype="numeric", ensure_all_finite=False, ensure_min_samples=minimum, reset=reset
        )
    except TypeError as error:
        raise NotATableError(_about(data, error)) from error
    except ValueError as error:
        raise DataError(_about(data, error)) from error


def _about(data: Any, error: Exception) -> str:
    """Return scikit-learn's message; of a DataFrame, which it calls an array or nothing at all, with its column."""
    message = one_line(error)
    if not _is_frame(data):
        return message
    for column, values in data.items() if hasattr(data, "items") else ():
        where = f"column {column!r} of {frame_name(data)}"
        try:
            np.asarray(values, dtype=np.float64)
            if values.dtype != object:
                check_dtype(where, getattr(values.dtype, "numpy_dtype", values.dtype))
        except DataError as cause:
            return str(cause)
        except (TypeError, ValueError) as cause:
            return f"{where} holds values that are no numbers ({one_line(cause)})"
    return message.replace("Found array", f"Found {frame_name(data)}")


def _is_frame(data: Any) -> bool:
    """Tell whether data in memory is a DataFrame, of pandas or of others."""
    return hasattr(data, "columns") and len(getattr(data, "shape", ())) == 2


class NotATableError(DataError, TypeError):
    """The data is of a kind that has no rows, or is sparse; a TypeError too, as scikit-learn raises."""


def one_line(error: Exception) -> str:
    """Return scikit-learn's message without the array that it prints in the middle."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not re.match(r"(\[|array|\.\.\.|-?[\d.])", line))


def sorted_choices(message: str) -> str:
    """Return scikit-learn's message about an option with the choices, a set, in a fixed order.

    Examples
    --------
    >>> sorted_choices("must be a str among {'full', 'diag'} or None. Got 'round' instead.")
    "must be a str among {'diag', 'full'} or None. Got 'round' instead."
    """
    return re.sub(r"\{('[^{}]*')\}", lambda found: f"{{{', '.join(sorted(found[1].split(', ')))}}}", message)


def check_options(estimator: Any) -> None:
    """Have scikit-learn judge the options of an estimator, and see that its callbacks can be called.

    Raises
    ------
    OptionError
        If an option has an unknown or impossible value.
    """
    try:
        estimator._validate_params()
    except InvalidParameterError as error:
        raise OptionError(sorted_choices(str(error))) from error
    if not all(callable(callback) for callback in estimator.callbacks or ()):
        message = "callbacks must be callables that take an event"
        raise OptionError(message)


@contextmanager
def features_kept_on_failure(estimator: Any) -> Iterator[None]:
    """Give an estimator its features back if fitting it fails: what was fitted before still works."""
    names = ("n_features_in_", "feature_names_in_")
    before = {name: getattr(estimator, name) for name in names if hasattr(estimator, name)}
    fitted = f"{estimator._centres}_"
    centres = getattr(estimator, fitted, None)
    try:
        yield
    except BaseException:
        if getattr(estimator, fitted, None) is centres:  # an interrupted fit may have left new ones
            for name in names:
                vars(estimator).pop(name, None)
            vars(estimator).update(before)
        raise


def rows_of(
    estimator: BaseEstimator,
    data: Any,
    *,
    reset: bool,
    minimum: int | None = None,
    **source: Unpack[SourceOptions],
) -> Rows:
    """Open data of any kind and compare its features with the estimator's (or note them, with `reset`).

    There must be `minimum` rows; if it is left out, two with `reset`, as in scikit-learn, else one.

    Raises
    ------
    DataError
        If the data cannot be opened, is empty, or has other features than the model.
    """
    minimum = minimum or (2 if reset else 1)
    table = checked(estimator, data, reset=reset, minimum=minimum)
    rows = open_rows(table, **_with_feature_dimension(estimator, table, source, reset=reset))
    if table is data and not isinstance(data, np.ndarray):
        check_features(estimator, rows, reset=reset)
    elif _is_frame(data):
        rows = ArrayRows(table, frame_name(data), frame_columns(data))
    if rows.n_rows < minimum:
        message = f"{rows.name} has {rows.n_rows} rows; at least {minimum} are needed"
        raise DataError(message)
    return rows


def _with_feature_dimension(estimator: Any, data: Any, source: SourceOptions, *, reset: bool) -> SourceOptions:
    """Note the dimension of features (with `reset`), or put in the one that was named when the estimator was fitted."""
    named = source.get("feature_dim")
    if reset:
        estimator._feature_dim = named
    elif named is None:
        remembered: str | None = getattr(estimator, "_feature_dim", None)
        if remembered in getattr(data, "dims", ()):
            return {**source, "feature_dim": remembered}
    return source


def mapped(estimator: BaseEstimator, function: RowFunction, data: Any, **source: Unpack[SourceOptions]) -> Any:
    """Return what a function says of each row of data of any kind; see `dem.data.map_rows`."""
    rows = rows_of(estimator, data, reset=False, **source)
    source = _with_feature_dimension(estimator, data, source, reset=False)
    function = function.about(rows)
    return map_rows(data, function, dtype=function.dtype, columns=function.columns, rows=rows, **source)


def check_features(estimator: Any, rows: Rows, *, reset: bool) -> None:
    """Note the number and names of features, or compare them with those seen in fit."""
    if reset:
        estimator.n_features_in_ = rows.n_features
        if rows.feature_names is not None:
            estimator.feature_names_in_ = np.array(rows.feature_names, dtype=object)
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return
    if rows.n_features != estimator.n_features_in_:
        message = (
            f"{rows.name} has {rows.n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
        raise DataError(message)
    known = getattr(estimator, "feature_names_in_", None)
    if known is not None and rows.feature_names is not None and tuple(known) != rows.feature_names:
        pairs = zip(known, rows.feature_names, strict=True)
        position, (wanted, found) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        message = (
            f"column {position} of {rows.name} is {found!r}, but the model was fitted with {wanted!r} there; "
            "bring the features into the order of the fit"
        )
        raise DataError(message)
