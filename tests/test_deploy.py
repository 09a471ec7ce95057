"""The recipe of deploy/hosts, with its own scripts, on the loopback interface with TLS."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr

pytestmark = pytest.mark.slow

HOSTS = Path(__file__).parents[1] / "deploy" / "hosts"
SCHEDULER = "127.0.0.1"
# Linux answers on all of 127.0.0.0/8, so that the workers can be on another address.
WORKERS = "127.0.0.2" if sys.platform == "linux" else SCHEDULER


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.2)
    pytest.fail(f"not true after {seconds} s: {condition.__name__}")


def run(*command, timeout=20, **options):
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, **options)


def family(process):
    """The process and all its descendants."""
    return [process, *process.children(recursive=True)]


def free_port():
    with socket.socket() as probe:
        probe.bind((SCHEDULER, 0))
        return probe.getsockname()[1]


@contextmanager
def script(name, *arguments, env, log):
    """Run a script of the recipe; at the end it is told to stop and must leave no process behind."""
    with log.open("w") as output:
        command = [HOSTS / name, *map(str, arguments)]
        process = psutil.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield process
        finally:
            started = family(process)
            process.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(started, timeout=30)
            for survivor in alive:
                survivor.kill()
    assert not alive, log.read_text()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Scheduler and two workers, supervised: the scheduler's address, the environment, both supervisors."""
    folder = tmp_path_factory.mktemp("hosts")
    subprocess.run([HOSTS / "tls.sh", folder / "tls"], check=True, capture_output=True)
    # Dask leaves what it sets for workers in this process's environment, and there it goes before its settings.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    env = clean | {
        "DASK_CONFIG": str(folder / "tls" / "dask.yaml"),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(HOSTS.parents[1]),
        "STATUS_PORT": "0",
    }
    port = free_port()
    address = f"tls://{SCHEDULER}:{port}"
    with (
        script("scheduler.sh", SCHEDULER, port, env=env, log=folder / "scheduler.log") as scheduler,
        script("worker.sh", address, WORKERS, "--nworkers", 2, env=env, log=folder / "worker.log") as worker,
    ):
        yield address, env, scheduler, worker


@pytest.fixture
def tls_client(hosts):
    """A client with the certificates that tls.sh made."""
    from distributed import Client
    from distributed.security import Security

    address, env, *_ = hosts
    folder = Path(env["DASK_CONFIG"]).parent
    security = Security(
        require_encryption=True,
        tls_ca_file=str(folder / "ca.pem"),
        tls_client_cert=str(folder / "client.pem"),
        tls_client_key=str(folder / "client-key.pem"),
    )
    with Client(address, security=security, timeout=30, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


def test_fit_through_the_scheduler(hosts, tls_client, tmp_path, faithful):
    address, env, *_ = hosts
    data, model = tmp_path / "faithful.zarr", tmp_path / "model.zarr"
    zarr.create_array(data, shape=faithful.shape, chunks=(50, 2), dtype=faithful.dtype)[:] = faithful
    options = ["--components", "2", "--seed", "0", "--out", model, "--scheduler", address, "--json"]
    done = run(sys.executable, "-m", "dem", "fit", data, *options, env=env, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)

    import dem

    here = dem.GaussianMixture(2, random_state=0).fit(data)
    np.testing.assert_array_equal(dem.load(model).means_, here.means_)


@pytest.mark.usefixtures("hosts")
def test_workers_keep_freed_memory_like_those_that_dem_starts(tls_client):
    from dem.engine.client import WORKER_SETTINGS

    environ = "distributed.nanny.pre-spawn-environ."
    wanted = tuple(str(WORKER_SETTINGS[f"{environ}MALLOC_{name}_THRESHOLD_"]) for name in ("TRIM", "MMAP"))
    found = zip(
        *(tls_client.run(os.getenv, f"MALLOC_{name}_THRESHOLD_").values() for name in ("TRIM", "MMAP")), strict=True
    )
    assert set(found) == {wanted}


def test_nothing_listens_beyond_its_address(hosts, tls_client):
    _, _, scheduler, worker = hosts
    listening = {
        connection.laddr.ip
        for supervisor in (scheduler, worker)
        for process in family(supervisor)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {SCHEDULER, WORKERS}


def test_strangers_are_turned_away(hosts):
    host, port = hosts[0].removeprefix("tls://").split(":")
    anonymous = ssl.create_default_context()
    anonymous.check_hostname, anonymous.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), timeout=10) as link,
        anonymous.wrap_socket(link) as talk,
        pytest.raises(ssl.SSLError, match=r"(?i)certificate required"),
    ):
        talk.recv(1)  # TLS 1.3 tells of the missing certificate at the first read


def test_client_without_certificates_is_told_so(hosts, tmp_path, faithful):
    address, env, *_ = hosts
    zarr.create_array(tmp_path / "data.zarr", data=faithful)
    plain = {name: value for name, value in env.items() if name != "DASK_CONFIG"}
    command = [sys.executable, "-m", "dem", "fit", tmp_path / "data.zarr", "--components", "2"]
    done = run(*command, "--scheduler", address, env=plain, timeout=60)
    assert done.returncode == 1, done.stderr
    assert address in done.stderr
    assert "TLS" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_killed_worker_comes_back(hosts, tls_client):
    worker = hosts[-1]

    def addresses():
        return set(tls_client.scheduler_info(n_workers=-1)["workers"])

    before = addresses()
    (leader,) = worker.children()
    started = family(leader)
    leader.kill()

    def two_others():
        now = addresses()
        return len(now) == 2 and not now & before

    wait_until(two_others)
    assert tls_client.submit(sum, [1, 2]).result(timeout=30) == 3
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive


def test_supervisor_pauses_and_stops(tmp_path):
    log = tmp_path / "log"
    with script("supervise.sh", "false", env=os.environ, log=log) as process:
        wait_until(lambda: log.read_text().count("again in") >= 2, 20)
        assert process.is_running()
    text = log.read_text()
    assert "'false' ended with status 1; again in 1 s" in text
    assert "again in 2 s" in text


def test_supervisor_kills_what_does_not_listen(tmp_path):
    stubborn = "trap '' TERM; sleep 300 & echo ready; while true; do sleep 1; done"
    log, env = tmp_path / "log", os.environ | {"SUPERVISE_GRACE": "1"}
    with script("supervise.sh", "bash", "-c", stubborn, env=env, log=log) as process:
        wait_until(lambda: "ready" in log.read_text(), 20)
        assert len(family(process)) >= 3


@pytest.mark.parametrize("name", ["scheduler.sh", "worker.sh", "tls.sh", "supervise.sh"])
def test_scripts_say_how_they_are_used(name):
    done = run(HOSTS / name)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: {name}")


@pytest.mark.parametrize("command", ["scheduler.sh 127.0.0.1", "worker.sh tls://127.0.0.1:1 127.0.0.1"])
def test_missing_settings_are_named(command, tmp_path):
    missing = str(tmp_path / "dask.yaml")
    name, *arguments = command.split()
    done = run(HOSTS / name, *arguments, env=os.environ | {"DASK_CONFIG": missing})
    assert done.returncode == 2
    assert f"cannot read {missing}" in done.stderr


def test_certificates_are_private_and_kept(tmp_path):
    for _ in range(2):
        subprocess.run([HOSTS / "tls.sh", tmp_path], check=True, capture_output=True)
        kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    assert f"ca-file: {tmp_path}/ca.pem" in kept["dask.yaml"]
