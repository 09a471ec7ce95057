"""`partial_fit` of rows with errors, limits and labels."""

from __future__ import annotations

import numpy as np
import pytest
from cases import gaussian_rows

import dem
from dem.data.base import Chunk
from dem.data.joined import followed
from dem.errors import DataError


def stream(n_rows=4000):
    """Two components, errors of their rows, and the rows with these."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, n_rows)
    rows = rng.normal(size=(n_rows, 2)) + np.array([5.0, 0.0]) * labels[:, np.newaxis]
    noise = rng.uniform(0.5, 2.0, (n_rows, 2))
    return rows + np.sqrt(noise) * rng.normal(size=rows.shape), noise, labels


@pytest.mark.slow
@pytest.mark.parametrize("size", [20, 100])
def test_errors_are_taken_out(tmp_path, size):
    rows, noise, _ = stream()
    ours, saved, blind = (dem.GaussianMixture(2, random_state=0) for _ in range(3))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        ours.partial_fit(rows[part], noise_covariance=noise[part])
        saved.partial_fit(rows[part], noise_covariance=noise[part])
        blind.partial_fit(rows[part])
        if start == 0:
            saved.save(str(tmp_path / "held.zarr"))
            saved = dem.load(str(tmp_path / "held.zarr"))
    np.testing.assert_array_equal(ours.means_, saved.means_)
    assert np.diagonal(ours.covariances_, axis1=1, axis2=2).mean() < 1.25
    assert np.diagonal(blind.covariances_, axis1=1, axis2=2).mean() > 1.9
    assert ours.score(rows, noise_covariance=noise) > blind.score(rows, noise_covariance=noise)


def test_limits_hide_no_component():
    rows, _, _ = stream()
    hidden = np.where(rows < -1.0, np.nan, rows)
    ours = dem.GaussianMixture(2, covariance_type="diag", random_state=0)
    for start in range(0, len(rows), 25):
        ours.partial_fit(hidden[start : start + 25], upper=-1.0)
    expected = dem.GaussianMixture(2, covariance_type="diag", random_state=0).fit(hidden, upper=-1.0)
    assert ours.score(hidden, upper=-1.0) > expected.score(hidden, upper=-1.0) - 0.03
    with pytest.raises(DataError, match=r"lower is 1\.0 and upper is -1\.0 in row 0"):
        ours.partial_fit(hidden, lower=1.0, upper=-1.0)


def test_labels_of_the_first_rows_count():
    rows, _, labels = stream(300)
    ours = dem.GaussianMixture(2, random_state=0)
    for start in range(0, 300, 10):
        ours.partial_fit(rows[start : start + 10], labels=1 - labels[start : start + 10])
    assert ours.means_[0, 0] > ours.means_[1, 0] + 3.0


def test_what_one_chunk_does_not_tell():
    first = Chunk(np.zeros((2, 2)), range(2), labels=np.array([1, -1]), noise=np.array([[1.0, 2.0], [3.0, 4.0]]))
    sets, matrices = np.array([[False, True, True]]), np.array([[[1.0, 0.5], [0.5, 1.0]]])
    second = Chunk(np.ones((1, 2)), range(1), weights=np.array([2.0]), labels=sets, noise=matrices)
    both = followed(first, second)
    np.testing.assert_array_equal(both.weights, [1.0, 1.0, 2.0])
    np.testing.assert_array_equal(both.labels, [[False, True, False], [True, True, True], [False, True, True]])
    np.testing.assert_array_equal(both.noise, [np.diag([1.0, 2.0]), np.diag([3.0, 4.0]), matrices[0]])
    plain = followed(Chunk(np.zeros((1, 2)), range(1)), first)
    np.testing.assert_array_equal(plain.noise, [[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(plain.labels, [-1, 1, -1])


@pytest.mark.parametrize("n_first", [1, 10, 400])
@pytest.mark.parametrize("weight", [0.0, 1e-12])
def test_a_light_block_teaches_nothing(n_first, weight):
    # Whether the first rows are held still (1, 10) or not (400).
    rows = gaussian_rows(500)
    ours, theirs = (dem.GaussianMixture(2, random_state=0).partial_fit(rows[:n_first]) for _ in range(2))
    ours.partial_fit(rows[:20], sample_weight=np.full(20, weight / 20))
    for one in (ours, theirs):
        one.partial_fit(rows[n_first : n_first + 90])
    np.testing.assert_allclose(np.sort(ours.means_, axis=0), np.sort(theirs.means_, axis=0), rtol=0.0, atol=1e-9)
    assert ours.n_samples_seen_ == pytest.approx(n_first + 90, abs=1e-9)
