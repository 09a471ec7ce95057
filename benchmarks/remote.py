"""Reading from an object store: dem's passes beside what zarr reads concurrently, also with an answer 50 ms late.

    .venv/bin/python benchmarks/remote.py                     # two minutes
    .venv/bin/python benchmarks/remote.py --megabytes 20 --repeats 1

A server of moto's on loopback holds float64 rows in chunks without compression; a proxy in a process of its own passes
its answers on late, each byte by as much. Since that server takes more processor time than any reader, so does a folder
whose every answer is as late, at no cost. `zarr` reads the whole array by one call (`async.concurrency` 10, its
default, and 32); dem sweeps it with a work that does nothing, so that nothing hides the waiting, with one chunk ahead
of each of two threads, with so many reads in flight, and with as many as it finds out. All take turns in one process.
Writes benchmarks/results/remote.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import dask
import numpy as np
import zarr
from common import HERE, announce, median, save, table, timed
from sources import nothing
from zarr.storage import LocalStore, WrapperStore

sys.path.insert(0, str(HERE.parent / "tests"))  # the servers of the tests

LATE = (0.0, 0.05)  # seconds
CHUNKS = ((16, 2_400_000), (64, 4_000_000))  # how many, of how many bytes
IN_FLIGHT = (2, 8, 32, "auto")
ZARR = (10, 32)  # requests at once
TARGET = 0.9


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: float) -> None:
    """Pass bytes on, each as late, without holding up those behind."""
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def send() -> None:
        while True:
            due, data = await waiting.get()
            if (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    sender = asyncio.create_task(send())
    with suppress(OSError):
        while data := await reader.read(2**18):
            waiting.put_nowait((time.monotonic() + late, data))
    waiting.put_nowait((time.monotonic() + late, b""))
    with suppress(OSError):
        await sender


async def _proxy(host: str, port: int, late: float) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection(host, port, limit=2**20)
        await asyncio.gather(_pass(reader, to_server[1], 0.0), _pass(to_server[0], writer, late))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def delayed(address: str, late: float) -> Iterator[str]:
    """Return the address of a way to a server whose answers come late; that of the server where they are not to."""
    if not late:
        yield address
        return
    command = [sys.executable, HERE / "remote.py", "--proxy", address.removeprefix("http://"), str(late)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


class LateStore(WrapperStore):
    """A store whose answers come 50 ms late."""

    async def get(self, key: str, prototype: object, byte_range: object = None) -> object:
        await asyncio.sleep(LATE[-1])
        return await self._store.get(key, prototype, byte_range)

    def with_read_only(self, read_only: bool = False) -> LateStore:  # noqa: ARG002
        return self


def measure(array: zarr.Array, n_bytes: int, repeats: int) -> dict[str, float]:
    """Return megabytes per second of each way to read, the median of passes that take turns."""
    import dem  # noqa: PLC0415
    from dem.engine.local import LocalEngine  # noqa: PLC0415

    seconds: dict[str, list[float]] = {}

    def one(name: str, read: Callable[[], object]) -> None:
        seconds.setdefault(name, []).append(timed(read))

    rows = dem.open_rows(array)
    rows.waits = True  # also of the folder
    engines = {n: LocalEngine(2) for n in IN_FLIGHT}
    ahead, rows_ahead = LocalEngine(2), dem.open_rows(array)
    rows_ahead.waits = False  # as of a store of this machine
    for number in range(repeats + 1):
        for n in ZARR:
            with zarr.config.set({"async.concurrency": n}):
                one(f"zarr {n}", lambda: array[...])
        one("dem, one ahead", lambda: ahead.sweep(rows_ahead, [nothing]))
        for n, engine in engines.items():
            with dask.config.set({"dem.reads-in-flight": n}):
                one(f"dem {n}", lambda engine=engine: engine.sweep(rows, [nothing]))
        if number == 0:  # connections are made, and the pace is learnt
            seconds.clear()
    for engine in (ahead, *engines.values()):
        engine.close()
    return {name: n_bytes / 1e6 / median(values) for name, values in seconds.items()}


def summary(result: dict) -> str:
    """Return the table, with the target."""
    if not result["rows"]:
        return "Not measured yet on a machine that does nothing else: `benchmarks/remote.py`."
    ways = list(result["rows"][0]["megabytes_per_second"])
    cells = []
    for row in result["rows"]:
        rates = row["megabytes_per_second"]
        best = rates["dem auto"] / rates["zarr 10"]
        cells.append(
            [
                f"{row['n_chunks']} × {row['chunk_bytes'] / 1e6:.1f} MB",
                row["store"],
                f"{1e3 * row['late']:.0f} ms",
                *(f"{rates[way]:.0f}" for way in ways),
                f"**{best:.2f}** ({TARGET})",
            ]
        )
    return "MB/s.\n\n" + table(["chunks", "store", "late", *ways, "dem auto / zarr 10 (target)"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, help="of each array at most")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--proxy", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.proxy:
        host, port = options.proxy[0].split(":")
        asyncio.run(_proxy(host, int(port), float(options.proxy[1])))
        return
    import s3  # noqa: PLC0415 - of the tests
    import s3fs  # noqa: PLC0415

    result = {"machine": announce("Reading from an object store"), "rows": []}
    with s3.moto() as server:
        os.environ.update(server.environment())
        # As dem opens URLs: botocore would hold up all beyond ten requests.
        storage = {"config_kwargs": {"max_pool_connections": 64}, "key": server.keys[0], "secret": server.keys[1]}
        s3fs.S3FileSystem(endpoint_url=server.address, **storage).call_s3("create_bucket", Bucket="bench")
        for n_chunks, chunk_bytes in CHUNKS:
            if options.megabytes:
                n_chunks = min(n_chunks, max(int(options.megabytes * 1e6 / chunk_bytes), 1))
            n_rows, url = chunk_bytes // 80, f"s3://bench/{n_chunks}.zarr"
            rows = np.random.default_rng(0).normal(size=(n_chunks * n_rows, 10))
            how = {"data": rows, "chunks": (n_rows, 10), "compressors": None}
            zarr.create_array(url, storage_options={"endpoint_url": server.address, **storage}, **how)
            row = {"n_chunks": n_chunks, "chunk_bytes": chunk_bytes}
            for late in LATE:
                with delayed(server.address, late) as address:
                    near = {"endpoint_url": address, **storage}
                    rates = measure(zarr.open_array(url, mode="r", storage_options=near), rows.nbytes, options.repeats)
                result["rows"].append({**row, "store": "S3", "late": late, "megabytes_per_second": rates})
            with tempfile.TemporaryDirectory() as folder:
                zarr.create_array(f"{folder}/x.zarr", **how)
                slow = zarr.open_array(LateStore(LocalStore(f"{folder}/x.zarr")), mode="r")
                rates = measure(slow, rows.nbytes, options.repeats)
            result["rows"].append({**row, "store": "folder", "late": LATE[-1], "megabytes_per_second": rates})
            print(summary(result), flush=True)
    save("remote", result)


if __name__ == "__main__":
    main()
