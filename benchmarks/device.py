"""Seconds per pass where the rows are CuPy arrays: resident on the device, and read from zarr in this machine's memory.

    .venv/bin/python benchmarks/device.py                   # a few minutes, where there is a CUDA device and CuPy
    PYTHONPATH=tests .venv/bin/python benchmarks/device.py --package strict_device --scale 0.002   # whether it runs

Overlapping Gaussians in single precision; the M-step, on the host, is part of a pass. The share of the peak is that of
the flops which the products need, (n, p) by (p, K) twice, of those of a square product in the same precision. Two fits
must give the same bits. Writes benchmarks/results/device.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from importlib import import_module
from typing import Any

import dask.array
import numpy as np
import zarr
from common import Stopwatch, announce, centres_of, median, mixture_rows, save, seconds_text, table, width

import dem

#: rows, features, components, type of covariance, None for k-means
SHAPES = [
    (1_000_000, 128, 1024, "spherical"),
    (1_000_000, 128, 1024, "diag"),
    (1_000_000, 32, 64, "full"),
    (1_000_000, 64, 64, "full"),
    (100_000, 128, 16, "full"),
    (1_000_000, 128, 1024, None),
]
TARGETS = "wanted: 25 ms for the first, 60 % of the peak for full covariances, 5 GB/s from zarr"
ITERATIONS, CHUNK_ROWS = 5, 131_072


def device_package(name: str) -> Any:
    """Return the package whose arrays lie on a device, or None with a line that says why there is none."""
    try:
        package = import_module(name)
    except ImportError:
        print(f"nothing measured: {name} is not installed (pip install 'dask-em[cuda12]')")
        return None
    if hasattr(package, "is_available") and not package.is_available():
        print("nothing measured: there is no CUDA device")
        return None
    return package


def peak(package: Any, size: int) -> float:
    """Return the flops per second of a square product in single precision."""
    one = package.asarray(np.random.default_rng(0).normal(size=(size, size)).astype(np.float32))
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        float(package.matmul(one, one)[0, 0])  # waits for it
        seconds.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(seconds)


def fitted(rows: Any, centres: np.ndarray, covariance: str | None) -> tuple[list[float], np.ndarray]:
    """Return the seconds of each pass but the first, and where the centres end."""
    watch, k = Stopwatch([]), len(centres)
    options: dict[str, Any] = {"max_iter": ITERATIONS + 1, "tol": 0.0, "random_state": 0, "callbacks": [watch]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if covariance is None:
            model = dem.KMeans(k, init=centres, **options).fit(rows)
            return watch.seconds[1:], model.cluster_centers_
        shape = {"full": (k, *centres.shape[1:] * 2), "diag": centres.shape, "spherical": (k,)}[covariance]
        precisions = np.broadcast_to(np.eye(shape[-1]) if covariance == "full" else 1.0, shape).copy()
        start = {"weights_init": np.full(k, 1.0 / k), "means_init": centres, "precisions_init": precisions}
        model = dem.GaussianMixture(k, covariance_type=covariance, **start, **options).fit(rows)
    return watch.seconds[1:], model.means_


def products(n: int, d: int, k: int, covariance: str | None) -> float:
    """Return the flops of a pass: terms of z, or features, times rows and components, twice."""
    if covariance == "full" and d > 64:  # each component in its own frame
        return 4.0 * n * k * d * d
    terms = {"full": width(d, "full"), "diag": width(d, "diag"), "spherical": d + 2, None: d}[covariance]
    return 4.0 * n * k * terms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", default="cupy", help="whose arrays hold the rows")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes")
    options = parser.parse_args()
    package = device_package(options.package)
    if package is None:
        return
    described = announce("Rows on a device")
    flops_at_peak = peak(package, max(int(8192 * min(10 * options.scale, 1.0)), 64))
    print(f"peak of float32: {flops_at_peak / 1e12:.3g} Tflop/s; {TARGETS}")
    found = []
    for n, d, k, covariance in SHAPES:
        n, k = max(int(n * options.scale), 2000), max(int(k * min(20 * options.scale, 1.0)), 4)
        centres = centres_of("overlapping", d, k)
        rows = mixture_rows(n, d, k, np.float32, centres=centres)
        resident = package.asarray(rows)
        seconds, ends = fitted(resident, centres, covariance)
        again, ends_again = fitted(resident, centres, covariance)
        del resident
        store = zarr.create_array(zarr.storage.MemoryStore(), data=rows, chunks=(CHUNK_ROWS, d), compressors=None)
        lazy = dask.array.from_zarr(store).map_blocks(package.asarray, dtype=rows.dtype, meta=np.empty((0, 0)))
        from_zarr = median(fitted(lazy, centres, covariance)[0])
        each = median(seconds + again)
        found.append(
            {
                "shape": [n, d, k],
                "model": covariance or "k-means",
                "seconds": each,
                "share_of_peak": products(n, d, k, covariance) / each / flops_at_peak,
                "same_bits": bool(np.array_equal(ends, ends_again)),
                "from_zarr_gigabytes_per_second": rows.nbytes / from_zarr / 1e9,
            }
        )
    lines = [
        (
            "×".join(map(str, one["shape"])),
            one["model"],
            seconds_text(one["seconds"]),
            f"{one['share_of_peak']:.0%}",
            "yes" if one["same_bits"] else "NO",
            f"{one['from_zarr_gigabytes_per_second']:.3g}",
        )
        for one in found
    ]
    print(table(("n × d × K", "model", "s per pass", "share of peak", "same bits", "from zarr GB/s"), lines))
    if options.package == "cupy" and options.scale == 1.0:
        save("device", {"machine": described, "peak": flops_at_peak, "passes": found})


if __name__ == "__main__":
    main()
