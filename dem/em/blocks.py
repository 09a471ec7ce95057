"""The data in blocks, after each of which incremental and stepwise EM move on.

A block is a group of batches, and there are `N_BLOCKS` of them as far as the data has chunks: `Rows.divided` makes
batches of single chunks where reading would take several together, and of ranges of rows in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dem.data.base import Rows
from dem.em.e_step import EStep
from dem.engine.base import Engine, Pending, Work, single_threaded_blas
from dem.families.base import IncrementalFamily

# More blocks than this need hardly fewer reads (5, 20, 100 blocks: 46, 40, 39 reads) and keep fewer workers busy each.
N_BLOCKS = 40
# Blocks under way at once, as a share of all: what comes back is then almost up to date.
SHARE_IN_FLIGHT = 0.1


@dataclass(frozen=True, eq=False)
class Visit:
    """What an E-step brought back from a block.

    Attributes
    ----------
    block : int
        Which block.
    parameters : object
        Those of the E-step: as they were when it was sent.
    statistics : Evidence
        Of the E-step.
    more : list
        Totals of the other works.
    """

    block: int
    parameters: Any
    statistics: Any
    more: list[Any]


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a table on an engine.

    Attributes
    ----------
    family : IncrementalFamily
        The model of the E-steps.
    rows : Rows
        The data.
    engine : Engine
        Where the E-steps run.
    batches : sequence of slice
        The batches of each block.
    in_flight : int
        Blocks under way at once.
    """

    family: IncrementalFamily[Any, Any]
    rows: Rows
    engine: Engine
    batches: Sequence[slice]
    in_flight: int

    @classmethod
    def of(cls, family: IncrementalFamily[Any, Any], rows: Rows, engine: Engine, max_in_flight: int | None) -> Blocks:
        """Divide a table; its blocks depend on the data alone, never on the workers."""
        n_batches = len(rows.batches())
        n = min(n_batches, N_BLOCKS)
        batches = [slice(n_batches * i // n, n_batches * (i + 1) // n) for i in range(n)]
        return cls(family, rows, engine, batches, min(max_in_flight or max(1, int(SHARE_IN_FLIGHT * n)), n))

    def __len__(self) -> int:
        return len(self.batches)

    def scattered(self) -> list[int]:
        """Return all blocks in a fixed order without pattern.

        In sorted data neighbours hold the same components: under way at once, they do the same work twice (sorted
        rows, four in flight: 0.73 instead of 0.63 of batch EM's reads).
        """
        order: list[int] = np.random.default_rng(0).permutation(len(self)).tolist()
        return order

    def visit(
        self,
        order: Sequence[int],
        parameters: Callable[[], Any],
        *,
        in_flight: int | None = None,
        works: Sequence[Work] = (),
    ) -> Iterator[Visit]:
        """Run E-steps on blocks and yield what they bring in the order they were sent, whichever is ready first.

        So a straggler costs time, but neither it nor the number of workers changes any bit; that `parameters` are
        older than the latest by `in_flight` − 1 blocks at most is certain.

        Parameters
        ----------
        order : sequence of int
            The blocks.
        parameters : callable
            Returns the latest parameters whenever a block is sent.
        in_flight : int, optional
            Blocks under way at once, where it is another number than usual.
        works : sequence of callables
            What else is done on the same read.
        """
        under_way: deque[tuple[int, Any, Pending]] = deque()
        waiting = deque(order)
        # Also for the small M-steps in between: threads for them would be woken and put to sleep with every block.
        with single_threaded_blas():
            while waiting or under_way:
                while waiting and len(under_way) < (in_flight or self.in_flight):
                    block, latest = waiting.popleft(), parameters()
                    all_works: list[Work] = [EStep(self.family, latest), *works]
                    under_way.append((block, latest, self.engine.submit(self.rows, all_works, self.batches[block])))
                block, used, pending = under_way.popleft()
                statistics, *more = pending.result()
                yield Visit(block, used, statistics, more)
