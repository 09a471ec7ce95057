"""mclust's models of equal or varying volume, shape and orientation: its values, their M-steps, what is refused.

`MCLUST` is what R says (mclust 6.0.0), of the classes setosa and others (K = 2) and of the species (K = 3), to::

    control <- emControl(tol = c(1e-15, 1e-15), itmax = c(100000, 100000), eps = 0)
    fit <- me(as.matrix(iris[, 1:4]), modelName, unmap(classes), control = control)
    c(fit$loglik, nMclustParams(modelName, 4, K))
"""

from __future__ import annotations

import numpy as np
import pytest
from cases import chunk_of, gaussian_rows
from click.testing import CliRunner
from scipy.optimize import minimize
from sklearn.datasets import load_iris

import dem
from dem.cli import dem as command
from dem.errors import FitError, OptionError
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.gaussian.eigen import STRUCTURES
from dem.families.mixture import Mixture

MCLUST = {
    "EII": ((-536.652471381, 10), (-401.802175789, 15)),
    "VII": ((-478.559095769, 11), (-384.314095061, 17)),
    "EEI": ((-488.914818690, 13), (-361.425522043, 18)),
    "VEI": ((-443.066687377, 14), (-339.468727261, 20)),
    "EVI": ((-463.569029639, 16), (-340.085580737, 24)),
    "VVI": ((-386.185346934, 17), (-306.860460506, 26)),
    "EEE": ((-296.447574769, 19), (-256.354043126, 24)),
    "VEE": ((-278.057149777, 20), (-237.560162796, 26)),
    "EVE": ((-273.496150571, 22), (-234.140235060, 30)),
    "VVE": ((-244.971848655, 23), (-215.240870340, 32)),
    "EEV": ((-259.666908523, 25), (-214.850378873, 36)),
    "VEV": ((-215.725972234, 26), (-186.073283404, 38)),
    "EVV": ((-259.016421310, 28), (-205.535880817, 42)),
    "VVV": ((-214.354704371, 29), (-180.185477131, 44)),
}
NAMES = list(MCLUST)
# fit$parameters$variance$scale, fit$parameters$variance$shape, fit$parameters$pro of "VEV" for the species
VEV_SCALE = [0.0374877889, 0.0577899714, 0.1142912108]
VEV_SHAPE = [6.861769482, 1.012026449, 0.626531765, 0.229841750]
VEV_PRO = [0.333333333, 0.300018133, 0.366648534]


def iris(size):
    """Return rows and the start."""
    rows, species = load_iris(return_X_y=True)
    classes = species if size == 3 else np.minimum(species, 1)
    return rows, np.eye(size)[classes]


def fitted(name, size):
    """Return a mixture, and the parameters and statistics where EM from the start stands still."""
    rows, start = iris(size)
    family = Mixture(COVARIANCE_TYPES[name](reg_covar=0.0).adapted_to(rows))
    parameters, found = family.start(rows, start), [-np.inf]
    while True:
        statistics = family.e_step(parameters, chunk_of(rows))
        found.append(statistics.log_likelihood)
        assert found[-1] > found[-2] - 1e-10, "EM is monotone"
        if found[-1] - found[-2] < 1e-9:
            return family, parameters, statistics
        parameters = family.m_step(statistics, parameters)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_iris_as_mclust_fits_it(name, size):
    family, parameters, statistics = fitted(name, size)
    theirs, n_parameters = MCLUST[name][size - 2]
    assert family.n_parameters(parameters) == n_parameters
    if name == "VVE":  # where mclust ends, the likelihood still rises; see the test below
        assert statistics.log_likelihood > theirs + 0.4
    else:
        assert statistics.log_likelihood == pytest.approx(theirs, abs=1e-6)


@pytest.mark.slow
def test_iris_under_vve_is_at_a_maximum():
    """mclust 6.0.0 ends below one: its likelihood falls with a smaller tolerance. So this is compared with BFGS."""
    family, parameters, statistics = fitted("VVE", 2)
    rows, values = iris(2)[0], family.to_user(parameters)
    # About the fit: all of weights, means, logarithms of variances and angles of the axes are moved at once.
    axes = np.linalg.eigh(np.tensordot([1.0, 0.4], values["covariances"], axes=1))[1]
    logs = np.log(np.diagonal(axes.T @ values["covariances"] @ axes, axis1=1, axis2=2))

    def lost(x):
        share, means, variances, angles = np.split(x, [1, 9, 17])
        turned = axes @ rotations(angles[np.newaxis], 4)[0]
        away = (rows[:, np.newaxis] - values["means"] - means.reshape(2, 4)) @ turned
        logarithms = logs + variances.reshape(2, 4)
        joint = -0.5 * np.sum(away**2 / np.exp(logarithms) + logarithms + np.log(2 * np.pi), axis=2)
        joint += np.log(values["weights"]) + np.array([share[0], 0.0])
        return np.log1p(np.exp(share[0]) * values["weights"][0] - values["weights"][0]) * len(rows) - np.sum(
            np.logaddexp(joint[:, 0], joint[:, 1])
        )

    assert lost(np.zeros(23)) == pytest.approx(-statistics.log_likelihood, abs=1e-8)
    found = minimize(lost, np.random.default_rng(0).normal(scale=0.05, size=23), method="BFGS", options={"gtol": 1e-3})
    assert -found.fun == pytest.approx(statistics.log_likelihood, abs=1e-4)


