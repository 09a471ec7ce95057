"""What is fuzzed: folders of files that are well, and what reads them. Of changes only a `DemError` may come."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

import dem
from dem.cli.main import UNEXPECTED
from dem.cli.main import dem as command
from dem.errors import DemError

logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # what nobody waits for any more
ROWS = np.random.default_rng(0).normal(size=(40, 3))


@dataclass(frozen=True)
class Target:
    """Files, and what is done with them.

    Attributes
    ----------
    write : callable
        Writes files that are well into a folder.
    read : callable
        Reads what is in that folder.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], None]


def write_models(folder: Path) -> None:
    """Write a model of each kind of attributes."""
    dem.GaussianMixture(2, random_state=0, means_init=ROWS[:2], noise=True).fit(ROWS).save(folder / "gaussian")
    dem.KMeans(2, random_state=0, scale=True).fit(ROWS).save(folder / "kmeans")


def read_models(folder: Path) -> None:
    """Load models, show and use those that are taken."""
    meet_shell(["info", str(folder / "gaussian")])
    for name in ("gaussian", "kmeans"):
        model = dem.load(folder / name)
        repr(model)
        model.predict(ROWS)


def write_checkpoint(folder: Path) -> None:
    """Write a snapshot of values of all kinds, and their shape, where it is changed as JSON."""
    from dem.data.snapshots import Snapshots  # noqa: PLC0415
    from dem.em.algorithm import Fit, Status  # noqa: PLC0415
    from dem.packing import pack  # noqa: PLC0415

    value = ({"a": ROWS, 2: [1, 2.5, "x", None]}, Fit((ROWS[0],), Status.FAILED, [1.0]), range(3), np.float64(3.0))
    Snapshots(folder).write("a", value)
    (folder / "shape.json").write_text(json.dumps(pack(value)[0]))


def read_checkpoint(folder: Path) -> None:
    """Read it; that there is none is no error of dem's."""
    from dem.data.snapshots import Snapshots  # noqa: PLC0415
    from dem.packing import unpack  # noqa: PLC0415

    with contextlib.suppress(FileNotFoundError):
        Snapshots(folder).read("a")
        with contextlib.suppress(ValueError, RecursionError):  # which `Snapshots` makes a `StoreError` of
            unpack(json.loads((folder / "shape.json").read_text()), [ROWS, ROWS[0], np.asarray(3.0)])


def write_zarr(folder: Path, zarr_format: Literal[2, 3] = 3, shards: tuple[int, int] | None = None) -> None:
    """Write an array with coordinates and what packs it."""
    group = zarr.create_group(folder / "x", zarr_format=zarr_format)
    array = group.create_array("v", shape=ROWS.shape, dtype="i2", chunks=(10, 3), shards=shards)
    array[...] = (100 * ROWS).astype("i2")
    array.attrs.update({"scale_factor": 0.01, "add_offset": 1.0, "_FillValue": -999})
    group.create_array("band", data=np.arange(3.0))
    for name, dims in {"v": ["row", "band"], "band": ["band"]}.items():
        file = folder / "x" / name / ("zarr.json" if zarr_format == 3 else ".zattrs")
        described = json.loads(file.read_text())
        described["dimension_names" if zarr_format == 3 else "_ARRAY_DIMENSIONS"] = dims
        file.write_text(json.dumps(described))


def read_zarr(folder: Path) -> None:
    """Describe and fit it."""
    meet_shell(["info", str(folder / "x"), "--variable", "v"])
    meet_shell(["info", str(folder / "x")])
    dem.KMeans(2, max_iter=2, n_init=1, random_state=0).fit(str(folder / "x"), variable="v", missing="skip")


def write_parquet(folder: Path) -> None:
    """Write a table."""
    import pandas as pd  # noqa: PLC0415

    pd.DataFrame(ROWS, columns=["u", "v", "w"]).to_parquet(folder / "x.parquet", row_group_size=10)


def read_parquet(folder: Path) -> None:
    """Describe and fit it."""
    meet_shell(["info", str(folder / "x.parquet")])
    dem.KMeans(2, max_iter=2, n_init=1, random_state=0).fit(str(folder / "x.parquet"))


TARGETS = {
    "models": Target(write_models, read_models),
    "zarr 2": Target(lambda folder: write_zarr(folder, zarr_format=2), read_zarr),
    "zarr 3": Target(write_zarr, read_zarr),
    "shards": Target(lambda folder: write_zarr(folder, shards=(20, 3)), read_zarr),
    "parquet": Target(write_parquet, read_parquet),
}
if importlib.util.find_spec("dem.data.snapshots") is not None:
    TARGETS["checkpoints"] = Target(write_checkpoint, read_checkpoint)


def meet(read: Callable[[], object]) -> None:
    """Call what may raise nothing but a `DemError`, which must be one line."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            read()
        except DemError as error:
            if "\n" in str(error).strip():
                message = f"more than one line: {error}"
                raise AssertionError(message) from error


def write_shell(folder: Path) -> None:
    """Write what commands are about."""
    write_models(folder)
    zarr.create_array(folder / "data.zarr", data=ROWS, chunks=(10, 3))
    write_parquet(folder)


def meet_shell(arguments: list[str]) -> None:
    """Call `dem`; it may end with any exit code but that of what was not expected, and without a traceback."""
    said = io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            command.main(arguments)
        except SystemExit as end:
            code = end.code
    if code == UNEXPECTED or "Traceback" in said.getvalue():
        raise AssertionError(said.getvalue().strip())
