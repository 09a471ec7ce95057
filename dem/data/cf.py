"""Packed numbers of the CF conventions (`scale_factor`, `_FillValue`, …), decoded as xarray does, to the bit.

https://cfconventions.org, section 8.1; types as in `xarray.coding.variables`.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.errors import DataError

_KEYS = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


@dataclass(frozen=True, eq=False)
class Packing:
    """How stored numbers are decoded: viewed as `viewed`, filled with NaN as `masked`, scaled and moved as `dtype`.

    Attributes
    ----------
    viewed, masked, dtype : dtype
        Types of the steps.
    fills : tuple
        Stored values that mean that there is none.
    scale, offset : float or None
    """

    viewed: np.dtype[Any]
    masked: np.dtype[Any]
    dtype: np.dtype[Any]
    fills: tuple[Any, ...] = ()
    scale: float | None = None
    offset: float | None = None

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers that are meant; what is missing is NaN."""
        values = np.asarray(stored, dtype=self.viewed)
        if self.fills:
            missing = np.zeros(values.shape, bool)
            values = np.array(values, dtype=self.masked)
            for fill in self.fills:
                missing |= values == fill
            values[missing] = np.nan
        if self.scale is None and self.offset is None:
            return values
        values = values.astype(self.dtype, copy=True)
        if self.scale is not None:
            values *= self.scale
        if self.offset is not None:
            values += self.offset
        return values


def decoding(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of an array's attributes that tell how its numbers are decoded."""
    return {key: attributes[key] for key in _KEYS if key in attributes}


def packing(attributes: Mapping[str, Any], dtype: np.dtype[Any], fill_value: Any = None) -> Packing | None:
    """Return how an array's numbers are decoded; None if they are stored as they are.

    Parameters
    ----------
    attributes : mapping
        Of the array, as JSON has them.
    dtype : dtype
        Of what is stored.
    fill_value : scalar, optional
        What stands for ``_FillValue`` where the format has a field of its own for it (zarr 2, as xarray uses it).

    Raises
    ------
    DataError
        If an attribute is not a number; the message names it.
    """
    given = decoding(attributes)
    if fill_value is not None:
        given["_FillValue"] = fill_value
    if not given:
        return None
    fills: list[Any] = []
    marked = False
    for key in ("missing_value", "_FillValue"):
        values = [value for value in _numbers(given.get(key), dtype) if not math.isnan(value)] if key in given else []
        # NaN cannot be among whole numbers: such an attribute is dropped.
        marked |= bool(values) or (key in given and dtype.kind not in "iu")
        fills += [value for value in values if value not in fills]
    viewed, fills = _viewed(given, dtype, fills)
    scale, offset = (_number(key, given.get(key)) for key in ("scale_factor", "add_offset"))
    masked = viewed
    if fills:
        masked = _promoted(viewed) if scale is None and offset is None else _scaled_type(viewed, scale, offset)
        masked = masked if masked.kind == "f" else np.dtype(np.float64)
    result = masked if marked else _scaled_type(viewed, scale, offset)
    if scale is None and offset is None:
        result = masked
    if not fills and viewed == dtype and scale is None and offset is None:
        return None
    return Packing(viewed, masked, result, tuple(fills), scale, offset)


def _numbers(value: Any, dtype: np.dtype[Any]) -> list[Any]:
    """Return fill values as numbers; xarray writes those of floating-point arrays as base64."""
    values: list[Any] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, np.generic):
            item = item.item()
        if isinstance(item, str):
            item = _from_text(item, dtype)
        if isinstance(item, int | float):
            values.append(item)
    return values


def _from_text(text: str, dtype: np.dtype[Any]) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(struct.unpack("<d", base64.standard_b64decode(text))[0]) if dtype.kind == "f" else None
    except (ValueError, struct.error):
        return None


def _number(key: str, value: Any) -> Any:
    """Return a scale or offset as a number; some writers make a list of it."""
    if value is None:
        return None
    found = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if isinstance(found, np.generic | np.ndarray) and found.size == 1:
        found = found.item()
    if not isinstance(found, int | float):
        message = f"its attribute {key} is {value!r}, not a number; correct it in the metadata"
        raise DataError(message)
    return found


def _viewed(given: Mapping[str, Any], dtype: np.dtype[Any], fills: list[Any]) -> tuple[np.dtype[Any], list[Any]]:
    """Return the type that whole numbers are meant in, and the fill values in it."""
    wanted = {("i", "true"): "u", ("u", "false"): "i"}.get((dtype.kind, str(given.get("_Unsigned", "")).lower()))
    if wanted is None:
        return dtype, fills
    viewed = np.dtype(f"{wanted}{dtype.itemsize}")
    bits = 8 * dtype.itemsize
    low = 0 if wanted == "u" else -(1 << (bits - 1))
    return viewed, [(int(fill) - low) % (1 << bits) + low for fill in fills]


def _promoted(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that holds NaN besides whole numbers."""
    if dtype.kind == "f":
        return dtype
    return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)


def _scaled_type(dtype: np.dtype[Any], scale: Any, offset: Any) -> np.dtype[Any]:
    """Return the type of scaled numbers: attributes in JSON are of double precision, or whole numbers."""
    if offset is None and isinstance(scale, int):
        return np.result_type(dtype, np.int64) if dtype.kind in "iu" else np.dtype(np.float64)
    return np.dtype(np.float64)
