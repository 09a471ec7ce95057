"""Exponential and logarithm to about one unit in the last place, without branches or calls, so that loops vectorise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from dem.native import inlined

_LOG2_E = 1.0 / math.log(2.0)
# log 2 in two parts; products of the first with small integers are exact.
_HIGH, _LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# Adding it rounds to an integer, which then stands in the lowest bits.
_ROUNDER = 6755399441055744.0
# (exp(r) − 1 − r) / r² for |r| ≤ ½ log 2: interpolation at Chebyshev's nodes, error 2e-17.
_EXP = (
    0.5000000000000001,
    0.16666666666666669,
    0.041666666666624115,
    0.008333333333330018,
    0.0013888888917216883,
    0.0001984126986316847,
    2.4801521292272348e-05,
    2.755726834188483e-06,
    2.762008990864742e-07,
    2.5100426535003473e-08,
)
# The same in single precision, error 1e-8.
_LOG2_E_32, _ROUNDER_32 = np.float32(_LOG2_E), np.float32(12582912.0)
_HIGH_32, _LOW_32 = np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP_32 = tuple(
    np.float32(c) for c in (0.5, 0.16666576266288757, 0.041666556149721146, 0.008363178931176662, 0.0013926184037700295)
)
_ONE_32 = np.float32(1.0)

# log((1 + s)/(1 − s)) = 2 s + s R(s²); Sun's coefficients (fdlibm, e_log.c), error below one unit in the last place.
_LG = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
_BITS_OF_ROOT_HALF = 0x3FE6A09E667F3BCD
_EXPONENT_MASK = -(1 << 52)


def _exp64(x: Any) -> Any:
    t = np.float64(x * _LOG2_E + _ROUNDER)
    q = t - _ROUNDER
    r = (x - q * _HIGH) - q * _LOW
    p = _EXP[9]
    p = p * r + _EXP[8]
    p = p * r + _EXP[7]
    p = p * r + _EXP[6]
    p = p * r + _EXP[5]
    p = p * r + _EXP[4]
    p = p * r + _EXP[3]
    p = p * r + _EXP[2]
    p = p * r + _EXP[1]
    p = p * r + _EXP[0]
    p = (r * r) * p + r
    power = np.int64((np.float64(t).view(np.int64) + 1023) << 52).view(np.float64)
    return power + power * p


def _exp32(x: Any) -> Any:
    t = np.float32(x * _LOG2_E_32 + _ROUNDER_32)
    q = t - _ROUNDER_32
    r = (x - q * _HIGH_32) - q * _LOW_32
    p = _EXP_32[4]
    p = p * r + _EXP_32[3]
    p = p * r + _EXP_32[2]
    p = p * r + _EXP_32[1]
    p = p * r + _EXP_32[0]
    p = (r * r) * p + r
    power = np.int32((np.float32(t).view(np.int32) + 127) << 23).view(np.float32)
    return power + power * p


def exponential(x: Any) -> Any:
    """Return exp(x) in the precision of x, for −700 ≤ x ≤ 0, in single precision −87 ≤ x ≤ 0; NaN stays NaN."""
    raise NotImplementedError  # for compiled loops alone


@overload(exponential, jit_options={"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"})
def _exponential(x: Any) -> Any:
    return _exp32 if x == types.float32 else _exp64


@inlined()
def logarithm(x: Any) -> Any:
    """Return log(x), double precision, for normal x > 0; NaN and infinity stay what they are."""
    bits = np.float64(x).view(np.int64)
    above = bits - _BITS_OF_ROOT_HALF
    k = np.float64(above >> 52)
    f = np.int64(bits - (above & _EXPONENT_MASK)).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = z * (_LG[0] + w * (_LG[2] + w * (_LG[4] + w * _LG[6])))
    even = w * (_LG[1] + w * (_LG[3] + w * _LG[5]))
    half = 0.5 * f * f
    found = k * _HIGH - ((half - (s * (half + (odd + even)) + k * _LOW)) - f)
    return found if x < np.inf else x
