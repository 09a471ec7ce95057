"""`adapt`: Reynolds' formulas, many groups on one read, any order of rows, any kind of data, every family."""

import json

import dask.array
import dask.dataframe
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal

import dem
from dem.engine import local
from dem.engine.base import Room
from dem.errors import DataError, EngineError, OptionError
from tests.cases import CASES, gaussian_rows
from tests.sources import CutRows
from tests.test_cli_sources import run

TYPES = ("full", "tied", "diag", "spherical")
R = 16.0


def background(kind="diag", **more):
    return dem.GaussianMixture(3, covariance_type=kind, random_state=0, reg_covar=1e-9, **more).fit(gaussian_rows(600))


def new_rows(n=120, seed=4):
    return gaussian_rows(n, seed=seed) + np.array([0.4, -0.3, 0.2])


@pytest.mark.parametrize("kind", TYPES)
def test_formulas_of_reynolds(kind):
    gm, rows = background(kind), new_rows()
    shares = gm.predict_proba(rows)
    n = shares.sum(axis=0)
    alpha = (n / (n + R))[:, np.newaxis]
    first = (shares.T @ rows) / n[:, np.newaxis]
    means = alpha * first + (1.0 - alpha) * gm.means_
    moved = gm.adapt(rows, relevance=R)
    assert_allclose(moved.means_, means, rtol=1e-10, atol=1e-12)
    assert_array_equal(moved.weights_, gm.weights_)
    assert_array_equal(moved.covariances_, gm.covariances_)
    whole = gm.adapt(rows, relevance=R, update="all")
    assert_allclose(whole.means_, means, rtol=1e-10, atol=1e-12)
    weights = alpha[:, 0] * n / len(rows) + (1.0 - alpha[:, 0]) * gm.weights_
    assert_allclose(whole.weights_, weights / weights.sum(), rtol=1e-12)
    # E[xxᵀ] of both, less the adapted mean.
    if kind in ("full", "tied"):
        matrices = np.broadcast_to(gm.covariances_, (3, 3, 3))
    else:
        matrices = np.reshape(gm.covariances_, (3, -1, 1)) * np.eye(3)
    seconds = np.einsum("nk,ni,nj->kij", shares, rows, rows) / n[:, np.newaxis, np.newaxis]
    here = matrices + np.einsum("ki,kj->kij", gm.means_, gm.means_)
    mixed = alpha[..., np.newaxis] * seconds + (1.0 - alpha[..., np.newaxis]) * here
    mixed -= np.einsum("ki,kj->kij", means, means)
    expected = {
        "full": mixed,
        "tied": np.einsum("k,kij->ij", n + R, mixed) / (n + R).sum(),
        "diag": np.diagonal(mixed, axis1=1, axis2=2),
        "spherical": np.trace(mixed, axis1=1, axis2=2) / 3.0,
    }[kind]
    assert_allclose(whole.covariances_, expected, rtol=1e-8, atol=1e-10)
    assert moved.lower_bound_ == pytest.approx(gm.score(rows), rel=1e-12)
    assert moved.n_samples_seen_ == len(rows)
    assert moved.score(rows) > gm.score(rows)


@pytest.mark.parametrize("update", ["means", "all"])
@pytest.mark.parametrize("kind", ["full", "tied", pytest.param("diag", marks=pytest.mark.slow), "spherical"])
def test_groups_are_each_as_if_alone_in_any_order(kind, update):
    gm, rows = background(kind), new_rows(500)
    groups = np.random.default_rng(1).integers(10, 17, len(rows))
    weights = np.random.default_rng(2).uniform(0.0, 2.0, len(rows))
    cut = CutRows(rows, [50, 57, 300])
    together = gm.adapt(cut, groups=groups, sample_weight=weights, update=update, relevance=4)
    assert_array_equal(together.groups, np.arange(10, 17))
    for group in together:
        own = groups == group
        alone = gm.adapt(rows[own], sample_weight=weights[own], update=update, relevance=4)
        for name in ("means_", "weights_", "covariances_", "precisions_"):
            assert_allclose(getattr(together[group], name), getattr(alone, name), rtol=1e-12, atol=1e-12)
        assert together[group].lower_bound_ == pytest.approx(alone.lower_bound_, rel=1e-12)
    order = np.argsort(groups, kind="stable")
    ordered = gm.adapt(rows[order], groups=groups[order], sample_weight=weights[order], update=update, relevance=4)
    for name, array in together.parameters.items():
        assert_allclose(ordered.parameters[name], array, rtol=1e-11, atol=1e-12)
    assert_allclose(ordered.n_rows, np.bincount(groups, weights)[10:], rtol=1e-12)
    assert set(together.parameters) == ({"means"} if update == "means" else {*gm._parameter_names})