def rotations(numbers, d):
    """Return Cayley's rotation of each row of numbers, those above the diagonal of an antisymmetric matrix."""
    matrices = np.zeros((len(numbers), d, d))
    matrices[:, *np.triu_indices(d, 1)] = numbers
    matrices -= matrices.swapaxes(1, 2)
    return np.linalg.solve(np.eye(d) + matrices, np.eye(d) - matrices)


def parts(name, x, n, d, axes):
    """Return covariances of a structure from any numbers: those of volumes, shapes, and angles away from axes."""
    sizes = {"E": 1, "V": n, "I": 0}
    counts = [sizes[name[0]], sizes[name[1]] * (d - 1), sizes[name[2]] * d * (d - 1) // 2]
    volumes, shapes, angles = np.split(x[: sum(counts)], np.cumsum(counts)[:-1])
    volumes = np.broadcast_to(volumes, n)
    shapes = np.broadcast_to(shapes.reshape(-1, d - 1), (n, d - 1)) if len(shapes) else np.zeros((n, d - 1))
    shapes = np.hstack([shapes, -shapes.sum(axis=1, keepdims=True)])
    turned = np.broadcast_to(axes, (n, d, d))
    if len(angles):
        turned = turned @ rotations(angles.reshape(sizes[name[2]], -1), d)
    return turned @ (np.exp(volumes[:, np.newaxis] + shapes)[:, :, np.newaxis] * turned.swapaxes(1, 2)), sum(counts)


@pytest.mark.parametrize("name", STRUCTURES)
def test_m_steps_are_those_of_bfgs(name):
    """Over volumes, shapes and rotations as free numbers, as many as the model has parameters."""
    n, d, rng = 2, 3, np.random.default_rng(5)
    roots = rng.normal(size=(n, 10, d)) * [1.0, 2.0, 4.0]
    matrices, counts = roots.swapaxes(1, 2) @ roots, np.array([10.0, 30.0])
    aligned = name.endswith("I")
    scatter = np.diagonal(matrices, axis1=1, axis2=2) if aligned else matrices
    ours = STRUCTURES[name].covariances(scatter, counts, None)
    ours = ours[:, :, np.newaxis] * np.eye(d) if aligned else ours
    full = scatter[:, :, np.newaxis] * np.eye(d) if aligned else scatter
    starts = {"I": np.eye(d), "E": np.linalg.eigh(full.sum(axis=0))[1], "V": np.linalg.eigh(full)[1]}

    def lost(covariances):
        squares = np.trace(np.linalg.solve(covariances, full), axis1=1, axis2=2)
        return 0.5 * np.sum(counts * np.linalg.slogdet(covariances)[1] + squares)

    def of_numbers(x):
        return lost(parts(name, x, n, d, starts[name[2]])[0])

    n_numbers = parts(name, np.zeros(99), n, d, starts[name[2]])[1]
    family = COVARIANCE_TYPES[name]()
    parameters = family.structured(np.zeros((n, d)), scatter, counts)
    assert family.n_parameters(parameters) == n * d + n_numbers
    found = minimize(of_numbers, np.full(n_numbers, 0.1), method="BFGS", options={"gtol": 1e-3})
    assert lost(ours) == pytest.approx(found.fun, abs=1e-5)


def test_names_of_mclust_for_the_types_of_scikit_learn():
    rows = gaussian_rows(100)
    for name, other in {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical"}.items():
        assert COVARIANCE_TYPES[name] is COVARIANCE_TYPES[other]
        one, two = (dem.GaussianMixture(covariance_type=kind).fit(rows) for kind in (name, other))
        np.testing.assert_array_equal(one.covariances_, two.covariances_)
        assert one.bic(rows) == two.bic(rows)
    for name, other in {"E": "tied", "V": "full"}.items():
        one, two = (
            dem.GaussianMixture(2, covariance_type=kind, random_state=0).fit(rows[:, :1]) for kind in (name, other)
        )
        assert one.covariances_.shape == (2, 1)
        assert one.bic(rows[:, :1]) == pytest.approx(two.bic(rows[:, :1]), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"algorithm": "auto"}, {"algorithm": "incremental"}, {"scale": True}], ids=str)
