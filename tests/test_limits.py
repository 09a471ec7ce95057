"""Values that are known to lie in an interval only: below a detection limit, above saturation, between two readings."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.stats
import zarr
from cases import CASES
from scipy.integrate import quad
from sklearn.base import clone
from sources import CutRows

import dem
from dem.data.base import Chunk
from dem.errors import DataError, OptionError
from dem.families.gaussian.interval import truncated

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

MATRICES = ["full", "tied"]
SLOW = pytest.mark.slow
KINDS = [*MATRICES, "diag", "spherical"]
MEANS = np.array([[0.0, 1.0], [4.0, -2.0]])


def censored(n_rows=600, seed=4, single=True):
    """Rows of two components, complete and with NaN, and limits: in each row one value at most if `single`."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_rows) % 3 // 2
    complete = MEANS[labels] + rng.normal(size=(n_rows, 2)) @ np.array([[1.0, 0.4], [0.0, 0.9]])
    rows = complete.copy()
    lower, upper = np.full(rows.shape, -np.inf), np.full(rows.shape, np.inf)
    low, high = rows[:, 0] < -0.5, rows[:, 1] > 1.5
    if single:
        high &= ~low
    between = ~low & ~high & (np.arange(n_rows) % 5 == 0)
    rows[low, 0], upper[low, 0] = np.nan, -0.5
    rows[high, 1], lower[high, 1] = np.nan, 1.5
    lower[between, 1], upper[between, 1] = np.floor(rows[between, 1]), np.floor(rows[between, 1]) + 1.0
    rows[between, 1] = np.nan
    return complete, rows, lower, upper


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(-np.inf, -1.0), (2.0, np.inf), (-1.0, 2.0), (0.3, 0.3001), (-6.0, -5.0), (7.0, 9.0), (3.0, 3.5), (-4.0, 3.0)],
)
def test_moments_of_an_interval_are_its_integrals(lower, upper):
    centre = np.clip(0.0, lower, upper)
    ends = max(lower, centre - 12.0), min(upper, centre + 12.0)

    def integral(power, about=0.0):
        def value(y):
            return (y - about) ** power * scipy.stats.norm.pdf(y) / scipy.stats.norm.pdf(centre)

        return quad(value, *ends, epsabs=1e-14, epsrel=1e-11, limit=200)[0]

    mass = integral(0)
    mean = integral(1) / mass
    ours = [float(part[0]) for part in truncated(np.array([lower]), np.array([upper]))]
    assert ours[0] == pytest.approx(np.log(mass) + scipy.stats.norm.logpdf(centre), rel=1e-10, abs=1e-12)
    assert ours[1] == pytest.approx(mean, rel=1e-9)
    assert ours[2] == pytest.approx(integral(2, mean) / mass, rel=1e-7)


def test_far_intervals_and_narrow_ones_stay_finite():
    lower = np.array([40.0, -np.inf, 1e4, 5.0, -1e300])
    upper = np.array([np.inf, -300.0, 1e4 + 1e-9, 5.0 + 1e-12, -1e200])
    log_mass, mean, variance = truncated(lower, upper)
    assert np.isfinite(log_mass[:4]).all()
    assert log_mass[4] == -np.inf
    assert (mean >= lower).all()
    assert (mean <= upper).all()
    assert (variance >= 0).all()


def precise(function, start, args, disp):
    """Return the minimum of a function, for scipy, whose own optimiser stops earlier."""
    return scipy.optimize.fmin(function, start, args, xtol=1e-10, ftol=1e-14, maxiter=2000, disp=False)


