"""The contracts between EM and the models it fits. Pure array maths: no Dask, no zarr, no scikit-learn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dem.families.support import Support as Support  # noqa: PLC0414 - families take it from here
from dem.families.unconstrained import Vector
from dem.namespaces import here
from dem.row_draws import RowDraws
from dem.statistics import Additive
from dem.tree import leaves

Array = NDArray[np.float64]
# A responsibility below this adds nothing to any sum.
NEGLIGIBLE = 1e-36
#: the least standard deviation that counts: squares of smaller ones lose digits, `reg_covar` overflows in their unit
SMALLEST_SCALE = 1e-150
#: the status of a component that has rows, a spread and a place of its own; others are in `dem.families.status`
OK = "ok"
P = TypeVar("P")
S = TypeVar("S", bound=Additive)
S_co = TypeVar("S_co", bound=Additive, covariant=True)


class RowBlock(Protocol):
    """What an E-step is given: a record of rows in memory."""

    @property
    def rows(self) -> NDArray[Any]:
        """The numbers, shape (n, n_features), in the dtype of the source."""

    @property
    def weights(self) -> NDArray[Any] | None:
        """How much each row counts, shape (n,); 1 where left out."""

    @property
    def labels(self) -> NDArray[Any] | None:
        """Which component has made each row, or may have; see `dem.data.base.Chunk`."""

    @property
    def noise(self) -> NDArray[Any] | None:
        """The variances of the errors of each row, or their covariance; see `dem.data.base.Chunk`."""

    @property
    def limits(self) -> NDArray[Any] | None:
        """The intervals of values that are not known otherwise, shape (n, n_features, 2), else NaN."""

    def take(self, which: slice | NDArray[Any]) -> Self:
        """Return some of the rows, with all that goes with them."""


def has_gaps(rows: NDArray[Any]) -> bool:
    """Tell whether any value is missing; in one look at the rows, without a copy."""
    # The least is NaN if one is, in a fraction of the time of `isnan`.
    return rows.dtype.kind == "f" and rows.size > 0 and bool(here(rows).isnan(rows.min()))


def total_weight(chunk: RowBlock) -> float:
    """Return for how many rows those of a chunk count."""
    return float(len(chunk.rows) if chunk.weights is None else chunk.weights.sum())


def weighted_sum(values: NDArray[Any], weights: NDArray[np.float64] | None) -> float:
    """Return the sum of numbers, one for each row, each as often as its weight says."""
    return float(values.sum(dtype=np.float64) if weights is None else weights @ values.astype(np.float64, copy=False))


class Model(ABC, Generic[P, S]):
    """A latent-variable model: a frozen dataclass of hyper-parameters; the parameters travel separately.

    Its statistics are `Additive` and know ``n_rows``, the number of rows that they come from.
    """

    #: what it maximises (or whose negative), for messages; whether a part of that comes from no row, see `log_prior`
    criterion: str = "log-likelihood"
    has_prior: bool = False
    #: whether E-steps take rows on a device (`dem.namespaces`) as they are
    takes_device: bool = False

    @abstractmethod
    def e_step(self, parameters: P, chunk: RowBlock) -> S:
        """Return the expected sufficient statistics of one chunk. Runs on the worker; pure."""

    @abstractmethod
    def m_step(self, statistics: S, parameters: P) -> P:
        """Return the maximising parameters, from totals over the data. Runs on the driver.

        `parameters` are those of the E-step; with rebased statistics any.
        """

    @abstractmethod
    def objective(self, statistics: S, parameters: P) -> float:
        """Return what EM maximises, over all rows and in the user's units, at the `parameters` of the E-step."""

    def log_prior(self, parameters: P) -> float:  # noqa: ARG002
        """Return the part of the objective that comes from no row: it counts once, however many blocks there are."""
        return 0.0

    def reads(self, parameters: P) -> Generator[Any, Any, S]:
        """Yield the works of one iteration, each of which is sent its total, and return the statistics."""
        statistics: S = yield EStep(self, parameters)
        return statistics

    def settled(self, before: P, after: P, gain: float, tol: float) -> bool:  # noqa: ARG002
        """Tell whether an iteration with this gain in the objective per row means convergence."""
        return abs(gain) < tol

    @abstractmethod
    def size(self, parameters: P) -> int:
        """Return the number of components, or of whatever the work and memory of an E-step are proportional to."""

    def joins(self, other: Any) -> bool:  # noqa: ARG002
        """Tell whether `e_steps` can take models of this kind and of the other together."""
        return False

    def joined(self, parameters: Sequence[P]) -> P:
        """Return the parameters of several models as one."""
        raise NotImplementedError

    def e_steps(self, parameters: P, sizes: Sequence[int], chunk: RowBlock) -> list[S]:
        """Return what `e_step` gives for each of several models of certain sizes, given joined."""
        raise NotImplementedError

    def monotonicity_slack(self, parameters: P, dtype: np.dtype[Any]) -> float:  # noqa: ARG002
        """Return how much the objective per row may fall in the step to `parameters`: regularisation, rounding."""
        return 0.0

    def component_status(self, parameters: P, n_rows: float, *, duplicates: bool = True) -> tuple[str, ...]:  # noqa: ARG002
        """Return a word for each component, where parameters tell; see `dem.families.status`."""
        return ()

    def reseeded(self, parameters: P, which: NDArray[np.intp], chunk: RowBlock) -> P:
        """Return parameters where each component of `which` begins anew at a row of the chunk."""
        raise NotImplementedError

    @abstractmethod
    def unconstrain(self, parameters: P) -> Vector:
        """Return the parameters as an unconstrained vector."""

    @abstractmethod
    def constrain(self, vector: Vector, parameters: P) -> P:
        """Return parameters from what `unconstrain` gave; shapes and what is fixed come from `parameters`."""


