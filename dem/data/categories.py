"""Columns of categories (text, truth values, any few values): found in one read, and numbers in their place.

A column with the categories c₀, c₁, … holds 0, 1, … instead, NaN where a value is missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.checks import frame_columns, frame_name, plain_dtype, reason
from dem.data.retries import retried, tried
from dem.data.sources import SourceOptions, source_kind
from dem.errors import DataError

#: the categories of columns, by name, in the order of their numbers
Categories = Mapping[str, list[Any]]
#: more different values than these are no categories
MOST_CATEGORIES = 1000
_FRAMES = ("pandas", "dask.dataframe")


def columns_encoded(
    data: Any,
    source: SourceOptions,
    names: Sequence[str],
    wanted: Callable[[str, bool], bool],
    known: Categories | None,
    most: int = MOST_CATEGORIES,
) -> tuple[Any, SourceOptions, dict[str, list[Any]]]:
    """Return the named columns of a table as numbers, lazily where it is lazy, how to open it, and the categories.

    Parameters
    ----------
    data, source
        As for `open_rows`: a DataFrame, parquet, a Dataset, or a zarr group.
    names : sequence of str
        The columns that are features.
    wanted : callable
        Tells of a column, and whether it holds anything but numbers, whether it is one of categories; raises
        `DataError` if it cannot be used.
    known : mapping, optional
        The categories that columns had in the fit. They are sought in the data when left out, which reads these columns
        once; those of a categorical dtype are known without.
    most : int
        Of how many different values.

    Raises
    ------
    DataError
        If a column is not there, has too many different values, or, in the fit, a value that is none of its categories:
        its name, the value and the first row that has it.
    """
    kind = source_kind(data)
    if kind == "numpy" and hasattr(data, "to_pandas") and hasattr(data, "columns"):  # polars, pyarrow
        data, kind = data.to_pandas(), "pandas"
    opener: dict[str, Any] = {
        "pandas": _Frame,
        "dask.dataframe": _LazyFrame,
        "parquet": _Parquet,
        "xarray": _Dataset,
        "zarr": _Group,
    }
    if kind not in opener or (kind == "xarray" and not hasattr(data, "data_vars")):
        message = f"a {type(data).__name__} has no columns of the names {', '.join(names)}; name them by their numbers"
        raise DataError(message)
    table = opener[kind](data, source)
    lacking = [name for name in names if name not in table.columns]
    if lacking:
        there = ", ".join(table.columns[:20])
        message = f"{table.name} has no column {lacking[0]!r}; it has {there}"
        raise DataError(message)
    kinds = {name: table.is_text(name) for name in names}
    if known is None:
        sought = [name for name in names if wanted(name, kinds[name])]
        found = {name: _listed(table.name, name, values, most) for name, values in table.values_of(sought).items()}
    else:
        found = {name: list(known[name]) for name in names if name in known}
        for name in names:
            if name not in known:
                wanted(name, kinds[name])
    return *table.encoded(list(names), found), found


def _listed(table: str, column: str, values: Iterable[Any], most: int) -> list[Any]:
    """Return different values in order: that of a categorical dtype, else sorted."""
    given = values if isinstance(values, list) else None
    found = list(given if given is not None else {_plain(value) for value in values if not is_missing(value)})
    if not found:
        message = f"column {column!r} of {table} has no values"
        raise DataError(message)
    if len(found) > most:
        message = f"column {column!r} of {table} has {len(found):,} different values, too many for categories"
        raise DataError(message)
    kinds = sorted({type(_plain(value)).__name__ for value in found})
    if not {"str", "bool", "int", "float"} >= set(kinds):
        message = f"column {column!r} of {table} holds values of type {', '.join(kinds)}; make text or numbers of them"
        raise DataError(message)
    if given is not None:
        return [_plain(value) for value in given]
    try:
        return sorted(found)
    except TypeError as error:
        message = f"column {column!r} of {table} holds values of several types ({', '.join(kinds)}); give it one"
        raise DataError(message) from error


def is_missing(value: Any) -> bool:
    """Tell None, NaN, NaT and pandas' NA."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def codes_of(values: Iterable[Any], categories: Sequence[Any], column: str, table: str, first: int = 0) -> NDArray[Any]:
    """Return the numbers of values that follow one another from the row `first` on; NaN of what is missing.

    Raises
    ------
    DataError
        Naming the first value that is none of the categories.
    """
    numbers = {value: float(number) for number, value in enumerate(categories)}
    codes = np.empty(len(values))  # type: ignore[arg-type]
    for row, value in enumerate(values):
        plain = _plain(value)
        code = numbers.get(plain) if not is_missing(plain) else np.nan
        if code is None:
            raise DataError(_unseen(plain, categories, column, table, first + row))
        codes[row] = code
    return codes


