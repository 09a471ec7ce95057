"""Sparse rows, of SciPy and of AnnData in zarr: the same numbers as of dense ones, in less memory."""

from __future__ import annotations

import json
import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr
from cases_exponential import classes, documents
from click.testing import CliRunner

import dem
from dem.cli.main import dem as command
from dem.data import open_rows
from dem.errors import DataError, MissingDataError
from dem.sparse import SparseRows

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::dem.errors.ComponentWarning"),
]
N_GENES = 30


def counts(n_rows=1500, seed=0):
    """Rows of three components, five of six of whose counts are 0."""
    rng = np.random.default_rng(seed)
    rates = np.random.default_rng(5).gamma(0.3, 1.0, (3, N_GENES))
    return rng.poisson(rates[rng.choice(3, n_rows, p=[0.5, 0.3, 0.2])])


def anndata(path, matrix, **options):
    """Write what AnnData writes of a sparse X."""
    root = zarr.open_group(path, mode="w", **options)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    group = root.create_group("X")
    group.attrs.update({"encoding-type": f"{matrix.format}_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = list(matrix.shape)
    for name in ("data", "indices", "indptr"):
        group.create_array(name, data=getattr(matrix, name), chunks=(700,))
    return str(path)


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("zarr", "zarr 2, many reads")]


@pytest.fixture(params=["scipy", *SLOW])
def sparse(request, tmp_path, monkeypatch):
    """What makes sparse data of a table, in memory or in zarr, read as a whole or in many parts."""
    if request.param.endswith("reads"):
        monkeypatch.setattr("dem.data.sparse.READ_BYTES", 20_000)
    if request.param == "scipy":
        return scipy.sparse.csr_array
    zarr_format = 3 if request.param == "zarr" else 2
    return lambda table: anndata(tmp_path / "cells.zarr", scipy.sparse.csr_array(table), zarr_format=zarr_format)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (dem.PoissonMixture, {}),
        (dem.PoissonMixture, {"init_params": "k-means||"}),
        (dem.PoissonMixture, {"missing": "skip", "algorithm": "auto"}),
        (dem.PoissonMixture, {"missing": "marginalise"}),
        (dem.PoissonMixture, {"top_components": 2}),
        (dem.MultinomialMixture, {"sample_rows": 200, "n_init": 2}),
        (dem.GeometricMixture, {}),
        (dem.NegativeBinomialMixture, {"max_iter": 10}),
        (dem.GaussianMixture, {"covariance_type": "diag", "reg_covar": 0.01}),
        (dem.CategoricalMixture, {"max_iter": 10}),
    ],
)
def test_fits_are_those_of_dense_rows(kind, options, sparse):
    table = counts()
    data, weights = sparse(table), 1.0 + np.arange(len(table)) % 3
    options = {"n_components": 3, "random_state": 0, "tol": 1e-7, "max_iter": 40, **options}
    ours, dense = (kind(**options).fit(rows, sample_weight=weights) for rows in (data, table))
    for name in ours._parameter_names:
        expected = getattr(dense, f"{name}_")
        np.testing.assert_allclose(getattr(ours, f"{name}_"), expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    assert ours.n_iter_ == dense.n_iter_
    np.testing.assert_array_equal(ours.predict(data), dense.predict(table))
    np.testing.assert_allclose(ours.score_samples(data), dense.score_samples(table), rtol=1e-10)
    assert ours.bic(data) == pytest.approx(dense.bic(table), rel=1e-10)


@pytest.mark.slow
def test_what_else_is_asked_of_rows(sparse, tmp_path):
    table = counts()
    data = sparse(table)
    ours, dense = (dem.MultinomialMixture(3, random_state=0).fit(rows) for rows in (data, table))
    lowest = ours.outliers(data, share=0.01)
    np.testing.assert_array_equal(lowest.rows, dense.outliers(table, share=0.01).rows)
    ours.predict_to(data, str(tmp_path / "out.zarr"), kind="proba")
    np.testing.assert_allclose(zarr.open_array(tmp_path / "out.zarr")[:], dense.predict_proba(table), atol=1e-12)
    for algorithm in ("incremental", "stepwise"):
        both = [
            dem.PoissonMixture(3, algorithm=algorithm, tol=1e-7, random_state=0).fit(rows) for rows in (data, table)
        ]
        np.testing.assert_allclose(both[0].rates_, both[1].rates_, atol=1e-3)
    chosen = dem.select(data, estimator=dem.PoissonMixture(random_state=0), n_components=[2, 3])
    assert chosen.best_estimator_.bic(table) == pytest.approx(min(row["bic"] for row in chosen.table), rel=1e-9)
    kept = dem.MultinomialMixture(3, random_state=0).fit(data, checkpoint=str(tmp_path / "checkpoint"))
    again = dem.MultinomialMixture(3, random_state=0).fit(data, checkpoint=str(tmp_path / "checkpoint"))
    np.testing.assert_array_equal(again.probabilities_, kept.probabilities_)
    assert dem.plan(data, dem.PoissonMixture(3), seconds=0.01).problems == []
    again.partial_fit(data)
    dense.partial_fit(table)
    np.testing.assert_allclose(again.probabilities_, dense.probabilities_, atol=5e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dem.errors.DataWarning")
def test_memory_is_that_of_what_is_stored(tmp_path):
    n_rows, n_features = 1500, 50_000  # 600 MB as a table of numbers
    rng = np.random.default_rng(0)
    columns = np.sort(rng.integers(0, n_features // 20, (n_rows, 20)) * 20 + np.arange(20), axis=1)
    matrix = scipy.sparse.csr_array(
        (rng.poisson(2.0, n_rows * 20) + 1, columns.ravel(), np.arange(0, n_rows * 20 + 1, 20)),
        shape=(n_rows, n_features),
    )
    path = anndata(tmp_path / "wide.zarr", matrix)
    model = dem.MultinomialMixture(2, sample_rows=20, max_iter=2, random_state=0)
    tracemalloc.start()
    try:
        model.fit(path)
        model.predict(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60e6
    tracemalloc.start()
    try:
        dem.GaussianMixture(1, covariance_type="spherical", sample_rows=20, max_iter=1).fit(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300e6


def test_values_outside_the_support_are_named(sparse):
    table = counts().astype(float)
    table[1203, 17] = 1.5
    for kind in (dem.PoissonMixture, dem.NegativeBinomialMixture):
        with pytest.raises(DataError, match=r"not whole numbers.*; the first is 1.5 in row 1203, column 17"):
            kind(2, sample_rows=300, random_state=0).fit(sparse(table))
    table[1203, 17] = np.nan
    with pytest.raises(DataError, match=r"1 NaN .* row 1203, column 17"):
        dem.PoissonMixture(2, sample_rows=300, random_state=0).fit(sparse(table))
    skipped = dem.PoissonMixture(2, missing="skip", random_state=0).fit(sparse(table))
    whole = dem.PoissonMixture(2, random_state=0).fit(np.delete(table, 1203, axis=0))
    np.testing.assert_allclose(skipped.rates_, whole.rates_, rtol=1e-10)
    with pytest.raises(DataError, match=r"NaN or inf values \(1 of them.*column 17"):
        whole.predict(scipy.sparse.csr_array(table))


def test_other_formats_repeated_places_and_stored_zeros():
    table = documents(200)
    expected = dem.MultinomialMixture(2, random_state=0).fit(table).probabilities_
    stored = scipy.sparse.csr_array(table + 1)
    stored.data -= 1  # zeros are stored too
    for data in (scipy.sparse.csc_matrix(table), scipy.sparse.lil_array(table), stored):
        found = dem.MultinomialMixture(2, random_state=0).fit(data).probabilities_
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    repeated = scipy.sparse.csr_array(
        (np.repeat(table.ravel(), 2), np.repeat(np.tile(np.arange(6), 200), 2), np.arange(0, 2401, 12)), shape=(200, 6)
    )
    np.testing.assert_allclose(
        dem.PoissonMixture(2, random_state=0).fit(repeated).rates_,
        dem.PoissonMixture(2, random_state=0).fit(2 * table).rates_,
        rtol=1e-12,
    )


def test_damaged_stores_and_options_are_named(tmp_path):
    matrix = scipy.sparse.csr_array(counts(200))
    path = anndata(tmp_path / "a.zarr", matrix)
    assert open_rows(path).n_rows == open_rows(path, variable="X").n_rows == open_rows(f"{path}/X").n_rows == 200
    assert (
        type(dem.PoissonMixture(2, random_state=0).fit(f"{path}/X").predict(zarr.open_group(path)["X"])) is np.ndarray
    )
    for options, said in (
        ({"feature_dim": "x"}, "leave feature_dim out"),
        ({"on_bad_chunk": "skip"}, "on_bad_chunk='skip' does not go with"),
    ):
        with pytest.raises(DataError, match=said):
            open_rows(f"{path}/X", **options)
    with pytest.raises(DataError, match=r"by columns \(csc_matrix\).* write it as csr_matrix"):
        open_rows(anndata(tmp_path / "b.zarr", matrix.tocsc()))
    zarr.open_group(path, mode="r+")["X"].attrs["shape"] = [300, 20]
    with pytest.raises(DataError, match="do not belong together"):
        open_rows(path)
    zarr.open_group(path, mode="r+")["X"].attrs["shape"] = [200, 20]
    with pytest.raises(DataError, match="columns beyond the 20"):
        dem.PoissonMixture(2).fit(path)
    zarr.open_group(path, mode="r+")["X"].attrs["shape"] = [200, N_GENES]
    (tmp_path / "a.zarr" / "X" / "data" / "c" / "1").unlink()
    with pytest.raises(MissingDataError, match=r"chunk c/1 of .*X/data .* is missing"):
        dem.PoissonMixture(2).fit(path)
    del zarr.open_group(path, mode="r+")["X"]["indptr"]
    with pytest.raises(DataError, match="has no array 'indptr'"):
        open_rows(path)
    with pytest.raises(DataError, match="has no array 'indptr'"):
        CliRunner().invoke(command, ["info", path], standalone_mode=False, catch_exceptions=False)
    group = zarr.open_group(path, mode="r+")["X"]
    group.create_array("indptr", data=np.zeros(1, np.int64))
    group.attrs["shape"] = "foo"
    for refuse in (
        open_rows,
        lambda path: CliRunner().invoke(command, ["info", path], standalone_mode=False, catch_exceptions=False),
    ):
        with pytest.raises(DataError, match="has no shape of rows and columns, but 'foo'"):
            refuse(path)


def test_dense_x_of_anndata(tmp_path):
    root = zarr.open_group(tmp_path / "cells.zarr", mode="w")
    root.attrs["encoding-type"] = "anndata"
    root.create_array("X", data=classes(100))
    root.create_group("obs").create_array("_index", data=np.arange(100))
    assert open_rows(str(tmp_path / "cells.zarr" / "X")).n_features == 5
    assert open_rows(str(tmp_path / "cells.zarr")).n_rows == 100


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_genes_have_names_and_info_tells_of_them(tmp_path, zarr_format):
    matrix, names = scipy.sparse.csr_array(counts(100)), [f"gene{j}" for j in range(N_GENES)]
    path = anndata(tmp_path / "a.zarr", matrix, zarr_format=zarr_format)
    var = zarr.open_group(path, mode="r+").create_group("var", attributes={"_index": "symbol"})
    var.create_array("symbol", shape=N_GENES, dtype="str")[:] = np.array(names, dtype=object)
    assert open_rows(path).feature_names == tuple(names)
    fitted = dem.MultinomialMixture(2, random_state=0).fit(path)
    assert fitted.feature_names_in_.tolist() == names
    assert len(fitted.predict(path)) == 100
    told = json.loads(CliRunner().invoke(command, ["info", path, "--json"], standalone_mode=False).output)
    known = {"encoding": "csr_matrix", "shape": [100, N_GENES], "stored_values": matrix.nnz, "feature_names": names}
    assert {name: told[name] for name in known} == known
    assert "gene5, …" in CliRunner().invoke(command, ["info", path], standalone_mode=False).output
    var["symbol"][1] = "gene0"
    assert open_rows(path).feature_names is None


def test_batches_travel_with_their_own_rows():
    matrix = scipy.sparse.random_array((40_000, 20), density=0.1, format="csr", rng=np.random.default_rng(0))
    batches = open_rows(matrix).batches()
    assert len(batches) > 4
    sizes = [len(pickle.dumps(batch)) for batch in batches]
    assert max(sizes) < 2 * (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes) / len(batches)
    rows = [chunk.rows for batch in pickle.loads(pickle.dumps(batches)) for chunk in batch]
    assert all(isinstance(part, SparseRows) for part in rows)
    np.testing.assert_array_equal(np.concatenate(rows), matrix.toarray())


@pytest.mark.filterwarnings("ignore:pandas.DataFrame with sparse columns:UserWarning")
def test_frames_of_sparse_columns_are_fitted_as_sparse_rows():
    table, names = counts(300), [f"gene {i}" for i in range(N_GENES)]
    frame = pd.DataFrame.sparse.from_spmatrix(scipy.sparse.csr_array(table), columns=names)
    fitted = dem.MultinomialMixture(2, random_state=0, max_iter=5).fit(frame)
    assert fitted.feature_names_in_.tolist() == names
    expected = dem.MultinomialMixture(2, random_state=0, max_iter=5).fit(table)
    np.testing.assert_allclose(fitted.score_samples(frame), expected.score_samples(table), rtol=1e-12)
    assert open_rows(frame).is_sparse
    frame["gene 0"] = frame["gene 0"].sparse.to_dense()  # dense and sparse columns, which are made dense
    rates = {"gene 0,gene 1": "poisson", "gene 2": "gaussian"}
    mixed = dem.Mixture(rates, n_components=2, random_state=0, max_iter=5)
    dense = pd.DataFrame(table, columns=names)
    np.testing.assert_array_equal(mixed.fit(frame).score_samples(frame), mixed.fit(dense).score_samples(dense))
