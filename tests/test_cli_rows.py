"""The shell takes what Python takes of each row: weights and labels."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import zarr
from cases import gaussian_rows
from test_cli_sources import run

import dem


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The same rows with weights and labels: in a group, in parquet, and in arrays of their own."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(3)
    rows = gaussian_rows(900)
    known = np.where(np.arange(900) % 9 == 0, (rows[:, 0] > 2).astype(int), -1)
    columns = {"importance": rng.random(900), "known": known}
    group = zarr.create_group(folder / "group.zarr")
    group.create_array("rows", data=rows, chunks=(300, 3))
    for name, values in columns.items():
        group.create_array(name, data=values, chunks=(900,))
        zarr.create_array(folder / f"{name}.zarr", data=values, chunks=(100,))
    frame = pd.DataFrame(rows, columns=list("abc")).assign(**columns)
    frame.to_parquet(folder / "table.parquet", row_group_size=300)
    return folder, rows, columns


@pytest.mark.parametrize("kind", ["group", "parquet", "paths"])
def test_fit_and_score(here, tmp_path, capsys, kind):
    folder, rows, columns = here
    given = ("--weights", "importance", "--labels", "known")
    data = {
        "group": (folder / "group.zarr", "--variable", "rows", *given),
        "parquet": (folder / "table.parquet", *given),
        "paths": (
            folder / "group.zarr/rows",
            "--weights",
            folder / "importance.zarr",
            "--labels",
            folder / "known.zarr",
        ),
    }[kind]
    model = tmp_path / "model.zarr"
    code, said = run(capsys, "fit", *data, "-k", 2, "--seed", 0, "--quiet", "--out", model)
    assert (code, said.err) == (0, "")
    both = {"sample_weight": columns["importance"], "labels": columns["known"]}
    expected = dem.GaussianMixture(2, random_state=0).fit(rows, **both)
    np.testing.assert_allclose(dem.load(str(model)).means_, expected.means_, rtol=1e-9)
    code, said = run(capsys, "score", model, *data, "--json")
    figures = json.loads(said.out)
    assert figures["log_likelihood_per_row"] == pytest.approx(expected.score(rows, **both), rel=1e-9)
    assert figures["n_rows"] == pytest.approx(columns["importance"].sum())


def test_select(here, capsys):
    folder, rows, columns = here
    options = (
        "--columns",
        "a,b,c",
        "-k",
        "2:3",
        "--weights",
        "importance",
        "--init",
        "random_from_data",
        "--seed",
        0,
        "--json",
    )
    figures = json.loads(run(capsys, "select", folder / "table.parquet", *options)[1].out)
    expected = dem.select(
        rows,
        n_components=[2, 3],
        init_params="random_from_data",
        random_state=0,
        sample_weight=columns["importance"],
    )
    assert [row["bic"] for row in figures["models"]] == pytest.approx([row["bic"] for row in expected.table], rel=1e-9)


def test_k_means_takes_weights_only(here, tmp_path, capsys):
    folder, rows, columns = here
    options = ("-k", 3, "--family", "kmeans", "--seed", 0, "--quiet", "--out", tmp_path / "m.zarr")
    data = (folder / "table.parquet", "--weights", "importance")
    code, _ = run(capsys, "fit", *data, "--columns", "a,b,c", *options)
    expected = dem.KMeans(3, random_state=0).fit(rows, sample_weight=columns["importance"])
    model = dem.load(str(tmp_path / "m.zarr"))
    assert code == 0
    np.testing.assert_allclose(model.cluster_centers_, expected.cluster_centers_, rtol=1e-9)
    figures = json.loads(run(capsys, "score", tmp_path / "m.zarr", *data, "--json")[1].out)
    assert figures["inertia_per_row"] == pytest.approx(expected.inertia_ / columns["importance"].sum())
    code, said = run(capsys, "fit", folder / "table.parquet", "--labels", "known", "-k", 3, "--family", "kmeans")
    assert code != 0
    assert "labels goes with mixtures only" in said.err


@pytest.mark.parametrize("family", ["gaussian", "kmeans"])
def test_scale(here, tmp_path, capsys, family):
    folder, rows, _ = here
    options = ("--variable", "rows", "-k", 3, "--family", family, "--scale", "--seed", 0, "--quiet")
    assert run(capsys, "fit", folder / "group.zarr", *options, "--out", tmp_path / "m.zarr")[0] == 0
    np.testing.assert_allclose(dem.load(str(tmp_path / "m.zarr")).feature_scales_, rows.std(axis=0), rtol=1e-10)
    code, said = run(capsys, "fit", folder / "group.zarr/rows", "--from", tmp_path / "m.zarr", "--scale")
    assert code == 2
    assert "--scale does not go with --from" in said.err


def test_a_name_that_is_nowhere(here, capsys):
    code, said = run(capsys, "fit", here[0] / "table.parquet", "--columns", "a,b", "-k", 2, "--weights", "worth")
    assert code != 0
    assert (
        "the data has nothing of the name 'worth', nor is there anything at that path; it has a, b, c, importance"
        in said.err
    )


def test_errors_and_limits(tmp_path, capsys):
    rng = np.random.default_rng(5)
    rows, noise = gaussian_rows(600)[:, :2], rng.uniform(0.1, 0.5, (600, 2))
    rows[rows[:, 0] < -3.0, 0] = np.nan
    group = zarr.create_group(tmp_path / "group.zarr")
    group.create_array("flux", data=rows, chunks=(200, 2))
    group.create_array("variance", data=noise, chunks=(100, 2))
    group.create_array("least", data=np.where(np.isnan(rows), -9.0, -np.inf), chunks=(600, 2))
    given = ("--variable", "flux", "--errors", "variance", "--lower", "least", "--upper=-3,inf")
    model, out, data = tmp_path / "model.zarr", tmp_path / "out.zarr", tmp_path / "group.zarr"
    code, said = run(capsys, "fit", data, *given, "-k", 2, "--seed", 0, "--quiet", "--out", model)
    assert (code, said.err) == (0, "")
    options = {"noise_covariance": noise, "lower": np.array(group["least"]), "upper": [-3.0, np.inf]}
    expected = dem.GaussianMixture(2, random_state=0).fit(rows, **options)
    np.testing.assert_allclose(dem.load(str(model)).means_, expected.means_, rtol=1e-9)
    figures = json.loads(run(capsys, "score", model, data, *given, "--json")[1].out)
    assert figures["log_likelihood_per_row"] == pytest.approx(expected.score(rows, **options), rel=1e-9)
    assert run(capsys, "predict", model, data, out, "--log-density", *given, "--quiet")[0] == 0
    np.testing.assert_allclose(zarr.open_array(out)[:], expected.score_samples(rows, **options), rtol=1e-9)
    code, said = run(capsys, "fit", data, "--variable", "flux", "--upper", "nan", "-k", 2)
    assert code == 1
    assert "upper is nan" in said.err


def test_errors_and_limits_in_columns_of_parquet(tmp_path, capsys):
    rng = np.random.default_rng(4)
    rows, variances = gaussian_rows(300)[:, :2], rng.uniform(0.1, 0.5, (300, 2))
    hidden = rows.copy()
    hidden[::7, 0] = np.nan
    limits = np.full((300, 2), [-2.0, np.inf])
    frame = pd.DataFrame(
        np.hstack([hidden, variances, limits]), columns=["u", "g", "var_u", "var_g", "faint_u", "faint_g"]
    )
    data = tmp_path / "table.parquet"
    frame.to_parquet(data)
    given = ("--errors", "var_u,var_g", "--upper", "faint_u,faint_g")
    model = tmp_path / "model.zarr"
    code, said = run(capsys, "fit", data, *given, "-k", 2, "--seed", 0, "--quiet", "--out", model)
    assert (code, said.err) == (0, "")
    both = {"noise_covariance": variances, "upper": limits}
    expected = dem.GaussianMixture(2, random_state=0).fit(hidden, **both)
    np.testing.assert_allclose(dem.load(str(model)).means_, expected.means_, rtol=1e-9)
    code, said = run(capsys, "score", model, data, *given, "--json")
    assert json.loads(said.out)["log_likelihood_per_row"] == pytest.approx(expected.score(hidden, **both), rel=1e-9)
    assert run(capsys, "plan", data, *given, "-k", 2)[0] == 0
    assert run(capsys, "impute", model, data, tmp_path / "filled.zarr", *given, "--quiet")[0] == 0
    filled = zarr.open_array(tmp_path / "filled.zarr")[...]
    np.testing.assert_allclose(filled, expected.impute(hidden, **both), rtol=1e-9)
    code, said = run(capsys, "fit", data, "--errors", "var_u,var_i", "-k", 2)
    assert code == 1
    assert "'var_i'; it has u, g, var_u" in said.err


@pytest.mark.parametrize(("given", "noise"), [(("--noise",), True), (("--noise", "3600"), 3600.0)])
def test_a_background(tmp_path, capsys, given, noise):
    rng = np.random.default_rng(5)
    rows = np.concatenate([gaussian_rows(400)[:, :2], rng.uniform(-30, 30, (40, 2))])
    zarr.create_array(tmp_path / "rows.zarr", data=rows)
    model = tmp_path / "model.zarr"
    data, seeded = tmp_path / "rows.zarr", ("--seed", 0, "--quiet", "--out", model)
    assert run(capsys, "fit", data, "-k", 2, *given, *seeded)[0] == 0
    expected = dem.GaussianMixture(2, noise=noise, random_state=0).fit(rows)
    ours = dem.load(str(model))
    assert ours.noise == noise
    np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-9)
    figures = json.loads(run(capsys, "select", data, "-k", "2", *given, "--seed", 0, "--json")[1].out)
    assert figures["models"][0]["bic"] == pytest.approx(expected.bic(rows), rel=1e-6)
    for wrong, says in ((("--noise", "0"), "0"), (("--noise", "--family", "poisson"), "--noise is for --family")):
        code, said = run(capsys, "fit", data, "-k", 2, *wrong)
        assert code == 2
        assert says in said.err
    code, said = run(capsys, "fit", data, "--from", model, *given)
    assert (code, "--noise does not go with --from" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fit", "--weights", "known"), "--weights (group.zarr/known) is -1"),
        (("fit", "--labels", "beyond"), "beyond) is 4 in row 5; labels are whole numbers from 0 to 1"),
        (("fit", "--covariance", "diag", "--errors", "rows"), "--errors goes with Gaussian mixtures"),
        (("fit", "--labels", "known", "--top-components", "1"), "--labels do not go with --top-components: a"),
        (("fit", "--weights", "nothing"), "--weights: the data has nothing of the name 'nothing'"),
        (
            ("fit", "--family", "student_t", "--missing", "marginalise"),
            "--missing marginalise is not for StudentTMixture",
        ),
        (("select", "--labels", "three"), "name component 2: --components 2 is left out"),
    ],
)
def test_messages_name_the_options_of_the_shell(tmp_path, capsys, arguments, says):
    group = zarr.create_group(tmp_path / "group.zarr")
    numbers = np.arange(200)
    columns = {"known": numbers % 3 - 1, "beyond": np.where(numbers == 5, 4, -1), "three": numbers % 4 - 1}
    for name, values in {"rows": gaussian_rows(200), **columns}.items():
        group.create_array(name, data=values)
    size = "2,3" if arguments[0] == "select" else 2
    command, *options = arguments
    _, said = run(capsys, command, tmp_path / "group.zarr", "--variable", "rows", *options, "-k", size, "--seed", 0)
    (line,) = [line for line in said.err.splitlines() if says in line]
    assert "sample_weight" not in line