def _unseen(value: Any, categories: Sequence[Any], column: str, table: str, row: int) -> str:
    listed = ", ".join(map(repr, categories[:8])) + (", …" if len(categories) > 8 else "")
    return f"column {column!r} of {table} holds {value!r} in row {row}, which the fit has not seen: it knows {listed}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def series_codes(series: Any, categories: Sequence[Any], column: str, table: str, first: int = 0) -> NDArray[Any]:
    """Return the same of a pandas Series."""
    import pandas as pd  # noqa: PLC0415 - an optional package

    places, different = pd.factorize(series.astype(object))
    numbers = {value: float(number) for number, value in enumerate(categories)}
    table_of_codes = np.array([numbers.get(_plain(value), -1.0) for value in different] + [np.nan])
    codes: NDArray[Any] = table_of_codes[places]
    (unseen,) = np.nonzero(codes < 0.0)
    if len(unseen):
        row = int(unseen[0])
        raise DataError(_unseen(_plain(series.iloc[row]), categories, column, table, first + row))
    return codes


def column_codes(values: Any, categories: Sequence[Any], column: str, table: str, first: int = 0) -> NDArray[Any]:
    """Return the same of a column of pyarrow."""
    import pyarrow as pa  # noqa: PLC0415 - an optional package
    import pyarrow.compute as pc  # noqa: PLC0415

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    places = pc.index_in(values, value_set=pa.array(list(categories)).cast(values.type))
    codes: NDArray[Any] = places.to_numpy().astype(np.float64)
    (none,) = np.nonzero(np.isnan(codes))
    if len(none) > values.null_count:
        row = int(none[~values.is_null().to_numpy()[none]][0])
        raise DataError(_unseen(values[row].as_py(), categories, column, table, first + row))
    return codes


def _frame_codes(frame: Any, categories: Categories, table: str) -> Any:
    """Return a DataFrame whose columns of categories are their numbers."""
    return frame.assign(
        **{name: series_codes(frame[name], values, name, table) for name, values in categories.items()}
    ).astype(dict.fromkeys(categories, np.float64))


class _Frame:
    """A pandas DataFrame."""

    def __init__(self, data: Any, source: SourceOptions) -> None:
        self.data, self.source = data, source
        self.name, self.columns = frame_name(data), frame_columns(data) or ()

    def is_text(self, name: str) -> bool:
        dtype = plain_dtype(self.data.dtypes[name])
        return not isinstance(dtype, np.dtype) or dtype.kind not in "iuf"

    def values_of(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: self._known(name) or set(self._different(self.data[name])) for name in names}

    def _different(self, column: Any) -> Any:
        return column.dropna().unique().tolist()

    def _known(self, name: str) -> list[Any] | None:
        dtype = self.data.dtypes[name]
        known = getattr(dtype, "categories", None)
        return None if known is None else list(known)

    def encoded(self, names: list[str], categories: Categories) -> tuple[Any, SourceOptions]:
        return _frame_codes(self.data[names], categories, self.name), self.source


class _LazyFrame(_Frame):
    """A Dask DataFrame."""

    def values_of(self, names: Sequence[str]) -> dict[str, Any]:
        from dask.base import compute  # noqa: PLC0415

        lazy = {name: self.data[name].dropna().unique() for name in names if self._known(name) is None}
        try:
            (found,) = compute(lazy)
        except Exception as error:  # whatever the user's graph raises
            message = f"the categories of {self.name} cannot be computed ({reason(error)})"
            raise DataError(message) from error
        return {name: self._known(name) or set(found[name].tolist()) for name in names}

    def _known(self, name: str) -> list[Any] | None:
        dtype = self.data.dtypes[name]
        is_known = hasattr(dtype, "categories") and self.data[name].cat.known
        return list(dtype.categories) if is_known else None

    def encoded(self, names: list[str], categories: Categories) -> tuple[Any, SourceOptions]:
        if not categories:
            return self.data[names], self.source
        frame = self.data[names]
        meta = frame._meta.astype({name: np.float64 for name in categories if not len(frame._meta)})  # noqa: SLF001
        work = partial(_frame_codes, categories=categories, table=f"a partition of {self.name}")
        return frame.map_partitions(work, meta=meta), self.source