@pytest.mark.parametrize("kind", KINDS)
def test_one_component_is_what_scipy_fits(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, 400)
    data = scipy.stats.CensoredData(
        x[(x >= 2) & (x <= 5)], left=np.full((x < 2).sum(), 2.0), right=np.full((x > 5).sum(), 5.0)
    )
    mean, deviation = scipy.stats.norm.fit(data, optimizer=precise)
    rows = np.where((x < 2) | (x > 5), np.nan, x)
    ours = dem.GaussianMixture(1, covariance_type=kind, reg_covar=0, tol=1e-15, max_iter=500)
    ours.fit(rows[:, np.newaxis], lower=np.where(x > 5, 5.0, -np.inf), upper=np.where(x < 2, 2.0, np.inf))
    assert ours.means_[0, 0] == pytest.approx(mean, rel=1e-5)
    assert np.sqrt(ours.covariances_.ravel()[0]) == pytest.approx(deviation, rel=1e-5)
    assert np.diff(ours.lower_bounds_).min() > -1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_an_e_step_is_that_of_integrals(kind):
    """Of one component: completed moments and likelihood of each row, integrated over its limited value."""
    _, rows, lower, upper = censored(40)
    covariance = (
        np.array([[1.5, 0.6], [0.6, 1.2]]) if kind in MATRICES else np.diag([1.5, 1.5 if kind == "spherical" else 1.2])
    )
    model = dem.GaussianMixture(1, covariance_type=kind, means_init=[[0.5, 0.2]], reg_covar=0, weights_init=[1.0])
    precision = np.linalg.inv(covariance)
    given = {
        "full": precision[np.newaxis],
        "tied": precision,
        "diag": np.diagonal(precision)[np.newaxis],
        "spherical": precision[:1, 0],
    }
    model.set_params(precisions_init=given[kind], max_iter=1, tol=0).fit(rows, lower=lower, upper=upper)
    density = scipy.stats.multivariate_normal([0.5, 0.2], covariance)
    likelihood, first, second = 0.0, np.zeros(2), np.zeros((2, 2))
    for row, low, high in zip(rows, lower, upper, strict=True):
        (gap,) = np.nonzero(np.isnan(row))
        if not len(gap):
            likelihood, first, second = likelihood + density.logpdf(row), first + row, second + np.outer(row, row)
            continue
        ends = max(low[gap[0]], -12.0), min(high[gap[0]], 12.0)

        def moment(power, row=row, j=gap[0], ends=ends):
            def value(y):
                return y**power * density.pdf(np.where(np.arange(2) == j, y, row))

            return quad(value, *ends, epsabs=0, epsrel=1e-11, limit=200)[0]

        mass = moment(0)
        mean, square = moment(1) / mass, moment(2) / mass
        completed = np.where(np.isnan(row), mean, row)
        likelihood, first = likelihood + np.log(mass), first + completed
        second += np.outer(completed, completed)
        second[gap[0], gap[0]] += square - mean**2
    mean = first / len(rows)
    spread = second / len(rows) - np.outer(mean, mean)
    expected = {"full": spread, "tied": spread, "diag": np.diagonal(spread), "spherical": np.diagonal(spread).mean()}
    assert model.lower_bound_ == pytest.approx(likelihood / len(rows), rel=1e-9)
    np.testing.assert_allclose(model.means_[0], mean, rtol=1e-8)
    np.testing.assert_allclose(model.covariances_.reshape(np.shape(expected[kind])), expected[kind], rtol=1e-7)


