"""Progress: speed, amount read and time left, on a terminal and elsewhere."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sources import CutRows

import dem
from dem.cli.progress import LiveProgress, LogProgress, RowCount, fit_progress, row_progress
from dem.em.algorithm import Fit, Status
from dem.em.progress import Tracker, describe, remaining_iterations
from dem.engine import current_engine
from dem.events import BatchEnded, FitEnded, FitStarted, IterationEnded, Preparing
from dem.units import human_bytes, human_count, human_seconds

K_MEANS_PARALLEL = [
    "k-means‖, distances to the first centre",
    *(f"k-means‖, round {number} of 5" for number in range(1, 6)),
    "k-means‖, rows nearest to each candidate",
    "k-means‖, statistics of its clusters",
]


def started(phase="data", n_models=1, max_iter=100, tol=1e-3):
    return FitStarted(phase, n_models, 1_000_000, 4, 32_000_000, max_iter, tol)


def iteration(number, gain=math.inf, *, phase="data", model=0, seconds=0.5):
    return IterationEnded(phase, model, number, -1.25, gain, seconds, None, None)


def untimed(line):
    """Return a line of the log without its time, which must be that of now."""
    found = re.fullmatch(r"dem: (\S+) (.*)", line, re.DOTALL)
    age = datetime.now(UTC) - datetime.fromisoformat(found[1])
    assert timedelta(0) <= age < timedelta(seconds=60)
    return found[2]


def test_models_on_one_read_count_it_once():
    tracker = Tracker()
    for event in (started(n_models=2), iteration(1), iteration(1, model=1), iteration(2, 1.0)):
        tracker(event)
    assert tracker.bytes_read == 2 * 32_000_000
    assert tracker.rows_per_second == 2_000_000


def test_the_sample_is_not_read_from_disk():
    tracker = Tracker()
    for event in (started("sample"), iteration(1, phase="sample"), started(), iteration(1)):
        tracker(event)
    assert tracker.bytes_read == 32_000_000


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([math.inf], None),
        ([math.inf, 1.0], None),
        ([math.inf, 1.0, 0.1], 2),  # 0.01, 0.001: the gain after two more is at tol
        ([math.inf, 0.08, 0.04, 0.02], 5),
        ([math.inf, 0.1, 0.2], None),
        ([math.inf, 0.1, -1.0, 0.05], None),
        ([math.inf, 1.0, 0.0005], 0),
    ],
)
def test_remaining_iterations_extrapolate_the_decay(gains, expected):
    assert remaining_iterations(gains, 1e-3) == expected


def test_time_left_is_bounded_by_max_iter():
    tracker = Tracker()
    for event in (started(max_iter=10), iteration(1), iteration(2, 1.0), iteration(3, 0.999)):
        tracker(event)
    assert tracker.time_left() == (7 * 0.5, True)


def test_models_that_ended_take_no_more_time():
    tracker = Tracker()
    tracker(started(n_models=2))
    for number, gain in enumerate((math.inf, 1.0, 0.1), 1):
        tracker(iteration(number, gain))
        tracker(iteration(number, gain, model=1))
    tracker(FitEnded("data", 1, 3, "converged"))
    assert tracker.time_left() == (1.0, False)
    tracker(FitEnded("data", 0, 3, "converged"))
    assert tracker.time_left() == (0.0, False)


def test_the_log_tells_what_is_remembered_of_the_blocks(capsys):
    LogProgress()(dataclasses.replace(started(), memo_bytes=120_000))
    expected = "fitting all data: 1,000,000 rows x 4 features (32.0 MB), remembering 120.0 kB of statistics\n"
    assert untimed(capsys.readouterr().err) == expected


def test_the_live_line_tells_what_is_remembered_of_the_blocks():
    live = LiveProgress()
    live(dataclasses.replace(started(), memo_bytes=120_000))
    assert "reading, remembering 120.0 kB of statistics" in live.__rich__().plain


def test_every_step_of_the_search_for_a_start_is_told(capsys):
    log, live = LogProgress(), LiveProgress()
    for init, expected in (
        ("kmeans", ["looking for a start in the sample (kmeans)"]),
        ("k-means||", K_MEANS_PARALLEL),
    ):
        shown = []
        callbacks = [log, live, lambda event: shown.append((event, live.__rich__().plain))]  # noqa: B023
        model = dem.GaussianMixture(2, init_params=init, random_state=0, max_iter=9, tol=10, callbacks=callbacks)
        model.fit(np.random.default_rng(0).normal(size=(500, 2)))
        need, *lines = capsys.readouterr().err.splitlines()
        assert untimed(need).startswith("this process needs up to ")
        lines = [untimed(line) for line in lines if not line.startswith("dem: this process")]  # above the live line
        steps = ["drawing a sample of the rows", *expected]
        assert lines[: len(steps) + 1] == [
            *(f"preparing: {step}" for step in steps),
            "fitting all data: 500 rows x 2 features (8.0 kB)",
        ]
        if init == "kmeans":
            lines = [line for event, line in shown if isinstance(event, Preparing)]
            assert [re.fullmatch(r". preparing: (.+)  \d\.\d s", line)[1] for line in lines] == steps
            lines = [line for event, line in shown if isinstance(event, BatchEnded)]
            assert re.match(r". preparing: drawing a sample of the rows  100 %  500 of 500 rows  \S+", lines[0])
            assert re.match(r". reading  100 %  500 of 500 rows  \S+", lines[1])


def test_the_search_for_centres_is_told(capsys):
    rows = np.random.default_rng(0).normal(size=(500, 2))
    dem.KMeans(2, random_state=0, callbacks=[LogProgress()]).fit(rows)
    need, *lines = [untimed(line) for line in capsys.readouterr().err.splitlines()]
    assert need.startswith("this process needs up to ")
    steps = ["drawing a sample of the rows", *K_MEANS_PARALLEL[:-1]]
    assert lines[: len(steps)] == [f"preparing: {step}" for step in steps]


def test_log_lines_are_plain_and_one_for_each_iteration(capsys):
    log = LogProgress()
    for event in (
        started(),
        iteration(1),
        iteration(2, 0.1),
        iteration(3, 0.01),
        FitEnded("data", 0, 3, "converged"),
    ):
        log(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, *lines = map(untimed, captured.err.splitlines())
    assert first == "fitting all data: 1,000,000 rows x 4 features (32.0 MB)"
    assert lines == [
        f"iteration {number}, log-likelihood per row -1.25, {gain}2 M rows/s, {read}.0 MB read, {left} left"
        for number, gain, read, left in (
            (1, "", 32, "at most 50 s"),
            (2, "gain 1.00e-01, ", 64, "at most 49 s"),
            (3, "gain 1.00e-02, ", 96, "about 0.5 s"),
        )
    ] + ["ended after iteration 3: converged"]


def test_the_live_line_shows_what_the_issue_asks_for():
    live = LiveProgress()
    assert "preparing" in live.__rich__().plain
    live(started())
    assert "reading" in live.__rich__().plain
    for event in (iteration(1), iteration(2, 0.1), iteration(3, 0.01)):
        live(event)
    line = live.__rich__().plain
    for part in (
        "iteration 3",
        "log-likelihood/row -1.25",
        "gain 1.00e-02",
        "2 M rows/s",
        "96.0 MB read",
        "0.5 s left",
    ):
        assert part in line


def count_rows(monkeypatch, *, quiet=False):
    """Sweep 1000 rows in ten batches where nobody watches."""
    monkeypatch.setattr("dem.cli.progress.is_terminal", lambda: False)
    with row_progress("reading", quiet), current_engine() as engine:
        engine.sweep(CutRows(np.arange(2000.0).reshape(1000, 2), range(100, 1000, 100)), [len])


def test_the_live_line_of_a_read(monkeypatch):
    count = RowCount("writing labels", writes_lines=False)
    assert re.fullmatch(r". writing labels  0\.\d s", count.__rich__().plain)
    count(BatchEnded(250, 1000, 5.0))
    monkeypatch.setattr(count.current, "began", time.monotonic() - 5)
    assert re.fullmatch(
        r". writing labels  25 %  250 of 1 k rows  50 rows/s  about 15 s left", count.__rich__().plain
    ), count.__rich__().plain
    count(BatchEnded(2000, 1000, 5.0))  # the search for a bad value reads once more
    figures = count.current.figures()
    assert (figures[0], figures[3]) == ("100 %", "about 0.0 s left")


def test_where_nobody_watches_there_is_a_line_now_and_then(monkeypatch, capsys):
    count_rows(monkeypatch)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("dem.cli.progress.LINE_SECONDS", 0.0)
    count_rows(monkeypatch)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert untimed(lines[0]).startswith("reading: 10 %, 100 of 1 k rows, ")
    assert untimed(lines[-1]).startswith("reading: 100 %, 1 k of 1 k rows, ")
    count_rows(monkeypatch, quiet=True)
    assert capsys.readouterr().err == ""


def test_what_workers_read_is_counted_too(monkeypatch, capsys, client):
    monkeypatch.setattr("dem.cli.progress.LINE_SECONDS", 0.0)
    count_rows(monkeypatch)
    assert untimed(capsys.readouterr().err.splitlines()[-1]).startswith("reading: 100 %, 1 k of 1 k rows, ")


def test_the_line_of_a_fit_tells_the_share_of_the_pass():
    live = LiveProgress()
    live(started())
    live(BatchEnded(250_000, 1_000_000, 0.5))
    assert re.match(r". reading  25 %  250 k of 1 M rows  \S+", live.__rich__().plain)
    for event in (iteration(1), iteration(2, 0.1), iteration(3, 0.01), BatchEnded(600_000, 1_000_000, 0.3)):
        live(event)
    assert live.__rich__().plain.endswith("96.0 MB read  60 % of this pass  about 0.2 s left")
    live(iteration(4, 0.001))
    assert "of this pass" not in live.__rich__().plain


def test_several_starts_are_numbered():
    tracker = Tracker()
    tracker(started("sample", n_models=3))
    tracker(iteration(4, 0.5, phase="sample", model=1))
    assert describe(tracker)[0] == ("on the sample, iteration", "4 (best: start 2 of 3)")


def several_starts(log_likelihoods, ends):
    """Return the events of starts with some log-likelihoods, read by read, and the words with which they end."""
    yield started(n_models=len(log_likelihoods))
    for number in range(max(map(len, log_likelihoods))):
        for model, values in enumerate(log_likelihoods):
            if number < len(values):
                gain = values[number] - values[number - 1] if number else math.inf
                yield dataclasses.replace(iteration(number + 1, gain, model=model), log_likelihood=values[number])
            if number + 1 == len(values):
                yield FitEnded("data", model, number + 1, ends[model])


STARTS = ([-3.0, -2.5, -2.4, -2.3999], [-3.5, -2.0], [-4.0, -1.0, -0.5])


def test_the_log_has_a_line_for_each_read_and_names_the_best_start_at_the_end(capsys):
    log = LogProgress()
    for event in several_starts(STARTS, ("converged", "converged", "failed: singular")):
        log(event)
    _, *lines = map(untimed, capsys.readouterr().err.splitlines())
    reads = [line for line in lines if line.startswith("iteration")]
    assert [line.split(", ")[:2] for line in reads] == [
        ["iteration 1 (best: start 1 of 3)", "log-likelihood per row -3"],
        ["iteration 2 (best: start 3 of 3)", "log-likelihood per row -1"],
        ["iteration 3 (best: start 3 of 3)", "log-likelihood per row -0.5"],
        ["iteration 4 (best: start 2 of 3)", "log-likelihood per row -2"],
    ]
    assert not reads[-1].endswith(" left"), "there is nothing left"
    assert "gain 5.00e-01" in reads[2]
    assert "gain" not in reads[3], "the best start has ended before"
    assert [line for line in lines if "ended" in line] == [
        "start 2 of 3 ended after iteration 2: converged",
        "start 3 of 3 ended after iteration 3: failed: singular",
        "start 1 of 3 ended after iteration 4: converged",
    ]
    assert lines[-1] == "best: start 2 of 3, log-likelihood per row -2 after 2 iterations"


def test_the_gain_of_a_best_start_that_ends_with_the_read_is_told(capsys):
    log = LogProgress()
    for event in several_starts(([-3.0, -2.0], [-4.0, -3.5]), ("converged", "converged")):
        log(event)
    assert ", log-likelihood per row -2, gain 1.00e+00, " in capsys.readouterr().err


def test_all_ways_to_be_out_of_the_running_are_known():
    for status in Status:
        tracker = Tracker()
        for event in several_starts(([-3.0], [-1.0]), ("converged", str(status.value))):
            tracker(event)
        assert tracker.best.model == int(Fit(None, status).eligible or status is Status.RUNNING), status


def test_the_terminal_is_told_the_best_start_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr("dem.cli.progress.is_terminal", lambda: True)
    with fit_progress(quiet=False) as callbacks:
        for event in several_starts(STARTS, ("converged", "converged", "failed: singular")):
            callbacks[0](event)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("dem: best: start 2 of 3, log-likelihood per row -2 after 2 iterations")


def test_a_grid_is_no_contest_of_starts():
    tracker = Tracker()
    tracker(dataclasses.replace(started(n_models=2), n_contests=2))
    for event in (iteration(1), iteration(1, model=1), FitEnded("data", 0, 1, "converged")):
        tracker(event)
    assert describe(tracker)[0] == ("iteration", "1 (1 of 2 models go on)")
    assert not any("log-likelihood" in name for name, _ in describe(tracker))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (human_bytes(12), "12 bytes"),
        (human_bytes(12_400_000_000), "12.4 GB"),
        (human_bytes(3.2e15), "3.2 PB"),
        (human_count(950), "950"),
        (human_count(4_200_000), "4.2 M"),
        (human_seconds(0.53), "0.5 s"),
        (human_seconds(59.7), "1 min 00 s"),
        (human_seconds(200), "3 min 20 s"),
        (human_seconds(7500), "2 h 05 min"),
    ],
)
def test_numbers_for_people(text, expected):
    assert text == expected
