"""Law: how the rows are cut into chunks and batches does not matter (to 1e-10 relative)."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import assert_close
from cases import CASES, KERNELS, Fits
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import CutRows

FITTED = ("n_iter_", "lower_bound_", "lower_bounds_")


@pytest.fixture(scope="module")
def whole():
    """Each case fitted to its data in one chunk."""
    return Fits(lambda case: case.estimator(max_iter=8, tol=1e-5).fit(CutRows(case.data(), [])))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
@settings(max_examples=10)
@given(
    edges=st.lists(st.integers(1, 2999), unique=True, max_size=12).map(sorted),
    chunks_per_batch=st.integers(1, 5),
)
def test_cuts_do_not_matter(case, whole, edges, chunks_per_batch):
    rows = CutRows(case.data(), edges, chunks_per_batch)
    fitted = case.estimator(max_iter=8, tol=1e-5).fit(rows)
    assert_close(fitted, whole[case.name], (*case.parameters, *FITTED))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_one_row_per_chunk(case, whole):
    rows = CutRows(case.data(), list(range(1, 3000)), 100)
    fitted = case.estimator(max_iter=8, tol=1e-5).fit(rows)
    assert_close(fitted, whole[case.name], (*case.parameters, *FITTED))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_k_means_parallel_does_not_see_the_chunks(case):
    options = {"init_params": "k-means||", "tol": 1e-4}
    whole = case.estimator(**options).fit(CutRows(case.data(), []))
    cut = case.estimator(**options).fit(CutRows(case.data(), [7, 1000, 1001, 2500]))
    assert_close(cut, whole, case.parameters)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_read_per_iteration(case):
    rows = CutRows(case.data(), [500, 1000, 2000])
    fitted = case.estimator(tol=1e-4).fit(rows)
    assert rows.reads == fitted.n_iter_ + 1  # and one for the sample


@pytest.mark.parametrize("case", CASES, ids=str)
def test_several_starts_ride_on_one_read(case):
    rows = CutRows(case.data(), [500, 1000, 2000])
    fitted = case.estimator(tol=1e-4, n_init=4).fit(rows)
    longest = max(record["iteration"] for record in fitted.history_)
    assert rows.reads == longest + 1


def test_sample_is_uniform_and_blind_to_chunks():
    table = np.arange(5000.0)[:, np.newaxis]
    from dem.engine import LocalEngine
    from dem.initialise import row_sample

    seed = np.random.SeedSequence(3)
    first = row_sample(CutRows(table, []), LocalEngine(), 1000, seed)
    second = row_sample(CutRows(table, [1, 77, 4000], 2), LocalEngine(), 1000, seed)
    np.testing.assert_array_equal(first.rows, second.rows)
    assert not first.complete
    assert len(np.unique(first.rows)) == 1000
    # The mean of 1000 of 0…4999 without replacement has a standard error of 41.
    assert abs(first.rows.mean() - 2499.5) < 5 * 41