class IncrementalModel(Model[P, S]):
    """A model whose E-steps at different parameters can be added: what incremental and stepwise EM need."""

    @abstractmethod
    def rebased(self, statistics: S, parameters: P) -> Any:
        """Return statistics that add to those of E-steps at other parameters. `parameters` are those of the E-step."""

    @abstractmethod
    def implied(self, parameters: P, n_rows: float = math.inf) -> Any:
        """Return the rebased statistics of one row, on average, from n of which the M-step makes `parameters`."""

    @abstractmethod
    def free_energy(self, statistics: Any, parameters: P) -> float:
        """Return the free energy of rebased statistics: a lower bound of the objective at `parameters`."""


@dataclass(frozen=True, eq=False)
class EStep:
    """Work: the E-step of one model."""

    model: Model[Any, Any]
    parameters: Any

    @property
    def takes_device(self) -> bool:
        """Whether the model computes where the rows lie."""
        return self.model.takes_device

    def __call__(self, chunk: RowBlock) -> Any:
        """Return the expected sufficient statistics of the chunk."""
        return self.model.e_step(self.parameters, chunk)


class Block(Protocol):
    """A few rows in the form that a kernel computes with. It is good until the kernel makes the next.

    The mixture turns their densities into responsibilities, and gives them back while the rows are in the cache.
    """

    def log_density(self) -> NDArray[Any]:
        """Return log p(row | component), shape (n_components, n), in an array of the kernel, free to be overwritten."""

    def accumulate(self, responsibilities: NDArray[Any]) -> None:
        """Add the statistics of the rows to the kernel's, weighted by any numbers ≥ 0 (n_components, n); once."""

    def forget(self, which: NDArray[np.bool_]) -> None:
        """Leave out some of the rows, shape (n,)."""


class EStepKernel(Protocol[S_co]):
    """The arithmetic of an E-step over blocks of rows: all that one pass through a chunk asks of it."""

    @property
    def block_rows(self) -> int:
        """Rows per block that keep the workspace in the processor's cache."""

    @property
    def trusted_above(self) -> float:
        """What the largest log-density of a row must reach, or the row has to be computed by an exact kernel."""

    def block(self, chunk: RowBlock) -> Block:
        """Return the rows in the form that the arithmetic needs."""

    def statistics(self) -> S_co:
        """Return what the blocks have accumulated."""


class Kernel(EStepKernel[S_co], Protocol[S_co]):
    """The arithmetic of one E-step over blocks of rows, with what it precomputes from the parameters, and its sums."""

    def clear(self) -> None:
        """Start the sums anew; they and all workspace are this kernel's own."""

    def take(self, which: NDArray[np.intp]) -> Self:
        """Return the same arithmetic for some of the components (increasing numbers), with sums of its own."""