class _Parquet:
    """A parquet file, or a folder of them."""

    def __init__(self, data: Any, source: SourceOptions) -> None:
        from dem.data.parquet import open_dataset  # noqa: PLC0415

        self.name, self.source = os.fspath(data), source
        self.dataset = open_dataset(self.name)
        self.columns = tuple(self.dataset.schema.names)

    def is_text(self, name: str) -> bool:
        import pyarrow as pa  # noqa: PLC0415 - an optional package, found by now

        kind = self.dataset.schema.field(name).type
        return not (pa.types.is_integer(kind) or pa.types.is_floating(kind))

    def values_of(self, names: Sequence[str]) -> dict[str, Any]:
        if not names:
            return {}
        try:
            return dict(retried(lambda: self._different(list(names))))
        except Exception as error:  # whatever the file, or its service, makes pyarrow raise
            message = f"{self.name} cannot be read ({reason(error)}{tried(error)})"
            raise DataError(message) from error

    def _different(self, names: list[str]) -> dict[str, set[Any]]:
        found: dict[str, set[Any]] = {name: set() for name in names}
        for records in self.dataset.to_batches(columns=names):
            for name in names:
                found[name].update(records.column(name).unique().to_pylist())
        return found

    def encoded(self, names: list[str], categories: Categories) -> tuple[Any, SourceOptions]:
        from dem.data.parquet import ParquetRows  # noqa: PLC0415

        if not categories:
            return self.name, {**self.source, "columns": names}
        bad = self.source.get("on_bad_chunk", "raise")
        return ParquetRows(self.name, names, on_bad_chunk=bad, categories=categories), {}


class _Dataset:
    """An xarray Dataset."""

    def __init__(self, data: Any, source: SourceOptions) -> None:
        self.data, self.source, self.name = data, source, "Dataset"
        self.columns = tuple(map(str, data.data_vars))

    def is_text(self, name: str) -> bool:
        return self.data[name].dtype.kind not in "iuf"

    def values_of(self, names: Sequence[str]) -> dict[str, Any]:
        from dem.data.xarray import lazy  # noqa: PLC0415

        return {name: _different(lazy(self.data[name]).data, self.name) for name in names}

    def encoded(self, names: list[str], categories: Categories) -> tuple[Any, SourceOptions]:
        from dem.data.xarray import lazy  # noqa: PLC0415

        changed = {}
        for name, values in categories.items():
            array = lazy(self.data[name])
            changed[name] = array.copy(data=_array_codes(array.data, values, name, self.name))
        return self.data[names].assign(changed), self.source


class _Group:
    """A zarr group."""

    def __init__(self, data: Any, source: SourceOptions) -> None:
        from dem.data.zarr_open import array_names  # noqa: PLC0415

        self.data, self.source, self.name = data, source, str(data)
        self.columns = tuple(array_names(data))

    def _array(self, name: str) -> Any:
        from dem.data.zarr_open import open_arrays  # noqa: PLC0415

        return open_arrays(self.data, name)[1][name]

    def is_text(self, name: str) -> bool:
        return self._array(name).dtype.kind not in "iuf"

    def values_of(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: _different(self._lazy(name), self.name) for name in names}

    def _lazy(self, name: str) -> Any:
        import dask.array  # noqa: PLC0415

        return dask.array.from_zarr(self._array(name))

    def encoded(self, names: list[str], categories: Categories) -> tuple[Any, SourceOptions]:
        if not categories:
            return self.data, {**self.source, "variable": names}
        from dask.array import stack  # noqa: PLC0415

        from dem.data.dask import DaskRows  # noqa: PLC0415

        arrays = [
            _array_codes(self._lazy(name), categories[name], name, self.name)
            if name in categories
            else self._lazy(name)
            for name in names
        ]
        chunks = arrays[0].chunks
        whole = stack([array.rechunk(chunks).astype(np.float64) for array in arrays], axis=-1)
        return DaskRows(whole, self.name, tuple(names)), {}


def _different(array: Any, table: str) -> set[Any]:
    """Return the different values of an array in memory or of Dask chunks."""
    from dask.base import compute  # noqa: PLC0415
    from dask.delayed import delayed  # noqa: PLC0415

    if not hasattr(array, "dask"):
        return set(np.asarray(array).ravel().tolist())
    try:
        found = compute(*(delayed(_of_block)(block) for block in array.to_delayed().ravel()))
    except Exception as error:  # whatever the user's graph raises
        message = f"the categories of {table} cannot be computed ({reason(error)})"
        raise DataError(message) from error
    return set().union(*found)


def _of_block(block: Any) -> set[Any]:
    return set(np.asarray(block).ravel().tolist())


def _array_codes(array: Any, categories: Sequence[Any], column: str, table: str) -> Any:
    """Return the numbers of the values of an array in memory or of Dask chunks."""
    work = partial(_codes_of_block, categories=categories, column=column, table=table)
    if hasattr(array, "dask"):
        return array.map_blocks(work, dtype=np.float64, meta=np.empty((0,) * array.ndim))
    return work(np.asarray(array))


def _codes_of_block(
    block: NDArray[Any], categories: Sequence[Any], column: str, table: str, block_info: Any = None
) -> NDArray[Any]:
    first = 0
    if block_info and block.ndim == 1:
        first = block_info[0]["array-location"][0][0]
    values = np.asarray(block)
    return codes_of(values.ravel().tolist(), categories, column, table, first).reshape(values.shape)
