"""Choice by stability: agreement of partitions of halves, of the same fits wherever and however they run."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from cases import gaussian_rows
from sources import CutRows
from test_checkpoints import Gone, GoneAfter
from test_cli_commands import works

import dem
from dem import plot
from dem.data.base import Chunk
from dem.errors import OptionError
from dem.estimators.stability import COLUMNS, most_stable, stability_of
from dem.initialise.sample import RowSample

EDGES = [400, 900, 1500, 2300]
OPTIONS = {"n_components": [2, 3], "random_state": 0, "subsamples": 3}


def clusters(centres, n_rows, seed=0, *, round_off=False):
    """Rows of clusters, Gaussian or of even density in a disc."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(centres), n_rows)
    if not round_off:
        return np.asarray(centres)[labels] + rng.normal(size=(n_rows, 2))
    angles, radii = rng.uniform(0, 2 * np.pi, n_rows), np.sqrt(rng.uniform(size=n_rows))
    return np.asarray(centres)[labels] + np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])


def rand_index(one, other):
    """The adjusted Rand index by counting all pairs of rows (Hubert and Arabie 1985)."""
    mine, theirs = (labels[:, np.newaxis] == labels for labels in (one, other))
    pairs = np.triu_indices(len(one), 1)
    mine, theirs = mine[pairs], theirs[pairs]
    expected = mine.mean() * theirs.mean()
    return (np.mean(mine & theirs) - expected) / (0.5 * (mine.mean() + theirs.mean()) - expected)


def test_four_clusters_that_are_apart_are_four():
    rows = CutRows(clusters([[0, 0], [9, 0], [0, 9], [10, 11]], 500), [200])
    options = {"n_components": [1, 3, 4, 5], "random_state": 0, "tol": 1e-2}
    chosen = dem.select(rows, criterion="stability", subsamples=4, **options)
    assert chosen.best_estimator_.n_components == 4
    table = {row["n_components"]: row for row in chosen.table}
    assert table[4]["stability"] == 1.0
    assert max(table[k]["stability"] for k in (3, 5)) < 0.97
    assert math.isnan(table[1]["stability"]), "that all rows are in one part says nothing"
    assert all(row["stability_low"] <= row["stability"] + 1e-12 for row in chosen.table[1:])
    assert chosen.reads == rows.reads, "all models and their halves are on the same reads"
    assert all(math.isfinite(row["bic"]) for row in chosen.table)


@pytest.mark.slow
def test_clusters_that_are_not_gaussian_are_stable_where_bic_goes_on_dividing_them():
    rows = clusters([[0, 0], [4, 0], [0, 4]], 3000, round_off=True)
    chosen = dem.select(rows, n_components=range(1, 8), criterion="stability", random_state=0)
    assert chosen.best_estimator_.n_components == 3
    assert min(chosen.table, key=lambda row: row["bic"])["n_components"] > 3


def test_agreement_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, 60) for _ in range(2)]
    labels += [np.where(rng.random(60) < 0.8, labels[0], labels[1]) for _ in range(2)]
    family = SimpleNamespace(labels=lambda parameters, _: labels[parameters])
    fits = [SimpleNamespace(parameters=number) for number in range(4)]
    sample = RowSample(Chunk(np.zeros((60, 1)), range(60)), True, 60.0)
    found = stability_of(family, fits, sample)
    pairs = {pair: rand_index(labels[pair[0]], labels[pair[1]]) for pair in itertools.combinations(range(4), 2)}
    assert found["stability"] == pytest.approx(np.mean([*pairs.values()]), rel=1e-12)
    left = [np.mean([value for pair, value in pairs.items() if r not in pair]) for r in range(4)]
    assert found["stability_error"] == pytest.approx(np.sqrt(3 / 4 * np.sum((left - np.mean(left)) ** 2)), rel=1e-12)
    assert [found["stability_low"], found["stability_high"]] == pytest.approx(
        np.quantile([*pairs.values()], [0.1, 0.9])
    )
    assert all(map(math.isnan, stability_of(family, fits[:2], sample).values()))


def test_each_half_is_fitted_as_if_there_were_no_other_rows():
    """The partition of a half is that of a fit to its rows by themselves, from the same start."""
    from dem.estimators.holdout import Holdout, OnSubset

    rows, part = gaussian_rows(), Holdout(0.5, 2**32)
    family, parameters = dem.GaussianMixture(3, random_state=0).fit(rows[:500])._model()
    chunk, own = Chunk(rows, range(3000)), part.holds(range(3000))
    assert 1400 < own.sum() < 1600
    shown = OnSubset(family, part).e_step(parameters, chunk)
    alone = family.e_step(parameters, Chunk(rows[own], range(own.sum())))
    assert shown.log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(shown.counts, alone.counts, rtol=1e-12)


