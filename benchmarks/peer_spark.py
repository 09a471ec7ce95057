"""One side of `conversation`: EM iterations of Spark MLlib's GaussianMixture (full covariances only).

Arguments: file of float64 rows (C order), n, d, K, covariance. Each line asks for a number of iterations; the answer
contains the start, so that the benchmark takes differences.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
from conversation import serve
from pyspark.ml.clustering import GaussianMixture
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession

CORES = 2


def main() -> None:
    path, n_rows, n_features, n_components = sys.argv[1], *map(int, sys.argv[2:5])
    rows = np.memmap(path, dtype=np.float64, mode="r", shape=(n_rows, n_features))
    session = (
        SparkSession.builder.master(f"local[{CORES}]")
        .config("spark.driver.memory", "5g")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    with tempfile.TemporaryDirectory() as scratch:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(rows).ravel()), n_features)
        column = lists.cast(pa.list_(pa.float64()))
        pq.write_table(pa.table({"values": column}), Path(scratch) / "rows.parquet")
        frame = session.read.parquet(str(Path(scratch) / "rows.parquet"))
        frame = frame.select(array_to_vector("values").alias("features")).repartition(2 * CORES).cache()
        frame.count()

    def answer(question: str) -> dict:
        mixture = GaussianMixture(k=n_components, maxIter=int(question), tol=0.0, seed=0)
        began = time.perf_counter()
        model = mixture.fit(frame)
        seconds = time.perf_counter() - began
        weights = np.asarray(model.weights)
        return {"seconds": seconds, "uniform": bool(np.ptp(weights) < 1e-9)}

    serve(answer, version=pyspark.__version__)


if __name__ == "__main__":
    main()
