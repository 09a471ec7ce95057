"""Reads that fail in passing are tried again, counted and told; others are not."""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
import threading
import time
from contextlib import suppress

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import s3
import zarr
from click.testing import CliRunner
from faulty_stores import FailingStore
from stores import TABLE, mixture, store
from zarr.storage import LocalStore

import dem
import dem.data.parquet
import dem.data.retries
from dem.cli import dem as command
from dem.data.retries import Attempts, Retries, counted, is_passing, retried, retried_items
from dem.errors import DataError, OptionError
from dem.events import ReadsRetried

pytestmark = pytest.mark.filterwarnings("ignore:.*did not converge")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(dem.data.retries, "_FIRST_PAUSE", 0.001)


def failing(path, **how):
    store(path)
    return zarr.open_array(FailingStore(LocalStore(path), **how), mode="r")


@pytest.mark.parametrize("algorithm", ["auto", "incremental"])
def test_passing_errors_cost_nothing_but_time(tmp_path, algorithm):
    """The first two reads of each of the 12 chunks fail: the same bits, and each failure is counted."""
    events = []
    array = failing(tmp_path / "x.zarr", times=2)
    gm = mixture(algorithm=algorithm, callbacks=[events.append]).fit(array)
    np.testing.assert_array_equal(gm.means_, mixture(algorithm=algorithm).fit(tmp_path / "x.zarr").means_)
    assert gm.n_retries_ == 24
    told = [event for event in events if isinstance(event, ReadsRetried)]
    assert sum(event.n for event in told) == 24
    assert told[0].why == "OSError: [Errno 5] injected"
    gm.save(tmp_path / "model.zarr")
    assert dem.load(tmp_path / "model.zarr").n_retries_ == 24


@pytest.mark.slow
def test_passing_errors_on_a_cluster(tmp_path, client):
    gm = mixture().fit(failing(tmp_path / "x.zarr", times=2))
    assert gm.n_retries_ == 24
    np.testing.assert_array_equal(gm.means_, mixture().fit(tmp_path / "x.zarr").means_)


def test_select_counts_too(tmp_path):
    chosen = dem.select(failing(tmp_path / "x.zarr"), n_components=(2, 3), max_iter=3, random_state=0)
    assert chosen.best_estimator_.n_retries_ == 12


def test_columns_are_tried_again(tmp_path):
    weights = np.linspace(1.0, 2.0, len(TABLE))
    zarr.create_array(tmp_path / "w.zarr", data=weights, chunks=(10,))
    flaky = zarr.open_array(FailingStore(LocalStore(tmp_path / "w.zarr")), mode="r")
    gm = mixture().fit(TABLE, sample_weight=flaky)
    assert gm.n_retries_ == 12
    np.testing.assert_array_equal(gm.means_, mixture().fit(TABLE, sample_weight=weights).means_)


def test_parquet_is_tried_again(tmp_path, monkeypatch):
    """Each row group is read in three pieces, and fails in the middle the first time."""
    pyarrow.parquet.write_table(
        pa.table({"u": TABLE[:, 0], "v": TABLE[:, 1]}), tmp_path / "x.parquet", row_group_size=60
    )
    monkeypatch.setattr(dem.data.parquet, "READ_ROWS", 20)
    expected = mixture().fit(tmp_path / "x.parquet")
    whole, lock, seen = dem.data.parquet.RowGroups._pieces, threading.Lock(), set()

    def breaking(self):
        for number, piece in enumerate(whole(self)):
            with lock:
                first = number == 1 and self.start not in seen
                seen.update({self.start} if first else ())
            if first:
                raise OSError(errno.ETIMEDOUT, "injected")
            yield piece

    monkeypatch.setattr(dem.data.parquet.RowGroups, "_pieces", breaking)
    gm = mixture().fit(tmp_path / "x.parquet")
    assert gm.n_retries_ == len(seen) == 2
    np.testing.assert_array_equal(gm.means_, expected.means_)


