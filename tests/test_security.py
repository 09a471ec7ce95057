"""What dem starts listens on loopback only, and turns strangers away where it was given certificates."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr
from cases import gaussian_rows

import dem
from dem.engine import connect
from dem.errors import EngineError, OptionError

TLS = Path(__file__).parent.parent / "deploy" / "hosts" / "tls.sh"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    subprocess.run([TLS, folder], check=True, capture_output=True)
    return folder


def listening(root, before=frozenset()):
    """Return the addresses where a process and all that it has started listen."""
    return {
        connection.laddr
        for process in (root, *root.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    } - before


def strangers_are_turned_away(address):
    anonymous = ssl.create_default_context()
    anonymous.check_hostname, anonymous.verify_mode = False, ssl.CERT_NONE
    host, port = address.removeprefix("tls://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as link,
        anonymous.wrap_socket(link) as talk,
        pytest.raises(ssl.SSLError, match=r"(?i)certificate required"),
    ):
        talk.recv(1)


@pytest.mark.slow
@pytest.mark.parametrize("security", [None, "temporary", "folder"])
def test_what_connect_starts_listens_on_loopback(security, certificates):
    security = str(certificates) if security == "folder" else security
    own = psutil.Process()
    before = frozenset(listening(own))  # of other tests of this process
    with connect(workers=1, security=security) as engine:
        found = listening(own, before)
        info = engine.client.scheduler_info()
        addresses = [info["address"], *info["workers"], *(worker["nanny"] for worker in info["workers"].values())]
        rows = gaussian_rows()
        fitted = dem.GaussianMixture(3, random_state=0).fit(rows)
        assert {address.partition("://")[0] for address in addresses} == {"tls" if security else "tcp"}
        for address in addresses if security else ():
            strangers_are_turned_away(address)
    assert len(found) >= 3, "scheduler, nanny, worker"
    assert {place.ip for place in found} == {"127.0.0.1"}
    np.testing.assert_array_equal(fitted.means_, dem.GaussianMixture(3, random_state=0).fit(rows).means_)


@pytest.mark.slow
@pytest.mark.parametrize("security", [(), ("--security", "temporary")], ids=str)
def test_what_the_shell_starts_listens_on_loopback(security, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=np.random.default_rng(0).normal(size=(400_000, 4)), chunks=(10_000, 4))
    command = ["fit", tmp_path / "x.zarr", "-k", "8", "--tol", "0", "--max-iter", "100000", "--workers", "2", *security]
    process = subprocess.Popen(
        [sys.executable, "-m", "dem", *command, "--out", tmp_path / "m.zarr"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert any("iteration 3" in line for line in iter(process.stderr.readline, ""))
        found = listening(psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert len(found) >= 5, "a scheduler, two nannies and their workers"
    assert {place.ip for place in found} == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.reliability(
    fault="certificates of another authority, or none, for a scheduler with TLS",
    sees="no scheduler answers at tls://… (…)",
    lost="nothing; strangers are turned away",
    recovery="with the right certificates, the same line",
)
def test_a_scheduler_with_certificates(certificates, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name, given in {"ca.pem": "ca.pem", "cert.pem": "client.pem", "key.pem": "client-key.pem"}.items():
        (plain / name).write_bytes((certificates / given).read_bytes())
    with connect(workers=1, security=str(certificates)) as engine:
        address = engine.client.scheduler_info()["address"]
        with connect(address, security=str(plain)) as other:
            assert other.client.submit(sum, [1, 2]).result() == 3
        stranger = tmp_path / "stranger"
        subprocess.run([TLS, stranger], check=True, capture_output=True)
        with (
            pytest.raises(EngineError, match="no scheduler answers at tls://"),
            connect(address, security=str(stranger)),
        ):
            pass
        with pytest.raises(EngineError, match="no scheduler answers at tls://"), connect(address):
            pass


@pytest.mark.reliability(
    fault="the folder of `--security` lacks a certificate",
    sees="the folder of certificates … has no ca.pem that can be read; deploy/hosts/tls.sh makes them",
    lost="nothing",
    recovery="with the certificates, the same line",
)
def test_certificates_that_are_not_there(certificates, tmp_path, monkeypatch):
    def refused(match, scheduler=None, workers=None, security=str(certificates)):
        with pytest.raises(OptionError, match=match), connect(scheduler, workers, security=security):
            pass

    refused("security is for a cluster")
    refused("its address begins with tls://, not tcp://127.0.0.1:9", "tcp://127.0.0.1:9")
    refused("temporary certificates are for processes that are started", "tls://127.0.0.1:9", security="temporary")
    refused("has no ca.pem that can be read; deploy/hosts/tls.sh makes them", workers=1, security=str(tmp_path))
    (tmp_path / "ca.pem").touch()
    refused("has no cert.pem that can be read", workers=1, security=str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused(r'need the package cryptography: pip install "dask-em\[tls\]"', workers=1, security="temporary")


def test_certificates_without_a_cluster():
    command = [sys.executable, "-m", "dem", "fit", "x.zarr", "-k", "2", "--security", "temporary"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("dem: --security is for a cluster; give --scheduler or --workers too")
