"""`adapt`: a fitted mixture moves towards new rows, or towards each of many groups of them in one read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from dem.data.base import Rows
from dem.data.beside import found_beside, names_in
from dem.data.categories import columns_encoded, is_missing
from dem.data.columns import open_column
from dem.data.joined import joined
from dem.data.rules import groups_rule, refuse
from dem.data.sources import RowOptions, open_rows, parted, source_kind
from dem.engine import Engine, current_engine
from dem.errors import DataError, EngineError, OptionError
from dem.estimators import inputs, memory, persistence
from dem.estimators.adapted import AdaptedMixtures, moved
from dem.estimators.base import Estimator
from dem.estimators.callbacks import Reads
from dem.families.adaptation import ByGroup, Groups, adapted
from dem.families.mixture_parameters import MixtureStatistics
from dem.units import human_bytes
from dem.validation import check_rows, rows_to_blame


class Adapts(Estimator):
    """The part of a mixture's estimator that adapts it to new rows."""

    #: whether its parameters are all that it consists of
    _adapts = True

    def _save_adapted(self, adapted: AdaptedMixtures, path: str, *, overwrite: bool) -> None:
        persistence.save(self, path, overwrite=overwrite, adapted=adapted)

    def adapt(
        self,
        X: Any,
        *,
        relevance: Any = 16.0,
        update: str | Sequence[str] = "means",
        groups: Any = None,
        sample_weight: Any = None,
        **given: Unpack[RowOptions],
    ) -> Self | AdaptedMixtures:
        """Return this fitted mixture adapted to new rows, as a new one (Reynolds, Quatieri and Dunn 2000), in one read.

        A component with n of the rows moves α = n / (n + relevance) of the way from its parameters to those of its
        rows: where there are few it stays what it was. Means are α x̄ + (1 − α) μ; weights α n/N + (1 − α) w, scaled to
        sum to 1; covariances those of rows of which the fitted component has made `relevance`. (It is the M-step with
        that prior; any `prior` or `weight_concentration` of the fit plays no part.)

        Parameters
        ----------
        X, sample_weight, **given
            The rows, as in `fit`.
        relevance : float, default=16
            For how many rows the fitted parameters of each component count; at least 0.
        update : str or sequence of str, default='means'
            What is adapted: ``'means'`` (where components have none, what locates them, such as rates; of a mixed
            table those of each part), ``'weights'``, ``'covariances'``, another fitted parameter, several of these,
            or ``'all'``.
        groups : array of shape (n_samples,), or name of a variable or column of X, optional
            Which group, such as a speaker, each row is of: whole numbers, or names where they are in memory, or in a
            column of parquet or of a Dask DataFrame. The fitted mixture is then adapted to each group by itself,
            whatever the order of the rows, on the one read. Of each group that has rows in a batch a worker keeps
            n_components · (1 + n_features) numbers where only means and weights are adapted, and those of all
            statistics else; the result is as large for each group, and so are a few of its parts while they are added.
            Where the groups are known before, this is compared with the memory there is. A group of which no row counts
            (all of weight 0, or with gaps that are skipped) is as good as none, and left out: its mixture is this one.

        Returns
        -------
        estimator, or AdaptedMixtures with `groups`
            Of the adapted estimator `lower_bound_` is the log-likelihood per row of X under this one.

        Raises
        ------
        OptionError
            If `relevance` or `update` cannot be.
        DataError
            As `fit` does, or if `groups` are not whole numbers or names, of every row.

        Examples
        --------
        >>> import numpy as np, dem
        >>> rng = np.random.default_rng(0)
        >>> gm = dem.GaussianMixture(2, random_state=0).fit(
        ...     np.concatenate([rng.normal(size=(99, 1)) + c for c in (0, 9)])
        ... )
        >>> ours = gm.adapt(np.full((48, 1), 1.0))
        >>> np.abs(ours.means_ - gm.means_).round(1).ravel()[np.argsort(gm.means_[:, 0])]
        array([0.7, 0. ])
        >>> gm.adapt(np.array([[0.5], [8.0], [0.7]]), groups=np.array(["ann", "bob", "ann"])).groups.tolist()
        ['ann', 'bob']
        """
        check_is_fitted(self)
        self._check_options()
        if not self._adapts:
            what = "which `partial_fit` moves on with new rows; adapt another mixture"
            message = f"{type(self).__name__} holds a posterior, {what}"
            raise OptionError(message)
        names = self._adapted_names(update)
        if isinstance(relevance, bool) or not (isinstance(relevance, Real) and 0.0 <= float(relevance) < np.inf):
            message = f"relevance must be a number of rows, at least 0, not {relevance!r}"
            raise OptionError(message)
        family, parameters = self._model()
        means_only = set(names) <= {"weights", "noise_weight", "means"}
        work = Groups(family, parameters, means_only)
        rows, labels = self._grouped(X, groups, {**given, "sample_weight": sample_weight})
        reads = Reads(None)
        with current_engine(reads) as engine, rows_to_blame(rows, engine, family.support):
            if groups is not None:
                self._check_room(rows, engine, labels, means_only=means_only)
            rows = memory.fitting([self], rows, engine, row_bytes=0)
            found: ByGroup = engine.sweep(rows, [work])[0]
            if not all(np.isfinite(own.log_likelihood) for own in found.groups.values()):
                check_rows(rows, engine, family.support)

        def own(statistics: MixtureStatistics[Any]) -> dict[str, NDArray[Any]]:
            return self._adapted_values(family, adapted(family, parameters, statistics, float(relevance)), names)

        found_groups = {key: one for key, one in sorted(found.groups.items()) if one.n_rows > 0.0}
        if not found_groups:
            message = f"no row of {rows.name} counts: all have the weight zero, or gaps that are skipped"
            raise DataError(message)
        if groups is None:
            (one,) = found_groups.values()
            ours: Self = moved(self, own(one), one.n_rows, one.log_likelihood)
            return ours
        numbers = np.array([*found_groups], dtype=np.int64)
        del found
        n_rows, log_likelihoods, counts = (
            np.stack([np.asarray(getattr(one, name)) for one in found_groups.values()])
            for name in ("n_rows", "log_likelihood", "counts")
        )
        result = {name: np.empty((len(numbers), *np.shape(getattr(self, f"{name}_")))) for name in names}
        for place, number in enumerate(numbers.tolist()):
            for name, value in own(found_groups.pop(number)).items():
                result[name][place] = value
        groups = numbers if labels is None else labels[numbers]
        return AdaptedMixtures(self, groups, n_rows, log_likelihoods, counts, result)

    def _adapted_names(self, update: str | Sequence[str]) -> list[str]:
        """Return the fitted parameters that are to change."""
        fixed = {"noise_volume", "noise_box"}
        known = [name for name in self._parameter_names if name not in fixed and not name.startswith("prior_")]
        if not getattr(self, "fit_weights", True):
            known = [name for name in known if name not in ("weights", "noise_weight")]
        asked: Sequence[Any] = [update] if isinstance(update, str) or not isinstance(update, Sequence) else update
        wanted: set[str] = set()
        for name in asked:
            own = self._entry.location if name == "means" and "means" not in known else name
            if own != "all" and own not in known:
                message = f"update must be of {', '.join(dict.fromkeys(['all', 'means', *known]))}, not {name!r}"
                raise OptionError(message)
            wanted |= set(known) if own == "all" else {own}
        wanted |= {other for one, other in TOGETHER if one in wanted and other in known}
        if not wanted:
            message = "update must name something to adapt"
            raise OptionError(message)
        return [name for name in known if name in wanted]

    def _adapted_values(
        self,
        family: Any,  # noqa: ARG002 - other models ask it
        values: Mapping[str, NDArray[Any]],
        names: Sequence[str],
    ) -> dict[str, NDArray[Any]]:
        """Return those of the adapted parameters that are to change."""
        return {name: np.asarray(values[name]) for name in names}

    def _grouped(self, data: Any, groups: Any, given: Any) -> tuple[Rows, NDArray[Any] | None]:
        """Return the rows with their groups as numbers, and the names that these stand for, if any."""
        if groups is None:
            return inputs.rows_of(self, data, reset=False, **given), None
        labels = None
        if isinstance(groups, str):
            source, _ = parted(given)
            name = groups
            groups, labels = _words(data, name)
            named = [name]
            if labels is None:
                found, named = found_beside(data, {"groups": name}, inputs.features_of(self, source))
                groups = found["groups"]
            data, source = inputs.without_named(self, *inputs.as_fitted(self, data, source), named)
            given = {**given, **source}
        if labels is None:
            groups, labels = _numbered(groups)
        rows = inputs.rows_of(self, data, reset=False, **given)
        return joined(rows, [open_column("groups", "groups", groups, rows, groups_rule)]), labels

    def _check_room(self, rows: Rows, engine: Engine, labels: NDArray[Any] | None, *, means_only: bool) -> None:
        """Refuse groups whose statistics do not fit, as far as their number is known."""
        if labels is None:
            return
        own = sum(np.size(getattr(self, f"{name}_")) for name in self._parameter_names)
        numbers = np.size(getattr(self, f"{self._entry.location}_")) + len(self.weights_) if means_only else 2 * own
        for room in engine.rooms():
            need = 8 * numbers * len(labels) * (room.n_threads + 3)
            if room.limit is not None and need > room.limit:
                message = (
                    f"to adapt to {len(labels)} groups of {rows.name} takes up to {human_bytes(need)}, and "
                    f"{human_bytes(room.limit)} are there ({room.holder}); adapt to fewer groups at a time, to means "
                    "alone, or on fewer threads"
                )
                raise EngineError(message)


