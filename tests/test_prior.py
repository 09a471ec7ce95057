"""Priors of means and covariances: mclust's numbers, the formulas, every algorithm, gaps, weights, files, the shell."""

import json

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from numpy.testing import assert_allclose
from scipy.stats import invgamma, invwishart, multivariate_normal
from scipy.stats import norm as normal

import dem
from dem.cli import dem as command
from dem.errors import DataError, OptionError
from tests.cases import chunk_of, gaussian_rows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
TYPES = ("full", "tied", "diag", "spherical")
# Of VVV, EEE, VVI and VII of mclust 6.0.0, `me` with `priorControl()`: log-likelihood; π, means and Σ of the first.
MCLUST = {
    "full": (
        -1130.5092636712,
        0.3560757295,
        [2.037034138, 54.485265031],
        [0.070668921, 0.47476864, 0.47476864, 32.060484427],
    ),
    "tied": (
        -1140.2609354816,
        0.3592427323,
        [2.046312439, 54.598070460],
        [0.130917054, 0.753347128, 0.753347128, 34.386613829],
    ),
    "diag": (-1229.2156899301, 0.3650802844, [2.073952975, 54.741255957], [0.549898280, 33.625156836]),
    "spherical": (-1709.5808296066, 0.3668862518, [2.097241923, 54.738181400], [16.883745650]),
}
GIVEN = {"mean": [0.3, -0.5, 1.0], "shrinkage": 0.7, "dof": 6.5}
SCALES = {
    "full": [[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 3.0]],
    "diag": [2.0, 1.0, 3.0],
    "spherical": 1.7,
}
SCALES["tied"] = SCALES["full"]


def mixture(kind="full", **more):
    return dem.GaussianMixture(
        3, covariance_type=kind, **{"reg_covar": 0.0, "random_state": 0, "prior": "default", **more}
    )


def given(kind):
    return {**GIVEN, "scale": SCALES[kind]}


@pytest.mark.parametrize("kind", TYPES)
def test_old_faithful_is_what_mclust_says(faithful, kind):
    fitted = dem.GaussianMixture(
        2, covariance_type=kind, prior="default", reg_covar=0.0, tol=1e-15, max_iter=1000, random_state=0
    ).fit(faithful)
    first = int(np.argmin(fitted.means_[:, 0]))
    log_likelihood, weight, mean, covariance = MCLUST[kind]
    assert fitted.score(faithful) * len(faithful) == pytest.approx(log_likelihood, abs=1e-6)
    assert fitted.weights_[first] == pytest.approx(weight, abs=1e-7)
    assert_allclose(fitted.means_[first], mean, rtol=1e-7)
    own = fitted.covariances_ if kind == "tied" else fitted.covariances_[first]
    assert_allclose(np.ravel(own), covariance, rtol=1e-6)
    assert_allclose(fitted.prior_mean_, faithful.mean(axis=0), rtol=1e-12)
    variance = np.var(faithful, axis=0, ddof=1)
    scale = {"diag": np.full(2, variance.mean()), "spherical": variance.mean()}
    assert_allclose(fitted.prior_scale_, scale.get(kind, np.cov(faithful.T)) / 2.0, rtol=1e-12)
    assert (fitted.prior_dof_, fitted.prior_shrinkage_) == (4.0, 0.01)


def log_prior(kind, fitted):
    """Return the log-density of a prior, by scipy."""
    mean, shrinkage, dof, scale = GIVEN["mean"], GIVEN["shrinkage"], GIVEN["dof"], SCALES[kind]
    total = 0.0
    matrices = [fitted.covariances_] if kind == "tied" else fitted.covariances_
    for own in matrices:
        if kind in ("full", "tied"):
            total += invwishart.logpdf(own, dof, scale)
        else:
            total += np.sum(invgamma.logpdf(own, dof / 2, scale=np.asarray(scale) / 2))
    for k, place in enumerate(fitted.means_):
        own = fitted.covariances_ if kind == "tied" else fitted.covariances_[k]
        if kind in ("full", "tied"):
            total += multivariate_normal.logpdf(place, mean, own / shrinkage)
        else:
            total += normal.logpdf(place, mean, np.sqrt(own / shrinkage)).sum()
    return total


