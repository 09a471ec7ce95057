"""What is known of each row besides its numbers, such as its weight: from any kind of data, cut to every batch."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, Rows
from dem.data.beside import along, check_stored, in_order, on_grid
from dem.data.categories import is_missing
from dem.data.checks import check_dtype, reason
from dem.data.column_values import BlockValues, HeldValues, StoredValues
from dem.data.joined import Column, joined
from dem.data.limits import LimitRule, LimitValues, SameValues, Values, pairs_rule
from dem.data.rules import LabelsRule, NoiseRule, Rule, TrialsRule, WeightsRule
from dem.data.sources import open_rows, source_kind
from dem.data.zarr_part import ZarrPart
from dem.errors import DataError, OptionError
from dem.namespaces import to_host

#: what may have a value for each feature
BY_FEATURE = ("noise", "limits", "trials")
#: what not every model can make use of: the fields of a `Chunk`, and the models that can
LIMITED = {
    "noise_covariance": ("noise", "Gaussian mixtures of full or tied covariances without noise="),
    "lower": ("limits", "Gaussian mixtures without noise="),
    "upper": ("limits", "Gaussian mixtures without noise="),
    "trials": ("trials", "binomial mixtures without n_trials"),
}


def with_columns(
    rows: Rows,
    given: Mapping[str, Any],
    n_components: int | None,
    *,
    background: bool = False,
    skips_gaps: bool = False,
    most_limits: float = math.inf,
) -> Rows:
    """Return rows with what is given of each; see `open_column`.

    Parameters
    ----------
    rows : Rows
        The data.
    given : mapping
        What is given of each row, as in `WeightedOptions`; nothing is None.
    n_components : int, optional
        How many components the model has; None if it has none.
    background : bool
        Whether a background stands behind them.
    skips_gaps : bool
        Whether to leave out rows with NaN.
    most_limits : float
        How many values of a row may have limits.
    """
    kinds: dict[str, tuple[str, Rule, int]] = {"sample_weight": ("weights", WeightsRule(skips_gaps), 0)}
    if n_components is not None:
        kinds["labels"] = ("labels", LabelsRule(n_components, background), 1)
        kinds["noise_covariance"] = ("noise", NoiseRule(rows.n_features), 2)
        kinds["trials"] = ("trials", TrialsRule(rows.n_features), 1)
    columns = []
    ends = {name: given[name] for name in ("lower", "upper") if name in given}
    if ends:
        limits = [_limits(name, ends.get(name, none), rows) for name, none in (("lower", -np.inf), ("upper", np.inf))]
        columns.append(Column("limits", "limits", LimitValues(*limits), pairs_rule))
    for name in given.keys() - ends.keys() - kinds.keys():
        message = f"{name} goes with mixtures only; leave it out"
        raise OptionError(message)
    for name, (field, rule, n_more) in kinds.items():
        if name in given:
            columns.append(open_column(field, name, given[name], rows, rule, n_more=n_more))
    return joined(rows, columns, skips_gaps=skips_gaps, most_limits=most_limits if ends else None)


def _limits(name: str, data: Any, rows: Rows) -> Values:
    """Return lower or upper limits: the same for all rows, or a column."""
    rule, d = LimitRule(rows.n_features), rows.n_features
    is_opened = isinstance(data, str | Rows) or hasattr(data, "__fspath__")
    data = in_order(name, data, rows) if hasattr(data, "data_vars") else data
    if not is_opened and source_kind(data) != "dask.dataframe" and np.shape(data) in ((), (d,)):
        data = in_order(name, data, rows)
        try:
            value = np.broadcast_to(np.asarray(data, dtype=np.float64), (1, d))
        except (TypeError, ValueError) as error:
            message = f"{name} must be numbers, or names of variables or columns of the data ({reason(error)})"
            raise DataError(message) from error
        return SameValues(rule(name, value, range(1))[0])
    return open_column("limits", name, data, rows, rule, n_more=1)


def open_column(field: str, name: str, data: Any, rows: Rows, rule: Rule, *, n_more: int = 0) -> Column:
    """Open a column of any kind of data: what is small is held in memory, what is lazy is read where it is needed.

    Parameters
    ----------
    field : str
        Of a `Chunk`.
    name : str
        What messages call it.
    data : object
        An array, list, Series, DataArray or Dask array, a zarr array or its path; its shape is that of the grid of the
        rows, or (n_rows,), with up to `n_more` dimensions. Of columns of the data itself see `dem.data.beside`.
    rows : Rows
        What it belongs to.
    rule : callable
        Judges the values.

    Raises
    ------
    DataError
        If it cannot be opened, has another shape or other coordinates than the rows, or holds a value that may not be,
        as far as it is in memory.
    """
    if source_kind(data) == "zarr":
        from dem.data.zarr_open import open_arrays  # noqa: PLC0415

        try:
            where, arrays = open_arrays(data, None)
        except DataError as error:
            message = f"{name}: {error}"
            raise DataError(message) from error
        array = next(iter(arrays.values()))
        check_stored(name, array, rows)
        n_grid = _n_grid(name, array.shape, rows, n_more)
        part = ZarrPart.of(array, f"{name} ({where})", tuple(range(array.ndim)), has_features=False)
        return Column(field, part.name, StoredValues(part, n_grid, uuid.uuid4().hex), rule)
    data, index = _as_array(name, data, rows, by_feature=field in BY_FEATURE), range(rows.n_rows)
    n_grid = _n_grid(name, data.shape, rows, n_more)
    if source_kind(data) == "dask.array" and (lazy := _blocks(name, data, n_grid)) is not None:
        return Column(field, name, lazy, rule)
    values = _in_memory(name, data)
    values = rule(name, values.reshape(rows.n_rows, *values.shape[n_grid:]), index)
    return Column(field, name, HeldValues(values, index))


def _n_grid(name: str, shape: tuple[int, ...], rows: Rows, n_more: int) -> int:
    """Return how many of the dimensions of a column are rows."""
    for grid in dict.fromkeys([rows.grid, (rows.n_rows,)]):
        if shape[: len(grid)] == grid and len(grid) <= len(shape) <= len(grid) + n_more:
            return len(grid)
    if shape == (rows.n_rows, 1):
        return 2
    message = f"{name} has the shape {shape}, but the rows of {rows.name} have {rows.grid}; give one for each row"
    raise DataError(message)


def _as_array(name: str, data: Any, rows: Rows, *, by_feature: bool) -> Any:
    """Return a column as an array, of Dask if it is lazy, along the dimensions, and features, of the rows it names."""
    if by_feature and not isinstance(data, Rows):
        data = in_order(name, data, rows)
    if isinstance(data, Rows):
        return on_grid(name, data, rows)
    kind = source_kind(data)
    if kind == "xarray" and hasattr(data, "dims"):
        from dem.data.xarray import lazy  # noqa: PLC0415 - an optional package

        data = lazy(along(name, data, rows))
        data = data.data if data.chunks is not None else data.values
    elif kind in ("parquet", "dask.dataframe"):
        series = kind == "dask.dataframe" and data.ndim == 1
        try:
            data = open_rows(data.to_frame() if series else data).array  # type: ignore[attr-defined]
        except DataError as error:
            message = f"{name}: {error}"
            raise DataError(message) from error
        data = data[:, 0] if series else data
    if source_kind(data) == "dask.array":
        from dem.data.dask import with_known_chunks  # noqa: PLC0415

        return with_known_chunks(data, name)
    return _in_memory(name, data)


def _in_memory(name: str, data: Any) -> NDArray[Any]:
    """Return values as an array of numbers."""
    try:
        if hasattr(data, "compute"):
            data = data.compute()
        values = np.asarray(to_host(data))
        if values.dtype.kind == "O":
            try:
                values = np.asarray(getattr(data, "astype", values.astype)(np.float64))  # pandas knows its own NA
            except TypeError:  # but not among objects
                known = [math.nan if is_missing(one) else one for one in values.ravel().tolist()]
                values = np.array(known, dtype=np.float64).reshape(values.shape)
        check_dtype(name, values.dtype)
    except Exception as error:  # whatever the object raises when it is asked for an array
        advice = (
            "; number the names first, -1 where none is known: pandas' .astype('category').cat.codes"
            if name == "labels"
            else ""
        )
        message = f"{name} cannot be made an array of numbers ({reason(error)}){advice}"
        raise DataError(message) from error
    if np.ma.is_masked(data):
        message = f"{name} has masked values; fill them, or leave their rows out with weights of 0"
        raise DataError(message)
    return values


def _blocks(name: str, array: Any, n_grid: int) -> BlockValues | None:
    """Return a Dask array whose first `n_grid` dimensions are rows as values to compute where they are needed.

    None if it is small, so that it is better computed once, or lies in memory already.
    """
    from dem.data.dask import DaskRows  # noqa: PLC0415

    if array.nbytes <= READ_BYTES:
        return None
    tail = array.shape[n_grid:]
    flat = array.rechunk(dict.fromkeys(range(n_grid, array.ndim), -1))
    flat = flat.reshape((*array.shape[:n_grid], math.prod(tail))) if len(tail) != 1 else flat
    blocks = DaskRows(flat, name).blocks()
    if blocks is None:
        return None
    edges = tuple(np.cumsum((0, *extents)) for extents in array.chunks[:n_grid])
    return BlockValues(edges, tail, array.dtype, blocks, uuid.uuid4().hex)
