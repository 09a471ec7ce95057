"""A pass over a store larger than memory: reading alone, arithmetic alone, both, and a plain Dask script beside it.

    .venv/bin/python benchmarks/out_of_core.py                          # 3 GB for each codec, about five minutes
    .venv/bin/python benchmarks/out_of_core.py --gigabytes 0.3 --repeats 2

float64, d = 32, K = 16 full, chunks of 16 MB, once each for zstd (zarr's default), blosc-lz4 and no compression; on two
threads and on two worker processes. Reading and arithmetic overlap where a pass takes hardly longer than the slower of
the two. Every side is a process of its own, so that its peak memory is its own. The store stays in the page cache: this
is the bandwidth of decoding, not of a disk. Writes benchmarks/results/out_of_core.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zarr
from common import CORES, HERE, announce, median, mixture_rows, peak_megabytes, save, table, timed
from conversation import LateError, Partner, serve
from zarr.codecs import BloscCodec, ZstdCodec

from dem.native import permitted

CODECS = {"zstd": [ZstdCodec()], "blosc-lz4": [BloscCodec(cname="lz4")], "none": None}
CHUNK_BYTES = 16_000_000
WHERE = ("threads", "processes")
PIPELINES = ("zarr", "zarrs")  # who decodes
WORKER_MEMORY = "2GB"  # where decoded chunks stay on the workers
# Pass over the slower of reading and arithmetic; plain Dask over dem; megabytes.
TARGETS = {"overlap": 1.15, "threads": 3.0, "processes": 4.0, "megabytes": 600.0}
LIMIT = 300.0


def write_store(path: Path, gigabytes: float, n_features: int, n_components: int, codec: str) -> zarr.Array:
    """Write a store of float64 in 16 MB chunks."""
    chunk_rows = CHUNK_BYTES // (8 * n_features)
    n_chunks = max(1, round(gigabytes * 1e9 / (8 * n_features * chunk_rows)))
    stored = zarr.create_array(
        path,
        shape=(n_chunks * chunk_rows, n_features),
        chunks=(chunk_rows, n_features),
        dtype="f8",
        compressors=CODECS[codec],
    )
    base = mixture_rows(chunk_rows, n_features, n_components).round(3)  # rounding leaves the codec something to do

    def write(number: int) -> None:
        stored[number * chunk_rows : (number + 1) * chunk_rows] = np.roll(base, 131 * number, axis=0)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(write, range(n_chunks)))
    return stored


# dem, in a process of its own -----------------------------------------------------------------------------------


def serve_dem(path: str, n_components: int, where: str, cache: str) -> None:
    """Answer "reading", "arithmetic" and "pass" with seconds and peaks of memory."""
    import dask  # noqa: PLC0415
    from sources import Model, Resident, cached_bytes, nothing  # noqa: PLC0415

    import dem  # noqa: PLC0415
    from dem.engine import connect  # noqa: PLC0415

    stored, resident = dem.open_rows(path), Resident(path)
    model = Model(zarr.open_array(path, mode="r")[:20000], n_components)

    def busy() -> float:
        """Return the processor seconds spent so far."""
        client = getattr(engine, "client", None)
        return sum(client.run(time.process_time).values()) if client else time.process_time()

    def answer(question: str) -> dict:
        before = busy()
        if question == "reading":
            seconds = timed(lambda: engine.sweep(stored, [nothing]))
        else:
            seconds = model.iteration(resident if question == "arithmetic" else stored, engine)
        cpu = busy() - before
        client = getattr(engine, "client", None)
        workers = list(client.run(peak_megabytes).values()) if client else []
        kept = sum(client.run(cached_bytes).values()) if client and cache == "auto" else 0
        return {
            "seconds": seconds,
            "cpu": cpu,
            "cached": kept,
            "driver_megabytes": peak_megabytes(),
            "worker_megabytes": workers,
        }

    dask.config.set({"dem.cache": cache if cache == "auto" else int(cache)})
    processes = {"workers": CORES, "memory_limit": WORKER_MEMORY} if where == "processes" else {}
    with connect(**processes) as engine:
        serve(answer)


# The benchmark --------------------------------------------------------------------------------------------------


def measure(
    path: Path, n_components: int, where: str, repeats: int, plain_repeats: int, cache: str, pipeline: str
) -> dict:
    """Time dem and, where asked for, the plain script, alternately."""
    served = [sys.executable, HERE / "out_of_core.py", "--serve", path, str(n_components), where, cache]
    dem_side = Partner(served, 120, environment={"DASK_DEM__CODEC_PIPELINE": pipeline})
    plain = None
    if plain_repeats:
        script = [sys.executable, HERE / "plain_dask.py", path, str(n_components), where]
        plain = Partner(script, 120, environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    timings: dict[str, list[float]] = {"reading": [], "arithmetic": [], "pass": [], "plain": []}
    cpu: dict[str, list[float]] = {"reading": [], "arithmetic": [], "pass": []}
    memory: dict[str, dict] = {}
    try:
        dem_side.ask("reading", LIMIT)  # brings the store into the page cache and places the batches
        for number in range(repeats):
            for what in ("reading", "arithmetic", "pass"):
                answer = dem_side.ask(what, LIMIT)
                timings[what].append(answer["seconds"])
                cpu[what].append(answer["cpu"])
            memory["dem"] = answer
            if plain and number < plain_repeats:
                answer = plain.ask("pass", LIMIT)
                timings["plain"].append(answer["seconds"])
                memory["plain"] = answer
    except LateError as error:
        print(f"{path.name} on {where}: {error}")
    finally:
        dem_side.close()
        if plain:
            plain.close()
    seconds = {what: median(values) if values else None for what, values in timings.items()}
    return {
        "where": where,
        "pipeline": pipeline,
        "cache": cache,
        "cached_gigabytes": memory["dem"]["cached"] / 1e9,
        "seconds": seconds,
        "cpu_seconds": {what: median(values) for what, values in cpu.items() if values},
        "busy": median(used / wall / CORES for used, wall in zip(cpu["pass"], timings["pass"], strict=True)),
        "overlap": seconds["pass"] / max(seconds["reading"], seconds["arithmetic"]),
        "plain_ratio": seconds["plain"] / seconds["pass"] if seconds["plain"] else None,
        "megabytes": {side: _megabytes(answer) for side, answer in memory.items()},
        "all": timings,
    }


def _megabytes(answer: dict) -> dict:
    workers = answer["worker_megabytes"]
    return {
        "driver": answer["driver_megabytes"],
        "workers": workers,
        "largest": max([answer["driver_megabytes"], *workers]),
    }


def summary(result: dict) -> str:
    """Return the table, with the targets."""
    cells = []
    for row in result["rows"]:
        seconds, where = row["seconds"], row["where"]
        ratio = f"{row['plain_ratio']:.1f}× ({TARGETS[where]:g}×)" if row["plain_ratio"] else "–"
        cpu = row["cpu_seconds"]
        bound = max(seconds["reading"], seconds["arithmetic"], (cpu["reading"] + cpu["arithmetic"]) / CORES)
        cells.append(
            [
                row["codec"],
                row.get("pipeline", "zarr"),
                f"2 {where}" + (f", {row['cached_gigabytes']:.1f} GB cached" if row["cache"] == "auto" else ""),
                f"{seconds['reading']:.2f}",
                f"{seconds['arithmetic']:.2f}",
                f"**{seconds['pass']:.2f}**",
                f"{row['overlap']:.2f} ({TARGETS['overlap']})",
                f"{row['busy']:.0%}",
                f"{seconds['pass'] / bound:.2f}",
                f"{seconds['plain']:.1f}" if seconds["plain"] else "–",
                ratio,
                f"{row['megabytes']['dem']['largest']:.0f} ({TARGETS['megabytes']:.0f})",
                f"{row['megabytes']['plain']['largest']:.0f}" if "plain" in row["megabytes"] else "–",
            ]
        )
    title = (
        f"{result['gigabytes']:.1f} GB, {result['n']:.2g} × {result['d']}, K = {result['K']} full, chunks of 16 MB.\n\n"
    )
    header = [
        "codec",
        "by",
        "on",
        "reading s",
        "arithmetic s",
        "pass s",
        "pass / slower (target)",
        "cores busy",
        "pass / bound",
        "plain s",
    ]
    return title + table([*header, "plain / dem (target)", "dem peak MB (target)", "plain peak MB"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.072, help="decoded size of each store")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--plain-repeats", type=int, default=1, help="iterations of the plain Dask script; 0 leaves it out"
    )
    parser.add_argument("--pipelines", default=",".join(PIPELINES), help="who decodes: zarr, zarrs")
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--scratch", help="folder for the stores (default: the system's temporary folder)")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_dem(options.serve[0], int(options.serve[1]), *options.serve[2:])
        return
    n_features, n_components = 32, 16
    result = {"machine": announce("A pass over a store larger than memory"), "rows": []}
    for codec in options.codecs.split(","):
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            path = Path(scratch) / f"{codec}.zarr"
            stored = write_store(path, options.gigabytes, n_features, n_components, codec)
            result |= {"n": stored.shape[0], "d": n_features, "K": n_components, "gigabytes": stored.nbytes / 1e9}
            stored_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            ways = [(where, "0", pipeline) for where in WHERE for pipeline in options.pipelines.split(",")]
            for where, cache, pipeline in ways + [("processes", "auto", "zarr")] * (codec == "zstd"):
                # The plain script's time hardly depends on the codec: zstd alone.
                plain_repeats = options.plain_repeats if (codec, cache, pipeline) == ("zstd", "0", "zarr") else 0
                row = measure(path, n_components, where, options.repeats, plain_repeats, cache, pipeline)
                result["rows"].append({"codec": codec, "stored_gigabytes": stored_bytes / 1e9, **row})
                print(f"{codec}, {where}: {row['seconds']}, overlap {row['overlap']:.2f}", flush=True)
    print("\n" + summary(result))
    save("out_of_core", result)


if __name__ == "__main__":
    with permitted(True):  # engines that are given rows without a judgement of what pays
        main()
