"""The features of a model: their number, names, and coordinates, and whether other data has the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Rows
from dem.data.labels import order_of, same
from dem.data.sources import SourceOptions, dimensions_of, holds_variables, source_kind
from dem.errors import DataError

#: attributes of a fitted estimator that tell of its features
ATTRIBUTES = ("n_features_in_", "feature_names_in_", "feature_dim_", "feature_coordinates_")


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
    if rows.n_features != estimator.n_features_in_:
        message = (
            f"{rows.name} has {rows.n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
        raise DataError(message)
    found, wanted = labels_of(rows), labels_of(estimator, "_")
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


def as_fitted(estimator: Any, data: Any, source: SourceOptions) -> tuple[Any, SourceOptions]:
    """Return data as the estimator knows it, and how to open it.

    The feature dimension, columns and variables that are not named now are those of the fit, where the data has them.
    Features of an xarray object that are the same in another order are put in order, lazily.
    """
    kind = source_kind(data)
    dim = getattr(estimator, "feature_dim_", None)
    if dim is not None and source.get("feature_dim") is None and dim in dimensions_of(data, source.get("variable")):
        source = {**source, "feature_dim": dim}
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    if kind == "parquet" and source.get("columns") is None and names:
        source = {**source, "columns": names}
    if kind == "zarr" and source.get("variable") is None and names and holds_variables(data, names):
        source = {**source, "variable": names}
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
