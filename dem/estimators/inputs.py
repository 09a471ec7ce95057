"""From what users pass as X to rows, and whether these have the features of the model: number, names, coordinates."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import validate_data

from dem.data import open_rows
from dem.data.base import Rows
from dem.data.beside import found_beside, without
from dem.data.checks import check_dtype, frame_columns, frame_name
from dem.data.columns import LIMITED, with_columns
from dem.data.labels import order_of, same
from dem.data.numpy import ArrayRows
from dem.data.profiles import Features
from dem.data.sources import (
    RowOptions,
    SourceOptions,
    WeightedOptions,
    dimensions_of,
    holds_variables,
    parted,
    source_kind,
)
from dem.em.predict import RowFunction
from dem.engine.mapping import map_rows
from dem.errors import DataError, DataWarning, OptionError

# Kinds of data that are read chunk by chunk; everything else is in memory and goes through scikit-learn's checks.
_LAZY_MODULES = ("dask", "xarray", "zarr")
#: what an estimator has measured its features to be, where it does
SCALES = ("feature_means_", "feature_scales_")
#: attributes of a fitted estimator that tell of its features
ATTRIBUTES = ("n_features_in_", "feature_names_in_", "feature_dim_", "feature_coordinates_", "features_", *SCALES)


def checked(estimator: BaseEstimator, data: Any, *, reset: bool, minimum: int) -> Any:
    """Pass in-memory data through scikit-learn's checks; return other kinds as they are.

    Finiteness is not checked here: that would read all the data once more.
    """
    # A subclass counts as what it derives from.
    is_lazy = any(kind.__module__.split(".")[0] in _LAZY_MODULES for kind in type(data).__mro__)
    if is_lazy or isinstance(data, Rows | str) or hasattr(data, "__fspath__"):
        return data
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        open_rows(data)  # raises: scikit-learn would fit the masked values too
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
    for name, kinds in estimator._parameter_constraints.items():
        value = getattr(estimator, name)
        if isinstance(value, bool) and not {"boolean", "verbose"} & {kind for kind in kinds if isinstance(kind, str)}:
            message = f"{name} must be a number, not {value}"  # which Python takes for 1 or 0, and scikit-learn too
            raise OptionError(message)
    if not all(callable(callback) for callback in estimator.callbacks or ()):
        message = "callbacks must be callables that take an event"
        raise OptionError(message)


@contextmanager
def features_kept_on_failure(estimator: Any) -> Iterator[None]:
    """Give an estimator its features back if fitting it fails: what was fitted before still works."""
    before = {name: getattr(estimator, name) for name in ATTRIBUTES if hasattr(estimator, name)}
    fitted = f"{estimator._entry.location}_"
    centres = getattr(estimator, fitted, None)
    try:
        yield
    except BaseException:
        if getattr(estimator, fitted, None) is centres:  # an interrupted fit may have left new ones
            for name in ATTRIBUTES:
                vars(estimator).pop(name, None)
            vars(estimator).update(before)
        raise


def rows_of(
    estimator: BaseEstimator,
    data: Any,
    *,
    reset: bool,
    minimum: int | None = None,
    on_grid: bool = False,
    **given: Unpack[WeightedOptions],
) -> Rows:
    """Open data of any kind and compare its features with the estimator's (or note them, with `reset`).

    There must be `minimum` rows; if it is left out, two with `reset`, as in scikit-learn, else one. With the rows goes
    what is given of each. Those that the estimator skips are left out, unless the result is to lie `on_grid`.

    Raises
    ------
    DataError
        If the data cannot be opened, is empty, or has other features than the model.
    """
    minimum = minimum or (2 if reset else 1)
    source, columns = parted(given)
    named: list[str] = []
    if columns:
        check_known(estimator, columns)
        columns, named = found_beside(data, columns, features_of(estimator, source, reset=reset))
    if not reset:
        data, source = as_fitted(estimator, data, source)
    if named:
        data, source = without(data, source, named)
    table = checked(estimator, data, reset=reset, minimum=minimum)
    rows = open_rows(table, **source)
    rows = rows.on_grid() if on_grid else rows
    if reset:
        note_features(estimator, rows, names=not isinstance(table, np.ndarray))
    elif not isinstance(table, np.ndarray):
        check_features(estimator, rows)
    if table is not data and _is_frame(data):
        rows = ArrayRows(table, frame_name(data), frame_columns(data))
    if rows.n_rows < minimum:
        message = f"{rows.name} has {rows.n_rows} rows; at least {minimum} are needed"
        raise DataError(message)
    skips = skips_gaps(estimator) and not on_grid
    if not columns and not skips:
        return rows
    n_components, most = getattr(estimator, "n_components", None), getattr(estimator, "_most_limits", math.inf)
    background = bool(getattr(estimator, "noise", False))
    return with_columns(rows, columns, n_components, background=background, skips_gaps=skips, most_limits=most)


def features_of(estimator: Any, source: SourceOptions, *, reset: bool = False) -> Features | None:
    """Return the variables whose entries are the features: those named now, or those of the fit."""
    return source.get("features") or (None if reset else getattr(estimator, "features_", None))


def skips_gaps(estimator: Any) -> bool:
    """Tell whether an estimator leaves out rows with missing values."""
    return bool(estimator.missing == "skip")


def check_known(estimator: Any, columns: Mapping[str, Any]) -> None:
    """Refuse what may be given of rows if the model cannot make use of it.

    Raises
    ------
    OptionError
        Naming the first.
    """
    for name, (field, models) in LIMITED.items():
        if columns.get(name) is not None and field not in estimator._knows:
            message = f"{name} goes with {models} only; leave it out"
            raise OptionError(message)


def warn_of_labels(y: Any, given: RowOptions) -> None:
    """Warn of a `y` that looks like labels that are known in part, which only `labels` makes use of."""
    if y is None or given.get("labels") is not None or source_kind(y) not in ("numpy", "pandas"):
        return
    values = np.asarray(y)
    if values.ndim == 1 and values.dtype.kind in "iuf" and (values == -1).any() and (values >= 0).any():
        message = "y is ignored, as in scikit-learn; give labels that are known, and -1 where they are not, as labels=y"
        warnings.warn(message, DataWarning, stacklevel=3)


def mapped(estimator: BaseEstimator, function: RowFunction, data: Any, **given: Unpack[RowOptions]) -> Any:
    """Return what a function says of each row of data of any kind; see `dem.engine.mapping.map_rows`."""
    source, columns = parted(given)
    if "sample_weight" in columns:
        message = "sample_weight changes nothing of what is said of each row; leave it out"
        raise OptionError(message)
    columns, named = found_beside(data, columns, features_of(estimator, source))
    data, source = without(*as_fitted(estimator, data, source), named)
    rows = rows_of(estimator, data, reset=False, on_grid=True, **source, **columns)
    function = function.about(rows, skips_gaps=skips_gaps(estimator))
    return map_rows(data, function, dtype=function.dtype, n_columns=function.columns, rows=rows, **source)


def labels_of(owner: Any, suffix: str = "") -> NDArray[Any] | None:
    """Return what tells the features of rows (or with ``_in_`` and ``_`` of an estimator) apart, if anything does."""
    names = getattr(owner, "feature_names_in_" if suffix else "feature_names", None)
    if names is not None:
        return np.array([str(name) for name in names])
    coordinates: NDArray[Any] | None = getattr(owner, f"feature_coordinates{suffix}", None)
    return coordinates


def note_features(estimator: Any, rows: Rows, *, names: bool = True) -> None:
    """Note number, names, dimension and coordinates of the features; without `names` scikit-learn has noted these."""
    estimator.n_features_in_ = rows.n_features
    found: dict[str, Any] = {"feature_dim_": rows.feature_dim, "feature_coordinates_": rows.feature_coordinates}
    found["features_"] = None if rows.features is None else dict(rows.features)
    if names:
        found["feature_names_in_"] = None if rows.feature_names is None else np.array(rows.feature_names, dtype=object)
    for name, value in found.items():
        vars(estimator).pop(name, None)
        if value is not None:
            setattr(estimator, name, value)


def check_features(estimator: Any, rows: Rows) -> None:
    """Compare the features of rows with those that the estimator was fitted to.

    Raises
    ------
    DataError
        Naming the first difference.
    """
    found, wanted = labels_of(rows), labels_of(estimator, "_")
    if rows.n_features != estimator.n_features_in_:
        message = (
            f"{rows.name} has {rows.n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input{_lacking(found, wanted, rows.feature_dim)}"
        )
        raise DataError(message)
    if found is None or wanted is None:
        return
    equal = same(found, wanted)
    if equal.all():
        return
    place = int(np.argmin(equal))
    advice = "bring the features into the order of the fit"
    if order_of(found, wanted) is None:
        advice = f"the model knows {_listed(wanted)}, the data has {_listed(found)}"
    what = "column" if rows.feature_dim is None else rows.feature_dim
    message = (
        f"{what} {place} of {rows.name} is {_word(found[place])}, but the model was fitted with "
        f"{_word(wanted[place])} there; {advice}"
    )
    raise DataError(message)


def _lacking(found: NDArray[Any] | None, wanted: NDArray[Any] | None, dim: str | None) -> str:
    """Word which features data lacks, or else has too many of, as far as both are known by labels of one kind."""
    if found is None or wanted is None:
        return ""
    for which, of, others in (("lacks", wanted, found), ("has besides", found, wanted)):
        alone = np.array([not same(np.full(len(others), one), others).any() for one in of], dtype=bool)
        if alone.any():
            return f"; it {which} {'' if dim is None else f'{dim} '}{_listed(of[alone])}"
    return ""


def as_fitted(estimator: Any, data: Any, source: SourceOptions) -> tuple[Any, SourceOptions]:
    """Return data as the estimator knows it, and how to open it.

    The feature dimension, columns and variables that are not named now are those of the fit, where the data has them;
    a table or Dataset may have more.
    Features of an xarray object that are the same in another order are put in order, lazily.
    """
    kind = source_kind(data)
    dim = getattr(estimator, "feature_dim_", None)
    if dim is not None and source.get("feature_dim") is None and dim in dimensions_of(data, source.get("variable")):
        source = {**source, "feature_dim": dim}
    features = getattr(estimator, "features_", None)
    named = any(source.get(option) is not None for option in ("features", "variable", "feature_dim"))
    if features is not None and not named and any(holds_variables(data, [name]) for name in features):
        return data, {**source, "features": features}
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    if kind == "parquet" and source.get("columns") is None and names:
        source = {**source, "columns": names}
    if kind == "zarr" and source.get("variable") is None and names and holds_variables(data, names):
        source = {**source, "variable": names}
    if kind in ("pandas", "dask.dataframe") and names and set(names) < set(frame_columns(data) or ()):
        data = data[names]
    labels = labels_of(estimator, "_")
    if kind == "xarray" and labels is not None:
        from dem.data.xarray import in_order  # noqa: PLC0415 - an optional package

        data = in_order(data, source.get("feature_dim"), labels)
    return data, source


def _word(label: Any) -> str:
    return repr(str(label)) if isinstance(label, str) else str(label)


def _listed(labels: NDArray[Any]) -> str:
    words = [_word(label) for label in labels]
    if len(words) > 8:
        words = [*words[:4], "…", *words[-3:]]
    return ", ".join(words)