# Words are looked up in single precision.
_MOST_WORDS = 2**24
# What is not adapted without the other.
TOGETHER = (
    ("coefficients", "intercepts"),
    ("intercepts", "coefficients"),
    ("covariances", "precisions_cholesky"),
    ("precisions_cholesky", "covariances"),
    ("weights", "noise_weight"),
    ("noise_weight", "weights"),
)


def _words(data: Any, name: str) -> tuple[Any, NDArray[Any] | None]:
    """Return a column of words of parquet or a Dask DataFrame as numbers, lazily, and the words; None for another."""
    if source_kind(data) not in ("parquet", "dask.dataframe") or name not in names_in(data):
        return None, None
    table, source, found = columns_encoded(data, {}, [name], lambda _, is_text: is_text, None, most=_MOST_WORDS)
    if name not in found:
        return None, None
    encoded: Any = open_rows(table, **source)
    return encoded.array[:, 0], np.array(found[name])


def _numbered(groups: Any) -> tuple[Any, NDArray[Any] | None]:
    """Return groups as numbers, in the same container, and what each number stands for; None where they are numbers."""
    kind = source_kind(groups)
    if kind in ("zarr", "dask.array", "dask.dataframe", "parquet") or getattr(groups, "chunks", None) is not None:
        return groups, None
    values = np.asarray(groups)
    if values.dtype.kind == "f":
        return groups, None
    if values.dtype.kind not in "biuUO":
        message = f"groups must be whole numbers or names, not {values.dtype}"
        raise DataError(message)
    if values.dtype.kind == "O":
        gone = np.reshape([is_missing(value) for value in values.ravel()], values.shape)
        refuse(gone, "groups", values, range(len(values)), "each row is of a group: name it, or leave the row out")
    try:
        labels, numbers = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
    except (TypeError, ValueError) as error:
        message = f"groups must be whole numbers or names ({error})"
        raise DataError(message) from error
    numbers = numbers.reshape(values.shape)
    if kind == "xarray":
        return groups.copy(data=numbers), labels
    if kind == "pandas" and hasattr(groups, "index"):  # a Categorical, or another array of pandas, has none
        return type(groups)(numbers, index=groups.index), labels
    return numbers, labels
