"""Data on a real S3 server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import s3
import zarr
from stores import After, mixture, store

import dem
from dem.errors import DataError


def test_fit_reads_the_same_from_s3(bucket, tmp_path):
    rows = np.random.default_rng(0).normal(size=(200, 2))
    for path in (tmp_path / "data.zarr", f"{bucket}/data.zarr"):
        zarr.create_array(path if isinstance(path, str) else str(path), data=rows, chunks=(50, 2))
    assert len(s3.objects(f"{bucket}/data.zarr")) == 5
    local = dem.GaussianMixture(2, random_state=0).fit(str(tmp_path / "data.zarr"))
    remote = dem.GaussianMixture(2, random_state=0).fit(f"{bucket}/data.zarr")
    np.testing.assert_array_equal(remote.means_, local.means_)


def test_a_bucket_that_does_not_exist_is_named(bucket):
    with pytest.raises(DataError, match=r"at s3://no-such-bucket/data.zarr: there is no bucket 'no-such-bucket'$"):
        dem.GaussianMixture(2).fit("s3://no-such-bucket/data.zarr")
    with pytest.raises(DataError, match=rf"^there is no zarr array or group at {bucket}/nothing.zarr$"):
        dem.GaussianMixture(2).fit(f"{bucket}/nothing.zarr")


@pytest.mark.reliability(
    fault="an S3 store cannot be reached, or goes away during a fit",
    sees="one line that names the array or its rows, and the store's answer",
    lost="what was not yet fitted; no traceback of the packages between is shown",
    recovery="the attempts (8 within a minute), then the same line; with a checkpoint it goes on",
)
@pytest.mark.parametrize(
    ("cut_at", "arguments"),
    [
        pytest.param(1, (), marks=pytest.mark.slow),
        (27, ()),
        pytest.param(15, ("--workers", "1"), marks=pytest.mark.slow),
    ],
    ids=["at once", "amid the fit", "amid the fit on a worker"],
)
def test_a_store_that_goes_away_is_one_line(bucket, s3_server, cut_at, arguments):
    url = f"{bucket}/data.zarr"
    zarr.create_array(url, data=np.random.default_rng(0).normal(size=(200, 2)), chunks=(20, 2))
    gate = s3.Gate(s3_server, b"/data.zarr/", cut_at)
    fit = ["fit", url, "-k", "2", "--tol", "0", "--max-iter", "50", "--quiet", *arguments]
    result = subprocess.run(
        [sys.executable, "-m", "dem", *fit],
        capture_output=True,
        text=True,
        env={**os.environ, **gate.server.environment(), "DASK_DEM__READ_ATTEMPTS": "2"},
        check=False,
    )
    gate.cut()
    assert gate.seen >= cut_at
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    line = result.stderr.removesuffix("\n")
    assert re.match(rf"dem: .*{url}.* cannot be (opened|read) .*", line), line


@pytest.mark.slow
@pytest.mark.reliability(
    fault="the keys of an S3 store are wrong, or expire during a fit",
    sees="s3://… cannot be opened (PermissionError: …), or chunk c/1/0 of s3://… (rows 20 to 39) cannot be read "
    "(PermissionError: …); it is not tried again",
    lost="nothing, or the iteration",
    recovery="with the right keys, the same line; with a checkpoint it goes on",
)
def test_wrong_keys(bucket, s3_server, monkeypatch):
    url = f"{bucket}/data.zarr"
    zarr.create_array(url, data=np.random.default_rng(0).normal(size=(200, 2)), chunks=(20, 2))
    options = {"max_iter": 50, "tol": 0.0, "random_state": 0}
    with s3.Faulty(s3_server, "/c/", lambda number: 403 if number >= 80 else None) as faulty:
        faulty.server.use(monkeypatch)
        with pytest.raises(DataError, match=rf"^chunk c/\d/0 of {url} \(rows .*\) cannot be read \(PermissionError: "):
            dem.GaussianMixture(2, **options).fit(url)
    with s3.Faulty(s3_server, "/data.zarr", lambda _: 403) as faulty:
        faulty.server.use(monkeypatch)
        with pytest.raises(DataError, match=rf"^{url} cannot be opened \(PermissionError: .+\)$"):
            dem.GaussianMixture(2, **options).fit(url)


@pytest.mark.slow
def test_wrong_keys_on_ceph(ceph_server, monkeypatch):
    ceph_server.use(monkeypatch)
    url = f"{s3.new_bucket()}/data.zarr"
    zarr.create_array(url, data=np.random.default_rng(0).normal(size=(200, 2)), chunks=(20, 2))
    replace(ceph_server, keys=("dem-key", "no-secret")).use(monkeypatch)
    with pytest.raises(DataError, match=rf"^{url} cannot be opened \(PermissionError: .+\)$"):
        dem.GaussianMixture(2, random_state=0).fit(url)


@pytest.mark.reliability(
    fault="the bucket of a zarr store vanishes during a fit",
    sees="s3://… has vanished: its zarr.json is no longer found …",
    lost="the iteration",
    recovery="once the store is repaired, the same line; with a checkpoint it goes on",
)
@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("how", ["raise", "skip"])
def test_a_bucket_that_vanishes(bucket, how):
    url = f"{bucket}/x.zarr"
    store(url)

    def vanish():
        filesystem = s3.filesystem()
        filesystem.rm(url, recursive=True)
        filesystem.call_s3("delete_bucket", Bucket=bucket.removeprefix("s3://"))

    gone = After(2, vanish)
    with pytest.raises(DataError, match=rf"^{url} has vanished: its zarr.json is no longer found"):
        mixture(callbacks=[gone]).fit(url, on_bad_chunk=how)
    assert gone.done