@pytest.mark.parametrize("name", [name for name in STRUCTURES if name not in ("EII", "EEI", "EEV")])
def test_what_is_equal_is_equal(name, options):
    rows = gaussian_rows(400) * [1.0, 3.0, 0.5]
    model = dem.GaussianMixture(3, covariance_type=name, random_state=0, tol=1e-6, **options).fit(rows)
    of_letters = zip(name, (model.volumes_, model.shapes_, model.orientations_), strict=True)
    for letter, values in of_letters:
        if letter == "I":
            np.testing.assert_array_equal(values, np.broadcast_to(np.eye(3), values.shape))
        else:
            assert (np.ptp(values, axis=0).max() < 1e-7) == (letter == "E"), name
    units = model.feature_scales_ if options.get("scale") and STRUCTURES[name].isotropic else np.ones(3)
    axes = model.orientations_ * units[:, np.newaxis]
    variances = model.volumes_[:, np.newaxis] * model.shapes_
    whole = axes @ (variances[:, :, np.newaxis] * axes.swapaxes(1, 2))
    ours = model.covariances_
    np.testing.assert_allclose(whole, ours if ours.ndim == 3 else ours[:, :, np.newaxis] * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.prod(model.shapes_, axis=1), 1.0, rtol=1e-10)


def test_a_fit_is_the_one_that_mclust_prints():
    """`me("VEV", …)` of three classes: its parameters, in `fit$parameters$variance` scale, shape and pro."""
    rows, start = iris(3)
    shares = start.mean(axis=0)
    means = (start.T @ rows) / start.sum(axis=0)[:, np.newaxis]
    within = [np.cov(rows[own > 0].T, ddof=0) for own in start.T]
    given = {"weights_init": shares, "means_init": means, "precisions_init": np.linalg.inv(within)}
    model = dem.GaussianMixture(3, covariance_type="VEV", reg_covar=0.0, tol=1e-11, max_iter=500, **given).fit(rows)
    log_likelihood, n_parameters = MCLUST["VEV"][1]
    assert model.bic(rows) == pytest.approx(-2.0 * log_likelihood + n_parameters * np.log(150), abs=1e-5)
    np.testing.assert_allclose(model.volumes_, VEV_SCALE, rtol=2e-5)
    np.testing.assert_allclose(model.shapes_, np.tile(VEV_SHAPE, (3, 1)), rtol=2e-5)
    np.testing.assert_allclose(model.weights_, VEV_PRO, rtol=2e-5)


@pytest.mark.slow
def test_select_makes_the_table_of_mclust():
    rows = gaussian_rows(500)
    chosen = dem.select(rows, n_components=[1, 2, 3], covariance_type=NAMES, random_state=0)
    assert len(chosen.table) == 3 * 14
    alone = dem.GaussianMixture(3, covariance_type="VEE", random_state=0).fit(rows)
    found = next(row for row in chosen.table if (row["covariance_type"], row["n_components"]) == ("VEE", 3))
    assert found["bic"] == pytest.approx(alone.bic(rows), rel=1e-9)
    # All models go through each read together: as many as the slowest needs, and one for the criteria.
    assert chosen.reads < 60


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_weights_gaps_and_labels(name):
    """Rows of weight 2 are two rows, with gaps too."""
    rows = gaussian_rows(150)
    gaps = np.where(np.random.default_rng(3).random(rows.shape) < 0.1, np.nan, rows)
    weights = 1.0 + np.arange(150) % 2
    given = {"means_init": [[0.0, 0.0, 1.0], [5.0, 1.0, -2.0], [-4.0, 6.0, 0.0]], "weights_init": [0.5, 0.3, 0.2]}
    shape = (3, 3) if name.endswith("I") else (3, 3, 3)
    given["precisions_init"] = np.broadcast_to(np.ones(3) if name.endswith("I") else np.eye(3), shape)
    options = {"missing": "marginalise", "covariance_type": name, "max_iter": 8, "tol": 0.0, **given}
    model = dem.GaussianMixture(3, **options)
    labels = np.where(np.arange(150) % 10, -1, 0)
    with pytest.warns(UserWarning, match="did not converge"):
        one = model.fit(gaps, sample_weight=weights, labels=labels)
    with pytest.warns(UserWarning, match="did not converge"):
        two = dem.GaussianMixture(3, **options).fit(
            gaps.repeat(weights.astype(int), axis=0), labels=labels.repeat(weights.astype(int))
        )
    np.testing.assert_allclose(one.covariances_, two.covariances_, rtol=1e-8, atol=1e-10)
    assert np.diff(one.lower_bounds_).min() > -1e-5


