"""The command line before any data is read: help, options, paths, failures and how they are told."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import warnings

import click
import pytest
from click.testing import CliRunner

from dem.cli import dem
from dem.cli.options import check_output, count
from dem.cli.session import _dask_silenced, interrupts, plain_warnings
from dem.errors import DataWarning, DemError, StoreError

COMMANDS = ("plan", "fit", "select", "adapt", "predict", "score", "outliers", "impute", "sample", "info", "demo")


def run(*arguments):
    return CliRunner().invoke(dem, [str(argument) for argument in arguments])


def fails(code, *arguments):
    """Run a command that must fail with one line, and return that line without ``dem: ``."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("dem: ")
    return lines[0].removeprefix("dem: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"\n    dem {command} " in result.stdout.split("Example")[1]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from dem.cli import dem\n"
        "for arguments in (['--help'], ['fit', '--help'], ['demo', '--help']):\n"
        "    dem.main(arguments, standalone_mode=False)\n"
        "heavy = {'dask', 'distributed', 'matplotlib', 'numpy', 'rich', 'scipy', 'sklearn', 'zarr'}\n"
        "print('imported:', sorted(heavy & sys.modules.keys()))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "imported: []"


def test_module_and_version():
    result = subprocess.run([sys.executable, "-m", "dem", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("dem ")


def test_without_a_command_help_is_shown():
    result = run()
    assert result.exit_code == 2
    assert all(command in result.stderr for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "Missing argument 'DATA' (see dem fit --help)"),
        (
            ["fit", "x", "-k", "2", "--covariance", "round"],
            "'round' is not one of 'full', 'tied', 'diag', 'spherical'",
        ),
        (["fit", "x", "-k", "2", "--family", "cauchy"], "not one of 'gaussian', 'bernoulli', 'binomial'"),
        (
            ["fit", "x", "-k", "2", "--init", "best"],
            "'kmeans', 'k-means++', 'random', 'random_from_data', 'k-means||'",
        ),
        (["fit", "x", "-k", "0"], "0 is not in the range x>=1"),
        (["fit", "x", "-k", "2", "--tol", "-1"], "-1.0 is not in the range x>=0"),
        (["fit", "x", "-k", "2", "--tol", "nan"], "'--tol': nan is not a finite number"),
        (["fit", "x", "-k", "2", "--tol", "inf"], "'--tol': inf is not a finite number"),
        (["fit", "x", "-k", "2", "--reg-covar", "nan"], "'--reg-covar': nan is not a finite number"),
        (["select", "x", "-k", "2", "--holdout", "nan"], "'--holdout': nan is not a finite number"),
        (["fit", "x", "-k", "2", "--seed", "4294967296"], "4294967296 is not in the range 0<=x<=4294967295"),
        (["select", "x", "-k", "2", "--seed", "4294967296"], "4294967296 is not in the range 0<=x<=4294967295"),
        (["demo", "--seed", "4294967296"], "4294967296 is not in the range 0<=x<=4294967295"),
        (["fit", "", "-k", "2"], "'DATA': it is empty; is a variable of the shell not set?"),
        (["fit", "x", "-k", "2", "--out", ""], "'--out': it is empty"),
        (["fit", "x", "-k", "2", "--variable", " "], "'--variable': it is empty"),
        (["fit", "x", "--from", ""], "'--from': it is empty"),
        (["fit", "x", "-k", "2", "--scheduler", ""], "'--scheduler': it is empty"),
        (["predict", "", "d", "o"], "'MODEL': it is empty"),
        (["score", "m", ""], "'DATA': it is empty"),
        (["sample", "m", "5", ""], "'OUT': it is empty"),
        (["info", ""], "it is empty"),
        (["fit", "x", "-k", "2", "--tolerance", "1"], "No such option"),
        (["fit", "x"], "give the number of components with --components"),
        (["fit", "x", "-k", "2", "--family", "binomial"], "--family binomial needs --trials"),
        (["fit", "x", "-k", "2", "--trials", "3"], "--trials is for --family binomial"),
        (
            ["fit", "x", "-k", "2", "--family", "bernoulli", "--covariance", "full"],
            "--covariance is for --family gauss",
        ),
        (["fit", "x", "--from", "m", "--init", "kmeans"], "--init does not go with --from"),
        (
            ["fit", "x", "-k", "2", "--workers", "2", "--scheduler", "tcp://a:1"],
            "either --scheduler or --workers",
        ),
        (
            ["fit", "x", "-k", "2", "--memory-limit", "2GB"],
            "--memory-limit is for the processes that --workers starts",
        ),
        (["predict", "m", "d", "o", "--proba", "--log-density"], "give either --proba or --log-density"),
        (["sample", "m", "1.5", "o"], "'1.5' is not a positive whole number"),
        (["info"], "give the path of a model or of data, or --system"),
        (["info", "x", "--system"], "give the path of a model or of data, or --system"),
        (["demo", "--size", "huge"], "'huge' is not a size (such as 2GB or 500MB)"),
        (["fitt"], "No such command 'fitt'"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(arguments, message):
    assert message in fails(2, *arguments)


@pytest.mark.parametrize(("text", "number"), [("1000", 1000), ("1e9", 10**9), ("1_000", 1000), ("1.5e3", 1500)])
def test_counts(text, number):
    assert count(text) == number


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "inf", "nan", "many", "1e400"])
def test_no_counts(text):
    with pytest.raises(click.BadParameter, match="not a positive whole number"):
        count(text)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_worker_that_dies_for_its_memory_is_a_warning_and_dask_says_nothing_else(capsys, quiet):
    with plain_warnings(quiet), _dask_silenced("100MB"):
        for _ in range(2):
            logging.getLogger("distributed.nanny.memory").warning("Worker x exceeded 95% memory budget. Restarting...")
        logging.getLogger("distributed.nanny.memory").warning("Worker x is slow to accept SIGTERM")
        logging.getLogger("distributed.worker").error("Compute Failed")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (0 if quiet else 2)
    for number, line in enumerate(lines, 1):
        assert line.startswith("dem: warning: a worker needed more than its memory limit (100MB) and was restarted")
        assert f"(restart {number})" in line


def test_threads_may_finish_their_chunk_and_one_that_never_started_is_no_obstacle(monkeypatch):
    done = []
    at_work = threading.Thread(target=lambda: (time.sleep(0.2), done.append(True)), name="dem-work")
    at_work.start()
    waiting = threading.Thread(name="dem-waiting")
    monkeypatch.setattr("threading.enumerate", lambda: [waiting, at_work])
    with interrupts():
        pass
    assert done == [True]


def test_silencing_dask_ends_with_the_command():
    logger = logging.getLogger("distributed.worker")
    before = logger.level
    with _dask_silenced(None):
        assert logger.level == logging.CRITICAL
    assert logger.level == before


# Where results go -----------------------------------------------------------------------------------------


def test_output_that_exists(tmp_path):
    (tmp_path / "zarr.json").touch()
    with pytest.raises(StoreError, match="exists already; choose another path or give --overwrite"):
        check_output(str(tmp_path), overwrite=False)
    check_output(str(tmp_path), overwrite=True)


def test_overwrite_replaces_only_zarr_stores(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match="is no zarr store, so --overwrite does not replace it"):
        check_output(str(tmp_path), overwrite=True)


@pytest.mark.parametrize("given", ["data.zarr", "data.zarr/variable", "other/../data.zarr"])
def test_overwrite_spares_what_is_read(tmp_path, given):
    (tmp_path / "data.zarr").mkdir()
    (tmp_path / "data.zarr" / "zarr.json").touch()
    with pytest.raises(StoreError, match="would destroy"):
        check_output(str(tmp_path / "data.zarr"), overwrite=True, inputs=(str(tmp_path / given),))


def test_output_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*file is not a writable directory"):
        check_output(str(tmp_path / "file" / "out.zarr"), overwrite=False)


def test_output_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with pytest.raises(StoreError, match=r"cannot write .*out\.zarr: Permission denied in the folder"):
        check_output(str(tmp_path / "out.zarr"), overwrite=False)


def test_output_check_leaves_nothing_behind(tmp_path):
    check_output(str(tmp_path / "out.zarr"), overwrite=False)
    check_output(str(tmp_path / "new" / "folder" / "out.zarr"), overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "no.zarr", "-k", "2", "--out"],
        ["predict", "no-model.zarr", "no.zarr"],
        ["sample", "no-model.zarr", "10"],
    ],
)
def test_output_is_checked_before_anything_is_read(tmp_path, arguments):
    assert "exists" in fails(1, *arguments, tmp_path)


