"""Data at the edges: finite parameters or one clear line, and the right ones where closed forms tell."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import dem
from dem.errors import DataError, DataWarning, DemError, FitError

TYPES = ("full", "tied", "diag", "spherical")
TOLD = [
    pytest.mark.filterwarnings(f"ignore::{name}")
    for name in (
        "dem.errors.ComponentWarning",
        "dem.errors.DataWarning",
        "sklearn.exceptions.ConvergenceWarning",
    )
]
ALGORITHMS = {
    "batch": {},
    "squarem": {"accelerate": "squarem"},
    "reseed": {"reseed": 2},
    "incremental": {"algorithm": "incremental"},
    "stepwise": {"algorithm": "stepwise"},
}

SLOW, BLOCKWISE = pytest.mark.slow, ("squarem", "incremental", "stepwise")


def plain(n=120):
    rng = np.random.default_rng(1)
    return np.concatenate([rng.normal(size=(n // 2, 3)), rng.normal(size=(n // 2, 3)) + 6.0])


def with_value(value, rows=None):
    rows = plain() if rows is None else rows.copy()
    rows[7, 1] = value
    return rows


def with_column(values):
    rows = plain()
    rows[:, 1] = values
    return rows


def counts():
    rng = np.random.default_rng(3)
    return np.concatenate([rng.poisson(1.0, size=(60, 3)), rng.poisson(9.0, size=(60, 3))]).astype(float)


REAL = {
    "a column of ±1e300": with_column(np.tile([1e300, -1e300], 60)),
    "a column of ±1e153": with_column(np.tile([1e153, -1e153], 60)),
    "a column of 1e150": with_column(np.linspace(-1e150, 1e150, 120)),
    "subnormal numbers": plain() * 1e-310,
    "a subnormal column": plain() * [1.0, 1e-310, 1.0],
    "squares that underflow": plain() * 1e-160,
    "far from the origin": plain() + 1e15,
    "one value of 1e20": with_value(1e20),
    "one value of 1e150": with_value(1e150),
    "one value of 1e300": with_value(1e300),
    "equal rows": np.tile([1.0, 2.0, 3.0], (120, 1)),
    "two distinct rows": np.repeat([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], 60, axis=0),
    "three distinct rows": np.repeat([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [9.0, 0.0, 2.0]], 40, axis=0),
    "a constant column": with_column(3.0),
    "three rows": plain()[[0, 1, 119]],
    "a column that follows from another": with_column(2.0 * plain()[:, 0]),
}
COUNTS = {
    "counts of 1e300": counts() * 1e300,
    "one count of 1e150": with_value(1e150, counts()),
    "zeros": counts() * 0.0,
    "equal counts": counts() * 0.0 + 3.0,
    "large counts": counts() + 1e15,
    "three rows of counts": counts()[[0, 1, 119]],
}
POSITIVE = {
    "times of 1e300": np.abs(plain()) * 1e300,
    "times of 1e-310": np.abs(plain()) * 1e-310,
    "times of 1e-200": np.abs(plain()) * 1e-200,
    "one time of 1e150": np.abs(with_value(1e150)),
    "equal times": np.ones((120, 3)),
    "no times": np.zeros((120, 3)),
}
WEIGHTS = {
    "1e300": np.full(120, 1e300),
    "1e-300": np.full(120, 1e-300),
    "1e-300 to 1e300": 10.0 ** np.linspace(-300, 300, 120),
    "one of 1e12": np.where(np.arange(120) == 5, 1e12, 1.0),
}
GAUSSIAN = {f"gaussian {kind}": (dem.GaussianMixture, {"covariance_type": kind}) for kind in TYPES}
FAMILIES = {
    **GAUSSIAN,
    "without a ridge": (dem.GaussianMixture, {"reg_covar": 0.0}),
    "diag without a ridge": (dem.GaussianMixture, {"reg_covar": 0.0, "covariance_type": "diag"}),
    "with a background": (dem.GaussianMixture, {"noise": True}),
    "student t": (dem.StudentTMixture, {}),
    "student t diag": (dem.StudentTMixture, {"covariance_type": "diag"}),
    "k-means": (dem.KMeans, {}),
}
OF_COUNTS = {
    "poisson": (dem.PoissonMixture, {}, lambda rows: rows),
    "geometric": (dem.GeometricMixture, {}, lambda rows: rows),
    "binomial": (dem.BinomialMixture, {"n_trials": 40}, lambda rows: np.minimum(rows, 40.0)),
    "bernoulli": (dem.BernoulliMixture, {}, lambda rows: (rows > 3.0).astype(float)),
}


def ends_well(make, rows, weights=None):
    """Fit; it must end with finite parameters, a status of each component, or one line."""
    try:
        model = make.fit(rows, sample_weight=weights)
    except DemError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) > 40  # noqa: PT017
        return
    for name in (*model._parameter_names, *(("precisions",) if hasattr(model, "precisions_") else ())):
        assert np.isfinite(getattr(model, f"{name}_")).all(), name
    assert len(model.component_status_) == 3


def tries(family, options, algorithm):
    is_mixture = family is not dem.KMeans
    return family(3, random_state=0, max_iter=8, **options, **(ALGORITHMS[algorithm] if is_mixture else {}))


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("algorithm", [pytest.param(one, marks=SLOW if one in BLOCKWISE else ()) for one in ALGORITHMS])
@pytest.mark.parametrize("family", FAMILIES)
class TestReal:
    pytestmark = TOLD

    def test_rows(self, family, algorithm, dtype):
        for rows in REAL.values():
            with np.errstate(over="ignore"):
                given = rows.astype(dtype)
            if np.isfinite(given).all():
                ends_well(tries(*FAMILIES[family], algorithm), given)

    def test_weights(self, family, algorithm, dtype):
        for weights in WEIGHTS.values():
            ends_well(tries(*FAMILIES[family], algorithm), plain().astype(dtype), weights)


@pytest.mark.parametrize("algorithm", ["batch", pytest.param("stepwise", marks=pytest.mark.slow)])
class TestDiscrete:
    pytestmark = TOLD

    @pytest.mark.parametrize("family", OF_COUNTS)
    def test_counts(self, family, algorithm):
        kind, options, admitted = OF_COUNTS[family]
        for rows in COUNTS.values():
            ends_well(tries(kind, options, algorithm), admitted(rows))
        for weights in WEIGHTS.values():
            ends_well(tries(kind, options, algorithm), admitted(counts()), weights)

    def test_times(self, algorithm):
        for rows in POSITIVE.values():
            ends_well(tries(dem.ExponentialMixture, {}, algorithm), rows)


# What is right ---------------------------------------------------------------------------------------------------


def moments(rows):
    """Mean and covariance of rows of whole numbers in exact arithmetic."""
    exact = [[Fraction(value) for value in row] for row in rows.tolist()]
    n, d = rows.shape
    mean = [sum(row[j] for row in exact) / n for j in range(d)]
    away = [[value - centre for value, centre in zip(row, mean, strict=True)] for row in exact]
    covariance = [[sum(row[i] * row[j] for row in away) / n for j in range(d)] for i in range(d)]
    return np.array(mean, dtype=float), np.array(covariance, dtype=float)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("offset", [1e8, 1e12, 1e15])
def test_far_from_the_origin(covariance_type, offset):
    rows = np.random.default_rng(0).integers(-200, 200, size=(300, 2)).astype(float)
    mean, covariance = moments(rows + offset)
    model = dem.GaussianMixture(1, covariance_type=covariance_type, reg_covar=0.0).fit(rows + offset)
    np.testing.assert_allclose(model.means_[0], mean, rtol=1e-15)
    wanted = {"diag": np.diag(covariance), "spherical": np.trace(covariance) / 2}.get(covariance_type, covariance)
    found = model.covariances_ if covariance_type == "tied" else model.covariances_[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("power", [-480, 490])
def test_scales_that_squares_allow(covariance_type, power):
    """Powers of two change no digit, of 1e-145 as of 1e147."""
    rows, scale = plain(), 2.0**power
    options = {"covariance_type": covariance_type, "random_state": 0, "reg_covar": 0.0}
    model, scaled = (dem.GaussianMixture(2, **options).fit(data) for data in (rows, rows * scale))
    np.testing.assert_allclose(scaled.means_ / scale, model.means_, rtol=1e-9)
    np.testing.assert_allclose(scaled.covariances_ / scale / scale, model.covariances_, rtol=1e-8)


@pytest.mark.filterwarnings("ignore:in some direction")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_million_equal_rows_in_one_chunk(dtype):
    rows = np.full((1_000_000, 2), [0.1, -7.3], dtype=dtype)
    with pytest.warns(DataWarning, match="column 0, 1 of NumPy array is constant"):
        model = dem.GaussianMixture(1, covariance_type="diag", sample_rows=1000).fit(rows)
    np.testing.assert_array_equal(model.means_[0], rows[0].astype(float))
    np.testing.assert_allclose(model.covariances_, 1e-6, rtol=1e-12)
    assert model.component_status_ == ["collapsed"]


@pytest.mark.filterwarnings("ignore:components? .*collapsed", "ignore:in some direction")
@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_as_many_components_as_distinct_rows(covariance_type):
    distinct = np.array([[1.0, 2.0], [4.0, -5.0], [9.0, 0.0]])
    rows = np.repeat(distinct, [10, 20, 30], axis=0)
    model = dem.GaussianMixture(3, covariance_type=covariance_type, random_state=0, reg_covar=1e-3).fit(rows)
    order = np.argsort(model.means_[:, 0])
    np.testing.assert_allclose(model.means_[order], distinct, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.weights_[order], [1 / 6, 2 / 6, 3 / 6], rtol=1e-12)
    least = model.covariances_ if covariance_type != "full" else np.linalg.eigvalsh(model.covariances_)
    np.testing.assert_allclose(least, 1e-3, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:component", "ignore:Number of distinct clusters", "ignore:Best performing")
def test_more_components_than_distinct_rows():
    rows = np.repeat([[1.0, 2.0], [4.0, -5.0]], 30, axis=0)
    with pytest.warns(DataWarning, match="has only 2 distinct rows for 3 components; decrease n_components"):
        model = dem.GaussianMixture(3, random_state=0).fit(rows)
    assert sorted(model.component_status_) == ["collapsed", "collapsed", "empty"]
    np.testing.assert_allclose(sorted(model.weights_), [0.0, 0.5, 0.5], atol=1e-12)


@pytest.mark.reliability(
    fault="the squares of a column's values overflow (±1e300)",
    sees="column 1 of x.zarr has values of a size (1e+300) whose squares overflow; divide the data by …",
    lost="nothing: it is said before the fit",
    recovery="at once: scale the column",
)
@pytest.mark.parametrize("size", [1e153, 1e300])
def test_squares_that_overflow_are_refused(size):
    with pytest.raises(DataError, match=r"^column 1 of NumPy array has values of a size .* whose squares overflow; "):
        dem.GaussianMixture(2).fit(with_column(np.tile([size, -size], 60)))


@pytest.mark.filterwarnings("ignore:in some direction")
@pytest.mark.parametrize("size", [1e-310, 1e-160])
def test_squares_that_underflow_are_told(size):
    with pytest.warns(DataWarning, match=r"^column 1 of NumPy array has values that differ by .* counts as constant"):
        model = dem.GaussianMixture(2, random_state=0).fit(plain() * [1.0, size, 1.0])
    np.testing.assert_allclose(model.covariances_[:, 1, 1], 1e-6, rtol=1e-9)
    without = dem.GaussianMixture(2, random_state=0).fit(plain()[:, [0, 2]])
    np.testing.assert_allclose(model.means_[:, [0, 2]], without.means_, rtol=1e-9)


@pytest.mark.filterwarnings(*(mark.args[0] for mark in TOLD[::2]), "ignore:.*distinct")
@pytest.mark.reliability(
    fault="one value is out of all proportion (1e150)",
    sees="the value 1e+150 in row 7, column 1 of x.zarr is 3e+149 times as far away as …; drop or clip such rows",
    lost="nothing, or the fit: the error names the component that is left with rounding",
    recovery="another fit without the row",
)
def test_one_value_out_of_all_proportion():
    with (
        pytest.warns(DataWarning, match=r"^the value 1e\+150 in row 7, column 1 of NumPy array is .* drop or clip"),
        pytest.raises(FitError, match=r"ill-defined .* The first that was found is component \d$"),
    ):
        dem.GaussianMixture(3, random_state=0).fit(with_value(1e150))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weight", [1e-10, 1e30, 1e200])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_equal_weights_of_any_size_are_none(covariance_type, weight, dtype):
    rows, options = plain().astype(dtype), {"covariance_type": covariance_type, "random_state": 0}
    model = dem.GaussianMixture(2, **options).fit(rows)
    weighted = dem.GaussianMixture(2, **options).fit(rows, sample_weight=np.full(len(rows), weight))
    np.testing.assert_allclose(weighted.means_, model.means_, atol=1e-5)
    np.testing.assert_allclose(weighted.weights_, model.weights_, rtol=1e-5)
    assert weighted.component_status_ == ["ok", "ok"]


@pytest.mark.filterwarnings("error::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("family", [*GAUSSIAN, "student t", "k-means"])
def test_equal_rows_of_any_size_end_alike(family):
    kind, options = FAMILIES[family]
    small, large = (kind(2, random_state=0, **options).fit(np.full((60, 3), size)) for size in (1.0, 1e300))
    assert small.component_status_ == large.component_status_
    assert "empty" in large.component_status_


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("size", [1e154, 1e300])
def test_squares_that_overflow_are_told_by_the_error_alone(size):
    with pytest.raises(DataError, match=r"^column 1 of NumPy array has values of a size"):
        dem.GaussianMixture(2, covariance_type="diag", scale=True).fit(with_column(np.tile([size, -size], 60)))
