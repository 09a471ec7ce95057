"""Whether compiled loops are used: judged once, by size and by the memory of every process that works."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import dask
import dask.array
import numpy as np
import pytest
from sources import CutRows

import dem
from dem import native
from dem.data import open_rows
from dem.em.predict import RowFunction
from dem.engine import LocalEngine
from dem.engine.base import Room
from dem.errors import OptionError, StoreError
from dem.estimators import loops, memory
from dem.estimators.checkpoints import is_done


@pytest.fixture
def auto(monkeypatch):
    monkeypatch.setenv(native.SETTING, "auto")


def test_what_a_row_costs():
    assert loops.row_work(dem.GaussianMixture(3), 4) == 3 * (100 + 4 + 10)
    assert loops.row_work(dem.GaussianMixture(3, covariance_type="diag"), 4) == 3 * (100 + 4 + 4)
    assert loops.row_work(dem.KMeans(7), 5) == 35 + 4000
    assert loops.row_work(dem.GaussianMixture(3, covariance_type="tied"), 4) == 0
    assert loops.row_work(dem.PoissonMixture(3), 4) == 0


def test_small_fits_do_not_want_them(auto, monkeypatch):
    rows, model = open_rows(np.zeros((1000, 4))), dem.GaussianMixture(3)
    assert not loops.are_wanted([model], rows)
    monkeypatch.setattr(loops, "LEAST_PASS", 1000 * 342)
    assert loops.are_wanted([model], rows)
    monkeypatch.setattr(loops, "LEAST_PASS", 1000 * 343)
    assert not loops.are_wanted([model], rows)
    assert loops.are_wanted([model, model], rows)
    monkeypatch.setenv(native.SETTING, "off")
    assert not loops.are_wanted([model, model], rows)


class Somewhere(LocalEngine):
    """Processes with some memory each."""

    def __init__(self, *limits):
        super().__init__(1)
        self.limits = limits

    def rooms(self):
        return [Room(f"worker {i}", limit, 1) for i, limit in enumerate(self.limits)]


@pytest.mark.parametrize(("limits", "used"), [((10**9, 10**9), True), ((10**9, 4 * 10**8), False), ((None,), True)])
def test_every_process_must_have_memory_for_them(auto, monkeypatch, limits, used):
    monkeypatch.setattr(loops, "LEAST_PASS", 1)
    rows, engine, told = open_rows(np.zeros((1000, 4))), Somewhere(*limits), []
    memory.fitting([dem.GaussianMixture(3)], rows, engine, [told.append])
    assert engine.loops is used
    assert told[0].need.get("compiled loops", 0) == used * loops.LOOPS_BYTES
    assert engine.needed == sum(told[0].need.values())


def test_nothing_gives_way_to_them(auto, monkeypatch):
    """Rows that are read whole without loops are not cut for their sake."""
    monkeypatch.setattr(loops, "LEAST_PASS", 1)
    rows, model = open_rows(np.zeros((100_000, 4))), dem.GaussianMixture(3)
    need = memory.need_of_fit([model], rows, Room("w", None, 1), 1)
    engine = Somewhere(int(sum(need.values()) / memory.ENDS_AT) + 2)
    assert memory.fitting([model], rows, engine) is rows
    assert not engine.loops


def test_who_may_use_them(auto, monkeypatch):
    assert not native.pays(native.LEAST_WORK)
    assert native.state() == "NumPy"
    with native.permitted(True):
        assert native.pays(native.LEAST_WORK)
        assert not native.pays(native.LEAST_WORK / 2)
        assert native.state() == native.offered() != "NumPy"
    assert not native.is_permitted()
    monkeypatch.setenv(native.SETTING, "off")
    with native.permitted(True):
        assert not native.pays(1e12)
        assert native.state() == native.offered() == "NumPy"
    monkeypatch.setenv(native.SETTING, "always")
    assert native.pays(1.0)
    monkeypatch.delenv(native.SETTING)
    with native.permitted(True):
        assert native.pays(native.LEAST_WORK), "as auto"
    monkeypatch.setenv(native.SETTING, "sometimes")
    with pytest.raises(OptionError, match="DEM_NATIVE must be off, auto or always, not 'sometimes'"):
        native.pays(1.0)


def test_the_threads_of_an_engine_are_told(auto):
    rows = CutRows(np.zeros((40, 2)), (10, 20, 30))
    found = []
    for judged, outside, expected in ((None, True, True), (None, False, False), (True, False, True)):
        with native.permitted(outside), LocalEngine(2) as engine:
            engine.loops = judged
            engine.sweep(rows, [lambda _: found.append(native.is_permitted()) or 0])
        assert set(found) == {expected}
        found.clear()


@pytest.mark.parametrize(("limits", "used"), [((None,), True), ((4 * 10**8,), False), ((10**9, 10**9), True)])
def test_results_may_use_them_where_processes_are_large(auto, monkeypatch, limits, used):
    monkeypatch.setattr(loops, "LEAST_PASS", 1)
    monkeypatch.setattr(loops, "current_engine", lambda: Somewhere(*limits))
    rows, permits = np.random.default_rng(0).normal(size=(300, 2)), []
    model = dem.GaussianMixture(2, random_state=0).fit(rows)
    of_rows = RowFunction.__call__
    monkeypatch.setattr(RowFunction, "__call__", lambda *args: permits.append(native.is_permitted()) or of_rows(*args))
    with dask.config.set(scheduler="sync"):
        model.predict(dask.array.from_array(rows, 100)).compute()
    model.predict(rows)
    assert set(permits) == {used}


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "used"), [("480MB", False), ("1GB", True)])
def test_workers_with_little_memory_compute_by_numpy(tmp_path, limit, used):
    """The fit ends on either, and numba is imported by workers that have memory for it alone."""
    script = """
        import sys, warnings, numpy as np, zarr, dem
        from dem.engine import connect
        warnings.simplefilter("ignore")
        array = zarr.create_array(sys.argv[1], shape=(400_000, 8), chunks=(40_000, 8), dtype="f8")
        array[:] = np.random.default_rng(0).normal(size=array.shape)
        told = []
        with connect(workers=1, memory_limit=sys.argv[2]):
            from distributed import get_client
            model = dem.GaussianMixture(16, max_iter=2, tol=0.0, random_state=0, callbacks=[told.append])
            model.fit(sys.argv[1])
            imported = get_client().run(lambda: "numba" in sys.modules)
        print("compiled loops" in told[0].need, *imported.values(), "numba" in sys.modules)
    """
    (tmp_path / "fit.py").write_text("if __name__ == '__main__':\n" + textwrap.indent(textwrap.dedent(script), "    "))
    done = subprocess.run(
        [sys.executable, tmp_path / "fit.py", tmp_path / "rows.zarr", limit],
        env={**os.environ, native.SETTING: "auto"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split()[:2] == [str(used)] * 2, done.stderr


def fit(limit, monkeypatch, n_passes=None, **how):
    """Fit where a process has so much memory, stopped after some passes."""

    def stop(event):
        if type(event).__name__ == "IterationEnded" and event.iteration == n_passes:
            raise KeyboardInterrupt

    monkeypatch.setattr("dem.estimators.base.current_engine", lambda _: Somewhere(limit))
    rows = np.random.default_rng(0).normal(size=(30_000, 8))
    return dem.GaussianMixture(8, random_state=0, max_iter=5, tol=0.0, callbacks=[stop]).fit(rows, **how)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_loops")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_goes_on_with_the_arithmetic_that_it_was_begun_with(auto, monkeypatch, tmp_path):
    monkeypatch.setattr(loops, "LEAST_PASS", 1)
    monkeypatch.setattr(native, "LEAST_WORK", 1)
    little, much = 4 * 10**8, 4 * 10**9
    by_numpy, by_loops = fit(little, monkeypatch), fit(much, monkeypatch)
    assert by_numpy.lower_bounds_ != by_loops.lower_bounds_, "they differ in the last digits"
    how = {"checkpoint": tmp_path / "numpy", "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        fit(little, monkeypatch, 3, **how)
    model = fit(much, monkeypatch, **how)
    assert model.lower_bounds_ == by_numpy.lower_bounds_
    how["checkpoint"] = tmp_path / "loops"
    with pytest.raises(KeyboardInterrupt):
        fit(much, monkeypatch, 3, **how)
    with pytest.raises(StoreError, match="begun with compiled loops, for which there is no memory now: give each"):
        fit(little, monkeypatch, **how)
    again = fit(much, monkeypatch, **how)
    assert again.lower_bounds_ == by_loops.lower_bounds_
    rows = np.random.default_rng(0).normal(size=(30_000, 8))
    assert is_done(again.set_params(callbacks=[]), again, rows, {}, str(how["checkpoint"]))
