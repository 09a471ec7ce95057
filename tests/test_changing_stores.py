"""Stores that change while they are read, and files that are cut short: errors that say what happened."""

from __future__ import annotations

import shutil
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from stores import FILES, LAYOUTS, TABLE, After, fitted, mixture, remove, store
from zarr.codecs import BytesCodec, ShardingCodec

import dem
import dem.cli.info
import dem.data.zarr
from dem.cli import dem as command
from dem.errors import DataError, LikelihoodWarning

pytestmark = pytest.mark.filterwarnings("ignore:.*did not converge")


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch):
    """Make a read of this data two chunks, not all of it."""
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 320)


GONE_LATER = r"chunk c/7/0 of .*x\.zarr \(rows 70 to 79\) was there before and is gone .*changes while it is read"


@pytest.mark.reliability(
    fault="chunks of a zarr store disappear during a fit",
    sees="chunk c/7/0 of x.zarr (rows 70 to 79) was there before and is gone; …",
    lost="the iteration",
    recovery="once the store is repaired, the same line; with a checkpoint it goes on",
)
@pytest.mark.parametrize("algorithm", ["batch", "incremental", "stepwise"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_that_go_during_a_fit(tmp_path, layout, algorithm):
    path = tmp_path / "x.zarr"
    store(path, layout)
    gone = After(4, lambda: remove(path, layout, 7))
    with pytest.raises(DataError, match="was there before and is gone") as caught:  # and no LikelihoodWarning
        mixture(callbacks=[gone], algorithm=algorithm).fit(path)
    assert "report" not in str(caught.value)
    assert FILES[layout].format(7) in str(caught.value)


@pytest.mark.slow
def test_chunks_that_go_during_a_fit_on_a_cluster(tmp_path, client):
    import dask

    path = tmp_path / "x.zarr"
    store(path)
    gone = After(4, lambda: remove(path, "v3", 7))
    with dask.config.set({"dem.cache": 0}), pytest.raises(DataError, match=GONE_LATER):
        mixture(callbacks=[gone]).fit(path)


@pytest.mark.parametrize("algorithm", ["batch", "incremental"])
def test_chunks_that_go_during_a_fit_that_allows_missing_ones(tmp_path, algorithm):
    path = tmp_path / "x.zarr"
    store(path)
    remove(path, "v3", 3)
    options = {"algorithm": algorithm, "reg_covar": 1e-3}
    assert mixture(algorithm=algorithm).fit(path, allow_missing_chunks=True).n_iter_ == 8
    gone = After(4, lambda: remove(path, "v3", 7))
    with pytest.raises(DataError, match=GONE_LATER):
        mixture(algorithm=options["algorithm"], callbacks=[gone]).fit(path, allow_missing_chunks=True)


def test_chunks_that_come_during_a_fit(tmp_path):
    path = tmp_path / "x.zarr"
    array = store(path)
    remove(path, "v3", 3)

    def come():
        array[30:40] = TABLE[30:40]

    came = r"chunk c/3/0 of .*x\.zarr \(rows 30 to 39\) was missing before and is there now"
    with pytest.raises(DataError, match=came):
        mixture(callbacks=[After(2, come)]).fit(path, allow_missing_chunks=True)


@pytest.mark.reliability(
    fault="the zarr store vanishes during a fit",
    sees="x.zarr has vanished: …",
    lost="the iteration",
    recovery="once the store is repaired, the same line; with a checkpoint it goes on",
)
@pytest.mark.parametrize("allowed", [False, True])
def test_a_store_that_vanishes_during_a_fit(tmp_path, allowed):
    path = tmp_path / "x.zarr"
    store(path)
    gone = After(4, lambda: shutil.rmtree(path))
    with pytest.raises(DataError, match=r"x\.zarr has vanished: its zarr\.json is no longer found"):
        mixture(callbacks=[gone]).fit(path, allow_missing_chunks=allowed)


@pytest.mark.reliability(
    fault="the zarr store is written anew during a fit, in another shape, dtype, or with other chunks",
    sees="x.zarr has changed since it was opened: its dtype was float64 and is int64; …",
    lost="the iteration",
    recovery="a new fit: these are other data",
)
@pytest.mark.parametrize(
    ("rewrite", "said"),
    [
        ({"data": TABLE[:100], "chunks": (10, 2)}, r"its shape was \(120, 2\) and is \(100, 2\)"),
        ({"data": TABLE.astype("i8"), "chunks": (10, 2)}, "its dtype was float64 and is int64"),
        ({"data": TABLE, "chunks": (20, 2)}, r"its chunks were \(10, 2\) and are \(20, 2\)"),
        ({"data": TABLE, "chunks": (10, 2), "compressors": None}, "its codecs"),
        ({"data": TABLE, "chunks": (10, 2), "fill_value": 7.0}, r"its fill_value was 0\.0 and is 7\.0"),
        ({"data": TABLE, "chunks": (10, 2), "zarr_format": 2}, r"x\.zarr has vanished: its zarr\.json"),
    ],
)
def test_a_store_that_is_written_anew_during_a_fit(tmp_path, rewrite, said):
    path = tmp_path / "x.zarr"
    store(path)

    def write():
        shutil.rmtree(path)
        zarr.create_array(path, **rewrite)

    with pytest.raises(DataError, match=said):
        mixture(callbacks=[After(4, write)]).fit(path)


def test_a_fall_of_the_likelihood_where_missing_chunks_are_not_seen(tmp_path):
    """A Dask array is a graph of the user's, which dem does not look into."""
    path = tmp_path / "x.zarr"
    store(path)
    gone = After(4, lambda: remove(path, "v3", 7))
    with pytest.warns(LikelihoodWarning, match="either the data changed during the fit") as caught:
        mixture(callbacks=[gone]).fit(da.from_zarr(str(path)))
    assert not any("report" in str(one.message) for one in caught)


def test_attributes_may_change_during_a_fit(tmp_path):
    path = tmp_path / "x.zarr"
    array = store(path)
    expected = mixture().fit(path)
    noted = After(4, lambda: array.attrs.update({"note": "being looked at"}))
    again = mixture(callbacks=[noted]).fit(path)
    assert noted.done
    np.testing.assert_array_equal(again.means_, expected.means_)


@pytest.mark.reliability(
    fault="the zarr store vanishes before a lazy `predict` is computed",
    sees="x.zarr has vanished: …",
    lost="nothing",
    recovery="once the store is back, the same line",
)
@pytest.mark.parametrize("allowed", [False, True])
def test_a_store_that_vanishes_before_lazy_labels_are_computed(tmp_path, allowed):
    path = tmp_path / "x.zarr"
    store(path)
    labels = fitted().predict(path, allow_missing_chunks=allowed)
    shutil.rmtree(path)
    with pytest.raises(DataError, match=r"x\.zarr has vanished"):
        labels.compute()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_that_go_before_lazy_labels_are_computed(tmp_path, layout):
    path = tmp_path / "x.zarr"
    store(path, layout)
    model = fitted()
    labels = model.predict(path)
    assert len(labels.compute()) == 120
    remove(path, layout, 7)
    with pytest.raises(DataError, match=r"of .*x\.zarr \(rows 70 to 79\) is missing"):
        labels.compute()
    with pytest.raises(DataError, match=r"of .*x\.zarr \(rows 70 to 79\) is missing"):
        model.predict_proba(path).compute()
    filled = TABLE.copy()
    filled[70:80] = 0.0
    np.testing.assert_array_equal(model.predict(path, allow_missing_chunks=True).compute(), model.predict(filled))


@pytest.mark.slow
def test_lazy_labels_on_a_cluster(tmp_path, client):
    path = tmp_path / "x.zarr"
    store(path)
    labels = fitted().predict(path)
    remove(path, "v3", 7)
    with pytest.raises(DataError, match=r"chunk c/7/0 of .*x\.zarr"):
        labels.compute()


CUT = {"empty": 0, "shorter than its index": 30, "cut after its index": -8}


def cut(path, number, n_bytes):
    file = Path(path) / FILES["shards"].format(number)
    file.write_bytes(file.read_bytes()[:n_bytes])


def sharded(path, location):
    codec = ShardingCodec(chunk_shape=(5, 2), codecs=[BytesCodec()], index_location=location)
    array = zarr.create(store=path, shape=TABLE.shape, chunks=(20, 2), dtype="f8", codecs=[codec], zarr_format=3)
    array[...] = TABLE


@pytest.mark.reliability(
    fault="a shard or chunk of a zarr store is empty or cut short (a full disk, a broken copy), before a fit or in it",
    sees="shard c/2/0 of x.zarr (rows 40 to 59) cannot be read (it is empty, no byte is in the store); …",
    lost="one read, or the iteration",
    recovery="once the store is repaired, the same line; with a checkpoint it goes on",
)
@pytest.mark.parametrize("n_bytes", CUT.values(), ids=CUT)
@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("rows_of_a_read", [10, 20])
def test_shards_that_are_cut_short(tmp_path, monkeypatch, location, n_bytes, rows_of_a_read):
    """Read shard by shard, or in parts of shards."""
    if rows_of_a_read == 10:
        monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 160)
        monkeypatch.setattr(dem.data.zarr, "SHARD_BYTES", 160)
    path, n_iter = tmp_path / "x.zarr", []
    sharded(path, location)
    bad = r"shard c/2/0 of .*x\.zarr \(rows 40 to 59\)"
    if location == "start" and n_bytes < 0:  # the index is whole, and its last chunk alone is not
        bad = r"chunk \(11, 0\), inside shard c/2/0, of .*x\.zarr \(rows 55 to 59\)"
    refused = rf"^{bad} cannot be read \(.*\); write it again, or leave it out with on_bad_chunk="
    if not n_bytes:
        refused = refused.replace(r"\(.*\)", r"\(it is empty, no byte is in the store\)")
    model = fitted()
    with pytest.raises(DataError, match=refused):
        mixture(callbacks=[After(2, lambda: cut(path, 2, n_bytes)), n_iter.append]).fit(path)
    assert n_iter
    for use in (mixture().fit, model.score, lambda data: model.predict(data).compute()):
        with pytest.raises(DataError, match=refused):
            use(path)
    with pytest.raises(DataError, match=refused):
        mixture().fit(path, allow_missing_chunks=True)
    assert ("5 of 6" if n_bytes == 0 else "6 of 6") in CliRunner().invoke(command, ["info", str(path)]).output


def test_an_empty_chunk_is_refused(tmp_path):
    store(tmp_path / "x.zarr", "v2")
    (tmp_path / "x.zarr" / "7.0").write_bytes(b"")
    with pytest.raises(DataError, match=r"chunk 7\.0 of .*x\.zarr \(rows 70 to 79\) cannot be read \(it is empty"):
        mixture().fit(tmp_path / "x.zarr")


@pytest.mark.reliability(
    fault="`scale_factor`, `add_offset` or `_FillValue` of a zarr array (format 3) change during a fit",
    sees="x.zarr has changed since it was opened: the attributes that decode it were {} and are "
    "{'scale_factor': 2.0}; …",
    lost="the iteration",
    recovery="a new fit: these are other data",
)
def test_attributes_that_change_during_a_fit(tmp_path):
    array = store(tmp_path / "x.zarr")
    mixture(callbacks=[After(2, lambda: array.attrs.update(title="as good as before"))]).fit(tmp_path / "x.zarr")
    seen = r"x\.zarr has changed since .* decode it were \{\} and are \{'scale_factor': 2\.0\}; start again"
    with pytest.raises(DataError, match=seen):
        mixture(callbacks=[After(2, lambda: array.attrs.update(scale_factor=2.0))]).fit(tmp_path / "x.zarr")
