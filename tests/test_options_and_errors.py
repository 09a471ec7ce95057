"""Bad options, bad data and bad clusters: one clear line, as early as it can be known."""

from __future__ import annotations

import threading
import time
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from cases import gaussian_rows
from sources import CutRows

import dem
from dem.engine import connect
from dem.errors import DataError, DataWarning, DemError, EngineError, FitError, OptionError


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_components": 0}, "n_components"),
        ({"covariance_type": "round"}, "'diag', 'full', 'spherical', 'tied'|'full'"),
        ({"init_params": "kmeens"}, "'kmeans'"),
        ({"tol": -1.0}, "tol"),
        ({"max_iter": -1}, "max_iter"),
        ({"weights_init": [0.5, 0.6]}, r"sum\(weights\) = 1.1.* \(weights_init\)"),
        ({"weights_init": [1.5, -0.5]}, "between 0 and 1"),
        ({"weights_init": [1.0]}, r"shape of \(2,\)"),
        ({"means_init": np.zeros((2, 2))}, r"shape of \(2, 3\), .*means_init"),
        ({"means_init": np.full((2, 3), np.nan)}, "finite"),
        ({"means_init": [["a"] * 3] * 2}, "numbers"),
        ({"precisions_init": -np.array([np.eye(3)] * 2)}, "positive-definite"),
        ({"precisions_init": np.eye(3)}, r"shape of \(2, 3, 3\)"),
    ],
)
def test_options(options, says):
    with pytest.raises(OptionError, match=says) as error:
        dem.GaussianMixture(**{"n_components": 2, **options}).fit(gaussian_rows(50))
    one_line(error)


@pytest.mark.parametrize(
    ("estimator", "option"),
    [
        *((dem.GaussianMixture(), name) for name in ("n_components", "n_init", "max_iter", "tol", "sample_rows")),
        (dem.BinomialMixture(), "n_trials"),
        (dem.KMeans(), "n_clusters"),
        (dem.KMeans(), "n_init"),
    ],
)
def test_booleans_are_no_numbers(estimator, option):
    with pytest.raises(OptionError, match=f"{option} must be a number, not True") as error:
        estimator.set_params(**{option: True}).fit(gaussian_rows(50))
    one_line(error)
    if option == "n_components":
        with pytest.raises(OptionError, match="n_components must be a number, not True"):
            dem.select(gaussian_rows(50), n_components=[True, 2])


def test_binomial_options():
    with pytest.raises(OptionError, match="n_trials"):
        dem.BinomialMixture(2, 0).fit([[1], [0]])
    with pytest.raises(OptionError, match="between 0 and 1"):
        dem.BernoulliMixture(1, probabilities_init=[[1.5]]).fit([[1], [0]])


