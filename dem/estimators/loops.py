"""Whether compiled loops are used: where they repay being loaded, and every process that works has memory for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dem import native
from dem.data.base import Rows
from dem.engine.local import current_engine
from dem.validation import form_of_covariances

# What a process takes beside its work that imports numba and compiles all loops; half of it where the disk has them.
LOOPS_BYTES = 250 * 10**6
# Multiplications that take as long as NumPy's maximum, `exp`, sum and logarithm of one number, and as all that k-means
# does with a row beside its distances.
_EXPONENTIAL, _ASSIGNMENT = 100, 4000
# Multiplications of a pass from which on loops repay that: some 30 ms of NumPy on two cores. Loading them takes half a
# second, once a process, and compiling some seconds, once a machine.
LEAST_PASS = 8e8
# How much larger than they are a process must be of whose other needs nothing is known.
_LARGE = 4
#: what is told of a fit that comes first on a machine
COMPILING = "loops are compiled as they are first used, once on a machine: some 10 s each"


def row_work(estimator: Any, n_features: int) -> float:
    """Return the multiplications of an E-step for each row where compiled loops could make them, else 0."""
    size, d = getattr(estimator, estimator._entry.size), n_features
    if not estimator._entry.is_mixture:
        return float(size * d + _ASSIGNMENT)
    form = form_of_covariances(getattr(estimator, "covariance_type", ""))
    products = {"full": d * (d + 1) // 2, "diag": d, "spherical": d}.get(form)
    return 0.0 if products is None else float(size * (_EXPONENTIAL + d + products))


def may_be_used_lazily(estimator: Any, rows: Rows) -> bool:
    """Tell whether results that are computed one day, somewhere, may use compiled loops: where processes are large."""
    if not are_wanted([estimator], rows):
        return False
    with current_engine() as engine:
        return all(room.limit is None or room.limit >= _LARGE * LOOPS_BYTES for room in engine.rooms())


def are_wanted(estimators: Sequence[Any], rows: Rows) -> bool:
    """Tell whether fits, or results, repay compiled loops; what memory they take is another question."""
    work = rows.n_rows * sum(row_work(one, rows.n_features) for one in estimators)
    return native.offered() != "NumPy" and work >= LEAST_PASS
