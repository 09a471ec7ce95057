"""Judges what users give: rows against the support of a family, samples, initial parameters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dem.data.base import Chunk, Rows
from dem.data.labels import coordinate_text
from dem.engine.base import Engine
from dem.errors import DataError, DataWarning, NonFiniteError, OptionError
from dem.families.base import SMALLEST_SCALE, Array, Support
from dem.initialise.sample import RowSample
from dem.sparse import is_sparse
from dem.units import unrounded

# The sum of the squares of all values, about their mean, stays below this.
LARGEST_SQUARES = 1e307
# Squares of a smaller spread lose digits, or all of them: such a column counts as constant (`Frame.about`).
SMALLEST_SPREAD = 2.0 * SMALLEST_SCALE
# Beside a value that is so many times farther away than the others differ, these lose digits they need.
OUTLYING = 1e10
# Rows that quartiles are taken of.
_ROWS_OF_QUARTILES = 4096


@dataclass(frozen=True)
class BadValues:
    """Counts of values that are NaN, infinite, or finite and outside a support, and the one to tell of; ``+`` adds.

    Attributes
    ----------
    n_nan, n_infinite, n_outside : int
    first : tuple of (bool, int, int, float)
        Whether it is finite, its row of the whole table, its column, and the value. Of others than finite ones it is
        the first, as far as there are any.
    """

    n_nan: int = 0
    n_infinite: int = 0
    n_outside: int = 0
    first: tuple[bool, int, int, float] = (True, -1, -1, 0.0)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.n_nan + self.n_infinite + self.n_outside

    def __add__(self, other: BadValues) -> BadValues:
        if not self.count or not other.count:
            return other if other.count else self
        counts = (self.n_nan + other.n_nan, self.n_infinite + other.n_infinite, self.n_outside + other.n_outside)
        return BadValues(*counts, min(self.first, other.first))


@dataclass(frozen=True, eq=False)
class CountBadValues:
    """Work that counts the values outside a family's support."""

    support: Support

    def __call__(self, chunk: Chunk) -> BadValues:
        """Return the chunk's counts and the value to tell of."""
        places, columns = self.support.places_outside(chunk.rows)
        if not len(places):
            return BadValues()
        values = self.support.shown(chunk.rows, places, columns)
        finite, positions = np.isfinite(values), np.asarray(chunk.index)[places]
        n_nan, n_outside = int(np.isnan(values).sum()), int(finite.sum())
        i = np.lexsort((columns, positions, finite))[0]
        first = (bool(finite[i]), int(positions[i]), int(columns[i]), float(values[i]))
        return BadValues(n_nan, len(values) - n_nan - n_outside, n_outside, first)


@dataclass(frozen=True)
class FarthestValue:
    """The value farthest from 0: its size, its row of the whole table, negative, its column, and itself; ``+`` joins.

    Of equal ones it is the first.
    """

    found: tuple[float, int, int, float] = (0.0, 0, 0, 0.0)

    def __add__(self, other: FarthestValue) -> FarthestValue:
        return max(self, other, key=lambda one: one.found[:3])


def farthest_value(chunk: Chunk) -> FarthestValue:
    """Return that of a chunk: a work."""
    if is_sparse(chunk.rows):  # its other values are 0
        sizes = np.nan_to_num(np.abs(chunk.rows.data.astype(np.float64)), nan=0.0, posinf=np.inf)
        if not sizes.size:
            return FarthestValue()
        at = int(sizes.argmax())
        place, value = int(np.asarray(chunk.index)[chunk.rows.places[at]]), float(chunk.rows.data[at])
        return FarthestValue((float(sizes[at]), -place, int(chunk.rows.columns[at]), value))
    sizes = np.nan_to_num(np.abs(np.asarray(chunk.rows, dtype=np.float64)), nan=0.0, posinf=np.inf)
    if not sizes.size:
        return FarthestValue()
    row, column = np.unravel_index(sizes.argmax(), sizes.shape)
    place = int(np.asarray(chunk.index)[row])
    return FarthestValue((float(sizes[row, column]), -place, int(column), float(chunk.rows[row, column])))


