"""Rows of parquet files, in memory never more than a few of their row groups."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from dask._task_spec import Task
from numpy.typing import NDArray

from dem.data.base import READ_BYTES, READ_ROWS, Batch, Chunk, Rows, batch_bounds
from dem.data.categories import Categories, column_codes
from dem.data.checks import WordsError, check_table, reason, rows_text, split_scheme
from dem.data.dask_graph import Nodes
from dem.data.found import REPAIR, Found, LeavesOut, LeftOut, Missing, PartlyRead, Unreadable
from dem.data.retries import retried, retried_items, tried
from dem.errors import DataError

if TYPE_CHECKING:
    import dask.array

# Bytes of pyarrow, once it is loaded.
_ARROW_BYTES = 80 * 10**6
# Files whose footers are read at the same time.
_FOOTERS_AT_ONCE = 16


class Gap(NamedTuple):
    """Rows that cannot be read, and what is said of them if that was not known."""

    n_rows: int
    found: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Consecutive row groups of a file that are read together, and what to make of them; picklable."""

    #: a ParquetFileFragment of pyarrow
    fragment: Any
    #: the columns wanted, in order
    schema: Any
    dtype: np.dtype[Any]
    #: their place in the whole table
    start: int
    n_rows: int
    #: rows of the tables that they are read in
    piece_rows: int
    #: what messages call the data
    name: str
    #: whether what cannot be read is left out, and whether this is known of these
    skips_bad: bool = False
    is_bad: bool = False
    #: the categories of columns that hold no numbers, by name
    categories: Categories | None = None

    @property
    def stop(self) -> int:
        """The row behind them."""
        return self.start + self.n_rows

    def pieces(self) -> Iterator[NDArray[Any] | Gap]:
        """Read one table after another, all of `piece_rows` but the last; raises `DataError` if the file cannot.

        Where what cannot be read is left out, they are all read before the first is returned, and it is all of them.
        """
        if self.is_bad:
            yield Gap(self.n_rows)
            return
        done = 0
        try:
            pieces = retried_items(self._pieces)
            for piece in list(pieces) if self.skips_bad else pieces:
                done += len(piece)
                yield piece
        except (GeneratorExit, KeyboardInterrupt, MemoryError, DataError):
            raise
        except Exception as error:  # whatever the file, or its service, makes pyarrow raise
            why = f"{reason(error)}{tried(error)}"
            if not self.skips_bad or isinstance(error, FileNotFoundError):
                message = f"{self.fragment.path} of {self.name} cannot be read ({why})"
                message += "" if isinstance(error, FileNotFoundError) else f"; {REPAIR}"
                raise DataError(message) from error
            name = f"row group {', '.join(str(group.id) for group in self.fragment.row_groups)} of {self.fragment.path}"
            lost = LeftOut(self.name, ((self.start, self.stop),), name, rows_text(self.start, self.stop), why)
            yield Gap(self.n_rows, (lost,))
            return
        if done != self.n_rows:
            message = f"{self.fragment.path} of {self.name} gave {done} rows instead of {self.n_rows}; it has changed"
            raise DataError(message)

    def _pieces(self) -> Iterator[NDArray[Any]]:
        import pyarrow as pa  # noqa: PLC0415 - an optional package
        from pyarrow import dataset  # noqa: PLC0415

        # A file is read in its own order and by this thread alone; what is decoded ahead is one piece.
        scan = self.fragment.to_batches(
            schema=self.schema,
            columns=self.schema.names,
            batch_size=self.piece_rows,
            batch_readahead=1,
            fragment_readahead=0,
            use_threads=False,
            fragment_scan_options=dataset.ParquetFragmentScanOptions(use_buffered_stream=True, pre_buffer=False),
        )
        waiting: list[Any] = []
        n_waiting, first = 0, self.start
        for records in scan:
            waiting.append(records)
            n_waiting += len(records)
            while n_waiting >= self.piece_rows:
                table = pa.Table.from_batches(waiting)
                waiting, n_waiting = table.slice(self.piece_rows).to_batches(), n_waiting - self.piece_rows
                yield self._numbers(table.slice(0, self.piece_rows), first)
                first += self.piece_rows
        if n_waiting:
            yield self._numbers(pa.Table.from_batches(waiting), first)

    def _numbers(self, table: Any, first: int) -> NDArray[Any]:
        """Return a table, which begins with that row, as numbers; what is missing is NaN."""
        import pyarrow as pa  # noqa: PLC0415 - an optional package

        numbers = np.empty(table.shape, self.dtype)
        for j, (name, column) in enumerate(zip(self.schema.names, table.columns, strict=True)):
            if self.categories and name in self.categories:
                numbers[:, j] = column_codes(column, self.categories[name], name, self.name, first)
                continue
            is_boolean = pa.types.is_boolean(column.type)
            numbers[:, j] = (column.cast(pa.uint8()) if is_boolean else column).to_numpy()
        return numbers

    def table(self) -> NDArray[Any]:
        """Read all of them."""
        pieces = [piece for piece in self.pieces() if not isinstance(piece, Gap)]
        if pieces:
            return np.concatenate(pieces)
        return PartlyRead(np.zeros((self.n_rows, len(self.schema.names)), self.dtype), mask=True)


