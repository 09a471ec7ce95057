"""The E-steps of a pass: the data in blocks, and several models on each read of a block.

A block is a group of batches; batch EM has all of them in one. Incremental and stepwise EM, which move on after each,
want `N_BLOCKS` as far as the data has chunks: `Rows.divided` makes batches of single chunks where reading would take
several together, and of ranges of rows in memory. Models that can share the products of one kernel do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from dem.data.base import Chunk, Rows
from dem.em.algorithm import Plan
from dem.engine.base import Engine, Work
from dem.families.base import EStep, Model

# More blocks need hardly fewer passes (5, 20, 100 blocks: 46, 40, 39 passes) and keep fewer workers busy each.
N_BLOCKS = 40
# Joined components beyond which the densities of a block leave the cache.
MOST_COMPONENTS = 256


# By the numbers of the models, the parameters that were joined last, and the work of all of them.
_Joined = dict[tuple[int, ...], tuple[list[Any], Work]]


@dataclass(frozen=True, eq=False)
class Several:
    """The statistics of several models."""

    parts: tuple[Any, ...]

    def __add__(self, other: Self) -> Self:
        return type(self)(tuple(mine + theirs for mine, theirs in zip(self.parts, other.parts, strict=True)))


@dataclass(frozen=True, eq=False)
class ESteps:
    """The work of several models of some sizes on one chunk, as one model with the components of all."""

    model: Model[Any, Any]
    parameters: Any
    sizes: tuple[int, ...]

    @property
    def takes_device(self) -> bool:
        """Whether the model computes where the rows lie."""
        return self.model.takes_device

    def __call__(self, chunk: Chunk) -> Several:
        """Return the expected sufficient statistics of the chunk, one per model."""
        return Several(tuple(self.model.e_steps(self.parameters, self.sizes, chunk)))


@dataclass(frozen=True, eq=False)
class Visit:
    """What the E-steps brought back from a block, by the numbers of the models, and the totals of other works.

    The `points` are the parameters as they were when the block was sent.
    """

    block: int
    points: Mapping[int, Any]
    statistics: Mapping[int, Any]
    more: list[Any]


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a table on an engine: the batches of each."""

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
        under_way: deque[_Reading] = deque()
        waiting = deque(plan.order)
        joined: _Joined = {}
        while waiting or under_way:
            while waiting and len(under_way) < plan.in_flight:
                under_way.append(_Reading(self, waiting.popleft(), models, points(), plan.works, joined))
            yield under_way.popleft().result()


class _Reading:
    """The works of some models on a block, under way: each model asks for what it needs of one iteration."""

    def __init__(
        self,
        blocks: Blocks,
        block: int,
        models: Sequence[Model[Any, Any]],
        points: Mapping[int, Any],
        more: Sequence[Work],
        joined: _Joined,
    ) -> None:
        self._blocks, self._block, self._points, self._joined = blocks, block, points, joined
        self._asking = {number: models[number].reads(point) for number, point in points.items()}
        self._send({number: next(asks) for number, asks in self._asking.items()}, more)

    def _send(self, works: Mapping[int, Work], more: Sequence[Work] = ()) -> None:
        blocks, batches = self._blocks, self._blocks.batches[self._block]
        self._groups = _grouped(works, self._joined)
        wanted = [*(work for _, work in self._groups), *more]
        if batches == slice(None):  # all of the data at once needs no answer in between
            self._totals = blocks.engine.sweep(blocks.rows, wanted)
        else:
            self._totals, self._pending = [], blocks.engine.submit(blocks.rows, wanted, batches)

    def result(self) -> Visit:
        """Wait, and read again for the models that ask for it."""
        found: dict[int, Any] = {}
        more: list[Any] | None = None
        while more is None or len(found) < len(self._asking):
            totals = self._totals or self._pending.result()
            more = totals[len(self._groups) :] if more is None else more
            again: dict[int, Work] = {}
            for (group, _), total in zip(self._groups, totals, strict=False):
                for number, part in zip(group, total.parts if len(group) > 1 else (total,), strict=True):
                    try:
                        again[number] = self._asking[number].send(part)
                    except StopIteration as end:
                        found[number] = end.value
            if again:
                self._send(again)
        return Visit(self._block, self._points, found, more)


def _grouped(works: Mapping[int, Any], known: _Joined) -> list[tuple[list[int], Work]]:
    """Return the numbers of the models whose works go together, in order, and their works as one.

    What was joined for the block before is `known`: with many blocks under way at the same parameters there is one of
    each, and of all that kernels derive from it.
    """
    groups: list[list[int]] = []
    for number, work in works.items():
        for group in groups if isinstance(work, EStep) else ():
            leader = works[group[0]]
            if isinstance(leader, EStep) and leader.model.joins(work.model) and work.model.joins(leader.model):
                size = sum(works[n].model.size(works[n].parameters) for n in (*group, number))
                if size <= MOST_COMPONENTS:
                    group.append(number)
                    break
        else:
            groups.append([number])
    together: list[tuple[list[int], Work]] = []
    for group in groups:
        one, several = works[group[0]], [works[number].parameters for number in group if len(group) > 1]
        if several:
            before, same = known.get(tuple(group), ([], one))
            if len(before) != len(several) or any(a is not b for a, b in zip(before, several, strict=True)):
                same = ESteps(one.model, one.model.joined(several), tuple(one.model.size(each) for each in several))
                known[tuple(group)] = several, same
            one = same
        together.append((group, one))
    return together