@pytest.mark.parametrize("algorithm", ["batch", *(pytest.param(name, marks=SLOW) for name in ("incremental", "auto"))])
@pytest.mark.parametrize("kind", KINDS)
def test_what_limits_hide_is_found(kind, algorithm):
    complete, rows, lower, upper = censored(3000, single=kind in MATRICES)
    model = dem.GaussianMixture(2, covariance_type=kind, random_state=0, tol=1e-7, algorithm=algorithm, max_iter=300)
    fitted = clone(model).fit(CutRows(rows, range(0, 3000, 250)), lower=lower, upper=upper)
    whole = clone(model).fit(complete)
    order, theirs = np.argsort(fitted.means_[:, 0]), np.argsort(whole.means_[:, 0])
    np.testing.assert_allclose(fitted.means_[order], whole.means_[theirs], atol=0.1)
    np.testing.assert_allclose(fitted.covariances_[order], whole.covariances_[theirs], atol=0.15)
    assert np.diff(fitted.lower_bounds_).min() > -2e-6  # reg_covar
    assert np.isnan(rows).mean() > 0.2
    replaced = clone(model).fit(np.where(np.isnan(rows), np.where(np.isfinite(lower), lower, upper), rows))
    assert (
        np.abs(fitted.means_[order] - whole.means_[theirs]).max()
        < 0.5 * np.abs(replaced.means_[np.argsort(replaced.means_[:, 0])] - whole.means_[theirs]).max()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_intervals_are_values(kind):
    complete, rows, _, _ = censored()
    start = {"means_init": MEANS, "weights_init": [0.5, 0.5], "random_state": 0, "max_iter": 8, "tol": 0}
    plain = dem.GaussianMixture(2, covariance_type=kind, **start).fit(complete)
    for width in (1e-4, 0.0):
        limited = dem.GaussianMixture(2, covariance_type=kind, **start)
        limited.fit(rows, lower=complete - width, upper=complete + width)
        np.testing.assert_allclose(limited.means_, plain.means_, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(limited.covariances_, plain.covariances_, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_without_gaps_change_nothing(kind):
    complete, _, _, _ = censored()
    plain = dem.GaussianMixture(2, covariance_type=kind, random_state=0).fit(complete)
    limited = dem.GaussianMixture(2, covariance_type=kind, random_state=0).fit(
        complete, lower=-1.0, upper=[2.0, np.inf]
    )
    np.testing.assert_array_equal(limited.means_, plain.means_)


def test_rows_are_judged_by_their_limits(tmp_path):
    _, rows, lower, upper = censored()
    given = {"lower": lower, "upper": upper}
    model = dem.GaussianMixture(2, random_state=0).fit(rows, **given)
    density = model.score_samples(rows, **given)
    gap = int(np.flatnonzero(np.isnan(rows[:, 0]))[0])
    mixture = [scipy.stats.multivariate_normal(m, c) for m, c in zip(model.means_, model.covariances_, strict=True)]

    def value(y):
        return sum(w * one.pdf([y, rows[gap, 1]]) for w, one in zip(model.weights_, mixture, strict=True))

    assert np.exp(density[gap]) == pytest.approx(quad(value, -15.0, upper[gap, 0], epsrel=1e-10)[0], rel=1e-8)
    assert model.score(rows, **given) == pytest.approx(density.mean(), rel=1e-12)
    assert model.predict_proba(rows, **given).argmax(axis=1).tolist() == model.predict(rows, **given).tolist()
    model.predict_to(rows, str(tmp_path / "out.zarr"), kind="log_density", **given)
    np.testing.assert_allclose(zarr.open_array(tmp_path / "out.zarr")[:], density, rtol=1e-12)


def test_limits_and_errors_together():
    """A limit is one of what was measured: of the value with its error."""
    _, rows, lower, upper = censored(60)
    noise = np.random.default_rng(0).uniform(0.1, 0.5, size=rows.shape)
    model = dem.GaussianMixture(1, random_state=0).fit(rows, lower=lower, upper=upper, noise_covariance=noise)
    density = model.score_samples(rows, lower=lower, upper=upper, noise_covariance=noise)
    for i in np.flatnonzero(np.isnan(rows[:, 0]))[:3]:
        total = scipy.stats.multivariate_normal(model.means_[0], model.covariances_[0] + np.diag(noise[i]))
        expected = quad(lambda y: total.pdf([y, rows[i, 1]]), -15.0, upper[i, 0], epsrel=1e-10)[0]  # noqa: B023
        assert np.exp(density[i]) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_weights_are_repeated_rows(kind):
    _, rows, lower, upper = censored(300)
    counts = np.random.default_rng(0).integers(0, 3, 300)
    start = {
        "means_init": MEANS,
        "weights_init": [0.5, 0.5],
        "precisions_init": np.ones((2, 2)),
        "max_iter": 5,
        "tol": 0,
    }
    if kind == "full":
        start["precisions_init"] = np.array([np.eye(2)] * 2)
    model = dem.GaussianMixture(2, covariance_type=kind, **start)
    weighted = clone(model).fit(rows, sample_weight=counts, lower=lower, upper=upper)
    again = [np.repeat(one, counts, axis=0) for one in (rows, lower, upper)]
    repeated = clone(model).fit(again[0], lower=again[1], upper=again[2])
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("full", marks=SLOW), "diag"])
def test_any_kind_of_limits_on_threads_and_a_cluster(kind, cluster, tmp_path):
    from distributed import Client

    _, rows, lower, upper = censored(900)
    zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(100, 2))
    zarr.create_array(tmp_path / "lower.zarr", data=lower, chunks=(333, 2))
    whole, model = str(tmp_path / "rows.zarr"), dem.GaussianMixture(2, covariance_type=kind, random_state=0, max_iter=3)
    first = clone(model).fit(whole, lower=lower, upper=upper)
    with Client(cluster):
        given = [lower, da.from_array(lower, chunks=(200, 2)), str(tmp_path / "lower.zarr")]
        fits = [clone(model).fit(whole, lower=one, upper=upper) for one in given]
    for one in fits:
        np.testing.assert_array_equal(one.covariances_, first.covariances_)


