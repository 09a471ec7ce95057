"""A billion rows and more: nothing on the driver grows with them."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from scipy import stats

import dem
from dem.initialise.kmeans_parallel import uniform_hash
from dem.initialise.sample import draw_positions

TRILLION = 10**12


@pytest.mark.parametrize("n_rows", [999_999_999, 10**9, 2**31 + 5, TRILLION])
def test_a_sample_of_any_number_of_rows(n_rows):
    drawn = draw_positions(n_rows, 100_000, np.random.default_rng(0))
    assert drawn.dtype == np.int64
    assert len(drawn) == len(np.unique(drawn)) == 100_000
    assert np.all(np.diff(drawn) > 0)
    assert 0 <= drawn[0] < drawn[-1] < n_rows
    # Kolmogorov and Smirnov: positions are uniform.
    assert stats.kstest(drawn / n_rows, "uniform").pvalue > 0.01


def test_samples_of_fewer_rows_are_what_they_were():
    drawn = draw_positions(3_000_000, 5, np.random.default_rng(0))
    assert drawn.tolist() == [175267, 813270, 1912755, 2503626, 2606635]


def test_every_row_is_as_likely_to_be_drawn(monkeypatch):
    monkeypatch.setattr("dem.initialise.sample.MOST_IN_STRATA", 10)
    rng = np.random.default_rng(1)
    counts = np.zeros(20)
    for _ in range(5000):
        counts[draw_positions(20, 6, rng)] += 1
    # Five thousand samples of 6 of 20: a row is in 1,500 of them, give or take.
    assert np.abs(counts - 1500.0).max() < 5.0 * np.sqrt(5000 * 0.3 * 0.7)


def test_hashes_of_late_positions_are_uniform():
    found = uniform_hash(np.arange(TRILLION - 100_000, TRILLION), 3)
    assert len(np.unique(found)) == 100_000
    assert stats.kstest(found, "uniform").pvalue > 0.01


def numbered(n_blocks, block_rows, dtype=np.int16):
    """Return a virtual array: all rows of a block are the number of the block, and take the memory of one."""

    def block(block_info=None):
        shape, number = block_info[None]["chunk-shape"], block_info[None]["chunk-location"][0]
        return np.broadcast_to(np.asarray(number, dtype), shape)

    return da.map_blocks(block, chunks=((block_rows,) * n_blocks, (1,)), dtype=dtype, meta=np.empty((0, 0), dtype))


# Chunks of 2 GB each, as dem has to take these for, may be too much beside other tests; they take no memory.
@pytest.mark.filterwarnings("ignore:this process needs up to")
@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data"])
def test_a_trillion_rows_start_from_scratch(init_params):
    """The sample is drawn from all chunks; an E-step of a trillion rows is left to a cluster."""
    rows = numbered(1000, TRILLION // 1000)
    options = {"sample_rows": 50_000, "init_params": init_params, "max_iter": 0, "random_state": 0}
    with dask.config.set({"dem.memory-check": "warn"}):
        model = dem.GaussianMixture(2, **options).fit(rows)
    assert model.n_samples_seen_ == TRILLION
    if init_params == "kmeans":  # the halves of 0 … 999, each block as likely as the others
        np.testing.assert_allclose(np.sort(model.means_.ravel()), [249.5, 749.5], atol=10.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_two_billion_rows_are_read():
    tile = np.tile(np.arange(250, dtype=np.uint8), 32_000)[:, np.newaxis]  # 8 million rows
    rows = da.concatenate([da.from_array(tile, chunks=-1)] * 250)
    model = dem.GaussianMixture(1, covariance_type="spherical", sample_rows=1000, max_iter=1, random_state=0)
    model.fit(rows)
    assert model.n_samples_seen_ == 2_000_000_000
    assert model.means_[0, 0] == pytest.approx(124.5, rel=1e-12)
    assert model.covariances_[0] == pytest.approx(250**2 / 12 - 1 / 12, rel=1e-6)
