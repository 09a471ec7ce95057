"""From what users pass as X to rows, and whether these have the features of the model: number, names, coordinates."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from dem.data import open_rows
from dem.data.base import Rows
from dem.data.beside import found_beside, without
from dem.data.checks import WordsError, check_dtype, frame_columns, frame_name, plain_dtype
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
from dem.data.sparse import DenseRows, open_csr
from dem.em.predict import RowFunction
from dem.engine.mapping import map_rows
from dem.errors import DataError, DataWarning, OptionError
from dem.estimators.loops import may_be_used_lazily
from dem.namespaces import is_on_device, to_host

# Kinds of data that are read chunk by chunk; everything else is in memory and goes through scikit-learn's checks.
_LAZY_MODULES = ("dask", "xarray", "zarr")
# What to do with columns of text.
_WORDS = "fit it as categories with dem.Mixture (--family mixture --column NAME=categorical)"
#: what an estimator has measured its features to be, where it does
SCALES = ("feature_means_", "feature_scales_")
#: the hyper-parameters of a prior of Gaussians, where there is one
PRIOR = ("prior_mean_", "prior_shrinkage_", "prior_dof_", "prior_scale_")
#: those of a conjugate prior of other families
CONJUGATE = ("prior_rows_", "prior_statistics_")
#: attributes of a fitted estimator that tell of its features, or were learned from the rows before the first start
ATTRIBUTES = (
    "n_features_in_",
    "feature_names_in_",
    "feature_dim_",
    "feature_coordinates_",
    "features_",
    *SCALES,
    *PRIOR,
    "categories_",
)


def checked(estimator: BaseEstimator, data: Any, *, reset: bool, minimum: int) -> Any:
    """Pass in-memory data through scikit-learn's checks; return other kinds as they are.

    Finiteness is not checked here: that would read all the data once more.
    """
    # A subclass counts as what it derives from.
    is_lazy = any(kind.__module__.split(".")[0] in _LAZY_MODULES for kind in type(data).__mro__)
    if is_lazy or isinstance(data, Rows | str) or hasattr(data, "__fspath__") or is_on_device(data):
        return data
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        open_rows(data)  # raises: scikit-learn would fit the masked values too
    try:
        options: dict[str, Any] = {"accept_sparse": "csr", "dtype": "numeric", "ensure_all_finite": False}
        return validate_data(estimator, data, **options, ensure_min_samples=minimum, reset=reset)
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
                check_dtype(where, plain_dtype(values.dtype))
        except DataError as cause:
            return str(cause)
        except (TypeError, ValueError) as cause:
            return f"{where} holds values that are no numbers ({one_line(cause)}); leave the column out, or {_WORDS}"
    return message.replace("Found array", f"Found {frame_name(data)}")


def _is_frame(data: Any) -> bool:
    """Tell whether data in memory is a DataFrame, of pandas or of others."""
    return hasattr(data, "columns") and len(getattr(data, "shape", ())) == 2


class NotATableError(DataError, TypeError):
    """The data is of a kind that has no rows; a TypeError too, as scikit-learn raises."""


def one_line(error: Exception) -> str:
    """Return scikit-learn's message without the array that it prints in the middle."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not re.match(r"(\[|array|\.\.\.|-?[\d.])", line))


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
    is_encoded: bool = False,
    **given: Unpack[WeightedOptions],
) -> Rows:
    """Open data of any kind and compare its features with the estimator's (or note them, with `reset`).

    There must be `minimum` rows; if it is left out, two with `reset`, as in scikit-learn, else one. With the rows goes
    what is given of each. Those that the estimator skips are left out, unless the result is to lie `on_grid`. Columns
    of categories become numbers, unless they are already.

    Raises
    ------
    DataError
        If the data cannot be opened, is empty, or has other features than the model.
    """
    minimum = minimum or (2 if reset else 1)
    source, columns = parted(given)
    named: list[str] = []
    check_known(estimator, columns, getattr(data, "known", ()))
    if columns:
        columns, named = found_beside(data, columns, features_of(estimator, source, reset=reset))
    if not reset:
        data, source = as_fitted(estimator, data, source)
    elif estimator._named is not None:
        data, source = selected(estimator._named, data, source)
    data, source = without_named(estimator, data, source, named, reset=reset)
    categories = None
    if not is_encoded:
        data, source, categories = estimator._encoded(data, source, reset=reset)
    table = checked(estimator, data, reset=reset, minimum=minimum)
    try:
        rows = open_rows(table, **source)
    except WordsError as error:
        message = _about(data, error) if _is_frame(table) is not _is_frame(data) else f"{error}, or {_WORDS}"
        raise DataError(message) from error
    if table is not data and _is_frame(data):
        opened = open_csr if issparse(table) else ArrayRows
        rows = opened(table, frame_name(data), frame_columns(data))
    if rows.is_sparse and not takes_sparse(estimator):
        rows = DenseRows(rows)
    rows = rows.on_grid() if on_grid else rows
    rows.categories = categories
    if reset:
        note_features(estimator, rows, names=not isinstance(table, np.ndarray))
    elif not isinstance(table, np.ndarray):
        check_features(estimator, rows)
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


