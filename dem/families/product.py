"""Components of several parts: columns of their own family each, independent of one another within a component."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, Block, Component, Kernel, RowBlock
from dem.families.grouping import rows_of_keys
from dem.families.support import ColumnSupports
from dem.families.unconstrained import Vector
from dem.families.workspace import fresh
from dem.row_draws import RowDraws
from dem.statistics import Statistics

Columns = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Part:
    """Some columns, increasing or not, and the kind of component that they have."""

    columns: Columns
    component: Component[Any, Any]
    #: what messages call its family
    family: str = ""

    def of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the columns of rows, without a copy where they stand side by side."""
        first, n = int(self.columns[0]), len(self.columns)
        if (self.columns == np.arange(first, first + n)).all():
            return rows[:, first : first + n]
        return rows[:, self.columns]


@dataclass(frozen=True, eq=False)
class ProductParameters:
    """The parameters of each part."""

    parts: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class ProductStatistics(Statistics):
    """The statistics of each part."""

    parts: tuple[Any, ...]

    def __add__(self, other: Self) -> Self:
        return type(self)(tuple(mine + theirs for mine, theirs in zip(self.parts, other.parts, strict=True)))

    def __mul__(self, factor: float) -> Self:
        return type(self)(tuple(factor * part for part in self.parts))

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class ProductComponent(Component[ProductParameters, ProductStatistics]):
    """Components whose parts are independent: the log-density is the sum of theirs, and so is all that follows.

    Parts are computed in double precision, whatever the rows: how exact a part must be does not show in the sum.

    Parameters
    ----------
    parts : sequence of Part
        Their columns are all those of the rows, each in one part.

    References
    ----------
    Hunt, L. and Jorgensen, M. (1999). Mixture model clustering using the MULTIMIX program. Australian & New Zealand
    Journal of Statistics 41.
    """

    parts: tuple[Part, ...]
    name: ClassVar[str] = "mixture"

    @property
    def marginalises(self) -> bool:
        """Whether all parts do."""
        return all(part.component.marginalises for part in self.parts)

    @property
    def has_prior(self) -> bool:  # type: ignore[override]
        """Whether a part has."""
        return any(part.component.has_prior for part in self.parts)

    def without_prior(self) -> Self:
        """Return the same parts without priors."""
        return replace(
            self, parts=tuple(replace(part, component=part.component.without_prior()) for part in self.parts)
        )

    def log_prior(self, parameters: ProductParameters) -> float:
        """Return the sum of the parts'."""
        return float(sum(part.component.log_prior(own) for part, own in self._with(parameters.parts)))

    @property
    def support(self) -> ColumnSupports:
        """Those of the parts."""
        known = ((tuple(part.columns.tolist()), part.component.support, part.family) for part in self.parts)
        return ColumnSupports(parts=tuple(known))

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with the frames of its parts."""
        adapted = (replace(part, component=part.component.adapted_to(part.of(sample))) for part in self.parts)
        return replace(self, parts=tuple(adapted))

    def start(self, sample: NDArray[Any], responsibilities: Array) -> ProductParameters:
        """Return parameters from a sample and its responsibilities."""
        return ProductParameters(tuple(part.component.start(part.of(sample), responsibilities) for part in self.parts))

    def kernel(
        self,
        parameters: ProductParameters,
        dtype: np.dtype[Any],
        *,
        exact: bool = False,  # noqa: ARG002
    ) -> ProductKernel:
        """Return the arithmetic of an E-step, in double precision."""
        kernels = (part.component.kernel(own, dtype, exact=True) for part, own in self._with(parameters.parts))
        return ProductKernel(self.parts, tuple(kernels))

    def marginals(
        self, parameters: ProductParameters, rows: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.intp], ProductSum]]:
        """Yield groups of rows that all parts take together: those whose parts have independent features, all at once.

        Of the others, rows of a group are complete in the same parts, and lack the same sets of columns elsewhere.
        """
        keys = np.zeros(len(rows), dtype=np.int64)
        complete = []
        for part, own in self._with(parameters.parts):
            mine = part.of(rows)
            gaps = np.isnan(mine).any(axis=1)
            complete.append(~gaps)
            if part.component.masks:
                continue
            (lacking,) = np.nonzero(gaps)
            of_part = np.zeros(len(rows), dtype=np.int64)
            if len(lacking):
                for number, (which, _) in enumerate(part.component.marginals(own, mine[lacking]), 1):
                    of_part[lacking[which]] = number
            # Numbers of the pairs that there are, so that they stay small.
            keys = np.unique(np.column_stack([keys, of_part]), axis=0, return_inverse=True)[1].reshape(-1)
        for which in rows_of_keys(keys):
            kernels = []
            for (part, own), known in zip(self._with(parameters.parts), complete, strict=True):
                kernel: Any = part.component.kernel(own, rows.dtype, exact=True)
                if not known[which].all():
                    ((_, kernel),) = part.component.marginals(own, part.of(rows[which]))
                kernels.append(kernel)
            yield which, ProductSum(self.parts, tuple(kernels))

    def most_patterns(self, parameters: ProductParameters) -> float:
        """Return the fewest of the parts."""
        most: list[float] = [part.component.most_patterns(own) for part, own in self._with(parameters.parts)]
        return min(most)

    def conditional_means(self, parameters: ProductParameters, rows: Array, k: int) -> Array:
        """Return rows with what is missing replaced by its mean in component k, given what is observed of its part."""
        return self._joined(
            rows,
            [part.component.conditional_means(own, part.of(rows), k) for part, own in self._with(parameters.parts)],
        )

    def conditional_draws(
        self, parameters: ProductParameters, rows: Array, labels: NDArray[np.int64], rng: RowDraws
    ) -> Array:
        """Return rows with what is missing drawn, part by part."""
        draws = [
            part.component.conditional_draws(own, part.of(rows), labels, rng)
            for part, own in self._with(parameters.parts)
        ]
        return self._joined(rows, draws)

    def expected_given(self, parameters: ProductParameters, chunk: RowBlock, shares: Array) -> Array:
        """Return means of numbers and the most probable category of others, part by part."""
        record: Any = chunk
        found = []
        for part, own in self._with(parameters.parts):
            modes = getattr(part.component, "modes", None)
            mine = replace(record, rows=part.of(chunk.rows))
            found.append(modes(own, shares) if modes else part.component.expected_given(own, mine, shares))
        return self._joined(np.asarray(chunk.rows, dtype=np.float64), found)

    def joins(self, other: Self) -> bool:
        """Tell whether all parts share the products of their kernels."""
        return len(self.parts) == len(other.parts) and all(
            np.array_equal(mine.columns, theirs.columns)
            and type(mine.component) is type(theirs.component)
            and mine.component.joins(theirs.component)
            for mine, theirs in zip(self.parts, other.parts, strict=True)
        )

    def add_at(self, total: ProductStatistics, which: NDArray[np.intp], part: ProductStatistics) -> None:
        """Add, in place, the statistics of some of the components to those of all."""
        for one, whole, some in zip(self.parts, total.parts, part.parts, strict=True):
            one.component.add_at(whole, which, some)

    def m_step(self, statistics: ProductStatistics, counts: Array, parameters: ProductParameters) -> ProductParameters:
        """Return the maximising parameters of each part."""
        both = self._with(statistics.parts, parameters.parts)
        return ProductParameters(tuple(part.component.m_step(found, counts, own) for part, found, own in both))

    def rebased(self, statistics: ProductStatistics, counts: Array, parameters: ProductParameters) -> ProductStatistics:
        """Return statistics in frames that do not depend on `parameters`."""
        both = self._with(statistics.parts, parameters.parts)
        return ProductStatistics(tuple(part.component.rebased(found, counts, own) for part, found, own in both))

    def implied(self, parameters: ProductParameters, counts: Array, n_rows: float = math.inf) -> ProductStatistics:
        """Return the statistics that the M-step makes `parameters` of."""
        return ProductStatistics(
            tuple(part.component.implied(own, counts, n_rows) for part, own in self._with(parameters.parts))
        )

    def expected_log_density(
        self, statistics: ProductStatistics, counts: Array, parameters: ProductParameters
    ) -> float:
        """Return Σγ log p(row | component), the sum of the parts'."""
        both = self._with(statistics.parts, parameters.parts)
        return float(sum(part.component.expected_log_density(found, counts, own) for part, found, own in both))

    def monotonicity_slack(self, parameters: ProductParameters, weights: Array, dtype: np.dtype[Any]) -> float:  # noqa: ARG002
        """Return what the parts may cost in double precision."""
        double, both = np.dtype(np.float64), self._with(parameters.parts)
        return float(sum(part.component.monotonicity_slack(own, weights, double) for part, own in both))

    def sample(self, parameters: ProductParameters, labels: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Draw one row for each label; shape (n, n_features)."""
        rows = np.empty((len(labels), sum(len(part.columns) for part in self.parts)))
        return self._joined(
            rows, [part.component.sample(own, labels, rng) for part, own in self._with(parameters.parts)]
        )

    def n_parameters(self, parameters: ProductParameters) -> int:
        """Return the number of free parameters of all parts."""
        return int(sum(part.component.n_parameters(own) for part, own in self._with(parameters.parts)))

    def to_user(self, parameters: ProductParameters) -> dict[str, NDArray[Any]]:
        """Return ``means``, E[x] of each column in each component, those of part 0 as ``part0_…``, and so on."""
        parts = (
            {named(number, name): value for name, value in part.component.to_user(own).items()}
            for number, (part, own) in enumerate(self._with(parameters.parts))
        )
        return {"means": self.means(parameters), **{name: value for one in parts for name, value in one.items()}}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> ProductParameters:
        """Return parameters from what `to_user` gave; the means follow from them."""
        return ProductParameters(
            tuple(part.component.from_user(of_part(values, number)) for number, part in enumerate(self.parts))
        )

    def means(self, parameters: ProductParameters) -> Array:
        """Return E[x] of each column in each component, (n_components, n_features); NaN where a family tells none."""
        parts = []
        for part, own in self._with(parameters.parts):
            nothing, located = np.full((1, len(part.columns)), np.nan), part.component.to_user(own)
            n = len(part.component.coordinates(own))
            if expectations := getattr(part.component, "expectations", None):
                parts.append(expectations(own))
            elif part.component.marginalises:
                parts.append(np.vstack([part.component.conditional_means(own, nothing, k) for k in range(n)]))
            else:
                parts.append(np.asarray(located.get("means", np.repeat(nothing, n, axis=0))))
        return self._joined(np.empty((len(parts[0]), sum(len(part.columns) for part in self.parts))), parts)

    def unconstrain(self, parameters: ProductParameters) -> Vector:
        """Return the vectors of the parts beside one another."""
        vectors = [part.component.unconstrain(own) for part, own in self._with(parameters.parts)]
        return Vector(np.hstack([one.own for one in vectors]), np.concatenate([one.shared for one in vectors]))

    def constrain(self, vector: Vector, parameters: ProductParameters) -> ProductParameters:
        """Return parameters from what `unconstrain` gave."""
        found, own_from, shared_from = [], 0, 0
        for part, own in self._with(parameters.parts):
            like = part.component.unconstrain(own)
            own_to, shared_to = own_from + like.own.shape[1], shared_from + len(like.shared)
            mine = Vector(vector.own[:, own_from:own_to], vector.shared[shared_from:shared_to])
            found.append(part.component.constrain(mine, own))
            own_from, shared_from = own_to, shared_to
        return ProductParameters(tuple(found))

    def collapsed(self, parameters: ProductParameters) -> NDArray[np.bool_]:
        """Tell which components have collapsed in some part."""
        found = [part.component.collapsed(own) for part, own in self._with(parameters.parts)]
        return np.asarray(np.logical_or.reduce(found))

    def coordinates(self, parameters: ProductParameters) -> Array:
        """Return those of the parts beside one another."""
        return np.hstack([part.component.coordinates(own) for part, own in self._with(parameters.parts)])

    def divergence(self, parameters: ProductParameters, pairs: NDArray[np.intp], enough: float) -> Array:
        """Return the sum of the parts' divergences."""
        found = [part.component.divergence(own, pairs, enough) for part, own in self._with(parameters.parts)]
        return np.asarray(np.sum(found, axis=0))

    def reseeded(
        self, parameters: ProductParameters, which: NDArray[np.intp], rows: Array, weights: Array
    ) -> ProductParameters:
        """Return parameters where some components begin anew at rows."""
        seeds = (
            part.component.reseeded(own, which, part.of(rows), weights) for part, own in self._with(parameters.parts)
        )
        return ProductParameters(tuple(seeds))

    def _with(self, *trees: Sequence[Any]) -> Iterator[Any]:
        return zip(self.parts, *trees, strict=True)

    def _joined(self, rows: Array, found: Sequence[NDArray[Any]]) -> Array:
        """Return rows of the shape of `rows` whose columns are what is found of each part."""
        joined = np.empty(rows.shape)
        for part, values in zip(self.parts, found, strict=True):
            joined[:, part.columns] = values
        return joined


def named(number: int, name: str) -> str:
    """Return what the parameter of a part is called among those of all."""
    return f"part{number}_{name}"


def of_part(values: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return those of a part, by the names that it has for them."""
    prefix = named(number, "")
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


class ProductSum:
    """The arithmetic of an E-step whose parts have arithmetic of their own."""

    trusted_above = -np.inf

    def __init__(self, parts: tuple[Part, ...], kernels: tuple[Any, ...]) -> None:
        self.parts, self.kernels = parts, kernels

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace of every part in the cache."""
        rows: list[int] = [kernel.block_rows for kernel in self.kernels]
        return min(rows)

    def block(self, chunk: RowBlock) -> ProductBlock:
        """Return the rows as each part needs them."""
        record: Any = chunk
        return ProductBlock(
            [
                kernel.block(replace(record, rows=part.of(chunk.rows)))
                for part, kernel in zip(self.parts, self.kernels, strict=True)
            ]
        )

    def statistics(self) -> ProductStatistics:
        """Return what was accumulated."""
        return ProductStatistics(tuple(kernel.statistics() for kernel in self.kernels))


class ProductKernel(ProductSum, Kernel[ProductStatistics]):
    """The same for whole rows."""

    def clear(self) -> None:
        """Start the sums anew."""
        self.kernels = tuple(fresh(kernel) for kernel in self.kernels)

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, with sums of its own."""
        return type(self)(self.parts, tuple(kernel.take(which) for kernel in self.kernels))


class ProductBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks

    def log_density(self) -> NDArray[Any]:
        """Return Σ log p(columns of a part | component), shape (n_components, n)."""
        first, *others = self._blocks
        density = first.log_density()
        for block in others:
            density += block.log_density()
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        for block in self._blocks:
            block.forget(which)

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add the statistics of the rows for each part, whose arithmetic may overwrite what it is given."""
        *others, last = self._blocks
        for block in others:
            block.accumulate(responsibilities.copy())
        last.accumulate(responsibilities)
