"""Several starts: never worse than scikit-learn's, nor than each of them alone."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.mixture
from sources import CutRows

import dem
from dem.errors import FitError, OptionError
from dem.events import FitEnded

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
# Rounding, and nothing else.
CLOSE = 1e-6
N_INIT = 5
# Seeds at which the likeliest start was dropped while it crossed a plateau.
DROPPED = (32, 55, 68)


def problem(seed):
    """Return a few rows of overlapping Gaussians, and options that both libraries take."""
    rng = np.random.default_rng([7, seed])
    d, k = int(rng.integers(1, 4)), int(rng.integers(2, 6))
    n_rows = int(rng.integers(60, 300))
    means = rng.uniform(0.5, 3.0) * rng.normal(size=(k, d))
    rows = means[rng.integers(k, size=n_rows)] + rng.normal(size=(n_rows, d))
    return rows, {
        "n_components": k,
        "covariance_type": ("full", "tied", "diag", "spherical")[seed % 4],
        "init_params": ("random", "random_from_data", "kmeans", "k-means++")[seed // 4 % 4],
        "random_state": seed,
        "tol": (1e-3, 1e-4, 1e-6)[seed % 3],
        "max_iter": (100, 300, 1000)[seed % 3],
    }


def check_against_sklearn(seed):
    rows, options = problem(seed)
    theirs = sklearn.mixture.GaussianMixture(n_init=N_INIT, **options).fit(rows)
    ours = dem.GaussianMixture(n_init=N_INIT, **options).fit(rows)
    assert ours.lower_bound_ >= theirs.lower_bound_ - CLOSE, seed


def check_against_each_alone(estimator, rows, seed):
    random_state = np.random.RandomState(seed)  # which draws the starts one after the other
    together = estimator(n_init=N_INIT, random_state=seed).fit(rows)
    for _ in range(N_INIT):
        alone = estimator(n_init=1, random_state=random_state).fit(rows)
        assert together.lower_bound_ >= alone.lower_bound_ - CLOSE, seed


@pytest.mark.parametrize(
    "seed", [DROPPED[0], *(pytest.param(seed, marks=pytest.mark.slow) for seed in (DROPPED[1], *range(0, 16, 3)))]
)
def test_never_worse_than_sklearn(seed):
    check_against_sklearn(seed)


@pytest.mark.parametrize("seed", [DROPPED[1], 1, 6])
def test_never_worse_than_each_start_alone(seed):
    rows, options = problem(seed)
    check_against_each_alone(lambda **own: dem.GaussianMixture(**{**options, **own}), rows, seed)


@pytest.mark.filterwarnings("ignore::dem.errors.ComponentWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [*range(0, 40, 4), *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(40, 80, 4))]
)
def test_twenty_problems(seed):
    check_against_sklearn(seed)
    rows, options = problem(seed)
    check_against_each_alone(lambda **own: dem.GaussianMixture(**{**options, **own}), rows, seed)


def binary_rows(seed):
    rng = np.random.default_rng([8, seed])
    probabilities = rng.beta(0.8, 0.8, size=(4, 6))
    return (rng.random((120, 6)) < probabilities[rng.integers(4, size=120)]).astype(float)


@pytest.mark.parametrize("seed", range(3))
def test_other_families_inherit_it(seed):
    options = {"tol": 1e-6, "max_iter": 1000, "init_params": "random"}
    check_against_each_alone(lambda **own: dem.BernoulliMixture(4, **options, **own), binary_rows(seed), seed)


@pytest.mark.parametrize("seed", range(4))
def test_kmeans_is_never_worse_than_each_start_alone(seed):
    rows = problem(seed)[0]
    options = {"init": "random", "random_state": seed, "tol": 0.0}
    together = dem.KMeans(4, n_init=N_INIT, **options).fit(rows)
    events = []
    dem.KMeans(4, n_init=N_INIT, callbacks=[events.append], **options).fit(rows)
    ended = [event for event in events if isinstance(event, FitEnded)]
    assert len(ended) == N_INIT
    assert all("dropped" not in event.status for event in ended)
    reached = [one["log_likelihood"] for one in together.history_]
    assert together.inertia_ <= -max(reached) * len(rows) + CLOSE


def test_select_inherits_it():
    rows, options = problem(DROPPED[1])
    k = options.pop("n_components")
    chosen = dem.select(rows, n_components=[k], n_init=N_INIT, **options)
    theirs = sklearn.mixture.GaussianMixture(k, n_init=N_INIT, **options).fit(rows)
    assert chosen.best_estimator_.lower_bound_ >= theirs.lower_bound_ - CLOSE


def test_racing_is_an_option_that_drops_starts():
    rows, options = problem(DROPPED[1])
    reads, ends = {}, {}
    for racing in (False, True):
        counted, events = CutRows(rows, [50]), []
        dem.GaussianMixture(n_init=10, racing=racing, callbacks=[events.append], **options).fit(counted)
        reads[racing] = counted.reads
        ends[racing] = [event.status for event in events if isinstance(event, FitEnded)]
    assert reads[True] < reads[False]
    assert any(status.startswith("dropped") for status in ends[True])
    assert not any(status.startswith("dropped") for status in ends[False])
    with pytest.raises(OptionError, match="racing goes with algorithm='batch' or 'auto'"):
        dem.GaussianMixture(2, racing=True, algorithm="incremental").fit(rows)


def test_polished_starts_are_never_worse_than_each_alone():
    """Larger than the sample: the best three of the sample go on, each to its own end."""
    rows = np.concatenate([problem(seed)[0][:, :1] for seed in DROPPED])
    options = {"sample_rows": 100, "tol": 1e-6, "max_iter": 1000, "init_params": "random", "random_state": 0}
    events = []
    model = dem.GaussianMixture(4, n_init=6, callbacks=[events.append], **options).fit(rows)
    ended = [event.status for event in events if isinstance(event, FitEnded) and event.phase == "data"]
    assert ended == ["converged"] * 3
    last = {one["model"]: one["log_likelihood"] for one in model.history_ if one["phase"] == "data"}
    assert model.lower_bound_ == max(last.values())


@pytest.mark.parametrize("d", [1, 3])  # with one feature starts fail after a few iterations, with three at once
def test_a_start_that_fails_leaves_the_others(d):
    rng = np.random.default_rng(0)  # a row between two groups, which k-means leaves alone in some starts
    rows = np.concatenate([rng.normal(size=(12, d)), np.zeros((1, d)), rng.normal(size=(6, d))])
    rows[:, 0] += np.repeat([0.0, rng.uniform(3.0, 6.0), 8.0], [12, 1, 6])
    options = {"reg_covar": 0.0, "init_params": "kmeans", "max_iter": 200}
    alone, random_state = [], np.random.RandomState(0)
    for _ in range(8):
        try:
            alone.append(dem.GaussianMixture(3, random_state=random_state, **options).fit(rows).lower_bound_)
        except FitError:
            alone.append(-np.inf)
    assert np.isinf(alone).any()
    assert np.isfinite(alone).any()
    together = dem.GaussianMixture(3, n_init=8, random_state=0, **options).fit(rows)
    assert together.lower_bound_ == pytest.approx(max(alone), abs=CLOSE)
    with pytest.raises(FitError, match="ill-defined empirical covariance"):
        dem.GaussianMixture(19, n_init=3, random_state=0, **options).fit(rows)
