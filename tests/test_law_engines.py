"""Law: under fixed chunks the bits do not depend on the engine, the number of workers, or their deaths."""

from __future__ import annotations

import os
import signal
import time

import pytest
from agreement import assert_same_bits
from cases import ANY_CASE, CASES, KERNELS
from sources import CutBatch, CutRows

from dem.engine import LocalEngine
from dem.engine.base import read_ahead
from dem.events import IterationEnded

EDGES = list(range(200, 3000, 200))


def fit(case, **options):
    return case.estimator(tol=1e-5, **options).fit(CutRows(case.data(), EDGES))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_threads_and_processes_give_the_same_bits(case, cluster):
    from distributed import Client

    with Client(cluster):
        on_cluster = fit(case)
    assert_same_bits(fit(case), on_cluster, (*case.parameters, "lower_bounds_"))


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_number_of_threads(case, n_threads, monkeypatch):
    expected = fit(case)
    monkeypatch.setattr("dem.estimators.base.current_engine", lambda _: LocalEngine(n_threads))
    assert_same_bits(fit(case), expected, (*case.parameters, "lower_bounds_"))


@pytest.mark.slow
@pytest.mark.parametrize(("n_workers", "cases"), [(1, KERNELS[::2]), (3, KERNELS[1::2])], ids=["1", "3"])
def test_number_of_worker_processes(n_workers, cases):
    from dem.engine import connect

    with connect(workers=n_workers):
        on_cluster = [fit(case) for case in cases]
    for case, fitted in zip(cases, on_cluster, strict=True):
        assert_same_bits(fit(case), fitted, (*case.parameters, "lower_bounds_"))


class SlowBatch(CutBatch):
    def __iter__(self):
        for chunk in super().__iter__():
            time.sleep(0.02)
            yield chunk


class SlowRows(CutRows):
    """Rows whose chunks take a while to read, so that a worker dies in the middle of a batch."""

    def batches(self):
        batches = super().batches()
        for batch in batches:
            batch.__class__ = SlowBatch
        return batches


@pytest.mark.slow
def test_a_killed_worker_does_not_change_the_bits():
    from dem.engine import connect

    case = ANY_CASE
    expected = case.estimator().fit(SlowRows(case.data(), EDGES))
    killed = []

    with connect(workers=2) as engine:
        workers = engine.client.run(os.getpid)

        def kill_in_mid_iteration(event):
            if isinstance(event, IterationEnded) and event.iteration == 1 and not killed:
                import threading

                pid = next(iter(workers.values()))
                killed.append(pid)
                # Well after the next iteration began and well before it can end (16 chunks of 20 ms on 2 workers).
                threading.Timer(0.08, os.kill, (pid, signal.SIGKILL)).start()

        fitted = case.estimator(callbacks=[kill_in_mid_iteration]).fit(SlowRows(case.data(), EDGES))
        assert killed
        assert fitted.n_iter_ > 2
        assert killed[0] not in engine.client.run(os.getpid).values()
    assert_same_bits(fitted, expected, (*case.parameters, "lower_bounds_"))


def test_reads_one_chunk_ahead_and_no_more():
    read = []

    def chunks():
        for number in range(5):
            read.append(number)
            yield number

    for number in read_ahead(chunks()):
        time.sleep(0.02)
        assert len(read) <= number + 2
        assert len(read) >= min(number + 2, 5)


def test_an_error_in_a_chunk_reaches_the_user(client):
    def work(chunk):
        raise ZeroDivisionError(str(chunk.index))

    from dem.engine import current_engine

    rows = CutRows(ANY_CASE.data(), EDGES)
    engine = current_engine()
    assert type(engine).__name__ == "ClusterEngine"
    with pytest.raises(ZeroDivisionError, match="range"):
        engine.sweep(rows, [work])
    with pytest.raises(ZeroDivisionError, match="range"):
        LocalEngine(2).sweep(rows, [work])


def blas_threads(chunk):
    import threadpoolctl

    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


class Union(set):
    """A set whose ``+`` is the union."""

    def __add__(self, other):
        return Union(self | other)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_blas_runs_at_one_thread_inside_and_as_before_outside(n_threads):
    """Also after another thread has set a limit: threadpoolctl then ignores the limits of all others."""
    import threading

    import threadpoolctl

    before = blas_threads(None)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        limited = blas_threads(None)
        found = []

        def sweep():
            rows = CutRows(ANY_CASE.data(), EDGES)
            found.append(LocalEngine(n_threads).sweep(rows, [lambda chunk: Union(blas_threads(chunk))])[0])

        thread = threading.Thread(target=sweep)
        thread.start()
        thread.join()
        assert found == [{1}]
        assert blas_threads(None) == limited
    assert blas_threads(None) == before


@pytest.mark.slow
def test_a_restarted_worker_keeps_its_settings():
    """It would pause at four fifths of its memory, and then wait for ever for room that nothing frees."""
    from dem.engine import connect

    def pauses_at(dask_worker):
        return dask_worker.memory_manager.memory_pause_fraction

    environment = dict(os.environ)
    with connect(workers=1) as engine:
        before = engine.client.nthreads().keys()
        os.kill(*engine.client.run(os.getpid).values(), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while engine.client.nthreads().keys() in (before, set()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(engine.client.run(pauses_at).values()) == [False]
    own = {"PYTHONHASHSEED", "__DASK_PARENT_PID"}  # Dask's, for its processes
    left = {name for name in os.environ if os.environ[name] != environment.get(name)}
    assert left <= own, "nothing is left to clusters that are none of dem's"


def test_batches_are_spread_evenly():
    """Also while one worker is busy: what it does not get now stays away for good."""
    from dem.engine import connect

    with connect(workers=2) as engine:
        rows = CutRows(ANY_CASE.data(), EDGES)
        busy = engine.client.submit(time.sleep, 1.0)
        engine.sweep(rows, [len])
        held = engine.client.who_has(engine._spread_evenly(rows).futures)
        places = [worker for workers in held.values() for worker in workers]
        assert min(places.count(worker) for worker in engine.client.nthreads()) >= 7
        assert busy.result() is None
