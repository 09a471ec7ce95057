"""Results and draws that are larger than memory: streamed chunk by chunk into zarr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import zarr
from numpy.typing import DTypeLike

from dem.data.atomic import check_destination
from dem.data.base import Batch, Chunk, Rows, batch_bounds
from dem.data.output_progress import Written, seed_of
from dem.data.sources import RowOptions
from dem.data.unfinished import output
from dem.data.zarr_writer import write_rows
from dem.em.predict import Imputed, RowFunction
from dem.engine import current_engine, current_told
from dem.errors import DataError, MissingDataError, OptionError
from dem.estimators import inputs, memory
from dem.estimators.checkpoints import output_job
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.native import permitted
from dem.validation import check_count, check_rows, check_seed

CHUNK_BYTES = 16 * 2**20


def predict_to(
    estimator: Any,
    data: Any,
    path: str,
    *,
    kind: str,
    dtype: DTypeLike | None,
    overwrite: bool,
    **given: Unpack[RowOptions],
) -> None:
    """Write what a model says of each row; see `Estimator.predict_to`."""
    if kind not in estimator._row_functions:
        message = f"kind must be one of {', '.join(estimator._row_functions)}, not {kind!r}"
        raise OptionError(message)
    check_destination(path, overwrite=overwrite)
    function = estimator._row_functions[kind](*estimator._model())
    signed = inputs.skips_gaps(estimator) or bool(getattr(estimator, "noise", False))
    signed |= given.get("on_bad_chunk") == "skip" or (isinstance(data, Rows) and data.skips_bad)
    wanted = _result_dtype(function, kind, getattr(estimator, estimator._entry.size), dtype, signed=signed)
    _write(estimator, function, data, path, wanted, kind, overwrite=overwrite, **given)


def impute_to(
    estimator: Any,
    function: Imputed,
    data: Any,
    path: str,
    *,
    random_state: int | None,
    overwrite: bool,
    **given: Unpack[RowOptions],
) -> None:
    """Write rows without gaps; see `Imputes.impute_to`."""
    check_destination(path, overwrite=overwrite)
    if function.seed is not None and random_state is None:
        function = replace(function, seed=_seed(path, function.seed))
    _write(estimator, function, data, path, function.dtype, "imputed", overwrite=overwrite, **given)


def _write(
    estimator: Any,
    function: RowFunction,
    data: Any,
    path: str,
    dtype: np.dtype[Any],
    name: str,
    *,
    overwrite: bool,
    **given: Unpack[RowOptions],
) -> None:
    """Write what a function says of each row; `name` is what it is called beside its coordinates."""
    rows = inputs.rows_of(estimator, data, reset=False, on_grid=True, **given)
    function = function.about(rows, skips_gaps=function.skips_gaps or inputs.skips_gaps(estimator))
    how: dict[str, Any] = {"dtype": dtype, "columns": function.columns, "overwrite": overwrite, "name": name}
    if name == "imputed":
        how |= {"last": rows.feature_dim or "feature", "labels": inputs.labels_of(rows)}
    seed = {} if getattr(function, "seed", None) is None else {"seed": function.seed}  # type: ignore[attr-defined]
    with current_engine() as engine:
        rows = memory.fitting([estimator], rows, engine, row_bytes=(function.columns or 1) * dtype.itemsize)
        with permitted(engine.uses_loops()):
            how["job"] = output_job(
                estimator,
                function,
                kind=type(function).__name__,
                features=function.feature_names,
                skips_gaps=function.skips_gaps,
                skips_bad=rows.skips_bad,
                allows_missing=rows.allows_missing,
                **seed,
            )
        try:
            write_rows(rows, function, path, **how, engine=engine, told=current_told())
        except MissingDataError:
            raise
        except DataError:
            support = function.family.support
            check_rows(rows, engine, replace(support, gaps=support.gaps or function.skips_gaps))  # says which row
            raise


def _result_dtype(
    function: RowFunction, kind: str, n_components: int, wanted: DTypeLike | None, *, signed: bool
) -> np.dtype[Any]:
    """Return the type that results are written in: of labels the smallest that holds them, and one more for none.

    That one is −1 if `signed`.
    """
    if wanted is None:
        return np.min_scalar_type(-n_components if signed else n_components) if kind == "labels" else function.dtype
    try:
        dtype = np.dtype(wanted)
    except TypeError as error:
        message = f"dtype must be the name of a type such as 'int16' or 'float32', not {wanted!r}"
        raise OptionError(message) from error
    if kind != "labels":
        fits = dtype.kind == "f" and dtype.itemsize in (4, 8)
        message = f"dtype must be 'float32' or 'float64' for {kind}, not {dtype.name!r}"
    else:
        fits = dtype.kind in ("i" if signed else "iu") and n_components - 1 <= np.iinfo(dtype).max
        message = f"dtype must be a type of whole numbers that holds labels to {n_components - 1}, not {dtype.name!r}"
    if not fits:
        raise OptionError(message)
    return dtype


class ToDraw(Rows):
    """Rows that do not exist yet: their chunks hold positions only, which the work turns into draws."""

    def __init__(self, n_rows: int, chunk_rows: int) -> None:
        self.name = "rows to draw"
        self.n_rows, self.chunk_rows = n_rows, chunk_rows
        self.n_features = 0
        self.dtype = np.dtype(np.float64)
        self.feature_names = None

    def batches(self) -> Sequence[Batch]:
        """Return batches of whole chunks."""
        starts = range(0, self.n_rows + self.chunk_rows, self.chunk_rows)
        bounds = batch_bounds(-(-self.n_rows // self.chunk_rows))
        return [ChunksToDraw(range(starts[a], min(starts[b], self.n_rows)), self.chunk_rows) for a, b in bounds]


@dataclass(frozen=True)
class ChunksToDraw(Batch):
    """Some chunks of `ToDraw`."""

    rows: range
    chunk_rows: int
    reads_ahead = False

    @property
    def span(self) -> range:
        """The rows to draw."""
        return self.rows

    def __iter__(self) -> Iterator[Chunk]:
        for start in self.rows[:: self.chunk_rows]:
            part = range(start, min(start + self.chunk_rows, self.rows.stop))
            yield Chunk(np.empty((len(part), 0)), part)


@dataclass(frozen=True, eq=False)
class Draw:
    """Work that draws a chunk's rows and writes them; the seed depends on the chunk's place alone."""

    family: Mixture[Any, Any]
    parameters: MixtureParameters[Any]
    path: str
    seed: int

    def __call__(self, chunk: Chunk) -> Written:
        """Write them."""
        start, stop = chunk.index[0], chunk.index[-1] + 1
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, int(start)]))
        rows, labels = self.family.sample(self.parameters, len(chunk), rng)
        group = zarr.open_group(self.path, mode="r+")
        group["rows"][start:stop] = rows  # type: ignore[index]
        group["labels"][start:stop] = labels  # type: ignore[index]
        return Written(len(chunk))


def _seed(path: str, drawn: int) -> int:
    """Return the seed that an unfinished output was begun with; else the one that was drawn now."""
    found = seed_of(path)
    return drawn if found is None else found


def sample_to(
    estimator: Any,
    n_rows: int,
    path: str,
    *,
    random_state: int | None,
    overwrite: bool,
    chunk_rows: int | None = None,
) -> None:
    """Write draws; see `MixtureEstimator.sample_to`."""
    check_count("n_rows", n_rows)
    check_count("chunk_rows", 1 if chunk_rows is None else chunk_rows)
    check_seed(random_state)
    family, parameters = estimator._model()
    n_features = estimator.n_features_in_
    chunk_rows = min(chunk_rows or max(CHUNK_BYTES // (8 * n_features), 1), n_rows)
    seed = random_state
    if seed is None:
        seed = _seed(path, int(np.random.SeedSequence().generate_state(1)[0]))
    dtype = family.sample(parameters, 1, np.random.default_rng(0))[0].dtype
    to_draw, work = ToDraw(n_rows, chunk_rows), Draw(family, parameters, "", seed)
    job = output_job(estimator, work, **{"what is written": "draws", "chunk_rows": chunk_rows, "seed": seed})
    with current_engine() as engine, output(path, job, to_draw, engine, overwrite=overwrite) as draft:
        if draft.is_new:
            attributes = {"seed": seed, "model": family.component.name}
            if (categories := getattr(estimator, "categories_", None)) is not None:
                attributes |= {"feature_names": list(estimator.feature_names_in_), "categories": categories}
            group = zarr.create_group(store=draft.path, attributes=attributes)
            for name, shape, kind in (("rows", (n_features,), dtype), ("labels", (), np.int64)):
                group.create_array(
                    name,
                    shape=(n_rows, *shape),
                    chunks=(chunk_rows, *shape),
                    dtype=kind,
                    chunk_key_encoding=draft.chunk_names,
                )
        draft.sweep(replace(work, path=draft.path), engine, current_told())