def check_rows(rows: Rows, engine: Engine, support: Support) -> None:
    """Read all rows and raise if any value is not finite or outside the family's support.

    Raises
    ------
    DataError
        Saying how many values are bad and where the first one stands.
    """
    bad: BadValues = engine.sweep(rows, [CountBadValues(support)])[0]
    if bad.count:
        raise DataError(describe(rows, bad, support))


def describe(rows: Rows, bad: BadValues, support: Support) -> str:
    """Word what was found in one line: values that are not finite, or else those that are not in the support."""
    finite, row, column, value = bad.first
    place = place_text(rows, row, column)
    if finite:
        found = f"{rows.name} holds {bad.n_outside} {support.judged} that are not {support.words}; the first"
        if support.judged == "rows":
            return f"{found}, {place_text(rows, row)}, has {unrounded(value)}"
        return f"{found} is {unrounded(value)} {place}{support.said_of(column)}"
    which = "the first is" if bad.n_nan + bad.n_infinite > 1 else "it is"
    dims = rows.grid_names if len(rows.grid) > 1 else None
    advice = ".dropna() of a DataFrame" if dims is None else f".stack(row={list(dims)}).dropna('row') of xarray"
    found = f"{rows.name} holds {bad.n_nan} NaN and {bad.n_infinite} infinite (inf) values; {which} {place}"
    if not bad.n_nan:
        return (
            f"{found}; drop these rows, or put NaN in the place of what is missing, and say with missing= (--missing) "
            "what becomes of it"
        )
    return (
        f"{found}; drop or fill them first: rows must be complete, as after {advice}, unless missing= (--missing) says "
        "otherwise"
    )


def place_text(rows: Rows, row: int, column: int | None = None) -> str:
    """Word where a value is: its row, on a grid that names its dimensions by their indices, and its feature, if any."""
    if column is None:
        feature = ""
    elif rows.feature_names is not None:
        feature = f", column {column} ({rows.feature_names[column]!r})"
    elif rows.feature_coordinates is not None:
        feature = f", {coordinate_text(rows.feature_dim, rows.feature_coordinates[column])}"
    else:
        feature = f", column {column}"
    if rows.grid_names is None or len(rows.grid) == 1:
        return f"in row {row}{feature}"
    indices = zip(rows.grid_names, np.unravel_index(row, rows.grid), strict=True)
    return f"at index {', '.join(f'{dim} {index}' for dim, index in indices)} (row {row}){feature}"


@contextmanager
def rows_to_blame(rows: Rows, engine: Engine, support: Support) -> Iterator[None]:
    """Where a log-likelihood is not finite, say which values are the cause, also where their squares overflow.

    Raises
    ------
    DataError
        See `check_rows`.
    """
    try:
        yield
    except NonFiniteError:
        check_rows(rows, engine, support)
        farthest: FarthestValue = engine.sweep(rows, [farthest_value])[0]
        size, place, column, value = farthest.found
        if size > _largest_spread(rows):
            message = (
                f"the value {value:.3g} {place_text(rows, -place, column)} of {rows.name} is of a size whose squares "
                "overflow; drop or clip such rows, or divide the data by their scale first"
            )
            raise DataError(message) from None
        raise


def check_sample(
    sample: RowSample,
    rows: Rows,
    engine: Engine,
    support: Support,
    n_wanted: int,
    what: str = "components",
    *,
    units: Array | float = 0.0,
    ridge: float = 0.0,
) -> None:
    """Look for trouble that a sample already shows, before any fit; `ridge` is `reg_covar` in squared `units`.

    Raises
    ------
    DataError
        If a sampled value is not finite or outside the family's support; the message is about all the data. If the
        values spread so far that their squares overflow.

    Warns
    -----
    DataWarning
        For constant columns, and for fewer distinct rows than components.
    """
    if support.outside(sample.rows).any():
        check_rows(rows, engine, support)
    check_observed(sample, rows)
    table, where = sample.rows[:, : rows.n_features], "" if sample.complete else " in the sampled rows"
    check_spread(table, rows)
    constant = np.flatnonzero(np.fmax.reduce(table, axis=0) == np.fmin.reduce(table, axis=0))
    if len(constant) and what == "components":  # k-means may well have columns that tell nothing
        names = ", ".join(rows.feature_names[i] if rows.feature_names else str(i) for i in constant[:5])
        more = f" and {len(constant) - 5} more" if len(constant) > 5 else ""
        message = f"column {names}{more} of {rows.name} is constant{where} and tells the components nothing; drop it"
        warnings.warn(message, DataWarning, stacklevel=4)
    warn_of_scales(sample, rows, units, ridge)
    distinct = len(np.unique(sample.rows[: 16 * n_wanted], axis=0))
    if distinct < n_wanted:  # sorting all of them takes long
        distinct = len(np.unique(sample.rows, axis=0))
    if distinct < n_wanted:
        message = f"{rows.name} has only {distinct} distinct rows{where} for {n_wanted} {what}; decrease n_{what}"
        warnings.warn(message, DataWarning, stacklevel=5)