@dataclass(frozen=True, eq=False)
class ParquetBatch(Batch):
    """Reads row groups one after another."""

    reads: Sequence[RowGroups]
    #: whether rows that cannot be read come with the others; see `Rows.on_grid`
    on_grid: bool = False

    @property
    def span(self) -> range:
        """Its rows."""
        return range(self.reads[0].start, self.reads[-1].start + self.reads[-1].n_rows)

    def __iter__(self) -> Iterator[Chunk]:
        """Read piece by piece."""
        place = (self.span.start, self.span.stop)
        for read in self.reads:
            start, nothing = read.start, Found({place: Missing()}) if read.skips_bad else None
            for piece in read.pieces():
                if isinstance(piece, Gap):
                    yield from self._gap(read, start, Found({place: Missing(left_out=piece.found)}))
                    break
                yield Chunk(piece, range(start, start + len(piece)), found=nothing)
                start += len(piece)

    def _gap(self, read: RowGroups, start: int, found: Found) -> Iterator[Chunk]:
        """Yield what stands for rows that cannot be read."""
        bounds = range(start, read.stop, read.piece_rows) if self.on_grid else range(start, start + 1)
        for lower in bounds:
            upper = min(lower + read.piece_rows, read.stop) if self.on_grid else lower
            rows = np.zeros((upper - lower, len(read.schema.names)), read.dtype)
            unread = np.ones(upper - lower, bool) if self.on_grid else None
            yield Chunk(rows, range(lower, upper), unread=unread, found=found)