# Failures and warnings ------------------------------------------------------------------------------------


@pytest.fixture
def failing():
    """Make a command that raises what a test gives it."""

    def make(error):
        @dem.command("fail")
        def fail():
            raise error

        return fail

    yield make
    dem.commands.pop("fail", None)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DemError("two\n  lines"), 1, "two lines"),
        (OSError(28, "No space left on device", "out.zarr"), 1, "No space left on device (out.zarr)"),
        (MemoryError(), 1, "out of memory; smaller chunks or fewer workers need less"),
        (KeyError("secret"), 70, "unexpected KeyError: 'secret'; DEM_TRACEBACK=1 shows where"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    ],
)
def test_every_failure_is_one_line(failing, monkeypatch, error, code, line):
    monkeypatch.delenv("DEM_TRACEBACK", raising=False)
    failing(error)
    assert fails(code, "fail") == line


def test_traceback_on_demand(failing, monkeypatch):
    monkeypatch.setenv("DEM_TRACEBACK", "1")
    failing(DemError("no"))
    result = run("fail")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1] == "dem: no"


def test_warnings_are_one_line_each_and_once(capsys):
    with plain_warnings():
        for _ in range(2):
            warnings.warn("column 3 is\nconstant", DataWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "dem: warning: column 3 is constant\n"


def test_quiet_shows_no_warnings(capsys):
    with plain_warnings(quiet=True):
        warnings.warn("column 3 is constant", DataWarning, stacklevel=1)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a shell")
def test_a_closed_pipe_is_no_failure_with_a_traceback():
    command = f"{sys.executable} -m dem fit --help | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stderr == ""
