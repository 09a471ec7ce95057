"""What dem writes appears whole or not at all, and what it replaces stays until then: on disks and on object stores."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import s3
import zarr
from cases import gaussian_rows
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

import dem
from dem.cli import dem as command
from dem.errors import DataWarning, StoreError

FEW, MANY = gaussian_rows()[:40], gaussian_rows()


@pytest.fixture(scope="module")
def models():
    """Two models that have nothing in common but their features."""
    old = dem.GaussianMixture(3, random_state=0, max_iter=3, tol=1e3).fit(MANY)
    new = dem.GaussianMixture(2, covariance_type="diag", random_state=0, max_iter=3, tol=1e3).fit(FEW)
    return old, new


def same(path, model):
    """Whether the model at a path is that one; a damaged one is an error."""
    found = dem.load(path)
    return found.means_.shape == model.means_.shape and np.array_equal(found.means_, model.means_)


def shell(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


# A real S3 server ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["s3_server", pytest.param("ceph_server", marks=pytest.mark.slow)])
def any_bucket(request, monkeypatch):
    """The URL of an empty bucket on each of the servers."""
    request.getfixturevalue(request.param).use(monkeypatch)
    return s3.new_bucket()


@pytest.mark.slow
def test_a_model_on_s3_is_saved_replaced_and_replaced_again(any_bucket, models):
    bucket, url = any_bucket, f"{any_bucket}/deep/model.zarr"
    with pytest.raises(StoreError, match="there is no model"):
        dem.load(url)
    for model in (*models, models[0]):
        model.save(url, overwrite=model is not models[0] or bool(s3.objects(bucket)))
        assert same(url, model)
        names = {name.split("/")[2] for name in s3.objects(bucket)}
        assert names == {"zarr.json", "raw", *(f"{name}" for name in model._parameter_names)}
    with pytest.raises(StoreError, match="exists already"):
        models[1].save(url)
    assert zarr.open_group(url, mode="r", use_consolidated=False)["means"][:].tolist() == models[0].means_.tolist()


@pytest.mark.slow
def test_results_on_s3_are_written_and_replaced(any_bucket, models, tmp_path):
    bucket, url = any_bucket, f"{any_bucket}/labels.zarr"
    models[0].save(str(tmp_path / "model.zarr"))
    zarr.create_array(f"{bucket}/data.zarr", data=MANY, chunks=(500, MANY.shape[1]))
    result = shell("predict", tmp_path / "model.zarr", f"{bucket}/data.zarr", url)
    assert (result.exit_code, result.stderr) == (0, "")
    np.testing.assert_array_equal(zarr.open_array(url, mode="r")[:], models[0].predict(MANY))
    models[1].predict_to(FEW, url, overwrite=True)
    np.testing.assert_array_equal(zarr.open_array(url, mode="r")[:], models[1].predict(FEW))
    assert sorted(s3.objects(url)) == ["0", "zarr.json"]
    models[0].predict_to(MANY, url, overwrite=True, kind="proba")
    np.testing.assert_array_equal(zarr.open_array(url, mode="r")[:], models[0].predict_proba(MANY))
    assert {name.split("/")[0] for name in s3.objects(bucket)} == {"data.zarr", "labels.zarr"}


@pytest.mark.slow
def test_wrong_keys_are_told_before_anything_is_computed(ceph_server, models, monkeypatch, tmp_path):
    replace(ceph_server, keys=(ceph_server.keys[0], "wrong")).use(monkeypatch)
    zarr.create_array(tmp_path / "data.zarr", data=FEW)
    result = shell("fit", tmp_path / "data.zarr", "-k", "2", "--out", "s3://any/model.zarr")
    assert (result.exit_code, result.stderr) == (
        1,
        "dem: cannot write s3://any/model.zarr: PermissionError: Forbidden\n",
    )


@pytest.mark.slow
@pytest.mark.reliability(
    fault="an S3 store goes away while a model is saved over another",
    sees="cannot write s3://…; the model is saved in …",
    lost="nothing: the old model is still there, the new one is on the local disk",
    recovery="once the store is back, a copy of the model",
)
@pytest.mark.parametrize("cut_at", [1, 4])
def test_a_store_that_goes_away_amid_saving(bucket, s3_server, models, tmp_path, monkeypatch, cut_at):
    url = f"{bucket}/model.zarr"
    models[0].save(url)
    zarr.create_array(tmp_path / "data.zarr", data=FEW)
    gate = s3.Gate(s3_server, b"x-amz-copy-source", cut_at)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as context:
        gate.server.use(context)
        result = shell("fit", "data.zarr", "-k", "2", "--seed", "0", "--out", url, "--overwrite", "--quiet")
    assert gate.seen >= cut_at
    gate.cut()
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(rf"dem: cannot write {url}: .*; the model is saved in model\.zarr", line), line
    assert same(url, models[0])
    assert same("model.zarr", dem.GaussianMixture(2, random_state=0).fit(FEW))


# The order in which objects are written ------------------------------------------------------------------------------


class Watched(MemoryFileSystem):
    """A store in memory that calls `watch` before each object that is copied or removed."""

    protocol = "watched"
    store: dict = {}  # noqa: RUF012 (as in its base: one for all)
    pseudo_dirs: list = [""]  # noqa: RUF012
    watch = staticmethod(str)

    def cp_file(self, path1, path2, **kwargs):
        type(self).watch("copy")
        super().cp_file(path1, path2, **kwargs)

    def rm(self, path, recursive=False, maxdepth=None):
        for one in path if isinstance(path, list) else [path]:
            type(self).watch("remove")
            super().rm(one, recursive=recursive)


@pytest.fixture
def watched(monkeypatch):
    import fsspec

    fsspec.register_implementation("watched", Watched, clobber=True)
    Watched.store.clear()
    Watched.pseudo_dirs[:] = [""]
    yield Watched
    Watched.watch = staticmethod(str)


URL = "watched://place/model.zarr"


def fails_at(number, kind="copy"):
    counted = iter(range(1, 10_000))

    def watch(what):
        if what == kind and next(counted) == number:
            raise OSError(5, "the store has gone")

    return staticmethod(watch)


@pytest.mark.parametrize("turns", [0, 1], ids=["by folders", "by dots"])
def test_a_reader_finds_the_old_model_or_the_new_one_at_any_moment(watched, models, turns):
    before, after = models if turns == 0 else models[::-1]
    if turns:
        models[0].save(URL)
    before.save(URL, overwrite=True)
    seen = []

    def watch(what):
        seen.append("old" if same(URL, before) else "new")
        assert seen[-1] == "old" or same(URL, after)

    watched.watch = staticmethod(watch)
    after.save(URL, overwrite=True)
    assert sorted(seen, reverse=True) == seen  # old …, then new
    assert {"old", "new"} == set(seen)


@pytest.mark.slow
def test_whichever_copy_fails_the_old_or_the_new_model_stands(watched, models):
    for number in range(1, 100):
        watched.watch = staticmethod(str)
        watched.store.clear()
        models[0].save(URL)
        watched.watch = fails_at(number)
        try:
            models[1].save(URL, overwrite=True)
        except StoreError as error:
            kept = re.fullmatch(rf"cannot write {URL}: .*the store has gone; all of it is in (\S+)", str(error))[1]
            assert same(kept, models[1])
            assert same(URL, models[0]) or same(URL, models[1])
        else:
            break
    # 6 arrays of a chunk and metadata each, the group of the raw ones, 2 more, and the root's: then no copy fails.
    assert number == 17


def test_a_new_model_that_is_half_copied_is_not_readable(watched, models):
    watched.watch = fails_at(5)
    with pytest.raises(StoreError, match="all of it is in"):
        models[0].save(URL)
    with pytest.raises(StoreError, match="there is no model"):
        dem.load(URL)


def test_old_results_or_new_ones_never_a_mixture(watched):
    url = "watched://place/labels.zarr"
    rows = np.repeat([[0.0], [9.0]], 500, axis=0)
    model = dem.KMeans(2, init=np.array([[0.0], [9.0]]), n_init=1).fit(rows)
    swapped = dem.KMeans(2, init=np.array([[9.0], [0.0]]), n_init=1).fit(rows)
    old, new = model.predict(rows), swapped.predict(rows)
    model.predict_to(rows, url)
    seen = []

    def watch(what):
        found = zarr.open_array(url, mode="r")[:]
        seen.append("old" if np.array_equal(found, old) else "new")
        assert seen[-1] == "old" or np.array_equal(found, new)

    watched.watch = staticmethod(watch)
    swapped.predict_to(rows, url, overwrite=True)
    assert {"old", "new"} == set(seen)


def test_what_cannot_be_tidied_up_is_a_warning(watched, models):
    models[0].save(URL)
    watched.watch = fails_at(1, "remove")
    with pytest.warns(DataWarning, match=r"model\.zarr is written, but objects that are no longer needed"):
        models[1].save(URL, overwrite=True)
    assert same(URL, models[1])
