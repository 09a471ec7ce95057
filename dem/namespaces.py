"""Where an array lies, in this process's memory or on a CUDA device (CuPy), and the functions that compute there."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

C = TypeVar("C")


def is_on_device(array: Any) -> bool:
    """Tell whether an array lies on a device, in a package with NumPy's functions: CuPy, which is not imported here."""
    return not isinstance(array, np.ndarray) and _namespace(array) is not None


def here(array: Any) -> Any:
    """Return the namespace that computes where an array lies: `numpy`, or `cupy`.

    Examples
    --------
    >>> here(np.ones(2)).__name__
    'numpy'
    """
    return (None if isinstance(array, np.ndarray) else _namespace(array)) or np


def to_host(array: Any) -> NDArray[Any]:
    """Return an array in this process's memory: the one place where rows and results leave a device."""
    found: NDArray[Any] = here(array).asnumpy(array) if is_on_device(array) else array
    return found


def on_host(record: C) -> C:
    """Return a record of rows (a chunk) whose rows are in this process's memory; itself if they are."""
    rows = getattr(record, "rows", None)
    return replace(record, rows=to_host(rows)) if is_on_device(rows) else record  # type: ignore[type-var]


def takes_device(work: Any) -> bool:
    """Tell whether a function of chunks computes where their rows lie; all others are given rows of this memory."""
    return bool(getattr(work, "takes_device", False))


def _namespace(array: Any) -> Any:
    # Other packages have such arrays too, but not NumPy's functions by their names.
    if not hasattr(type(array), "__cuda_array_interface__"):
        return None
    namespace = sys.modules.get(type(array).__module__.partition(".")[0])
    return namespace if hasattr(namespace, "asnumpy") else None
