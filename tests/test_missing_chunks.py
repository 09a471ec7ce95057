"""Chunks that are not in the store: an error that names them, never zeros taken for data."""

from __future__ import annotations

import json
import re
import shutil

import fsspec
import numpy as np
import pytest
import s3
import zarr
from click.testing import CliRunner
from stores import FILES, LAYOUTS, TABLE, After, fitted, mixture, remove, store
from zarr.storage import MemoryStore, ZipStore

import dem
import dem.cli.info
import dem.data.zarr
from dem.cli import dem as command
from dem.data import open_rows
from dem.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*did not converge")


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch):
    """Make a read of this data two chunks, not all of it."""
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 320)


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
    recovery="once the store is repaired, the same line; with a checkpoint it goes on",
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_missing_before_a_fit(tmp_path, layout):
    store(tmp_path / "x.zarr", layout)
    remove(tmp_path / "x.zarr", layout, 3, 4, 11)
    with pytest.raises(DataError, match=NAMED[layout]) as caught:
        mixture().fit(tmp_path / "x.zarr")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:component 0 is collapsed")
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


@pytest.mark.slow
@pytest.mark.reliability(
    fault="an object of a zarr store on S3 is lost, before a fit or during it",
    sees="chunk c/7/0 of s3://…/x.zarr (rows 70 to 79) is missing, the only one among the 12 that were read …",
    lost="one read, or the iteration",
    recovery="once the store is repaired, the same line; with a checkpoint it goes on",
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


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("use", USES)
def test_whatever_reads_the_data_sees_it(tmp_path, use):
    store(tmp_path / "x.zarr")
    remove(tmp_path / "x.zarr", "v3", 7)
    with pytest.raises(DataError, match=r"chunk c/7/0 of .*\(rows 70 to 79\) is missing"):
        USES[use](tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr.labels").exists()


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


@pytest.mark.slow
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
