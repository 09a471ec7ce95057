"""Trees of arrays: names, storage, and the axis of the components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dem import tree


@dataclass(frozen=True, eq=False)
class Part:
    mean: np.ndarray
    count: float
    seen: int
    missing: None = None


@dataclass(frozen=True, eq=False)
class Whole:
    parts: tuple[Part, ...]
    own: Any


def whole():
    values = np.array([[0.1, -0.0], [np.nan, np.inf]])
    return Whole((Part(values, 1 / 3, 2**53 + 1), Part(values[::-1].T, 1e-320, 0)), np.array([True, False]))


def test_storage_keeps_every_bit_and_every_type():
    arrays = tree.flatten(whole())
    names = [f"parts.{number}.{name}" for number in (0, 1) for name in ("mean", "count", "seen")]
    assert list(arrays) == [*names, "own"]
    again = tree.unflatten(whole(), {name: array.copy() for name, array in arrays.items()})
    for (name, leaf), (_, other) in zip(tree.leaves(whole()), tree.leaves(again), strict=True):
        assert type(leaf) is type(other)
        assert np.asarray(leaf).dtype == np.asarray(other).dtype
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), name
    assert again.parts[0].missing is None
    with pytest.raises(KeyError, match="own"):
        tree.unflatten(whole(), {name: array for name, array in arrays.items() if name != "own"})


def test_components_are_joined_divided_and_taken_along_the_first_axis():
    one, other = (np.arange(3.0), np.ones((3, 2))), (np.arange(2.0), np.zeros((2, 2)))
    joined = tree.concatenate([one, other])
    assert joined[0].tolist() == [0.0, 1.0, 2.0, 0.0, 1.0]
    for part, whole_part in zip(tree.split(joined, [3, 2]), (one, other), strict=True):
        np.testing.assert_array_equal(part[1], whole_part[1])
    assert tree.take(joined, [4, 0])[0].tolist() == [1.0, 0.0]
    assert tree.n_bytes(joined) == 8 * 15


def test_trees_of_different_kinds_do_not_go_together():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        tree.tree_map(lambda a, b: a + b, (1.0, 2.0), (1.0,))