def test_one_read_and_the_same_bits_on_any_workers(monkeypatch):
    gm, rows = background(), new_rows(400)
    groups = np.arange(400) % 37
    found = []
    for n_threads in (1, 3):
        monkeypatch.setattr(local, "available_cores", lambda n_threads=n_threads: n_threads)
        cut = CutRows(rows, [100, 101, 250])
        found.append(gm.adapt(cut, groups=groups, update="all"))
        assert cut.reads == 1
    for name, array in found[0].parameters.items():
        assert_array_equal(found[1].parameters[name], array)


def test_names_from_arrays_frames_datasets_and_stores(tmp_path):
    pd = pytest.importorskip("pandas")
    gm, rows = background(), new_rows(90)
    numbers = np.arange(90) % 3
    names = np.array(["ann", "bob", "cid"])[numbers]
    expected = gm.adapt(rows, groups=numbers)
    assert expected.groups.tolist() == [0, 1, 2]

    def check(found, groups):
        assert found.groups.tolist() == groups
        assert_allclose(found.parameters["means"], expected.parameters["means"], rtol=1e-12)

    known = ["ann", "bob", "cid"]
    check(gm.adapt(rows, groups=names), known)
    check(gm.adapt(rows, groups=names.tolist()), known)
    check(gm.adapt(rows, groups=pd.Categorical(names)), known)
    check(
        gm.adapt(dask.array.from_array(rows, chunks=(40, 3)), groups=dask.array.from_array(numbers, chunks=25)),
        [0, 1, 2],
    )
    store = zarr.create_array(tmp_path / "groups.zarr", shape=(90,), chunks=(20,), dtype="i4")
    store[:] = numbers
    check(gm.adapt(rows, groups=str(tmp_path / "groups.zarr")), [0, 1, 2])
    columns = ["a", "b", "c"]
    frame = pd.DataFrame(rows, columns=columns)
    of_frame = dem.GaussianMixture(3, covariance_type="diag", random_state=0, reg_covar=1e-9)
    of_frame.fit(pd.DataFrame(gaussian_rows(600), columns=columns))
    found = of_frame.adapt(frame.assign(speaker=names), groups="speaker")
    check(found, known)
    data = xr.Dataset({name: ("time", rows[:, place]) for place, name in enumerate(columns)})
    data = data.assign_coords(speaker=("time", names))
    check(of_frame.adapt(data, groups="speaker"), known)
    adapted = found.to_xarray()
    assert adapted["means"].dims == ("group", "component", "feature")
    assert adapted["group"].to_numpy().tolist() == known
    assert adapted["feature"].to_numpy().tolist() == columns
    assert_array_equal(adapted["means"].sel(group="bob"), found["bob"].means_)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_adapted_mixtures_are_saved(kind, tmp_path):
    gm, rows = background(kind), new_rows(60)
    path = str(tmp_path / "speakers.zarr")
    found = gm.adapt(rows, groups=np.array(["x", "y"])[np.arange(60) % 2], update="all")
    found.save(path)
    again = dem.load(path)
    assert isinstance(again, dem.AdaptedMixtures)
    assert again.groups.tolist() == ["x", "y"]
    assert_array_equal(again["y"].means_, found["y"].means_)
    assert_array_equal(again["x"].predict_proba(rows), found["x"].predict_proba(rows))
    assert_array_equal(again.background.means_, gm.means_)
    assert again.to_xarray()["covariances"].shape == found.parameters["covariances"].shape
    found["x"].save(path, overwrite=True)
    assert_array_equal(dem.load(path).means_, found["x"].means_)
    with pytest.raises(KeyError, match="nobody"):
        found["nobody"]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if not case.prior_rows], ids=str)
def test_every_mixture_adapts(case):
    rows = case.data()[:600]
    fitted = case.estimator(max_iter=3, tol=10.0).fit(rows)
    # So many rows that those of the fit count for nothing: an EM step.
    much = fitted.adapt(rows, relevance=1e-9, update="all")
    step = case.estimator(max_iter=1, tol=10.0, warm_start=True)
    vars(step).update({k: v for k, v in vars(fitted).items() if k.endswith("_") or k.startswith("_")})
    expected = step.fit(rows)
    assert_allclose(getattr(much, case.located), getattr(expected, case.located), rtol=1e-5, atol=1e-7)
    # So few that they count for nothing.
    none = fitted.adapt(rows, relevance=1e12, update="all")
    assert_allclose(getattr(none, case.located), getattr(fitted, case.located), rtol=1e-6, atol=1e-7)


