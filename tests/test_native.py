"""The compiled loops beside NumPy's arithmetic, which is their oracle, and what happens where they are missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
from pickle import dumps

import numpy as np
import pytest
from agreement import assert_same_bits
from cases import chunk_of
from sklearn.exceptions import ConvergenceWarning
from sources import CutRows

import dem
from dem import native
from dem.data import open_rows
from dem.data.base import Chunk
from dem.engine import LocalEngine
from dem.engine.cache import ChunkCache
from dem.engine.workers import _versions, compare
from dem.errors import EngineError, EngineWarning
from dem.families.gaussian import COVARIANCE_TYPES
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters

# Slow, since numba compiles for half a minute where it finds nothing compiled.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_loops")]

# Shapes with and without whole tiles, components in their own frames (0.001 wide; from 64 features on all).
SHAPES = [
    ("full", 1, 1, ()),
    ("full", 2, 8, ()),
    ("full", 1, 3, (0, 1)),
    ("full", 2, 4, (0, 1, 2, 3)),
    ("full", 3, 5, (1, 3)),
    ("full", 6, 4, (0, 2)),
    ("full", 19, 4, (0, 2)),
    ("full", 9, 17, ()),
    ("full", 66, 3, ()),
    ("full", 65, 5, ()),
    ("diag", 5, 130, ()),
    ("diag", 40, 3, ()),
    ("diag", 6, 5, (1, 3)),
    ("diag", 18, 4, (0, 1, 2, 3)),
    ("spherical", 3, 4, ()),
    ("spherical", 5, 4, (0, 2)),
]


def case(covariance_type, n_features, n_components, tight=(), dtype=np.float64, n_rows=1001, separation=1.0):
    """Return a mixture with random parameters, these, and rows drawn from it."""
    rng = np.random.default_rng(n_features)
    means = separation * rng.normal(size=(n_components, n_features)) + 5.0
    if covariance_type == "full":
        roots = rng.normal(size=(n_components, n_features, n_features)) * 0.3 / np.sqrt(n_features) + np.eye(n_features)
        roots[list(tight)] *= 1e-3
        covariances = roots @ roots.swapaxes(1, 2)
    else:
        covariances = rng.uniform(0.5, 2.0, (n_components, n_features)[: 1 + (covariance_type == "diag")])
        covariances[list(tight)] *= 1e-6
    labels = rng.integers(n_components, size=n_rows)
    width = np.where(np.isin(labels, tight), 1e-3, 0.8)[:, np.newaxis]
    rows = (means[labels] + width * rng.normal(size=(n_rows, n_features))).astype(dtype)
    component = COVARIANCE_TYPES[covariance_type]().adapted_to(rows)
    frame = component.frame
    covariances = component.rescale(covariances, 1.0 / component._scale(frame), 2)
    parameters = component.with_covariances((means - frame.origin) / frame.scale, covariances)
    return Mixture(component), MixtureParameters(rng.dirichlet(np.full(n_components, 5.0)), parameters), rows


def both(monkeypatch, function):
    """Return what a function returns with NumPy's arithmetic and with compiled loops."""
    found = []
    for setting in ("off", "always"):
        monkeypatch.setenv(native.SETTING, setting)
        found.append(function())
    return found


def assert_near(found, expected, tolerance):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-300))


def assert_same_statistics(found, expected, tolerance):
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=tolerance)
    assert_near(found.counts, expected.counts, tolerance)
    assert_near(found.components.second, expected.components.second, tolerance)
    scale = np.abs(expected.components.first).max() + np.abs(expected.components.second).max()
    assert np.abs(found.components.first - expected.components.first).max() <= tolerance * scale


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape[:3])))
def test_an_e_step_and_what_is_said_of_rows(shape, dtype, monkeypatch):
    mixture, parameters, rows = case(*shape, dtype=dtype)
    chunk, tolerance = chunk_of(rows), 1e-11 if dtype == np.float64 else 1e-4
    expected, found = both(monkeypatch, lambda: mixture.e_step(parameters, chunk))
    assert_same_statistics(found, expected, tolerance)
    for function in (mixture.log_likelihood, mixture.posterior):
        expected, found = both(monkeypatch, lambda function=function: function(parameters, chunk))
        assert_near(found, expected, tolerance)
    if dtype == np.float64:
        expected, found = both(monkeypatch, lambda: mixture.labels(parameters, chunk))
        np.testing.assert_array_equal(found, expected)


