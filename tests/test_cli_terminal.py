"""What a person sees on a terminal: a live line that goes away, and warnings above it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import zarr

pty = pytest.importorskip("pty")


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    zarr.create_array(tmp_path / "data.zarr", data=rng.normal(size=(50_000, 3)), chunks=(10_000, 3))
    return str(tmp_path / "data.zarr")


def on_terminal(*arguments):
    """Run a command whose stderr is a terminal; return its stdout and what it sent to the terminal."""
    terminal, stderr = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "dem", *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment,
    ) as process:
        os.close(stderr)
        shown = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # Linux ends a terminal in this way
                break
            if not part:
                break
            shown += part
        stdout = process.stdout.read()
    os.close(terminal)
    assert process.returncode == 0, shown
    return stdout, shown.decode()


@pytest.mark.slow
def test_a_live_line_and_a_warning_above_it(data):
    stdout, shown = on_terminal("fit", data, "-k", "3", "--seed", "0", "--max-iter", "3", "--tol", "0")
    assert "converged after 3 iterations" in stdout
    assert "\x1b" not in stdout
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in re.split(r"[\r\n]+", shown)]
    assert any(re.match(r". iteration 3 +log-likelihood/row -4\.\d+ +gain .* rows/s .* read", x) for x in lines)
    assert any(line.startswith("dem: warning: Best performing initialization did not converge") for line in lines)
    assert shown.rstrip("\r\n").endswith("\x1b[2K"), "nothing of the live line stays"


@pytest.mark.slow
def test_json_on_a_terminal_and_quiet(data):
    _, shown = on_terminal("fit", data, "-k", "1", "--json")
    assert "{" not in shown
    assert on_terminal("fit", data, "-k", "1", "--quiet") == ("", "")


@pytest.mark.slow
def test_one_read_shows_its_share(data, tmp_path):
    model = str(tmp_path / "model.zarr")
    on_terminal("fit", data, "-k", "2", "--max-iter", "2", "--tol", "10", "--out", model)
    # At 8 pictures a second a short read may be over before it is drawn, so that only the last one is certain.
    _, shown = on_terminal("predict", model, data, str(tmp_path / "labels.zarr"))
    assert "writing labels" in shown
    assert "50 k of 50 k rows" in shown
    _, shown = on_terminal("score", model, data)
    assert "50 k of 50 k rows" in shown
    _, shown = on_terminal("sample", model, "50000", str(tmp_path / "drawn.zarr"))
    assert "50 k of 50 k rows" in shown
