"""A chunk is a record: taking some of its rows takes all that is known of them."""

import numpy as np
import pytest

from dem.data.base import Chunk
from dem.data.found import Found, Missing

N = 7
COLUMNS = {
    "rows": np.arange(2 * N).reshape(N, 2),
    "weights": np.linspace(0.0, 3.0, N),
    "labels": np.arange(N) - 1,
    "starts": np.arange(N) % 3 == 0,
}
WHICH = {
    "slice": slice(2, 5),
    "first": slice(3),
    "every other": slice(1, None, 2),
    "mask": np.array([True, False, False, True, True, False, True]),
    "none": np.zeros(N, bool),
    "places": np.array([5, 0, 5]),
}


@pytest.mark.parametrize("index", [range(20, 20 + N), np.array([9, 3, 4, 1, 80, 2, 0])], ids=["range", "array"])
@pytest.mark.parametrize("which", WHICH.values(), ids=WHICH.keys())
def test_take_carries_every_column(index, which):
    part = Chunk(index=index, **COLUMNS).take(which)
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(getattr(part, name), column[which])
    np.testing.assert_array_equal(part.index, np.asarray(index)[which])
    assert len(part) == len(COLUMNS["rows"][which])


def test_a_slice_of_consecutive_rows_is_a_view_of_consecutive_rows():
    chunk = Chunk(COLUMNS["rows"], range(20, 20 + N))
    part = chunk.take(slice(2, 5))
    assert part.index == range(22, 25)
    assert np.shares_memory(part.rows, chunk.rows)


def test_what_is_not_known_stays_so_and_what_was_missing_stays_with_the_whole():
    found = Found({(0, 1): Missing(1, 1, 7, (0, "chunk 0"))})
    part = Chunk(COLUMNS["rows"], range(N), found=found).take(slice(3))
    assert (part.weights, part.labels, part.starts, part.found) == (None, None, None, None)


def test_labels_may_be_one_column_for_each_component():
    allowed = np.eye(N, 3, dtype=bool)
    part = Chunk(COLUMNS["rows"], range(N), labels=allowed).take(WHICH["mask"])
    np.testing.assert_array_equal(part.labels, allowed[WHICH["mask"]])
