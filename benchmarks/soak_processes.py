"""The processes of the soak: a cluster whose parts are started again, drivers, commands, and what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from soak_fits import command_line

# In the environment of every process that the soak starts, and of those which they start.
MARK = "DEM_SOAK"
_LOOPBACK = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]


class Cluster:
    """A scheduler and workers with nannies, each a process of its own.

    Parameters
    ----------
    n_workers : int
    folder : Path
        Where it may write.
    environment : dict
        Of its processes.
    """

    def __init__(self, n_workers: int, folder: Path, environment: dict[str, str]) -> None:
        self._n_workers, self._folder, self._environment = n_workers, folder, environment
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self.restore()

    def restore(self) -> None:
        """Start what is not there."""
        scheduler = self._processes.get("scheduler")
        if scheduler is None or scheduler.poll() is not None:
            self.close()
            options = ["--port", str(self._port), *_LOOPBACK]
            scheduler = self._start("scheduler", options, stderr=subprocess.PIPE)
            for line in scheduler.stderr or ():
                if "Scheduler at:" in line:
                    break
            threading.Thread(target=drain, args=(scheduler.stderr,), daemon=True).start()
        for number in range(self._n_workers):
            worker = self._processes.get(f"worker {number}")
            if worker is None or worker.poll() is not None:
                options = [self.address, "--nthreads", "1", *_LOOPBACK, "--local-directory", str(self._folder)]
                self._start(f"worker {number}", options, stderr=subprocess.DEVNULL)

    def _start(self, name: str, options: list[str], stderr: int) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", f"distributed.cli.dask_{name.split(maxsplit=1)[0]}", *options]
        given = {"stdout": subprocess.DEVNULL, "stderr": stderr, "text": True, "env": self._environment}
        self._processes[name] = subprocess.Popen(line, **given)
        return self._processes[name]

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
            for one in [psutil.Process(process.pid), *below(process.pid)] if process.poll() is None else []:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()
        self._processes.clear()


class Driver:
    """A process that makes one fit after another; see `soak_fits`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.process: subprocess.Popen[str] | None = None

    def attempt(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return its answer; one that is empty if it was killed."""
        if self.process is None or self.process.poll() is not None:
            line = [sys.executable, str(Path(__file__).parent / "soak_fits.py")]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(line, **pipes, text=True, env=self._environment)
        try:
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
            said = self.process.stdout.readline()
        except OSError:
            said = ""
        if said.endswith("\n"):
            return json.loads(said)
        self.process.wait()  # a busy machine takes its time
        return {}

    def kill(self) -> bool:
        """Kill it; return whether it was there."""
        there = self.process is not None and self.process.poll() is None
        if there:
            self.process.kill()
        return there

    def close(self) -> None:
        """Let it end."""
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


class Command:
    """The command `dem`, in a process of its own for each fit; `workers` of its own if the task says so."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.process: subprocess.Popen[str] | None = None
        self.workers = False

    def attempt(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return what became of it."""
        self.workers = task["workers"]
        where = ["--workers", "2"] if self.workers else ["--scheduler", task["scheduler"]] if task["scheduler"] else []
        opened = [part for name, value in task["options"].items() for part in (f"--{name.replace('_', '-')}", value)]
        line = [sys.executable, "-W", "ignore", "-m", "dem", "select" if task["job"] == "select" else "fit"]
        line += [task["data"], *command_line(task["job"]), *where, *opened]
        line += ["--out", task["out"], "--checkpoint", task["kept"]]
        self.process = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self._environment
        )
        said = self.process.communicate()[1].strip()
        if self.process.returncode == 0 or Path(task["out"]).exists():
            return {"saved": True}
        if self.process.returncode in (-signal.SIGKILL, -signal.SIGTERM):  # the latter while Python starts
            return {}
        last = said.splitlines()[-1] if said else f"nothing is said, the exit code is {self.process.returncode}"
        ours = last.startswith("dem: ") and "Traceback" not in said
        return {"error": last, "ours": ours, "traceback": "" if ours else said}

    def stop(self, number: int) -> bool:
        """Send it a signal; return whether it was there."""
        there = self.process is not None and self.process.poll() is None
        if there:
            self.process.send_signal(number)
        return there

    def kill(self) -> bool:
        """Kill it; return whether it was there."""
        return self.stop(signal.SIGKILL)

    def own_workers(self) -> list[psutil.Process]:
        """Return the worker processes that it has started."""
        return below(self.process.pid) if self.workers and self.process is not None else []

    def close(self) -> None:
        """Do nothing: it has ended."""


def drain(stream: Any) -> None:
    """Read what a process says, so that it does not wait for a reader."""
    for _ in stream:
        pass


def below(pid: int) -> list[psutil.Process]:
    """Return the processes that another has started, but for those that keep track of resources."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def left_over(mark: str, seconds: float = 20.0) -> list[str]:
    """Return the command lines of processes with a mark that are still there after a while, and kill them."""
    wanted, deadline = f"{MARK}={mark}".encode(), time.monotonic() + seconds
    while True:
        there = {}
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                marks = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if wanted in marks and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    there[process] = " ".join(process.cmdline())
        if not there or time.monotonic() > deadline:
            for process in there:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            return list(there.values())
        time.sleep(0.2)


def measured(pid: int) -> dict[str, float]:
    """Return memory (MB), open files and threads of a process."""
    process = psutil.Process(pid)
    with process.oneshot():
        return {"memory": process.memory_info().rss / 1e6, "files": process.num_fds(), "threads": process.num_threads()}


def shared_memory() -> set[str]:
    """Return the names of all shared memory but semaphores, which other processes of this machine make too."""
    return {path.name for path in Path("/dev/shm").glob("*") if not path.name.startswith("sem.")}  # noqa: S108


def upload(path: str, environment: dict[str, str]) -> None:
    """Copy an array to the S3 server."""
    import s3fs  # noqa: PLC0415 - after the rest is known to be there

    keys = {"key": environment["AWS_ACCESS_KEY_ID"], "secret": environment["AWS_SECRET_ACCESS_KEY"]}
    store = s3fs.S3FileSystem(endpoint_url=environment["AWS_ENDPOINT_URL"], **keys)
    store.mkdir("dem-soak")
    store.put(path, "dem-soak/data.zarr", recursive=True)