@pytest.mark.parametrize("name", ["VEI", "VEE", "EVE", "VVE", "VEV", "EVV"])
def test_a_component_without_rows_keeps_its_place(name):
    rows = gaussian_rows(300)
    family = Mixture(COVARIANCE_TYPES[name]().adapted_to(rows))
    start = family.start(rows, np.eye(3)[np.arange(300) % 3])
    far = family.from_user({**family.to_user(start), "means": [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1e9, 0.0, 0.0]]})
    statistics = family.e_step(far, chunk_of(rows))
    assert statistics.counts[2] < 1e-30
    after = family.m_step(statistics, far)
    np.testing.assert_array_equal(after.components.means[2], far.components.means[2])
    assert np.isfinite(after.components.covariances).all()
    again = family.e_step(after, chunk_of(rows))
    assert again.log_likelihood > statistics.log_likelihood


def test_precisions_that_the_structure_does_not_admit_begin_at_the_nearest():
    rng, rows = np.random.default_rng(0), gaussian_rows(400)
    roots = rng.normal(size=(3, 3, 3)) + 2.0 * np.eye(3)
    model = dem.GaussianMixture(3, covariance_type="EVE", precisions_init=roots @ roots.swapaxes(1, 2), max_iter=0)
    model.set_params(means_init=rows[:3], weights_init=np.ones(3) / 3).fit(rows)
    assert np.ptp(model.volumes_) < 1e-9
    kept = dem.GaussianMixture(3, covariance_type="EVE", precisions_init=model.precisions_, max_iter=0)
    kept.set_params(means_init=rows[:3], weights_init=np.ones(3) / 3).fit(rows)
    np.testing.assert_allclose(kept.precisions_, model.precisions_, rtol=1e-9, atol=1e-9)


def test_what_is_refused():
    rows = gaussian_rows(100)
    model = dem.GaussianMixture(2, covariance_type="VVV", warm_start=True, scale=True, random_state=0).fit(rows)
    with pytest.raises(OptionError, match="the fitted model, which is to go on, has covariances that are not VEV"):
        model.set_params(covariance_type="VEV").fit(rows)
    with pytest.raises(OptionError, match="covariance_type='E' is for one feature; for 3 take 'EII', 'EEI' or 'EEE'"):
        dem.GaussianMixture(2, covariance_type="E").fit(rows)
    with pytest.raises(OptionError, match=r"prior goes with full, tied, diag and spherical .* not with VEV"):
        dem.GaussianMixture(2, covariance_type="VEV", prior="default").fit(rows)
    with pytest.raises(ValueError, match="'covariance_type' parameter"):
        dem.StudentTMixture(2, covariance_type="VEV").fit(rows)
    with pytest.raises(AttributeError, match="not fitted"):
        dem.GaussianMixture(2, covariance_type="VEV").volumes_  # noqa: B018 - it raises


@pytest.mark.filterwarnings("ignore:column 0")
@pytest.mark.parametrize("name", ["EVI", "VEI", "VVE", "EVE", "VEE", "EEV", "VEV", "EVV"])
def test_a_scatter_without_some_direction_is_named(name):
    """Four rows in five features, without a ridge."""
    rows = np.random.default_rng(0).normal(size=(4, 5))
    rows[:, 0] = 1.0
    with pytest.raises(FitError, match=r"ill-defined .* (component \d|what all components share)"):
        dem.GaussianMixture(2, covariance_type=name, reg_covar=0.0, random_state=0).fit(rows)


def test_the_shell_says_whose_names_they_are(tmp_path):
    np.save(tmp_path / "x.npy", gaussian_rows(50))
    given = ["fit", str(tmp_path / "x.npy"), "--components", "2", "--family", "student_t", "--covariance"]
    found = CliRunner().invoke(command, [*given, "VEV"])
    assert (found.exit_code, "--covariance VEV is for --family gaussian" in found.output) == (2, True)
    assert "--covariance" not in CliRunner().invoke(command, [*given, "diag"]).output


def test_a_picture_of_many_shapes_tells_them_apart():
    table = [{"n_components": k, "covariance_type": name, "bic": float(k)} for name in NAMES for k in (1, 2)]
    axes = dem.plot.selection(table).axes[0]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines[:14]}
    assert (len(looks), axes.get_title(loc="left")) == (14, "Best: 1 component, EII")
