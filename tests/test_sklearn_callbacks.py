"""scikit-learn's callbacks (1.9) follow fits of dem."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

import dem

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")
X = np.random.default_rng(0).normal(size=(400, 2)) + np.repeat([[0.0], [4.0]], 200, axis=0)


class Recording:
    """Notes what it is told; may ask to stop, or fail."""

    def __init__(self, stop_after=None, fail_after=None):
        self.seen, self.models = [], []
        self.stop_after, self.fail_after = stop_after, fail_after

    def setup(self, estimator, context):
        self.seen.append("setup")

    def teardown(self, estimator, context):
        self.seen.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.seen.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        self.seen.append(f"end {context.task_name}")
        if context.task_name == "read":
            self.models.append(fitted_estimator)
            if len(self.models) == self.fail_after:
                raise ZeroDivisionError
            return len(self.models) == self.stop_after
        return False


@pytest.mark.parametrize(
    "estimator",
    [
        dem.GaussianMixture(2, random_state=0),
        dem.KMeans(2, random_state=0, n_init=3),
        dem.BernoulliMixture(2, random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_task_for_each_read_and_a_fitted_estimator_after_it(estimator):
    rows = X if "Bernoulli" not in type(estimator).__name__ else (X > 1).astype(float)
    told = Recording()
    fitted = clone(estimator).set_callbacks(told).fit(rows)
    n = len(told.models)
    assert n == max(record["iteration"] for record in fitted.history_)
    inside = ["begin all data", *["begin read", "end read"] * n, "end all data"]
    assert told.seen == ["setup", "begin fit", *inside, "end fit", "teardown"]
    np.testing.assert_allclose(told.models[-1].predict(rows), fitted.predict(rows))
    name = f"{fitted._entry.location}_"
    plain = clone(estimator).fit(rows)
    assert np.array_equal(getattr(plain, name), getattr(fitted, name))
    assert not hasattr(fitted, "_callback_fit_ctx")


def test_several_starts_share_a_task_and_the_sample_has_its_own():
    told = Recording()
    dem.GaussianMixture(2, n_init=4, sample_rows=100, random_state=0).set_callbacks(told).fit(X)
    phases = [seen for seen in told.seen if seen.startswith("begin") and "read" not in seen]
    assert phases == ["begin fit", "begin sample", "begin all data"]


def test_a_callback_that_asks_to_stop_ends_the_fit_with_what_there_is():
    told = Recording(stop_after=2)
    model = dem.GaussianMixture(2, tol=1e-12, random_state=0).set_callbacks(told)
    with pytest.warns(UserWarning, match="did not converge"):
        model.fit(X)
    assert (model.n_iter_, model.converged_, told.seen[-1]) == (2, False, "teardown")
    assert np.array_equal(model.means_, told.models[-1].means_)


def test_an_exception_ends_the_fit_and_callbacks_are_torn_down():
    told = Recording(fail_after=2)
    model = dem.GaussianMixture(2, tol=1e-12, random_state=0).set_callbacks(told)
    with pytest.raises(ZeroDivisionError):
        model.fit(X)
    assert told.seen[-2:] == ["end read", "teardown"]
    assert model.n_iter_ == 2


@pytest.mark.parametrize("data", [X, [["a", "b"]]], ids=["success", "failure"])
def test_its_progress_bar(data, capsys):
    model = dem.GaussianMixture(2, random_state=0).set_callbacks(callback.ProgressBar())
    if data is X:
        model.fit(data)
        assert "GaussianMixture - all data #0" in capsys.readouterr().out
    else:
        with pytest.raises(ValueError, match="a"):
            model.fit(data)
    dem.KMeans(2, random_state=0).set_callbacks(callback.ProgressBar()).fit(X)


def test_in_a_pipeline():
    from sklearn.pipeline import make_pipeline

    told = Recording()
    pipeline = make_pipeline(StandardScaler(), dem.GaussianMixture(2, random_state=0).set_callbacks(told))
    pipeline.set_callbacks(callback.ProgressBar()).fit(X)
    assert told.seen[-1] == "teardown"
