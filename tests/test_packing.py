"""Values become JSON and arrays, and come back to the same bits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dem.data.base import Chunk
from dem.em.algorithm import Fit, Status
from dem.packing import pack, unpack


def there_and_back(value):
    shape, arrays = pack(value)
    return unpack(json.loads(json.dumps(shape)), arrays)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -0.0,
        5e-324,
        0.1 + 0.2,
        float("inf"),
        2**80,
        "word",
        (1, (2.5, None)),
        [1, ["a"]],
        {1: "a", "b": (1,), (1, 2): None},
        range(3, 9, 2),
        Status.CONVERGED,
    ],
    ids=str,
)
def test_plain_values(value):
    found = there_and_back(value)
    assert found == value
    assert type(found) is type(value)
    assert str(found) == str(value), "the sign of 0"


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.nan, -0.0, np.inf, 5e-324]),
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=">i2"),
        np.array([True, False]),
        np.array(3.5, dtype=np.float32),
        np.array(["a", "bc"]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays(array):
    found = there_and_back(array)
    assert found.tobytes() == array.tobytes()
    assert (found.dtype, found.shape, found.flags.f_contiguous) == (array.dtype, array.shape, array.flags.f_contiguous)


def test_dataclasses_and_numbers_of_numpy():
    one = Fit(Chunk(np.ones((2, 3)), range(4, 6), weights=np.ones(2)), Status.FAILED, [1.0], reached=np.float64(2.0))
    found = there_and_back(one)
    assert type(found.reached) is np.float64
    assert found.status is Status.FAILED
    assert found.parameters.index == range(4, 6)
    np.testing.assert_array_equal(found.parameters.weights, np.ones(2))


def test_one_array_is_one():
    array = np.arange(3.0)
    shape, arrays = pack((array, array))
    assert len(arrays) == 1
    first, second = unpack(shape, arrays)
    assert first is second


def test_what_cannot_be_stored_is_named():
    with pytest.raises(TypeError, match=r"^builtins.set cannot be stored$"):
        pack([{1}])
    with pytest.raises(TypeError, match="an array of Python objects cannot be stored"):
        pack(np.array([object()]))


def test_only_trusted_packages_are_named():
    shape = {"class": "fractions:Fraction", "of": {}}
    with pytest.raises(ValueError, match="fractions:Fraction is of no package that is trusted here"):
        unpack(shape, [])
    with pytest.raises(ValueError, match="fractions:Fraction is no dataclass"):
        unpack(shape, [], packages=("fractions",))
