"""Incremental EM (Neal and Hinton 1998): the parameters move on after every block of the data.

EM maximises the free energy F(q, θ) in turn over the responsibilities q of all rows and over θ. It rises just the same
when only one block gets new responsibilities before θ moves on. F is the sum over the blocks of what their statistics
expect of log p(x, z; θ), plus their entropies, which an E-step gives away for nothing: ll − Q(S; θ).

References
----------
Neal, R. M. and Hinton, G. E. (1998). A view of the EM algorithm that justifies incremental, sparse, and other variants.
In Learning in Graphical Models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dem import tree
from dem.data.base import Chunk, Rows
from dem.em.block_table import BlockTable
from dem.em.blocks import Blocks
from dem.em.loop import Fit, Settings, Status, check_monotone, end, log_likelihood_per_row
from dem.engine.base import Engine, single_threaded_blas
from dem.events import FitStarted, IterationEnded, notify
from dem.families.base import IncrementalFamily


def fit(
    family: IncrementalFamily[Any, Any],
    starts: Sequence[Any],
    rows: Rows,
    engine: Engine,
    settings: Settings,
    *,
    previous: float = -math.inf,
) -> list[Fit]:
    """Run incremental EM from each start in turn; parameters, results and errors as in `dem.em.loop.fit`.

    An iteration is one read. The first is exact: all blocks at the same parameters, as in batch EM. The log-likelihood
    of the others is the free energy at their end, a lower bound that never falls. Once it rises by less than `tol`, an
    exact read confirms, or puts EM back to work; the last read that `max_iter` allows is exact too.
    """
    blocks = Blocks.of(family, rows, engine, settings.max_in_flight)
    announce(family, starts, blocks, settings)
    return [run(blocks, Fit(start), number, settings, previous) for number, start in enumerate(starts)]


def announce(family: IncrementalFamily[Any, Any], starts: Sequence[Any], blocks: Blocks, settings: Settings) -> None:
    """Tell that a fit begins, and how large its memo will be."""
    rows = blocks.rows
    size = (rows.n_rows, rows.n_features, rows.n_bytes)
    memo_bytes = len(blocks) * tree.n_bytes(blank(family, starts[0], rows))
    notify(
        settings.callbacks,
        FitStarted(settings.phase, len(starts), *size, settings.max_iter, settings.tol, memo_bytes),
    )


def blank(family: IncrementalFamily[Any, Any], parameters: Any, rows: Rows) -> Any:
    """Return the statistics of no rows."""
    nothing = Chunk(np.empty((0, rows.n_features), rows.dtype), range(0))
    return family.rebased(family.e_step(parameters, nothing), parameters)


def run(blocks: Blocks, one: Fit, number: int, settings: Settings, previous: float) -> Fit:
    """Take a start, or a fit that has made some reads already, to its end."""
    family, rows = blocks.family, blocks.rows
    memo = BlockTable.room_for(blank(family, one.parameters, rows), len(blocks))
    state = _State(blocks, memo, one.parameters)
    exact = True
    while one.n_iter < settings.max_iter and one.status is Status.RUNNING:
        exact = exact or one.n_iter + 1 == settings.max_iter
        began = time.perf_counter()
        with single_threaded_blas():  # also for the M-step after the last block
            reached = (state.read(one.n_iter + 1) if exact else state.lap(one.n_iter + 1)) / rows.n_rows
        seconds = time.perf_counter() - began
        gain = reached - previous
        if one.log_likelihoods:  # a warm start may go on with other data
            # Each of the M-steps of a lap may lose what regularisation costs.
            check_monotone(family, one, previous, reached, rows.dtype, n_steps=len(blocks))
        one.parameters, previous = state.parameters, reached
        one.log_likelihoods.append(reached)
        notify(
            settings.callbacks,
            IterationEnded(settings.phase, number, one.n_iter, reached, gain, seconds, one.parameters, family),
        )
        still = abs(gain) < settings.tol
        if still and exact:
            end(one, number, settings, Status.CONVERGED)
        exact = still and not exact
    if one.status is Status.RUNNING:
        end(one, number, settings, Status.MAX_ITER)
    return one


@dataclass
class _State:
    """Parameters and what they come from."""

    blocks: Blocks
    memo: BlockTable[Any]
    parameters: Any

    def read(self, iteration: int) -> float:
        """Give all blocks responsibilities at the present parameters, then move on; return their log-likelihood."""
        family, everything = self.blocks.family, len(self.blocks)
        log_likelihoods = []
        for visit in self.blocks.visit(range(everything), lambda: self.parameters, in_flight=everything):
            log_likelihood_per_row(visit.statistics, iteration)
            log_likelihoods.append(visit.statistics.log_likelihood)
            self.memo[visit.block] = family.rebased(visit.statistics, visit.parameters)
        self.parameters = family.m_step(self.memo.total(), self.parameters)
        return math.fsum(log_likelihoods)

    def lap(self, iteration: int) -> float:
        """Give one block after the other new responsibilities and move on after each; return the free energy."""
        family = self.blocks.family
        for visit in self.blocks.visit(self.blocks.scattered(), lambda: self.parameters):
            log_likelihood_per_row(visit.statistics, iteration)
            fresh = family.rebased(visit.statistics, visit.parameters)
            if self._is_better(visit.block, visit.parameters, fresh):
                self.memo[visit.block] = fresh
                self.parameters = family.m_step(self.memo.total(), self.parameters)
        return family.free_energy(self.memo.total(), self.parameters)

    def _is_better(self, block: int, used: Any, fresh: Any) -> bool:
        """Tell whether new responsibilities raise the free energy of a block, which those at older parameters may not.

        F is a sum over the blocks, so this makes it monotone whatever the delay; what is refused has its turn again in
        the next lap.
        """
        if used is self.parameters:
            return True
        family = self.blocks.family
        return family.free_energy(fresh, self.parameters) >= family.free_energy(self.memo[block], self.parameters)
