"""`reseed=`: components of no use begin anew at the rows of lowest density."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from agreement import assert_same_bits
from cases import CASES
from sklearn.exceptions import ConvergenceWarning
from sources import CutRows
from test_checkpoints import history, interrupted

import dem
from dem.data.base import Chunk
from dem.data.joined import table_of
from dem.em.algorithm import Batch, Settings, Start
from dem.em.loop import run
from dem.em.reseed import least_likely, reseeded, useless
from dem.engine import LocalEngine
from dem.errors import ComponentWarning, OptionError
from dem.events import IterationEnded

EDGES = list(range(100, 900, 100))
NAMES = ("weights_", "means_", "covariances_", "lower_bounds_", "n_iter_", "component_status_")


def three_clusters():
    rng = np.random.default_rng(1)
    centres = np.repeat([[0.0, 0.0], [8.0, 8.0], [0.0, 20.0]], 300, axis=0)
    return rng.permutation(centres + rng.normal(size=(900, 2)))


def dead_start(**options):
    """A mixture whose third component is where no row is."""
    start = {"means_init": [[0, 0], [8, 8], [1e6, -1e6]], "weights_init": [0.5, 0.5, 0.0]}
    return dem.GaussianMixture(3, **start, precisions_init=np.tile(np.eye(2), (3, 1, 1)), **options)


@pytest.mark.reliability(
    fault="a component is dead, with `reseed=3`",
    sees="component 2 begins anew; its iteration in `history_` has `'reseeded': [2]`",
    lost="nothing: the log-likelihood may be lower once",
    recovery="the passes that the component takes to find its place",
)
@pytest.mark.parametrize("way", [{}, {"accelerate": "squarem"}, {"algorithm": "auto"}])
def test_a_dead_component_finds_the_rows_that_nobody_explains(way):
    model = dead_start(reseed=3, **way).fit(three_clusters())
    assert model.component_status_ == ["ok", "ok", "ok"]
    np.testing.assert_allclose(sorted(model.weights_), 1 / 3, atol=0.01)
    np.testing.assert_allclose(sorted(model.means_[:, 1]), [0.0, 8.0, 20.0], atol=0.2)
    assert [(one["iteration"], one["reseeded"]) for one in model.history_ if "reseeded" in one] == [(2, [2])]
    with pytest.warns(ComponentWarning, match="component 2 is empty"):
        without = dead_start(**way).fit(three_clusters())
    assert model.lower_bound_ > without.lower_bound_ + 0.5


def test_where_it_begins():
    """At the row of lowest density, with the weighted mean of the covariances of the others and half of 1/K."""
    rows, told = three_clusters(), []
    dead_start(reseed=1, callbacks=[told.append]).fit(rows)
    steps = [event for event in told if isinstance(event, IterationEnded)]
    before, begun = (step.family.to_user(step.parameters) for step in steps[:2])
    densities = [
        weight * scipy.stats.multivariate_normal(mean, covariance).pdf(rows)
        for weight, mean, covariance in zip(before["weights"], before["means"], before["covariances"], strict=True)
    ]
    lowest = rows[np.argmin(np.sum(densities, axis=0))]
    np.testing.assert_allclose(begun["means"][2], lowest, rtol=1e-12)
    assert begun["weights"][2] == pytest.approx(1 / 6, rel=1e-12)
    # the others have taken an M-step meanwhile, by which the covariance is pooled, and have one ridge more in it
    shares = begun["weights"][:2] / begun["weights"][:2].sum()
    pooled = np.tensordot(shares, begun["covariances"][:2], axes=1) + 1e-6 * np.eye(2)
    np.testing.assert_allclose(begun["covariances"][2], pooled, rtol=1e-9)
    assert begun["weights"].sum() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.filterwarnings("ignore:Best performing initialization did not converge")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_family_begins_anew(case):
    """A duplicate goes to the rows that are least likely, and the mixture stays one."""
    rows = case.data()
    model = case.estimator(max_iter=3).fit(rows)
    family, parameters = model._model()
    twice = family.reseeded(parameters, np.array([1]), Chunk(rows[:1], range(1)))
    chunk = Chunk(rows, range(len(rows)))
    lowest = least_likely(family, twice, 2)(chunk)
    after, which = reseeded(family, twice, (0, 1), lowest)
    assert which == (0, 1)
    assert after.weights.sum() == pytest.approx(1.0, rel=1e-12)
    assert np.isfinite(family.log_likelihood(after, chunk)).all()
    assert useless(family, after, len(rows), duplicates=True) == ()


def test_chunks_do_not_matter():
    whole, cut = (dead_start(reseed=2).fit(CutRows(three_clusters(), edges)) for edges in ([], EDGES))
    np.testing.assert_allclose(whole.means_, cut.means_, rtol=1e-9)
    assert whole.n_iter_ == cut.n_iter_


@pytest.mark.slow
def test_a_cluster_comes_to_the_same_bits(client):
    data = CutRows(three_clusters(), EDGES)
    with client.as_current():
        on_cluster = dead_start(reseed=2).fit(data)
    assert_same_bits(dead_start(reseed=2).fit(data), on_cluster, NAMES)


@pytest.mark.parametrize("way", [{}, {"accelerate": "squarem"}])
def test_killed_and_begun_again_it_comes_to_the_same_bits(way, tmp_path):
    def make(**more):
        return dead_start(reseed=2, tol=1e-6, **way, **more)

    data = CutRows(three_clusters(), EDGES)
    whole = make().fit(data)
    again, n_ends = interrupted(make, lambda one: one.fit(data, checkpoint=tmp_path / "kept", checkpoint_every=1), 7)
    assert n_ends > 5
    assert_same_bits(whole, again, NAMES)
    assert history(whole) == history(again)
    assert any("reseeded" in record for record in history(again))


@pytest.mark.filterwarnings("ignore:Best performing|.* distinct rows|Number of distinct clusters")
def test_rows_that_explain_nothing_end_it():
    """More components than distinct rows: each time they die again, and no more often than asked."""
    rows = np.repeat([[0.0, 0.0], [1.0, 5.0]], 20, axis=0)
    model = dem.GaussianMixture(4, random_state=0, reseed=2, reg_covar=1e-3, max_iter=30)
    with pytest.warns(ComponentWarning, match="or a larger reseed$"):
        model.fit(rows)
    assert sum("reseeded" in record for record in model.history_) <= 2
    assert all(np.isfinite(getattr(model, f"{name}_")).all() for name in model._parameter_names)


@pytest.mark.filterwarnings("ignore:Best performing")
def test_not_in_the_last_pass():
    with pytest.warns(ComponentWarning, match="component 2 is empty"):
        model = dead_start(reseed=2, max_iter=2).fit(three_clusters())
    assert model.component_status_[2] == "empty"
    assert not any("reseeded" in record for record in model.history_)


def test_models_that_share_a_pass_begin_anew_each_by_itself():
    rows = table_of(Chunk(three_clusters(), range(900)))
    family = dem.GaussianMixture(3)._family(dem.GaussianMixture(3)._component().adapted_to(three_clusters()))
    shape = {"covariances": np.tile(np.eye(2), (3, 1, 1)), "precisions_cholesky": np.tile(np.eye(2), (3, 1, 1))}
    given = [
        ([0.5, 0.5, 0.0], [[0, 0], [8, 8], [1e6, 0]]),
        ([0.5, 0.5, 0.0], [[8, 8], [0, 20], [-1e6, 0]]),
        ([0.4, 0.3, 0.3], [[0, 0], [8, 8], [0, 20]]),
    ]
    starts = [
        Start(family, family.from_user({**shape, "weights": np.array(weights), "means": np.array(means)}), contest)
        for contest, (weights, means) in enumerate(given)
    ]
    settings = Settings(reseed=2)
    together = run(starts, Batch(), rows, LocalEngine(), settings)
    assert [one.n_reseeds for one in together] == [1, 1, 0]
    for start, one in zip(starts, together, strict=True):
        (alone,) = run([start], Batch(), rows, LocalEngine(), settings)
        np.testing.assert_allclose(one.parameters.components.means, alone.parameters.components.means, atol=1e-9)
        assert one.component_status == ("ok", "ok", "ok")


def test_duplicates_at_a_saddle():
    """A shared covariance that begins as wide as all rows: EM stands still with three components that are one."""
    options = {"covariance_type": "tied", "init_params": "k-means++", "random_state": 0, "tol": 1e-6}
    with pytest.warns(ComponentWarning, match="^components 1, 2 are duplicates"):
        without = dem.GaussianMixture(3, **options).fit(three_clusters())
    model = dem.GaussianMixture(3, reseed=1, **options).fit(three_clusters())
    assert model.component_status_ == ["ok", "ok", "ok"]
    assert model.lower_bound_ > without.lower_bound_ + 2.0
    (marked,) = (record for record in model.history_ if "reseeded" in record)
    assert marked["reseeded"] == [1, 2]
    assert marked["iteration"] == without.n_iter_ + 1


def test_what_is_alike_may_part_as_long_as_em_gains():
    model = dead_start(reseed=1).set_params(
        means_init=[[0, 0], [8, 8], [8, 8]], weights_init=[0.4, 0.3, 0.3], tol=0.0, max_iter=9
    )
    with pytest.warns(ConvergenceWarning, match="Best performing"):  # and none of components: EM has not settled
        model.fit(three_clusters())
    assert model.component_status_ == ["ok", "ok", "duplicate of 1"]
    assert not any("reseeded" in record for record in model.history_)


def test_missing_values():
    rows = three_clusters()
    rows[::7, 1] = np.nan
    model = dead_start(reseed=3, missing="marginalise").fit(rows)
    assert model.component_status_ == ["ok", "ok", "ok"]
    np.testing.assert_allclose(sorted(model.means_[:, 1]), [0.0, 8.0, 20.0], atol=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "incremental"}, "reseed=2 goes with algorithm='batch' or 'auto', not with 'incremental'"),
        ({"top_components": 2}, "reseed does not go with top_components"),
        ({"reseed": -1}, "'reseed' parameter"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(OptionError, match=message):
        dead_start(**{"reseed": 2, **options}).fit(three_clusters())


def test_it_is_told(capsys):
    dead_start(reseed=1, verbose=1).fit(three_clusters())
    assert "Model 0: components 2 begin anew" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:the value 1e", "ignore:Best performing")
@pytest.mark.parametrize("size", [1e12, 1e13])
@pytest.mark.parametrize("way", [{}, {"algorithm": "auto"}])
def test_what_fails_begun_anew_keeps_what_it_had(way, size):
    """Where no other component holds the outlier, the origin and the unit of all rows are lost to it."""
    rng = np.random.default_rng(0)
    groups = np.repeat([[0.0, 0.0, 0.0], [8.0, 8.0, 8.0]], 200, axis=0) + rng.normal(size=(400, 3))
    rows = np.vstack([groups, [size, 0.0, 0.0]])
    options = {"random_state": 0, "tol": 1e-6, **way}
    fits = []
    for reseed in (0, 3):
        with pytest.warns(ComponentWarning, match="^component 1 is collapsed"):
            fits.append(dem.GaussianMixture(2, reseed=reseed, **options).fit(rows))
    without, model = fits
    assert model.component_status_ == without.component_status_ == ["ok", "collapsed"]
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(model, name), getattr(without, name), rtol=1e-9, atol=1e-12)
    assert model.lower_bound_ == pytest.approx(without.lower_bound_, rel=1e-9)
    assert [one["reseeded"] for one in model.history_ if "reseeded" in one] == [[1]]
