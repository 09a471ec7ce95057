"""Tables on narrow terminals: every figure stays whole."""

from __future__ import annotations

import re

import numpy as np
import pytest
import zarr
from cases import gaussian_rows
from click.testing import CliRunner

import dem
from dem.cli import dem as command


def on_terminal(width, *arguments):
    """Return the lines of a command's output on a terminal of some width, without styles."""
    environment = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(width)}
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], env=environment)
    assert result.exit_code == 0, result.output
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """Five components in six features whose means and deviations need up to 22 characters each."""
    path = str(tmp_path_factory.mktemp("models") / "wide.zarr")
    table = np.random.default_rng(0).normal(size=(400, 6)) * 10.0 ** np.array([-9, -3, 0, 5, 7, 12]) - 12345.678
    gm = dem.GaussianMixture(5, covariance_type="diag", max_iter=2, tol=1e9, reg_covar=0, random_state=0).fit(table)
    gm.save(path)
    return path, gm


def figures_of(gm):
    deviations = np.sqrt(gm.covariances_)
    means = [f"{m:.4g} ± {s:.2g}" for m, s in zip(gm.means_.ravel(), deviations.ravel(), strict=True)]
    return [*means, *(f"{w:.4f}" for w in gm.weights_)]


@pytest.mark.parametrize("width", [80, 40, 24])
def test_the_figures_of_a_model_are_whole(wide_model, width):
    path, gm = wide_model
    lines = on_terminal(width, "info", path)
    text = "\n".join(lines)
    assert "…" not in text
    assert sorted(figure for figure in figures_of(gm) if figure not in text) == []
    assert all(f"feature {j}" in text for j in range(6))
    assert max(map(len, lines)) <= max(width, 34), "34: the name and a mean, where not even the two find room"


def test_each_block_names_its_components(wide_model):
    lines = on_terminal(80, "info", wide_model[0])
    heads = [line.split()[:1] for line in lines if "feature" in line and "component " in line]
    assert len(heads) > 1
    assert [line.split()[0] for line in lines if "±" in line and line.split()[0].isdigit()] == list("01234") * len(
        heads
    )


@pytest.mark.parametrize("data", ["model", "plan"])
def test_lines_in_a_pipe_end_in_no_blanks_and_keep_to_columns(wide_model, tmp_path, data):
    zarr.create_array(tmp_path / "data.zarr", data=gaussian_rows(600), chunks=(100, 3))
    arguments = ["info", wide_model[0]] if data == "model" else ["plan", str(tmp_path / "data.zarr"), "-k", "2"]
    for columns, most in ((None, 240), ("90", 90)):
        result = CliRunner().invoke(command, arguments, env={"COLUMNS": columns})
        lines = result.stdout.splitlines()
        assert len(lines) > 5
        assert [line for line in lines if line != line.rstrip()] == []
        tables = lines[:5]
        assert max(map(len, tables)) <= most


def test_a_pipe_gets_one_block(wide_model):
    result = CliRunner().invoke(command, ["info", wide_model[0]], env={"COLUMNS": None})
    assert sum("component" in line and "weight" in line for line in result.stdout.splitlines()) == 1
    assert sum(line.lstrip().startswith(tuple("01234")) for line in result.stdout.splitlines()) == 5
    assert all(figure in result.stdout for figure in figures_of(wide_model[1]))


@pytest.mark.parametrize("width", [80, 40])
def test_the_figures_of_a_selection_are_whole(tmp_path, width):
    zarr.create_array(tmp_path / "data.zarr", data=gaussian_rows(1500) * 1e6, chunks=(500, 3))
    arguments = (
        "select",
        tmp_path / "data.zarr",
        "-k",
        "1:3",
        "--covariance",
        "full,diag",
        "--seed",
        0,
        "--holdout",
        0.1,
    )
    text = "\n".join(on_terminal(width, *arguments))
    chosen = dem.select(
        str(tmp_path / "data.zarr"),
        n_components=range(1, 4),
        covariance_type=("full", "diag"),
        random_state=0,
        holdout=0.1,
    )
    assert "…" not in text
    for row in chosen.table:
        for name in ("bic", "aic", "icl"):
            assert f"{row[name]:.1f}" in text
        assert f"{row['held_out']:.6g}" in text
        assert f"{row['log_likelihood']:.6g}" in text


@pytest.mark.parametrize("width", [80, 40])
def test_what_info_says_of_data_is_whole(tmp_path, width):
    path = tmp_path / "data.zarr"
    zarr.create_array(path, shape=(123_456_789_012, 64), chunks=(1_000_000, 64), dtype="f8")
    text = "\n".join(on_terminal(width, "info", path))
    assert "123,456,789,012 x 64" in text
    assert "63.2 TB" in text
