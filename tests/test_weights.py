"""Rows with weights and labels: what they mean, from any kind of data, in every part of a fit."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import sklearn.cluster
import sklearn.discriminant_analysis
import xarray as xr
import zarr
from cases import CASES, gaussian_rows
from sources import CutRows

import dem
from dem.data.column_values import StoredValues
from dem.errors import DataError, DataWarning, OptionError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# What SQUAREM makes of the rounding of its steps is larger than they are.
TOLERANCE = {"batch": 1e-12, "incremental": 1e-12, "stepwise": 1e-12, "auto": 1e-9}
COUNTS = np.random.default_rng(5).integers(0, 4, size=3000)
VALUES = np.random.default_rng(6).random(3000)


def start_of(case, rows):
    """Return the options that make a fit begin where another has come to."""
    fitted = case.estimator(max_iter=3, tol=0).fit(rows)
    names = {f"{name}init": getattr(fitted, name) for name in case.parameters if f"{name}init" in fitted.get_params()}
    return {**names, "weights_init": fitted.weights_ / fitted.weights_.sum()}


@pytest.mark.parametrize("algorithm", ["batch", "incremental", "stepwise", "auto"])
@pytest.mark.parametrize("case", [case for case in CASES if case.name != "mixture"], ids=str)
def test_integer_weights_are_repeated_rows(case, algorithm):
    # From the same start only, which a table of several families takes from its rows.
    rows = case.data()
    options = {**start_of(case, rows), "algorithm": algorithm, "max_iter": 6, "tol": 0}
    edges = [0, 700, 1500, 2000]
    ends = [0, *np.cumsum(COUNTS)]
    weighted = case.estimator(**options).fit(CutRows(rows, edges), sample_weight=COUNTS)
    repeated = case.estimator(**options).fit(CutRows(np.repeat(rows, COUNTS, axis=0), [ends[i] for i in edges]))
    for name in case.parameters:
        ours, theirs = getattr(weighted, name), getattr(repeated, name)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[algorithm] * np.abs(theirs).max())
    rtol = max(1e-12, 0.1 * TOLERANCE[algorithm])
    np.testing.assert_allclose(weighted.lower_bounds_, repeated.lower_bounds_, rtol=rtol)
    assert weighted.n_samples_seen_ == COUNTS.sum()
    for criterion in ("score", "bic", "aic", "icl"):
        ours = getattr(weighted, criterion)(rows, sample_weight=COUNTS)
        assert ours == pytest.approx(getattr(weighted, criterion)(np.repeat(rows, COUNTS, axis=0)), rel=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_of_weight_zero_are_not_there(case):
    rows, counts = case.data(), (np.arange(3000) % 3 > 0) & (np.arange(3000) < 2000)
    options = {**start_of(case, rows), "max_iter": 4}
    damaged = rows.astype(float)
    damaged[~counts] = np.nan  # a whole chunk of them behind row 2,000
    edges = [0, 1000, 2000]
    ours = case.estimator(**options).fit(CutRows(damaged, edges), sample_weight=counts.astype(float))
    theirs = case.estimator(**options).fit(rows[counts])
    for name in case.parameters:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-10, atol=1e-12)


def kinds(folder, values, dims=("row",)):
    """Return weights in all the kinds of data that there are."""
    zarr.create_array(folder / "chunked.zarr", data=values, chunks=(177,))
    whole = zarr.create_array(folder / "whole.zarr", data=values, chunks=values.shape)
    return {
        "array": values,
        "list": values.tolist(),
        "series": pd.Series(values),
        "dask": da.from_array(values, chunks=123),
        "xarray": xr.DataArray(values, dims=dims),
        "path": str(folder / "chunked.zarr"),
        "one chunk": whole,
    }


@pytest.mark.usefixtures("arithmetic")
def test_any_kind_of_weights_gives_the_same_bits(tmp_path):
    rows, values = gaussian_rows(), VALUES
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(250, 3))
    fits = {
        kind: dem.GaussianMixture(3, random_state=0).fit(str(tmp_path / "rows.zarr"), sample_weight=given)
        for kind, given in kinds(tmp_path, values).items()
    }
    for one in fits.values():
        np.testing.assert_array_equal(one.means_, fits["array"].means_)


def test_a_variable_of_the_data_is_named(tmp_path):
    rows, values = gaussian_rows(), VALUES
    group = zarr.create_group(tmp_path / "group.zarr")
    group.create_array("rows", data=rows, chunks=(500, 3))
    group.create_array("importance", data=values, chunks=(900,))
    expected = dem.GaussianMixture(3, random_state=0).fit(rows, sample_weight=values)
    ours = dem.GaussianMixture(3, random_state=0)
    ours.fit(str(tmp_path / "group.zarr"), variable="rows", sample_weight="importance")
    np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-10)


def test_weights_lie_on_the_grid_of_the_rows(tmp_path):
    cube = gaussian_rows(2400).reshape(20, 30, 4, 3)
    values = VALUES[:2400].reshape(20, 30, 4)
    zarr.create_array(tmp_path / "cube.zarr", data=cube, chunks=(7, 11, 2, 3))
    zarr.create_array(tmp_path / "values.zarr", data=values, chunks=(20, 10, 3))
    expected = dem.GaussianMixture(3, random_state=0).fit(cube.reshape(-1, 3), sample_weight=values.reshape(-1))
    for given in (values, str(tmp_path / "values.zarr"), values.reshape(-1)):
        ours = dem.GaussianMixture(3, random_state=0)
        ours.fit(str(tmp_path / "cube.zarr"), feature_dim=3, sample_weight=given)
        np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-10)


def test_weights_travel_with_batches_whose_rows_are_not_consecutive(cluster, tmp_path):
    from distributed import Client

    cube, values = gaussian_rows(2400).reshape(20, 30, 4, 3), VALUES[:2400].reshape(20, 30, 4)
    zarr.create_array(tmp_path / "cube.zarr", data=cube, chunks=(7, 11, 2, 3))
    lazy = xr.DataArray(da.from_array(cube, (6, 13, 3, 3)), dims=("x", "y", "z", "feature"))
    expected = dem.GaussianMixture(3, random_state=0).fit(cube.reshape(-1, 3), sample_weight=values.reshape(-1))
    with Client(cluster):
        for data in (str(tmp_path / "cube.zarr"), lazy):
            ours = dem.GaussianMixture(3, random_state=0)
            ours.fit(data, feature_dim=3 if isinstance(data, str) else "feature", sample_weight=values)
            np.testing.assert_allclose(ours.means_, expected.means_, rtol=1e-9)


def test_one_chunk_is_decoded_once(tmp_path, monkeypatch):
    rows, decoded = gaussian_rows(), []
    weights = zarr.create_array(tmp_path / "weights.zarr", data=np.ones(3000), chunks=(3000,))
    read = StoredValues._decoded
    monkeypatch.setattr(StoredValues, "_decoded", lambda self, region: decoded.append(region) or read(self, region))
    dem.GaussianMixture(3, random_state=0).fit(CutRows(rows, range(0, 3000, 100)), sample_weight=weights)
    assert len(decoded) == 1


def test_weights_lie_with_the_batches_of_a_cluster(cluster, tmp_path):
    from distributed import Client

    rows, values = gaussian_rows(), VALUES
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(250, 3))
    here = dem.GaussianMixture(3, random_state=0).fit(str(tmp_path / "rows.zarr"), sample_weight=values)
    with Client(cluster):
        for given in kinds(tmp_path, values).values():
            there = dem.GaussianMixture(3, random_state=0).fit(str(tmp_path / "rows.zarr"), sample_weight=given)
            np.testing.assert_array_equal(there.means_, here.means_)


@pytest.mark.parametrize("case", [case for case in CASES if not case.prior_rows], ids=str)
def test_the_scale_of_the_weights_does_not_matter(case):
    fits = [case.estimator().fit(case.data(), sample_weight=scale * VALUES) for scale in (1.0, 1e-8, 1e8)]
    for one in fits[1:]:
        np.testing.assert_allclose(getattr(one, case.located), getattr(fits[0], case.located), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data", "k-means||"])
def test_starts_see_the_weights(init):
    # The rows of the third component weigh nothing: none of two others may begin there.
    rows = np.random.default_rng(7).normal(size=(900, 2)) + np.repeat([0.0, 8.0, 90.0], 300)[:, np.newaxis]
    weights = np.repeat([2.0, 1.0, 0.0], 300)
    fitted = dem.GaussianMixture(2, init_params=init, n_init=5, random_state=0).fit(rows, sample_weight=weights)
    np.testing.assert_allclose(np.sort(fitted.means_[:, 0]), [0.0, 8.0], atol=0.5)
    np.testing.assert_allclose(np.sort(fitted.weights_), [1 / 3, 2 / 3], atol=1e-3)


@pytest.mark.parametrize("weights", [VALUES, np.rint(VALUES)])
def test_k_means_is_scikit_learns(weights):
    rows = gaussian_rows()
    start = rows[:5]
    theirs = sklearn.cluster.KMeans(5, init=start, n_init=1, algorithm="lloyd").fit(rows, sample_weight=weights)
    ours = dem.KMeans(5, init=start).fit(rows, sample_weight=weights)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-9)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-10)
    assert ours.score(rows, sample_weight=weights) == pytest.approx(theirs.score(rows, sample_weight=weights))


def test_select_weighs():
    rows = gaussian_rows(1000)
    counts = COUNTS[:1000]
    options = {"n_components": range(2, 5), "random_state": 0, "init_params": "random_from_data", "n_init": 3}
    chosen = dem.select(rows, **options, sample_weight=counts)
    best = chosen.best_estimator_
    assert best.n_components == 3
    repeated = np.repeat(rows, counts, axis=0)
    assert min(row["bic"] for row in chosen.table) == pytest.approx(best.bic(repeated), rel=1e-10)


def test_partial_fit_weighs(tmp_path):
    rows, values = gaussian_rows(), VALUES + 0.5
    ours, saved = (dem.GaussianMixture(3, random_state=0) for _ in range(2))
    for start in range(0, 3000, 60):
        part = slice(start, start + 60)
        ours.partial_fit(rows[part], sample_weight=values[part])
        saved.partial_fit(rows[part], sample_weight=values[part])
        if start == 0:  # while rows are held
            saved.save(str(tmp_path / "held.zarr"))
            saved = dem.load(str(tmp_path / "held.zarr"))
    assert ours.n_samples_seen_ == pytest.approx(values.sum())
    np.testing.assert_array_equal(ours.means_, saved.means_)
    everything = dem.GaussianMixture(3, random_state=0).fit(rows, sample_weight=values)
    assert ours.score(rows, sample_weight=values) > everything.score(rows, sample_weight=values) - 0.05


def test_metadata_routing():
    import sklearn
    from sklearn.model_selection import cross_validate

    rows, values = gaussian_rows(600), VALUES[:600]
    with sklearn.config_context(enable_metadata_routing=True):
        model = dem.GaussianMixture(3, random_state=0).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        routed = cross_validate(model, rows, cv=2, params={"sample_weight": values})["test_score"]
        plain = cross_validate(model, rows, cv=2, params={"sample_weight": np.ones(600)})["test_score"]
    assert np.isfinite(routed).all()
    assert not np.allclose(routed, plain)


def test_metadata_routing_of_all_that_goes_with_rows():
    import sklearn
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(4)
    rows = rng.normal(size=(200, 2))
    rows[rng.random((200, 2)) < 0.2] = np.nan
    given = {
        "labels": rng.integers(-1, 2, 200),
        "noise_covariance": rng.uniform(0.1, 1.0, (200, 2)),
        "lower": np.full((200, 2), -np.inf),
        "upper": np.full((200, 2), np.inf),
    }
    with sklearn.config_context(enable_metadata_routing=True):
        asked = dict.fromkeys(given, True)
        model = dem.GaussianMixture(2, random_state=0, missing="marginalise").set_fit_request(**asked)
        model.set_score_request(**asked).set_predict_request(**asked)
        pipeline = make_pipeline(StandardScaler(), model).fit(rows, **given)
        scaled = StandardScaler().fit_transform(rows)
        expected = dem.GaussianMixture(2, random_state=0, missing="marginalise").fit(scaled, **given)
        np.testing.assert_array_equal(pipeline[-1].means_, expected.means_)
        np.testing.assert_array_equal(pipeline.predict(rows, **given), expected.predict(scaled, **given))
        assert pipeline.score(rows, **given) == expected.score(scaled, **given)
        unasked = make_pipeline(StandardScaler(), dem.GaussianMixture(2, missing="marginalise"))
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="labels"):
            unasked.fit(rows, labels=given["labels"])


@pytest.mark.parametrize("lazily", [False, True])
def test_weights_of_rows_that_are_left_out_may_be_nan(monkeypatch, lazily):
    import dask.array

    monkeypatch.setattr("dem.data.columns.READ_BYTES", 0)
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(300, 2)), rng.uniform(0.5, 2.0, 300)
    rows[::3] = np.nan
    land = np.where(np.isnan(rows[:, 0]), np.nan, weights)
    given = dask.array.from_array(land, 100).map_blocks(np.copy) if lazily else land
    ours = dem.GaussianMixture(2, random_state=0, missing="skip").fit(rows, sample_weight=given)
    expected = dem.GaussianMixture(2, random_state=0, missing="skip").fit(rows, sample_weight=weights)
    np.testing.assert_array_equal(ours.means_, expected.means_)
    land[7] = np.nan  # a row that counts
    with pytest.raises(DataError, match=r"sample_weight is nan in row 7; .* set them to 0 to leave rows out"):
        dem.GaussianMixture(2, random_state=0, missing="skip").fit(rows, sample_weight=land)
    with pytest.raises(DataError, match=r"sample_weight is nan in row 0; .* set them to 0"):
        dem.GaussianMixture(2, random_state=0, missing="marginalise").fit(rows, sample_weight=land)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (-np.ones(3000), "sample_weight is -1.0 in row 0"),
        (np.where(np.arange(3000) == 17, np.nan, 1.0), "sample_weight is nan in row 17"),
        (np.full(3000, np.inf), "sample_weight is inf in row 0"),
        (np.ones(7), r"sample_weight has the shape \(7,\)"),
        (np.ones((3000, 2)), r"sample_weight has the shape \(3000, 2\)"),
        (np.zeros(3000), "all have the weight zero"),
        (np.full(3000, 1e-15), "add up to 3e-12: lost in rounding"),
        (["heavy"] * 3000, "cannot be made an array of numbers"),
        (np.full(3000, 1j), "holds complex numbers"),
        (np.ma.masked_equal(np.arange(3000), 7), "sample_weight has masked values"),
        ("nowhere.zarr", "there is nothing at nowhere.zarr"),
    ],
)
def test_bad_weights(weights, says):
    with pytest.raises(DataError, match=says):
        dem.GaussianMixture(3, random_state=0).fit(gaussian_rows(), sample_weight=weights)


def test_bad_weights_in_a_store_are_named(tmp_path):
    values = np.ones(3000)
    values[1234] = -2.0
    zarr.create_array(tmp_path / "weights.zarr", data=values, chunks=(500,))
    with pytest.raises(DataError, match=r"weights\.zarr.* is -2\.0 in row 1234"):
        dem.GaussianMixture(3, random_state=0).fit(gaussian_rows(), sample_weight=str(tmp_path / "weights.zarr"))


def labelled():
    """Rows of two classes, and which one each is of."""
    rng = np.random.default_rng(8)
    first, second = rng.normal(size=(400, 2)) * [1, 3], rng.normal(size=(200, 2))
    rows = np.concatenate([first, second + np.array([3.0, 0.0])])
    return rows, np.repeat([1, 0], [400, 200])


def test_all_labels_make_a_discriminant():
    rows, labels = labelled()
    theirs = sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis(store_covariance=True).fit(rows, labels)
    for covariance_type in ("full", "diag"):
        ours = dem.GaussianMixture(2, covariance_type=covariance_type, reg_covar=0, random_state=0)
        ours.fit(rows, labels=labels)
        np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours.weights_, theirs.priors_, rtol=1e-12)
    full = dem.GaussianMixture(2, reg_covar=0, random_state=0).fit(rows, labels=labels)
    for k in range(2):
        np.testing.assert_allclose(full.covariances_[k], np.cov(rows[labels == k].T, ddof=0), rtol=1e-10)


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("algorithm", ["batch", "incremental", "auto"])
def test_some_labels_number_the_components(init, algorithm):
    rows, labels = labelled()
    known = np.where(np.arange(600) % 20 == 0, labels, -1)
    fitted = dem.GaussianMixture(2, init_params=init, algorithm=algorithm, random_state=0).fit(rows, labels=known)
    assert np.mean(fitted.predict(rows) == labels) > 0.85
    assert np.diff(fitted.lower_bounds_).min() > -1e-9


def test_sets_of_components_are_what_single_labels_are():
    rows, labels = labelled()
    known = np.where(np.arange(600) % 7 == 0, labels, -1)
    allowed = (known[:, np.newaxis] == np.arange(2)) | (known[:, np.newaxis] < 0)
    one, other = (dem.GaussianMixture(2, random_state=0).fit(rows, labels=given) for given in (known, allowed))
    np.testing.assert_array_equal(one.means_, other.means_)


def test_the_likelihood_is_that_of_the_components_allowed():
    rows, labels = labelled()
    model = dem.GaussianMixture(2, random_state=0).fit(rows)
    joint = model.score_samples(rows) + np.log(model.predict_proba(rows)[np.arange(600), labels])
    assert model.score(rows, labels=labels) == pytest.approx(joint.mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.full(600, 2), "labels is 2 in row 0; labels are whole numbers from 0 to 1"),
        (np.full(600, 0.5), "labels is 0.5 in row 0"),
        (np.zeros(5, int), r"labels has the shape \(5,\)"),
        (np.arange(600)[:, np.newaxis] % 2 == [2, 3], "a row needs a component that may have made it"),
        (np.ones((600, 3), bool), "labels has 3 columns, but there are 2 components"),
    ],
)
def test_bad_labels(labels, says):
    with pytest.raises(DataError, match=says):
        dem.GaussianMixture(2, random_state=0).fit(labelled()[0], labels=labels)


def test_labels_are_for_mixtures():
    with pytest.raises(OptionError, match="labels goes with mixtures only"):
        dem.KMeans(2).fit(labelled()[0], labels=labelled()[1])


def test_y_that_looks_like_labels_is_told():
    rows, labels = labelled()
    known = np.where(np.arange(600) % 7 == 0, labels, -1)
    with pytest.warns(DataWarning, match="labels=y"):
        dem.GaussianMixture(2, random_state=0).fit(rows, known)
    dem.GaussianMixture(2, random_state=0).fit(rows, labels)  # classes alone are what scikit-learn passes around


@pytest.mark.parametrize(
    ("options", "says"),
    [({"top_components": 1}, "labels do not go with top_components"), ({"init_params": "k-means||"}, "k-means")],
)
def test_options_that_labels_do_not_go_with(options, says):
    rows, labels = labelled()
    with pytest.raises(OptionError, match=says):
        dem.GaussianMixture(2, random_state=0, **options).fit(rows, labels=labels)


def test_weights_say_nothing_of_single_rows():
    rows = gaussian_rows()
    with pytest.raises(OptionError, match="leave it out"):
        dem.GaussianMixture(2, random_state=0).fit(rows).predict(rows, sample_weight=VALUES)
