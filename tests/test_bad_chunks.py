"""Chunks that cannot be read or decoded are left out where the user says so: counted, named, the same in every pass."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from click.testing import CliRunner
from faulty_stores import FailingStore
from stores import FILES, LAYOUTS, TABLE, After, mixture, store
from zarr.storage import LocalStore

import dem
import dem.data.parquet
import dem.data.retries
import dem.data.zarr
from dem.cli import dem as command
from dem.errors import DataError, DataWarning, OptionError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*did not converge"),
    pytest.mark.filterwarnings("ignore:.*such rows are left out"),
]
#: rows 30 to 49 of `TABLE`: two chunks
BAD = (3, 4)
KEPT = np.ones(len(TABLE), bool)
KEPT[30:50] = False
GM = ("weights_", "means_", "covariances_", "lower_bound_")


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch):
    """Make a read of this data two chunks, not all of it; and pauses short."""
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 320)
    monkeypatch.setattr(dem.data.retries, "_FIRST_PAUSE", 0.001)


def overwritten(data):
    return b"\xff" * len(data)


def truncated(data):
    return data[: len(data) // 2]


def emptied(_):
    return b""


def spoil(path, layout="v3", numbers=BAD, *, how=overwritten):
    for number in numbers:
        file = path / FILES[layout].format(number)
        file.write_bytes(how(file.read_bytes()))


def spoilt(path, layout="v3", **how):
    store(path, layout)
    spoil(path, layout, **how)
    return path


def assert_same(found, expected, names=GM):
    for name in names:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12)


def of_the_rest(**options):
    """Return the fit to the rows that can be read, in the same chunks, so that it draws the same start."""
    return mixture(**options).fit(TABLE, sample_weight=KEPT.astype(float))


@pytest.mark.reliability(
    fault="chunks of a zarr store are damaged (their codec fails, the object is cut short), with `on_bad_chunk='skip'`",
    sees="chunk c/3/0 of x.zarr (rows 30 to 39), the first of 2, cannot be read (…): such rows are left out; "
    "`bad_chunks_` has them all, `n_samples_seen_` counts the rows that were read",
    lost="the rows of these chunks",
    recovery="none: the fit goes on",
)
@pytest.mark.parametrize(
    ("layout", "how"),
    [
        pytest.param(layout, how, marks=() if quick == layout else pytest.mark.slow, id=f"{layout}-{how.__name__}")
        for quick, how in (("v3", overwritten), ("v2", truncated), ("shards", emptied))
        for layout in LAYOUTS
    ],
)
def test_what_cannot_be_read_is_left_out(tmp_path, layout, how):
    path = spoilt(tmp_path / "x.zarr", layout, how=how)
    with pytest.raises(DataError, match="cannot be read"):
        mixture().fit(path)
    with pytest.warns(DataWarning, match=r"x\.zarr \(rows 30 to 3\d\), the first of \d, cannot be read \(.*\): such"):
        gm = mixture().fit(path, on_bad_chunk="skip")
    assert_same(gm, of_the_rest())
    assert gm.n_samples_seen_ == 100
    assert {"rows 30 to 39", "rows 40 to 49"} == {one["where"] for one in gm.bad_chunks_} or layout == "shards"
    assert all("x.zarr" in one["name"] and one["why"] for one in gm.bad_chunks_)
    gm.save(tmp_path / "model.zarr")
    assert dem.load(tmp_path / "model.zarr").bad_chunks_ == gm.bad_chunks_


def test_inside_shards_single_chunks_are_left_out(tmp_path):
    """Of a shard whose index is whole only what cannot be decoded is left out."""
    array = zarr.create_array(
        tmp_path / "x.zarr",
        shape=TABLE.shape,
        dtype="f8",
        chunks=(5, 2),
        shards=(30, 2),
        compressors=zarr.codecs.ZstdCodec(checksum=True),
    )
    array[...] = TABLE
    file = tmp_path / "x.zarr/c/1/0"
    data = bytearray(file.read_bytes())
    index = np.frombuffer(bytes(data[-4 - 16 * 6 : -4]), "<u8").reshape(-1, 2)
    offset, length = map(int, index[2])  # rows 40 to 44
    data[offset : offset + length] = b"\xff" * length
    file.write_bytes(bytes(data))
    gm = mixture().fit(tmp_path / "x.zarr", on_bad_chunk="skip")
    assert [one["name"] for one in gm.bad_chunks_] == [f"chunk (8, 0), inside shard c/1/0, of {tmp_path}/x.zarr"]
    assert gm.bad_chunks_[0]["where"] == "rows 40 to 44"
    weights = np.ones(len(TABLE))
    weights[40:45] = 0.0
    assert_same(gm, mixture().fit(TABLE, sample_weight=weights))


@pytest.mark.parametrize("options", [{"algorithm": "incremental"}, {"algorithm": "stepwise", "n_init": 2}])
def test_by_every_algorithm(tmp_path, options):
    """Incremental EM divides the data anew: the same rows are left out."""
    gm = mixture(**options).fit(spoilt(tmp_path / "x.zarr"), on_bad_chunk="skip")
    assert gm.n_samples_seen_ == 100
    assert len(gm.bad_chunks_) == 2


def test_k_means_scores_and_select(tmp_path):
    path = spoilt(tmp_path / "x.zarr")
    kmeans = dem.KMeans(3, random_state=0).fit(path, on_bad_chunk="skip")
    expected = dem.KMeans(3, random_state=0).fit(TABLE[KEPT])
    np.testing.assert_allclose(kmeans.inertia_, expected.inertia_)
    labels = np.asarray(kmeans.labels_)
    assert (labels[~KEPT] == -1).all()
    assert (labels[KEPT] >= 0).all()
    gm = of_the_rest()
    assert gm.score(path, on_bad_chunk="skip") == pytest.approx(gm.score(TABLE[KEPT]), rel=1e-12)
    chosen = dem.select(path, n_components=(2, 3), random_state=0, max_iter=20, on_bad_chunk="skip")
    assert len(chosen.best_estimator_.bad_chunks_) == 2


@pytest.mark.slow
def test_on_a_cluster(tmp_path, client):
    path = spoilt(tmp_path / "x.zarr")
    gm = mixture().fit(path, on_bad_chunk="skip")
    assert_same(gm, of_the_rest())
    assert len(gm.bad_chunks_) == 2
    assert mixture(algorithm="incremental").fit(path, on_bad_chunk="skip").n_samples_seen_ == 100


def test_results_lie_on_the_grid(tmp_path):
    path, gm = spoilt(tmp_path / "x.zarr"), of_the_rest()
    expected = {"labels": gm.predict(TABLE), "proba": gm.predict_proba(TABLE), "log_density": gm.score_samples(TABLE)}
    for kind, values in expected.items():
        gm.predict_to(path, str(tmp_path / f"{kind}.zarr"), kind=kind, on_bad_chunk="skip")
        found = zarr.open_array(tmp_path / f"{kind}.zarr")[...]
        np.testing.assert_allclose(found[KEPT], values[KEPT])
        assert (found[~KEPT] == -1).all() if kind == "labels" else np.isnan(found[~KEPT]).all()
    lazy = gm.predict(path, on_bad_chunk="skip")
    np.testing.assert_array_equal(lazy.compute(), np.where(KEPT, expected["labels"], -1))
    proba = gm.predict_proba(path, on_bad_chunk="skip").compute()
    np.testing.assert_array_equal(np.isnan(proba).all(axis=1), ~KEPT)
    with pytest.raises(DataError, match="cannot be read"):
        gm.predict_to(path, str(tmp_path / "none.zarr"))
    assert not (tmp_path / "none.zarr").exists()


def test_grids_and_variables(tmp_path):
    """A point lacks one feature: it is left out."""
    group = zarr.create_group(tmp_path / "g.zarr")
    for column, name in enumerate(("u", "v")):
        group.create_array(name, data=TABLE[:, column].reshape(12, 10), chunks=(2, 5))
    (tmp_path / "g.zarr/v/c/3/1").write_bytes(b"spoilt")
    kept = np.ones((12, 10), bool)
    kept[6:8, 5:] = False
    gm = mixture().fit(tmp_path / "g.zarr", variable=["u", "v"], on_bad_chunk="skip")
    assert gm.bad_chunks_ == [
        {"name": f"chunk c/3/1 of {tmp_path}/g.zarr/v", "where": "[6:8, 5:10]", "why": gm.bad_chunks_[0]["why"]}
    ]
    assert_same(gm, mixture().fit(TABLE, sample_weight=kept.ravel().astype(float)))
    labels = gm.predict(tmp_path / "g.zarr", variable=["u", "v"], on_bad_chunk="skip").compute()
    np.testing.assert_array_equal(labels == -1, ~kept)


def test_integers_and_columns(tmp_path):
    counts = np.random.default_rng(1).poisson(TABLE)
    zarr.create_array(tmp_path / "x.zarr", data=counts, chunks=(10, 2))
    spoil(tmp_path / "x.zarr")
    weights = np.linspace(1.0, 2.0, len(TABLE))
    options = {"max_iter": 5, "tol": 0.0, "random_state": 0}
    found = dem.PoissonMixture(2, **options).fit(tmp_path / "x.zarr", sample_weight=weights, on_bad_chunk="skip")
    expected = dem.PoissonMixture(2, **options).fit(counts, sample_weight=weights * KEPT)
    assert_same(found, expected, ("weights_", "rates_"))
    assert found.n_samples_seen_ == pytest.approx(weights[KEPT].sum())


def test_row_groups_of_parquet(tmp_path, monkeypatch):
    """The second of four row groups is damaged in its second half; the last as a whole."""
    path = tmp_path / "x.parquet"
    columns = {"u": TABLE[:, 0], "v": TABLE[:, 1]}
    pq.write_table(pa.table(columns), path, row_group_size=30, data_page_size=8, write_batch_size=5, compression="none")
    whole = pq.ParquetFile(path).metadata
    data = bytearray(path.read_bytes())
    for group, half in ((1, 2), (3, 1)):
        column = whole.row_group(group).column(1)
        start = column.dictionary_page_offset or column.data_page_offset
        size = column.total_compressed_size
        data[start + size - size // half : start + size] = b"\xff" * (size // half)
    path.write_bytes(bytes(data))
    monkeypatch.setattr(dem.data.parquet, "READ_ROWS", 10)
    with pytest.raises(DataError, match="cannot be read"):
        mixture().fit(path)
    gm = mixture().fit(path, on_bad_chunk="skip")
    assert [one["where"] for one in gm.bad_chunks_] == ["rows 30 to 59", "rows 90 to 119"]
    kept = np.arange(len(TABLE)) // 30 % 2 == 0
    assert gm.n_samples_seen_ == kept.sum()
    assert [one["name"] for one in gm.bad_chunks_] == [f"row group {i} of {path}" for i in (1, 3)]
    expected = mixture().fit(TABLE, sample_weight=kept.astype(float))
    assert_same(gm, expected)
    assert_same(mixture(algorithm="incremental").fit(path, on_bad_chunk="skip"), gm, ("weights_",))
    labels = np.where(kept, expected.predict(TABLE), -1)
    np.testing.assert_array_equal(gm.predict(path, on_bad_chunk="skip").compute(), labels)
    gm.predict_to(path, str(tmp_path / "labels.zarr"), on_bad_chunk="skip")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "labels.zarr")[...], labels)


def test_nothing_is_left(tmp_path):
    path = spoilt(tmp_path / "x.zarr", numbers=range(12))
    with pytest.raises(DataError, match="rows"):
        mixture().fit(path, on_bad_chunk="skip")


def flaky(path, **how):
    store(path)
    return zarr.open_array(FailingStore(LocalStore(path), **how), mode="r")


@pytest.mark.reliability(
    fault="a chunk of a zarr store cannot be read for a while, longer than it is tried, with `on_bad_chunk='skip'`",
    sees="chunk c/3/0 of x.zarr (rows 30 to 39) cannot be read (OSError: …, tried 8 times): such rows are left out",
    lost="the rows of this chunk, in all passes, also when it comes back",
    recovery="that of the attempts (8 within a minute), once for each such chunk",
)
def test_what_comes_back_stays_left_out(tmp_path):
    """It fails in the first pass, each time that it is asked for, and would be read in the second."""
    array = flaky(tmp_path / "x.zarr", times=3 * 8, keys=("c/3/0",))
    gm = mixture().fit(array, on_bad_chunk="skip")
    assert [one["where"] for one in gm.bad_chunks_] == ["rows 30 to 39"]
    assert gm.bad_chunks_[0]["why"] == "OSError: [Errno 5] injected, tried 8 times"
    weights = np.ones(len(TABLE))
    weights[30:40] = 0.0
    assert_same(gm, mixture().fit(TABLE, sample_weight=weights))


@pytest.mark.reliability(
    fault="a chunk of a zarr store that was read is damaged during the fit, with `on_bad_chunk='skip'`",
    sees="chunk c/3/0 of x.zarr (rows 30 to 39) could be read before and cannot now (…); …",
    lost="the iteration",
    recovery="once the store is repaired, the same line; with a checkpoint it goes on",
)
@pytest.mark.parametrize("algorithm", ["auto", "incremental"])
def test_what_goes_bad_later_is_an_error(tmp_path, algorithm):
    """Data never change silently in the middle of a fit."""
    path = tmp_path / "x.zarr"
    store(path)
    damage = After(2, lambda: spoil(path))
    with pytest.raises(DataError, match=r"chunk c/[34]/0 of .*\(rows .*\) could be read before and cannot now \("):
        mixture(algorithm=algorithm, callbacks=[damage]).fit(path, on_bad_chunk="skip")
    assert damage.done


def test_a_store_that_vanishes_is_no_bad_chunk(tmp_path):
    path = tmp_path / "x.zarr"
    store(path)
    vanish = After(2, lambda: shutil.rmtree(path))
    with pytest.raises(DataError, match="has vanished"):
        mixture(callbacks=[vanish]).fit(path, on_bad_chunk="skip")


def test_missing_chunks_stay_an_error(tmp_path):
    path = spoilt(tmp_path / "x.zarr")
    (path / "c/7/0").unlink()
    with pytest.raises(DataError, match=r"chunk c/7/0 .* is missing"):
        mixture().fit(path, on_bad_chunk="skip")
    gm = mixture().fit(path, on_bad_chunk="skip", allow_missing_chunks=True)
    assert gm.n_samples_seen_ == 100
    assert len(gm.bad_chunks_) == 2


def test_the_option_is_judged(tmp_path):
    with pytest.raises(OptionError, match="on_bad_chunk must be 'raise' or 'skip', not 'ignore'"):
        mixture().fit(spoilt(tmp_path / "x.zarr"), on_bad_chunk="ignore")
    with pytest.raises(DataError, match="on_bad_chunk='skip' is for zarr arrays and parquet that dem opens itself"):
        mixture().fit(TABLE, on_bad_chunk="skip")
    assert mixture().fit(TABLE, on_bad_chunk="raise").bad_chunks_ == []


def test_from_the_shell(tmp_path):
    path = str(spoilt(tmp_path / "x.zarr"))
    fit = ["fit", path, "-k", "3", "--seed", "0", "--max-iter", "3", "--out", str(tmp_path / "m.zarr")]
    refused = CliRunner().invoke(command, fit)
    assert refused.exit_code == 1
    result = CliRunner().invoke(command, [*fit, "--on-bad-chunk", "skip", "--json"])
    assert result.exit_code == 0, result.output
    assert "(rows 30 to 39), the first of 2, cannot be read" in result.stderr
    assert [one["where"] for one in json.loads(result.stdout)["bad_chunks"]] == ["rows 30 to 39", "rows 40 to 49"]
    out = str(tmp_path / "labels.zarr")
    result = CliRunner().invoke(command, ["predict", str(tmp_path / "m.zarr"), path, out, "--on-bad-chunk", "skip"])
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(zarr.open_array(out)[...] == -1, ~KEPT)


@pytest.mark.parametrize("error", [pytest.param(errno.EIO, marks=pytest.mark.slow), errno.EACCES])
def test_persistent_errors_of_a_store(tmp_path, error):
    array = flaky(tmp_path / "x.zarr", times=10**9, error=error, keys=("c/3/0", "c/4/0"))
    gm = mixture().fit(array, on_bad_chunk="skip")
    assert_same(gm, of_the_rest())
