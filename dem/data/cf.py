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
    """How stored numbers are decoded: viewed as `viewed`, filled with NaN as `masked`, scaled and moved as `dtype`."""

    viewed: np.dtype[Any]
    masked: np.dtype[Any]
    dtype: np.dtype[Any]
    #: stored values that mean that there is none
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


def packing_of(array: Any, name: str) -> Packing | None:
    """Return how the numbers of a zarr array are decoded; None if they are stored as they are.

    Raises `DataError` if an attribute is not a number; the message names it, and the array by its `name`.
    """
    attributes, dtype = array.attrs.asdict(), array.dtype
    given = decoding(attributes)
    # In format 2 xarray writes `_FillValue` into the field for the value of chunks that are not there.
    if array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in attributes and array.fill_value is not None:
        given["_FillValue"] = array.fill_value
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
    scale, offset = (_number(name, key, given.get(key)) for key in ("scale_factor", "add_offset"))
    is_plain = scale is None and offset is None
    scaled = masked = viewed if is_plain else _scaled_type(viewed, scale, offset)
    if not fills:
        masked = viewed
    elif masked.kind != "f":  # NaN has to be among them
        masked = np.dtype(np.float32 if is_plain and viewed.itemsize <= 2 else np.float64)
    if not fills and viewed == dtype and is_plain:
        return None
    return Packing(viewed, masked, masked if marked or is_plain else scaled, tuple(fills), scale, offset)


def _numbers(value: Any, dtype: np.dtype[Any]) -> list[Any]:
    """Return fill values as numbers; xarray writes those of floating-point arrays as base64."""
    items = value if isinstance(value, list | tuple) else [value]
    items = [item.item() if isinstance(item, np.generic) else item for item in items]
    items = [_from_text(item, dtype) if isinstance(item, str) else item for item in items]
    return [item for item in items if isinstance(item, int | float)]


def _from_text(text: str, dtype: np.dtype[Any]) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(struct.unpack("<d", base64.standard_b64decode(text))[0]) if dtype.kind == "f" else None
    except (ValueError, struct.error):
        return None


def _number(name: str, key: str, value: Any) -> Any:
    """Return a scale or offset as a number; some writers make a list of it."""
    if value is None:
        return None
    found = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if isinstance(found, np.generic | np.ndarray) and found.size == 1:
        found = found.item()
    if not isinstance(found, int | float):
        message = (
            f"{name} cannot be decoded: its attribute {key} is {value!r}, not a number; correct it in the metadata"
        )
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


def _scaled_type(dtype: np.dtype[Any], scale: Any, offset: Any) -> np.dtype[Any]:
    """Return the type of scaled numbers: attributes in JSON are of double precision, or whole numbers."""
    if offset is None and isinstance(scale, int):
        return np.result_type(dtype, np.int64) if dtype.kind in "iu" else np.dtype(np.float64)
    return np.dtype(np.float64)


def encoded(values: NDArray[Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return coordinate values as zarr stores them, and the attributes that tell xarray what they mean.

    Times are whole numbers of nanoseconds, as CF has them; other numbers, and text, stay what they are.
    """
    if values.dtype.kind not in "mM":
        return values, {}
    plain = values.astype(f"{values.dtype.kind}8[ns]").astype(np.int64)
    if values.dtype.kind == "m":
        return plain, {"units": "nanoseconds"}
    return plain, {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
