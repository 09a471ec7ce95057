"""What any table must be: two-dimensional, of real numbers, not empty."""

from __future__ import annotations

from typing import Any

import numpy as np

from dem.errors import DataError


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise DataError unless the shape is (n_rows, n_features) with at least one of each."""
    if len(shape) != 2:
        advice = (
            "Reshape your data to (n_rows, 1), or to (1, n_features) if it is a single row"
            if len(shape) == 1
            else "reshape it to (n_rows, n_features), or open it with xarray and name the feature dimension"
        )
        message = f"{name} has {len(shape)} dimensions, shape {shape}, but rows and features are needed; {advice}"
        raise DataError(message)
    if 0 in shape:
        message = f"{name} is empty: its shape is {shape}"
        raise DataError(message)


def check_dtype(dtype: Any, name: str) -> None:
    """Raise DataError unless the values are booleans, integers or floats."""
    kind = np.dtype(dtype).kind
    if kind == "c":
        message = f"{name} holds complex numbers ({dtype}). Complex data not supported: use real and imaginary parts as features"
        raise DataError(message)
    if kind not in "biuf":
        message = f"{name} holds values of type {dtype}; only numbers (bool, int, float) can be fitted"
        raise DataError(message)