def test_loops_are_entered(monkeypatch):
    mixture, parameters, rows = case("full", 3, 5, (1, 3))
    entered = []
    loaded = native.loaded
    monkeypatch.setattr(native, "loaded", lambda *key: entered.append(key[1:]) or loaded(*key))
    both(monkeypatch, lambda: mixture.e_step(parameters, chunk_of(rows)))
    both(monkeypatch, lambda: mixture.labels(parameters, chunk_of(rows.astype(np.float32))))
    assert entered == [
        ("e_step", "float64"),
        ("by_row", "float64"),
    ]  # tight components ask for double precision


@pytest.mark.parametrize("tight", [(), (1, 3)])
def test_weights_several_models_and_any_layout_of_rows(tight, monkeypatch):
    mixture, parameters, rows = case("full", 3, 6, tight)
    weights = np.random.default_rng(0).uniform(0.0, 3.0, len(rows))
    weights.setflags(write=False)
    chunk = Chunk(np.asfortranarray(rows), range(len(rows)), weights=weights)
    expected, found = both(monkeypatch, lambda: mixture.e_steps(parameters, [2, 4], chunk))
    for one, other in zip(found, expected, strict=True):
        assert_same_statistics(one, other, 1e-11)
    assert found[0].counts.sum() == pytest.approx(weights.sum(), rel=1e-12)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_rows_of_one_component_each_but_for_some(covariance_type, is_weighted, monkeypatch):
    mixture, parameters, rows = case(covariance_type, 3, 4, separation=300.0, n_rows=3000)
    rows[[700, 1500]] = rows[[0, 701]] + (rows[[5, 1]] - rows[[0, 701]]) * 0.5
    weights = np.random.default_rng(0).uniform(0.0, 3.0, len(rows)) if is_weighted else None
    for last in (2900, 3000):
        if last == 3000:
            rows[2950, 1] = np.nan
        part = slice(last)
        chunk = Chunk(rows[part], range(last), weights=None if weights is None else weights[part])
        expected, found = both(monkeypatch, lambda chunk=chunk: mixture.e_step(parameters, chunk))
        if last == 3000:
            assert np.isnan(expected.log_likelihood)
            assert np.isnan(found.log_likelihood)
            break
        assert_same_statistics(found, expected, 1e-11)
        for function in (mixture.log_likelihood, mixture.posterior):
            expected, found = both(monkeypatch, lambda chunk=chunk, function=function: function(parameters, chunk))
            assert_near(found, expected, 1e-11)


def test_rows_in_single_precision_whose_components_ask_for_double_are_taken_as_they_are(monkeypatch):
    mixture, parameters, rows = case("full", 3, 5, (1, 3), dtype=np.float32)
    expected, found = both(monkeypatch, lambda: mixture.e_step(parameters, chunk_of(rows)))
    assert_same_statistics(found, expected, 1e-11)
    monkeypatch.setattr("dem.families.gaussian.fused._PIECE", 0)  # none is converted
    assert_same_statistics(both(monkeypatch, lambda: mixture.e_step(parameters, chunk_of(rows)))[1], expected, 1e-11)


@pytest.mark.parametrize("kind", [">f8", np.float16, np.int8])
def test_rows_of_other_types_are_brought_to_one_of_ours_in_pieces(kind, monkeypatch):
    mixture, parameters, rows = case("full", 3, 5, (1, 3), separation=3.0)
    rows, chunk = rows.astype(kind), chunk_of(rows.astype(kind))
    monkeypatch.setattr("dem.families.gaussian.fused._PIECE", 100)
    expected, found = both(monkeypatch, lambda: mixture.e_step(parameters, chunk))
    assert_same_statistics(found, expected, 1e-11)
    expected, found = both(monkeypatch, lambda: mixture.posterior(parameters, chunk))
    assert_near(found, expected, 1e-11)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_what_is_not_finite_shows_in_the_log_likelihood(value, monkeypatch):
    mixture, parameters, rows = case("full", 3, 5)
    rows[500, 1] = value
    expected, found = both(monkeypatch, lambda: mixture.e_step(parameters, chunk_of(rows)).log_likelihood)
    assert not np.isfinite(found)
    assert not np.isfinite(expected)