def test_options_are_judged_before_data_is_read(tmp_path):
    with pytest.raises(OptionError):
        dem.GaussianMixture(0).fit(str(tmp_path / "nowhere.zarr"))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.empty((0, 3)), "0 sample|empty"),
        (np.ones((2, 3)), "n_components = 3, n_samples = 2"),
        (np.ones(5), "Reshape your data"),
        (np.ones((5, 2, 2)), "dim 3|3 dimensions"),
        (np.array([["a", "b"]] * 5), "str|numeric|number"),
        (np.ones((5, 2), dtype=complex), "[Cc]omplex"),
    ],
)
def test_arrays_that_are_no_tables(rows, says):
    with pytest.raises(ValueError, match=says):
        dem.GaussianMixture(3).fit(rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sample_rows", [None, 100])
def test_values_that_are_not_finite(bad, sample_rows):
    """Also where the sample does not see them."""
    rows = gaussian_rows()
    rows[2500, 1] = rows[1234, 2] = rows[1234, 1] = bad
    model = dem.GaussianMixture(2, random_state=0, sample_rows=sample_rows)
    with pytest.raises(DataError, match=r"row 1234, column 1") as error:
        model.fit(CutRows(rows, [1000, 2000]))
    assert "3 NaN" in one_line(error) or "3 inf" in one_line(error)
    assert not hasattr(model, "means_")


def test_counts_outside_their_range():
    rows = np.random.default_rng(0).integers(0, 5, size=(1000, 3))
    rows[700, 2] = 11
    with pytest.raises(
        DataError, match=r"whole numbers from 0 to 10 \(binomial\); the first is 11 in row 700, column 2"
    ) as error:
        dem.BinomialMixture(2, 10, random_state=0).fit(CutRows(rows, [500]))
    one_line(error)
    halves = np.full((100, 2), 0.5)
    with pytest.raises(DataError, match=r"200 values that are not whole numbers from 0 to 1"):
        dem.BernoulliMixture(2, random_state=0).fit(halves)
    rows[0] = 3
    with pytest.raises(DataError, match="row 700"):
        dem.BinomialMixture(2, 10, random_state=0, sample_rows=50).fit(CutRows(rows, [500]))


@pytest.mark.filterwarnings("ignore:in some direction reg_covar")
def test_constant_columns_fit_and_warn():
    rows = gaussian_rows()
    rows[:, 1] = 7.0
    for covariance_type in ("full", "tied", "diag", "spherical"):
        with pytest.warns(DataWarning, match="column 1 of NumPy array is constant"):
            fitted = dem.GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(rows)
        np.testing.assert_allclose(fitted.means_[:, 1], 7.0)
        assert np.isfinite(fitted.lower_bound_)


def test_nothing_but_duplicates():
    rows = np.tile([1.0, 2.0, 3.0], (100, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = dem.GaussianMixture(2, random_state=0).fit(rows)
    messages = [str(warning.message) for warning in caught]
    assert any("only 1 distinct rows for 2 components" in message for message in messages)
    assert np.isfinite(fitted.score_samples(rows)).all()


def test_an_ill_defined_covariance():
    rows = np.vstack([gaussian_rows(100), np.tile([50.0, 50.0, 50.0], (20, 1))])
    with pytest.raises(DemError, match=r"ill-defined .* increase reg_covar.* component .") as error:
        dem.GaussianMixture(3, reg_covar=0.0, random_state=0).fit(rows)
    one_line(error)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
@pytest.mark.parametrize("seed", [2, 8, 20])
def test_a_component_on_a_single_row_without_regularisation(covariance_type, seed):
    """It has no variance; rounding must not pass for one (at seed 20 it did, with a log-likelihood of -99)."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.normal(size=(30, 3)), 3.0 * rng.normal(size=(1, 3)) + 37.123456])
    rows += (0.0, 0.1, 1e3, 1e6)[seed // 3 % 4]
    rows = rows[rng.permutation(31)]
    options = {"covariance_type": covariance_type, "reg_covar": 0.0, "init_params": "random", "random_state": seed}
    for n_components in (2, 3):
        with pytest.raises(FitError, match=r"ill-defined .* increase reg_covar.* component .") as error:
            dem.GaussianMixture(n_components, tol=1e-6, max_iter=300, **options).fit(rows)
        one_line(error)


def test_other_features_than_the_model():
    fitted = dem.GaussianMixture(2, random_state=0).fit(gaussian_rows())
    with pytest.raises(ValueError, match=r"2 features.*expecting 3"):
        fitted.predict(np.ones((5, 2)))
    with pytest.raises(DataError, match=r"2 features.*expecting 3"):
        fitted.score(CutRows(np.ones((5, 2)), []))


def test_rows_without_a_label():
    fitted = dem.GaussianMixture(2, random_state=0).fit(gaussian_rows())
    rows = gaussian_rows(10)
    rows[3, 1] = np.nan
    for method in (fitted.predict, fitted.predict_proba, fitted.score_samples):
        with pytest.raises(DataError, match="NaN or inf"):
            method(rows)
    with pytest.raises(DataError, match="row 3, column 1"):
        fitted.score(rows)


def test_sample_sizes():
    fitted = dem.GaussianMixture(2, random_state=0).fit(gaussian_rows())
    with pytest.raises(OptionError, match=r"n_samples"):
        fitted.sample(0)


def test_an_interrupt_keeps_the_last_parameters():
    def interrupt(event):
        if getattr(event, "iteration", 0) == 3:
            raise KeyboardInterrupt

    rows = gaussian_rows()
    interrupted = dem.GaussianMixture(3, random_state=0, tol=0.0, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(rows)
    with pytest.warns(UserWarning, match="did not converge"):
        short = dem.GaussianMixture(3, random_state=0, tol=0.0, max_iter=3).fit(rows)
    np.testing.assert_array_equal(interrupted.means_, short.means_)
    assert interrupted.n_iter_ == 3
    assert not interrupted.converged_


@pytest.mark.slow
def test_no_scheduler_there(monkeypatch):
    monkeypatch.setattr("dem.engine.client.TIMEOUT", 2)
    began = time.monotonic()
    with (
        pytest.raises(EngineError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9") as error,
        connect("tcp://127.0.0.1:9"),
    ):
        pass
    one_line(error)
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_something_else_listens_there(monkeypatch):
    """A web server, for instance: whatever its answer does to the protocol, it becomes one line."""
    monkeypatch.setattr("dem.engine.client.TIMEOUT", 2)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with (
                pytest.raises(EngineError, match="no scheduler answers at") as error,
                connect(f"tcp://127.0.0.1:{server.server_port}"),
            ):
                pass
        finally:
            server.shutdown()
    one_line(error)


def test_workers_of_another_version(client, monkeypatch):
    from dem.engine import current_engine, workers

    honest = workers.version
    monkeypatch.setattr(workers, "version", lambda package: "0.9.9" if package == "numpy" else honest(package))
    with pytest.raises(EngineError, match=r"worker tcp://127.* has numpy .*, this process 0\.9\.9") as error:
        current_engine()
    one_line(error)


def test_contradicting_engines():
    with pytest.raises(OptionError, match="not both"), connect("tcp://127.0.0.1:9", 2):
        pass
    with pytest.raises(OptionError, match="at least 1"), connect(workers=0):
        pass
    with pytest.raises(OptionError, match=r"memory limit must be .* not 'foo'"), connect(workers=1, memory_limit="foo"):
        pass
