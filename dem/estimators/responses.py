"""The column of a response, and what a mixture of regressions says of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk
from dem.em.predict import RowFunction
from dem.errors import OptionError
from dem.row_draws import RowDraws


def place_of(column: Any, option_name: str, names: list[str] | None, n_features: int, data: str) -> int:
    """Return the number of a column, by its name or number."""
    if isinstance(column, Integral):
        if not -n_features <= int(column) < n_features:
            message = f"{option_name}: {data} has {n_features} columns, and no column {column}"
            raise OptionError(message)
        return int(column) % n_features
    if names is None:
        message = f"{option_name}: the columns of {data} have no names; give the number of {column!r}"
        raise OptionError(message)
    if str(column) not in names:
        message = f"{option_name}: {data} has no column {str(column)!r}; it has {', '.join(names[:12])}"
        raise OptionError(message)
    return names.index(str(column))


@dataclass(frozen=True, eq=False)
class Responses(RowFunction):
    """The mean response given the design, or a draw with a `seed`; `place` is the column of the response."""

    place: int = -1
    seed: int | None = None

    def __call__(self, chunk: Chunk) -> NDArray[Any]:
        """Map the rows, whose response does not matter."""
        rows = np.array(chunk.rows, dtype=np.float64)
        rows[:, self.place] = 0.0
        return super().__call__(replace(chunk, rows=rows))

    def result(self, chunk: Chunk) -> NDArray[Any]:
        """Return the responses."""
        weights = self.parameters.weights
        means = self.family.component.responses(self.parameters.components, chunk.rows)
        if self.seed is None:
            return np.asarray(means @ weights)
        draws, n = RowDraws(self.seed, chunk.index), len(chunk.rows)
        labels = np.searchsorted(np.cumsum(weights)[:-1], draws.random((n, 1))[:, 0], side="right")
        sigmas = self.family.to_user(self.parameters)["sigmas"]
        return np.asarray(means[np.arange(n), labels] + sigmas[labels] * draws.standard_normal((n, 1))[:, 0])