@pytest.mark.parametrize("kind", TYPES)
def test_the_objective_carries_the_density_of_the_prior(kind):
    rows = gaussian_rows(300)

    def objective(n_iterations):
        options = {"prior": given(kind), "tol": 0.0, "init_params": "random"}
        fitted = mixture(kind, max_iter=n_iterations, **options).fit(rows)
        reached = mixture(kind, max_iter=n_iterations + 1, **options).fit(rows).lower_bound_ * len(rows)
        return reached - fitted.score(rows) * len(rows), log_prior(kind, fitted)

    (one, density), (other, later) = objective(1), objective(6)
    assert other - one == pytest.approx(later - density, rel=1e-8)  # but for a constant


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_no_parameters_near_by_are_more_probable(kind):
    rows = gaussian_rows(120)
    fitted = mixture(kind, prior=given(kind), tol=1e-14, max_iter=2000).fit(rows)
    family, parameters = fitted._model()

    def objective(vector):
        at = family.constrain(vector, parameters)
        return family.objective(family.e_step(at, chunk_of(rows)), at)

    here = family.unconstrain(parameters)
    rng, best = np.random.default_rng(0), objective(here)
    for _ in range(20):
        away = type(here)(1e-3 * rng.normal(size=here.own.shape), 1e-3 * rng.normal(size=here.shared.shape))
        assert objective(here + away) < best + 1e-9 * abs(best)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["auto", "incremental", "stepwise"])
@pytest.mark.parametrize("kind", TYPES)
def test_algorithms_end_where_batch_does_and_never_fall(kind, algorithm):
    rows = gaussian_rows(400)
    weights = np.random.default_rng(2).integers(1, 4, len(rows))
    options = {"tol": 1e-10, "max_iter": 150, "prior": given(kind)}
    batch = mixture(kind, **options).fit(rows, None, weights)
    fitted = mixture(kind, algorithm=algorithm, **options).fit(rows, None, weights)
    assert fitted.lower_bound_ == pytest.approx(batch.lower_bound_, abs=1e-7)
    assert np.diff(batch.lower_bounds_).min() > -1e-11
    assert np.diff(fitted.lower_bounds_[algorithm == "stepwise" :]).min() > -1e-11
    # Weights are repeated rows.
    repeated = mixture(kind, **options).fit(np.repeat(rows, weights, axis=0))
    assert repeated.lower_bound_ == pytest.approx(batch.lower_bound_, abs=1e-7)