@pytest.mark.parametrize(
    ("lower", "upper", "says"),
    [
        (1.0, 0.0, r"lower is 1\.0 and upper is 0\.0 in row 0, column 0"),
        (None, np.nan, r"upper is nan in row 0, column 0; a limit is a number"),
        (np.zeros((7, 2)), None, r"lower has the shape \(7, 2\), but the rows of .* have \(600,\)"),
        (np.zeros(600), None, r"lower has the shape \(n_rows\); give a number, one for each of 2 features"),
        (None, [1.0, 2.0, 3.0], r"upper has the shape \(3,\)"),
        (None, -9.0, None),
    ],
)
def test_bad_limits_are_named(lower, upper, says):
    _, rows, _, _ = censored()
    rows[:, 1] = 0.0
    if says is None:  # a limit for a value that no limit is needed for says nothing
        dem.GaussianMixture(1).fit(np.nan_to_num(rows) + np.eye(600, 2), upper=upper)
        return
    with pytest.raises(DataError, match=says):
        dem.GaussianMixture(2, random_state=0).fit(rows, lower=lower, upper=upper)


def test_one_limit_of_a_row_with_full_covariances():
    _, rows, lower, upper = censored()
    rows[37], upper[37], lower[37] = np.nan, 0.0, -np.inf
    with pytest.raises(DataError, match=r"row 37 has limits for 2 of its values.*covariance_type='diag'"):
        dem.GaussianMixture(2, random_state=0).fit(CutRows(rows, [0, 30]), lower=lower, upper=upper)
    dem.GaussianMixture(2, covariance_type="diag", random_state=0).fit(rows, lower=lower, upper=upper)


def test_a_gap_without_a_limit_is_missing():
    _, rows, lower, upper = censored()
    rows[40] = [np.nan, 0.0]
    lower[40], upper[40] = -np.inf, np.inf
    with pytest.raises(DataError, match="NaN"):
        dem.GaussianMixture(2, random_state=0).fit(rows, lower=lower, upper=upper)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_known_of_a_value_is_no_limit_at_all(kind):
    """A NaN that the kernel meets counts as the whole line: the same as limits far out."""
    _, rows, _, _ = censored(50)
    rows[:, 1] = np.where(np.isnan(rows[:, 1]), 0.0, rows[:, 1])
    family = dem.GaussianMixture(2, covariance_type=kind, missing="marginalise")._family()
    start = family.start(np.nan_to_num(rows), np.eye(2)[np.arange(50) % 2])
    nothing, far = np.full((50, 2, 2), np.nan), np.full((50, 2, 2), np.nan)
    far[np.isnan(rows)] = [-1e6, 1e6]
    nothing[1, 1] = far[1, 1] = [-1e6, 1e6]
    rows[1, 0], far[1, 0] = 0.3, np.nan
    one, other = (family.e_step(start, Chunk(rows, range(50), limits=limits)) for limits in (nothing, far))
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(one.components.second, other.components.second, rtol=1e-10)


