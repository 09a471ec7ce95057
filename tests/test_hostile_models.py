"""Model files that were made to harm: refused in one line, before memory is taken, code run, or a name followed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest
from cases import gaussian_rows
from numcodecs import Zstd

import dem
from dem import store
from dem.errors import StoreError


class Harm:
    """Unpickling this makes a folder in the current one."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.zarr"
    dem.GaussianMixture(3, random_state=0, means_init=gaussian_rows()[:3]).fit(gaussian_rows()).save(path)
    return path


@pytest.fixture
def saved(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(model, tmp_path / "model.zarr")


def change(path, **changes):
    """Change what the file says of an array in both places where it does."""
    name = changes.pop("name", "means")
    for file in (path / name / "zarr.json", path / "zarr.json"):
        document = json.loads(file.read_text())
        node = document["consolidated_metadata"]["metadata"][name] if "consolidated_metadata" in document else document
        node.update(changes)
        file.write_text(json.dumps(document))


def change_attributes(path, change):
    document = json.loads((path / "zarr.json").read_text())
    change(document["attributes"])
    (path / "zarr.json").write_text(json.dumps(document))


def refused(path, match, most=50e6):
    """Load, and see that it is refused in one line for little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match=match) as caught:
            dem.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not (path.parent / "harmed").exists()


def regular(*shape):
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


@pytest.mark.reliability(
    fault="a model file claims arrays of 24 PB",
    sees="the model at … cannot be read (its arrays take 24.0 PB, this machine has …)",
    lost="nothing; no memory is taken for them",
    recovery="at once",
)
def test_arrays_larger_than_memory(saved):
    change(saved, shape=[10**15, 3], chunk_grid=regular(10**15, 3))
    refused(saved, r"cannot be read \(its arrays take 24.0 PB, this machine has ")


def test_arrays_larger_than_what_is_stored(saved):
    change(saved, shape=[40 * 10**6, 3], chunk_grid=regular(40 * 10**6, 3))
    chunk = saved / "means/c/0/0"
    chunk.write_bytes(Zstd().encode(np.zeros(1)))
    refused(saved, r"its array 'means' takes 960000000 bytes, its chunk would take 8\)")
    change(saved, codecs=[{"name": "bytes", "configuration": {"endian": "little"}}])
    refused(saved, r"its arrays take 960.0 MB, and 612 bytes of them are stored\)")


@pytest.mark.parametrize("n_bytes", [200, 300, 70_000, 20_000_000])
@pytest.mark.reliability(
    fault="a chunk of a model file would become more than its array when it is decompressed",
    sees="its array 'means' takes 72 bytes, its chunk would take 20000000",
    lost="nothing but that model",
    recovery="at once",
)
def test_chunks_that_become_more_than_the_array(saved, n_bytes):
    (saved / "means/c/0/0").write_bytes(Zstd().encode(np.zeros(n_bytes, np.uint8))[:80])
    refused(saved, rf"its array 'means' takes 72 bytes, its chunk would take {n_bytes}\)")


def test_chunks_that_do_not_say_what_they_become(saved):
    frame = Zstd().encode(np.zeros(9))
    assert frame[4] == 0x20  # one segment, of a size of one byte
    (saved / "means/c/0/0").write_bytes(frame[:4] + b"\x00\x60" + frame[6:])
    refused(saved, r"its array 'means' takes 72 bytes, its chunk would take -1\)")
    (saved / "means/c/0/0").write_bytes(b"")
    refused(saved, "its chunk would take -1")


def test_chunks_that_are_longer_than_they_can_be(saved):
    with (saved / "means/c/0/0").open("r+b") as file:
        file.truncate(2**40)  # takes no place on the disk
    refused(saved, r"means/c/0/0 is longer than the 140 bytes that it may have")
    with (saved / "zarr.json").open("r+b") as file:
        file.truncate(2**40)
    refused(saved, r"zarr\.json is longer than the \d+ bytes that it may have")


def test_chunks_that_are_many_or_large(saved):
    change(saved, chunk_grid=regular(1, 1))
    refused(saved, r"its array 'means' of shape \(3, 3\) is in chunks of shape \(1, 1\), not in one")
    change(saved, chunk_grid=regular(10**12, 3))
    refused(saved, r"in chunks of shape \(1000000000000, 3\), not in one")


@pytest.mark.parametrize(
    "changes",
    [
        {"data_type": "variable_length_utf8", "fill_value": "", "codecs": [{"name": "vlen-utf8"}]},
        {"data_type": "variable_length_bytes", "fill_value": "", "codecs": [{"name": "vlen-bytes"}]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "gzip"}]},
        {"codecs": [{"name": "numcodecs.pickle"}]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "numcodecs.pickle"}]},
        {"codecs": [{"name": "numcodecs.json2"}]},
        {"codecs": []},
        {"codecs": "zstd"},
        {"data_type": "complex128", "fill_value": [0.0, 0.0]},
        {"data_type": "object"},
        {"data_type": {"name": "fixed_length_utf32", "configuration": {"length_bytes": 4 * 10**15}}},
        {"data_type": 7},
        {"node_type": "group"},
        {"node_type": "link"},
        {"node_type": 7},
        {"shape": [-1, 3]},
        {"shape": [3.5, 3]},
        {"shape": "many"},
        {"shape": [3] * 100_000},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/../../"}}},
        {"zarr_format": 2},
        {"zarr_format": 4},
        {"storage_transformers": [{"name": "other"}]},
        {"fill_value": {}},
    ],
    ids=lambda changes: str(changes)[:70],
)
def test_arrays_that_no_model_has(saved, changes):
    change(saved, **changes)
    (saved / "means/c/0/0").write_bytes(pickle.dumps(Harm()))
    refused(saved, r"^the model at .*model\.zarr (cannot be read|is damaged)")


@pytest.mark.parametrize("where", ["means", "", "options/means_init"])
@pytest.mark.reliability(
    fault="a pickle is put into a model",
    sees="the model at … cannot be read (…)",
    lost="nothing; it is not opened",
    recovery="at once",
)
def test_pickles_are_never_opened(saved, where):
    folder = saved / where
    shutil.rmtree(folder)
    folder.mkdir()
    described = {"zarr_format": 2, "shape": [3], "chunks": [3], "dtype": "|O", "compressor": None, "fill_value": 0}
    described |= {"order": "C", "filters": [{"id": "pickle"}]}
    (folder / ".zarray").write_text(json.dumps(described))
    (folder / "0").write_bytes(pickle.dumps(Harm()))
    refused(saved, r"^(the model at|there is no model at) .*model\.zarr")


@pytest.mark.parametrize(
    "name", ["../means", "/etc/means", "means/..", "a/../../b", "a/b/c", "", ".", "a\\..\\b", "a\0b"]
)
@pytest.mark.reliability(
    fault="a model file names arrays outside of it",
    sees="'../means' is no name of an array",
    lost="nothing; no such name is followed",
    recovery="at once",
)
def test_names_that_lead_elsewhere(saved, name):
    shutil.copytree(saved / "means", saved.parent / "means")
    change_attributes(saved, lambda found: found["sha256"].update({name: found["sha256"]["means"]}))
    document = json.loads((saved / "zarr.json").read_text())
    for together in (True, False):
        if together:
            nodes = document["consolidated_metadata"]["metadata"]
            nodes[name] = nodes["means"]
        else:
            del document["consolidated_metadata"]
        (saved / "zarr.json").write_text(json.dumps(document))
        refused(saved, r"cannot be read \(.* is no name of an array\)")


@pytest.mark.parametrize("which", ["means", "means/zarr.json", "means/c", "means/c/0/0", "zarr.json"])
@pytest.mark.parametrize("target", ["moved", "/dev/zero", "missing"])
@pytest.mark.reliability(
    fault="files or folders of a model are symbolic links",
    sees="… is a symbolic link; put what it leads to in its place (cp -rL)",
    lost="nothing; the links are not followed",
    recovery="a copy (`cp -rL`)",
)
def test_links(saved, which, target):
    place, moved = saved / which, saved.parent / "moved"
    place.rename(moved)
    place.symlink_to(target if target.startswith("/") else saved.parent / target)
    document = json.loads((moved if which == "zarr.json" else saved / "zarr.json").read_text())
    if "consolidated_metadata" in document and which != "zarr.json":
        del document["consolidated_metadata"]  # so that the metadata beside the array are read
        (saved / "zarr.json").write_text(json.dumps(document))
    refused(saved, r"is a symbolic link; put what it leads to in its place \(cp -rL\)")


def test_a_link_to_a_whole_model_is_fine(saved):
    link = saved.parent / "latest.zarr"
    link.symlink_to(saved)
    assert dem.load(link).n_components == 3


@pytest.mark.reliability(
    fault="a file of a model is a pipe",
    sees="means/c/0/0 is no plain file",
    lost="nothing; nobody waits for it",
    recovery="at once",
)
def test_pipes_are_not_waited_for(saved):
    (saved / "means/c/0/0").unlink()
    os.mkfifo(saved / "means/c/0/0")
    refused(saved, "means/c/0/0 is no plain file")


def test_groups_without_end_are_not_walked(saved):
    inner = saved
    for _ in range(200):
        inner /= "g"
        inner.mkdir()
        (inner / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (inner / "g").symlink_to(saved)
    assert dem.load(saved).n_components == 3


def test_as_many_arrays_as_no_model_has(saved):
    document = json.loads((saved / "zarr.json").read_text())
    nodes = document["consolidated_metadata"]["metadata"]
    nodes.update({f"a{number}": nodes["means"] for number in range(2_000)})
    (saved / "zarr.json").write_text(json.dumps(document))
    refused(saved, r"it has 20\d\d arrays and groups, a model at most 1000\)")


@pytest.mark.parametrize("depth", [500, 900, 100_000])
@pytest.mark.reliability(
    fault="the JSON of a model is nested without end",
    sees="the model at … cannot be read (RecursionError: …)",
    lost="nothing but that model",
    recovery="at once",
)
def test_json_of_great_depth(saved, depth):
    text = (
        (saved / "zarr.json")
        .read_text()
        .replace('"feature_names": null', f'"feature_names": {"[" * depth}{"]" * depth}')
    )
    (saved / "zarr.json").write_text(text)
    refused(saved, r"^the model at .*model\.zarr (cannot be read|is damaged)")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("format", []),
        ("family", {}),
        ("family", None),
        ("options", None),
        ("options", []),
        ("options/n_components", 4),
        ("options/n_components", 10**15),
        ("options/n_components", "3"),
        ("options/n_components", True),
        ("options/covariance_type", "diag"),
        ("options/covariance_type", ["full"]),
        ("options/covariance_type", "os.system"),
        ("options/callbacks", ["print"]),
        ("options/callbacks", "print"),
        ("options/no_such_option", 1),
        ("options/self", 1),
        ("options/top_components", -5),
        ("options/noise", True),
        ("fitted", 7),
        ("fitted/n_features_in_", 10**15),
        ("fitted/n_features_in_", [3]),
        ("fitted/converged_", {"not finite": []}),
        ("fitted/lower_bound_", {"not finite": "print()"}),
        ("feature_names", 5),
        ("feature_names", ["a"]),
        ("feature_names", [["a"], ["b"], ["c"]]),
        ("feature_axis", [1]),
        ("feature_axis", {"dtype": "S3", "coordinates": ["a", "b", "c"]}),
        ("feature_axis", {"dtype": "V500000000", "coordinates": [1, 2, 3]}),
        ("feature_axis", {"dtype": "f8", "coordinates": [[1, 2, 3]]}),
        ("feature_axis", {"features": 3}),
        ("sha256", 3),
        ("sha256", ["means"]),
        ("sha256", {"means": None}),
        ("versions", "all"),
    ],
    ids=str,
)
def test_attributes_of_wrong_kinds(saved, place, value):
    *folders, last = place.split("/")

    def change(found):
        for folder in folders:
            found = found[folder]
        found[last] = value

    change_attributes(saved, change)
    if place == "versions":
        change_attributes(saved, lambda found: found.update(format=99))
    refused(saved, r"model\.zarr ")


@pytest.mark.parametrize("name", ["means", "covariances", "weights", "precisions_cholesky"])
@pytest.mark.parametrize("kind", ["longer", "more dimensions", "words"])
@pytest.mark.reliability(
    fault="arrays of a model do not fit its number of components or features, or one another",
    sees="the model at … is damaged (ValueError: with n_components 3 and 3 features, means are of shape (3, 3), not …)",
    lost="nothing but that model",
    recovery="at once",
)
def test_arrays_that_do_not_fit_one_another(saved, name, kind):
    arrays, attributes = store.read(saved)
    array = arrays[name]
    changed = {
        "longer": np.concatenate([array, array]),
        "more dimensions": array[np.newaxis],
        "words": array.astype("U9"),
    }
    with pytest.warns() if kind == "words" else pytest.MonkeyPatch.context():
        store.write(saved, {**arrays, name: changed[kind]}, attributes, overwrite=True)
    refused(saved, r"model\.zarr (is damaged|cannot be read) \(")


def test_words_that_claim_to_be_long(saved):
    axis = {"dtype": "U500000000", "coordinates": ["a", "b", "c"]}
    change_attributes(saved, lambda found: found.update(feature_axis=axis))
    assert dem.load(saved).feature_coordinates_.nbytes == 12


def test_large_models_are_stored_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "COMPRESSED", 10_000)
    zeros = np.zeros(1_000_000)  # of which Zstandard would make a thousandth
    store.write(tmp_path / "large", {"x": zeros}, {"format": 2})
    np.testing.assert_array_equal(store.read(tmp_path / "large")[0]["x"], zeros)
    assert (tmp_path / "large/x/c/0").stat().st_size == zeros.nbytes
    monkeypatch.setattr(store, "COMPRESSED", 10**9)
    store.write(tmp_path / "small", {"x": zeros}, {"format": 2})
    assert (tmp_path / "small/x/c/0").stat().st_size < zeros.nbytes / 1_000
    monkeypatch.setattr(store, "COMPRESSED", 10_000)
    with pytest.raises(StoreError, match=r"its arrays take 8.0 MB, and .* of them are stored"):
        store.read(tmp_path / "small")


@pytest.mark.parametrize("text", ["[]", "3", '{"node_type": "array"}', '{"consolidated_metadata": [1]}', "[" * 9999])
def test_what_is_overwritten_may_be_anything(text):
    import fsspec

    fsspec.filesystem("memory").pipe_file("/hostile/model/zarr.json", text.encode())
    store.write("memory://hostile/model", {"x": np.arange(3.0)}, {"a": 1}, overwrite=True)
    np.testing.assert_array_equal(store.read("memory://hostile/model")[0]["x"], [0.0, 1.0, 2.0])
