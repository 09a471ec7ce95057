"""What a worker needs by dem's reckoning, before it begins, and the peak that it then has.

    .venv/bin/python benchmarks/memory.py

Each fit, or writing of labels, has a worker process of its own, whose peak is that of its resident memory (VmHWM, so
Linux alone). Nothing is kept from pass to pass. Writes benchmarks/results/memory.json; `report.py` makes the table of
docs/reliability.md of it.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import dask
import numpy as np
import zarr
from common import announce, save, table
from distributed import Client, LocalCluster

import dem
from dem.events import MemoryNeeded


@dataclass(frozen=True)
class Case:
    """A fit."""

    store: str
    chunk_mb: float
    n_features: int
    n_components: int
    covariances: str = "full"
    dtype: str = "f8"
    n_threads: int = 1
    more: str = ""
    n_chunks: int = 6


CASES = [
    Case("zarr", 1, 2, 8),
    Case("zarr", 8, 64, 16),
    Case("zarr", 8, 64, 16, dtype="f4"),
    Case("zarr", 8, 64, 16, n_threads=2),
    Case("zarr", 64, 16, 8),
    Case("zarr", 64, 16, 8, n_threads=2),
    Case("zarr", 32, 16, 8, "diag", n_chunks=40),
    Case("zarr", 32, 16, 8, "diag", n_threads=2, n_chunks=40),
    Case("zarr", 256, 16, 8, "diag"),
    Case("zarr", 256, 16, 8, "diag", dtype="f4"),
    Case("zarr", 64, 16, 8, more="sample_weight"),
    Case("zarr", 64, 16, 8, "diag", more="predict_to"),
    Case("zarr", 4, 8, 8, "diag", more="default sample", n_chunks=24),
    Case("zarr", 16, 8, 20, "diag", more="k-means||"),
    Case("zarr shards", 60, 16, 8, "diag"),
    Case("zarr shards", 256, 16, 8, "diag"),
    Case("parquet", 64, 16, 8),
    Case("zarr", 4, 64, 512, "diag"),
    Case("zarr", 4, 64, 256),
    Case("zarr", 4, 64, 256, n_threads=2),
    Case("zarr", 4, 16, 512, more="3 starts"),
    Case("zarr", 8, 32, 64, more="incremental"),
    Case("zarr", 8, 32, 64, more="k-means"),
    Case("zarr", 8, 16, 8, more="marginalise"),
]


def stored(case: Case, folder: Path) -> str:
    """Write rows that do not compress, and return their path."""
    rng = np.random.default_rng(0)
    n = int(case.chunk_mb * 1e6) // (case.n_features * np.dtype(case.dtype).itemsize)

    def rows() -> Any:
        made = rng.normal(size=(n, case.n_features)) + 3.0 * rng.integers(0, 4, size=(n, 1))
        if case.more == "marginalise":
            made[rng.random(made.shape) < 0.1] = np.nan
        return made.astype(case.dtype)

    if case.store == "parquet":
        import pandas as pd  # noqa: PLC0415
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        parts = [pa.Table.from_pandas(pd.DataFrame(rows()).rename(columns=str)) for _ in range(case.n_chunks)]
        with pq.ParquetWriter(folder / "x.parquet", parts[0].schema) as writer:
            for part in parts:
                writer.write_table(part, row_group_size=n)
        return str(folder / "x.parquet")
    inner = max(n // 32, 1)
    n = n // inner * inner
    division: dict[str, Any] = {"chunks": (n, case.n_features)}
    if case.store == "zarr shards":
        division = {"chunks": (inner, case.n_features), "shards": (n, case.n_features)}
    shape = (n * case.n_chunks, case.n_features)
    array = zarr.create_array(folder / "x.zarr", shape=shape, dtype=case.dtype, **division)
    for start in range(0, shape[0], n):
        array[start : start + n] = rows()[:n]
    return str(folder / "x.zarr")


def peak() -> int:
    """Return the most memory that this process has had."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def measured(case: Case) -> dict[str, Any]:
    """Return what was needed and what was stated, in bytes."""
    told: list[MemoryNeeded] = []
    options: dict[str, Any] = {"random_state": 0, "sample_rows": 6000, "max_iter": 2, "tol": 0.0}
    options["callbacks"] = [lambda event: told.append(event) if isinstance(event, MemoryNeeded) else None]
    if case.more == "k-means":
        model: Any = dem.KMeans(case.n_components, init="random", n_init=1, **options)
    else:
        options |= {"covariance_type": case.covariances, "init_params": "random_from_data", "reg_covar": 1.0}
        options |= {"3 starts": {"n_init": 3}, "incremental": {"algorithm": "incremental"}}.get(case.more, {})
        options |= {"init_params": "k-means||", "n_init": 3} if case.more == "k-means||" else {}
        options |= {"sample_rows": None} if case.more == "default sample" else {}
        options |= {"missing": "marginalise"} if case.more == "marginalise" else {}
        model = dem.GaussianMixture(case.n_components, **options)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = stored(case, Path(folder))
        n_rows = 0 if case.more != "sample_weight" else zarr.open_array(path).shape[0]
        given = {"sample_weight": np.random.default_rng(1).integers(0, 3, n_rows)} if n_rows else {}
        if case.more == "predict_to":
            model.fit(zarr.open_array(path)[:20_000])
            told.clear()
        with (
            mock.patch("dem.estimators.memory.notify", lambda _, event: told.append(event)),
            dask.config.set({"dem.cache": 0}),
            LocalCluster(
                n_workers=1,
                threads_per_worker=case.n_threads,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit="16GB",
            ) as cluster,
            Client(cluster) as client,
        ):
            if case.more == "predict_to":
                model.predict_to(path, f"{folder}/labels.zarr")
            else:
                model.fit(path, **given)
            (found,) = client.run(peak).values()
    return {**asdict(case), "stated": told[0].n_bytes, "need": dict(told[0].need), "peak": found}


def memory_table(result: dict) -> str:
    """Return the table for the documentation."""
    header = ["store", "chunk", "features", "components", "", "threads", "stated", "peak", "stated / peak"]
    lines = [
        [
            row["store"],
            f"{row['chunk_mb']:g} MB, {row['dtype']}",
            row["n_features"],
            row["n_components"],
            row["more"] or row["covariances"],
            row["n_threads"],
            f"{row['stated'] / 1e6:.0f} MB",
            f"{row['peak'] / 1e6:.0f} MB",
            f"{row['stated'] / row['peak']:.2f}",
        ]
        for row in result["rows"]
    ]
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="numbers of cases, such as 0,3")
    options = parser.parse_args()
    chosen = [CASES[int(one)] for one in options.cases.split(",")] if options.cases else CASES
    result: dict[str, Any] = {"machine": announce("memory"), "rows": []}
    warnings.simplefilter("ignore")
    for case in chosen:
        row = measured(case)
        result["rows"].append(row)
        parts = {what: round(size / 1e6) for what, size in row["need"].items()}
        print(f"{row['stated'] / row['peak']:.2f}: {row['peak'] / 1e6:.0f} MB of {parts}, {case}", flush=True)
    if not options.cases:
        save("memory", result)
        print(memory_table(result))


if __name__ == "__main__":
    main()