def test_the_finest_partition_within_the_error_is_chosen():
    def row(k, mean, error):
        return {"n_components": k, "stability": mean, "stability_error": error}

    assert most_stable([row(2, 1.0, 0.0), row(4, 1.0, 0.0), row(5, 0.9, 0.2)]) == 1
    assert most_stable([row(2, 0.9, 0.05), row(3, 0.86, 0.01), row(4, 0.84, 0.5)]) == 1
    assert most_stable([row(1, math.nan, math.nan)]) is None


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["batch", "incremental"])
def test_the_same_table_on_threads_and_after_interruptions(algorithm, tmp_path, monkeypatch):
    from dem.engine import LocalEngine

    def search(**more):
        return dem.select(CutRows(gaussian_rows(), EDGES), **OPTIONS, algorithm=algorithm, sample_rows=900, **more)

    whole = search()
    for n_ends in itertools.count():
        try:
            again = search(callbacks=[GoneAfter(16 * (n_ends + 1))], checkpoint=tmp_path / "search")
            break
        except Gone:
            continue
    assert n_ends > 1
    assert again.table == whole.table
    monkeypatch.setattr("dem.estimators.selection.current_engine", lambda _: LocalEngine(3))
    assert search().table == whole.table
    assert whole.criterion == "bic"
    assert {*COLUMNS} <= whole.table[0].keys()
    without = dem.select(
        CutRows(gaussian_rows(), EDGES), **{**OPTIONS, "subsamples": None}, algorithm=algorithm, sample_rows=900
    )
    # Kernels are shared with the halves: rounding may differ.
    assert [row["bic"] for row in without.table] == pytest.approx([row["bic"] for row in whole.table], rel=1e-9)
    assert "stability" not in without.table[0]


@pytest.mark.slow
def test_the_same_table_on_a_cluster(cluster):
    from distributed import Client

    expected = dem.select(CutRows(gaussian_rows(), EDGES), **OPTIONS)
    with Client(cluster):
        assert dem.select(CutRows(gaussian_rows(), EDGES), **OPTIONS).table == expected.table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "rows"),
    [
        (dem.BernoulliMixture(init_params="k-means||"), np.random.default_rng(0).integers(0, 2, (500, 4))),
        (dem.GaussianMixture(noise=True), gaussian_rows(600)),
        (
            dem.GaussianMixture(missing="marginalise"),
            np.where(np.arange(1800).reshape(600, 3) % 11, gaussian_rows(600), np.nan),
        ),
        (dem.RegressionMixture(), gaussian_rows(600)),
        (dem.StudentTMixture(scale=True, n_init=2), gaussian_rows(600)),
    ],
    ids=["bernoulli", "noise", "gaps", "regression", "student-t"],
)
@pytest.mark.filterwarnings("ignore::dem.errors.ComponentWarning", "ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_mixtures_have_it(estimator, rows):
    chosen = dem.select(
        rows, estimator=estimator, n_components=[2, 3], criterion="stability", subsamples=3, random_state=0
    )
    assert all(-0.5 <= row["stability"] <= 1.0 for row in chosen.table)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"subsamples": 2}, "subsamples must be a whole number of at least 3, not 2"),
        ({"subsamples": 2.5}, "subsamples must be a whole number"),
        ({"criterion": "stability", "subsamples": 0}, "at least 3, not 0"),
        ({"criterion": "stability", "n_components": 1}, "one component has none; search among more"),
    ],
)
def test_options(options, says):
    with pytest.raises(OptionError, match=says):
        dem.select(gaussian_rows(50), **{"n_components": [1, 2], **options})


def test_a_picture_shows_the_spread_of_the_pairs(tmp_path):
    table = [
        {
            "n_components": k,
            "stability": mean,
            "stability_error": 0.02,
            "stability_low": mean - 0.1,
            "stability_high": 1.0,
        }
        for k, mean in ((1, math.nan), (2, 0.7), (3, 0.95), (4, 0.6))
    ]
    (axes,) = plot.selection(table, tmp_path / "stability.png", criterion="stability").axes
    assert axes.get_title(loc="left") == "Best: 3 components"
    assert "adjusted Rand" in axes.get_ylabel()
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.5)
    assert (tmp_path / "stability.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_shell(tmp_path):
    zarr.create_array(tmp_path / "rows.zarr", data=gaussian_rows(), chunks=(1000, 3))
    arguments = (
        "select",
        tmp_path / "rows.zarr",
        "-k",
        "1:4",
        "--criterion",
        "stability",
        "--subsamples",
        4,
        "--seed",
        0,
    )
    figures = json.loads(works(*arguments, "--plot", tmp_path / "picture.png", "--json").stdout)
    expected = dem.select(
        str(tmp_path / "rows.zarr"), n_components=range(1, 5), criterion="stability", subsamples=4, random_state=0
    )
    assert figures["best"] == expected.table[expected.best_index]
    assert figures["models"][0]["stability"] is None
    assert (tmp_path / "picture.png").stat().st_size > 5000
    shown = works(*arguments).stdout
    assert "stability" in shown
    assert "chosen by stability: 3 components" in shown


@pytest.mark.filterwarnings("ignore::dem.errors.DataWarning", "ignore::dem.errors.ComponentWarning")
@pytest.mark.filterwarnings("ignore:Number of distinct clusters:sklearn.exceptions.ConvergenceWarning")
def test_partitions_that_put_all_rows_together_are_not_stable():
    chosen = dem.select(np.ones((100, 2)), criterion="stability", n_components=[2, 3], subsamples=3, random_state=0)
    assert [row["stability"] for row in chosen.table] == [0.0, 0.0]
