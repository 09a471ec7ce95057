"""Rows that miss many different sets of features: how many to expect, what they cost, what is said of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cases import chunk_of, gaussian_rows
from gaps import with_gaps

import dem
from dem.errors import DataWarning
from dem.estimators.gaps import relative_cost
from dem.families.gaps import patterns_among

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("n", [40, 300, 1200])
def test_the_patterns_to_expect_among_rows(n):
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((2000, 8)) < 0.3, np.nan, 1.0)

    def distinct(some):
        missing = np.isnan(some)
        return len(np.unique(missing[missing.any(axis=1)], axis=0))

    drawn = [distinct(rows[rng.choice(2000, n, replace=False)]) for _ in range(50)]
    assert patterns_among(rows, n) == pytest.approx(np.mean(drawn), rel=0.1)
    # ... and among more than were sampled
    assert patterns_among(rows[:400], n) == pytest.approx(np.mean(drawn), rel=0.25)


def test_many_patterns_are_told(monkeypatch):
    monkeypatch.setattr("dem.families.gaussian.matrix.most_kept", lambda *_: 3)
    monkeypatch.setattr("dem.families.gaussian.marginal.most_kept", lambda *_: 3)
    gaps = with_gaps(gaussian_rows(600))
    options = {"missing": "marginalise", "random_state": 0, "max_iter": 5}
    with pytest.warns(DataWarning, match="7 sets of features are missing in sampled rows of NumPy array") as caught:
        few = dem.GaussianMixture(3, **options).fit(gaps)
    assert any(re.search(r"about \d+ times as long", str(one.message)) for one in caught)
    monkeypatch.undo()
    np.testing.assert_array_equal(few.means_, dem.GaussianMixture(3, **options).fit(gaps).means_)
    assert few.n_patterns_ == 7  # of 8 there can be, with that of nothing observed and without the complete one


def test_what_many_patterns_cost(monkeypatch):
    gaps = with_gaps(np.zeros((5000, 8)), 0.3)
    clock = [0.0]

    class Family:
        """An E-step that takes a microsecond for each row and a millisecond for each pattern, by the clock here."""

        def e_step(self, parameters, chunk):
            missing = np.isnan(chunk.rows)
            n_patterns = len(np.unique(missing[missing.any(axis=1)], axis=0))
            clock[0] += 1e-6 * len(chunk.rows) + 1e-3 * n_patterns

    monkeypatch.setattr("dem.estimators.gaps.time.thread_time", lambda: clock[0])
    family, start = Family(), chunk_of(gaps)  # any record will do for parameters
    for n in (500, 5000):
        found = relative_cost(family, start, gaps, np.zeros((5000, 8)), n)
        before = clock[0]
        family.e_step(start, chunk_of(gaps[:n]))
        assert found == pytest.approx((clock[0] - before) / (1e-6 * n), rel=0.1)
