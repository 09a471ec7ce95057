"""Data on a real S3 server."""

from __future__ import annotations

import numpy as np
import s3
import zarr

import dem


def test_fit_reads_the_same_from_s3(bucket, tmp_path):
    rows = np.random.default_rng(0).normal(size=(200, 2))
    for path in (tmp_path / "data.zarr", f"{bucket}/data.zarr"):
        zarr.create_array(path if isinstance(path, str) else str(path), data=rows, chunks=(50, 2))
    assert len(s3.objects(f"{bucket}/data.zarr")) == 5
    local = dem.GaussianMixture(2, random_state=0).fit(str(tmp_path / "data.zarr"))
    remote = dem.GaussianMixture(2, random_state=0).fit(f"{bucket}/data.zarr")
    np.testing.assert_array_equal(remote.means_, local.means_)
