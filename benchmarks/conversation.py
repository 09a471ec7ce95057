"""Two sides that alternate: the benchmark asks, another process answers each line with one line of JSON.

The standard library only, because peers run it in an environment of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_HIDDEN = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


class LateError(Exception):
    """No answer within the limit."""


class Partner:
    """A process that is asked for timings.

    Parameters
    ----------
    command : sequence of str
        Program and arguments; its first line says that it is ready.
    limit : float
        Seconds until it must be ready.
    environment : mapping, optional
        Added to the environment.
    log : path, optional
        Where its standard error goes.

    Raises
    ------
    LateError
        If it is not ready in time.
    RuntimeError
        If it ends instead of answering; with the last line of its log.
    """

    def __init__(
        self,
        command: Sequence[str],
        limit: float,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.log = log
        self.answered = b""
        environ = {key: value for key, value in os.environ.items() if key not in _HIDDEN}
        with open(log or os.devnull, "w") as errors:  # noqa: PTH123
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**environ, **(environment or {})},
                start_new_session=True,  # a JVM or workers below it end with it
            )
        self.ready = self._answer(limit)

    def ask(self, question: str, limit: float) -> dict:
        """Send a line and return the answer."""
        self.process.stdin.write(question.encode() + b"\n")
        self.process.stdin.flush()
        return self._answer(limit)

    def close(self) -> None:
        """End the process and what it started."""
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self.process.stdin.close()
            self.process.wait(timeout=10)
        self.close_now()

    def _answer(self, limit: float) -> dict:
        end = time.monotonic() + limit
        while True:
            line, found, rest = self.answered.partition(b"\n")
            if found:
                self.answered = rest
                if line.startswith(b"{"):
                    return json.loads(line)
                continue  # libraries print too
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.close_now()
                message = f"over {limit:.0f} s"
                raise LateError(message)
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                self.close_now()
                raise RuntimeError(self._last_words())
            self.answered += piece

    def close_now(self) -> None:
        """Kill the process and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log and self.log.exists() else []
        return lines[-1][:200] if lines else f"ended with status {self.process.returncode}"


def serve(answer: Callable[[str], dict], **ready: object) -> None:
    """Say that this process is ready, then answer lines until there are no more."""
    print(json.dumps({"ready": True, **ready}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), flush=True)