def test_gaps_and_a_background():
    rows = new_rows(200).copy()
    rows[::7, 1] = np.nan
    gm = dem.GaussianMixture(3, missing="marginalise", random_state=0).fit(gaussian_rows(600))
    groups = np.arange(200) % 4
    found = gm.adapt(rows, groups=groups)
    assert_allclose(found.parameters["means"][1], gm.adapt(rows[groups == 1]).means_, rtol=1e-11)
    skips = dem.GaussianMixture(3, missing="skip", random_state=0).fit(gaussian_rows(600))
    own = skips.adapt(rows, groups=groups)
    complete = ~np.isnan(rows).any(axis=1)
    assert_allclose(own.parameters["means"], skips.adapt(rows[complete], groups=groups[complete]).parameters["means"])
    noisy = dem.GaussianMixture(3, noise=True, random_state=0).fit(gaussian_rows(600))
    moved = noisy.adapt(new_rows(), update=["weights", "means"])
    assert moved.weights_.sum() + moved.noise_weight_ == pytest.approx(1.0)
    assert type(moved.noise_weight_) is float
    assert_array_equal(moved.noise_box_, noisy.noise_box_)


def test_a_prior_of_the_fit_plays_no_part():
    prior = {"mean": [0.0, 0.0, 0.0], "shrinkage": 50.0, "dof": 90.0, "scale": np.eye(3)}
    gm = background("full", prior=prior, weight_concentration=9.0)
    bare = background("full")
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_", "precisions_"):
        setattr(bare, name, getattr(gm, name))
    ours, theirs = (one.adapt(new_rows(), update="all") for one in (gm, bare))
    assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-10)
    assert_allclose(ours.weights_, theirs.weights_, rtol=1e-12)


def test_the_shell_adapts_to_words_of_parquet(tmp_path, capsys):
    # As many groups as there are speakers, read from the table itself; a group of weight 0 is as good as none.
    gm, rows = background(), new_rows(60)
    names = np.array(["ann", "bob", "cy"])[np.arange(60) % 3]
    table = pd.DataFrame(rows, columns=list("abc")).assign(speaker=names, other=1.0, w=(names != "cy").astype(float))
    table.to_parquet(path := str(tmp_path / "frames.parquet"))
    gm.fit(pd.DataFrame(gaussian_rows(600), columns=list("abc"))).save(model := str(tmp_path / "m.zarr"))
    out = str(tmp_path / "out.zarr")
    given = ("adapt", model, path, "--update", "means,weights", "--relevance", 4)
    told = run(capsys, *given, "--groups", "speaker", "--weights", "w", "--out", out, "--json")[1]
    assert json.loads(told.out)["groups"] == ["ann", "bob"]
    for group in ("ann", "bob"):
        alone = gm.adapt(table[names == group], update=["means", "weights"], relevance=4)
        assert_allclose(dem.load(out)[group].means_, alone.means_, rtol=1e-12)
        assert_allclose(dem.load(out)[group].weights_, alone.weights_, rtol=1e-12)
    assert "2 groups" in run(capsys, "info", out)[1].out
    refused = run(capsys, "score", out, path)[1]
    assert "holds the mixtures of 2 groups" in refused.err
    told = run(capsys, *given, "--out", out, "--overwrite")[1]
    assert "adapted to 60 rows" in told.out
    assert_allclose(dem.load(out).means_, gm.adapt(table, update=["means", "weights"], relevance=4).means_, rtol=1e-12)
    table.loc[7, "speaker"] = None
    for data, groups in (
        (table, "speaker"),
        (dask.dataframe.from_pandas(table, 2), "speaker"),
        (rows, table["speaker"]),
    ):
        with pytest.raises(DataError, match=r"groups is (None|nan) in row 7"):
            gm.adapt(data, groups=groups)


