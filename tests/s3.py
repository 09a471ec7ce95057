"""Real S3 servers on the loopback interface: moto's in the tests of every run, Ceph's in the slow ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import uuid4

import pytest

KEYS = ("dem-key", "dem-secret")
# What S3 answers with a status.
_ANSWER = "<Error><Code>{}</Code><Message>{}</Message></Error>"
_ANSWERS = {
    403: _ANSWER.format("InvalidAccessKeyId", "The access key is not known."),
    503: _ANSWER.format("ServiceUnavailable", "Please try again."),
}


@dataclass(frozen=True)
class Server:
    """An S3 server: the address it listens to, its process, and the keys that it takes."""

    address: str
    process: subprocess.Popen[bytes] | None = None
    keys: tuple[str, str] = KEYS

    def environment(self) -> dict[str, str]:
        """Return what every process needs in its environment to read and write there."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": self.keys[0],
            "AWS_SECRET_ACCESS_KEY": self.keys[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let s3:// mean this server for the length of a test, here and in the processes that the test starts."""
        import fsspec

        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)
        # Sessions are kept by these options, not by the environment.
        key, secret = self.keys
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": self.address, "key": key, "secret": secret})


def filesystem():
    """Return the file system of the server in use, which remembers no listing."""
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)


def new_bucket() -> str:
    """Make an empty bucket on the server in use and return its URL; its name is that of no other."""
    name = f"dem-{uuid4().hex}"
    filesystem().call_s3("create_bucket", Bucket=name)
    return f"s3://{name}"


def objects(url: str) -> dict[str, bytes]:
    """Return what all objects below a URL hold, by the rest of their names."""
    s3 = filesystem()
    return {name.removeprefix(url.removeprefix("s3://")).lstrip("/"): s3.cat_file(name) for name in s3.find(url)}


@contextmanager
def moto() -> Iterator[Server]:
    """Run a server of moto's until the end of the block; it takes any keys."""
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"},
    )
    try:
        server = Server(f"http://127.0.0.1:{port}", process)
        wait_for(server)
        yield server
    finally:
        process.kill()
        process.wait()


@contextmanager
def ceph(folder: Path) -> Iterator[Server]:
    """Run an object gateway of Ceph's until the end of the block; it refuses other keys than its own.

    Skips the test where it is not installed and cannot be.
    """
    environment = {**os.environ, "CEPH_TEST_DIR": str(folder)}
    ports = [str(_free_port()) for _ in range(3)]
    here = Path(__file__).parent
    try:
        with (folder / "output").open("w+") as output:
            command = ["bash", here / "ceph_up.sh", *KEYS, *ports]
            code = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False).returncode
            output.seek(0)
            said = output.read()[-500:]
        if code == 77:
            pytest.skip(f"Ceph is not installed, and cannot be: {said}")
        assert code == 0, said
        yield Server(f"http://127.0.0.1:{ports[0]}")
    finally:
        subprocess.run(["bash", here / "ceph_down.sh"], env=environment, check=False)


def wait_for(server: Server, seconds: float = 60.0) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urlopen(server.address, timeout=5).close()
        except HTTPError:  # it answers, if only that it does not know who asks
            return
        except OSError:
            if time.monotonic() > deadline or (server.process is not None and server.process.poll() is not None):
                raise
            time.sleep(0.05)
        else:
            return


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Faulty:
    """A way to a server on which answers to reads go wrong.

    Parameters
    ----------
    server : Server
        Where requests go to.
    word : str
        What the path of a request holds that counts.
    fault : callable
        Given the number of a request from 0, says what becomes of it: ``503`` or ``403``, ``"cut"`` (half of
        the body, then the connection is closed), seconds by which it is late, or None: nothing.

    Attributes
    ----------
    seen, n_faults : int
        How many requests have counted, and with how many something went wrong.
    """

    def __init__(self, server: Server, word: str, fault: Callable[[int], int | float | str | None]) -> None:
        faulty, (host, port) = self, server.address.removeprefix("http://").split(":")
        self.seen = self.n_faults = 0
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                what = None
                if word in self.path:
                    with lock:
                        what = fault(faulty.seen)
                        faulty.seen += 1
                        faulty.n_faults += what is not None
                if isinstance(what, int):
                    self.answer(what, {"Content-Type": "application/xml"}, _ANSWERS[what].encode())
                    return
                if isinstance(what, float):
                    time.sleep(what)
                with closing(HTTPConnection(host, int(port))) as onward:
                    onward.request(self.command, self.path, headers=dict(self.headers))
                    found = onward.getresponse()
                    body = found.read()
                headers = {k: v for k, v in found.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
                self.answer(found.status, headers, body, cut=what == "cut")

            do_HEAD = do_GET  # noqa: N815 - as http.server wants it

            def answer(self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
                self.send_response_only(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                with suppress(OSError):  # the client did not wait
                    self.wfile.write(body[: len(body) // 2] if cut else body)
                if cut:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:  # a client that went away is none of ours
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.server = Server(f"http://127.0.0.1:{self._server.server_port}", keys=server.keys)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Gate:
    """A way to a server that is cut at the n-th request which holds `word`, and stays cut: connections are refused.

    Attributes
    ----------
    seen : int
        How often the word has passed.
    """

    def __init__(self, server: Server, word: bytes, cut_at: int) -> None:
        host, port = server.address.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._word, self._cut_at = word, cut_at
        self.seen = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = [self._listener]
        self._lock = threading.Lock()
        self.server = Server(f"http://127.0.0.1:{self._listener.getsockname()[1]}", keys=server.keys)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close all connections and take no more."""
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def _accept(self) -> None:
        with suppress(OSError):  # once it is cut
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._open += [client, server]
                for pair in ((client, server, self._word), (server, client, None)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, word: bytes | None) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                if word is not None and word in data:
                    self.seen += 1
                    if self.seen == self._cut_at:
                        self.cut()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
