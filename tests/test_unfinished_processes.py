"""Commands that are killed or interrupted amid an output, and started again by the same line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from outputs import HEIGHT, N_CHUNKS, files, make_inputs

import dem.cli
import dem.estimators.streams
from dem.data.output_progress import Place

# The shell command with small reads, of which each takes a while, and is a line in a file.
SLOW = f"""
import sys, time
import dem.data.zarr
from dem.data import unfinished
from dem.em import predict
from dem.estimators import streams
log, pause = sys.argv.pop(1), float(sys.argv.pop(1))
unfinished.AFTER, unfinished.SHARE, dem.data.zarr.READ_BYTES, streams.CHUNK_BYTES = 0.1, 1.0, 1, {HEIGHT} * 24

def slowly(kind, name):
    method = getattr(kind, name)
    def noted(self, chunk):
        time.sleep(pause)
        found = method(self, chunk)
        with open(log, "a") as file:
            file.write(f"{{chunk.index[0]}}\\n")
        return found
    setattr(kind, name, noted)

slowly(predict.RowFunction, "result")
slowly(predict.Imputed, "result")
slowly(streams.Draw, "__call__")
from dem.cli.main import dem
dem.main()
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def command(log, pause, *arguments):
    line = [sys.executable, "-c", SLOW, str(log), str(pause), *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    return stdout, stderr


def computed(log):
    return len(set(log.read_text().split())) if log.exists() else 0


def wait_until_half_written(process, out):
    place, deadline = Place(str(out)), time.monotonic() + 60
    while (progress := place.read()) is None or progress.written.n_rows < N_CHUNKS * HEIGHT // 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.reliability(
    fault="`dem predict`, `dem sample` or `dem impute` is killed (`kill -9`), and started again",
    sees="going on: … of … rows are written already",
    lost="the chunks under way, and what is written within a second or so; the same bits",
    recovery="the same line, which goes on where chunks are missing",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "model.zarr", "rows.zarr", "OUT"),
        ("impute", "model.zarr", "gaps.zarr", "OUT", "--variable", "x", "--draw", "--seed", "3"),
        ("sample", "model.zarr", str(N_CHUNKS * HEIGHT), "OUT", "--seed", "3"),
    ],
    ids=["labels", "impute", "sample"],
)
def test_a_killed_command_goes_on_to_the_same_bits(arguments, inputs, tmp_path, monkeypatch):
    def line(out):
        return [
            str(inputs / one) if one.endswith(".zarr") else str(tmp_path / out) if one == "OUT" else one
            for one in arguments
        ]

    monkeypatch.setattr(dem.estimators.streams, "CHUNK_BYTES", HEIGHT * 24)
    whole = CliRunner().invoke(dem.cli.dem, line("whole.zarr"))
    assert whole.exit_code == 0, whole.output
    process = command(tmp_path / "first.log", 0.05, *line("out.zarr"))
    wait_until_half_written(process, tmp_path / "out.zarr")
    process.kill()
    process.communicate()
    assert not (tmp_path / "out.zarr").exists()
    _, stderr = finish(command(tmp_path / "second.log", 0, *line("out.zarr")))
    assert re.search(r"going on: [\d,]+ of 19,200 rows are written already", stderr)
    assert 0 < computed(tmp_path / "second.log") <= N_CHUNKS // 2
    assert files(tmp_path / "out.zarr") == files(tmp_path / "whole.zarr")
    assert sorted(one.name for one in tmp_path.glob("*out*")) == ["out.zarr"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.reliability(
    fault="a second process writes the same output",
    sees="… is being written by another process; wait for it, or end it",
    lost="nothing; the first goes on",
    recovery="none is needed",
)
@pytest.mark.slow
def test_a_second_process_is_refused(inputs, tmp_path):
    line = ["predict", inputs / "model.zarr", inputs / "rows.zarr", tmp_path / "out.zarr"]
    process = command(tmp_path / "first.log", 0.08, *line)
    wait_until_half_written(process, tmp_path / "out.zarr")
    process.send_signal(signal.SIGSTOP)
    second = command(tmp_path / "second.log", 0, *line)
    _, stderr = second.communicate()
    process.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert stderr.splitlines()[-1].endswith("out.zarr is being written by another process; wait for it, or end it")
    finish(process)
    assert computed(tmp_path / "first.log") == N_CHUNKS
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(inputs, tmp_path):
    line = ["predict", inputs / "model.zarr", inputs / "rows.zarr", tmp_path / "out.zarr"]
    process = command(tmp_path / "first.log", 0.08, *line)
    wait_until_half_written(process, tmp_path / "out.zarr")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    *_, kept, last = stderr.splitlines()
    assert re.search(r"out\.zarr is not whole: .* the same call \(or command\) goes on from there$", kept)
    assert last == "dem: stopped by Ctrl-C"
    finish(command(tmp_path / "second.log", 0, *line))
    assert computed(tmp_path / "second.log") < N_CHUNKS