@pytest.mark.parametrize("kind", TYPES)
def test_parameters_imply_the_rows_behind_them(kind):
    rows = gaussian_rows(200)
    family, parameters = mixture(kind, max_iter=3, tol=0.0, weight_concentration=2.0).fit(rows)._model()
    statistics = family.rebased(family.e_step(parameters, chunk_of(rows)), parameters)
    fitted = family.m_step(statistics, parameters)
    n = float(len(rows))
    implied = n * family.implied(fitted, n)
    assert_allclose(implied.components.counts, statistics.counts, rtol=1e-10)
    assert_allclose(implied.components.means, statistics.components.means, rtol=1e-8, atol=1e-10)
    again = family.m_step(implied, parameters)
    for name, value in family.to_user(fitted).items():
        assert_allclose(family.to_user(again)[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.slow
def test_units_and_features_that_are_far_away_do_not_matter():
    rows = gaussian_rows(300)
    factors = np.array([1e-3, 1.0, 1e6])
    for kind in ("full", "diag", "spherical"):
        options = {"scale": True, "max_iter": 5, "tol": 0.0}
        one, other = mixture(kind, **options).fit(rows), mixture(kind, **options).fit(rows * factors + 1e4)
        assert_allclose(other.means_ - 1e4, one.means_ * factors, rtol=1e-6)
    # What is known of units is known of the default prior too.
    assert_allclose(one.prior_scale_, np.mean(np.var(rows, axis=0, ddof=1) / np.var(rows, axis=0)) / 3 ** (2 / 3))


def test_components_of_few_rows_do_not_collapse():
    rows = np.concatenate([gaussian_rows(200), np.full((3, 3), 40.0)])
    start = {"means_init": [[0, 0, 0], [2, 2, 2], [40, 40, 40]]}
    with pytest.warns(dem.errors.ComponentWarning, match="collapsed"):
        dem.GaussianMixture(3, random_state=0, **start).fit(rows)
    fitted = mixture(**start).fit(rows)
    assert fitted.component_status_ == ["ok", "ok", "ok"]
    assert np.linalg.eigvalsh(fitted.covariances_).min() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sample_rows"), [*((kind, 50) for kind in TYPES), ("full", None)])
def test_the_moments_are_those_of_all_rows_with_gaps_and_weights(kind, sample_rows):
    rows = gaussian_rows(500).copy()
    rng = np.random.default_rng(0)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    weights = rng.integers(0, 3, len(rows))
    fitted = mixture(kind, missing="marginalise", max_iter=4, tol=0.0, sample_rows=sample_rows).fit(rows, None, weights)
    repeated = np.repeat(rows, weights, axis=0)
    mean, variance = np.nanmean(repeated, axis=0), np.nanvar(repeated, axis=0, ddof=1)
    assert_allclose(fitted.prior_mean_, mean, rtol=1e-12)
    shrink = 3 ** (-2 / 3)
    if kind in ("full", "tied"):
        assert_allclose(np.diag(fitted.prior_scale_), variance * shrink, rtol=1e-12)
        assert np.linalg.eigvalsh(fitted.prior_scale_).min() > 0.0
        centred = np.where(np.isnan(repeated), 0.0, repeated - mean)
        n = np.sum(~np.isnan(repeated), axis=0) - 1.0
        assert_allclose(fitted.prior_scale_, centred.T @ centred / np.sqrt(np.outer(n, n)) * shrink, rtol=1e-10)
    else:
        assert_allclose(np.max(fitted.prior_scale_), variance.mean() * shrink, rtol=1e-12)
    assert np.diff(fitted.lower_bounds_).min() > -1e-12


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_models_with_a_prior_are_saved_go_on_and_are_chosen(kind, tmp_path):
    rows = gaussian_rows(300)
    path = str(tmp_path / "model")
    whole = mixture(kind, prior=given(kind), max_iter=8, tol=0.0).fit(rows)
    part = mixture(kind, prior=given(kind), max_iter=4, tol=0.0, warm_start=True).fit(rows)
    part.save(path)
    loaded = dem.load(path)
    assert_allclose(loaded.prior["mean"], GIVEN["mean"])
    assert_allclose(loaded.prior["scale"], SCALES[kind])
    assert type(loaded.prior_dof_) is float
    assert_allclose(loaded.fit(rows).means_, whole.means_, rtol=1e-12)
    chosen = dem.select(rows, n_components=(2, 3), covariance_type=(kind, "full"), prior="default", random_state=0)
    alone = dem.GaussianMixture(2, covariance_type=kind, prior="default", random_state=0).fit(rows)
    assert_allclose(chosen.estimators[0].prior_scale_, alone.prior_scale_, rtol=1e-12)
    assert chosen.table[0]["bic"] == pytest.approx(alone.bic(rows), rel=1e-12)
    assert "_moments" not in vars(chosen.estimators[0])


@pytest.mark.slow
def test_a_stream_needs_a_prior_that_is_given():
    rows = gaussian_rows(600)
    with pytest.raises(OptionError, match="prior='default' needs all the data before the first step"):
        mixture().partial_fit(rows)
    with pytest.raises(OptionError, match="prior without scale needs all the data"):
        mixture(prior=GIVEN).partial_fit(rows)
    stream = mixture(prior=given("full"))
    for place in range(0, 600, 100):
        stream.partial_fit(rows[place : place + 100])
    fitted = mixture(prior=given("full")).fit(rows)
    assert stream.score(rows) == pytest.approx(fitted.score(rows), abs=0.1)
    # Many calls with hardly any rows leave what was learned.
    before = fitted.covariances_
    for place in range(20):
        fitted.partial_fit(rows[place : place + 1], sample_weight=[1e-6])
    assert_allclose(fitted.covariances_, before, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_student_t_has_the_prior_of_its_scale_matrices(kind):
    rows = gaussian_rows(300)
    options = {"covariance_type": kind, "prior": given(kind), "reg_covar": 0.0, "random_state": 0}
    fitted = dem.StudentTMixture(3, tol=0.0, max_iter=30, **options).fit(rows)
    assert np.diff(fitted.lower_bounds_).min() > -1e-12
    family, parameters = fitted._model()
    statistics = family.rebased(family.e_step(parameters, chunk_of(rows)), parameters)
    after = family.m_step(statistics, parameters)
    counts, sums = statistics.counts, statistics.components.gaussian
    weights = statistics.components.weights[:, np.newaxis]
    frame = family.component.gaussian.frame
    means = sums.means * frame.scale + frame.origin
    expected = (weights * means + GIVEN["shrinkage"] * np.array(GIVEN["mean"])) / (weights + GIVEN["shrinkage"])
    assert_allclose(family.to_user(after)["means"], expected, rtol=1e-10)
    assert counts.sum() == pytest.approx(len(rows))
    many = dem.StudentTMixture(3, dof=1e6, fit_dof="fixed", tol=0.0, max_iter=5, **options).fit(rows)
    gaussian = dem.GaussianMixture(3, tol=0.0, max_iter=5, **options).fit(rows)
    assert_allclose(many.covariances_, gaussian.covariances_, rtol=1e-3)


@pytest.mark.slow
def test_a_background_stands_beside_a_prior():
    rows = np.concatenate([gaussian_rows(300), np.random.default_rng(0).uniform(-20, 20, (40, 3))])
    fitted = mixture(noise=True, max_iter=30, tol=0.0, weight_concentration=2.0).fit(rows)
    assert np.diff(fitted.lower_bounds_).min() > -1e-12
    assert fitted.noise_weight_ > 0.03


def test_from_the_shell(tmp_path):
    rows = gaussian_rows(300)
    data, out = str(tmp_path / "rows.zarr"), str(tmp_path / "model.zarr")
    zarr.save(data, rows)
    arguments = ["fit", data, "-k", "3", "--prior", "default", "--seed", "0", "--out", out, "--json"]
    arguments += ["--weight-concentration", "3"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    fitted = dem.load(out)
    assert figures["log_posterior_per_row"] == fitted.lower_bound_
    assert fitted.weight_concentration == 3.0
    assert_allclose(fitted.prior_scale_, np.cov(rows.T) / 3 ** (2 / 3), rtol=1e-10)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"strength": 1.0}, "prior has no 'strength'; it has mean, shrinkage, dof, scale"),
        ({"mean": [1.0]}, r"prior's mean must be finite numbers of shape \(3,\)"),
        ({"shrinkage": -1.0}, "prior's shrinkage must not be negative, not -1"),
        ({"dof": 2.0}, "prior's dof must be more than 2 for full covariances, not 2"),
        (
            {"mean": 5.0, "shrinkage": 1.0, "dof": 9.0, "scale": np.eye(2)},
            "prior's mean must be finite numbers of shape",
        ),
        ({"scale": -np.eye(3)}, "prior's scale for full covariances must be symmetric and positive semi-definite"),
        ({"scale": 1.0}, r"prior's scale for full covariances must be finite numbers of shape \(3, 3\)"),
    ],
)
def test_what_cannot_be_a_prior_is_refused(prior, message):
    with pytest.raises(OptionError, match=message):
        mixture(prior=prior).fit(gaussian_rows(50))


@pytest.mark.filterwarnings("ignore::dem.errors.DataWarning")
def test_a_column_that_is_hardly_observed_has_no_default_prior():
    rows = gaussian_rows(50).copy()
    rows[1:, 2] = np.nan
    with pytest.raises(DataError, match=r"prior='default' needs more than one observed value.*column 2"):
        mixture(missing="marginalise").fit(rows)
    fitted = dem.GaussianMixture(2, random_state=0).fit(gaussian_rows(50))
    fitted.set_params(prior="default")
    with pytest.raises(OptionError, match="fitted without a prior"):
        fitted.predict(gaussian_rows(50))
