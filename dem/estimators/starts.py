"""The search among several starts: compared on a sample in memory, the best few polished on all the data."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace

from dem.data.base import Rows
from dem.data.joined import table_of
from dem.em.algorithm import Algorithm, Batch, Fit, Settings, Start
from dem.em.loop import run
from dem.engine import Engine, LocalEngine
from dem.initialise.sample import RowSample

#: how many of the starts that were compared on the sample are polished together on all the data
POLISHED = 3


def search(
    starts: Sequence[Start],
    sample: RowSample,
    rows: Rows,
    engine: Engine,
    algorithm: Algorithm,
    settings: Settings,
    *,
    compare: bool = True,
    sample_iterations: int = 0,
    prepare: Callable[[Start], Start] = lambda start: start,
) -> dict[Hashable, list[Fit]]:
    """Fit the best of several starts, of one model or of each of several contests.

    Parameters
    ----------
    starts : sequence of Start
        Those of equal contest compete.
    sample : RowSample
        Unless it is all the data, and if `max_iter` allows anything, it chooses which starts go on: the best three by
        batch EM, which share the reads, else the best.
    rows, engine, algorithm, settings
        As for `dem.em.loop.run`.
    compare : bool
        Whether there is anything to compare, or a single start to improve.
    sample_iterations : int
        Iterations on the sample at most, if these are more than `max_iter`.
    prepare : callable
        Applied to the starts before they meet all the data.

    Returns
    -------
    dict of list of Fit
        By contest, the best first; the first one of a contest is not eligible if none is.
    """
    found: dict[Hashable, list[Fit]] = {}
    if compare and not sample.complete and settings.max_iter > 0:
        iterations = max(settings.max_iter, sample_iterations)
        on_sample = replace(settings, max_iter=iterations, phase="sample", racing=False)
        whole_passes = algorithm.n_blocks is None
        fits = run(starts, algorithm if whole_passes else Batch(), table_of(sample.chunk), LocalEngine(), on_sample)
        models = {start.contest: start.model for start in starts}
        found = by_contest(starts, fits)
        starts = [
            Start(models[contest], one.parameters, contest)
            for contest, own in found.items()
            for one in own[: POLISHED if whole_passes else 1]
            if one.eligible
        ]
    starts = [prepare(start) for start in starts]
    return found | by_contest(starts, run(starts, algorithm, rows, engine, settings))


def by_contest(starts: Iterable[Start], fits: Iterable[Fit]) -> dict[Hashable, list[Fit]]:
    """Return the fits of each contest: those that are eligible by falling likelihood, the first of equals first."""
    found: dict[Hashable, list[Fit]] = {}
    for start, one in zip(starts, fits, strict=True):
        found.setdefault(start.contest, []).append(one)
    return {
        contest: sorted(own, key=lambda one: (not one.eligible, -one.log_likelihood)) for contest, own in found.items()
    }
