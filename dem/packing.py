"""Values as JSON and arrays, and back to the same bits: how the state of a fit is stored without pickles.

Dataclasses, enumerations, tuples, lists, dicts, ranges, arrays, numbers and words. JSON holds their shape; an array is
there by its number, the same array once. What is read may come from anywhere: no code is named in it but the
dataclasses and enumerations of the packages that the reader trusts.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLAIN = (bool, int, float, str, type(None))


def pack(value: Any) -> tuple[Any, list[NDArray[Any]]]:
    """Return a value as JSON, and the arrays that it speaks of by number.

    Raises
    ------
    TypeError
        If there is anything in it that cannot be stored.

    Examples
    --------
    >>> pack((1, {"a": np.zeros(2)}))
    ({'tuple': [1, {'dict': [['a', {'array': 0}]]}]}, [array([0., 0.])])
    """
    arrays: list[NDArray[Any]] = []
    numbers: dict[int, int] = {}

    def packed(value: Any) -> Any:
        if type(value) in PLAIN:
            return value
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.hasobject:
                message = "an array of Python objects cannot be stored"
                raise TypeError(message)
            if id(value) not in numbers:
                numbers[id(value)] = len(arrays)
                arrays.append(np.asarray(value))
            return {"array" if isinstance(value, np.ndarray) else "scalar": numbers[id(value)]}
        if isinstance(value, enum.Enum):
            return {"enum": _name(type(value)), "is": value.name}
        if is_dataclass(value) and not isinstance(value, type):
            parts = {field.name: packed(getattr(value, field.name)) for field in fields(value) if field.init}
            return {"class": _name(type(value)), "of": parts}
        if type(value) is range:
            return {"range": [value.start, value.stop, value.step]}
        if type(value) is dict:
            return {"dict": [[packed(key), packed(item)] for key, item in value.items()]}
        if type(value) in (tuple, list):
            return {type(value).__name__: [packed(item) for item in value]}
        message = f"{type(value).__module__}.{type(value).__qualname__} cannot be stored"
        raise TypeError(message)

    return packed(value), arrays


def unpack(packed: Any, arrays: Sequence[NDArray[Any]], packages: Collection[str] = ("dem",)) -> Any:
    """Return what `pack` was given, to the same bits.

    Parameters
    ----------
    packed : JSON
        What `pack` returned; an array that it named twice is one again.
    arrays : sequence of ndarray
    packages : collection of str
        Whose dataclasses and enumerations may be made.

    Raises
    ------
    ValueError
        If this is nothing that `pack` returns.
    """
    try:
        by_number = dict(enumerate(arrays))
        return _unpacked(packed, lambda number: by_number[_whole(number)], packages)
    except (AttributeError, ImportError, KeyError, IndexError, TypeError, RecursionError) as error:
        message = f"not what was stored ({type(error).__name__}: {error})"
        raise ValueError(message) from error


def _unpacked(packed: Any, array: Callable[[Any], NDArray[Any]], packages: Collection[str]) -> Any:
    if type(packed) in PLAIN:
        return packed

    def of(item: Any) -> Any:
        return _unpacked(item, array, packages)

    (kind, what), *more = packed.items()
    match kind:
        case "array":
            return array(what)
        case "scalar":
            return array(what)[()]
        case "enum":
            return _class(what, packages)[packed["is"]]
        case "class":
            return _class(what, packages)(**{str(name): of(part) for name, part in packed["of"].items()})
        case "range":
            return range(*map(_whole, what))
        case "dict":
            return {of(key): of(item) for key, item in what}
        case "tuple" | "list":
            items = [of(item) for item in what]
            return tuple(items) if kind == "tuple" else items
    message = f"an unknown kind {kind!r}, {more}"
    raise ValueError(message)


def _whole(number: Any) -> int:
    if type(number) is not int:
        message = f"{number!r} is no whole number"
        raise TypeError(message)
    return number


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _class(name: str, packages: Collection[str]) -> Any:
    """Return a dataclass or an enumeration by its name, if it is of a trusted package and defined where it says."""
    module, _, own = name.partition(":")
    if module.partition(".")[0] not in packages:
        message = f"{name} is of no package that is trusted here"
        raise ValueError(message)
    found = getattr(importlib.import_module(module), own)
    kind = isinstance(found, type) and (is_dataclass(found) or issubclass(found, enum.Enum))
    if not kind or found.__module__ != module:
        message = f"{name} is no dataclass"
        raise ValueError(message)
    return found