def warn_of_scales(sample: RowSample, rows: Rows, units: Array | float = 0.0, ridge: float = 0.0) -> None:
    """Warn of columns whose squares underflow, and of values beside which others are hardly to be told apart.

    So it is, too, where they make the unit of their column so wide that a ridge in it hides the middle half.
    """
    table = sample.rows[:, : rows.n_features]
    highest, lowest = (np.asarray(one.reduce(table, axis=0), dtype=np.float64) for one in (np.fmax, np.fmin))
    spread = highest - lowest
    small = np.flatnonzero((spread > 0.0) & (spread < SMALLEST_SPREAD))
    if len(small):
        name = f" ({rows.feature_names[small[0]]!r})" if rows.feature_names else ""
        message = (
            f"column {small[0]}{name} of {rows.name} has values that differ by {spread[small[0]]:.3g} at most, whose "
            "squares underflow, so that it counts as constant; divide the data by their scale first"
        )
        warnings.warn(message, DataWarning, stacklevel=5)
    some = np.asarray(table[:: -(-len(table) // _ROWS_OF_QUARTILES)], dtype=np.float64)
    some = some[~np.isnan(some).any(axis=1)]
    if not len(some):
        return
    low, middle, high = np.quantile(some, [0.25, 0.5, 0.75], axis=0, method="lower")
    between = high - low
    farthest = np.maximum(highest - middle, middle - lowest)
    hides = (between < math.sqrt(ridge) * units) & (farthest > units)
    far = np.flatnonzero((between > 0.0) & ((farthest > OUTLYING * between) | hides))
    if len(far):
        column = int(far[0])
        away = np.abs(np.asarray(table[:, column], dtype=np.float64) - middle[column])
        row = int(np.nanargmax(away))
        place = place_text(rows, int(np.asarray(sample.chunk.index)[row]), column)
        times = away[row] / between[column]
        loss = "others lose digits" if times > OUTLYING else "reg_covar hides the others, as scale=True counts"
        message = (
            f"the value {float(table[row, column]):.3g} {place} of {rows.name} is {times:.0e} times as far away as the "
            f"middle half of its column is wide, beside which {loss}; drop or clip such rows"
        )
        warnings.warn(message, DataWarning, stacklevel=5)


def check_observed(sample: RowSample, rows: Rows) -> None:
    """Raise if a column has no values at all in a sample, as far as values may be missing."""
    (never,) = np.nonzero(np.isnan(np.fmax.reduce(sample.rows, axis=0)))
    if len(never):
        name = f" ({rows.feature_names[never[0]]!r})" if rows.feature_names else ""
        where, more = ("", "") if sample.complete else (" in the sampled rows", ", or take a larger sample")
        message = f"column {never[0]}{name} of {rows.name} has no values{where}, only NaN; drop it{more}"
        raise DataError(message)


def check_spread(table: Array, rows: Rows) -> None:
    """Raise if sums of squares would be infinite, which would look like a component that collapsed."""
    with np.errstate(over="ignore"):
        spread = np.subtract(np.fmax.reduce(table, axis=0), np.fmin.reduce(table, axis=0), dtype=np.float64)
    column = int(spread.argmax())
    if spread[column] > _largest_spread(rows):
        name = f" ({rows.feature_names[column]!r})" if rows.feature_names else ""
        largest = np.fmax.reduce(np.abs(table[:, column]))
        message = (
            f"column {column}{name} of {rows.name} has values of a size ({largest:.3g}) whose "
            "squares overflow; divide the data by their scale first"
        )
        raise DataError(message)


def _largest_spread(rows: Rows) -> float:
    """Return how far values may spread so that the sum of all squares is finite."""
    return math.sqrt(LARGEST_SQUARES / (max(rows.n_rows, 2) * rows.n_features))


def check_weights(weights: ArrayLike, n_components: int) -> Array:
    """Return `weights_init` as an array (n_components,) that is not negative and sums to 1."""
    array = check_array("weights_init", weights, (n_components,), "weights")
    if np.any(array < 0.0) or np.any(array > 1.0):
        message = f"weights_init must lie between 0 and 1, but range from {array.min():.5f} to {array.max():.5f}"
        raise OptionError(message)
    if not np.isclose(array.sum(), 1.0, rtol=0.0, atol=1e-6):
        message = (
            f"The parameter 'weights' should be normalized, but got sum(weights) = {array.sum():.5f} (weights_init)"
        )
        raise OptionError(message)
    return array


def check_array(name: str, values: ArrayLike, shape: tuple[int, ...], known_as: str = "") -> Array:
    """Return an option as a finite float64 array of the given shape; `known_as` is scikit-learn's word for it."""
    try:
        array: NDArray[Any] = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = f"{name} must be an array of numbers ({error})"
        raise OptionError(message) from error
    if array.shape != shape:
        message = f"{name} must have shape {shape}, not {array.shape}"
        if known_as:
            message = f"The parameter {known_as!r} should have the shape of {shape}, but got {array.shape} ({name})"
        raise OptionError(message)
    if not np.isfinite(array).all():
        message = f"{name} must be finite"
        raise OptionError(message)
    return array


def check_count(name: str, value: object) -> None:
    """Raise OptionError unless a number of rows is a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        message = f"Invalid value for {name!r}: {value!r}; it must be a whole number of at least 1"
        raise OptionError(message)


def check_seed(value: object) -> None:
    """Raise OptionError unless a seed is a natural number or None."""
    if value is not None and not (isinstance(value, int | np.integer) and value >= 0):
        message = f"random_state must be a whole number of at least 0, or None, not {value!r}"
        raise OptionError(message)


def form_of_covariances(covariance_type: str) -> str:
    """Return which of scikit-learn's four types has covariances of the same shape."""
    same = {"EEE": "tied", "VII": "spherical"}
    aligned = covariance_type in ("E", "V") or covariance_type.endswith("I")
    return same.get(covariance_type, "diag" if aligned else "full") if covariance_type.isupper() else covariance_type


def shape_of_covariances(covariance_type: str, n_components: int, n_features: int) -> tuple[int, ...]:
    """Return the shape of covariances and precisions of a type."""
    shapes: dict[str, tuple[int, ...]] = {
        "full": (n_components, n_features, n_features),
        "tied": (n_features, n_features),
        "diag": (n_components, n_features),
        "spherical": (n_components,),
    }
    return shapes[form_of_covariances(covariance_type)]


def check_precisions(
    precisions: ArrayLike,
    covariance_type: str,
    n_components: int,
    n_features: int,
    names: tuple[str, str] = ("precisions_init", "precision"),
) -> Array:
    """Return an option as an array of the covariance type's shape, symmetric and positive definite.

    `names` are the option and scikit-learn's word for it.
    """
    shape, known_as = shape_of_covariances(covariance_type, n_components, n_features), f"{covariance_type} {names[1]}"
    array = check_array(names[0], precisions, shape, known_as)
    if form_of_covariances(covariance_type) in ("diag", "spherical"):
        positive, wanted = bool(np.all(array > 0.0)), "positive"
    else:
        positive = bool(np.allclose(array, array.swapaxes(-1, -2)) and np.all(np.linalg.eigvalsh(array) > 0.0))
        wanted = "symmetric, positive-definite"
    if not positive:
        message = f"The parameter '{known_as}' should be {wanted} ({names[0]})"
        raise OptionError(message)
    return array


def check_bounded(name: str, values: ArrayLike, shape: tuple[int, ...], bounds: tuple[float, float]) -> Array:
    """Return an option as an array of the given shape with values between two bounds."""
    array = check_array(name, values, shape)
    lowest, highest = bounds
    if np.any(array < lowest) or np.any(array > highest):
        where = f"lie between {lowest:g} and {highest:g}" if np.isfinite(highest) else f"be at least {lowest:g}"
        message = f"{name} must {where}, but range from {array.min():g} to {array.max():g}"
        raise OptionError(message)
    return array
