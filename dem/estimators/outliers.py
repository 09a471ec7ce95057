"""`outliers`: the rows that a fitted mixture finds least likely, with what tells where they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Rows
from dem.data.ids import ids_of
from dem.data.sources import RowOptions, source_kind
from dem.em.lowest import Lowest, LowestDensities
from dem.engine import current_engine
from dem.errors import OptionError
from dem.estimators import inputs, memory
from dem.estimators.base import Estimator
from dem.validation import check_count, check_rows


@dataclass(frozen=True, eq=False)
class Outliers:
    """Rows of low density, the lowest first.

    Attributes
    ----------
    index : ndarray of int64, shape (n,)
        Their positions in the table; on a grid, in C order.
    coordinates : dict of ndarray of shape (n,)
        Of rows on a grid whose dimensions have names: where they are along each, by coordinate values, or by position
        where there are none. Of a DataFrame its own index, by its name or as ``id``, of parquet that of the DataFrame
        that was written; and the columns that `ids` names.
    rows : ndarray of shape (n, n_features)
    log_density : ndarray of shape (n,)
        Nats.
    feature_names : tuple of str
    """

    index: NDArray[np.int64]
    coordinates: Mapping[str, NDArray[Any]]
    rows: NDArray[Any]
    log_density: NDArray[np.float64]
    feature_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """All of it by columns, as ``pandas.DataFrame(found.columns)`` takes it."""
        features = dict(zip(self.feature_names, self.rows.T, strict=True))
        return {"index": self.index, **self.coordinates, **features, "log_density": self.log_density}


class FindsOutliers(Estimator):
    """The part of a mixture estimator that finds rows of low density."""

    def outliers(
        self,
        X: Any,
        share: float | None = None,
        *,
        n: int | None = None,
        ids: str | Sequence[str] | None = None,
        **given: Unpack[RowOptions],
    ) -> Outliers:
        """Return the rows of X that are least likely under the mixture, found in one read.

        Memory holds a few times the rows that are asked for. Of rows that are equally likely, to nine digits, the first
        are taken, so that neither chunks nor workers matter. With `noise` those are the lowest that are background by
        the highest odds.

        Parameters
        ----------
        X, **given
            Data as in `fit`.
        share : float, default=0.001
            Which share of the rows is returned: above 0, at most 1; one row at least.
        n : int, optional
            How many rows are returned instead; all, if there are fewer.
        ids : str or sequence of str, optional
            Columns of a DataFrame or of parquet, of any type, whose entries are told of each row.

        Returns
        -------
        Outliers
            `index`, `coordinates`, `rows` and `log_density`, the lowest first; ``pandas.DataFrame(found.columns)``.
        """
        if n is not None and share is not None:
            message = "give share or n, not both"
            raise OptionError(message)
        if n is not None:
            check_count("n", n)
        columns = [ids] if isinstance(ids, str) else list(ids or ())
        part = 0.001 if share is None else _checked(share)
        family, parameters = self._model()
        rows = inputs.rows_of(self, X, reset=False, **given)
        n_wanted = min(math.ceil(part * rows.n_rows) if n is None else int(n), rows.n_rows)
        with current_engine() as engine:
            rows = memory.fitting([self], rows, engine, row_bytes=0)
            lowest: Lowest = engine.sweep(rows, [LowestDensities(family, parameters, n_wanted)])[0]
            if not np.isfinite(lowest.log_density).all():
                check_rows(rows, engine, family.support)
        names = rows.feature_names or getattr(self, "feature_names_in_", None)
        if names is None:
            names = [f"x{number}" for number in range(rows.n_features)]
        where = _coordinates(rows, lowest.index) | ids_of(X, lowest.index, columns, _lengths(X, rows))
        found = lowest.rows[:, : rows.n_features]
        return Outliers(lowest.index, where, found, lowest.log_density, tuple(map(str, names)))


def _lengths(data: Any, rows: Any) -> Sequence[int] | None:
    """Return the rows of each partition of a Dask DataFrame."""
    if source_kind(data) != "dask.dataframe":
        return None
    lengths: Sequence[int] = getattr(rows, "rows", rows).array.chunks[0]
    return lengths


def _checked(share: Any) -> float:
    """Return a share of rows that may be one."""
    if isinstance(share, bool) or not isinstance(share, Real) or not 0.0 < float(share) <= 1.0:
        message = f"share must be a number above 0 and at most 1, not {share!r}"
        raise OptionError(message)
    return float(share)


def _coordinates(rows: Rows, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return where rows are on the grid."""
    if rows.grid_names is None:
        return {}
    found: dict[str, NDArray[Any]] = {}
    for name, places in zip(rows.grid_names, np.unravel_index(index, rows.grid), strict=True):
        values = rows.coordinates(name)
        found[name] = places if values is None else np.asarray(values)[places]
    return found