class ChunkKernel(ABC):
    """A kernel that may have compiled loops, or a device's arithmetic, which put a whole chunk through in one call.

    Each method returns None where there are none, or where they do not pay: then the caller goes block by block.
    """

    @abstractmethod
    def sums_of(
        self, log_weights: Array, segments: Sequence[slice], chunk: RowBlock
    ) -> tuple[Array, Array, NDArray[np.intp]] | None:
        """Add the statistics of a chunk to the kernel's.

        Returns
        -------
        tuple of ndarray, or None
            Σγ (n_components,), the log-likelihood of each segment, and the places of rows that were left to an exact
            kernel.
        """

    @abstractmethod
    def fill(self, name: str, log_weights: Array, chunk: RowBlock, result: NDArray[Any]) -> NDArray[np.intp] | None:
        """Fill `result` with what ``'density'``, ``'posterior'`` or ``'label'`` says of each row of a chunk.

        Returns
        -------
        ndarray, or None
            The places of rows that were left to an exact kernel.
        """


class Component(ABC, Generic[P, S]):
    """One kind of component of a mixture: everything about its density, nothing about weights."""

    #: name in model files and on the command line
    name: ClassVar[str]
    #: whether `marginals` yields one kernel for all rows, whatever they lack, complete ones among them
    masks: ClassVar[bool] = False
    #: whether kernels take sparse rows (`dem.sparse.SparseRows`): T(0) is 0, and h(0) is 1
    takes_sparse: ClassVar[bool] = False
    #: whether kernels compute where the rows lie, be it on a device (`dem.namespaces`)
    takes_device: ClassVar[bool] = False
    #: what `kernel_for` can make use of beside the numbers, weights and labels: fields of a `RowBlock`
    knows: ClassVar[frozenset[str]] = frozenset()
    #: how many values of a row may have limits, where these are known
    most_limits: ClassVar[float] = math.inf

    @property
    def marginalises(self) -> bool:
        """Whether `marginals` and `conditional_means` are there: values of rows may be missing."""
        return True

    @property
    @abstractmethod
    def support(self) -> Support:
        """The values that have a density."""

    def adapted_to(self, sample: NDArray[Any]) -> Self:  # noqa: ARG002
        """Return this component with its fixed frame of reference (origin, scale), if any, set from a sample."""
        return self

    @abstractmethod
    def start(self, sample: NDArray[Any], responsibilities: Array) -> P:
        """Return parameters from a sample (n, n_features) and its responsibilities (n, n_components)."""

    @abstractmethod
    def kernel(self, parameters: P, dtype: np.dtype[Any], *, exact: bool = False) -> Kernel[S]:
        """Return the arithmetic of an E-step at `parameters` for rows of `dtype`; in double precision if `exact`."""

    def kernel_for(self, parameters: P, chunk: RowBlock, *, exact: bool = False) -> Kernel[S]:
        """Return the arithmetic of an E-step at `parameters` for a chunk, by what is known of its rows."""
        return self.kernel(parameters, chunk.rows.dtype, exact=exact)

    def marginals(self, parameters: P, rows: NDArray[Any]) -> Iterator[tuple[NDArray[np.intp], EStepKernel[S]]]:
        """Yield groups of rows, all of which lack values (NaN), by their numbers, each with its arithmetic.

        Densities are those of what is observed (1 where that is nothing). Statistics are of the type that `kernel` has,
        with what is missing replaced by its expectation, given what is observed, the component and `parameters`.
        """
        raise NotImplementedError

    def most_patterns(self, parameters: P) -> float:  # noqa: ARG002
        """Return up to how many patterns of missing values an E-step needs no more time for each of them than once."""
        return math.inf

    def conditional_means(self, parameters: P, rows: Array, k: int) -> Array:
        """Return rows with what is missing (NaN) replaced by its mean in component k, given what is observed."""
        raise NotImplementedError

    def conditional_draws(self, parameters: P, rows: Array, labels: NDArray[np.int64], rng: RowDraws) -> Array:
        """Return rows with what is missing (NaN) drawn from the component of each, given what is observed."""
        return np.where(np.isnan(rows), self.sample(parameters, labels, rng.generator), rows)

    def expected(self, parameters: P, chunk: RowBlock, k: int) -> Array:
        """Return the means (n, d) of what is missing or has limits in component k; of no use where values are known."""
        return self.conditional_means(parameters, np.asarray(chunk.rows, dtype=np.float64), k)

    def expected_given(self, parameters: P, chunk: RowBlock, shares: Array) -> Array:
        """Return what stands for what is missing, or has limits, given the shares of the components, (n, n_components).

        By default its mean over these.
        """
        found = np.zeros(chunk.rows.shape)
        for k, share in enumerate(shares.T):
            found += share[:, np.newaxis] * self.expected(parameters, chunk, k)
        return found

    def drawn(self, parameters: P, chunk: RowBlock, labels: NDArray[np.int64], rng: RowDraws) -> Array:
        """Return the same as `expected`, drawn from the component of each row."""
        return self.conditional_draws(parameters, np.asarray(chunk.rows, dtype=np.float64), labels, rng)

    def joins(self, other: Self) -> bool:
        """Tell whether components of this kind and of the other can share the products of one kernel."""
        return self == other

    def add_at(self, total: S, which: NDArray[np.intp], part: S) -> None:
        """Add, in place, the statistics of some of the components to those of all."""
        for (_, whole), (_, some) in zip(leaves(total), leaves(part), strict=True):
            whole[which] += some

    @abstractmethod
    def m_step(self, statistics: Any, counts: Array, parameters: P) -> P:
        """Return the maximising parameters; `counts` are the sums of responsibilities, shape (n_components,).

        Statistics of an E-step come with its `parameters`; rebased ones with any.
        """

    def rebased(self, statistics: S, counts: Array, parameters: P) -> Any:  # noqa: ARG002
        """Return statistics in a frame that does not depend on `parameters`, which are those of the E-step."""
        return statistics

    @abstractmethod
    def implied(self, parameters: P, counts: Array, n_rows: float = math.inf) -> Any:
        """Return the rebased statistics, with these sums of responsibilities, that the M-step makes `parameters` of.

        Where there is a prior, `n_rows` times these are what it makes them of: the counts are shares of that many.
        """

    @abstractmethod
    def expected_log_density(self, statistics: Any, counts: Array, parameters: P) -> float:
        """Return Σγ log p(row | component) of rebased statistics; terms that no parameter changes may be left out."""

    has_prior: bool = False  # then `m_step` maximises the expected log-density + `log_prior`

    def log_prior(self, parameters: P) -> float:  # noqa: ARG002
        """Return the logarithm of the prior density, in the user's units, but for terms that no parameter changes."""
        return 0.0

    def without_prior(self) -> Self:
        """Return this component with an M-step that maximises the likelihood."""
        return self

    @abstractmethod
    def monotonicity_slack(self, parameters: P, weights: Array, dtype: np.dtype[Any]) -> float:
        """Return the most that regularisation and rounding can cost the log-likelihood per row of `dtype`."""

    @abstractmethod
    def sample(self, parameters: P, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
        """Draw one row for each label; shape (n, n_features)."""

    @abstractmethod
    def n_parameters(self, parameters: P) -> int:
        """Return the number of free parameters of all components."""

    @abstractmethod
    def to_user(self, parameters: P) -> dict[str, NDArray[Any]]:
        """Return the parameters in the user's units, by the names users see (``means``, …)."""

    @abstractmethod
    def from_user(self, values: Mapping[str, NDArray[Any]]) -> P:
        """Return parameters from what `to_user` gave."""

    @abstractmethod
    def unconstrain(self, parameters: P) -> Vector:
        """Return the parameters as an unconstrained vector."""

    @abstractmethod
    def constrain(self, vector: Vector, parameters: P) -> P:
        """Return parameters from what `unconstrain` gave; their shapes come from `parameters`."""

    @abstractmethod
    def collapsed(self, parameters: P) -> NDArray[np.bool_]:
        """Tell which components are what keeps their densities finite (`reg_covar`) rather than the data."""

    @abstractmethod
    def coordinates(self, parameters: P) -> Array:
        """Return numbers that are near one another for components that are, shape (n_components, q)."""

    @abstractmethod
    def divergence(self, parameters: P, pairs: NDArray[np.intp], enough: float) -> Array:
        """Return KL(p‖q) + KL(q‖p) (Jeffreys 1946) of pairs of components, (n, 2); beyond `enough` a bound below it."""

    @abstractmethod
    def reseeded(self, parameters: P, which: NDArray[np.intp], rows: Array, weights: Array) -> P:
        """Return parameters where each component of `which` begins anew at one of the rows.

        Its spread is that of the others, pooled by their `weights`, (n_components,), which sum to 1.
        """
