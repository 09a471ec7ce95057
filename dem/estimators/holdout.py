"""Rows that are held out, chosen by a hash of their position: the same ones whatever the chunks and the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.engine import ByBatch, Engine, Work
from dem.engine.base import Pending
from dem.families.base import EStep
from dem.initialise.kmeans_parallel import uniform_hash


@dataclass(frozen=True)
class Holdout:
    """Holds out each row with probability `share`.

    Parameters
    ----------
    share : float
        From 0 to 1.
    seed : int
        Other seeds choose other rows.
    """

    share: float
    seed: int = 0

    def holds(self, index: range | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which of the rows at these positions are held out."""
        return np.asarray(uniform_hash(np.asarray(index, dtype=np.int64), self.seed) < self.share)


@dataclass(frozen=True, eq=False)
class OnPart:
    """Work that gives another work the rows that are held out, or all others."""

    work: Work
    holdout: Holdout
    held_out: bool

    def __call__(self, chunk: Chunk) -> Any:
        """Return what the work makes of its part of the chunk."""
        return self.work(chunk.take(self.holdout.holds(chunk.index) == self.held_out))


@dataclass(frozen=True, eq=False)
class OnSubset:
    """A model that is shown only the rows that are held out; in all else the model that it is given.

    Attributes
    ----------
    model : Model
    part : Holdout
        Models of equal parts can share the products of one kernel.
    """

    model: Any
    part: Holdout

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("model", "part"):  # not there yet, where it is unpickled
            raise AttributeError(name)
        return getattr(self.model, name)

    def e_step(self, parameters: Any, chunk: Chunk) -> Any:
        """Return the expected sufficient statistics of the rows of a chunk that it is shown."""
        return self.model.e_step(parameters, self._shown(chunk))

    def e_steps(self, parameters: Any, sizes: Sequence[int], chunk: Chunk) -> Any:
        """Return those of several models, joined."""
        return self.model.e_steps(parameters, sizes, self._shown(chunk))

    def reads(self, parameters: Any) -> Any:
        """Yield the works of one iteration."""
        statistics = yield EStep(self, parameters)  # type: ignore[arg-type]
        return statistics

    def joins(self, other: Any) -> bool:
        """Tell whether the other is shown the same rows, and the models go together."""
        return isinstance(other, OnSubset) and self.part == other.part and bool(self.model.joins(other.model))

    def _shown(self, chunk: Chunk) -> Chunk:
        return chunk.take(self.part.holds(chunk.index))


class HoldoutEngine(Engine):
    """An engine that counts its reads and shows the works only the rows that are not held out.

    Parameters
    ----------
    engine : Engine
        What reads.
    holdout : Holdout
        Which rows are held out.
    """

    def __init__(self, engine: Engine, holdout: Holdout) -> None:
        self.engine = engine
        self.holdout = holdout
        self.reads = 0.0

    def sweep(self, rows: Rows, works: Sequence[Work | ByBatch], *, by_batch: bool = False) -> list[Any]:
        """Read `rows` once; see `Engine.sweep`."""
        return self.sweep_all(rows, self._of_the_rest(works), by_batch=by_batch)

    def sweep_all(self, rows: Rows, works: Sequence[Work | ByBatch], *, by_batch: bool = False) -> list[Any]:
        """Read `rows` once and show the works all of them."""
        self.reads += 1
        return self.engine.sweep(rows, works, by_batch=by_batch)

    def submit(
        self, rows: Rows, works: Sequence[Work | ByBatch], batches: slice = slice(None), *, by_batch: bool = False
    ) -> Pending:
        """Begin a sweep over some batches, which is part of a read; see `Engine.submit`."""
        n_batches = len(rows.batches())
        self.reads += len(range(n_batches)[batches]) / n_batches
        return self.engine.submit(rows, self._of_the_rest(works), batches, by_batch=by_batch)

    def counted(self) -> float:
        """Return the number of reads, for a checkpoint."""
        return self.reads

    def recount(self, found: Any) -> None:
        """Count on from there."""
        self.reads = float(found)

    def close(self) -> None:
        """Give back what the engine holds."""
        self.engine.close()

    def _of_the_rest(self, works: Sequence[Work | ByBatch]) -> Sequence[Work | ByBatch]:
        """Return works that see the rows that are not held out."""
        if self.holdout.share == 0.0:
            return works

        def of_the_rest(work: Work) -> Work:
            return OnPart(work, self.holdout, held_out=False)

        return [work.map(of_the_rest) if isinstance(work, ByBatch) else of_the_rest(work) for work in works]