class ParquetRows(LeavesOut, Rows):
    """Numeric columns of a parquet file, or of all the files in a folder (partitioned as Hive does it or not).

    Their common type is the smallest floating-point type that holds all of them exactly; what is missing is NaN. Of
    columns that have `categories` it is their numbers.
    Raises `DataError` if there is nothing, a column is missing or holds no numbers, or pyarrow is not installed.
    """

    def __init__(
        self,
        path: str,
        columns: Sequence[str] | None = None,
        *,
        on_bad_chunk: str = "raise",
        categories: Categories | None = None,
    ) -> None:
        dataset = open_dataset(path)
        if not dataset.files:
            message = f"there is no parquet file in {path}"
            raise DataError(message)
        self.name, self.skips_bad = path, on_bad_chunk == "skip"
        self.package_bytes = _ARROW_BYTES
        self._unreadable, self._on_grid = Unreadable(), False
        import pyarrow as pa  # noqa: PLC0415 - an optional package, found by now

        self.feature_names = _wanted(path, dataset.schema, columns)
        schema = pa.schema([dataset.schema.field(name) for name in self.feature_names])
        self._categories = dict(categories or {})
        small = np.dtype(np.float32)  # numbers of categories are
        types = [small if field.name in self._categories else _dtype(path, field) for field in schema]
        dtype = np.result_type(np.float16, *types)
        row_bytes = max(len(types) * dtype.itemsize, 1)
        self._schema, self._files = schema, list(_groups(path, dataset))
        n_rows = sum(count for _, groups in self._files for _, count in groups)
        self.n_rows, self.n_features, self.dtype = check_table(path, (n_rows, len(types)), dtype)
        self.reads = self._reads(max(min(READ_BYTES // row_bytes, READ_ROWS), 1))
        self._bounds = batch_bounds(len(self.reads))

    def _reads(self, most: int) -> list[RowGroups]:
        """Return row groups, of up to `most` rows together; larger ones are read in pieces of that many."""
        reads: list[RowGroups] = []
        start = 0
        for fragment, groups in self._files:
            for ids, n_rows in _joined(groups, 0 if self.skips_bad else most):  # what is left out is a row group
                part = fragment.subset(row_group_ids=ids)
                what = (part, self._schema, self.dtype, start, n_rows, most, self.name, self.skips_bad)
                reads.append(RowGroups(*what, categories=self._categories))
                start += n_rows
        return reads

    def batches(self) -> list[Batch]:
        """Return batches of row groups."""
        bad = {region for (region,) in self._unreadable.by_array().get(self.name, ())}
        reads = [replace(read, is_bad=(read.start, read.stop) in bad) for read in self.reads] if bad else self.reads
        return [ParquetBatch(reads[first:stop], self._on_grid) for first, stop in self._bounds]

    def check_found(self, found: Found) -> Sequence[LeftOut]:
        """Judge what could not be read; raises `MissingDataError` if it could be read before."""
        n_read = sum(stop - start for start, stop in found.batches)
        return self._unreadable.judge(found, all_read=n_read >= self.n_rows)

    def divided(self, n_batches: int) -> Rows:
        """Return the same rows in at least `n_batches` batches, if there are as many row groups."""
        if len(self._bounds) >= n_batches:
            return self
        finer = copy.copy(self)
        finer.reads = self._reads(max(min(self.n_rows // n_batches, self.reads[0].piece_rows), 1))
        vars(finer)["_bounds"] = batch_bounds(len(finer.reads), n_batches)
        return finer

    @property
    def read_rows(self) -> int:
        """Rows of a piece."""
        return min(self.reads[0].piece_rows, max(read.n_rows for read in self.reads))

    @property
    def n_batches(self) -> int:
        """How many batches there are."""
        return len(self._bounds)

    @property
    def decoding_bytes(self) -> int:
        """What pyarrow holds: a row group as it is stored and decoded, and pieces; all of these where bad ones are."""
        group = max(read.n_rows for read in self.reads) * self.n_features * self.dtype.itemsize
        return (2 + self.skips_bad) * group + self.read_bytes

    @property
    def array(self) -> dask.array.Array:
        """The same rows as a lazy Dask array, a block for each read."""
        import dask.array  # noqa: PLC0415 - workers do without

        name = f"dem-parquet-{uuid.uuid4().hex}"
        layer: Nodes = {(name, i, 0): Task((name, i, 0), RowGroups.table, read) for i, read in enumerate(self.reads)}
        chunks = (tuple(read.n_rows for read in self.reads), (self.n_features,))
        return dask.array.Array(layer, name, chunks, meta=np.empty((0, self.n_features), self.dtype))


def outline(path: str) -> dict[str, Any]:
    """Return what the footers tell of a parquet file or folder: rows, files, row groups, and the types of columns."""
    dataset = open_dataset(path)
    files = [groups for _, groups in _groups(path, dataset)]
    sizes = [n_rows for groups in files for _, n_rows in groups]
    kinds = {name: dataset.schema.field(name).type for name in _wanted(path, dataset.schema, None)}
    return {
        "rows": sum(sizes),
        "files": len(files),
        "row_groups": len(sizes),
        "largest_row_group": max(sizes, default=0),
        "columns": {
            name: str(np.dtype(kind.to_pandas_dtype()) if _is_number(kind) else kind) for name, kind in kinds.items()
        },
    }


def column_names(path: str) -> tuple[str, ...]:
    """Return the names of all columns of a parquet file or folder but the index of a data frame."""
    return _wanted(path, open_dataset(path).schema, None)


def open_dataset(path: str) -> Any:
    """Return the pyarrow dataset at a path or URL."""
    try:
        from pyarrow import dataset  # noqa: PLC0415 - an optional package
    except ImportError as error:
        message = 'reading parquet needs the package pyarrow, which is not installed: pip install "dask-em[parquet]"'
        raise DataError(message) from error
    place, scheme = split_scheme(path)
    try:
        if scheme is None:
            return dataset.dataset(place, format="parquet", partitioning="hive")
        from fsspec.core import url_to_fs  # noqa: PLC0415 - comes with the packages of URLs

        filesystem, place = url_to_fs(path)
        return dataset.dataset(place, filesystem=filesystem, format="parquet", partitioning="hive")
    except FileNotFoundError as error:
        message = f"there is nothing at {path}; give the path of a parquet file or folder"
        raise DataError(message) from error
    except Exception as error:  # whatever the file, or its service, makes pyarrow raise
        message = f"{path} cannot be opened as parquet ({reason(error)})"
        raise DataError(message) from error


def _wanted(path: str, schema: Any, columns: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the columns to read: those given, or all but the index of a data frame."""
    try:
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        names = [name for name in schema.names if name not in index]
    except Exception as error:  # JSON, which may be anything
        message = f"{path} cannot be opened as parquet: its metadata for pandas are damaged ({reason(error)})"
        raise DataError(message) from error
    if columns is None:
        return tuple(names)
    if isinstance(columns, str) or not columns:
        message = f"columns must be a list of names such as ['u', 'g'], not {columns!r}"
        raise DataError(message)
    for name in columns:
        if name not in schema.names:
            listing = ", ".join(map(str, names[:20])) + (", …" if len(names) > 20 else "")
            message = f"{path} has no column {name!r}; it has {listing}"
            raise DataError(message)
    twice = next((name for i, name in enumerate(columns) if name in columns[:i]), None)
    if twice is not None:
        message = f"column {twice!r} of {path} is named twice; name each column once"
        raise DataError(message)
    return tuple(columns)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa  # noqa: PLC0415 - an optional package

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _dtype(path: str, field: Any) -> np.dtype[Any]:
    """Return the dtype of a column as NumPy has it."""
    if not _is_number(field.type):
        message = (
            f"column {field.name!r} of {path} holds values of type {field.type}, and dem needs numbers; name the "
            "columns to use (columns=['u', 'g'], --columns u,g)"
        )
        raise WordsError(message)
    dtype: np.dtype[Any] = np.dtype(field.type.to_pandas_dtype())
    return dtype


def _groups(path: str, dataset: Any) -> Iterator[tuple[Any, list[tuple[int, int]]]]:
    """Yield each file, in the order of their names, with the numbers and rows of its row groups."""

    def with_footer(fragment: Any) -> tuple[Any, list[tuple[int, int]]]:
        try:
            return fragment, retried(lambda: [(group.id, group.num_rows) for group in fragment.row_groups])
        except Exception as error:  # whatever the file, or its service, makes pyarrow raise
            message = f"{fragment.path} of {path} cannot be read ({reason(error)})"
            raise DataError(message) from error

    with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="dem-footers") as pool:
        yield from pool.map(with_footer, dataset.get_fragments())


def _joined(groups: Sequence[tuple[int, int]], most: int) -> Iterator[tuple[list[int], int]]:
    """Yield the numbers of consecutive row groups that together have no more than `most` rows, and these."""
    ids: list[int] = []
    total = 0
    for number, n_rows in groups:
        if ids and total + n_rows > most:
            yield ids, total
            ids, total = [], 0
        if n_rows:
            ids.append(number)
            total += n_rows
    if ids:
        yield ids, total
