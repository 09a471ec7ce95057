"""What the values of columns must be: rules that judge them, and name the first row that breaks one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.errors import DataError
from dem.sparse import rows_with_gaps

# What symmetry and positive semi-definiteness of correlations may lack by rounding, also in single precision.
ROUNDING = 1e-6

#: judges values of rows, which messages call by a name: returns them in the type of a `Chunk`, or raises `DataError`
Rule = Callable[[str, NDArray[Any], range | NDArray[np.int64]], NDArray[Any]]


def as_they_are(name: str, values: NDArray[Any], index: range | NDArray[np.int64]) -> NDArray[Any]:  # noqa: ARG001
    """Rule: values that have been judged."""
    return values


@dataclass(frozen=True)
class WeightsRule:
    """Rule: weights are finite numbers that are not negative; with `skips_gaps` see `weights_where_rows_count`."""

    skips_gaps: bool = False

    def __call__(self, name: str, values: NDArray[Any], index: range | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return weights in double precision."""
        values = np.asarray(values, dtype=np.float64)
        good = np.isfinite(values) & (values >= 0.0)
        if self.skips_gaps:
            good |= np.isnan(values)
        refuse(~good, name, values, index, "weights must be finite and not negative; set them to 0 to leave rows out")
        return values


def weights_where_rows_count(
    weights: NDArray[np.float64], rows: NDArray[Any], index: range | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return weights with 0 for NaN where rows have gaps, which are left out whatever their weights are.

    Raises
    ------
    DataError
        If the weight of a row without gaps is NaN.
    """
    unknown = np.isnan(weights)
    if not unknown.any():
        return weights
    advice = "weights must be finite and not negative where rows count; set them to 0 to leave rows out"
    refuse(unknown & ~rows_with_gaps(rows), "sample_weight", weights, index, advice)
    return np.where(unknown, 0.0, weights)


@dataclass(frozen=True)
class LabelsRule:
    """Rule: numbers of components, −1 or NaN where none is known, or of each whether it may have made the row.

    With a background it is the last of these, behind `n_components` others.
    """

    n_components: int
    background: bool = False

    def __call__(self, name: str, values: NDArray[Any], index: range | NDArray[np.int64]) -> NDArray[Any]:
        """Return labels as whole numbers (n,), or as bool (n, n_components), a column more with a background."""
        n_labels = self.n_components + self.background
        if values.ndim == 2:
            if values.shape[1] != n_labels:
                there = f"{self.n_components} components" + (" and the background" if self.background else "")
                message = f"{name} has {values.shape[1]} columns, but there are {there}"
                raise DataError(message)
            values = np.asarray(values, dtype=bool)
            some = np.asarray(values.any(axis=1))
            refuse(~some, name, some, index, "a row needs a component that may have made it")
            return values
        if values.dtype.kind == "f":  # as pandas has them where some are not known
            values = np.where(np.isnan(values), -1.0, values)
        known: NDArray[np.bool_] = (values >= -1) & (values < n_labels) & (values == np.rint(values))
        last = f"{n_labels - 1}" + (", the background," if self.background else ",")
        refuse(
            ~known, name, values, index, f"labels are whole numbers from 0 to {last} or -1 (NaN) where none is known"
        )
        return values.astype(np.int64)


def refuse(
    bad: NDArray[np.bool_], name: str, values: NDArray[Any], index: range | NDArray[np.int64], advice: str
) -> None:
    """Raise `DataError`, which names the first row, if any value is bad."""
    if bad.any():
        place = tuple(np.argwhere(bad)[0])
        columns = f", column {', '.join(map(str, place[1:]))}" if len(place) > 1 else ""
        message = f"{name} is {values[place]} in row {int(np.asarray(index)[place[0]])}{columns}; {advice}"
        raise DataError(message)


def groups_rule(name: str, values: NDArray[Any], index: range | NDArray[np.int64]) -> NDArray[np.int64]:
    """Rule: whole numbers, each of which names a group."""
    if values.dtype.kind not in "biuf":
        message = (
            f"{name} are {values.dtype}, words or the like, which are taken from memory and tables; number them first"
        )
        raise DataError(message)
    with np.errstate(invalid="ignore"):
        whole = values == np.rint(values) if values.dtype.kind == "f" else np.ones(values.shape, dtype=bool)
    refuse(~whole | (np.abs(values) > 2.0**53), name, values, index, "groups are whole numbers or names")
    return values.astype(np.int64)


@dataclass(frozen=True)
class NoiseRule:
    """Rule: variances (n, n_features), which are not negative, or covariances (n, n_features, n_features).

    Variances may be NaN, with all their covariances, of values that are NaN; see `errors_where_measured`.
    """

    n_features: int

    def __call__(self, name: str, values: NDArray[Any], index: range | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return errors in double precision."""
        d, values = self.n_features, np.asarray(values, dtype=np.float64)
        if values.shape[1:] not in ((d,), (d, d)):
            shape = ", ".join(["n_rows", *map(str, values.shape[1:])])
            message = (
                f"{name} has the shape ({shape}), but there are {d} features; give variances, (n_rows, {d}), or "
                f"covariances, (n_rows, {d}, {d})"
            )
            raise DataError(message)
        is_matrix = values.ndim == 3
        refuse(np.isinf(values), name, values, index, "the variances of errors must be finite")
        variances = np.diagonal(values, axis1=1, axis2=2) if is_matrix else values
        refuse(variances < 0.0, name, variances, index, "the variances of errors must not be negative")
        if is_matrix and len(values):
            unknown = np.isnan(variances)
            away = unknown[:, :, np.newaxis] | unknown[:, np.newaxis]
            refuse(np.isnan(values) & ~away, name, values, index, "the variances of errors must be finite")
            given, values = values, np.where(away, 0.0, values)
            deviations = np.sqrt(np.where(unknown, 0.0, variances))
            size = ROUNDING * deviations[:, :, np.newaxis] * deviations[:, np.newaxis]
            uneven = np.abs(values - values.swapaxes(1, 2)) > size
            refuse(uneven, name, values, index, "the covariances of errors must be symmetric")
            inverse = np.divide(1.0, deviations, out=np.ones_like(deviations), where=deviations > 0.0)
            least = np.linalg.eigvalsh(values * inverse[:, :, np.newaxis] * inverse[:, np.newaxis])[:, 0]
            refuse(
                least < -ROUNDING * d,
                f"the least eigenvalue of {name}, as correlations,",
                least,
                index,
                "the covariances of errors must be positive semi-definite",
            )
            return given
        return values


@dataclass(frozen=True)
class TrialsRule:
    """Rule: whole numbers of at least 0 of each row, (n,), or of each value, (n, n_features).

    They may be NaN where values are; see `with_trials`.
    """

    n_features: int

    def __call__(self, name: str, values: NDArray[Any], index: range | NDArray[np.int64]) -> NDArray[np.float64]:
        """Return trials in double precision."""
        d, values = self.n_features, np.asarray(values, dtype=np.float64)
        if values.shape[1:] not in ((), (d,)):
            n = values.shape[1]
            message = f"{name} has {n} columns, but there are {d} features; give one for each row, or for each value"
            raise DataError(message)
        good = np.isnan(values) | (np.isfinite(values) & (values >= 0.0) & (values == np.rint(values)))
        refuse(~good, name, values, index, "numbers of trials are whole and not negative")
        return values


def with_trials(rows: NDArray[Any], trials: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows with the numbers of trials of each value behind, (n, 2 · n_features)."""
    of_values = trials if trials.ndim == 2 else trials[:, np.newaxis]
    return np.hstack([np.asarray(rows, dtype=np.float64), np.broadcast_to(of_values, rows.shape)])


def refuse_unknown_trials(rows: NDArray[Any], index: range | NDArray[np.int64]) -> None:
    """Raise `DataError` if of some value in rows from `with_trials` the number of trials is NaN."""
    values, trials = np.hsplit(rows, 2)
    refuse(np.isnan(trials) & ~np.isnan(values), "trials", trials, index, "they must be known where values are")


def errors_where_measured(
    noise: NDArray[np.float64], rows: NDArray[Any], index: range | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the errors of rows, (n, n_features), with 0 for NaN where values are NaN: nothing was measured there.

    Raises
    ------
    DataError
        If the error of a value that is known is NaN.
    """
    variances = noise if noise.ndim == 2 else np.diagonal(noise, axis1=1, axis2=2)
    unknown = np.isnan(variances)
    if not unknown.any():
        return noise
    advice = "the variances of errors must be finite where values are known"
    refuse(unknown & ~np.isnan(rows), "noise_covariance", variances, index, advice)
    if noise.ndim == 3:
        unknown = unknown[:, :, np.newaxis] | unknown[:, np.newaxis]
    return np.where(unknown, 0.0, noise)
