"""`dem select` on real stores."""

from __future__ import annotations

import json

import pytest
import zarr
from cases import gaussian_rows
from cases_exponential import binomial_rows
from click.testing import CliRunner

import dem
from dem.cli import dem as command


def run(*arguments):
    return CliRunner().invoke(command, ["select", *map(str, arguments)])


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.zarr"
    zarr.create_array(path, data=gaussian_rows(1500), chunks=(500, 3))
    return path


def test_the_chosen_model_is_saved_and_the_table_printed(data, tmp_path):
    out, picture = tmp_path / "model.zarr", tmp_path / "criteria.png"
    arguments = (data, "--components", "1:4", "--covariance", "full,diag", "--seed", 0, "--holdout", 0.1)
    result = run(*arguments, "--out", out, "--plot", picture)
    assert result.exit_code == 0, result.output
    model = dem.load(str(out))
    assert (model.n_components, model.covariance_type) == (3, "full")
    lines = result.stdout.splitlines()
    assert sum(("full" in line or "diag" in line) and "converged" in line for line in lines) == 8
    assert "chosen by bic: 3 components, covariance full" in result.stdout
    assert "…" not in result.stdout, "a number is cut"
    assert picture.stat().st_size > 5000
    need, *told = [line.split(" ", 2)[2] for line in result.stderr.splitlines()]  # after the time
    assert need.startswith("this process needs up to ")
    assert told[:3] == [
        "preparing: drawing a sample of the rows",
        "preparing: looking for a start in the sample (kmeans)",  # 8 times
        "fitting all data: 1,500 rows x 3 features (36.0 kB), 8 models at once",
    ]
    assert told[3].startswith("iteration 1 (8 of 8 models go on), "), "one line for each read"
    assert [line.split(" (")[0] for line in told[3:]] == [f"iteration {n + 1}" for n in range(len(told) - 3)]
    figures = json.loads(run(*arguments, "--json").stdout)
    assert figures["best"] == min(figures["models"], key=lambda row: row["bic"])
    assert len(figures["models"]) == 8
    assert figures["best"]["held_out"] == pytest.approx(figures["best"]["log_likelihood"], abs=0.5)


def test_a_fit_can_go_on_from_the_chosen_model(data, tmp_path):
    out = tmp_path / "model.zarr"
    assert run(data, "-k", "2,3", "--out", out, "--seed", 0, "--quiet").output == ""
    result = CliRunner().invoke(command, ["fit", str(data), "--from", str(out), "--quiet", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_components"] == 3


def test_counts(tmp_path):
    path = tmp_path / "counts.zarr"
    zarr.create_array(path, data=binomial_rows(12, 1000), chunks=(500, 5))
    arguments = (path, "-k", "1:5:2", "--family", "binomial", "--trials", 12, "--seed", 0, "--criterion", "icl")
    figures = json.loads(run(*arguments, "--json", "--quiet").stdout)
    assert [row["n_components"] for row in figures["models"]] == [1, 3, 5]
    assert figures["best"]["n_components"] == 3
    assert "covariance" not in run(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-k", "1:x"), "'1:x' is no number or range of numbers (such as 4 or 1:32)"),
        (("-k", "4:2"), "'4:2' is no number or range of numbers"),
        (("-k", "0"), "'0' is no number or range of numbers"),
        (("-k", "2", "--covariance", "full,round"), "'round' is not one of full, tied, diag, spherical"),
        (("-k", "2", "--family", "binomial"), "--family binomial needs --trials"),
        (("-k", "2", "--trials", "3"), "--trials is for --family binomial"),
        (
            ("-k", "2", "--family", "bernoulli", "--covariance", "full"),
            "--covariance is for --family gaussian or ",
        ),
        (("-k", "2", "--criterion", "held_out"), "--criterion held_out needs held-out rows"),
    ],
)
def test_wrong_use(data, arguments, message):
    result = run(data, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_folder_of_the_picture_is_judged_before_the_fit(data, tmp_path):
    result = run(data, "-k", "2", "--plot", tmp_path / "nowhere" / "x.png")
    assert result.exit_code == 1
    assert "nowhere/x.png: its folder does not exist" in result.stderr
