"""A stand-in for CuPy that no GPU is needed for: arrays "on a device" that nothing takes to the host but `asnumpy`.

It has the functions and methods that dem calls, with CuPy's signatures, and no others. NumPy's functions and arrays are
refused wherever CuPy refuses them, so that what would be an error there is one here; what comes to the host is counted.
"""

from __future__ import annotations

import numpy as np

#: bytes that went to the host since `forget`
moved = {"bytes": 0}


class ndarray:  # noqa: N801 - as in CuPy
    """An array on the device."""

    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, held):
        self._held = held

    @property
    def __cuda_array_interface__(self):
        msg = "nothing here may look at the memory of a device"
        raise AssertionError(msg)

    def __array__(self, *_, **__):
        msg = "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one"
        raise TypeError(msg)

    __array_function__ = None

    shape = property(lambda self: self._held.shape)
    ndim = property(lambda self: self._held.ndim)
    size = property(lambda self: self._held.size)
    dtype = property(lambda self: self._held.dtype)
    nbytes = property(lambda self: self._held.nbytes)
    flags = property(lambda self: self._held.flags)
    T = property(lambda self: ndarray(self._held.T))

    def __len__(self):
        return len(self._held)

    def __bool__(self):
        moved["bytes"] += 1
        return bool(self._held)

    def __float__(self):
        moved["bytes"] += 8
        return float(self._held)

    def __getitem__(self, key):
        return _wrapped(self._held[_key(key)])

    def __setitem__(self, key, value):
        self._held[_key(key)] = _operand(value)

    def reshape(self, *shape):
        return ndarray(self._held.reshape(*shape))

    def swapaxes(self, axis1, axis2):
        return ndarray(self._held.swapaxes(axis1, axis2))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        return ndarray(self._held.astype(dtype, order=order, copy=copy))

    def take(self, indices, axis=None):
        return ndarray(self._held.take(_only(indices), axis=axis))

    def sum(self, axis=None, dtype=None):
        return _wrapped(self._held.sum(axis=axis, dtype=dtype))

    def max(self, axis=None):
        return _wrapped(self._held.max(axis=axis))

    def min(self, axis=None):
        return _wrapped(self._held.min(axis=axis))

    def any(self, axis=None):
        return _wrapped(self._held.any(axis=axis))

    def all(self, axis=None):
        return _wrapped(self._held.all(axis=axis))

    def argmax(self, axis=None):
        return _wrapped(self._held.argmax(axis=axis))


def _wrapped(found):
    return ndarray(np.asarray(found))


def _operand(value):
    """Return what a device array is computed with: another, or a number."""
    if isinstance(value, ndarray):
        return value._held
    if isinstance(value, bool | int | float | np.generic):
        return value
    msg = f"Unsupported type {type(value)}"
    raise TypeError(msg)


def _key(key):
    if isinstance(key, tuple):
        return tuple(_key(one) for one in key)
    if key is None or key is Ellipsis or isinstance(key, slice | int | np.integer):
        return key
    return _operand(key)


def _binary(name):
    def method(self, other):
        return _wrapped(getattr(self._held, name)(_operand(other)))

    return method


def _in_place(name):
    def method(self, other):
        getattr(self._held, name)(_operand(other))
        return self

    return method


for _name in ("add", "sub", "mul", "truediv"):
    for _side in ("", "r"):
        setattr(ndarray, f"__{_side}{_name}__", _binary(f"__{_side}{_name}__"))
    setattr(ndarray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in ("ge", "gt", "le", "lt", "eq", "ne", "and", "or"):
    setattr(ndarray, f"__{_name}__", _binary(f"__{_name}__"))
ndarray.__invert__ = lambda self: _wrapped(~self._held)
ndarray.__neg__ = lambda self: _wrapped(-self._held)


# The namespace ----------------------------------------------------------------------------------------------------


def asarray(a, dtype=None):
    return a if isinstance(a, ndarray) and dtype in (None, a.dtype) else ndarray(np.array(_held(a), dtype=dtype))


def asnumpy(a):
    moved["bytes"] += a.nbytes
    return a._held.copy()


def _held(a):
    return a._held if isinstance(a, ndarray) else a


def _only(a):
    if not isinstance(a, ndarray):
        msg = f"Unsupported type {type(a)}"
        raise TypeError(msg)
    return a._held


def empty(shape, dtype=float):
    return ndarray(np.full(shape, np.nan).astype(dtype))  # what is not written to shows


def zeros(shape, dtype=float):
    return ndarray(np.zeros(shape, dtype))


def arange(stop):
    return ndarray(np.arange(stop))


def concatenate(tup, axis=0):
    return ndarray(np.concatenate([_only(one) for one in tup], axis=axis))


def matmul(x1, x2):
    return ndarray(np.matmul(_only(x1), _only(x2)))


def exp(x, out=None):
    return _into(np.exp(_only(x)), out)


def log(x, out=None):
    return _into(np.log(_only(x)), out)


def sqrt(x, out=None):
    return _into(np.sqrt(_only(x)), out)


def _into(found, out):
    if out is None:
        return _wrapped(found)
    out._held[...] = found
    return out


def isnan(x):
    return _wrapped(np.isnan(_only(x)))


def isfinite(x):
    return _wrapped(np.isfinite(_only(x)))


def maximum(x1, x2):
    return _wrapped(np.maximum(_only(x1), _operand(x2)))


def minimum(x1, x2):
    return _wrapped(np.minimum(_only(x1), _operand(x2)))


def flatnonzero(a):
    return ndarray(np.flatnonzero(_only(a)))


def argsort(a, axis=-1, kind=None):
    return ndarray(np.argsort(_only(a), axis=axis, kind="stable"))
