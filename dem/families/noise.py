"""A uniform background beside the components of a mixture: rows that none of them has made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dem.errors import DataError, OptionError
from dem.families.base import SMALLEST_SCALE, Array, Block, Component, Kernel, RowBlock, Support
from dem.families.expectation import normalise
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.families.truncation import Candidates
from dem.families.unconstrained import Vector
from dem.families.workspace import Workspace, fresh
from dem.statistics import Statistics

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)

# Weight of the background where EM begins.
WEIGHT_AT_START = 0.05


@dataclass(frozen=True, eq=False)
class NoisyComponent(Component[P, S]):
    """Some components, and behind them one of density 1/volume for all rows (Banfield and Raftery 1993).

    Parameters and statistics are those of the components; the background has only its weight, so that counts,
    responsibilities and labels have one entry more.

    Parameters
    ----------
    component : Component
    volume : float, optional
        In the user's units; that of the box where left out.
    box : ndarray of shape (2, n_features), optional
        The lowest and highest values of the rows; from `adapted_to` where left out.
    """

    component: Component[P, S]
    volume: float | None = None
    box: Array | None = None
    marginalises: ClassVar[bool] = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the components."""
        return self.component.name

    @property
    def support(self) -> Support:
        """That of the components."""
        return self.component.support

    @property
    def log_density(self) -> float:
        """The logarithm of 1/volume.

        Raises
        ------
        DataError
            If the box has no volume.
        """
        if self.volume is not None:
            return -float(np.log(self.volume))
        box: Any = self.box
        extents = box[1] - box[0]
        column = int(np.argmin(extents))
        if extents[column] < 2.0 * SMALLEST_SCALE:  # of one so narrow the components see nothing (`dem.validation`)
            message = (
                f"the box of the data has no volume: column {column} {'counts as' if extents[column] else 'is'} "
                "constant; leave it out, or give noise=VOLUME"
            )
            raise DataError(message)
        return -float(np.log(extents).sum())

    def adapted_to(self, sample: NDArray[Any]) -> Self:
        """Return this component with a frame of reference, and the box of the sample unless one is known."""
        box = box_of(sample) if self.volume is None and self.box is None else self.box
        return replace(self, component=self.component.adapted_to(sample), box=box)

    def start(self, sample: NDArray[Any], responsibilities: Array) -> P:
        """Return parameters from a sample and its responsibilities for the components."""
        return self.component.start(sample, responsibilities)

    def kernel(self, parameters: P, dtype: np.dtype[Any], *, exact: bool = False) -> NoisyKernel[S]:
        """Return the arithmetic of an E-step."""
        return NoisyKernel(self.component.kernel(parameters, dtype, exact=exact), self.log_density)

    def joins(self, other: Self) -> bool:  # noqa: ARG002
        """Return False: the background stands behind the components of one model."""
        return False

    def add_at(self, total: S, which: NDArray[np.intp], part: S) -> None:
        """Add, in place, the statistics of some of the components, the background behind them."""
        self.component.add_at(total, which[:-1], part)

    def m_step(self, statistics: Any, counts: Array, parameters: P) -> P:
        """Return the maximising parameters of the components."""
        return self.component.m_step(statistics, counts[:-1], parameters)

    def rebased(self, statistics: S, counts: Array, parameters: P) -> Any:
        """Return statistics of the components that add to others."""
        return self.component.rebased(statistics, counts[:-1], parameters)

    def implied(self, parameters: P, counts: Array, n_rows: float = math.inf) -> Any:
        """Return the statistics that the M-step makes `parameters` of."""
        own = counts[:-1]
        share = float(own.sum())
        return share * self.component.implied(parameters, own / own.sum(), n_rows * share)

    def expected_log_density(self, statistics: Any, counts: Array, parameters: P) -> float:
        """Return Σγ log p(row | component), that of the background included."""
        own = self.component.expected_log_density(statistics, counts[:-1], parameters)
        return own + float(counts[-1]) * self.log_density

    @property
    def has_prior(self) -> bool:  # type: ignore[override]
        """Whether the components have one."""
        return self.component.has_prior

    def without_prior(self) -> Self:
        """Return the same with components that have none."""
        return replace(self, component=self.component.without_prior())

    def log_prior(self, parameters: P) -> float:
        """Return that of the components: the background is fixed."""
        return self.component.log_prior(parameters)

    def monotonicity_slack(self, parameters: P, weights: Array, dtype: np.dtype[Any]) -> float:
        """Return what the components may cost."""
        return self.component.monotonicity_slack(parameters, weights[:-1], dtype)

    def sample(self, parameters: P, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
        """Draw one row for each label; the background anywhere in the box."""
        background = labels == len(next(iter(self.component.to_user(parameters).values())))
        rows = self.component.sample(parameters, np.where(background, 0, labels), rng)
        if background.any():
            if self.box is None:
                message = (
                    "a volume does not say where the background lies, so that it cannot be drawn; fit with noise=True"
                )
                raise OptionError(message)
            lower, upper = self.box
            rows[background] = rng.uniform(lower, upper, size=(int(background.sum()), rows.shape[1]))
        return rows

    def n_parameters(self, parameters: P) -> int:
        """Return the number of free parameters of the components: the background has none but its weight."""
        return self.component.n_parameters(parameters)

    def to_user(self, parameters: P) -> dict[str, NDArray[Any]]:
        """Return the parameters of the components, and ``noise_volume`` and ``noise_box`` of the background."""
        known = {"noise_volume": np.asarray(np.exp(-self.log_density))}
        if self.box is not None:
            known["noise_box"] = self.box
        return {**self.component.to_user(parameters), **known}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> P:
        """Return parameters from what `to_user` gave."""
        return self.component.from_user(values)

    def collapsed(self, parameters: P) -> NDArray[np.bool_]:
        """Tell which components have collapsed; the background cannot."""
        return self.component.collapsed(parameters)

    def coordinates(self, parameters: P) -> Array:
        """Return those of the components."""
        return self.component.coordinates(parameters)

    def divergence(self, parameters: P, pairs: NDArray[np.intp], enough: float) -> Array:
        """Return the divergence of pairs of components."""
        return self.component.divergence(parameters, pairs, enough)

    def reseeded(self, parameters: P, which: NDArray[np.intp], rows: Array, weights: Array) -> P:
        """Return parameters where some components begin anew."""
        return self.component.reseeded(parameters, which, rows, weights)

    def unconstrain(self, parameters: P) -> Vector:
        """Return the vector of the components, with a row of zeros for the background."""
        vector = self.component.unconstrain(parameters)
        return Vector(np.vstack([vector.own, np.zeros(vector.own.shape[1])]), vector.shared)

    def constrain(self, vector: Vector, parameters: P) -> P:
        """Return parameters from what `unconstrain` gave."""
        return self.component.constrain(Vector(vector.own[:-1], vector.shared), parameters)


class NoisyKernel(Kernel[S]):
    """A kernel of components, and a constant behind their log-densities."""

    def __init__(self, kernel: Kernel[S], log_density: float) -> None:
        self.kernel, self.log_density = kernel, log_density
        self.workspace = Workspace()

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the cache."""
        return self.kernel.block_rows

    @property
    def trusted_above(self) -> float:
        """That of the components."""
        return self.kernel.trusted_above

    def clear(self) -> None:
        """Start the sums anew, in a workspace of its own."""
        self.kernel, self.workspace = fresh(self.kernel), Workspace()

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components, the background behind them."""
        taken = type(self)(self.kernel.take(which[:-1]), self.log_density)
        taken.clear()
        return taken

    def block(self, chunk: RowBlock) -> NoisyBlock:
        """Return the rows as the components need them."""
        return NoisyBlock(self.kernel.block(chunk), self.log_density, self.workspace)

    def statistics(self) -> S:
        """Return what was accumulated of the components."""
        return self.kernel.statistics()


class NoisyBlock:
    """Rows of a chunk; see `dem.families.base.Block`."""

    def __init__(self, block: Block, log_density: float, workspace: Workspace) -> None:
        self._block, self._constant, self._workspace = block, log_density, workspace

    def log_density(self) -> NDArray[Any]:
        """Return log p(row | component), shape (n_components + 1, n)."""
        own = self._block.log_density()
        density = self._workspace.array("density", (len(own) + 1, own.shape[1]), own.dtype)
        density[:-1] = own
        # A row that is no number has no density: the loop looks for such rows.
        density[-1] = np.where(np.isnan(own).any(axis=0), np.nan, self._constant)
        return density

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows."""
        self._block.forget(which)

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add the statistics of the rows for the components."""
        self._block.accumulate(responsibilities[:-1])


@dataclass(frozen=True, eq=False)
class NoisyMixture(Mixture[P, S]):
    """A mixture whose last component is the background: it has a weight of its own name, and the label −1."""

    def start(
        self, sample: NDArray[Any], responsibilities: Array, weights: Array | None = None
    ) -> MixtureParameters[P]:
        """Return parameters from a sample, its responsibilities for the components, and weights of the rows."""
        own = super().start(sample, responsibilities, weights)
        return self.begun(replace(own, weights=np.append(own.weights, 0.0)))

    def begun(self, parameters: MixtureParameters[P]) -> MixtureParameters[P]:
        """Return the parameters where EM begins, with a small weight of the background."""
        weights = (1.0 - WEIGHT_AT_START) * parameters.weights
        weights[-1] = WEIGHT_AT_START
        return replace(parameters, weights=weights)

    def n_own(self, parameters: MixtureParameters[P]) -> int:
        """Return the number of components, without the background."""
        return len(parameters.weights) - 1

    def truncated(self, parameters: MixtureParameters[P], n_rows: float = math.inf) -> MixtureParameters[P]:  # noqa: ARG002
        """Return the parameters with the candidates of each region, beside which the background always counts."""
        component: Any = self.component
        own = Mixture(component.component, top_components=self.top_components)
        candidates = own.with_cells(MixtureParameters(parameters.weights[:-1], parameters.components)).candidates
        if not isinstance(candidates, Candidates):
            return parameters
        background = np.full((len(candidates.lists), 1), len(parameters.weights) - 1)
        candidates = replace(candidates, lists=np.hstack([candidates.lists, background]))
        return replace(parameters, candidates=candidates)

    def ranked(self, parameters: MixtureParameters[P], chunk: RowBlock) -> tuple[Array, Array]:
        """Return log p(row) of the components alone, and log p(row), which far from all of them is the same everywhere.

        Both give the same order: that of the odds of the background.
        """

        def both(joint: Array, largest: Array) -> Array:
            own = joint[:-1].copy()
            return np.column_stack([normalise(own, own.max(axis=0)), normalise(joint, largest)])

        found = self._by_row(parameters, chunk, np.empty((len(chunk.rows), 2)), both)
        return found[:, 0], found[:, 1]

    def named(self, numbers: NDArray[np.int64], parameters: MixtureParameters[P]) -> NDArray[np.int64]:
        """Return the labels that users see of components by their numbers: −1 of the background."""
        return np.where(numbers == len(parameters.weights) - 1, -1, numbers)

    def to_user(self, parameters: MixtureParameters[P]) -> dict[str, NDArray[Any]]:
        """Return the parameters by their users' names, the weight of the background as ``noise_weight``."""
        weights = parameters.weights
        own = super().to_user(parameters)
        return {**own, "weights": weights[:-1], "noise_weight": np.asarray(weights[-1])}

    def from_user(self, values: Mapping[str, NDArray[Any]]) -> MixtureParameters[P]:
        """Return parameters from what `to_user` gave."""
        return super().from_user({**values, "weights": np.append(values["weights"], values["noise_weight"])})


def box_of(rows: NDArray[Any]) -> Array:
    """Return the lowest and the highest value in each column of rows, shape (2, n_features)."""
    rows = np.asarray(rows, dtype=np.float64)
    return np.array([rows.min(axis=0), rows.max(axis=0)])
