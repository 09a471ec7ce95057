"""The fixed frame of reference of a fit: one origin and one scale per feature, the same for all chunks.

Raw moments cancel catastrophically far from the origin (at a mean of 1e8 σ a variance has 100 % error). Moments
about a fixed origin do not, and stay additive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dem.families.base import SMALLEST_SCALE, Array


@dataclass(frozen=True, eq=False)
class Frame:
    """Maps rows x to (x − origin) / scale.

    Attributes
    ----------
    origin : ndarray of shape (n_features,)
        Near the mean of the data, and exact in single precision unless that is too coarse for it.
    scale : ndarray of shape (n_features,)
        Powers of two near the standard deviations, so that dividing by them is exact; times units, where given.
    """

    origin: Array
    scale: Array

    @classmethod
    def identity(cls, n_features: int) -> Self:
        """Return the frame that changes nothing."""
        return cls(np.zeros(n_features), np.ones(n_features))

    @classmethod
    def of(cls, sample: NDArray[Any], *, isotropic: bool = False, units: Array | None = None) -> Self:
        """Return the frame of a sample (n, n_features); with one scale for all features (in `units`) if `isotropic`."""
        sample = np.asarray(sample, dtype=np.float64)
        origin = sample.mean(axis=0)
        origin += (sample - origin).mean(axis=0)  # the second pass removes the rounding of the first
        return cls.about(origin, np.mean((sample - origin) ** 2, axis=0), isotropic=isotropic, units=units)

    @classmethod
    def about(cls, origin: Array, variances: Array, *, isotropic: bool = False, units: Array | None = None) -> Self:
        """Return the frame with this origin and the powers of two next to the standard deviations."""
        unit = units if isotropic and units is not None else np.ones(())
        deviation = np.sqrt(variances / unit**2)
        if isotropic:
            deviation = np.full_like(deviation, np.sqrt(np.mean(variances / unit**2)))
        usable = np.isfinite(deviation) & (deviation > SMALLEST_SCALE)
        scale = unit * np.exp2(np.rint(np.log2(np.where(usable, deviation, 1.0))))
        # Any origin near the mean will do; one that is exact in single precision serves both precisions.
        with np.errstate(over="ignore"):
            rounded = origin.astype(np.float32).astype(np.float64)
        return cls(np.where(np.abs(rounded - origin) <= scale, rounded, origin), scale)

    def apply(self, rows: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return (rows − origin) / scale with the features first: shape (n_features, n), float64 or as `out`."""
        if out is None:
            out = np.empty((rows.shape[1], rows.shape[0]))
        origin: NDArray[Any] = self.origin[:, np.newaxis]
        inverse: NDArray[Any] = 1.0 / self.scale[:, np.newaxis]
        dtype = np.dtype(np.float64)
        if out.dtype == rows.dtype == np.float32 and np.array_equal(origin, single := origin.astype(np.float32)):
            # An origin that is exact in single precision is the same origin in both.
            dtype, origin, inverse = out.dtype, single, inverse.astype(np.float32)
        np.subtract(rows.T, origin, out=out, dtype=dtype, casting="unsafe")
        out *= inverse
        return out


def same_frame(one: Frame | None, other: Frame | None) -> bool:
    """Tell whether two frames, or none, are the same to the last bit."""
    if one is None or other is None:
        return one is other
    return np.array_equal(one.origin, other.origin) and np.array_equal(one.scale, other.scale)


class Framed:
    """A component with a frame: none, which changes nothing, until it is adapted to a sample."""

    frame: Frame | None

    def _frame(self, n_features: int) -> Frame:
        return self.frame if self.frame is not None else Frame.identity(n_features)


class Floored(Framed):
    """One that adds `reg_covar` to the variances of features, in their `units` if they have some."""

    reg_covar: float
    units: Array | None

    def _ridge(self, n_features: int) -> Array:
        """Return `reg_covar` in squared units of the frame, shape (n_features,)."""
        ridge = self.reg_covar / self._frame(n_features).scale ** 2
        return ridge if self.units is None else ridge * self.units**2