def test_the_formula_of_covariances_with_reg_covar():
    gm, rows = dem.GaussianMixture(1, reg_covar=0.5).fit(gaussian_rows(90)), new_rows(40)
    alpha = 40 / (40 + R)
    ours = gm.adapt(rows, relevance=R, update="all")
    mean, old = ours.means_[0], gm.means_[0]
    seconds = alpha * (rows.T @ rows / 40 + 0.5 * np.eye(3)) + (1 - alpha) * (gm.covariances_[0] + np.outer(old, old))
    assert_allclose(ours.covariances_[0], seconds - np.outer(mean, mean), rtol=1e-10)


def test_bad_input():
    gm, rows = background(), new_rows(50)
    with pytest.raises(OptionError, match="relevance must be a number of rows, at least 0, not -1"):
        gm.adapt(rows, relevance=-1)
    with pytest.raises(OptionError, match="relevance must be a number of rows, at least 0, not True"):
        gm.adapt(rows, relevance=True)
    with pytest.raises(OptionError, match=r"update must be of all, .*, not None"):
        gm.adapt(rows, update=None)
    with pytest.raises(OptionError, match=r"update must be of all, means, weights, covariances, .*, not 'dofs'"):
        gm.adapt(rows, update=["means", "dofs"])
    with pytest.raises(DataError, match=r"groups is 1\.5 in row 3; groups are whole numbers or names"):
        gm.adapt(rows, groups=np.where(np.arange(50) == 3, 1.5, 0.0))
    with pytest.raises(DataError, match="groups must be whole numbers or names, not datetime64"):
        gm.adapt(rows, groups=np.full(50, np.datetime64("2020-01-01")))
    with pytest.raises(DataError, match="groups has the shape"):
        gm.adapt(rows, groups=np.zeros(49, dtype=int))
    with pytest.raises(DataError, match="no row of NumPy array counts"):
        gm.adapt(rows, sample_weight=np.zeros(50))
    spoilt = rows.copy()
    spoilt[7, 2] = np.nan
    with pytest.raises(DataError, match="row 7"):
        gm.adapt(spoilt, groups=np.zeros(50, dtype=int))
    with pytest.raises(OptionError, match="there is no argument 'groups'"):
        gm.fit(rows, groups=np.zeros(50))


def test_groups_that_do_not_fit_are_refused_before_anything_is_read(monkeypatch):
    gm, rows = background(), new_rows(1000)
    monkeypatch.setattr(local.LocalEngine, "rooms", lambda _: [Room("this process", 2**16, 2, is_here=True)])
    with pytest.raises(EngineError, match="to adapt to 1000 groups of NumPy array takes up to"):
        gm.adapt(rows, groups=np.arange(1000))


def test_a_posterior_is_not_adapted():
    fitted = dem.BayesianGaussianMixture(2, random_state=0, max_iter=300).fit(gaussian_rows(200))
    with pytest.raises(OptionError, match="BayesianGaussianMixture holds a posterior, which `partial_fit` moves on"):
        fitted.adapt(gaussian_rows(50))


@pytest.mark.parametrize("kind", [*TYPES, "VII", "EEE"])
def test_as_many_means_as_features_are_not_needed(kind):
    rows, groups = gaussian_rows(300)[:, :2], np.arange(300) % 3
    gm = dem.GaussianMixture(3, covariance_type=kind, random_state=0).fit(rows)
    everything, means = (gm.adapt(rows, groups=groups, update=update) for update in ("all", "means"))
    # Means of the M-step do not depend on covariances: both ways find the same.
    np.testing.assert_allclose(means.parameters["means"], everything.parameters["means"], rtol=1e-10)
    table = everything.to_xarray()
    shared, own = ("group", "feature", "feature_2"), ("group", "component", "feature", "feature_2")
    wanted = {"full": own, "tied": shared, "EEE": shared, "diag": own[:3]}.get(kind, own[:2])
    assert table["covariances"].dims == wanted
    assert table["means"].dims == own[:3]


def test_a_table_of_groups_before_a_background():
    gm = dem.GaussianMixture(3, noise=True, random_state=0).fit(gaussian_rows(300)[:, :2])
    table = gm.adapt(gaussian_rows(300)[:, :2], groups=np.arange(300) % 3).to_xarray()
    assert dict(table.sizes) == {"group": 3, "component": 3, "component_or_background": 4, "feature": 2}


def test_words_of_zarr_are_no_groups(tmp_path):
    zarr.create_array(tmp_path / "words.zarr", data=np.array(["a", "b"] * 30), chunks=(50,), zarr_format=2)
    with pytest.raises(DataError, match="number them first"):
        background().adapt(new_rows(60), groups=str(tmp_path / "words.zarr"))
