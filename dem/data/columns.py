"""What is known of each row besides its numbers, such as its weight: from any kind of data, cut to every batch."""

from __future__ import annotations

import copy
import math
import uuid
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Batch, Chunk, Found, Rows
from dem.data.beside import along, check_stored, in_order
from dem.data.checks import check_dtype, reason
from dem.data.column_values import HeldValues, StoredValues
from dem.data.limits import LimitRule, LimitValues, SameValues, Values, censored, pairs_rule
from dem.data.rules import LabelsRule, NoiseRule, Rule, as_they_are, errors_where_measured, weights_rule
from dem.data.sources import open_rows, source_kind
from dem.data.zarr_part import ZarrPart
from dem.errors import DataError, OptionError


@dataclass(frozen=True, eq=False)
class Column:
    """A field of a `Chunk`: what messages call it, its values, and what they must be."""

    field: str
    name: str
    values: Values
    rule: Rule = as_they_are

    def at(self, index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Return the values of rows, which have been judged."""
        return self.rule(self.name, self.values.at(index), index)

    def cut(self, index: range | NDArray[np.int64]) -> Self:
        """Return the column of a batch, as it travels with it."""
        return replace(self, values=self.values.cut(index))


@dataclass(frozen=True, eq=False)
class JoinedBatch(Batch):
    """A batch whose chunks have columns; rows that do not count are left out."""

    batch: Batch
    columns: Sequence[Column]
    skips_gaps: bool = False
    most_limits: float | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Read the rows and what goes with them."""
        for chunk in self.batch:
            columns: dict[str, Any] = {column.field: column.at(chunk.index) for column in self.columns}
            yield self._counted(replace(chunk, **columns))

    def _counted(self, chunk: Chunk) -> Chunk:
        """Return the rows that count: those of a weight, and where gaps are skipped those without."""
        if chunk.weights is not None and not chunk.weights.all():
            chunk = replace(chunk.take(chunk.weights > 0.0), found=chunk.found)
        if chunk.noise is not None:
            chunk = replace(chunk, noise=errors_where_measured(chunk.noise, chunk.rows, chunk.index))
        if self.most_limits is not None:
            chunk = censored(chunk, self.most_limits)
        if self.skips_gaps and (gaps := np.isnan(chunk.rows).any(axis=1)).any():
            chunk = replace(chunk.take(~gaps), found=chunk.found)
        return chunk

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with its own part of the columns."""
        index = self.batch.index
        columns = [one.cut(index) for one in self.columns]
        return type(self), (self.batch, columns, self.skips_gaps, self.most_limits)

    @property
    def reads_ahead(self) -> bool:  # type: ignore[override]
        """As of the batch."""
        return self.batch.reads_ahead

    @property
    def span(self) -> range | None:
        """Its rows, with those that do not count."""
        return self.batch.span

    @property
    def n_rows(self) -> int:
        """Number of rows, with those that do not count."""
        return self.batch.n_rows

    @property
    def pending(self) -> Mapping[Hashable, Any]:
        """As of the batch."""
        return self.batch.pending

    def with_values(self, values: Mapping[Hashable, Any]) -> Self:
        """Return the batch with its pending values put in."""
        return replace(self, batch=self.batch.with_values(values))


class JoinedRows(Rows):
    """Rows with columns, among them limits as they were given where `most_limits` says how many a row may have."""

    def __init__(
        self, rows: Rows, columns: Sequence[Column], *, skips_gaps: bool = False, most_limits: float | None = None
    ) -> None:
        self.rows, self.columns, self.skips_gaps, self.most_limits = rows, columns, skips_gaps, most_limits
        self.name, self.n_rows, self.n_features, self.dtype = rows.name, rows.n_rows, rows.n_features, rows.dtype
        self.feature_names, self.grid_names, self.feature_dim = rows.feature_names, rows.grid_names, rows.feature_dim
        self.feature_coordinates, self.features = rows.feature_coordinates, rows.features

    def batches(self) -> list[Batch]:
        """Return the batches of the rows, with their columns."""
        return [JoinedBatch(batch, self.columns, self.skips_gaps, self.most_limits) for batch in self.rows.batches()]

    def divided(self, n_batches: int) -> Rows:
        """Return the same rows in at least `n_batches` batches; see `Rows.divided`."""
        finer = copy.copy(self)
        finer.rows = self.rows.divided(n_batches)
        return finer

    @property
    def grid(self) -> tuple[int, ...]:
        """As of the rows."""
        return self.rows.grid

    def coordinates(self, dim: str) -> NDArray[Any] | None:
        """As of the rows."""
        return self.rows.coordinates(dim)

    @property
    def grid_chunks(self) -> tuple[int, ...]:
        """As of the rows."""
        return self.rows.grid_chunks

    @property
    def read_rows(self) -> int:
        """As of the rows."""
        return self.rows.read_rows

    @property
    def stored_chunks(self) -> tuple[int, int] | None:
        """As of the rows."""
        return self.rows.stored_chunks

    def check_found(self, found: Found) -> None:
        """Judge what of the rows is missing."""
        self.rows.check_found(found)


#: the fields of a `Chunk` with a value for each feature
BY_FEATURE = ("noise", "limits")
#: what not every model can make use of: the fields of a `Chunk`, and the models that can
LIMITED = {
    "noise_covariance": ("noise", "Gaussian mixtures of full or tied covariances without noise="),
    "lower": ("limits", "Gaussian mixtures without noise="),
    "upper": ("limits", "Gaussian mixtures without noise="),
}


def with_columns(
    rows: Rows,
    given: Mapping[str, Any],
    n_components: int | None,
    *,
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
    skips_gaps : bool
        Whether to leave out rows with NaN.
    most_limits : float
        How many values of a row may have limits.
    """
    kinds: dict[str, tuple[str, Rule, int]] = {"sample_weight": ("weights", weights_rule, 0)}
    if n_components is not None:
        kinds["labels"] = ("labels", LabelsRule(n_components), 1)
        kinds["noise_covariance"] = ("noise", NoiseRule(rows.n_features), 2)
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
    is_path = isinstance(data, str) or hasattr(data, "__fspath__")
    if not is_path and source_kind(data) != "dask.dataframe" and np.shape(data) in ((), (d,)):
        data = in_order(name, data, rows)
        try:
            value = np.broadcast_to(np.asarray(data, dtype=np.float64), (1, d))
        except (TypeError, ValueError) as error:
            message = f"{name} must be numbers, or names of columns of parquet or a DataFrame ({reason(error)})"
            raise DataError(message) from error
        return SameValues(rule(name, value, range(1))[0])
    return open_column("limits", name, data, rows, rule, n_more=1)


def joined(
    rows: Rows, columns: Sequence[Column], *, skips_gaps: bool = False, most_limits: float | None = None
) -> Rows:
    """Return rows with columns; themselves where there are none."""
    if not columns and not skips_gaps:
        return rows
    return JoinedRows(rows, columns, skips_gaps=skips_gaps, most_limits=most_limits)


def table_of(chunk: Chunk) -> Rows:
    """Return a table of the rows of a chunk, with all that is known of them."""
    index = range(len(chunk))
    columns = [Column(field, field, HeldValues(values, index)) for field, values in chunk.columns.items()]
    return joined(open_rows(chunk.rows), columns)


def open_column(field: str, name: str, data: Any, rows: Rows, rule: Rule, *, n_more: int = 0) -> Column:
    """Open a column of any kind of data; that of a zarr array is read where it is needed, all else is held in memory.

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
    values, index = _in_memory(name, data, rows, by_feature=field in BY_FEATURE), range(rows.n_rows)
    n_grid = _n_grid(name, values.shape, rows, n_more)
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


def _in_memory(name: str, data: Any, rows: Rows, *, by_feature: bool) -> NDArray[Any]:
    """Return the values of a column as an array, along the dimensions, and features, of the rows that it names."""
    if by_feature:
        data = in_order(name, data, rows)
    if source_kind(data) == "xarray" and hasattr(data, "dims"):
        data = along(name, data, rows)
    if source_kind(data) == "parquet":
        data = open_rows(data).array  # type: ignore[attr-defined]
    try:
        if hasattr(data, "compute"):
            data = data.compute()
        values = np.asarray(data)
        if values.dtype.kind == "O":
            values = values.astype(np.float64)
        check_dtype(name, values.dtype)
    except Exception as error:  # whatever the object raises when it is asked for an array
        message = f"{name} cannot be made an array of numbers ({reason(error)})"
        raise DataError(message) from error
    if np.ma.is_masked(data):
        message = f"{name} has masked values; fill them, or leave their rows out with weights of 0"
        raise DataError(message)
    return values
