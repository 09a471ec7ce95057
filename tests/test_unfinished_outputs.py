"""Outputs whose process ends before they are whole: the same line goes on with what is not there yet."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import s3
import zarr
from clusters import cluster_of_threads
from outputs import HEIGHT, N_CHUNKS, files, make_inputs

import dem
import dem.cli
import dem.data.dask
import dem.data.unfinished
import dem.data.zarr
import dem.data.zarr_writer
from dem.data.atomic import Directory
from dem.data.output_progress import Place
from dem.errors import DataWarning, MissingDataError, StoreError


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def half_predicted(
    inputs, tmp_path, monkeypatch, out="out.zarr", stop=30, error=KeyboardInterrupt, pause=0.003, **more
):
    """Write labels until an error comes, and return the number of chunks that were computed."""
    monkeypatch.setattr(dem.data.unfinished, "AFTER", 0.0)
    monkeypatch.setattr(dem.data.unfinished, "SHARE", 1e9)
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 1)
    monkeypatch.setattr(dem.engine.local, "TICK", 1e-3)
    seen = []
    result = dem.em.predict.RowFunction.result

    def counted(self, chunk):
        seen.append(len(chunk))
        if len(seen) > stop:
            time.sleep(0.05)
            raise error
        time.sleep(pause)
        return result(self, chunk)

    with monkeypatch.context() as patched:
        patched.setattr(dem.em.predict.RowFunction, "result", counted)
        model = more.pop("model", None) or dem.load(inputs / "model.zarr")
        data = more.pop("data", inputs / "rows.zarr")
        data = str(data) if isinstance(data, Path) else data
        model.predict_to(data, out if "://" in out else str(tmp_path / out), **more)
    return len(seen)


def begun(inputs, tmp_path, monkeypatch, **more):
    with pytest.raises(KeyboardInterrupt), pytest.warns(DataWarning, match=r"is not whole: .* the same call .*goes on"):
        half_predicted(inputs, tmp_path, monkeypatch, **more)


@pytest.mark.reliability(
    fault="writing results ends by Ctrl-C or an error, after more than a second",
    sees="… is not whole: … rows are written, and kept in …; the same call (or command) goes on from there",
    lost="the chunks under way; the same bits",
    recovery="the same line, which goes on where chunks are missing",
)
def test_an_interrupted_call_goes_on(inputs, tmp_path, monkeypatch):
    begun(inputs, tmp_path, monkeypatch)
    assert 0 < half_predicted(inputs, tmp_path, monkeypatch, stop=99) < 40
    labels = dem.load(inputs / "model.zarr").predict(str(inputs / "rows.zarr")).compute()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr")[:], labels)
    assert [one.name for one in tmp_path.iterdir()] == ["out.zarr"]


@pytest.mark.reliability(
    fault="results are to be written where another job has left some that are not whole",
    sees="there is an unfinished … of another job, in …: means_ was …, and is … now; …",
    lost="nothing, without `overwrite=True` (`--overwrite`); with it, what was left",
    recovery="the line of that job, or `--overwrite`",
)
def test_another_job_is_refused_unless_it_may_overwrite(inputs, tmp_path, monkeypatch):
    begun(inputs, tmp_path, monkeypatch)
    other = dem.load(inputs / "model.zarr")
    other.means_[0, 0] += 1.0
    with pytest.raises(
        StoreError, match=r"there is an unfinished .*out\.zarr of another job, .*: means_ was .*, and is"
    ):
        half_predicted(inputs, tmp_path, monkeypatch, model=other, stop=99)
    with pytest.raises(StoreError, match=r"dtype was \|u1, and is <i4 now; .*overwrite=True"):
        half_predicted(inputs, tmp_path, monkeypatch, dtype="int32", stop=99)
    with pytest.warns(DataWarning, match=r"was of another job: means_ was .* begun anew$"):
        n = half_predicted(inputs, tmp_path, monkeypatch, model=other, overwrite=True, stop=99)
    assert n == N_CHUNKS
    labels = other.predict(str(inputs / "rows.zarr")).compute()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr")[:], labels)
    assert [one.name for one in tmp_path.iterdir()] == ["out.zarr"]


def test_data_that_have_changed_are_another_job(inputs, tmp_path, monkeypatch):
    zarr.create_array(tmp_path / "x.zarr", data=zarr.open_array(inputs / "rows.zarr")[:], chunks=(HEIGHT, 3))
    begun(inputs, tmp_path, monkeypatch, data=tmp_path / "x.zarr")
    zarr.open_array(tmp_path / "x.zarr")[...] += 1.0
    with pytest.raises(StoreError, match=r"another job, .*x\.zarr has changed since"):
        half_predicted(inputs, tmp_path, monkeypatch, data=tmp_path / "x.zarr", stop=99)


def test_chunks_that_come_back_are_written_and_no_others(inputs, tmp_path, monkeypatch):
    zarr.create_array(tmp_path / "x.zarr", data=zarr.open_array(inputs / "rows.zarr")[:], chunks=(HEIGHT, 3))
    missing = tmp_path / "x.zarr" / "c" / "21" / "0"
    missing.rename(tmp_path / "away")
    with pytest.raises(MissingDataError, match=r"c/21/0"), pytest.warns(DataWarning, match="is not whole"):
        half_predicted(inputs, tmp_path, monkeypatch, data=tmp_path / "x.zarr", stop=99)
    with pytest.raises(MissingDataError, match=r"c/21/0"), pytest.warns(DataWarning, match="is not whole"):
        half_predicted(inputs, tmp_path, monkeypatch, data=tmp_path / "x.zarr", stop=99)
    (tmp_path / "away").rename(missing)
    assert half_predicted(inputs, tmp_path, monkeypatch, data=tmp_path / "x.zarr", stop=99) == 2
    labels = dem.load(inputs / "model.zarr").predict(str(inputs / "rows.zarr")).compute()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr")[:], labels)


@pytest.mark.slow
def test_pieces_of_result_chunks_are_put_together_once(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(dem.data.dask, "READ_BYTES", 1)
    rows = zarr.open_array(inputs / "rows.zarr")[:]
    lazy = da.from_array(rows, chunks=((130, 270) * N_CHUNKS, 3))
    begun(inputs, tmp_path, monkeypatch, data=lazy)
    assemble = dem.data.zarr_writer._assemble
    with monkeypatch.context() as patched:

        def and_then(*arguments):
            assemble(*arguments)
            assert len(list(Path(arguments[0], "fragments").iterdir())) >= 2 * N_CHUNKS
            raise KeyboardInterrupt

        patched.setattr(dem.data.zarr_writer, "_assemble", and_then)
        with pytest.raises(KeyboardInterrupt), pytest.warns(DataWarning, match="19,200 of 19,200 rows"):
            half_predicted(inputs, tmp_path, monkeypatch, data=lazy, stop=999)
    remove = dem.data.zarr_writer.remove
    with monkeypatch.context() as patched:

        def and_end(path):
            remove(path)
            raise KeyboardInterrupt

        patched.setattr(dem.data.zarr_writer, "remove", and_end)
        with pytest.raises(KeyboardInterrupt), pytest.warns(DataWarning, match="19,200 of 19,200 rows"):
            half_predicted(inputs, tmp_path, monkeypatch, data=lazy, stop=0)
    assert half_predicted(inputs, tmp_path, monkeypatch, data=lazy, stop=0) == 0
    model = dem.load(inputs / "model.zarr")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr")[:], model.predict(rows))
    assert sorted(one.name for one in (tmp_path / "out.zarr").iterdir()) == ["c", "zarr.json"]


def test_chunks_that_cannot_be_read_are_tried_again(inputs, tmp_path, monkeypatch):
    zarr.create_array(tmp_path / "x.zarr", data=zarr.open_array(inputs / "rows.zarr")[:], chunks=(HEIGHT, 3))
    chunk = tmp_path / "x.zarr" / "c" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(b"damaged")
    more = {"data": tmp_path / "x.zarr", "on_bad_chunk": "skip"}
    begun(inputs, tmp_path, monkeypatch, **more)
    chunk.write_bytes(whole)
    assert half_predicted(inputs, tmp_path, monkeypatch, stop=99, **more) < 40
    labels = dem.load(inputs / "model.zarr").predict(str(inputs / "rows.zarr")).compute()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr")[:], labels)


def test_an_output_of_a_moment_notes_nothing_and_reads_nothing_more(inputs, tmp_path, monkeypatch):
    read, written = [], []
    monkeypatch.setattr(Place, "write", lambda *_: written.append(1))
    get = dem.data.zarr.ZarrTable.read
    monkeypatch.setattr(dem.data.zarr.ZarrTable, "read", lambda *a, **k: (read.append(1), get(*a, **k))[1])
    monkeypatch.setattr(dem.data.zarr, "READ_BYTES", 1)
    monkeypatch.setattr(dem.data.unfinished, "AFTER", 60.0)
    dem.load(inputs / "model.zarr").predict_to(str(inputs / "rows.zarr"), str(tmp_path / "out.zarr"))
    assert (len(read), written) == (N_CHUNKS, [])


def test_what_is_left_by_a_kill_after_all_was_done_goes_away(inputs, tmp_path, monkeypatch):
    begun(inputs, tmp_path, monkeypatch)
    (draft,) = tmp_path.glob(".*.part")
    draft.rename(tmp_path / "out.zarr")
    with pytest.raises(StoreError, match="exists already"):
        half_predicted(inputs, tmp_path, monkeypatch)
    assert [one.name for one in tmp_path.iterdir()] == ["out.zarr"]


def test_what_is_noted_is_on_the_disk(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append(str(Path(f"/proc/self/fd/{file}").readlink())), fsync(file))
    )
    draft = Directory(tmp_path / "out.zarr")
    chunks = Path(draft.path, "c")
    chunks.mkdir()
    (chunks / "0").write_text("whole")
    (chunks / "0.abc.partial").write_text("not")
    draft.sync()
    assert sorted(synced) == [draft.path, str(chunks), str(chunks / "0")]
    synced.clear()
    draft.sync()
    assert synced == []
    (chunks / "0.abc.partial").rename(chunks / "1")
    (chunks / "1.def.partial").write_text("killed")
    draft.sync()
    assert sorted(synced) == [str(chunks), str(chunks / "1")]
    draft.publish(overwrite=False)
    draft.close()
    assert sorted(one.name for one in (tmp_path / "out.zarr" / "c").iterdir()) == ["0", "1"]


def test_what_tells_how_far_an_output_is_may_be_damaged(inputs, tmp_path, monkeypatch):
    begun(inputs, tmp_path, monkeypatch)
    (tmp_path / ".out.zarr.progress.npz").write_bytes(b"nothing")
    with pytest.warns(DataWarning, match=r"damaged .*; .*out\.zarr is begun anew"):
        assert half_predicted(inputs, tmp_path, monkeypatch, stop=99) == N_CHUNKS
    assert [one.name for one in tmp_path.iterdir()] == ["out.zarr"]


def test_a_draft_elsewhere_is_not_followed(inputs, tmp_path, monkeypatch):
    begun(inputs, tmp_path, monkeypatch)
    place = Place(str(tmp_path / "out.zarr"))
    progress = place.read()
    vars(progress)["draft"] = "../../somewhere.part"
    place.write(progress)
    with pytest.raises(StoreError, match="it holds something else"):
        place.read()


def test_seeds_that_were_drawn_are_kept(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(dem.data.unfinished, "AFTER", 0.0)
    monkeypatch.setattr(dem.engine.local, "TICK", 1e-3)
    call, seen, stopped = dem.estimators.streams.Draw.__call__, [], []
    model, out = dem.load(inputs / "model.zarr"), str(tmp_path / "out.zarr")

    def counted(self, chunk):
        seen.append(self.seed)
        time.sleep(0.005)
        if not stopped and len(seen) >= 20 and Place(out).exists():
            stopped.append(True)
            raise KeyboardInterrupt
        return call(self, chunk)

    monkeypatch.setattr(dem.estimators.streams.Draw, "__call__", counted)
    with pytest.raises(KeyboardInterrupt), pytest.warns(DataWarning, match="is not whole"):
        model.sample_to(4000, out, chunk_rows=100)
    model.sample_to(4000, out, chunk_rows=100)
    assert len(set(seen)) == 1
    assert len(seen) < 60
    model.sample_to(4000, str(tmp_path / "whole.zarr"), chunk_rows=100, random_state=seen[0])
    assert files(out) == files(tmp_path / "whole.zarr")


@pytest.mark.slow
def test_on_s3(s3_server, inputs, tmp_path, monkeypatch):
    s3_server.use(monkeypatch)
    out = f"{s3.new_bucket()}/out.zarr"
    begun(inputs, tmp_path, monkeypatch, out=out)
    assert 0 < half_predicted(inputs, tmp_path, monkeypatch, out=out, stop=99) < 40
    labels = dem.load(inputs / "model.zarr").predict(str(inputs / "rows.zarr")).compute()
    np.testing.assert_array_equal(zarr.open_array(out)[:], labels)
    assert {name.split("/")[0] for name in s3.objects(out.rpartition("/")[0])} == {"out.zarr"}


@pytest.mark.reliability(
    fault="writing results on a cluster ends: a task fails, the last worker is lost, the scheduler goes away",
    sees="the error, and: … is not whole: … rows are written, and kept in …",
    lost="the batches under way; the same bits",
    recovery="the same line, which goes on where chunks are missing",
)
@pytest.mark.slow
def test_on_a_cluster(inputs, tmp_path, monkeypatch):
    with cluster_of_threads(1):
        with pytest.raises(RuntimeError), pytest.warns(DataWarning, match="is not whole"):
            half_predicted(inputs, tmp_path, monkeypatch, error=RuntimeError, pause=0.05)
        assert 0 < half_predicted(inputs, tmp_path, monkeypatch, stop=99) < 40
    labels = dem.load(inputs / "model.zarr").predict(str(inputs / "rows.zarr")).compute()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr")[:], labels)
