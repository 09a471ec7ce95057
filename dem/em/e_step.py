"""Several models on one read: what can share the products of one kernel does."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from dem.data.base import Chunk, Rows
from dem.engine.base import Engine, Work
from dem.families.base import EStep, Model

# Joined components beyond which the densities of a block leave the cache.
MOST_COMPONENTS = 256


@dataclass(frozen=True, eq=False)
class Several:
    """The statistics of several models."""

    parts: tuple[Any, ...]

    def __add__(self, other: Self) -> Self:
        return type(self)(tuple(mine + theirs for mine, theirs in zip(self.parts, other.parts, strict=True)))


@dataclass(frozen=True, eq=False)
class ESteps:
    """The work of several models on one chunk, as one model with the components of all.

    Attributes
    ----------
    model : Model
        The first; the others join it.
    parameters : object
        Those of all models, joined.
    sizes : tuple of int
        Numbers of components of the models.
    """

    model: Model[Any, Any]
    parameters: Any
    sizes: tuple[int, ...]

    def __call__(self, chunk: Chunk) -> Several:
        """Return the expected sufficient statistics of the chunk, one per model."""
        return Several(tuple(self.model.e_steps(self.parameters, self.sizes, chunk)))


class Reading:
    """The works of some models on some batches, under way: each model asks for what it needs of one iteration.

    Parameters
    ----------
    engine, rows, batches
        What is read, and where the works run.
    models : mapping of int to (Model, parameters)
        Which models, by number.
    more : sequence of callables
        Other works on the same read.
    """

    def __init__(
        self,
        engine: Engine,
        rows: Rows,
        batches: slice,
        models: Mapping[int, tuple[Model[Any, Any], Any]],
        more: Sequence[Work] = (),
    ) -> None:
        self._read = engine, rows, batches
        self._asking: dict[int, Generator[Work, Any, Any]] = {n: model.reads(p) for n, (model, p) in models.items()}
        self._wanted = {number: next(asking) for number, asking in self._asking.items()}
        self._statistics: dict[int, Any] = {}
        self._more = list(more)
        self._begin()

    def _begin(self) -> None:
        engine, rows, batches = self._read
        self._groups = _groups(self._wanted)
        works = [*(_joined([self._wanted[number] for number in group]) for group in self._groups), *self._more]
        # All of the data at once needs no answer in between.
        self._pending = engine.sweep(rows, works) if batches == slice(None) else engine.submit(rows, works, batches)

    def result(self) -> tuple[dict[int, Any], list[Any]]:
        """Wait, and read again for the models that ask for it; return the statistics of each, and the other totals."""
        found: list[Any] | None = None
        while self._wanted:
            totals = self._pending if isinstance(self._pending, list) else self._pending.result()
            found = totals[len(self._groups) :] if found is None else found
            self._more, self._wanted, groups = [], {}, self._groups
            for group, total in zip(groups, totals, strict=False):
                for number, part in zip(group, total.parts if len(group) > 1 else (total,), strict=True):
                    try:
                        self._wanted[number] = self._asking[number].send(part)
                    except StopIteration as end:
                        self._statistics[number] = end.value
            if self._wanted:
                self._begin()
        return self._statistics, found or []


def _joined(works: Sequence[Any]) -> Work:
    """Return the work of several models."""
    first: Work = works[0]
    if len(works) == 1:
        return first
    model, several = works[0].model, [work.parameters for work in works]
    return ESteps(model, model.joined(several), tuple(model.size(one) for one in several))


def _groups(works: Mapping[int, Any]) -> list[list[int]]:
    """Return the numbers of the models whose works go together, in order."""
    groups: list[list[int]] = []
    for number, work in works.items():
        for group in groups if isinstance(work, EStep) else ():
            leader = works[group[0]]
            if not isinstance(leader, EStep) or not leader.model.joins(work.model):
                continue
            size = sum(works[n].model.size(works[n].parameters) for n in (*group, number))
            if size <= MOST_COMPONENTS:
                group.append(number)
                break
        else:
            groups.append([number])
    return groups