def test_rows_of_density_0_have_log_likelihood_minus_infinity(monkeypatch):
    mixture, parameters, rows = case("diag", 2, 3)
    parameters = MixtureParameters(np.zeros(3), parameters.components)
    with np.errstate(divide="ignore"):
        expected, found = both(monkeypatch, lambda: mixture.log_likelihood(parameters, chunk_of(rows)))
    np.testing.assert_array_equal(found, expected)


def test_elementary_functions_against_extended_precision():
    import numba

    from dem.native.elementary import exponential, logarithm

    @numba.njit
    def fill(x, out, takes_logarithm):
        for i in range(len(x)):
            out[i] = logarithm(x[i]) if takes_logarithm else exponential(x[i])

    x = np.concatenate([np.linspace(-600.0, 0.0, 20001), -np.geomspace(1e-17, 1.0, 2001)])
    totals = np.concatenate([np.linspace(1.0, 700.0, 20001), 1.0 + np.geomspace(1e-16, 1.0, 2001), [1e-260, 5e240]])
    single = np.linspace(-87.0, 0.0, 20001, dtype=np.float32)
    for argument, function, units in [(x, np.exp, 1.1), (totals, np.log, 0.9), (single, np.exp, 1.1)]:
        expected = function(argument.astype(np.longdouble))
        found = np.empty_like(argument)
        fill(argument, found, function is np.log)
        spacing = np.spacing(np.abs(expected.astype(argument.dtype)))
        assert np.max(np.abs(found - expected) / spacing) < units
    for value, function in [(np.nan, np.exp), (np.nan, np.log), (np.inf, np.log)]:
        found = np.empty(1)
        fill(np.array([value]), found, function is np.log)
        np.testing.assert_array_equal(found, value)


def fit(n_threads, monkeypatch, edges=(300, 700)):
    monkeypatch.setattr("dem.estimators.base.current_engine", lambda _: LocalEngine(n_threads))
    rows = case("full", 4, 3, separation=4.0)[2]
    return dem.GaussianMixture(3, random_state=0, tol=1e-5).fit(CutRows(rows, edges))


def test_bits_do_not_depend_on_threads_nor_much_on_chunks(monkeypatch):
    monkeypatch.setenv(native.SETTING, "always")
    one = fit(1, monkeypatch)
    for n_threads in (2, 3):
        assert_same_bits(fit(n_threads, monkeypatch), one, ("weights_", "means_", "covariances_", "lower_bounds_"))
    np.testing.assert_allclose(fit(1, monkeypatch, (111,)).covariances_, one.covariances_, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 3])
def test_bits_do_not_depend_on_processes(n_workers, monkeypatch):
    from dem.engine import connect

    monkeypatch.setenv(native.SETTING, "always")
    rows = CutRows(case("full", 4, 3, separation=4.0)[2], (300, 700))
    with connect(workers=n_workers):
        on_cluster = dem.GaussianMixture(3, random_state=0, tol=1e-5).fit(rows)
    assert_same_bits(on_cluster, fit(1, monkeypatch), ("weights_", "means_", "covariances_", "lower_bounds_"))


def test_loops_that_fail_are_told_of_once_and_numpy_computes(monkeypatch):
    mixture, parameters, rows = case("full", 3, 5)
    monkeypatch.setenv(native.SETTING, "always")
    monkeypatch.setattr(native, "_failure", None)
    monkeypatch.setattr(native, "_loaded", {})

    def failing(*_, **__):
        message = "no such instruction\nmore of it"
        raise ValueError(message)

    monkeypatch.setattr("dem.native.mixtures.compiled", failing)
    with pytest.warns(EngineWarning, match=r"loops cannot be used \(ValueError: no such instruction\), NumPy"):
        found = mixture.e_step(parameters, chunk_of(rows))
    again = mixture.e_step(parameters, chunk_of(rows))
    monkeypatch.setenv(native.SETTING, "off")
    expected = mixture.e_step(parameters, chunk_of(rows))
    assert found.log_likelihood == again.log_likelihood == expected.log_likelihood


def test_without_numba(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setenv(native.SETTING, "auto")
    assert native.offered().startswith("numba ")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "numba" else found(name, *more)
    )
    assert native.offered() == "NumPy"


