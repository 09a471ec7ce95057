"""Fits under random faults, for half an hour: each is the same command again and again until it is done.

    .venv/bin/python benchmarks/soak.py                  # make soak
    .venv/bin/python benchmarks/soak.py --seconds 120 --seed 7

Commands run on threads, on processes of their own, and on a cluster beside; drivers, workers and the scheduler are
killed, drivers are asked to stop, chunks are damaged for a while. A command that ends is started again. Each model is
compared, bit for bit, with that of an undisturbed run; what is left over of processes and files is counted. Writes
benchmarks/results/soak.json; `report.py` makes the table of docs/reliability.md of it. The exit code is 1 if any fit
was lost or wrong, or anything was left over.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import zarr
from common import announce, save, table

import dem

JOBS = {
    "batch": ["fit", "--components", "6", "--tol", "0", "--max-iter", "60"],
    "k-means||, three starts": ["fit", "--components", "6", "--init", "k-means||", "--n-init", "3"],
    "squarem": ["fit", "--components", "6", "--tol", "1e-7", "--max-iter", "300", "--accelerate", "squarem"],
    "incremental": ["fit", "--components", "6", "--tol", "1e-6", "--algorithm", "incremental", "--max-in-flight", "1"],
    "stepwise": ["fit", "--components", "6", "--tol", "1e-6", "--algorithm", "stepwise", "--max-in-flight", "1"],
    "k-means": ["fit", "--components", "12", "--family", "kmeans", "--tol", "0"],
    "select": ["select", "--components", "1:5", "--tol", "1e-5"],
}
PLACES = ("threads", "processes", "cluster")
FAULTS = (
    "kill the driver",
    "stop the driver",
    "kill a worker",
    "kill all workers",
    "kill the scheduler",
    "damage a chunk",
)
# More starts than this of one command: it does not come to its end.
MOST_STARTS = 60


class Cluster:
    """A scheduler and two workers with nannies, each a process of its own; what dies is started again."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self.restore()

    def restore(self) -> None:
        """Start what is not there."""
        scheduler = self._processes.get("scheduler")
        if scheduler is None or scheduler.poll() is not None:
            self.close()
            options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
            scheduler = self._start("scheduler", "distributed.cli.dask_scheduler", options, stderr=subprocess.PIPE)
            for line in scheduler.stderr or ():
                if "Scheduler at:" in line:
                    break
            threading.Thread(target=drain, args=(scheduler.stderr,), daemon=True).start()
        for name in ("worker 1", "worker 2"):
            worker = self._processes.get(name)
            if worker is None or worker.poll() is not None:
                options = [self.address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"]
                self._start(name, "distributed.cli.dask_worker", options, stderr=subprocess.DEVNULL)

    def _start(self, name: str, module: str, options: list[str], stderr: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options], stdout=subprocess.DEVNULL, stderr=stderr, text=True
        )
        self._processes[name] = process
        return process

    def workers(self) -> list[psutil.Process]:
        """Return the processes that compute, below their nannies."""
        nannies = [process for name, process in self._processes.items() if name != "scheduler"]
        return [child for nanny in nannies for child in below(nanny.pid)]

    def kill_scheduler(self) -> None:
        """Kill it."""
        self._processes["scheduler"].kill()

    def close(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            for child in below(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()
        self._processes.clear()


def drain(stream: object) -> None:
    """Read what a process says, so that it does not wait for a reader."""
    for _ in stream:
        pass


class Command:
    """The same command, started again until it is done."""

    def __init__(self, name: str, place: str, folder: Path, data: str, seed: int, address: str) -> None:
        self.name, self.place, self.folder = name, place, folder
        self.out, self.kept = str(folder / "model.zarr"), str(folder / "kept")
        command, *options = JOBS[name]
        where = {"threads": [], "processes": ["--workers", "2"], "cluster": ["--scheduler", address]}[place]
        files = ["--out", self.out, "--checkpoint", self.kept]
        self.line = [command, data, *options, "--seed", str(seed), *where, *files]
        self.n_starts, self.peak, self.process, self.said = 0, 0, None, ""

    def start(self) -> None:
        """Start it, in a session of its own."""
        self.n_starts += 1
        with (self.folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dem", *self.line],
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(self.folder / "tmp")},
            )

    def wait(self, seconds: float) -> int | None:
        """Wait for its end; return the exit code, None if it still runs."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.peak = max(self.peak, psutil.Process(self.process.pid).memory_info().rss)
            if (code := self.process.poll()) is not None:
                self.said = (self.folder / "said").read_text().strip()
                return code
            time.sleep(0.02)
        return None


def below(pid: int) -> list[psutil.Process]:
    """Return the processes that another has started, but for those that keep track of resources."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def left_of(session: int, seconds: float = 20.0) -> int:
    """Return how many processes of a session are still there after a while."""
    deadline = time.monotonic() + seconds
    while True:
        there = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                    there.append(process)
        if not there or time.monotonic() > deadline:
            for process in there:
                process.kill()
            return len(there)
        time.sleep(0.2)


def inflict(fault: str, command: Command, cluster: Cluster, data: Path, rng: np.random.Generator) -> bool:
    """Bring a fault about; return whether there was anything to bring it about with."""
    own = below(command.process.pid) if command.place == "processes" else cluster.workers()
    if fault == "kill the driver":
        command.process.kill()
    elif fault == "stop the driver":
        command.process.send_signal(signal.SIGTERM)
    elif fault in ("kill a worker", "kill all workers"):
        if command.place == "threads" or not own:
            return False
        for process in own if fault == "kill all workers" else [own[rng.integers(len(own))]]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    elif fault == "kill the scheduler":
        if command.place != "cluster":
            return False
        cluster.kill_scheduler()
    else:
        chunk = sorted(path for path in (data / "c").rglob("*") if path.is_file())[rng.integers(30)]
        whole = chunk.read_bytes()
        damaged = chunk.with_suffix(".damaged")
        damaged.write_bytes(whole[: len(whole) // 2])
        damaged.replace(chunk)
        command.wait(1.0)
        damaged.write_bytes(whole)
        damaged.replace(chunk)
    return True


def model_of(path: str) -> list[bytes]:
    """Return what a model is compared by: parameters, and the log-likelihood of each iteration."""
    one = dem.load(path)
    history = np.array([record["log_likelihood"] for record in one.history_])
    return [*(np.asarray(getattr(one, f"{name}_")).tobytes() for name in one._parameter_names), history.tobytes()]  # noqa: SLF001


def run(command: Command, cluster: Cluster, data: Path, rng: np.random.Generator, counts: collections.Counter) -> bool:
    """Run a command under faults to its end; return whether it came there."""
    inflicted = False
    command.start()
    while command.n_starts <= MOST_STARTS:
        code = command.wait(rng.uniform(0.5, 6.0))
        if code is None:
            fault = FAULTS[rng.integers(len(FAULTS))]
            if inflict(fault, command, cluster, data, rng):
                counts[fault] += 1
                inflicted = True
            cluster.restore()
            continue
        counts["left processes"] += left_of(command.process.pid)
        if code == 0 or Path(command.out).exists():
            return True
        if not inflicted:
            print(f"ended without a fault: {command.line}\n{command.said}")
            return False
        counts["starts again"] += 1
        cluster.restore()
        command.start()
        inflicted = False
    command.process.kill()
    print(f"not done after {MOST_STARTS} starts: {command.line}\n{command.said}")
    return False


def soak_table(result: dict) -> str:
    """Return the table for the documentation."""
    found = result["found"]
    words = ", ".join(f"{number} × {fault}" for fault, number in found["faults"].items())
    lines = [
        ["minutes", f"{found['seconds'] / 60:.0f}, seed {found['seed']}"],
        ["fits that came to their end", f"{found['fits']} ({', '.join(found['places'])})"],
        ["faults", words],
        ["commands started again", found["starts_again"]],
        ["fits lost", found["lost"]],
        ["models with other bits", found["wrong"]],
        ["processes left over", found["left_processes"]],
        ["files left over", found["left_files"]],
        ["largest memory of a driver, first and last third", " and ".join(f"{mb:.0f} MB" for mb in found["peaks"])],
    ]
    return table(["what", "found"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    machine = announce("soak")
    rng, counts, peaks, places = np.random.default_rng(options.seed), collections.Counter(), [], collections.Counter()
    with tempfile.TemporaryDirectory(prefix="dem-soak-") as scratch:
        folder = Path(scratch)
        data = folder / "data.zarr"
        rows = np.random.default_rng(options.seed).normal(size=(120_000, 4))
        rows += 3.0 * np.random.default_rng(1).integers(0, 3, size=(120_000, 1))
        zarr.create_array(data, data=rows, chunks=(4_000, 4))
        wanted: dict[str, list[bytes]] = {}
        cluster, began = Cluster(), time.monotonic()
        try:
            while time.monotonic() - began < options.seconds:
                name, place = list(JOBS)[rng.integers(len(JOBS))], PLACES[rng.integers(len(PLACES))]
                if name not in wanted:
                    alone = Command(name, "threads", folder, str(data), options.seed, "")
                    alone.start()
                    if alone.wait(300.0) != 0:
                        sys.exit(f"{alone.line} fails without any fault: {alone.said}")
                    wanted[name] = model_of(alone.out)
                    shutil.rmtree(alone.out)
                cluster.restore()
                command = Command(name, place, folder, str(data), options.seed, cluster.address)
                (folder / "tmp").mkdir(exist_ok=True)
                done = run(command, cluster, data, rng, counts)
                counts["fits" if done else "lost"] += 1
                places[place] += done
                peaks.append(command.peak)
                if done and model_of(command.out) != wanted[name]:
                    counts["wrong"] += 1
                    print(f"other bits: {command.line}")
                shutil.rmtree(command.out, ignore_errors=True)
                shutil.rmtree(command.kept, ignore_errors=True)
                over = [path for path in folder.rglob("*") if "dask-scratch" not in path.parts and path.is_file()]
                over = [path for path in over if data not in path.parents and path.name != "said"]
                counts["left files"] += len(over)
                for path in over:
                    print(f"left over: {path}")
                shutil.rmtree(folder / "tmp", ignore_errors=True)
        finally:
            cluster.close()
    third = max(len(peaks) // 3, 1)
    found = {
        "seconds": options.seconds,
        "seed": options.seed,
        "fits": counts["fits"],
        "places": [f"{number} on {place}" for place, number in places.items()],
        "faults": {fault: counts[fault] for fault in FAULTS},
        "starts_again": counts["starts again"],
        "lost": counts["lost"],
        "wrong": counts["wrong"],
        "left_processes": counts["left processes"],
        "left_files": counts["left files"],
        "peaks": [max(part, default=0) / 1e6 for part in (peaks[:third], peaks[-third:])],
    }
    result = {"machine": machine, "found": found}
    save("soak", result)
    print(soak_table(result))
    if counts["lost"] + counts["wrong"] + counts["left processes"] + counts["left files"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