def without_named(
    estimator: Any, data: Any, source: SourceOptions, named: Sequence[str], *, reset: bool = False
) -> tuple[Any, SourceOptions]:
    """Return data without columns that go with its rows, but for those that options, or the fit, have as features."""
    if reset:
        features = estimator._named or ()
    else:
        features = (
            *map(str, getattr(estimator, "feature_names_in_", ())),
            *(getattr(estimator, "features_", None) or ()),
        )
    return without(data, source, [name for name in named if name not in features])


def takes_sparse(estimator: Any) -> bool:
    """Tell whether an estimator computes with sparse rows as they are; others are given a few dense ones at a time."""
    asks_for_dense = estimator.missing == "marginalise" or getattr(estimator, "top_components", None) is not None
    return estimator._entry.is_mixture and estimator._component().takes_sparse and not asks_for_dense


def skips_gaps(estimator: Any) -> bool:
    """Tell whether an estimator leaves out rows with missing values."""
    return bool(estimator.missing == "skip")


def check_known(estimator: Any, columns: Mapping[str, Any], known: Collection[str] = ()) -> None:
    """Refuse what is given of rows if the model cannot make use of it, and that nothing is given which it needs.

    `known` names what goes with the rows already. Raises `OptionError`.
    """
    for name, (field, models) in LIMITED.items():
        if columns.get(name) is not None and field not in estimator._knows:
            message = f"{name} goes with {models} only; leave it out"
            raise OptionError(message)
    for name, option in estimator._needs.items():
        if columns.get(name) is None and name not in known:
            instead = "" if hasattr(estimator, "n_features_in_") else f"{option}=, or "
            message = f"{type(estimator).__name__} needs {instead}{name}= of each row"
            raise OptionError(message)


def warn_of_labels(y: Any, given: RowOptions) -> None:
    """Warn of a `y` that looks like labels that are known in part, which only `labels` makes use of."""
    if y is None or given.get("labels") is not None or source_kind(y) not in ("numpy", "pandas"):
        return
    values = np.asarray(to_host(y))
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
    data, source = without_named(estimator, *as_fitted(estimator, data, source), named)
    table, opened, _ = estimator._encoded(data, source, reset=False)
    rows = rows_of(estimator, table, reset=False, on_grid=True, is_encoded=True, **opened, **columns)
    function = function.about(rows, skips_gaps=skips_gaps(estimator))
    if not isinstance(table, Rows):
        data, source = table, opened
    how: dict[str, Any] = {"dtype": function.dtype, "n_columns": function.columns, "rows": rows}
    return map_rows(data, function, loops=may_be_used_lazily(estimator, rows), **how, **source)


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
    found["categories_"] = None if rows.categories is None else dict(rows.categories)
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
    if names:
        data, source = selected(names, data, source)
    labels = labels_of(estimator, "_")
    if kind == "xarray" and labels is not None:
        from dem.data.xarray import in_order  # noqa: PLC0415 - an optional package

        data = in_order(data, source.get("feature_dim"), labels)
    return data, source


def selected(names: list[str], data: Any, source: SourceOptions) -> tuple[Any, SourceOptions]:
    """Return data and how to open it so that these columns are its features, where it has them and others."""
    kind = source_kind(data)
    if kind == "parquet" and source.get("columns") is None:
        source = {**source, "columns": names}
    if kind in ("zarr", "xarray") and not any(source.get(option) for option in ("variable", "features")):
        if kind == "zarr" and holds_variables(data, names):
            source = {**source, "variable": names}
        elif kind == "xarray" and holds_variables(data, names) and len(data.data_vars) > len(names):
            source = {**source, "features": dict.fromkeys(names)}
    if kind in ("pandas", "dask.dataframe") and set(names) < set(frame_columns(data) or ()):
        data = data[names]
    return data, source


def _word(label: Any) -> str:
    return repr(str(label)) if isinstance(label, str) else str(label)


def _listed(labels: NDArray[Any]) -> str:
    words = [_word(label) for label in labels]
    if len(words) > 8:
        words = [*words[:4], "…", *words[-3:]]
    return ", ".join(words)