@pytest.mark.reliability(
    fault="reads of a zarr store fail again and again (EIO, a link that is down)",
    sees="chunk c/3/0 of x.zarr (rows 30 to 39) cannot be read (OSError: [Errno 5] …, tried 8 times); …",
    lost="one read, or the iteration",
    recovery="the attempts (8 within a minute); once the store is repaired, the same line goes on with a checkpoint",
)
def test_the_last_failure_is_one_line(tmp_path):
    array = failing(tmp_path / "x.zarr", times=10**9, keys=("c/3/0",))
    with pytest.raises(DataError) as caught:
        mixture().fit(array)
    assert re.fullmatch(
        r"chunk c/3/0 of x\.zarr \(rows 30 to 39\) cannot be read \(OSError: \[Errno 5\] injected, tried 8 times\); .*",
        str(caught.value),
    )
    # Once by each thread that reads on, and once to find the chunk.
    with dask.config.set({"dem.read-attempts": 1}):
        array = failing(tmp_path / "y.zarr", times=1, keys=("c/3/0",))
        with pytest.raises(DataError, match="injected"):
            mixture().fit(array)


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOSPC, errno.EINVAL])
def test_other_errors_are_not_tried_again(tmp_path, error):
    array = failing(tmp_path / "x.zarr", times=1, error=error, keys=("c/3/0",))
    with pytest.raises(DataError, match="injected"):
        mixture().fit(array)


class Answer(Exception):  # noqa: N818 - as packages name theirs
    def __init__(self, status):
        self.status = status