def test_a_worker_with_another_arithmetic_is_refused(monkeypatch):
    monkeypatch.setenv(native.SETTING, "off")
    there = _versions()
    monkeypatch.setenv(native.SETTING, "always")
    with pytest.raises(EngineError, match=r"has arithmetic NumPy, this process numba .*, or set DEM_NATIVE alike"):
        compare({"tcp://there": there})


def test_a_checkpoint_of_another_arithmetic_is_refused(monkeypatch, tmp_path):
    rows = case("full", 2, 3)[2]
    options = {"checkpoint": tmp_path / "c", "checkpoint_every": 1}

    def stop(event):
        if type(event).__name__ == "IterationEnded":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dem.GaussianMixture(3, random_state=0, callbacks=[stop]).fit(rows, **options)
    monkeypatch.setenv(native.SETTING, "always")
    with pytest.raises(dem.errors.StoreError, match="arithmetic") as refused:
        dem.GaussianMixture(3, random_state=0).fit(rows, **options)
    assert "\n" not in str(refused.value)


def test_a_small_fit_does_not_import_numba():
    code = (
        "import dem, sys, numpy as np\n"
        "dem.GaussianMixture(2).fit(np.random.rand(500, 2))\n"
        "print('numba' in sys.modules)"
    )
    environment = {**os.environ, native.SETTING: "auto"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_rows_with_gaps_and_rows_with_nothing(monkeypatch, covariance_type):
    _, _, rows = case(covariance_type, 3, 2, n_rows=300)
    rows[::5, 0] = np.nan
    rows[7] = np.nan
    options = {"missing": "marginalise", "random_state": 0, "max_iter": 5, "tol": 0.0}
    with pytest.warns(ConvergenceWarning):
        fits = both(monkeypatch, lambda: dem.GaussianMixture(2, covariance_type=covariance_type, **options).fit(rows))
    filled = [model.impute(rows) for model in fits]
    assert_near(filled[1], filled[0], 1e-9)
    assert_near(fits[1].lower_bounds_, fits[0].lower_bounds_, 1e-10)


def test_a_change_of_any_file_of_loops_compiles_them_anew(monkeypatch, tmp_path):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))

    def add(x):
        return x + 1.0

    def compiled():
        return native.compiled("float64(float64)")(add).stats

    compiled()
    assert compiled().cache_hits
    monkeypatch.setattr(native, "_digest", lambda: "of other files")
    assert compiled().cache_misses
    assert compiled().cache_hits


def test_a_damaged_cache_is_told_of_and_not_used(monkeypatch, tmp_path):
    code = """
        import numba, pathlib, sys, warnings
        from dem import native
        def add(x):
            return x + 1.0
        native.compiled("float64(float64)")(add)
        for path in pathlib.Path(sys.argv[1]).rglob("*.nbi"):
            path.write_bytes(path.read_bytes()[:100])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert native.compiled("float64(float64)")(add)(1.0) == 2.0
        print(told[0].message)
    """
    (tmp_path / "damage.py").write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, tmp_path / "damage.py", tmp_path / "cache"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "is damaged (UnpicklingError); they are compiled anew in each process: remove" in done.stdout, done.stderr


def test_where_numba_may_not_compile_numpy_computes(monkeypatch):
    monkeypatch.setenv(native.SETTING, "always")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert native.offered() == "NumPy"
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    with pytest.raises(RuntimeError, match="NUMBA_DISABLE_JIT is set"):
        native.compiled("float64(float64)")


def test_a_worker_whose_loops_fail_ends_the_fit(monkeypatch):
    from dem.engine import cluster

    class Here:
        address = "tcp://there"

    monkeypatch.setattr(cluster, "get_worker", Here)
    monkeypatch.setattr(cluster, "_Released", threading.Event)
    monkeypatch.setattr(cluster, "_worker_cache", lambda *_: ChunkCache(0))
    monkeypatch.setattr(native, "_failure", "ValueError: no such instruction")
    (batch,) = open_rows(np.zeros((3, 2))).batches()
    how = {"cache": "auto", "needed": None, "in_flight": None, "attempts": 1, "seconds": 1.0}
    works = [lambda _: 1]
    assert cluster._run(batch, works, dumps([]), **how, loops=False)[0] == 1
    with pytest.raises(EngineError, match=r"worker tcp://there cannot use compiled loops \(ValueError: no such instr"):
        cluster._run(batch, works, dumps([]), **how, loops=True)
