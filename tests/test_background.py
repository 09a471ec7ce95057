"""A uniform background behind the components (`noise=`): against EM written anew, its names, what goes with it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import zarr
from case import MEANS
from cases import chunk_of, gaussian_rows
from sources import CutRows

import dem
from dem.errors import DataError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
TYPES = ("full", "tied", "diag", "spherical")
LOWER, UPPER = np.array([-15.0, -20.0, -10.0]), np.array([25.0, 20.0, 12.0])


def noisy_rows(n_noise=300):
    """Rows of three Gaussians, and a tenth that is anywhere in a box, its corners among them."""
    rng = np.random.default_rng(9)
    background = rng.uniform(LOWER, UPPER, size=(n_noise, 3))
    background[:2] = LOWER, UPPER
    rows = np.concatenate([gaussian_rows(), background])
    return rows[rng.permutation(len(rows))]


def reference(rows, means, covariance_type, n_iterations):
    """EM from equal weights, unit covariances and a background of 5 %, from the formulas."""
    n = len(rows)
    weights, noise, covariances = np.full(3, 0.95 / 3), 0.05, np.array([np.eye(3)] * 3)
    volume = np.prod(rows.max(axis=0) - rows.min(axis=0))
    for _ in range(n_iterations):
        densities = [scipy.stats.multivariate_normal(m, c).pdf(rows) for m, c in zip(means, covariances, strict=True)]
        joint = np.column_stack([weights * np.transpose(densities), np.full(n, noise / volume)])
        log_likelihood = np.log(joint.sum(axis=1)).mean()
        gamma = joint / joint.sum(axis=1, keepdims=True)
        noise, gamma = gamma[:, 3].mean(), gamma[:, :3]
        counts = gamma.sum(axis=0)
        weights, means = counts / n, gamma.T @ rows / counts[:, np.newaxis]
        away = rows[:, np.newaxis] - means
        scatter = np.einsum("nk,nki,nkj->kij", gamma, away, away)
        if covariance_type == "tied":
            covariances = np.broadcast_to(scatter.sum(axis=0) / counts.sum(), (3, 3, 3))
        else:
            covariances = scatter / counts[:, np.newaxis, np.newaxis]
        if covariance_type in ("diag", "spherical"):
            variances = np.diagonal(covariances, axis1=1, axis2=2)
            if covariance_type == "spherical":
                variances = np.repeat(variances.mean(axis=1)[:, np.newaxis], 3, axis=1)
            covariances = variances[:, :, np.newaxis] * np.eye(3)
    return {"weights_": weights, "noise_weight_": noise, "means_": means}, log_likelihood


@pytest.mark.parametrize("covariance_type", TYPES)
def test_em_from_the_same_start(covariance_type):
    rows = noisy_rows()
    means = MEANS + np.array([0.5, -0.3, 0.2])
    eye, ones = np.eye(3), np.ones((3, 3))
    ours = dem.GaussianMixture(
        3,
        covariance_type=covariance_type,
        noise=True,
        weights_init=np.full(3, 1 / 3),
        means_init=means,
        precisions_init={"full": np.array([eye] * 3), "tied": eye, "diag": ones, "spherical": ones[0]}[covariance_type],
        reg_covar=0.0,
        tol=0.0,
        max_iter=10,
    ).fit(rows)
    expected, log_likelihood = reference(rows, means, covariance_type, 10)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(ours, name), value, rtol=1e-9, atol=1e-10, err_msg=name)
    assert ours.lower_bound_ == pytest.approx(log_likelihood, rel=1e-12)
    assert ours.weights_.sum() + ours.noise_weight_ == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("kind", [dem.GaussianMixture, dem.StudentTMixture])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_every_algorithm_ends_at_the_same_and_never_falls(covariance_type, kind):
    rows = noisy_rows()
    options = {"covariance_type": covariance_type, "noise": True, "random_state": 0, "tol": 1e-10, "max_iter": 400}
    options |= {"fit_dof": "fixed"} if kind is dem.StudentTMixture else {}
    batch = kind(3, **options).fit(rows)
    np.testing.assert_allclose(batch.means_[np.argsort(-batch.weights_)], MEANS, atol=0.25)
    assert abs(batch.noise_weight_ - 300 / 3300) < 0.03
    for algorithm in ("auto", "incremental", "stepwise"):
        other = kind(3, algorithm=algorithm, **options).fit(CutRows(rows, range(200, 3300, 200)))
        assert np.diff(other.lower_bounds_).min() > -1e-10
        assert other.noise_weight_ == pytest.approx(batch.noise_weight_, abs=1e-4)
        np.testing.assert_allclose(other.means_, batch.means_, atol=1e-3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_free_energy_of_one_e_step_is_the_log_likelihood(covariance_type):
    rows = noisy_rows()
    fitted = dem.GaussianMixture(3, covariance_type=covariance_type, noise=True, random_state=0, max_iter=2).fit(rows)
    family, parameters = fitted._model()
    statistics = family.e_step(parameters, chunk_of(rows))
    rebased = family.rebased(statistics, parameters)
    assert family.free_energy(rebased, parameters) == pytest.approx(statistics.log_likelihood, rel=1e-13)
    # Parameters imply the statistics that they come from.
    again = family.to_user(family.m_step(family.implied(parameters), parameters))
    for name, value in family.to_user(parameters).items():
        np.testing.assert_allclose(again[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_the_box_is_that_of_all_rows():
    rows = noisy_rows()
    fitted = dem.GaussianMixture(3, noise=True, sample_rows=100, random_state=0).fit(CutRows(rows, [1000, 2000]))
    np.testing.assert_array_equal(fitted.noise_box_, [LOWER, UPPER])
    assert fitted.noise_volume_ == pytest.approx(np.prod(UPPER - LOWER), rel=1e-12)


def test_labels_densities_draws_and_files(tmp_path):
    rows = noisy_rows()
    fitted = dem.GaussianMixture(3, noise=True, random_state=0).fit(rows)
    posterior, labels = fitted.predict_proba(rows), fitted.predict(rows)
    assert posterior.shape == (3300, 4)
    np.testing.assert_allclose(posterior.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(np.where(posterior.argmax(axis=1) == 3, -1, posterior.argmax(axis=1)), labels)
    assert fitted.predict([[24.0, -19.0, 11.0]]) == [-1]
    far = fitted.score_samples([[1e6, 0.0, 0.0]])
    assert far == pytest.approx(np.log(fitted.noise_weight_ / fitted.noise_volume_))
    log_likelihood = fitted.score_samples(rows).sum()
    free = 3 + 9 + 18  # the weights of three components and the background, which sum to 1
    assert fitted.bic(rows) == pytest.approx(-2 * log_likelihood + free * np.log(3300), rel=1e-12)
    drawn, numbers = fitted.sample(20_000)
    np.testing.assert_allclose(np.mean(numbers == -1), fitted.noise_weight_, atol=0.01)
    assert drawn[numbers == -1].min(axis=0) == pytest.approx(LOWER, abs=0.3)
    fitted.save(str(tmp_path / "model.zarr"))
    loaded = dem.load(str(tmp_path / "model.zarr"))
    np.testing.assert_array_equal(loaded.predict_proba(rows), posterior)
    assert loaded.noise_weight_ == fitted.noise_weight_
    fitted.predict_to(rows, str(tmp_path / "labels.zarr"))
    fitted.set_params(warm_start=True, max_iter=1).fit(rows)
    assert fitted.lower_bound_ == pytest.approx(log_likelihood / 3300, rel=1e-10)
    fitted.set_params(warm_start=False, noise=False, max_iter=100).fit(rows)
    assert not hasattr(fitted, "noise_weight_")


def test_a_volume_is_taken_as_given():
    fitted = dem.GaussianMixture(3, noise=5000.0, random_state=0).fit(noisy_rows())
    assert fitted.noise_volume_ == pytest.approx(5000.0)
    assert not hasattr(fitted, "noise_box_")
    with pytest.raises(OptionError, match="where the background lies"):
        fitted.sample(1000)


def test_labels_name_the_background():
    rng = np.random.default_rng(3)
    rows = np.concatenate([rng.normal(size=(300, 2)), rng.uniform(-4.0, 9.0, (40, 2))])
    rows[200:300, 0] += 7.0
    labels = np.repeat([0, 1, 2], [200, 100, 40])
    model = dem.GaussianMixture(2, noise=True, reg_covar=0.0, random_state=0).fit(rows, labels=labels)
    assert model.noise_weight_ == pytest.approx(40 / 340, rel=1e-12)
    np.testing.assert_allclose(model.weights_, [200 / 340, 100 / 340], rtol=1e-12)
    np.testing.assert_allclose(model.means_, [rows[:200].mean(axis=0), rows[200:300].mean(axis=0)], rtol=1e-10)
    sets = labels[:, np.newaxis] == np.arange(3)
    np.testing.assert_array_equal(model.predict(rows, labels=sets), np.where(labels == 2, -1, labels))
    # Of some rows it is known that they are background, of some that they are none, of some nothing.
    sets[::3], sets[1:300:3] = True, [True, True, False]
    part = dem.GaussianMixture(2, noise=True, random_state=0).fit(rows, labels=sets)
    posterior = part.predict_proba(rows, labels=sets)
    np.testing.assert_allclose(posterior[~sets], 0.0, atol=1e-200)
    np.testing.assert_allclose(posterior.mean(axis=0), [*part.weights_, part.noise_weight_], atol=1e-3)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.where(np.arange(3300) == 7, 4, -1), "labels is 4 in row 7; .* from 0 to 3, the background, or -1"),
        (np.ones((3300, 3), bool), "labels has 3 columns, but there are 3 components and the background"),
        (np.where(np.arange(3300) < 3298, 3, -1), "2 rows are not labelled as background, too few for 3 components"),
    ],
)
def test_labels_that_cannot_be(labels, says):
    with pytest.raises(DataError, match=says):
        dem.GaussianMixture(3, noise=True, random_state=0).fit(noisy_rows(), labels=labels)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"noise": -1.0}, "noise"),
        ({"noise": 0.0}, "noise"),
        ({"noise": "box"}, "noise"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(OptionError, match=says):
        dem.GaussianMixture(3, **options).fit(noisy_rows())


@pytest.mark.filterwarnings("ignore::dem.errors.DataWarning")
@pytest.mark.parametrize(("factor", "verb"), [(0.0, "is"), (1e-300, "counts as")])
def test_a_box_without_volume_is_refused(factor, verb):
    rows = noisy_rows()
    rows[:, 1] *= factor
    with pytest.raises(DataError, match=f"no volume: column 1 {verb} constant"):
        dem.GaussianMixture(3, noise=True, random_state=0).fit(rows)


def test_what_is_no_number_is_named():
    rows = noisy_rows()
    rows[2500, 1] = np.nan
    with pytest.raises(DataError, match="row 2500, column 1"):
        dem.GaussianMixture(3, noise=True, sample_rows=50, random_state=0).fit(CutRows(rows, [1000, 2000]))


def test_a_stream_has_no_box_but_that_of_a_fit():
    rows = noisy_rows()
    model = dem.GaussianMixture(3, noise=True, random_state=0)
    with pytest.raises(OptionError, match="fit first, or give noise=VOLUME"):
        model.partial_fit(rows[:500])
    model.fit(rows[:2000]).partial_fit(rows[2000:])
    box = [rows[:2000].min(axis=0), rows[:2000].max(axis=0)]
    np.testing.assert_array_equal(model.noise_box_, box)
    assert abs(model.noise_weight_ - 300 / 3300) < 0.03
    streamed = dem.GaussianMixture(3, noise=np.prod(UPPER - LOWER), random_state=0)
    for part in np.array_split(rows, 4):
        streamed.partial_fit(part)
    assert abs(streamed.noise_weight_ - 300 / 3300) < 0.03


@pytest.mark.parametrize("init", ["k-means++", "random_from_data", "k-means||"])
def test_starts_from_single_rows(init):
    rows = noisy_rows()
    options = {"noise": True, "random_state": 0, "n_init": 3, "tol": 1e-6, "max_iter": 300}
    fitted = dem.GaussianMixture(3, init_params=init, **options).fit(CutRows(rows, [1000, 2000]))
    best = dem.GaussianMixture(3, **options).fit(rows)
    assert fitted.lower_bound_ == pytest.approx(best.lower_bound_, abs=1e-4)
    assert np.diff(fitted.lower_bounds_).min() > -1e-10


def test_weights_of_rows_count_in_the_start():
    rows, counts = noisy_rows(), np.random.default_rng(5).integers(1, 3, size=3300)
    options = {"noise": True, "means_init": MEANS, "precisions_init": np.array([np.eye(3)] * 3), "tol": 0.0}
    weighted = dem.GaussianMixture(3, **options, max_iter=2, random_state=0).fit(rows, sample_weight=counts)
    repeated = dem.GaussianMixture(3, **options, max_iter=2, random_state=0).fit(np.repeat(rows, counts, axis=0))
    np.testing.assert_allclose(weighted.lower_bounds_, repeated.lower_bounds_, rtol=1e-12)


def test_a_fit_that_goes_on_takes_the_box_of_its_rows():
    rows = noisy_rows()
    inner = rows[(np.abs(rows) < 8.0).all(axis=1)]
    model = dem.GaussianMixture(3, noise=True, warm_start=True, random_state=0).fit(inner).fit(rows)
    np.testing.assert_array_equal(model.noise_box_, [LOWER, UPPER])
    fresh = dem.GaussianMixture(3, noise=True, random_state=0).fit(rows)
    assert model.lower_bound_ == pytest.approx(fresh.lower_bound_, abs=2e-3)


def test_outliers_are_in_the_order_of_the_odds_of_the_background():
    rows = noisy_rows()
    model = dem.GaussianMixture(3, noise=True, random_state=0).fit(rows)
    components = zip(model.weights_, model.means_, model.covariances_, strict=True)
    logs = [np.log(w) + scipy.stats.multivariate_normal(m, c).logpdf(rows) for w, m, c in components]
    expected = np.argsort(scipy.special.logsumexp(logs, axis=0))[:200]
    assert len(np.unique(model.score_samples(rows[expected[:100]]).round(12))) == 1  # nothing but background
    for given in ({}, {"labels": np.where(np.arange(3300) == expected[0], 3, -1)}):
        found = model.outliers(CutRows(rows, [1000, 2500]), n=200, **given)
        np.testing.assert_array_equal(found.index, expected)
        np.testing.assert_allclose(found.log_density[1:], model.score_samples(rows[expected[1:]]), rtol=1e-12)


def test_rows_that_were_skipped_are_told_from_background():
    rows = noisy_rows()
    rows[5, 1] = np.nan
    model = dem.GaussianMixture(3, noise=True, missing="skip", random_state=0).fit(rows)
    labels, densities, proba = model.predict(rows), model.score_samples(rows), model.predict_proba(rows)
    assert labels[5] == -1
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(densities)), [5])
    assert np.isnan(proba[5]).all()
    background = (labels == -1) & ~np.isnan(densities)
    np.testing.assert_array_equal(background, np.nan_to_num(proba).argmax(axis=1) == 3)


def test_labels_of_the_background_are_written_as_such(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(300, 2)), rng.uniform(-20.0, 20.0, (60, 2))])
    model = dem.GaussianMixture(1, noise=True, random_state=0).fit(rows)
    model.predict_to(rows, str(tmp_path / "labels.zarr"))
    written = zarr.open_array(tmp_path / "labels.zarr", mode="r")[...]
    assert written.min() == -1
    np.testing.assert_array_equal(written, model.predict(rows))
