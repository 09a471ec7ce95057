"""Stepwise EM: running averages of the statistics, after each block a step of decreasing size towards its own.

References
----------
Cappé, O. and Moulines, E. (2009). On-line expectation–maximization algorithm for latent data models. JRSS B 71.
Liang, P. and Klein, D. (2009). Online EM for unsupervised models. NAACL.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dem.data.base import Chunk, Rows
from dem.em import incremental
from dem.em.blocks import Blocks
from dem.em.loop import Fit, Settings, log_likelihood_per_row
from dem.engine.base import Engine
from dem.errors import DataWarning
from dem.events import IterationEnded, notify
from dem.families.base import IncrementalFamily
from dem.statistics import CentralMoments

# Share of the variance of a column that lies between the blocks from which on the rows look sorted.
SORTED = 0.1


def fit(
    family: IncrementalFamily[Any, Any],
    starts: Sequence[Any],
    rows: Rows,
    engine: Engine,
    settings: Settings,
    *,
    previous: float = -math.inf,
) -> list[Fit]:
    """Run one lap of stepwise EM and then incremental EM, from each start in turn; as in `dem.em.incremental.fit`.

    A start whose log-likelihood is known (`previous`) counts as one that has seen the rows before: its steps are small.

    Warns
    -----
    DataWarning
        If the data look sorted: stepwise EM then follows the latest blocks.
    """
    blocks = Blocks.of(family, rows, engine, settings.max_in_flight)
    incremental.announce(family, starts, blocks, settings)
    n_seen = rows.n_rows if math.isfinite(previous) else 0
    fits = []
    for number, start in enumerate(starts):
        one = Fit(start)
        if settings.max_iter > 0:
            began = time.perf_counter()
            after = lap(blocks, start, n_seen=n_seen, power=settings.step_power, seed=settings.seed)
            seconds = time.perf_counter() - began
            if number == 0:
                warn_if_sorted(rows, after.moments)
            one.parameters = after.parameters
            one.log_likelihoods.append(after.log_likelihood)
            gain = after.log_likelihood - previous
            notify(
                settings.callbacks,
                IterationEnded(settings.phase, number, 1, after.log_likelihood, gain, seconds, one.parameters, family),
            )
        fits.append(incremental.run(blocks, one, number, settings, -math.inf))
    return fits


@dataclass(frozen=True, eq=False)
class Lap:
    """What one lap of stepwise EM leaves.

    Attributes
    ----------
    parameters : object
        After the last step.
    log_likelihood : float
        Per row, each block's under the parameters before it was learned from.
    moments : list of CentralMoments
        Of the rows of each block.
    """

    parameters: Any
    log_likelihood: float
    moments: list[CentralMoments]


def lap(blocks: Blocks, parameters: Any, *, n_seen: float, power: float, seed: int, whole: float = 0.0) -> Lap:
    """Visit every block once, in random order.

    Parameters
    ----------
    blocks : Blocks
        The data.
    parameters : object
        The start. It stands for the statistics so far, from which the M-step would make it.
    n_seen : float
        Number of rows that the start has learned from. A step of size (t + 2)^−power counts t in blocks as large as its
        own, so that a small block does not outweigh all that came before.
    power : float
        Above ½, at most 1.
    seed : int
        Determines the order together with `n_seen`.
    whole : float
        A block of fewer rows makes only their share of a step.
    """
    family = blocks.family
    statistics = family.implied(parameters)
    order = np.random.default_rng([seed, int(n_seen)]).permutation(len(blocks)).tolist()
    log_likelihood, n_rows, moments = 0.0, 0.0, []

    def latest() -> Any:
        return parameters

    for visit in blocks.visit(order, latest, works=[row_moments]):
        fresh = visit.statistics
        log_likelihood_per_row(fresh, 1)
        log_likelihood += fresh.log_likelihood
        n_rows += fresh.n_rows
        moments += visit.more
        n_step = max(fresh.n_rows, whole)
        step = (n_seen / n_step + 2.0) ** -power * (fresh.n_rows / n_step)
        n_seen += fresh.n_rows
        statistics = (1.0 - step) * statistics + (step / fresh.n_rows) * family.rebased(fresh, visit.parameters)
        parameters = family.m_step(statistics, parameters)
    return Lap(parameters, log_likelihood / n_rows, moments)


def row_moments(chunk: Chunk) -> CentralMoments:
    """Work: number, mean and scatter of the rows."""
    rows = np.asarray(chunk.rows, dtype=np.float64)
    mean = rows.mean(axis=0)
    scatter = np.sum((rows - mean) ** 2, axis=0)
    return CentralMoments(np.array([float(len(rows))]), mean[np.newaxis], scatter[np.newaxis])


def warn_if_sorted(rows: Rows, blocks: Sequence[CentralMoments]) -> None:
    """Warn if the means of the blocks differ by more than chance (analysis of variance), and by enough to matter."""
    whole = sum(blocks[1:], start=blocks[0])
    between = sum(block.counts[0] * (block.means[0] - whole.means[0]) ** 2 for block in blocks)
    share = between / np.where(whole.scatter[0] > 0.0, whole.scatter[0], 1.0)
    n_free = len(blocks) - 1
    by_chance = (n_free + 5.0 * math.sqrt(2.0 * n_free)) / max(rows.n_rows - 1, 1)
    if share.max() > SORTED + by_chance:
        column = int(share.argmax())
        message = (
            f"the rows of {rows.name} look sorted: {share[column]:.0%} of the variance of column {column} lies between "
            "its blocks; stepwise EM follows the latest blocks, so take algorithm='incremental', or shuffle the rows"
        )
        warnings.warn(message, DataWarning, stacklevel=5)
