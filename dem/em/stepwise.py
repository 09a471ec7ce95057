"""Stepwise EM: running averages of the statistics, after each block a step of decreasing size towards its own.

References
----------
Cappé, O. and Moulines, E. (2009). On-line expectation–maximization algorithm for latent data models. JRSS B 71.
Liang, P. and Klein, D. (2009). Online EM for unsupervised models. NAACL.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.em.algorithm import Algorithm, Iterate, Plan, finite_objective
from dem.em.e_step import N_BLOCKS
from dem.em.incremental import Incremental, IncrementalState, in_flight
from dem.errors import DataWarning
from dem.families.base import IncrementalModel, total_weight
from dem.sparse import SparseRows, is_sparse
from dem.statistics import CentralMoments

# Share of the variance of a column that lies between the blocks from which on the rows look sorted.
SORTED = 0.1


@dataclass(frozen=True, eq=False)
class StepwiseState:
    """A running average, and what incremental EM goes on with.

    Attributes
    ----------
    parameters : object
        The latest.
    average : Statistics
        Rebased, per row.
    n_seen, total : float
        Numbers of rows that it has learned from, and that it stands for in an M-step.
    objective, n_rows : float
        What the blocks of this pass have found, each under the parameters before it was learned from.
    then : IncrementalState
        Counts once the first pass is over.
    over : bool
        Whether it is.
    """

    parameters: Any
    average: Any
    n_seen: float
    total: float
    objective: float
    n_rows: float
    then: IncrementalState
    over: bool = False


@dataclass(frozen=True)
class Stepwise(Algorithm):
    """One pass of stepwise EM in random order, and then incremental EM.

    A step of size (t + 2)^−power counts t in blocks as large as its own, so that a small block does not outweigh all
    that came before.

    Parameters
    ----------
    power : float
        Above ½, at most 1.
    seed : int
        Determines the order together with `n_seen`.
    max_in_flight : int, optional
        As in `Incremental`.
    n_seen : float
        Number of rows that the start has learned from: it stands for the statistics from which the M-step makes it.
    n_rows : float, optional
        Number of rows that the average stands for in an M-step; those of the data when left out.
    whole : float
        A block of fewer rows makes only their share of a step.
    watches_order : bool
        Whether to warn if the rows look sorted: stepwise EM then follows the latest blocks.
    """

    power: float = 0.7
    seed: int = 0
    max_in_flight: int | None = None
    n_seen: float = 0.0
    n_rows: float | None = None
    whole: float = 0.0
    watches_order: bool = True
    name: ClassVar[str] = "stepwise"
    n_blocks: ClassVar[int | None] = N_BLOCKS

    @property
    def _then(self) -> Incremental:
        return Incremental(self.max_in_flight)

    def init(
        self, model: IncrementalModel[Any, Any], parameters: Any, rows: Rows, n_blocks: int, n_models: int = 1
    ) -> StepwiseState:
        """Return the state before the first pass."""
        then = self._then.init(model, parameters, rows, n_blocks, n_models)
        total = self.n_rows or rows.n_rows
        # A start comes from no M-step on the data, so that no prior has had a part in it.
        implied = model.implied(parameters, self.n_seen or math.inf)
        return StepwiseState(parameters, implied, self.n_seen, total, 0.0, 0.0, then)

    def plan(self, state: StepwiseState, n_blocks: int, *, confirm: bool) -> tuple[StepwiseState, Plan]:
        """Return a pass in random order, and after that those of incremental EM."""
        if state.n_rows:
            then, plan = self._then.plan(state.then, n_blocks, confirm=confirm)
            return replace(state, then=then, over=True), plan
        order: list[int] = np.random.default_rng([self.seed, int(self.n_seen)]).permutation(n_blocks).tolist()
        works = (row_moments,) if self.watches_order else ()
        return state, Plan(order, in_flight(self.max_in_flight, n_blocks), works)

    def point(self, state: StepwiseState) -> Any:
        """Return the latest parameters."""
        return state.then.parameters if state.over else state.parameters

    def update(
        self, model: IncrementalModel[Any, Any], state: StepwiseState, block: int, at: Any, statistics: Any
    ) -> StepwiseState:
        """Take a step towards the statistics of a block."""
        if state.over:
            return replace(state, then=self._then.update(model, state.then, block, at, statistics))
        if not statistics.n_rows:  # all of its rows have the weight 0
            return state
        objective, n_rows = finite_objective(model, statistics, at) - model.log_prior(at), statistics.n_rows
        n_step = max(n_rows, self.whole)
        step = (state.n_seen / n_step + 2.0) ** -self.power * (n_rows / n_step)
        average = (1.0 - step) * state.average + (step / n_rows) * model.rebased(statistics, at)
        # A prior is weighed against the rows that were seen: how much those to come count, only they tell.
        total = state.n_seen + n_rows if model.has_prior else state.total
        return replace(
            state,
            parameters=model.m_step(total * average, state.parameters),
            average=average,
            n_seen=state.n_seen + n_rows,
            objective=state.objective + objective,
            n_rows=state.n_rows + n_rows,
        )

    def end_pass(self, model: IncrementalModel[Any, Any], state: StepwiseState) -> tuple[StepwiseState, Iterate]:
        """Return what the blocks have found; the first pass of incremental EM is not to be compared with it."""
        if state.over:
            then, iterate = self._then.end_pass(model, state.then)
            return replace(state, then=then), iterate
        objective = state.objective + model.log_prior(state.parameters)
        iterate = Iterate(state.parameters, objective, state.n_rows, exact=False, comparable=False)
        return replace(state, then=replace(state.then, parameters=state.parameters)), iterate

    def judge(self, rows: Rows, found: Sequence[Sequence[Any]]) -> None:
        """Warn if the means of the blocks differ by more than chance, and by enough to matter."""
        warn_if_sorted(rows, [moments for (moments,) in found])

    def resumed(self, state: StepwiseState, fresh: StepwiseState) -> StepwiseState:
        """Return the state with the table of incremental EM where a fresh one has it."""
        return replace(state, then=self._then.resumed(state.then, fresh.then))

    def memory(self, state: StepwiseState) -> int:
        """Return the size of the table of incremental EM."""
        return self._then.memory(state.then)


def row_moments(chunk: Chunk) -> CentralMoments:
    """Work: number, mean and scatter of the rows."""
    weights = np.ones(len(chunk)) if chunk.weights is None else chunk.weights
    total = total_weight(chunk)
    if is_sparse(chunk.rows):
        mean, scatter = _sparse_moments(chunk.rows, weights, total)
        return CentralMoments(np.array([total]), mean[np.newaxis], scatter[np.newaxis])
    rows = np.asarray(chunk.rows, dtype=np.float64)
    mean = weights @ rows / total if total else np.zeros(rows.shape[1])
    scatter = weights @ (rows - mean) ** 2
    return CentralMoments(np.array([total]), mean[np.newaxis], scatter[np.newaxis])


def _sparse_moments(
    rows: SparseRows, weights: NDArray[np.float64], total: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and scatter of sparse rows."""
    columns, own, d = rows.columns, weights[rows.places], rows.shape[1]
    stored = np.bincount(columns, own, minlength=d)
    mean = np.bincount(columns, own * rows.data, minlength=d) / (total or 1.0)
    squares = np.bincount(columns, own * (rows.data - mean[columns]) ** 2, minlength=d)
    return mean, squares + np.maximum(total - stored, 0.0) * mean**2


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
        warnings.warn(message, DataWarning, stacklevel=7)
