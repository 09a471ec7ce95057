"""Several models on one read: what can share the products of one kernel does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from dem.data.base import Chunk, Rows
from dem.engine.base import Engine
from dem.families.base import Family

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
    family : Family
        That of the first; the others join it.
    parameters : object
        Those of all models, joined.
    n_components : tuple of int
        Numbers of components of the models.
    """

    family: Family[Any, Any]
    parameters: Any
    n_components: tuple[int, ...]

    def __call__(self, chunk: Chunk) -> Several:
        """Return the expected sufficient statistics of the chunk, one per model."""
        return Several(tuple(self.family.e_steps(self.parameters, self.n_components, chunk)))


@dataclass(frozen=True, eq=False)
class EStep:
    """The work of one model on one chunk."""

    family: Family[Any, Any]
    parameters: Any

    def __call__(self, chunk: Chunk) -> Any:
        """Return the expected sufficient statistics of the chunk."""
        return self.family.e_step(self.parameters, chunk)


def sweep_models(engine: Engine, rows: Rows, models: Sequence[tuple[Family[Any, Any], Any]]) -> list[Any]:
    """Read `rows` once and return the expected sufficient statistics of each (family, parameters)."""
    groups = _groups(models)
    totals = engine.sweep(rows, [_work([models[number] for number in group]) for group in groups])
    statistics: list[Any] = [None] * len(models)
    for group, total in zip(groups, totals, strict=True):
        for number, part in zip(group, total.parts if len(group) > 1 else (total,), strict=True):
            statistics[number] = part
    return statistics


def _work(models: Sequence[tuple[Family[Any, Any], Any]]) -> EStep | ESteps:
    family, parameters = models[0]
    if len(models) == 1:
        return EStep(family, parameters)
    several = [one for _, one in models]
    return ESteps(family, family.joined(several), tuple(family.size(one) for one in several))


def _groups(models: Sequence[tuple[Family[Any, Any], Any]]) -> list[list[int]]:
    """Return the numbers of the models that go together, in order."""
    groups: list[list[int]] = []
    for number, (family, parameters) in enumerate(models):
        for group in groups:
            size = sum(family.size(models[n][1]) for n in group) + family.size(parameters)
            if models[group[0]][0].joins(family) and size <= MOST_COMPONENTS:
                group.append(number)
                break
        else:
            groups.append([number])
    return groups