@pytest.mark.parametrize("case", [one for one in CASES if "limits" not in one.family().component.knows], ids=str)
def test_other_models_refuse_limits(case):
    with pytest.raises(OptionError, match="upper goes with Gaussian mixtures without noise= only"):
        case.estimator().fit(case.data(), upper=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_and_missing_values(kind):
    """Limits so far out that they say nothing are what a missing value is; beside limits that do say something."""
    _, rows, lower, upper = censored()
    gaps = np.flatnonzero(~np.isnan(rows).any(axis=1))[::4]
    rows[gaps, 0] = np.nan
    start = {"means_init": MEANS, "weights_init": [0.5, 0.5], "random_state": 0, "max_iter": 5, "tol": 0}
    model = dem.GaussianMixture(2, covariance_type=kind, missing="marginalise", **start)
    unit = {"full": [np.eye(2)] * 2, "tied": np.eye(2), "diag": np.ones((2, 2)), "spherical": [1.0, 1.0]}
    model.set_params(precisions_init=unit[kind])
    fitted = clone(model).fit(rows, lower=lower, upper=upper)
    lower[gaps, 0] = -1e5
    bounded = clone(model).set_params(missing="error").fit(rows, lower=lower, upper=upper)
    np.testing.assert_allclose(fitted.means_, bounded.means_, rtol=1e-9)
    np.testing.assert_allclose(fitted.covariances_, bounded.covariances_, rtol=1e-9)
    assert np.isfinite(fitted.score_samples(rows[gaps], upper=9.0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_with_a_limit_and_a_gap(kind):
    _, rows, lower, upper = censored()
    row = int(np.flatnonzero(np.isnan(rows[:, 0]))[200 // 4])
    rows[row, 1] = np.nan
    model = dem.GaussianMixture(2, covariance_type=kind, random_state=0, sample_rows=20)
    with pytest.raises(DataError, match="NaN"):
        model.fit(rows, lower=lower, upper=upper)
    model.set_params(missing="marginalise").fit(rows, lower=lower, upper=upper)
    left_out = clone(model).set_params(missing="skip").fit(rows, lower=lower, upper=upper)
    assert left_out.n_samples_seen_ == 599


@pytest.mark.parametrize("kind", KINDS)
def test_limits_and_errors_are_in_the_units_of_the_data(kind):
    _, rows, lower, upper = censored()
    units, given = np.array([1e3, 1e-2]), {"noise_covariance": np.full(rows.shape, 0.2)} if kind in MATRICES else {}
    model = dem.GaussianMixture(2, covariance_type=kind, random_state=0, reg_covar=0, scale=True, max_iter=5)
    one = clone(model).fit(rows, lower=lower, upper=upper, **given)
    given = {name: value * units**2 for name, value in given.items()}
    other = clone(model).fit(rows * units, lower=lower * units, upper=upper * units, **given)
    np.testing.assert_allclose(other.means_, one.means_ * units, rtol=1e-8)


def test_fit_predict_knows_what_fit_and_predict_know():
    rng = np.random.default_rng(1)
    rows = censored(150)[1]
    lower, upper = censored(150)[2:]
    labels = np.where(np.arange(150) < 40, np.arange(150) % 2, -1)
    given = {"labels": labels, "lower": lower, "upper": upper, "noise_covariance": rng.uniform(0.0, 1.0, (150, 2))}
    gm = dem.GaussianMixture(2, random_state=0, max_iter=5)
    found = gm.fit_predict(rows, **given)
    np.testing.assert_array_equal(found[:40], labels[:40])
    np.testing.assert_array_equal(found, gm.predict(rows, **given))
    assert (gm.predict(rows, **{**given, "labels": None})[:40] != labels[:40]).any()
