"""Fits under random faults, for half an hour: each is asked for again and again until it is done.

    .venv/bin/python benchmarks/soak.py                  # make soak
    .venv/bin/python benchmarks/soak.py --seconds 90 --seed 7

Three lanes of fits run side by side, on threads, on two workers of their own, and on a cluster beside: commands of the
shell; a driver that is killed at random; and a driver that nobody kills, whose memory is followed, as is that of a
worker which only it uses. Meanwhile drivers, workers and the scheduler are killed, workers stand still, drivers are
asked to stop, chunks are damaged for a while, and an S3 server answers 503. Each model is compared, bit for bit, with
that of an undisturbed fit; what is left over of processes and files is counted. Writes benchmarks/results/soak.json, of
which `report.py` makes the table of docs/reliability.md. The exit code is 1 if any fit was lost or wrong, anything was
left over, or memory has grown.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import zarr
from common import HERE, announce, save, table
from soak_fits import JOBS, digest, fit
from soak_processes import MARK, Cluster, Command, Driver, left_over, measured, shared_memory, upload

import dem

sys.path.insert(0, str(HERE.parent / "tests"))
from s3 import Faulty, moto

# An attempt that fails more often than this is a lost fit: there are some twenty faults a minute.
MOST_STARTS = 100
# What may be said of a fit that does not come to its end, by the faults that are brought about.
EXPECTED = (
    "went away",
    "no scheduler answers",
    "cannot be read",
    "could be read before and cannot now",
    "workers died 4 times",
    "dem: stopped",
    "a worker ended as it was started",
)
SHARE_OF_503 = 0.1


class Soak:
    """What all lanes share.

    Parameters
    ----------
    folder : Path
        An empty one, for everything.
    seconds : float
    seed : int
    s3 : dict
        Environment in which s3:// means the server that answers 503.
    """

    def __init__(self, folder: Path, seconds: float, seed: int, s3: dict[str, str]) -> None:
        self.folder, self.seconds, self.seed, self._s3 = folder, seconds, seed, s3
        self.counts: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self.measures: dict[str, list[dict[str, float]]] = {"driver": [], "worker": []}
        self.over, self.verbose = threading.Event(), False
        self._lock = threading.Lock()
        self.data = {
            "disk": str(folder / "data.zarr"),
            "S3": "s3://dem-soak/data.zarr",
            "bad": str(folder / "bad.zarr"),
        }
        for path in (self.data["disk"], self.data["bad"]):
            rows = np.random.default_rng(seed).normal(size=(24_000, 4))
            rows += 3.0 * np.random.default_rng(1).integers(0, 3, size=(24_000, 1))
            zarr.create_array(path, data=rows, chunks=(2_000, 4))
        bad = Path(self.data["bad"], "c", "5", "0")
        bad.write_bytes(bad.read_bytes()[:1000])
        self.mark = uuid4().hex
        self.cluster = Cluster(2, self.room("cluster"), self.environment("cluster"))
        self.steady = Cluster(1, self.room("steady"), self.environment("steady"))
        self.shell = Command(self.environment("shell"))
        self.lanes: dict[str, Command | Driver] = {
            "shell": self.shell,
            "killed": Driver(self.environment("killed")),
            "lasting": Driver(self.environment("lasting")),
        }

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment for the processes of a lane or a cluster."""
        return {**os.environ, **self._s3, **LOGS, "TMPDIR": str(self.room(f"{name} tmp")), MARK: self.mark + name}

    def room(self, name: str) -> Path:
        """Return a folder."""
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name

    def count(self, what: str, number: int = 1) -> None:
        """Count something."""
        with self._lock:
            self.counts[what] += number

    def complain(self, what: str, text: str) -> None:
        """Count something that must not be, and print what it is."""
        self.count(what)
        self.problems.append(re.sub(r"/\S*/", "…/", f"{what}: {text}"))  # no folders of this machine
        print(f"{what}: {text}", flush=True)

    def undisturbed(self) -> dict[tuple[str, bool], str]:
        """Return the digests of all fits, of all the data and without the chunk that cannot be read."""
        skip = {"on_bad_chunk": "skip"}
        found = {(job, False): fit(job, self.data["disk"]) for job in JOBS}
        return found | {(job, True): fit(job, self.data["bad"], **skip) for job in JOBS}

    def run_lane(self, name: str, number: int, wanted: dict[tuple[str, bool], str]) -> None:
        """Let a lane make fits until the time is over, and a last one that nobody disturbs."""
        lane, rng = self.lanes[name], np.random.default_rng([self.seed, number])
        out, kept = self.room(name) / "model.zarr", self.room(name) / "kept"
        places = {"shell": ["threads", "workers", "cluster"], "killed": ["threads", "cluster"]}
        n_fits = 0
        while not self.over.is_set() or n_fits == 0:
            job = list(JOBS)[(n_fits + rng.integers(2)) % len(JOBS)]
            place = rng.choice(places.get(name, ["threads", "cluster", "steady", "steady"]))
            data = rng.choice(["disk", "disk", "disk", "bad", "bad", "S3"])
            task = {
                "job": job,
                "data": self.data[data],
                "out": str(out),
                "kept": str(kept),
                "scheduler": {"cluster": self.cluster.address, "steady": self.steady.address}.get(place, ""),
                "workers": place == "workers",
                "options": {"on_bad_chunk": "skip"} if data == "bad" else {},
            }
            what = f"{name}: {job} on {place}, data {data}"
            found = self.until_done(lane, task, what)
            if found != wanted[job, data == "bad"]:
                self.complain("lost fits" if found is None else "wrong bits", what)
            else:
                self.count("fits")
                self.count(f"fits: {job}")
                self.count(f"on {place}")
            self._tidy(name, out, kept)
            n_fits += 1
            if name == "lasting":
                self._measure()
        lane.close()

    def until_done(self, lane: Command | Driver, task: dict[str, Any], what: str) -> str | None:
        """Ask for a fit until it is done; return the digest of its model, None if it never is."""
        for n_starts in range(MOST_STARTS):
            self.count("starts again", int(n_starts > 0))
            began = time.monotonic()
            found = lane.attempt(task)
            if self.verbose:
                end = found.get("error", "done" if found else "killed")
                print(f"{time.monotonic() - began:6.1f} s  {what}: {end}", flush=True)
            if found.get("saved"):
                return digest(dem.load(task["out"]))
            if "digest" in found:
                return str(found["digest"])
            if "error" in found:
                self.count("errors that were told")
                if not found["ours"] or not any(word in found["error"] for word in EXPECTED):
                    self.complain("unclear errors", f"{what}: {found['error']}\n{found['traceback']}")
                time.sleep(0.3)
        return None

    def _tidy(self, name: str, out: Path, kept: Path) -> None:
        """Count what a fit that is done has left behind beside its model."""
        mark = self.mark + name
        if name == "shell" and (over := left_over(mark)):
            self.complain("left processes", str(over))
        shutil.rmtree(out, ignore_errors=True)
        if kept.exists():
            self.complain("left files", f"{name}: {sorted(path.name for path in kept.iterdir())}")
            shutil.rmtree(kept)

    def left_files(self) -> list[Path]:
        """Return files that nobody wanted; those of Dask's scratch space are its own."""
        rooms = [path for path in self.folder.iterdir() if path.suffix != ".zarr"]
        files = [path for room in rooms for path in room.rglob("*") if not path.is_dir()]
        return [path for path in files if not {"dask-scratch-space", "dask-worker-space"} & {*path.parts}]

    def _measure(self) -> None:
        """Note the memory of the driver and the worker that nobody kills."""
        processes = {"driver": [self.lanes["lasting"].process], "worker": self.steady.workers()}
        for name, found in processes.items():
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                self.measures[name].append({"time": time.monotonic(), **measured(found[0].pid)})