class ClientError(Exception):
    def __init__(self, status):
        self.response = {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize("kind", [Answer, ClientError])
def test_the_answer_of_a_service_decides(kind):
    """What a package makes of it (EIO of any code that s3fs does not know) does not."""
    for status, passing in {
        400: False,
        403: False,
        404: False,
        408: True,
        429: True,
        500: True,
        501: False,
        503: True,
    }.items():
        error = OSError(errno.EIO, "some code")
        error.__cause__ = kind(status)
        assert is_passing(error) is passing, status
    assert not is_passing(FileNotFoundError())
    assert not is_passing(PermissionError(errno.EACCES, "no"))
    assert not is_passing(ValueError("not a blosc buffer"))
    assert is_passing(ConnectionResetError())
    assert is_passing(TimeoutError())


def test_failures_of_connections_by_the_classes_of_packages():
    import aiohttp
    import botocore.exceptions

    assert is_passing(botocore.exceptions.EndpointConnectionError(endpoint_url="x"))
    assert is_passing(botocore.exceptions.ReadTimeoutError(endpoint_url="x"))
    assert is_passing(aiohttp.ClientPayloadError())
    assert is_passing(aiohttp.ServerDisconnectedError())
    assert not is_passing(botocore.exceptions.NoCredentialsError())


def test_pauses_grow_and_differ_and_end(monkeypatch):
    monkeypatch.setattr(dem.data.retries, "_FIRST_PAUSE", 0.2)

    def pauses(attempts, seconds):
        with counted(Retries(attempts, seconds)) as retries:
            one, found = Attempts(), []
            with suppress(TimeoutError):
                while True:
                    found.append(one.pause_after(TimeoutError()))
        assert retries.n == len(found)
        return found

    one = pauses(10, 1000.0)
    assert one != pauses(10, 1000.0)
    for pause, most in zip(one, (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0), strict=True):
        assert most / 2 <= pause <= most
    assert pauses(10, 0.05) == []


@pytest.mark.slow
def test_nobody_waits_for_a_store_after_an_interrupt(tmp_path, monkeypatch):
    """Ctrl-C amid a pause of ten seconds ends the fit at once, whether or not threads do the reading."""
    monkeypatch.setattr(dem.data.retries, "_FIRST_PAUSE", 20.0)
    for keys, n_rows in ((("c/0/0",), 10), (("c/3/0", "c/4/0"), 120)):
        path = tmp_path / f"{n_rows}.zarr"
        store(path, table=TABLE[:n_rows])
        array = zarr.open_array(FailingStore(LocalStore(path), times=10**9, keys=keys), mode="r")
        began = time.monotonic()
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # processes of pytest-xdist ignore it
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                dem.GaussianMixture(2, random_state=0).fit(array)
        finally:
            timer.cancel()
            signal.signal(signal.SIGINT, before)
        assert time.monotonic() - began < 4.0


def test_settings_are_judged():
    for setting, value in (("dem.read-attempts", 0), ("dem.read-attempts", "many"), ("dem.read-retry-time", "long")):
        with dask.config.set({setting: value}), pytest.raises(OptionError, match=f"{setting} must be"):
            mixture().fit(TABLE)


def test_items_go_on_where_they_broke():
    answers = itertools.count()

    def items():
        yield from range(3)
        if next(answers) < 2:
            raise ConnectionResetError
        yield 3

    assert list(retried_items(items)) == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        retried(lambda: 1 / 0)


def a_third(number):
    return 503 if np.random.default_rng(number).random() < 1 / 3 else None


@pytest.mark.reliability(
    fault="S3 answers 503 to a third of all requests",
    sees="12 reads failed and were tried again (…): on the progress line, in the log, in `n_retries_`",
    lost="nothing; the same bits",
    recovery="pauses of 0.2 to 10 s",
)
def test_s3_answers_503_to_a_third_of_requests(bucket, s3_server, monkeypatch):
    monkeypatch.setattr(dem.data.retries, "_LONGEST_PAUSE", 0.02)
    with dask.config.set({"dem.read-attempts": 25}):  # here no other retries lie below
        check_faults(bucket, s3_server, monkeypatch, a_third)


@pytest.mark.slow
@pytest.mark.reliability(
    fault="S3 closes the connection in the middle of an object",
    sees="2 reads failed and were tried again (…), where the package for S3 has not done so by itself",
    lost="nothing; the same bits",
    recovery="pauses of 0.2 to 10 s",
)
def test_s3_cuts_the_connection_in_mid_object(bucket, s3_server, monkeypatch):
    check_faults(bucket, s3_server, monkeypatch, lambda number: "cut" if number in (15, 40) else None, counted=False)


@pytest.mark.slow
@pytest.mark.reliability(
    fault="S3 answers slowly",
    sees="nothing, but for the time",
    lost="nothing; the same bits",
    recovery="none: the fit goes on",
)
def test_s3_answers_slowly(bucket, s3_server, monkeypatch):
    check_faults(bucket, s3_server, monkeypatch, lambda number: 0.2 if number % 20 == 0 else None, counted=False)


def check_faults(bucket, s3_server, monkeypatch, fault, *, counted=True):
    url = f"{bucket}/x.zarr"
    store(url)
    with s3.Faulty(s3_server, "/c/", fault) as faulty:
        faulty.server.use(monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        gm = mixture().set_params(max_iter=2).fit(url)
    assert faulty.n_faults >= 2
    assert gm.n_retries_ >= counted
    np.testing.assert_array_equal(gm.means_, mixture().set_params(max_iter=2).fit(TABLE).means_)


def test_the_shell_tells_of_it(bucket, s3_server, monkeypatch):
    url = f"{bucket}/x.zarr"
    store(url)
    with s3.Faulty(s3_server, "/c/", lambda number: 503 if number in (3, 20) else None) as faulty:
        faulty.server.use(monkeypatch)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        result = CliRunner().invoke(command, ["fit", url, "-k", "3", "--max-iter", "3", "--seed", "0", "--json"])
    assert result.exit_code == 0, result.output
    assert re.search(r"2 reads failed and were tried again \(OSError: ", result.stderr)
    assert '"n_retries": 2' in result.stdout
