"""What is said of components that are empty, collapsed or duplicates; expected values from their definitions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from cases import gaussian_rows
from click.testing import CliRunner

import dem
from dem.cli.main import dem as shell
from dem.errors import ComponentWarning, DataWarning, StoreError
from dem.families.exponential import ExponentialComponent
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.gaussian.covariance import GaussianParameters
from dem.families.geometric import GeometricComponent
from dem.families.poisson import PoissonComponent
from dem.families.status import NEIGHBOURS, SAME, component_status
from dem.store import read, write

TYPES = ("full", "tied", "diag", "spherical")
IGNORED = pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")


def eye(covariance_type, n_components, n_features=2):
    """Unit precisions."""
    shapes = {"full": np.tile(np.eye(n_features), (n_components, 1, 1)), "tied": np.eye(n_features)}
    ones = {"diag": np.ones((n_components, n_features)), "spherical": np.ones(n_components)}
    return {**shapes, **ones}[covariance_type]


def two_clusters(n=300):
    rng = np.random.default_rng(1)
    return np.concatenate([rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + 8.0])


@IGNORED
@pytest.mark.reliability(
    fault="components lose their rows, collapse onto one row, or come to the same density",
    sees="component 2 is empty: less than half a row belongs to it: …; `component_status_` has a word for each",
    lost="nothing: parameters are finite",
    recovery="another fit with fewer components, another start, or `reseed=3`",
)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_each_component_gets_its_word(covariance_type):
    rows = np.concatenate([two_clusters(), [[1000.0, 1000.0]]])
    means = [[0, 0], [8, 8], [1e6, -1e6], [1000, 1000], [8, 8]]
    model = dem.GaussianMixture(
        5,
        covariance_type=covariance_type,
        means_init=means,
        weights_init=[0.3, 0.2, 0.1, 0.1, 0.3],
        precisions_init=eye(covariance_type, 5),
        max_iter=5,
    )
    with pytest.warns(ComponentWarning, match="^component 2 is empty: less than half a row belongs to it; .*reseed=3"):
        model.fit(rows)
    single = "ok" if covariance_type == "tied" else "collapsed"  # the covariance of all is not that of one row
    assert model.component_status_ == ["ok", "ok", "empty", single, "duplicate of 1"]
    assert all(np.isfinite(getattr(model, f"{name}_")).all() for name in model._parameter_names)


@IGNORED
def test_a_component_of_one_row_is_no_empty_one():
    rows = np.concatenate([two_clusters(), [[1000.0, 1000.0]]])
    model = dem.GaussianMixture(3, means_init=[[0, 0], [8, 8], [1000, 1000]], reg_covar=0.5)
    with pytest.warns(ComponentWarning, match="^component 2 is collapsed onto rows that hardly differ in some"):
        model.fit(rows)
    assert model.weights_[2] == pytest.approx(1 / len(rows), rel=1e-9)
    np.testing.assert_allclose(model.covariances_[2], 0.5 * np.eye(2), rtol=1e-9, atol=1e-20)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reg_covar", [1e-6, 0.4, 3.0])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_collapsed_is_where_a_variance_is_the_ridge(covariance_type, reg_covar):
    rows = gaussian_rows(600) * [1.0, 0.3, 20.0]
    model = dem.GaussianMixture(3, covariance_type=covariance_type, reg_covar=reg_covar, random_state=0).fit(rows)
    least = {
        "full": lambda c: np.linalg.eigvalsh(c)[:, 0],
        "tied": lambda c: np.full(3, np.linalg.eigvalsh(c)[0]),
        "diag": lambda c: c.min(axis=1),
        "spherical": lambda c: c,
    }[covariance_type](model.covariances_)
    assert [word == "collapsed" for word in model.component_status_] == (least <= reg_covar / 0.9).tolist()


@pytest.mark.parametrize(
    ("component", "parameters", "density", "points"),
    [
        (PoissonComponent(), [[0.7], [3.0]], scipy.stats.poisson.logpmf, range(80)),
        (GeometricComponent(), [[0.7], [0.2]], lambda k, p: k * np.log1p(-p) + np.log(p), range(400)),
    ],
)
def test_divergence_of_counts(component, parameters, density, points):
    points, parameters = np.array(points), np.array(parameters)
    one, other = density(points, parameters[0]), density(points, parameters[1])
    wanted = np.sum((np.exp(one) - np.exp(other)) * (one - other))
    found = component.divergence(parameters, np.array([[0, 1], [1, 1]]), SAME)
    np.testing.assert_allclose(found, [wanted, 0.0], rtol=1e-9)


def test_divergence_of_waiting_times():
    rates = np.array([[0.5], [4.0]])

    def integrand(x):
        p, q = (rate * np.exp(-rate * x) for rate in rates[:, 0])
        return (p - q) * (np.log(p) - np.log(q))

    wanted, _ = scipy.integrate.quad(integrand, 0.0, 100.0, limit=200)
    np.testing.assert_allclose(ExponentialComponent().divergence(rates, np.array([[0, 1]]), SAME), wanted, rtol=1e-8)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_divergence_of_gaussians(covariance_type):
    rng = np.random.default_rng(0)
    component = COVARIANCE_TYPES[covariance_type]()
    half = rng.normal(size=(2, 3, 3))
    matrices = half @ half.swapaxes(1, 2) + np.eye(3)
    given = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.diagonal(matrices, axis1=1, axis2=2),
        "spherical": matrices[:, 0, 0],
    }[covariance_type]
    whole = {
        "full": matrices,
        "tied": matrices[[0, 0]],
        "diag": np.array([np.diag(np.diag(matrix)) for matrix in matrices]),
        "spherical": np.array([matrix[0, 0] * np.eye(3) for matrix in matrices]),
    }[covariance_type]
    precisions = np.linalg.inv(whole)
    shapes = {"full": precisions, "tied": precisions[0], "diag": np.diagonal(precisions, axis1=1, axis2=2)}
    _, factors = component.from_precisions(shapes.get(covariance_type, precisions[:, 0, 0]))
    means = rng.normal(size=(2, 3))
    away = means[0] - means[1]
    wanted = 0.5 * np.trace(whole[0] @ precisions[1] + whole[1] @ precisions[0]) - 3.0
    wanted += 0.5 * away @ (precisions[0] + precisions[1]) @ away
    found = component.divergence(GaussianParameters(means, given, factors), np.array([[0, 1], [1, 1]]), np.inf)
    np.testing.assert_allclose(found, [wanted, 0.0], rtol=1e-10, atol=1e-12)


def test_thousands_of_components_are_not_compared_with_one_another():
    rng = np.random.default_rng(0)
    rates = rng.uniform(1.0, 50.0, size=(3000, 4))
    rates[2500] = rates[17]
    pairs = []

    class Counting(PoissonComponent):
        def divergence(self, parameters, some, enough):
            pairs.append(len(some))
            return super().divergence(parameters, some, enough)

    found = component_status(Counting(), rates, np.full(3000, 1 / 3000), 1e6)
    assert [k for k, word in enumerate(found) if word != "ok"] == [2500]
    assert found[2500] == "duplicate of 17"
    assert sum(pairs) <= NEIGHBOURS * 3000


def test_weights_that_are_fixed_tell_nothing_of_rows():
    rates = np.array([[1.0], [500.0]])
    assert component_status(PoissonComponent(), rates, None, 10.0) == ("ok", "ok")
    assert component_status(PoissonComponent(), rates, np.array([0.99, 0.01]), 10.0) == ("ok", "empty")


@pytest.mark.filterwarnings("ignore:Best performing|component 1 is collapsed")
def test_waiting_times_that_are_all_zero():
    rows = np.concatenate([np.random.default_rng(0).exponential(size=(50, 1)), np.zeros((50, 1))])
    model = dem.ExponentialMixture(2, rates_init=[[1.0], [1e9]]).fit(rows)
    assert model.component_status_ == ["ok", "collapsed"]
    assert np.isfinite(model.rates_).all()


@pytest.mark.filterwarnings("ignore:column 1 of")
def test_a_column_that_is_constant_is_the_fault_of_no_component():
    rows = two_clusters()
    rows[:, 1] = 3.0
    with pytest.warns(ComponentWarning, match="^in some direction reg_covar=1e-06 is most of the variance of every"):
        dem.GaussianMixture(2, random_state=0).fit(rows)


@pytest.mark.filterwarnings("ignore:Best performing")
def test_an_outlier_that_is_the_unit_of_its_column_is_named():
    rows = np.vstack([two_clusters(), [1e6, 0.0]])
    model = dem.GaussianMixture(4, covariance_type="diag", scale=True, random_state=0)
    last = len(rows) - 1
    with (
        pytest.warns(DataWarning, match=rf"^the value 1e\+06 in row {last}, column 0 .* reg_covar hides the others"),
        pytest.warns(
            ComponentWarning, match=r"a few values so far out .* drop such a column or such rows, or decrease"
        ),
    ):
        model.fit(rows)
    assert set(model.component_status_) == {"collapsed"}


@pytest.mark.filterwarnings("ignore:.*only 2 distinct rows")
def test_clusters_without_rows():
    rows = np.repeat([[1.0, 2.0], [3.0, 4.0]], 5, axis=0)
    with pytest.warns(ComponentWarning, match="^cluster [012] is empty: .*: take fewer clusters or another start"):
        model = dem.KMeans(3, random_state=0).fit(rows)
    assert sorted(model.component_status_) == ["empty", "ok", "ok"]
    counts = np.bincount(model.labels_, minlength=3)
    assert [word == "empty" for word in model.component_status_] == (counts == 0).tolist()


@IGNORED
@pytest.mark.filterwarnings("ignore:component 2 is empty")
def test_models_on_disk_keep_it(tmp_path):
    options = {"weights_init": [0.5, 0.5, 0.0], "precisions_init": eye("full", 3)}
    model = dem.GaussianMixture(3, means_init=[[0, 0], [8, 8], [99, -99]], **options).fit(two_clusters())
    path = str(tmp_path / "model.zarr")
    model.save(path)
    assert dem.load(path).component_status_ == ["ok", "ok", "empty"]
    arrays, attributes = read(path)
    attributes["fitted"]["component_status_"] = ["ok"]
    write(path, arrays, attributes, overwrite=True)
    with pytest.raises(StoreError, match="1 words tell of 3 components"):
        dem.load(path)


def test_the_shell_names_them(tmp_path):
    path = str(tmp_path / "x.zarr")
    import zarr

    zarr.save_array(path, np.repeat([[1.0, 2.0], [3.0, 5.0]], 50, axis=0))
    run = CliRunner().invoke(shell, ["fit", path, "--components", "3", "--seed", "0", "--json"])
    assert run.exit_code == 0, run.output
    figures = json.loads(run.stdout)
    assert sorted(figures["component_status"]) == ["collapsed", "collapsed", "empty"]
    assert "--scale, if some columns are that small, a larger reg_covar or --reseed 3" in run.stderr
    shown = CliRunner().invoke(shell, ["fit", path, "--components", "3", "--seed", "0"])
    assert "status" in shown.stdout
    assert "empty" in shown.stdout


def test_an_estimator_that_is_interrupted_knows_it_too():
    def stop(event):
        if getattr(event, "iteration", 0) == 2:
            raise KeyboardInterrupt

    model = dem.GaussianMixture(2, random_state=0, tol=0.0, callbacks=[stop])
    with pytest.raises(KeyboardInterrupt):
        model.fit(two_clusters())
    assert model.component_status_ == ["ok", "ok"]


def test_parameters_that_are_no_numbers_are_no_duplicates():
    rates = np.array([[np.inf], [np.inf], [1.0]])
    assert component_status(PoissonComponent(), rates, np.full(3, 1 / 3), 10.0) == ("ok", "ok", "ok")


@pytest.mark.filterwarnings("ignore:Best performing|The chosen model did not converge|.* distinct rows|column 1")
def test_a_chosen_model_tells_too():
    rows = two_clusters()
    rows[:, 1] = 2.0
    with pytest.warns(ComponentWarning, match="^of the chosen model in some direction reg_covar"):
        chosen = dem.select(rows, n_components=[1, 2], random_state=0)
    assert set(chosen.best_estimator_.component_status_) == {"collapsed"}


def test_rows_of_a_stream_are_counted_from_its_beginning():
    """A component with a hundredth of all rows is not empty because the last 20 rows have none of it."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(9900, 1)), rng.normal(size=(100, 1)) + 50.0])
    model = dem.GaussianMixture(2, means_init=[[0.0], [50.0]], random_state=0).partial_fit(rng.permutation(rows))
    model.partial_fit(rows[:20])
    assert model.weights_[1] * 20 < 0.5
    assert model.component_status_ == ["ok", "ok"]