def faults(soak: Soak, rng: np.random.Generator) -> dict[str, Callable[[], bool]]:
    """Return what may happen; each returns whether it could."""
    shell, killed = soak.shell, soak.lanes["killed"]

    def signalled(processes: list[psutil.Process], number: int) -> bool:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return bool(processes)

    def workers() -> list[psutil.Process]:
        own = shell.own_workers()
        return own if own and rng.integers(2) else soak.cluster.workers()

    def one(processes: list[psutil.Process]) -> list[psutil.Process]:
        return [processes[rng.integers(len(processes))]] if processes else []

    def stand_still() -> bool:
        stopped = one([*workers(), *soak.steady.workers()])
        signalled(stopped, signal.SIGSTOP)
        time.sleep(rng.uniform(0.5, 3.0))
        return signalled(stopped, signal.SIGCONT)

    def kill_scheduler() -> bool:
        soak.cluster.kill_scheduler()
        time.sleep(rng.uniform(0.0, 2.0))
        return True

    def damage() -> bool:
        path = Path(soak.data["disk"], "c", str(rng.integers(12)), "0")
        whole, draft = path.read_bytes(), soak.folder / "chunk"
        for content in (whole[: len(whole) // 2], whole):
            draft.write_bytes(content)
            draft.replace(path)
            time.sleep(rng.uniform(0.2, 1.0))
        return True

    return {
        "a driver is killed": (shell if rng.integers(2) else killed).kill,
        "a command is asked to end (SIGTERM)": lambda: shell.stop(signal.SIGTERM),
        "a worker is killed": lambda: signalled(one(workers()), signal.SIGKILL),
        "all workers are killed": lambda: signalled(workers(), signal.SIGKILL),
        "a worker stands still (SIGSTOP)": stand_still,
        "the scheduler is killed": kill_scheduler,
        "a chunk is damaged": damage,
    }


def disturb(soak: Soak) -> None:
    """Bring faults about until the time is over."""
    rng, began = np.random.default_rng([soak.seed, 99]), time.monotonic()
    kinds = faults(soak, rng)
    while time.monotonic() < began + soak.seconds:
        time.sleep(rng.uniform(0.5, 3.5))
        name = list(kinds)[rng.choice(len(kinds), p=[0.25, 0.1, 0.15, 0.1, 0.15, 0.1, 0.15])]
        if kinds[name]():
            soak.count(f"fault: {name}")
            if soak.verbose:
                print(f"          {name}", flush=True)
        soak.cluster.restore()
    soak.over.set()


def slope(measures: list[dict[str, float]], name: str) -> tuple[float, float]:
    """Return by how much a measure grows per hour, and its standard error.

    The first third is left out: caches fill, packages are imported. Neighbours are alike, so that the line is fitted
    to twelve averages rather than to all.
    """
    late = measures[len(measures) // 3 :]
    parts = [part for part in np.array_split(np.array([[one["time"], one[name]] for one in late]), 12) if len(part)]
    if len(parts) < 4:
        return 0.0, float("inf")
    means = np.array([part.mean(axis=0) for part in parts])
    (value, _), covariance = np.polyfit(means[:, 0] / 3600.0, means[:, 1], 1, cov=True)
    return float(value), float(np.sqrt(covariance[0, 0]))


def grown(measures: list[dict[str, float]], name: str) -> bool:
    """Tell whether a measure has grown by more than a twentieth within the time, and beyond chance."""
    if not measures:
        return True
    value, error = slope(measures, name)
    hours = (measures[-1]["time"] - measures[0]["time"]) / 3600.0
    return value > 3.0 * error and value * hours > 0.05 * float(np.mean([one[name] for one in measures]))


def soak_table(result: dict) -> str:
    """Return the table for the documentation."""
    found = result["found"]
    lines = [["fits that came to their end", f"{found['fits']}, {found['fits'] / found['minutes']:.0f} a minute"]]
    lines += [["of which", ", ".join(f"{number} {name}" for name, number in found["kinds"].items())]]
    lines += [["where", ", ".join(f"{number} {name}" for name, number in found["places"].items())]]
    lines += [[name, number] for name, number in found["faults"].items()]
    lines += [[name, found[name]] for name in ("starts again", "errors that were told")]
    lines += [[name, f"**{number}**"] for name, number in found["failures"].items()]
    for name, one in found["measures"].items():
        lines.append([f"memory of the {name} that lasts, MB", f"{one['memory'][0]:.0f} to {one['memory'][1]:.0f}"])
        value, error = one["slope"]
        lines.append(["its slope after the first third, MB per hour", f"{value:.1f} ± {error:.1f}"])
        for what in ("files", "threads"):
            lines.append(
                [f"its open {what}" if what == "files" else f"its {what}", "{:.0f} to {:.0f}".format(*one[what])]
            )
    head = f"{found['minutes']:.0f} minutes, seed {found['seed']}, {result['machine']['cores']} cores"
    return table([head, ""], lines)


# Dask's logs would fill for longer than the soak lasts.
LOGS = {f"DASK_DISTRIBUTED__ADMIN__{name}LOG_LENGTH": "100" for name in ("", "LOW_LEVEL_")}
FAILURES = ("lost fits", "wrong bits", "unclear errors", "left processes", "left files")


def summary(soak: Soak, n_503: int) -> dict[str, Any]:
    """Return what was found."""
    counts = soak.counts

    def those(prefix: str) -> dict[str, int]:
        return {name.removeprefix(prefix): number for name, number in sorted(counts.items()) if name.startswith(prefix)}

    measures = {}
    for name, found in soak.measures.items():
        ends = [found[len(found) // 3], found[-1]] if found else []
        measures[name] = {what: [one[what] for one in ends] for what in ("memory", "files", "threads")}
        measures[name]["slope"] = slope(found, "memory")
    return {
        "minutes": soak.seconds / 60.0,
        "seed": soak.seed,
        "fits": counts["fits"],
        "kinds": those("fits: "),
        "places": {f"on {name}": number for name, number in those("on ").items()},
        "faults": {**those("fault: "), "S3 answers 503": n_503},
        **{name: counts[name] for name in ("starts again", "errors that were told")},
        "failures": {name: counts[name] for name in FAILURES},
        "measures": measures,
        "problems": soak.problems,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="a line for every attempt and every fault")
    options = parser.parse_args()
    machine = announce("soak")
    warnings.simplefilter("ignore")
    chance, shared = np.random.default_rng([options.seed, 503]), shared_memory()

    def busy(_: int) -> int | None:
        return 503 if chance.uniform() < SHARE_OF_503 else None

    with (
        tempfile.TemporaryDirectory(prefix="dem-soak-") as folder,
        moto() as server,
        Faulty(server, "data.zarr/c/", busy) as faulty,
    ):
        soak = Soak(
            Path(folder), options.seconds, options.seed, {**faulty.server.environment(), "AWS_MAX_ATTEMPTS": "1"}
        )
        soak.verbose = options.verbose
        try:
            upload(soak.data["disk"], server.environment())
            wanted = soak.undisturbed()
            lanes = [
                threading.Thread(target=soak.run_lane, args=(name, number, wanted), daemon=True)
                for number, name in enumerate(soak.lanes)
            ]
            for lane in lanes:
                lane.start()
            disturb(soak)
            for lane in lanes:
                lane.join(300)
                if lane.is_alive():
                    soak.complain("lost fits", "a lane does not come to its end")
        finally:
            for lane in soak.lanes.values():
                if isinstance(lane, Driver):
                    lane.close()
            soak.cluster.close()
            soak.steady.close()
        for name in ("shell", "killed", "lasting", "cluster", "steady"):
            for over in left_over(soak.mark + name):
                soak.complain("left processes", f"{name}: {over}")
        for path in [*soak.left_files(), *(shared_memory() - shared)]:
            soak.complain("left files", str(path))
        found = summary(soak, faulty.n_faults)
    result = {"machine": machine, "found": found}
    save("soak", result)
    print(soak_table(result))
    if any(found["failures"].values()) or any(grown(one, "memory") for one in soak.measures.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
