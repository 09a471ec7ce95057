"""What a mixture says of each row at fixed parameters, and the arithmetic of chunks, which its E-step shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dem.families.base import Array, ChunkKernel, Component, IncrementalModel, Kernel, RowBlock, has_gaps, weighted_sum
from dem.families.expectation import distrusted_rows, log_joint, normalise
from dem.families.gaps import Divided, divided, imputed
from dem.families.mixture_parameters import MixtureParameters
from dem.families.workspace import largest_row
from dem.namespaces import is_on_device, on_host
from dem.row_draws import RowDraws
from dem.statistics import Statistics

P = TypeVar("P")
S = TypeVar("S", bound=Statistics)
C = TypeVar("C", bound=RowBlock)

# Weights of rows that single precision is good for, whatever the rows.
_SINGLE_WEIGHTS = 1e-15, 1e15


class RowByRow(IncrementalModel[MixtureParameters[P], Any], Generic[P, S]):
    """Densities, responsibilities and labels of rows, for the base of mixtures."""

    component: Component[P, S]
    marginalises: bool

    def log_likelihood(self, parameters: MixtureParameters[P], chunk: RowBlock) -> Array:
        """Return log p(row), shape (n,)."""
        return self._by_row(parameters, chunk, np.empty(len(chunk.rows)), normalise, "density")

    def ranked(self, parameters: MixtureParameters[P], chunk: RowBlock) -> tuple[Array, Array]:
        """Return by what rows are ordered, the most outlying lowest, and log p(row); shape (n,) both."""
        densities = self.log_likelihood(parameters, chunk)
        return densities, densities

    def posterior(self, parameters: MixtureParameters[P], chunk: RowBlock) -> Array:
        """Return the responsibilities, shape (n, n_components)."""

        def responsibilities(joint: Array, largest: Array) -> Array:
            normalise(joint, largest)
            return joint.T

        return self._by_row(
            parameters, chunk, np.empty((len(chunk.rows), self.size(parameters))), responsibilities, "posterior"
        )

    def labels(self, parameters: MixtureParameters[P], chunk: RowBlock) -> NDArray[np.int64]:
        """Return the most probable component of each row, shape (n,)."""
        numbers = self._by_row(parameters, chunk, np.empty(len(chunk.rows), dtype=np.int64), largest_row, "label")
        return self.named(numbers, parameters)

    def entropy(self, parameters: MixtureParameters[P], chunk: RowBlock) -> float:
        """Return the sum over the rows of the entropy of their responsibilities (nats)."""

        def by_row(joint: Array, largest: Array) -> Array:
            normalise(joint, largest)
            entropies: Array = -np.sum(joint * np.log(np.where(joint > 0.0, joint, 1.0)), axis=0)  # 0·log 0 = 0
            return entropies

        entropies = self._by_row(parameters, chunk, np.empty(len(chunk.rows)), by_row)
        return weighted_sum(entropies, chunk.weights)

    def imputed(self, parameters: MixtureParameters[P], chunk: RowBlock, rng: RowDraws | None = None) -> NDArray[Any]:
        """Return the rows, float64, with what is missing replaced by its mean given the rest, or drawn if `rng`."""
        return imputed(self.component, parameters.components, chunk, lambda part: self.posterior(parameters, part), rng)

    def named(self, numbers: NDArray[np.int64], parameters: MixtureParameters[P]) -> NDArray[np.int64]:  # noqa: ARG002
        """Return the labels that users see of components, by their numbers."""
        return numbers

    def arithmetic(self, parameters: MixtureParameters[P], chunk: RowBlock, *, exact: bool = False) -> Kernel[S]:
        """Return the arithmetic for a chunk; where it has gaps that may not be, one that makes the loop find them."""
        exact = exact or _needs_double(chunk.weights)
        is_known = chunk.noise is not None or chunk.limits is not None
        if is_known and not self.marginalises and has_gaps(chunk.rows):
            return self.component.kernel(parameters.components, chunk.rows.dtype, exact=exact)
        return self.component.kernel_for(parameters.components, chunk, exact=exact)

    def divide(self, parameters: MixtureParameters[P], chunk: C) -> Divided[C, S]:
        """Return the rows of a chunk that the ordinary kernel knows, and the groups of others; see `gaps.divided`.

        What knows of errors knows of gaps and limits too. Of rows on a device complete ones stay there, if nothing else
        is known of them.
        """
        has_limits = chunk.limits is not None and not np.isnan(chunk.limits).all()
        if is_on_device(chunk.rows):
            more_is_known = chunk.noise is not None or chunk.labels is not None or has_limits
            if more_is_known or (self.marginalises and has_gaps(chunk.rows)):
                chunk = on_host(chunk)
        if chunk.noise is None and (has_limits or self.marginalises) and (has_limits or has_gaps(chunk.rows)):
            return divided(self.component, parameters.components, chunk, marginalises=self.marginalises)
        return chunk, slice(None), iter(())

    def _by_row(
        self,
        parameters: MixtureParameters[P],
        chunk: RowBlock,
        result: NDArray[Any],
        function: Callable[[Array, Array], NDArray[Any]],
        name: str = "",
    ) -> NDArray[Any]:
        """Fill `result` with what a function makes of log(weight · density), (n_components, n), and its largest.

        Where a kernel has a compiled loop of that name, this does it for the whole chunk. Rows that single precision
        does not do justice come a second time, in double precision.
        """
        log_weights, far = parameters.log_weights, [np.empty(0, dtype=np.intp)]
        whole, numbers, groups = self.divide(parameters, chunk)
        kernel = self.arithmetic(parameters, whole)
        own = result if isinstance(numbers, slice) else result[numbers]
        filled = kernel.fill(name, log_weights, whole, own) if name and isinstance(kernel, ChunkKernel) else None
        if filled is not None:
            far.append(filled)
        for where, joint, largest in log_joint(kernel, log_weights, whole) if filled is None else ():
            if (distrusted := distrusted_rows(kernel, largest)) is not None:
                far.append(where.start + np.flatnonzero(distrusted))
                joint[:, distrusted] = largest[distrusted] = 0.0  # they may have overflowed
            own[where] = function(joint, largest)
        again = np.concatenate(far)
        if len(again):
            kernel = self.arithmetic(parameters, whole, exact=True)
            for where, joint, largest in log_joint(kernel, log_weights, whole.take(again)):
                own[again[where]] = function(joint, largest)
        if not isinstance(numbers, slice):
            result[numbers] = own
        for marginal, part, numbers in groups:
            for where, joint, largest in log_joint(marginal, log_weights, part):
                result[numbers[where]] = function(joint, largest)
        return result


def _needs_double(weights: NDArray[Any] | None) -> bool:
    """Tell whether products of weights of rows could overflow in single precision, or lose digits."""
    if weights is None or not len(weights):
        return False
    return not (_SINGLE_WEIGHTS[0] <= weights.min() and weights.max() <= _SINGLE_WEIGHTS[1])
