"""Incremental EM needs fewer reads than batch EM, also where the rows are sorted."""

from __future__ import annotations

import numpy as np
import pytest
from cases import chunk_of
from sources import CountingBatch, CountingRows

import dem
from dem.events import IterationEnded


def overlapping_rows(n_rows=4000, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n_rows)
    return np.array([[0.0, 0.0], [3.0, 0.6], [0.2, 3.0]])[labels] + rng.normal(size=(n_rows, 2))


def log_likelihood_by_reads(algorithm, table, **options):
    """Return the reads and the log-likelihood per row after each iteration."""
    CountingBatch.read = 0
    found = []

    def watch(event):
        if isinstance(event, IterationEnded):
            reached = event.family.log_likelihood(event.parameters, chunk_of(table)).mean()
            found.append((CountingBatch.read / len(table), reached))

    given = {"means_init": [[-0.5, 0.0], [1.0, 0.0], [0.0, 1.0]], "precisions_init": [np.eye(2)] * 3}
    estimator = dem.GaussianMixture(3, algorithm=algorithm, tol=1e-8, max_iter=300, **given, **options)
    estimator.set_params(weights_init=np.full(3, 1 / 3), callbacks=[watch])
    estimator.fit(CountingRows(table, range(200, 4000, 200)))
    return np.array(found).T


def reads_until(reached, curve):
    return curve[0][np.argmax(curve[1] >= reached)]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_fewer_reads_than_batch_also_on_sorted_rows(order):
    table = overlapping_rows()
    if order == "sorted":
        table = table[np.argsort(table[:, 0])]
    batch = log_likelihood_by_reads("batch", table)
    one_by_one = log_likelihood_by_reads("incremental", table, max_in_flight=1)
    in_flight = log_likelihood_by_reads("incremental", table)
    limit = batch[1][-1]
    assert one_by_one[1][-1] == pytest.approx(limit, abs=1e-5)
    needed = [reads_until(limit - 1e-4, curve) for curve in (batch, one_by_one, in_flight)]
    assert needed[1] <= 0.6 * needed[0], needed
    assert needed[2] <= 0.7 * needed[0], needed
