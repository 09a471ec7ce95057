"""Chunks that are not in the store: an error that names them, never zeros taken for data."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import dask.array as da
import fsspec
import numpy as np
import pytest
import s3
import zarr
from click.testing import CliRunner
from zarr.codecs import BytesCodec, ShardingCodec
from zarr.storage import MemoryStore, ZipStore

import dem
import dem.cli.info
import dem.data.zarr
from dem.cli import dem as command
from dem.data import open_rows
from dem.errors import DataError, LikelihoodWarning
from dem.events import IterationEnded

pytestmark = pytest.mark.filterwarnings("ignore:.*did not converge")

RNG = np.random.default_rng(0)
# Three groups of rows; chunks that are taken as zeros would pass for a fourth.
TABLE = RNG.permutation(np.concatenate([RNG.normal(centre, 1.0, (40, 2)) for centre in (4.0, 12.0, 20.0)]))
LAYOUTS = {
    "v3": {"zarr_format": 3, "chunks": (10, 2)},
    "v2": {"zarr_format": 2, "chunks": (10, 2)},
    "shards": {"zarr_format": 3, "chunks": (5, 2), "shards": (10, 2)},
}
FILES = {"v3": "c/{}/0", "v2": "{}.0", "shards": "c/{}/0"}


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch):
    """Make a read of this data two chunks, not all of it."""
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 320)


def store(path, layout="v3", table=TABLE, **more):
    array = zarr.create_array(path, shape=table.shape, dtype=table.dtype, **LAYOUTS[layout], **more)
    array[...] = table
    return array


def remove(path, layout, *numbers):
    for number in numbers:
        (Path(path) / FILES[layout].format(number)).unlink()


def mixture(**options):
    return dem.GaussianMixture(3, tol=0.0, max_iter=8, random_state=0, reg_covar=1e-3, **options)


class After:
    """Callback that does something once, after an iteration."""

    def __init__(self, iteration, action):
        self.iteration, self.action, self.done = iteration, action, False

    def __call__(self, event):
        if isinstance(event, IterationEnded) and event.iteration == self.iteration and not self.done:
            self.done = True
            self.action()


SEVERAL = (
    r"{} of .*x\.zarr \(rows 30 to 39\) is missing, the first of {} among the {} that were read \(25 %\), and would "
    r"count as its fill value, 0\.0; .*allow_missing_chunks=True \(--allow-missing-chunks\)"
)
NAMED = {
    "v3": SEVERAL.format("chunk c/3/0", 3, 12),
    "v2": SEVERAL.format("chunk 3.0", 3, 12),
    "shards": SEVERAL.format("shard c/3/0", 6, 24),
}


@pytest.mark.reliability(
    fault="chunks of a zarr store are not there when a fit begins (half-written, purged, a lost object)",
    sees="chunk c/3/0 of x.zarr (rows 30 to 39) is missing, the first of 3 among the 12 that were read (25 %), and "
    "would count as its fill value, 0.0; …",
    lost="one read",
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_missing_before_a_fit(tmp_path, layout):
    store(tmp_path / "x.zarr", layout)
    remove(tmp_path / "x.zarr", layout, 3, 4, 11)
    with pytest.raises(DataError, match=NAMED[layout]) as caught:
        mixture().fit(tmp_path / "x.zarr")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_missing_before_a_fit_on_a_cluster(tmp_path, layout, client):
    store(tmp_path / "x.zarr", layout)
    remove(tmp_path / "x.zarr", layout, 3, 4, 11)
    with pytest.raises(DataError, match=NAMED[layout]):
        mixture().fit(tmp_path / "x.zarr")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("location", ["start", "end"])
def test_chunks_missing_inside_shards(tmp_path, monkeypatch, location, whole):
    """Read shard by shard, or in parts of shards: the index, which zarr reads anyway, tells what is not there."""
    if not whole:
        monkeypatch.setattr(dem.data.zarr, "SHARD_BYTES", 10)
    shards = {"shape": (30, 2), "index_location": location}
    array = zarr.create_array(tmp_path / "x.zarr", shape=TABLE.shape, dtype="f8", chunks=(5, 1), shards=shards)
    array[:70] = TABLE[:70]
    array[80:] = TABLE[80:]
    n_chunks = 48
    named = (
        rf"chunk \(14, 0\), inside shard c/2/0, of .*x\.zarr \(rows 70 to 74\) is missing, the first of 4 among the "
        rf"{n_chunks} that were read \(8\.3 %\)"
    )
    with pytest.raises(DataError, match=named):
        mixture().fit(tmp_path / "x.zarr")
    filled = TABLE.copy()
    filled[70:80] = 0.0
    assert_same(
        mixture().fit(tmp_path / "x.zarr", allow_missing_chunks=True), mixture().fit(whole_store(tmp_path, filled))
    )


def whole_store(tmp_path, table):
    """Return the path of a store that lacks nothing."""
    zarr.create_array(
        tmp_path / "whole.zarr", data=table, chunks=(30, 2), config={"write_empty_chunks": True}, overwrite=True
    )
    return tmp_path / "whole.zarr"


def assert_same(fitted, expected):
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(fitted, name), getattr(expected, name), rtol=1e-10, atol=1e-12)


def test_chunks_missing_in_grids_and_among_variables(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    for column, name in enumerate(("u", "v")):
        group.create_array(name, data=TABLE[:, column].reshape(12, 10), chunks=(2, 5))
    group.create_array("both", data=TABLE.reshape(12, 10, 2).transpose(2, 0, 1), chunks=(1, 2, 5))
    cases = [
        ({"variable": ["u", "v"]}, "v/c/3/1", r"chunk c/3/1 of .*g\.zarr/v \(\[6:8, 5:10\]\)", 24),
        ({"variable": "both", "feature_dim": 0}, "both/c/1/3/1", r"chunk c/1/3/1 of .*both \(\[1:2, 6:8, 5:10\]\)", 24),
    ]
    for source, key, named, n_chunks in cases:
        whole = mixture().fit(tmp_path / "g.zarr", **source)
        (tmp_path / "g.zarr" / key).unlink()
        with pytest.raises(DataError, match=rf"{named} is missing, the only one among the {n_chunks} that were read"):
            mixture().fit(tmp_path / "g.zarr", **source)
        with pytest.raises(DataError, match=named):
            whole.predict(tmp_path / "g.zarr", **source).compute()
        mixture().fit(tmp_path / "g.zarr", **source, allow_missing_chunks=True)


def in_memory(tmp_path):
    values = {}
    return store(MemoryStore(values)), lambda: values.pop("c/3/0")


def by_fsspec(tmp_path):
    url = f"memory://{tmp_path.name}/x.zarr"
    store(url)
    return url, lambda: fsspec.filesystem("memory").rm(f"{url}/c/3/0")


@pytest.mark.parametrize("make", [in_memory, by_fsspec])
def test_other_stores(tmp_path, make):
    source, take_away = make(tmp_path)
    assert mixture().fit(source).n_iter_ == 8
    take_away()
    with pytest.raises(DataError, match=r"chunk c/3/0 .*\(rows 30 to 39\) is missing, the only one among the 12"):
        mixture().fit(source)


def test_a_zip_file(tmp_path):
    store(tmp_path / "x.zarr")
    remove(tmp_path / "x.zarr", "v3", 3)
    shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "x.zarr")
    with ZipStore(tmp_path / "x.zip", mode="r") as archive:
        array = zarr.open_array(archive, mode="r")
        with pytest.raises(DataError, match=r"chunk c/3/0 .*is missing, the only one among the 12"):
            mixture().fit(array)


@pytest.mark.reliability(
    fault="an object of a zarr store on S3 is lost, before a fit or during it",
    sees="chunk c/7/0 of s3://…/x.zarr (rows 70 to 79) is missing, the only one among the 12 that were read …",
    lost="one read, or the iteration",
)
@pytest.mark.parametrize("layout", ["v3", *(pytest.param(one, marks=pytest.mark.slow) for one in ("v2", "shards"))])
def test_objects_lost_on_s3(bucket, layout):
    url = f"{bucket}/x.zarr"
    store(url, layout)
    assert "12 of 12" in run("info", url).output
    lost = f"{url}/{FILES[layout].format(7)}"
    with pytest.raises(DataError, match=r"of s3://.*/x\.zarr \(rows 70 to 79\) was there before and is gone"):
        mixture(callbacks=[After(2, lambda: s3.filesystem().rm(lost))]).fit(url)
    with pytest.raises(DataError, match=r"of s3://.*/x\.zarr \(rows 70 to 79\) is missing, the "):
        mixture().fit(url)
    allowed = dem.GaussianMixture(1, max_iter=1).fit(url, allow_missing_chunks=True)
    np.testing.assert_allclose(allowed.means_[0], np.delete(TABLE, slice(70, 80), axis=0).sum(axis=0) / 120)
    assert "11 of 12" in run("info", url).output


def test_a_store_that_vanishes_from_s3(bucket):
    url = f"{bucket}/x.zarr"
    store(url)
    labels = fitted().predict(url)
    gone = After(2, lambda: s3.filesystem().rm(url, recursive=True))
    with pytest.raises(DataError, match=r"s3://.*/x\.zarr has vanished: its zarr\.json is no longer found"):
        mixture(callbacks=[gone]).fit(url)
    with pytest.raises(DataError, match=r"s3://.*/x\.zarr has vanished"):
        labels.compute()


USES = {
    "incremental": lambda path: mixture(algorithm="incremental").fit(path),
    "stepwise": lambda path: mixture(algorithm="stepwise").fit(path),
    "k-means||": lambda path: mixture(init_params="k-means||").fit(path),
    "partial_fit": lambda path: mixture().partial_fit(path),
    "KMeans": lambda path: dem.KMeans(3, random_state=0).fit(path),
    "select": lambda path: dem.select(path, n_components=[2, 3], random_state=0, max_iter=5),
    "BernoulliMixture": lambda path: dem.BernoulliMixture(2, random_state=0).fit(path),
    "score": lambda path: fitted().score(path),
    "bic": lambda path: fitted().bic(path),
    "predict_to": lambda path: fitted().predict_to(path, f"{path}.labels"),
}


def fitted():
    return mixture().fit(TABLE)


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("use", USES)
def test_whatever_reads_the_data_sees_it(tmp_path, use):
    store(tmp_path / "x.zarr")
    remove(tmp_path / "x.zarr", "v3", 7)
    with pytest.raises(DataError, match=r"chunk c/7/0 of .*\(rows 70 to 79\) is missing"):
        USES[use](tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr.labels").exists()


GONE_LATER = r"chunk c/7/0 of .*x\.zarr \(rows 70 to 79\) was there before and is gone .*changes while it is read"


@pytest.mark.reliability(
    fault="chunks of a zarr store disappear during a fit",
    sees="chunk c/7/0 of x.zarr (rows 70 to 79) was there before and is gone; …",
    lost="the iteration",
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


def test_lazy_labels_on_a_cluster(tmp_path, client):
    path = tmp_path / "x.zarr"
    store(path)
    labels = fitted().predict(path)
    remove(path, "v3", 7)
    with pytest.raises(DataError, match=r"chunk c/7/0 of .*x\.zarr"):
        labels.compute()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_of_nothing_but_the_fill_value_are_left_out_by_zarr(tmp_path, layout):
    table = TABLE.copy()
    table[30:60] = 0.0
    store(tmp_path / "x.zarr", layout, table)
    assert not (tmp_path / "x.zarr" / FILES[layout].format(3)).exists()
    with pytest.raises(DataError, match=r"hold nothing else \(write_empty_chunks=False\), pass allow_missing_chunks"):
        mixture().fit(tmp_path / "x.zarr")
    expected = mixture().fit(store(tmp_path / "y.zarr", layout, table, config={"write_empty_chunks": True}))
    allowed = mixture().fit(tmp_path / "x.zarr", allow_missing_chunks=True)
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        np.testing.assert_array_equal(getattr(allowed, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("fill", "attributes", "words"),
    [
        (-32768, {"scale_factor": 0.001, "_FillValue": -32768}, r"fill value, -32768 \(NaN after decoding\)"),
        (0, {"scale_factor": 0.5, "add_offset": 15.0}, r"fill value, 0 \(15\.0 after decoding\)"),
    ],
)
def test_the_fill_value_of_packed_numbers_is_told_as_it_counts(tmp_path, fill, attributes, words):
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=(120, 2), chunks=(10, 2), dtype="i2", fill_value=fill, attributes=attributes
    )
    array[:60] = np.arange(120).reshape(60, 2)
    with pytest.raises(DataError, match=words):
        mixture().fit(tmp_path / "x.zarr")


def test_an_array_whose_chunks_are_all_missing(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", shape=(120, 2), chunks=(10, 2), dtype="f8", fill_value=np.nan)
    with pytest.raises(DataError, match=r"the first of 12 among the 12 that were read \(100 %\).* fill value, nan"):
        mixture().fit(tmp_path / "x.zarr")
    with pytest.raises(DataError, match=r"chunk c/0/0 .* is missing.* fill value, nan"):
        fitted().predict_to(tmp_path / "x.zarr", tmp_path / "labels.zarr")


def test_the_option_is_for_zarr_alone():
    with pytest.raises(DataError, match="allow_missing_chunks is for zarr arrays"):
        mixture().fit(TABLE, allow_missing_chunks=True)


def test_a_whole_store_is_read_once_and_its_metadata_beside(tmp_path, monkeypatch):
    """No added read of the data, and no listing."""
    path = tmp_path / "x.zarr"
    store(path)
    rows, keys = open_rows(path), []
    get = zarr.storage.LocalStore.get

    async def counting(self, key, *args, **kwargs):
        keys.append(key)
        return await get(self, key, *args, **kwargs)

    def listing(*args, **kwargs):
        message = "nothing needs to be listed"
        raise AssertionError(message)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counting)
    for name in ("list", "list_dir", "list_prefix", "exists"):
        monkeypatch.setattr(zarr.storage.LocalStore, name, listing)
    from dem.engine import LocalEngine

    assert LocalEngine(2).sweep(rows, [len]) == [120]
    assert sorted(key for key in keys if "/" in key) == sorted(f"c/{i}/0" for i in range(12))
    assert keys.count("zarr.json") <= len(rows.batches())


# The shell ---------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_plan_foresees_the_error(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", shape=(120, 2), chunks=(10, 2), dtype="f8")
    said = run("plan", tmp_path / "x.zarr", "--components", 1)
    assert "chunk c/0/0 of" in said.output
    assert "--allow-missing-chunks" in said.output
    assert "--allow-missing-chunks" not in run("plan", tmp_path / "x.zarr", "-k", 1, "--allow-missing-chunks").output


def test_the_shell(tmp_path):
    path, model = tmp_path / "x.zarr", tmp_path / "model.zarr"
    store(path)
    remove(path, "v3", 3)
    fitted().save(tmp_path / "whole.zarr")
    options = {
        "fit": (path, "--components", 3, "--out", model, "--max-iter", 5),
        "select": (path, "--components", "2,3"),
        "score": (tmp_path / "whole.zarr", path),
        "predict": (tmp_path / "whole.zarr", path, tmp_path / "labels.zarr"),
    }
    for name, arguments in options.items():
        result = run(name, *arguments, "--quiet")
        assert (result.exit_code, result.output.count("\n")) == (1, 1), (name, result.output)
        assert "chunk c/3/0" in result.output
        assert "--allow-missing-chunks" in result.output
        assert "--allow-missing-chunks" in run(name, "--help").output
        allowed = run(name, *arguments, "--allow-missing-chunks", "--quiet")
        assert allowed.exit_code == 0, (name, allowed.output)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_info_shows_the_chunks_that_are_there(tmp_path, layout):
    path = tmp_path / "x.zarr"
    store(path, layout)
    what = "shards" if layout == "shards" else "chunks"
    assert json.loads(run("info", path, "--json").output)[f"{what}_present"] == 12
    remove(path, layout, 3, 4)
    figures = json.loads(run("info", path, "--json").output)
    assert (figures[f"{what}_present"], figures[f"{what}_expected"]) == (10, 12)
    assert "10 of 12" in run("info", path).output


def test_info_does_not_list_without_end(tmp_path, monkeypatch):
    zarr.create_array(tmp_path / "x.zarr", shape=(10**12, 2), chunks=(10**5, 2), dtype="f8")
    figures = json.loads(run("info", tmp_path / "x.zarr", "--json").output)
    assert (figures["chunks_present"], figures["chunks_expected"]) == (0, 10**7)
    store(tmp_path / "y.zarr")
    monkeypatch.setattr(dem.cli.info, "_LISTING_SECONDS", 0.0)
    assert re.search(r"at least [01] of 12", run("info", tmp_path / "y.zarr").output)


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
    refused = r"^shard c/2/0 of .*x\.zarr \(rows 40 to 59\) cannot be read \(.*\); write it again or take its rows out"
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
)
def test_attributes_that_change_during_a_fit(tmp_path):
    array = store(tmp_path / "x.zarr")
    mixture(callbacks=[After(2, lambda: array.attrs.update(title="as good as before"))]).fit(tmp_path / "x.zarr")
    seen = r"x\.zarr has changed since .* decode it were \{\} and are \{'scale_factor': 2\.0\}; start again"
    with pytest.raises(DataError, match=seen):
        mixture(callbacks=[After(2, lambda: array.attrs.update(scale_factor=2.0))]).fit(tmp_path / "x.zarr")
