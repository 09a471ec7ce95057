"""The data in blocks, and the passes over them.

A block is a group of batches; batch EM has all of them in one. Incremental and stepwise EM, which move on after each,
want `N_BLOCKS` as far as the data has chunks: `Rows.divided` makes batches of single chunks where reading would take
several together, and of ranges of rows in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dem.data.base import Rows
from dem.em.algorithm import Plan
from dem.em.e_step import Reading
from dem.engine.base import Engine
from dem.families.base import Model

# More blocks need hardly fewer passes (5, 20, 100 blocks: 46, 40, 39 passes) and keep fewer workers busy each.
N_BLOCKS = 40


@dataclass(frozen=True, eq=False)
class Visit:
    """What the E-steps of some models brought back from a block.

    Attributes
    ----------
    block : int
        Which block.
    points : dict
        By the number of the model, the parameters of its E-step: as they were when it was sent.
    statistics : dict
        By the number of the model.
    more : list
        Totals of the other works of the plan.
    """

    block: int
    points: dict[int, Any]
    statistics: dict[int, Any]
    more: list[Any]


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a table on an engine.

    Attributes
    ----------
    rows : Rows
        The data.
    engine : Engine
        Where the E-steps run.
    batches : sequence of slice
        The batches of each block.
    """

    rows: Rows
    engine: Engine
    batches: Sequence[slice]

    @classmethod
    def of(cls, rows: Rows, engine: Engine, wanted: int | None) -> Blocks:
        """Divide a table; its blocks depend on the data alone, never on the workers."""
        if wanted is None:
            return cls(rows, engine, [slice(None)])
        n_batches = len(rows.batches())
        n = min(n_batches, wanted)
        return cls(rows, engine, [slice(n_batches * i // n, n_batches * (i + 1) // n) for i in range(n)])

    def __len__(self) -> int:
        return len(self.batches)

    def visit(
        self, plan: Plan, models: Sequence[Model[Any, Any]], points: Callable[[], dict[int, Any]]
    ) -> Iterator[Visit]:
        """Run E-steps on blocks and yield what they bring in the order they were sent, whichever is ready first.

        So a straggler costs time, but neither it nor the number of workers changes any bit; that the parameters are
        older than the latest by ``plan.in_flight`` − 1 blocks at most is certain.

        Parameters
        ----------
        plan : Plan
            Which blocks, and how many at once.
        models : sequence of Model
            All of them.
        points : callable
            Returns, whenever a block is sent, the latest parameters of each model that it is sent for, by its number.
        """
        under_way: deque[tuple[int, dict[int, Any], Reading]] = deque()
        waiting = deque(plan.order)
        while waiting or under_way:
            while waiting and len(under_way) < plan.in_flight:
                block, latest = waiting.popleft(), points()
                pairs = {number: (models[number], latest[number]) for number in latest}
                reading = Reading(self.engine, self.rows, self.batches[block], pairs, plan.works)
                under_way.append((block, latest, reading))
            block, latest, reading = under_way.popleft()
            statistics, more = reading.result()
            yield Visit(block, latest, statistics, more)
